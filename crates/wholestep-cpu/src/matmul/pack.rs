//! Takes a strided matrix. Gives the same numbers in the order the kernels read them: panels of a few columns, row after
//! row of k. Never reads outside the matrix; columns that fill up the last vector of a panel become zero.

use super::kernel::Kernels;

/// Element (k, column) of a matrix lies at `p + k * k_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub p: *const f32,
    pub k_stride: usize,
    pub column_stride: usize,
}

/// Writes `ks` rows of `columns` columns to `panel`, whose rows are `width >= columns` elements, zeros at the end.
///
/// # Safety
/// The matrix has `ks` x `columns` readable elements and `panel` room for `ks * width`; the instruction set of `kernels` is
/// there.
pub(crate) unsafe fn pack_panel(
    kernels: &Kernels,
    from: Strided,
    ks: usize,
    columns: usize,
    panel: *mut f32,
    width: usize,
) {
    // SAFETY: every index below is inside `ks` x `columns` of the source or `ks` x `width` of the panel.
    unsafe {
        if from.column_stride == 1 {
            for k in 0..ks {
                let row = panel.add(k * width);
                std::ptr::copy_nonoverlapping(from.p.add(k * from.k_stride), row, columns);
                std::ptr::write_bytes(row.add(columns), 0, width - columns);
            }
            return;
        }
        let lanes = kernels.lanes;
        let (mut whole_ks, mut whole_columns) = (0, 0);
        if from.k_stride == 1 {
            (whole_ks, whole_columns) = (ks - ks % lanes, columns - columns % lanes);
            for k in (0..whole_ks).step_by(lanes) {
                for column in (0..whole_columns).step_by(lanes) {
                    let src = from.p.add(k + column * from.column_stride);
                    (kernels.transpose)(src, from.column_stride, panel.add(k * width + column), width);
                }
            }
        }
        for k in 0..ks {
            let begin = if k < whole_ks { whole_columns } else { 0 };
            let row = panel.add(k * width);
            for column in begin..columns {
                *row.add(column) = *from.p.add(k * from.k_stride + column * from.column_stride);
            }
            std::ptr::write_bytes(row.add(columns), 0, width - columns);
        }
    }
}
