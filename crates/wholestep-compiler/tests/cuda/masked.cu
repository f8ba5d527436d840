static __device__ __forceinline__ void BODY(uint3 group, uint3 groups, u32 local, u8* shared, u16* a0, u8* a1, u16* a2, const uint4* __restrict__ params) {
let line = group.y * groups.x + group.x;
let tile = line;
let at = tile * 256u + local;
if (at < params[0u].x) {
let i1 = at % Extent{params[0u].z, params[0u].w, params[1u].x};
let i1r = at / Extent{params[0u].z, params[0u].w, params[1u].x};
const f32 v0 = bf16_widen(a0[at]);
const bool v1 = (a1[at] != 0);
const f32 v2 = bf16_rounded(0.0f);
const f32 v3 = bf16_rounded(largest(v0, v2));
const f32 v4 = bf16_rounded(bitcast<f32>(0xff800000u));
const f32 v5 = select(v4, v3, v1);
a2[at] = bf16_round(v5);
}
}
extern "C" __global__ void __launch_bounds__(256) KERNEL(u16* a0, u8* a1, u16* a2, const __grid_constant__ Params<2> params) {
BEGIN_KERNEL();
extern __shared__ uint4 shared[];
BODY(blockIdx, gridDim, threadIdx.x, (u8*)shared, a0, a1, a2, params.w);
}
