//! Takes and gives f32 vectors in x86-64 registers. Gives [`Vector`] for AVX2 with FMA (8 lanes) and AVX-512F (16 lanes).
//! Never checks the processor: whoever calls a kernel chose an instruction set that is there.

use super::Vector;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// A window of 8 lanes over this is the mask of its first n lanes.
static AVX2_MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Vector for Avx2 {
    const LANES: usize = 8;
    type Mask = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's contract: AVX2 is there.
        Avx2(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn splat(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Avx2(unsafe { _mm256_broadcast_ss(&*p) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Avx2(unsafe { _mm256_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller's contract: FMA is there.
        Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller's contract: AVX2 is there.
        Avx2(unsafe { _mm256_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    unsafe fn mask(n: usize) -> __m256i {
        debug_assert!(n <= 8);
        // SAFETY: the window begins at 8 - n <= 8 and is 8 lanes of 16.
        unsafe { _mm256_loadu_si256(AVX2_MASKS.as_ptr().add(8 - n).cast()) }
    }

    #[inline(always)]
    unsafe fn load_masked(p: *const f32, mask: __m256i) -> Self {
        // SAFETY: the caller's contract; lanes outside the mask are not touched.
        Avx2(unsafe { _mm256_maskload_ps(p, mask) })
    }

    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, mask: __m256i) {
        // SAFETY: the caller's contract; lanes outside the mask are not touched.
        unsafe { _mm256_maskstore_ps(p, mask, self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        // SAFETY: a prefetch reads nothing that the program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: the caller vouches for both 8 x 8 blocks.
        unsafe {
            for half in 0..2 {
                // Rows i and i + 4 share a register from the load on, so only two shuffle steps are left.
                let mut rows = [_mm256_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    let p = src.add(i * src_stride + 4 * half);
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(p));
                    *row = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(p.add(4 * src_stride)));
                }
                let a = _mm256_unpacklo_ps(rows[0], rows[1]);
                let b = _mm256_unpackhi_ps(rows[0], rows[1]);
                let c = _mm256_unpacklo_ps(rows[2], rows[3]);
                let d = _mm256_unpackhi_ps(rows[2], rows[3]);
                let out = dst.add(4 * half * dst_stride);
                _mm256_storeu_ps(out, _mm256_shuffle_ps::<0x44>(a, c));
                _mm256_storeu_ps(out.add(dst_stride), _mm256_shuffle_ps::<0xee>(a, c));
                _mm256_storeu_ps(out.add(2 * dst_stride), _mm256_shuffle_ps::<0x44>(b, d));
                _mm256_storeu_ps(out.add(3 * dst_stride), _mm256_shuffle_ps::<0xee>(b, d));
            }
        }
    }
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's contract: AVX-512F is there.
        Avx512(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn splat(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Avx512(unsafe { _mm512_set1_ps(*p) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Avx512(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller's contract: AVX-512F is there.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller's contract: AVX-512F is there.
        Avx512(unsafe { _mm512_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    unsafe fn mask(n: usize) -> __mmask16 {
        debug_assert!(n <= 16);
        ((1u32 << n) - 1) as __mmask16
    }

    #[inline(always)]
    unsafe fn load_masked(p: *const f32, mask: __mmask16) -> Self {
        // SAFETY: the caller's contract; lanes outside the mask are not touched.
        Avx512(unsafe { _mm512_maskz_loadu_ps(mask, p) })
    }

    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, mask: __mmask16) {
        // SAFETY: the caller's contract; lanes outside the mask are not touched.
        unsafe { _mm512_mask_storeu_ps(p, mask, self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        // SAFETY: a prefetch reads nothing that the program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: the caller vouches for both 16 x 16 blocks.
        unsafe {
            for quarter in 0..4 {
                // Rows i, i + 4, i + 8 and i + 12 share a register from the load on: masked broadcasts run on the load
                // ports, and the one shuffle port is left with two steps instead of four.
                let mut rows = [_mm512_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    let p = src.add(i * src_stride + 4 * quarter);
                    *row = _mm512_broadcast_f32x4(_mm_loadu_ps(p));
                    *row = _mm512_mask_broadcast_f32x4(*row, 0x00f0, _mm_loadu_ps(p.add(4 * src_stride)));
                    *row = _mm512_mask_broadcast_f32x4(*row, 0x0f00, _mm_loadu_ps(p.add(8 * src_stride)));
                    *row = _mm512_mask_broadcast_f32x4(*row, 0xf000, _mm_loadu_ps(p.add(12 * src_stride)));
                }
                let a = _mm512_unpacklo_ps(rows[0], rows[1]);
                let b = _mm512_unpackhi_ps(rows[0], rows[1]);
                let c = _mm512_unpacklo_ps(rows[2], rows[3]);
                let d = _mm512_unpackhi_ps(rows[2], rows[3]);
                let out = dst.add(4 * quarter * dst_stride);
                _mm512_storeu_ps(out, _mm512_shuffle_ps::<0x44>(a, c));
                _mm512_storeu_ps(out.add(dst_stride), _mm512_shuffle_ps::<0xee>(a, c));
                _mm512_storeu_ps(out.add(2 * dst_stride), _mm512_shuffle_ps::<0x44>(b, d));
                _mm512_storeu_ps(out.add(3 * dst_stride), _mm512_shuffle_ps::<0xee>(b, d));
            }
        }
    }
}
