//! Transposes of 4-byte elements in vector registers. Takes a matrix, writes its transpose. Never changes a bit of an element, so every
//! machine may use its best instructions.

use crate::simd::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Vector, x86};

/// `dst[c·dst_stride + r] = src[r·src_stride + c]` for `rows` and `cols`, if this machine has vectors that fit; tells whether it was done.
///
/// # Safety
/// Both matrices are in memory that may be read and written, and do not overlap.
#[inline]
pub unsafe fn transpose(
    src: *const u32,
    src_stride: usize,
    [rows, cols]: [usize; 2],
    dst: *mut u32,
    dst_stride: usize,
) -> bool {
    let least = rows.min(cols);
    // SAFETY: the caller's contract, and the machine was asked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        let (src, dst) = (src.cast::<f32>(), dst.cast::<f32>());
        match Isa::detect() {
            Isa::Avx512 if least >= 16 => {
                at_avx512(src, src_stride, rows, cols, dst, dst_stride);
                true
            }
            Isa::Avx512 | Isa::Avx2 if least >= 8 => {
                at_avx2(src, src_stride, rows, cols, dst, dst_stride);
                true
            }
            Isa::Avx512 | Isa::Avx2 | Isa::Scalar | Isa::Neon => false,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (src, src_stride, dst, dst_stride, least, Isa::Scalar);
        false
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn at_avx512(src: *const f32, src_stride: usize, rows: usize, cols: usize, dst: *mut f32, dst_stride: usize) {
    // SAFETY: the caller's contract.
    unsafe { squares::<x86::Avx512>(src, src_stride, rows, cols, dst, dst_stride) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn at_avx2(src: *const f32, src_stride: usize, rows: usize, cols: usize, dst: *mut f32, dst_stride: usize) {
    // SAFETY: the caller's contract.
    unsafe { squares::<x86::Avx2>(src, src_stride, rows, cols, dst, dst_stride) }
}

/// Square by square; the last of a line overlap those before them and write the same values again.
///
/// # Safety
/// As [`transpose`]; both extents are at least the vector's lanes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn squares<V: Vector>(
    src: *const f32,
    src_stride: usize,
    rows: usize,
    cols: usize,
    dst: *mut f32,
    dst_stride: usize,
) {
    for r in (0..rows).step_by(V::LANES) {
        let r = r.min(rows - V::LANES);
        for c in (0..cols).step_by(V::LANES) {
            let c = c.min(cols - V::LANES);
            // SAFETY: the square is inside both.
            unsafe { V::transpose(src.add(r * src_stride + c), src_stride, dst.add(c * dst_stride + r), dst_stride) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_moves_to_its_place_and_nothing_else_is_written() {
        for rows in [1, 7, 8, 10, 15, 16, 17, 33, 96] {
            for cols in [1, 8, 9, 16, 23, 40] {
                let (from_stride, to_stride) = (cols + 3, rows + 2);
                // Bits of all kinds, NaNs with payloads among them.
                let src: Vec<u32> = (0..rows * from_stride).map(|i| (i as u32).wrapping_mul(0x9e37_79b9)).collect();
                let mut dst = vec![1u32; cols * to_stride];
                // SAFETY: both have room for the extents.
                let done = unsafe { transpose(src.as_ptr(), from_stride, [rows, cols], dst.as_mut_ptr(), to_stride) };
                for (i, &got) in dst.iter().enumerate() {
                    let (c, r) = (i / to_stride, i % to_stride);
                    let expected = if done && r < rows { src[r * from_stride + c] } else { 1 };
                    assert_eq!(got, expected, "{rows} x {cols}, row {r}, column {c}");
                }
            }
        }
    }
}
