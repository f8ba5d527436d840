static __device__ __forceinline__ void BODY(uint3 group, uint3 groups, u32 local, u8* shared, vec4<f64>* a0, f64* a1) {
let line = group.y * groups.x + group.x;
let tile = line;
let row_at = local / 8u;
let lane_at = local % 8u;
let n_rows = 1u;
let row_number = (tile * 1u + row_at) * 1u;
let live = row_number < n_rows;
let row = min(row_number, n_rows - 1u);
let n_inner = 24u;
f64 c2 = f64(0);
let j_0 = min(lane_at * 4u + 0u, n_inner - 4u);
let in_0 = lane_at * 4u + 0u < n_inner;
let qv0x_0 = a0[(j_0) >> 2u];
let v0x_0 = qv0x_0.x;
let v0y_0 = qv0x_0.y;
let v0z_0 = qv0x_0.z;
let v0w_0 = qv0x_0.w;
const f64 v1x_0 = (v0x_0 * v0x_0);
const f64 v1y_0 = (v0y_0 * v0y_0);
const f64 v1z_0 = (v0z_0 * v0z_0);
const f64 v1w_0 = (v0w_0 * v0w_0);
if (in_0) {
c2 = (c2 + v1x_0);
c2 = (c2 + v1y_0);
c2 = (c2 + v1z_0);
c2 = (c2 + v1w_0);
}
{
let v = subgroupShuffleXor(c2, 1u);
c2 = (c2 + v);
}
{
let v = subgroupShuffleXor(c2, 2u);
c2 = (c2 + v);
}
{
let v = subgroupShuffleXor(c2, 4u);
c2 = (c2 + v);
}
let v2 = c2;
if (live && lane_at == 0u) {
const f64 v3 = sqrt(v2);
a1[0u] = v3;
}
}
extern "C" __global__ void __launch_bounds__(8) KERNEL(vec4<f64>* a0, f64* a1) {
BEGIN_KERNEL();
extern __shared__ uint4 shared[];
BODY(blockIdx, gridDim, threadIdx.x, (u8*)shared, a0, a1);
}
