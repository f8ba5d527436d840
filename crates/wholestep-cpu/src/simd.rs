//! Takes nothing but the processor it runs on. Gives the instruction sets the kernels exist for, and behind one private
//! trait the few vector operations a kernel is written in. Never picks anything at build time: the choice is a value, so
//! a test can run every kernel the machine has.

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use std::sync::OnceLock;

/// An instruction set that the kernels of this crate exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust; every machine has it.
    Scalar,
    /// x86-64 with AVX2 and FMA: 8 lanes.
    Avx2,
    /// x86-64 with AVX-512F: 16 lanes.
    Avx512,
    /// 64-bit Arm: 4 lanes.
    Neon,
}

impl Isa {
    /// All instruction sets, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The best instruction set of this machine. The processor is asked once per process.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Isa::Scalar))
    }

    /// Whether this machine can run kernels of this instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && Isa::Avx2.is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
            Isa::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// f32 lanes of one vector.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Scalar | Isa::Neon => 4,
            Isa::Avx2 => 8,
            Isa::Avx512 => 16,
        }
    }
}

/// One vector of f32. Each method must be inlined into a function that has the instruction set switched on.
///
/// # Safety
/// Of every method: the processor has the instruction set, and pointers are valid for the lanes touched.
pub(crate) trait Vector: Copy {
    const LANES: usize;
    /// Says which of the first lanes count.
    type Mask: Copy;

    unsafe fn zero() -> Self;
    unsafe fn splat(p: *const f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// `self * b + c`, rounded once where the instruction set can.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    /// The first `n` lanes, `n <= LANES`.
    unsafe fn mask(n: usize) -> Self::Mask;
    /// Lanes outside the mask become 0 and their memory is not touched.
    unsafe fn load_masked(p: *const f32, mask: Self::Mask) -> Self;
    unsafe fn store_masked(self, p: *mut f32, mask: Self::Mask);
    /// Asks for the cache line at `p`, for reading and writing; any address will do.
    unsafe fn prefetch(p: *const f32);
    /// Writes the transpose of the LANES x LANES block at `src` (rows `src_stride` apart) to `dst` (rows `dst_stride` apart).
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);
}
