// Fills operands of products and compares what became of them. A type is 0 for f32, 1 for f64, 2 for f16, 3 for bf16.

#ifndef CHECK
#define CHECK

INLINE f64 element(const u8* at, u32 type, u64 i) {
  switch (type) {
    case 0: return ((const f32*)at)[i];
    case 1: return ((const f64*)at)[i];
    case 2: return f16_widen(((const u16*)at)[i]);
    default: return bf16_widen(((const u16*)at)[i]);
  }
}

// Numbers from -0.5 to 0.5 by a hash of their place. Words: how many, the type, what the hash begins with.
INLINE void fill(u8* at, const u32* w) {
  const u32 n = w[0], type = w[1], seed = w[2];
  for (u64 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const f32 x = f32(hashed(u32(i) + seed) >> 8) / 16777216.0f - 0.5f;
    switch (type) {
      case 0: ((f32*)at)[i] = x; break;
      case 1: ((f64*)at)[i] = x; break;
      case 2: ((u16*)at)[i] = f16_round(x); break;
      // Cut, as older devices do not round.
      default: ((u16*)at)[i] = u16(bitcast<u32>(x) >> 16);
    }
  }
}

struct Verdict {
  // Bits of floats that are not negative, which are ordered as these are, with NaN at the end.
  u32 most, largest;
  u64 digest;
};

// A number of all of a result, which is the same only if each bit is.
INLINE void digest(const u8* result, u32 type, u64 total, Verdict* verdict) {
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
  const u32 halves = type == 0 ? 2 : type == 1 ? 4 : 1;
  u64 sum = 0;
  for (u64 i = thread; i < total * halves; i += threads) {
    const u64 word = ((const u16*)result)[i];
    sum += (u64(hashed(u32(i))) << 16 | word) * 0x9e3779b97f4a7c15ull ^ u64(hashed(u32(word + i))) << 20;
  }
  atomicAdd(&verdict->digest, sum);
}

// Some sums anew in f64, a warp for each: how far the result is from them at most, beyond what rounding the result explains, and the largest.
// And the digest. Words: sums to look at, the operands' and the result's type, the bits
// of that rounding; outer, batch, m, n, k; strides of the left operand along outer, batch, rows and columns, of the right one, and of the result
// along outer, batch and rows; what is done with each sum, of which 0 is nothing: 1 the bias of its column is added, of the result's type, 2 and then
// it is 0 at least, 3 or GELU is applied, where a fast tanh is off by up to 2 to the power of -11.
INLINE void compare(const u8* lhs, const u8* rhs, const u8* result, Verdict* verdict, const u8* bias, const u32* w) {
  const u32 samples = w[0], type = w[1], result_type = w[2], batch = w[5], m = w[6], n = w[7], depth = w[8];
  const f64 rounding = bitcast<f32>(w[3]);
  const u32 *l = w + 9, *r = w + 13, *to = w + 17;
  const u64 total = u64(w[4]) * batch * m * n;
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x, lane = threadIdx.x & 31;
  u32 most = 0, largest = 0;
  for (u32 s = thread / 32; s < samples; s += threads / 32) {
    u64 at = place_of(s, samples, total, n);
    const u64 j = at % n, i = (at /= n) % m, b = (at /= m) % batch, o = at / batch;
    const u64 x = o * l[0] + b * l[1] + i * l[2], y = o * r[0] + b * r[1] + j * r[3];
    f64 sum = 0;
    for (u32 k = lane; k < depth; k += 32)
      sum += element(lhs, type, x + u64(k) * l[3]) * element(rhs, type, y + u64(k) * r[2]);
    for (u32 mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    const f64 got = element(result, result_type, o * to[0] + b * to[1] + i * to[2] + j);
    if (to[3] > 0) sum += element(bias, result_type, j);
    const f64 unsure = to[3] == 3 ? fabs(sum) / 2048 : 0;
    if (to[3] == 2) sum = fmax(sum, 0.0);
    if (to[3] == 3) sum *= 0.5 * (1 + tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
    const f64 off = fabs(got - sum) - rounding * fabs(sum) - unsure;
    most = max(most, bitcast<u32>(f32(off < 0 ? 0 : off)));
    largest = max(largest, bitcast<u32>(f32(fabs(sum))));
  }
  if (lane == 0) atomicMax(&verdict->most, most), atomicMax(&verdict->largest, largest);
  digest(result, result_type, total, verdict);
}

#endif
