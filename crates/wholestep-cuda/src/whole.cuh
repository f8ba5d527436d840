// What the kernel of a whole step is made with: memory of a block that is filled and emptied sixteen bytes a thread.

#ifndef WHOLE
#define WHOLE

#define FIRST uint3{0, 0, 0}
#define ONLY uint3{1, 1, 1}

// The kernel after this one may begin, and this one has waited for the one before: what comes between does not depend on that.
INLINE void next_may_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
INLINE void last_is_done() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Begins to copy to shared memory; the memory of the host is read as well.
INLINE void fetch(u8* to, const u8* from, u32 bytes) {
  for (u32 i = 16 * threadIdx.x; i < bytes; i += 16 * blockDim.x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(u32(__cvta_generic_to_shared(to + i))), "l"(from + i) : "memory");
#else
    *(uint4*)(to + i) = *(const uint4*)(from + i);
#endif
  }
}

// What was begun since the last end is one group.
INLINE void end_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All groups but the last N are there, for all threads.
template <int N> INLINE void fetched() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
  __syncthreads();
}

// Whether a loop has another trip. Nobody goes on before all have seen it.
INLINE bool goes_on(const u8* predicate) { return __syncthreads_or(*predicate); }

INLINE void keep(u8* to, const u8* from, u32 bytes) {
  for (u32 i = 16 * threadIdx.x; i < bytes; i += 16 * blockDim.x) *(uint4*)(to + i) = *(const uint4*)(from + i);
}

#endif
