//! Takes pointers to a few rows of A and to a panel of B. Gives their product, added up in registers, to a small block of
//! C. Never knows what A is: a matrix, the pixels under one tap of a convolution, or runs of pixels of a weight gradient.
//!
//! The vector runs along the columns of B and C. Each element of C is one chain of multiply-adds in the order of k, so a
//! result does not depend on how rows and columns were cut into blocks.

use super::pack::{self, Panel, Strided};
use crate::simd::{Isa, Vector};

/// Most rows of a block, of any instruction set.
pub(crate) const MAX_ROWS: usize = 12;
/// Most vectors across a block, of any instruction set.
pub(crate) const MAX_VECTORS: usize = 3;

/// Where a block of C lies, and how the sum reaches it.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// First column of the block in row 0 of C's offsets.
    pub c: *mut f32,
    /// Element offset of each row from `c`.
    pub c_rows: *const usize,
    /// Columns that count in the last vector, 1..=lanes.
    pub last_lanes: usize,
    /// Add to what C holds; otherwise C is only written.
    pub accumulate: bool,
    /// First row of the panel of B.
    pub b: *const f32,
    /// Elements from one row of the panel to the next.
    pub b_stride: usize,
}

/// A whose rows are each contiguous in k, as segments of equal length: all of k for a matrix, one per tap for a convolution.
#[derive(Clone, Copy)]
pub(crate) struct RowsOfA {
    /// One pointer per row, segment after segment.
    pub table: *const *const f32,
    /// Pointers from one segment to the next.
    pub table_stride: usize,
    pub n_segments: usize,
    /// Added to every pointer.
    pub offset: usize,
    /// Steps of k in one segment.
    pub len: usize,
}

/// A whose rows lie next to each other for one k, as runs of steps: all of k for a matrix, one per line of pixels for a
/// weight gradient.
#[derive(Clone, Copy)]
pub(crate) struct ColumnsOfA {
    pub runs: *const Run,
    pub n_runs: usize,
    /// Added to every run's pointer.
    pub offset: usize,
    /// Elements from one k to the next.
    pub stride: usize,
}

/// Consecutive steps of k.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub a: *const f32,
    /// Row of the panel of B where the run begins.
    pub b_row: usize,
    pub len: usize,
}

pub(crate) type RowsKernel = unsafe fn(&RowsOfA, &Block);
pub(crate) type ColumnsKernel = unsafe fn(&ColumnsOfA, &Block);
type Table<K> = [[K; MAX_VECTORS]; MAX_ROWS];

/// The kernels of one instruction set. The index is `[rows - 1][vectors - 1]`; `masked` kernels also read B through a mask.
pub(crate) struct Kernels {
    pub lanes: usize,
    /// Rows of a full block.
    pub rows: usize,
    /// Rows of a full block of at most two vectors: registers allow more.
    pub tall_rows: usize,
    /// Vectors across a full block.
    pub vectors: usize,
    pub of_rows: Table<RowsKernel>,
    pub of_rows_masked: Table<RowsKernel>,
    pub of_columns: Table<ColumnsKernel>,
    pub of_columns_masked: Table<ColumnsKernel>,
    /// `pack::copy` and `pack::transpose`.
    pub copy: unsafe fn(Strided, Panel),
    pub transpose: unsafe fn(Strided, Panel),
}

impl Kernels {
    /// Columns of a full block.
    pub fn columns(&self) -> usize {
        self.lanes * self.vectors
    }
}

/// # Safety
/// The instruction set of `V` is there. For each segment and row `i < M`, `table` gives a pointer with `offset + len`
/// readable elements; B has `n_segments * len` rows of N vectors (the last masked when MASKED); C's rows are writable.
#[inline(always)]
unsafe fn multiply_rows<V: Vector, const M: usize, const N: usize, const MASKED: bool>(a: &RowsOfA, block: &Block) {
    // SAFETY: the caller's contract covers every access below.
    unsafe {
        let mask = V::mask(block.last_lanes);
        let mut sums = [[V::zero(); N]; M];
        prefetch_c::<V, M, N>(block);
        let mut b = block.b;
        let mut table = a.table;
        for _ in 0..a.n_segments {
            let mut rows = [std::ptr::null::<f32>(); M];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = (*table.add(i)).add(a.offset);
            }
            for k in 0..a.len {
                let bs = load_b::<V, N, MASKED>(b, mask);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let a = V::splat(row.add(k));
                    for j in 0..N {
                        sums[j] = a.mul_add(bs[j], sums[j]);
                    }
                }
                b = b.add(block.b_stride);
            }
            table = table.add(a.table_stride);
        }
        store::<V, M, N>(&sums, block, mask);
    }
}

/// # Safety
/// The instruction set of `V` is there. Each run has `len` steps, `stride` apart, with M readable elements after `offset`;
/// B has the rows the runs name, of N vectors (the last masked when MASKED); C's rows are writable.
#[inline(always)]
unsafe fn multiply_columns<V: Vector, const M: usize, const N: usize, const MASKED: bool>(
    a: &ColumnsOfA,
    block: &Block,
) {
    // SAFETY: the caller's contract covers every access below.
    unsafe {
        let mask = V::mask(block.last_lanes);
        let mut sums = [[V::zero(); N]; M];
        prefetch_c::<V, M, N>(block);
        for r in 0..a.n_runs {
            let run = &*a.runs.add(r);
            let mut column = run.a.add(a.offset);
            let mut b = block.b.add(run.b_row * block.b_stride);
            for _ in 0..run.len {
                let bs = load_b::<V, N, MASKED>(b, mask);
                prefetch_b::<V, N>(b, block.b_stride);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(column.add(i));
                    for j in 0..N {
                        sums[j] = a.mul_add(bs[j], sums[j]);
                    }
                }
                column = column.wrapping_add(a.stride);
                b = b.wrapping_add(block.b_stride);
            }
        }
        store::<V, M, N>(&sums, block, mask);
    }
}

/// C is needed only after the sum: its lines come meanwhile.
///
/// # Safety
/// `block` names M rows of C.
#[inline(always)]
unsafe fn prefetch_c<V: Vector, const M: usize, const N: usize>(block: &Block) {
    for i in 0..M {
        // SAFETY: the caller's contract.
        let c = unsafe { block.c.wrapping_add(*block.c_rows.add(i)) };
        for j in (0..N * V::LANES).step_by(16) {
            // SAFETY: prefetching any address is allowed.
            unsafe { V::prefetch(c.wrapping_add(j)) };
        }
    }
}

/// Rows of B that are asked for ahead of their use.
const ROWS_AHEAD: usize = 12;

/// The gradient of a weight reads rows of B where they lie, once per few rows of the result: they are asked for in time.
/// Products of rows do without: square ones, whose panels are packed, lost up to 7 % to it.
///
/// # Safety
/// The instruction set of `V` is there.
#[inline(always)]
unsafe fn prefetch_b<V: Vector, const N: usize>(b: *const f32, b_stride: usize) {
    let ahead = b.wrapping_add(ROWS_AHEAD * b_stride);
    for j in (0..N * V::LANES).step_by(16) {
        // SAFETY: prefetching any address is allowed.
        unsafe { V::prefetch(ahead.wrapping_add(j)) };
    }
}

/// # Safety
/// N vectors at `b` are readable, the last one through `mask` when MASKED.
#[inline(always)]
unsafe fn load_b<V: Vector, const N: usize, const MASKED: bool>(b: *const f32, mask: V::Mask) -> [V; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut vectors = [V::zero(); N];
        for (j, vector) in vectors.iter_mut().enumerate() {
            let p = b.add(j * V::LANES);
            *vector = if MASKED && j == N - 1 { V::load_masked(p, mask) } else { V::load(p) };
        }
        vectors
    }
}

/// # Safety
/// The rows of C that `block` names have N vectors, the last of `last_lanes` lanes.
#[inline(always)]
unsafe fn store<V: Vector, const M: usize, const N: usize>(sums: &[[V; N]; M], block: &Block, mask: V::Mask) {
    let whole = block.last_lanes == V::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        for (i, row) in sums.iter().enumerate() {
            let c = block.c.add(*block.c_rows.add(i));
            for (j, &sum) in row.iter().enumerate() {
                let p = c.add(j * V::LANES);
                if j < N - 1 || whole {
                    let sum = if block.accumulate { V::load(p).add(sum) } else { sum };
                    sum.store(p);
                } else {
                    let sum = if block.accumulate { V::load_masked(p, mask).add(sum) } else { sum };
                    sum.store_masked(p, mask);
                }
            }
        }
    }
}

macro_rules! table {
    ($f:ident, $masked:literal) => {
        [
            [$f::<1, 1, $masked>, $f::<1, 2, $masked>, $f::<1, 3, $masked>],
            [$f::<2, 1, $masked>, $f::<2, 2, $masked>, $f::<2, 3, $masked>],
            [$f::<3, 1, $masked>, $f::<3, 2, $masked>, $f::<3, 3, $masked>],
            [$f::<4, 1, $masked>, $f::<4, 2, $masked>, $f::<4, 3, $masked>],
            [$f::<5, 1, $masked>, $f::<5, 2, $masked>, $f::<5, 3, $masked>],
            [$f::<6, 1, $masked>, $f::<6, 2, $masked>, $f::<6, 3, $masked>],
            [$f::<7, 1, $masked>, $f::<7, 2, $masked>, $f::<7, 3, $masked>],
            [$f::<8, 1, $masked>, $f::<8, 2, $masked>, $f::<8, 3, $masked>],
            [$f::<9, 1, $masked>, $f::<9, 2, $masked>, $f::<9, 3, $masked>],
            [$f::<10, 1, $masked>, $f::<10, 2, $masked>, $f::<10, 3, $masked>],
            [$f::<11, 1, $masked>, $f::<11, 2, $masked>, $f::<11, 3, $masked>],
            [$f::<12, 1, $masked>, $f::<12, 2, $masked>, $f::<12, 3, $masked>],
        ]
    };
}

macro_rules! kernels {
    ($name:ident, $vector:ty, $rows:literal, $tall_rows:literal, $vectors:literal $(, $features:literal)?) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $features)])?
            unsafe fn rows<const M: usize, const N: usize, const MASKED: bool>(a: &RowsOfA, block: &Block) {
                // SAFETY: the caller's contract is that of `multiply_rows`.
                unsafe { multiply_rows::<$vector, M, N, MASKED>(a, block) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn columns<const M: usize, const N: usize, const MASKED: bool>(a: &ColumnsOfA, block: &Block) {
                // SAFETY: the caller's contract is that of `multiply_columns`.
                unsafe { multiply_columns::<$vector, M, N, MASKED>(a, block) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn copy(from: Strided, to: Panel) {
                // SAFETY: the caller's contract is that of `pack::copy`.
                unsafe { pack::copy::<$vector>(from, to) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn transpose(from: Strided, to: Panel) {
                // SAFETY: the caller's contract is that of `pack::transpose`.
                unsafe { pack::transpose::<$vector>(from, to) }
            }
            pub(super) static KERNELS: Kernels = Kernels {
                lanes: <$vector>::LANES,
                rows: $rows,
                tall_rows: $tall_rows,
                vectors: $vectors,
                of_rows: table!(rows, false),
                of_rows_masked: table!(rows, true),
                of_columns: table!(columns, false),
                of_columns_masked: table!(columns, true),
                copy,
                transpose,
            };
        }
    };
}

kernels!(scalar, crate::simd::scalar::Scalar4, 4, 4, 2);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, crate::simd::x86::Avx2, 6, 6, 2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512, crate::simd::x86::Avx512, 8, 12, 3, "avx512f,avx2,fma");
#[cfg(target_arch = "aarch64")]
kernels!(neon, crate::simd::neon::Neon, 8, 12, 3, "neon");

/// The kernels of an instruction set; those of plain Rust where this build has none of that set.
pub(crate) fn kernels(isa: Isa) -> &'static Kernels {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &avx2::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &avx512::KERNELS,
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => &scalar::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &neon::KERNELS,
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon => &scalar::KERNELS,
        Isa::Scalar => &scalar::KERNELS,
    }
}
