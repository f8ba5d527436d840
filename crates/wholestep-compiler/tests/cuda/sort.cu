static __device__ __forceinline__ void BODY(uint3 group, uint3 groups, u32 local, u8* shared, i64* a0, i32* a1, const uint4* __restrict__ params) {
u64* const keys = (u64*)(shared + 0);
u32* const places = (u32*)(shared + 128);
let line = group.y * groups.x + group.x;
if (line >= params[0u].x * 1u) { return; }
let len = 9u;
let inner = 1u;
let first = line / inner * len * inner + line % inner;
let begin = 0u;
for (var e = local; e < 16u; e += 8u) {
let i = begin + e;
if (i < len) { keys[e] = ~(order_key(a0[first + i * inner])); places[e] = i; } else { keys[e] = ~u64(0); places[e] = 0xffffffffu; }
}
workgroupBarrier();
for (var block = 2u; block <= 16u; block = block << 1u) {
for (var step = block >> 1u; step > 0u; step = step >> 1u) {
for (var pair = local; pair < 8u; pair += 8u) {
let low = pair / step * step * 2u + pair % step;
let high = low + step;
let up = (low & block) == 0u;
let k0 = keys[low]; let k1 = keys[high]; let p0 = places[low]; let p1 = places[high];
let after = k0 > k1 || (k0 == k1 && p0 > p1);
if (after == up) { keys[low] = k1; keys[high] = k0; places[low] = p1; places[high] = p0; }
}
workgroupBarrier();
}
}
for (var e = local; e < len; e += 8u) {
a1[first + e * inner] = i32(places[e]);
}
}
extern "C" __global__ void __launch_bounds__(8) KERNEL(i64* a0, i32* a1, const __grid_constant__ Params<1> params) {
BEGIN_KERNEL();
extern __shared__ uint4 shared[];
BODY(blockIdx, gridDim, threadIdx.x, (u8*)shared, a0, a1, params.w);
}
