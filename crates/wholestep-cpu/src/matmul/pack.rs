//! Takes a strided matrix. Gives the same numbers in the order the kernels read them: panels of a few columns, row after
//! row of k. Never reads outside the matrix; columns that fill up the last vector of a panel become zero.
//!
//! Loops are spelled out with `while`: adapters of iterators are not inlined into these functions, which have more of the
//! instruction set than the standard library was built with, unless linking optimizes too.

use super::kernel::Kernels;
use crate::simd::Vector;

/// Element (k, column) of a matrix lies at `p + k * k_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub p: *const f32,
    pub k_stride: usize,
    pub column_stride: usize,
}

/// A panel to be filled: `ks` rows of `columns` columns, `width` elements apart. What lies between `columns` and the next
/// whole vector, or `width` if that is less, becomes zero.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub p: *mut f32,
    pub ks: usize,
    pub columns: usize,
    pub width: usize,
}

/// Copies `from` to the panel.
///
/// # Safety
/// The matrix has `ks` x `columns` readable elements and the panel room for `ks * width`, `width >= columns`; the instruction
/// set of `kernels` is there.
pub(crate) unsafe fn pack_panel(kernels: &Kernels, from: Strided, to: Panel) {
    // SAFETY: the caller's contract is that of the three ways.
    unsafe {
        if from.column_stride == 1 || to.columns == 1 {
            (kernels.copy)(from, to);
        } else if from.k_stride == 1 || to.ks == 1 {
            (kernels.transpose)(from, to);
        } else {
            for k in 0..to.ks {
                let row = to.p.add(k * to.width);
                for column in 0..to.columns {
                    *row.add(column) = *from.p.add(k * from.k_stride + column * from.column_stride);
                }
                std::ptr::write_bytes(row.add(to.columns), 0, to.width - to.columns);
            }
        }
    }
}

/// The columns of each row are contiguous.
///
/// # Safety
/// As `pack_panel`, and the instruction set of `V` is there.
#[inline(always)]
pub(crate) unsafe fn copy<V: Vector>(from: Strided, to: Panel) {
    let whole = to.columns / V::LANES * V::LANES;
    let rest = to.columns - whole;
    // SAFETY: the masks keep loads inside the columns and stores inside the width.
    unsafe {
        let (load, store) = (V::mask(rest), V::mask((to.width - whole).min(V::LANES)));
        let mut k = 0;
        while k < to.ks {
            let (src, dst) = (from.p.add(k * from.k_stride), to.p.add(k * to.width));
            let mut column = 0;
            while column < whole {
                V::load(src.add(column)).store(dst.add(column));
                column += V::LANES;
            }
            if rest > 0 {
                V::load_masked(src.add(whole), load).store_masked(dst.add(whole), store);
            }
            k += 1;
        }
    }
}

/// The rows of each column are contiguous.
///
/// # Safety
/// As `pack_panel`, and the instruction set of `V` is there.
#[inline(always)]
pub(crate) unsafe fn transpose<V: Vector>(from: Strided, to: Panel) {
    const MAX_LANES: usize = 16;
    let lanes = V::LANES;
    // SAFETY: whole blocks are inside matrix and panel; the others go through buffers, and masks keep them inside.
    unsafe {
        let mut k = 0;
        while k < to.ks {
            let ks = lanes.min(to.ks - k);
            let mut column = 0;
            while column < to.columns {
                let columns = lanes.min(to.columns - column);
                let src = from.p.add(k + column * from.column_stride);
                let dst = to.p.add(k * to.width + column);
                if ks == lanes && columns == lanes {
                    V::transpose(src, from.column_stride, dst, to.width);
                } else {
                    let mut rows = [0.0f32; MAX_LANES * MAX_LANES];
                    let mut turned = [0.0f32; MAX_LANES * MAX_LANES];
                    let (load, store) = (V::mask(ks), V::mask(lanes.min(to.width - column)));
                    let mut i = 0;
                    while i < columns {
                        V::load_masked(src.add(i * from.column_stride), load).store(rows.as_mut_ptr().add(i * lanes));
                        i += 1;
                    }
                    V::transpose(rows.as_ptr(), lanes, turned.as_mut_ptr(), lanes);
                    i = 0;
                    while i < ks {
                        V::load(turned.as_ptr().add(i * lanes)).store_masked(dst.add(i * to.width), store);
                        i += 1;
                    }
                }
                column += lanes;
            }
            k += lanes;
        }
    }
}
