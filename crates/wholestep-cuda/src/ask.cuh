// Tells a graph whether a loop has another trip, before the first and after each. The setter is part of every driver that has such graphs; it is
// declared here as no header is there.
extern "C" __device__ void cudaGraphSetConditional(u64 handle, u32 value);
extern "C" __global__ void KERNEL(u64 loop, const u8* predicate, u32* trips, u32 most, u32 is_first) {
  BEGIN_KERNEL();
  const u32 done = is_first ? 0u : *trips + 1u;
  *trips = done;
  cudaGraphSetConditional(loop, *predicate != 0 && done < most);
}
