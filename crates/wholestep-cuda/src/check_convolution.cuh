// Compares what became of convolutions.

#ifndef CHECK_CONVOLUTION
#define CHECK_CONVOLUTION

// One axis of a window.
struct Axis {
  u32 input, kernel, out, pad, stride, dilation;
  // The pixel that a tap of an output sees; outside of the image there is none.
  INLINE u32 seen(u32 at, u32 tap) const { return at * stride + tap * dilation - pad; }
  // Splits the last of the pixels of an image, or of taps, off a number.
  static INLINE u32 last(u64& number, u32 count) {
    const u32 it = u32(number % count);
    number /= count;
    return it;
  }
};

// As `compare`. Words: sums to look at, the operands' and the result's type, the bits of the rounding; form (0 forward, 1 input gradient, 2 weight
// gradient), images, channels in, channels out, groups; three axes of six words each. Images have their channels last, weights lie as
// [channels out, taps, channels in of a group].
INLINE void compare_convolution(const u8* lhs, const u8* rhs, const u8* result, Verdict* verdict, const u32* w) {
  const u32 samples = w[0], type = w[1], result_type = w[2], form = w[4], n = w[5], c_in = w[6], c_out = w[7], groups = w[8];
  const f64 rounding = bitcast<f32>(w[3]);
  const Axis* a = (const Axis*)(w + 9);
  const u64 inputs = u64(a[0].input) * a[1].input * a[2].input, outs = u64(a[0].out) * a[1].out * a[2].out;
  const u32 taps = a[0].kernel * a[1].kernel * a[2].kernel, per_in = c_in / groups, per_out = c_out / groups;
  const u64 total = form == 0 ? n * outs * c_out : form == 1 ? n * inputs * c_in : u64(c_out) * taps * per_in;
  const u64 depth = form == 0 ? u64(taps) * per_in : form == 1 ? u64(taps) * per_out : n * outs;
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x, lane = threadIdx.x & 31;
  u32 most = 0, largest = 0;
  for (u32 s = thread / 32; s < samples; s += threads / 32) {
    const u64 place = place_of(s, samples, total, form == 0 ? c_out : form == 1 ? c_in : per_in);
    // What the place of the sum says of image, pixel or tap, and channels.
    u64 left = place;
    u32 image = 0, in = 0, out = 0, at[3];
    if (form == 0) out = Axis::last(left, c_out);
    else in = Axis::last(left, form == 1 ? c_in : per_in);
    for (int d = 2; d >= 0; d--) at[d] = Axis::last(left, form == 0 ? a[d].out : form == 1 ? a[d].input : a[d].kernel);
    if (form == 2) out = u32(left);
    else image = u32(left);
    f64 sum = 0;
    for (u64 i = lane; i < depth; i += 32) {
      // And what the number of the product says of the rest.
      u64 rest = i, pixel = 0, to = 0, tap = 0;
      u32 other = 0, image_of = image;
      if (form != 2) other = Axis::last(rest, form == 0 ? per_in : per_out);
      u32 by[3];
      for (int d = 2; d >= 0; d--) by[d] = Axis::last(rest, form == 2 ? a[d].out : a[d].kernel);
      if (form == 2) image_of = u32(rest);
      bool is_inside = true;
      for (int d = 0; d < 3; d++) {
        u32 x = at[d], y = by[d], t = by[d];
        if (form == 0) y = at[d], x = a[d].seen(y, t);
        if (form == 2) t = at[d], x = a[d].seen(y, t);
        if (form == 1) {
          const u32 from = x + a[d].pad - t * a[d].dilation;
          y = from / a[d].stride;
          // Before the image it wraps around to a large number.
          is_inside = is_inside && from % a[d].stride == 0 && from < 0x80000000u;
        }
        is_inside = is_inside && x < a[d].input && y < a[d].out;
        pixel = pixel * a[d].input + x, to = to * a[d].out + y, tap = tap * a[d].kernel + t;
      }
      if (!is_inside) continue;
      const u32 group = (form == 1 ? in / per_in : out / per_out);
      const u32 k = form == 1 ? group * per_out + other : out, c = form == 0 ? group * per_in + other : form == 1 ? in : group * per_in + in;
      const u64 x = (image_of * inputs + pixel) * c_in + c, y = (image_of * outs + to) * c_out + k;
      const u64 weight = (u64(k) * taps + tap) * per_in + c % per_in;
      sum += element(lhs, type, form == 1 ? y : x) * element(rhs, type, form == 2 ? y : weight);
    }
    for (u32 mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    const f64 off = fabs(element(result, result_type, place) - sum) - rounding * fabs(sum);
    most = max(most, bitcast<u32>(f32(off < 0 ? 0 : off)));
    largest = max(largest, bitcast<u32>(f32(fabs(sum))));
  }
  if (lane == 0) atomicMax(&verdict->most, most), atomicMax(&verdict->largest, largest);
  digest(result, result_type, total, verdict);
}

#endif
