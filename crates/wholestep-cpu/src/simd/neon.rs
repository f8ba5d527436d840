//! Takes and gives four f32 in a NEON register. Gives [`Vector`] for 64-bit Arm.
//! Never asks whether NEON is there: every 64-bit Arm processor has it.

use super::Vector;
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;
    type Mask = usize;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: NEON is always there.
        Neon(unsafe { vdupq_n_f32(0.0) })
    }

    #[inline(always)]
    unsafe fn splat(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Neon(unsafe { vld1q_dup_f32(p) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's contract.
        Neon(unsafe { vld1q_f32(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe { vst1q_f32(p, self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: NEON is always there.
        Neon(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: NEON is always there.
        Neon(unsafe { vaddq_f32(self.0, b.0) })
    }

    #[inline(always)]
    unsafe fn mask(n: usize) -> usize {
        n
    }

    #[inline(always)]
    unsafe fn load_masked(p: *const f32, mask: usize) -> Self {
        let mut lanes = [0.0f32; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(mask) {
            // SAFETY: only lanes inside the mask are read, which the caller vouches for.
            *lane = unsafe { *p.add(i) };
        }
        // SAFETY: the array has four lanes.
        Neon(unsafe { vld1q_f32(lanes.as_ptr()) })
    }

    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, mask: usize) {
        let mut lanes = [0.0f32; 4];
        // SAFETY: the array has four lanes.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), self.0) };
        for (i, &lane) in lanes.iter().enumerate().take(mask) {
            // SAFETY: only lanes inside the mask are written, which the caller vouches for.
            unsafe { *p.add(i) = lane };
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: the caller vouches for both 4 x 4 blocks.
        unsafe {
            let rows = [
                vld1q_f32(src),
                vld1q_f32(src.add(src_stride)),
                vld1q_f32(src.add(2 * src_stride)),
                vld1q_f32(src.add(3 * src_stride)),
            ];
            let (even01, odd01) = (vtrn1q_f32(rows[0], rows[1]), vtrn2q_f32(rows[0], rows[1]));
            let (even23, odd23) = (vtrn1q_f32(rows[2], rows[3]), vtrn2q_f32(rows[2], rows[3]));
            let (e01, e23) = (vreinterpretq_f64_f32(even01), vreinterpretq_f64_f32(even23));
            let (o01, o23) = (vreinterpretq_f64_f32(odd01), vreinterpretq_f64_f32(odd23));
            vst1q_f32(dst, vreinterpretq_f32_f64(vtrn1q_f64(e01, e23)));
            vst1q_f32(dst.add(dst_stride), vreinterpretq_f32_f64(vtrn1q_f64(o01, o23)));
            vst1q_f32(dst.add(2 * dst_stride), vreinterpretq_f32_f64(vtrn2q_f64(e01, e23)));
            vst1q_f32(dst.add(3 * dst_stride), vreinterpretq_f32_f64(vtrn2q_f64(o01, o23)));
        }
    }
}
