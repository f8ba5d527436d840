// Which sums are looked at, in C alone, so that a test on a host without a GPU runs this text.

#ifndef CHECK_PLACES
#define CHECK_PLACES

// PCG; O'Neill 2014.
INLINE u32 hashed(u32 i) {
  const u32 state = i * 747796405u + 2891336453u;
  const u32 word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737u;
  return (word >> 22) ^ word;
}
// Sum number s of `samples` out of `total`, in rows of n: one after the other if all are looked at. Else s goes down the rows as it grows, and its bits in
// reverse order say which column: points of Hammersley's (1960), which leave out no tile of as many elements as four of them have to themselves,
// wherever it lies, where points by chance leave out one of fifty. A library goes wrong by tiles, or parts of the sums of one.
INLINE u64 place_of(u32 s, u32 samples, u64 total, u64 n) {
  if (samples == total) return s;
  const u64 rows = total / n, begin = rows * s / samples, end = rows * (s + 1) / samples;
  const u64 row = end > begin ? begin + hashed(s) % (end - begin) : begin;
  u64 reversed = 0;
  for (u32 i = 0; i < 32; i++) reversed = reversed << 1 | (s >> i & 1);
  return row * n + (reversed * n >> 32);
}

#endif
