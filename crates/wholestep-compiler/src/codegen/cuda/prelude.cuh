// What every unit of kernels begins with: the names that kernel writers use, where CUDA C has none or means something else by them. Needs no
// header. Semantics are those of the graph's operations: NaN in, NaN out of the larger and the smaller; floats clamp to whole numbers; whole
// numbers wrap and divide by zero to zero.

// Writers name what a kernel may not need.
#pragma nv_diag_suppress 177

#define let const auto
#define var auto

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef double f64;

// What every kernel begins with: the next one may start to set itself up, and this one waits until what it reads is written.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define BEGIN_KERNEL() \
  asm volatile("griddepcontrol.launch_dependents;"); \
  asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define BEGIN_KERNEL()
#endif

// Parameters that come with the launch.
template <int N> struct Params { uint4 w[N]; };

#define INLINE __device__ __forceinline__

// For kernels that are made of several bodies: a name for the body that is part `i` of a kernel, and a place of any type.
#define PART_OF(kernel, i) kernel##_part##i
#define PART(kernel, i) PART_OF(kernel, i)
struct At {
  u8* at;
  template <typename T> INLINE operator T*() const { return (T*)at; }
};

// Four values, which move together if they take up to 16 bytes.
template <typename T> struct __align__(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) vec4 {
  T x, y, z, w;
  __device__ __forceinline__ vec4() : x(), y(), z(), w() {}
  __device__ __forceinline__ explicit vec4(T all) : x(all), y(all), z(all), w(all) {}
  __device__ __forceinline__ vec4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}
  __device__ __forceinline__ T& operator[](u32 i) { return (&x)[i]; }
};
template <typename T> INLINE vec4<T>& operator+=(vec4<T>& a, const vec4<T>& b) {
  a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
  return a;
}

// A number that places are taken apart by, with what makes a division by it a multiplication.
struct Extent {
  u32 n, inverse, shift;
  INLINE operator u32() const { return n; }
};
INLINE u32 operator/(u32 x, Extent by) {
  const u32 high = __umulhi(x, by.inverse), once = by.shift < 1u ? by.shift : 1u;
  return (high + ((x - high) >> once)) >> (by.shift - once);
}
INLINE u32 operator%(u32 x, Extent by) { return x - x / by * by.n; }

template <typename T> INLINE T select(T no, T yes, bool condition) { return condition ? yes : no; }
template <typename T> INLINE T clamp(T x, T low, T high) { return x < low ? low : x > high ? high : x; }

template <typename T, typename U> INLINE T bitcast(U value) {
  static_assert(sizeof(T) == sizeof(U), "bits are kept");
  union { U from; T to; } both = {value};
  return both.to;
}
// Values that begin at a word of memory.
template <typename T> struct Words {
  static INLINE T get(const u32* at) { return bitcast<T>(*at); }
  static INLINE void put(u32* at, T value) { *at = bitcast<u32>(value); }
};
template <typename T> struct LongWords {
  static INLINE T get(const u32* at) { return bitcast<T>(u64(at[0]) | u64(at[1]) << 32); }
  static INLINE void put(u32* at, T value) {
    const u64 bits = bitcast<u64>(value);
    at[0] = u32(bits), at[1] = u32(bits >> 32);
  }
};
template <> struct Words<f64> : LongWords<f64> {};
template <> struct Words<i64> : LongWords<i64> {};
template <> struct Words<u64> : LongWords<u64> {};
template <typename T> INLINE T from_words(const u32* at) { return Words<T>::get(at); }
template <typename T> INLINE void to_words(u32* at, T value) { Words<T>::put(at, value); }

// Macros, so that whoever puts bodies together may say which threads a barrier is for.
#define BARRIER() __syncthreads()
#define workgroupBarrier() BARRIER()
#define storageBarrier() BARRIER()
template <typename T> INLINE T subgroupShuffleXor(T value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// Floats.
INLINE vec4<f32> fma(vec4<f32> a, vec4<f32> b, vec4<f32> c) {
  return vec4<f32>(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w));
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Before compute capability 8.0 the instruction gives the number where the other is NaN.
INLINE f32 largest(f32 x, f32 y) { return x != x ? x : y != y ? y : fmaxf(x, y); }
INLINE f32 smallest(f32 x, f32 y) { return x != x ? x : y != y ? y : fminf(x, y); }
#else
INLINE f32 largest(f32 x, f32 y) {
  f32 r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
  return r;
}
INLINE f32 smallest(f32 x, f32 y) {
  f32 r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
  return r;
}
#endif
INLINE f64 largest(f64 x, f64 y) { return x > y || x != x ? x : y; }
INLINE f64 smallest(f64 x, f64 y) { return x < y || x != x ? x : y; }
template <typename T> INLINE T sign(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x; }
INLINE u32 sign(u32 x) { return min(x, 1u); }
INLINE f32 rsqrt(f32 x) { return rsqrtf(x); }
template <typename T> INLINE T sigmoid(T x) {
  const T e = exp(-abs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}
template <typename T> INLINE T floored(T x, T y, T r) { return r != T(0) && (r < T(0)) != (y < T(0)) ? r + y : r; }
// What many numbers are divided by: a division is then three steps from the reciprocal, which come to the same number where that and the
// quotient are normal, and no branch. A small divisor is scaled, as its reciprocal is infinite.
struct Divisor {
  f32 scale, by, reciprocal;
  INLINE explicit Divisor(f32 x) : scale(abs(x) < 0x1p-100f ? 0x1p64f : 1.0f), by(x * scale), reciprocal(1.0f / by) {}
};
INLINE f32 divided(f32 x, const Divisor& d) {
  const f32 q = x * d.reciprocal, y = fmaf(fmaf(-q, d.by, x), d.reciprocal, q);
  // Zeros, infinities and NaN are those of the first step.
  return (abs(y) > 0.0f && abs(y) < bitcast<f32>(0x7f800000u) ? y : q) * d.scale;
}
INLINE f32 remainder_of(f32 x, f32 y) { return floored(x, y, fmodf(x, y)); }
INLINE f64 remainder_of(f64 x, f64 y) { return floored(x, y, fmod(x, y)); }

// Whole numbers.
INLINE u32 negated(u32 x) { return 0u - x; }
INLINE i32 negated(i32 x) { return i32(0u - u32(x)); }
INLINE i64 negated(i64 x) { return i64(0ull - u64(x)); }
INLINE u32 quotient(u32 x, u32 y) { return y == 0u ? 0u : x / y; }
INLINE i32 quotient(i32 x, i32 y) { return y == 0 ? 0 : y == -1 ? negated(x) : x / y; }
INLINE i64 quotient(i64 x, i64 y) { return y == 0 ? 0 : y == -1 ? negated(x) : x / y; }
INLINE u32 remainder_of(u32 x, u32 y) { return y == 0u ? 0u : x % y; }
INLINE i32 remainder_of(i32 x, i32 y) { return y == 0 || y == -1 ? 0 : floored(x, y, x % y); }
INLINE i64 remainder_of(i64 x, i64 y) { return y == 0 || y == -1 ? 0 : floored(x, y, x % y); }

// The conversions of the hardware clamp; the 64-bit ones need to be told of NaN.
INLINE i32 to_i32(f32 x) { return __float2int_rz(x); }
INLINE i32 to_i32(f64 x) { return x != x ? 0 : __double2int_rz(x); }
INLINE u32 to_u32(f32 x) { return __float2uint_rz(x); }
INLINE u32 to_u32(f64 x) { return x != x ? 0u : __double2uint_rz(x); }
INLINE i64 to_i64(f32 x) { return x != x ? 0 : __float2ll_rz(x); }
INLINE i64 to_i64(f64 x) { return x != x ? 0 : __double2ll_rz(x); }
template <typename T> INLINE u32 to_u8(T x) { return min(to_u32(x), 255u); }

// Floats of 16 bits: f32 in registers, rounded to nearest, ties to even. Two at a time, of which the first is the lower half of the word, as
// the instruction for one has an eighth of that one's rate.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Before compute capability 8.0 one at a time, and bf16 by hand: the lower half of the word is rounded off. NaN stays NaN.
INLINE u32 f16_round_two(f32 x, f32 y) {
  u16 low, high;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(low) : "f"(x));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(high) : "f"(y));
  return u32(low) | u32(high) << 16;
}
INLINE u32 bf16_of(f32 x) {
  const u32 bits = __float_as_uint(x);
  return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
INLINE u32 bf16_round_two(f32 x, f32 y) { return bf16_of(x) | bf16_of(y) << 16; }
#else
#define ROUND_TWO(name, type) \
  INLINE u32 name##_two(f32 x, f32 y) { \
    u32 r; \
    asm("cvt.rn." type "x2.f32 %0, %1, %2;" : "=r"(r) : "f"(y), "f"(x)); \
    return r; \
  }
ROUND_TWO(f16_round, "f16")
ROUND_TWO(bf16_round, "bf16")
#endif
#define ROUND(name) \
  INLINE u16 name(f32 x) { return u16(name##_two(x, 0.0f)); } \
  INLINE vec4<u16> name(const vec4<f32>& v) { \
    const u32 low = name##_two(v.x, v.y), high = name##_two(v.z, v.w); \
    vec4<u16> r; \
    u32* const words = (u32*)&r; \
    words[0] = low, words[1] = high; \
    return r; \
  }
ROUND(f16_round)
ROUND(bf16_round)
INLINE f32 f16_widen(u16 bits) {
  f32 r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits));
  return r;
}
INLINE f32 bf16_widen(u16 bits) { return bitcast<f32>(u32(bits) << 16); }
INLINE f32 f16_rounded(f32 x) { return f16_widen(f16_round(x)); }
INLINE f32 bf16_rounded(f32 x) { return bitcast<f32>(bf16_round_two(0.0f, x)); }
#define FOUR(to, name, from) \
  INLINE vec4<to> name(const vec4<from>& v) { return vec4<to>(name(v.x), name(v.y), name(v.z), name(v.w)); }
FOUR(f32, f16_widen, u16)
FOUR(f32, bf16_widen, u16)
INLINE u32 u8_widen(u8 x) { return x; }
INLINE u8 u8_narrow(u32 x) { return u8(x); }
FOUR(u32, u8_widen, u8)
FOUR(u8, u8_narrow, u32)

// Whether a value at a place beats another for the place of the first largest. The largest u32 says that there is no place yet; NaN is largest.
template <typename T> INLINE bool beats(T v, u32 n, T w, u32 m) {
  if (n == 0xffffffffu) return false;
  if (m == 0xffffffffu) return true;
  const bool v_nan = v != v, w_nan = w != w;
  if (v_nan || w_nan) return v_nan && (!w_nan || n < m);
  return v > w || (v == w && n < m);
}

// Unsigned numbers that order as values do: NaN is the largest, and both zeros are one.
INLINE u32 order_key(f32 x) {
  const u32 bits = bitcast<u32>(x);
  if (x != x) return 0xffffffffu;
  if (x == 0.0f) return 0x80000000u;
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
INLINE u64 order_key(f64 x) {
  const u64 bits = bitcast<u64>(x);
  if (x != x) return ~0ull;
  if (x == 0.0) return 1ull << 63;
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}
INLINE u32 order_key(i32 x) { return u32(x) ^ 0x80000000u; }
INLINE u64 order_key(i64 x) { return u64(x) ^ 1ull << 63; }
INLINE u32 order_key(u32 x) { return x; }
INLINE u32 order_key(bool x) { return x; }

// Random bits of four neighbouring elements of a stream: Philox 4x32-10.
struct Bits4 : vec4<u32> {
  __device__ __forceinline__ Bits4(u32 x, u32 y, u32 z, u32 w) : vec4(x, y, z, w) {}
  // By comparison, which keeps all four in registers.
  __device__ __forceinline__ u32 operator[](u32 i) const { return i & 2u ? (i & 1u ? w : z) : (i & 1u ? y : x); }
};
INLINE Bits4 philox(u32 quarter, u32 stream, u32 step, u32 key0, u32 key1) {
  u32 x = quarter, y = stream, z = step, w = 0u;
#pragma unroll
  for (int i = 0; i < 10; i++) {
    const u32 high0 = __umulhi(0xD2511F53u, x), high1 = __umulhi(0xCD9E8D57u, z);
    const u32 low0 = 0xD2511F53u * x, low1 = 0xCD9E8D57u * z;
    x = high1 ^ y ^ key0, y = low1, z = high0 ^ w ^ key1, w = low0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  return Bits4(x, y, z, w);
}

// Matrix units. A fragment is a warp's part of a matrix of 16 by 16 (a) or 16 by 8 (b) elements of 16 bits, c of 16 by 8 sums.
INLINE u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }
// 16 bytes from memory to shared memory, or zeros where there are none.
INLINE void copy_async(u32 to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
INLINE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Asks for a line of memory that is read later.
INLINE void prefetch(const u8* from) { asm volatile("prefetch.global.L1 [%0];" ::"l"(from)); }
// Waits until all groups of copies but the last N are there.
template <int N> INLINE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
// Four matrices of 8 by 8; each lane gives the address of a line of one. Transposed for lines that are columns.
template <bool TRANSPOSED> INLINE void load_fragments(u32& a, u32& b, u32& c, u32& d, u32 at) {
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at) : "memory");
}
#define MULTIPLY(name, type) \
  INLINE void name(f32* c, const u32* a, const u32* b) { \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
  }
MULTIPLY(multiply_f16, "f16")
MULTIPLY(multiply_bf16, "bf16")
// Sixteen rows of a warp's sums, as lanes hold them, to lines of memory.
template <int N> INLINE void put_sums(f32* to, u32 pitch, f32 (*c)[4], u32 lane) {
  f32* const at = to + (lane >> 2) * pitch + (lane & 3u) * 2u;
#pragma unroll
  for (int j = 0; j < N; j++) {
    *(float2*)(at + 8 * j) = make_float2(c[j][0], c[j][1]);
    *(float2*)(at + 8 * pitch + 8 * j) = make_float2(c[j][2], c[j][3]);
  }
}
