static __device__ __forceinline__ void BODY(uint3 group, uint3 groups, u32 local, u8* shared, f32* a0, i32* a1, const uint4* __restrict__ params) {
let at = (group.y * groups.x + group.x) * 128u + local;
if (at >= params[0u].x * 80u) { return; }
let channel = at % 5u;
let u_1 = (at / 5u) % 4u;
let u_0 = ((at / 5u) / 4u) % 4u;
let image = (((at / 5u) / 4u) / 4u);
var best = -1;
var best_key = 0u;
for (var j_0 = 0u; j_0 < 3u; j_0++) {
let p_0 = u_0 * 2u + j_0 * 1u + 4294967295u;
if (p_0 >= 7u) { continue; }
for (var j_1 = 0u; j_1 < 2u; j_1++) {
let p_1 = u_1 * 1u + j_1 * 2u + 0u;
if (p_1 >= 6u) { continue; }
let key = order_key(a0[((image * 7u + p_0) * 6u + p_1) * 5u + channel]);
if (best < 0 || key > best_key) { best = i32((j_0 * 2u + j_1)); best_key = key; }
}
}
a1[at] = best;
}
extern "C" __global__ void __launch_bounds__(128) KERNEL(f32* a0, i32* a1, const __grid_constant__ Params<1> params) {
BEGIN_KERNEL();
extern __shared__ uint4 shared[];
BODY(blockIdx, gridDim, threadIdx.x, (u8*)shared, a0, a1, params.w);
}
