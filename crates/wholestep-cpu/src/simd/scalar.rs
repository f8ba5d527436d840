//! Takes and gives four f32 in an array. Gives [`Vector`] without intrinsics, for machines that have none of ours.
//! Never fuses a multiplication with an addition: without the instruction that would be a library call.

use super::Vector;

#[derive(Clone, Copy)]
pub(crate) struct Scalar4([f32; 4]);

impl Vector for Scalar4 {
    const LANES: usize = 4;
    type Mask = usize;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Scalar4([0.0; 4])
    }

    #[inline(always)]
    unsafe fn splat(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Scalar4([unsafe { *p }; 4])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's contract; an array of f32 has the alignment of f32.
        Scalar4(unsafe { *p.cast::<[f32; 4]>() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's contract; an array of f32 has the alignment of f32.
        unsafe { *p.cast::<[f32; 4]>() = self.0 }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Scalar4(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Scalar4(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }

    #[inline(always)]
    unsafe fn mask(n: usize) -> usize {
        n
    }

    #[inline(always)]
    unsafe fn load_masked(p: *const f32, mask: usize) -> Self {
        // SAFETY: only lanes inside the mask are read, which the caller vouches for.
        Scalar4(std::array::from_fn(|i| if i < mask { unsafe { *p.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, mask: usize) {
        for (i, &value) in self.0.iter().enumerate().take(mask) {
            // SAFETY: only lanes inside the mask are written, which the caller vouches for.
            unsafe { *p.add(i) = value };
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        for i in 0..4 {
            for j in 0..4 {
                // SAFETY: the caller vouches for both 4 x 4 blocks.
                unsafe { *dst.add(j * dst_stride + i) = *src.add(i * src_stride + j) };
            }
        }
    }
}
