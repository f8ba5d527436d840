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
    /// Where a packing kernel leaves a copy of the panel: whole vectors, row after row.
    pub packed: *mut f32,
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
    /// Where a kernel that packs A leaves its rows, next to each other for one k, k after k.
    pub packed: *mut f32,
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

/// How a kernel reads its operands.
mod reading {
    /// Whole vectors.
    pub const WHOLE: u8 = 0;
    /// The last vector through a mask.
    pub const MASKED: u8 = 1;
    /// As `MASKED`, and what was read is stored as a packed panel: the multiply-adds leave time for it.
    pub const PACKING: u8 = 2;
    /// As `MASKED`, and the columns of A are stored as a packed block.
    pub const PACKING_A: u8 = 3;
    /// As `PACKING` and `PACKING_A`.
    pub const PACKING_BOTH: u8 = 4;

    pub const fn packs_a(reading: u8) -> bool {
        reading >= PACKING_A
    }
    pub const fn packs_b(reading: u8) -> bool {
        reading == PACKING || reading == PACKING_BOTH
    }
}

/// The kernels of one instruction set. The index is `[rows - 1][vectors - 1]`; `masked` kernels also read B through a mask,
/// `packing` ones leave a copy of what they read. Entries beyond a full block are not to be called.
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
    pub of_rows_packing: Table<RowsKernel>,
    pub of_columns: Table<ColumnsKernel>,
    pub of_columns_masked: Table<ColumnsKernel>,
    pub of_columns_packing: Table<ColumnsKernel>,
    pub of_columns_packing_a: Table<ColumnsKernel>,
    pub of_columns_packing_both: Table<ColumnsKernel>,
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

/// Does `$body` once for each constant `$i < $n`, as straight code. Left to the optimizer, loops over rows and vectors became
/// calls that kept the sums in memory, at a quarter of the speed, in every build without link-time optimization.
macro_rules! each {
    ($i:ident < $n:ident of $($k:literal)*; $body:expr) => {{
        $({
            const $i: usize = $k;
            if $i < $n {
                $body
            }
        })*
    }};
}
macro_rules! each_row {
    ($i:ident < $n:ident; $body:expr) => { each!($i < $n of 0 1 2 3 4 5 6 7 8 9 10 11; $body) };
}
macro_rules! each_vector {
    ($j:ident < $n:ident; $body:expr) => { each!($j < $n of 0 1 2; $body) };
}

/// # Safety
/// The instruction set of `V` is there. For each segment and row `i < M`, `table` gives a pointer with `offset + len`
/// readable elements; B has `n_segments * len` rows of N vectors (the last masked unless WHOLE), `packed` as many when
/// PACKING; C's rows are writable.
#[inline(always)]
unsafe fn multiply_rows<V: Vector, const M: usize, const N: usize, const READING: u8>(a: &RowsOfA, block: &Block) {
    // SAFETY: the caller's contract covers every access below.
    unsafe {
        let mask = V::mask(block.last_lanes);
        let mut sums = [[V::zero(); N]; M];
        prefetch_c::<V, M, N>(block);
        let (mut b, mut packed) = (block.b, block.packed);
        let mut table = a.table;
        let mut segment = 0;
        while segment < a.n_segments {
            let mut rows = [std::ptr::null::<f32>(); M];
            each_row!(I < M; rows[I] = (*table.add(I)).add(a.offset));
            let (len, b_stride) = (a.len, block.b_stride);
            let mut k = 0;
            while k < len {
                let bs = load_b::<V, N, READING>(b, mask, packed);
                if const { reading::packs_b(READING) } {
                    prefetch_b::<V, N>(b, b_stride);
                    packed = packed.add(N * V::LANES);
                }
                each_row!(I < M; {
                    let a = V::splat(rows[I].add(k));
                    each_vector!(J < N; sums[I][J] = a.mul_add(bs[J], sums[I][J]));
                });
                b = b.wrapping_add(b_stride);
                k += 1;
            }
            table = table.add(a.table_stride);
            segment += 1;
        }
        store::<V, M, N>(&sums, block, mask);
    }
}

/// # Safety
/// The instruction set of `V` is there. Each run has `len` steps, `stride` apart, with M readable elements after `offset`;
/// B has the rows the runs name, of N vectors (the last masked unless WHOLE), `packed` as many when PACKING; C's rows are
/// writable.
#[inline(always)]
unsafe fn multiply_columns<V: Vector, const M: usize, const N: usize, const READING: u8>(
    a: &ColumnsOfA,
    block: &Block,
) {
    // SAFETY: the caller's contract covers every access below.
    unsafe {
        let mask = V::mask(block.last_lanes);
        let mut sums = [[V::zero(); N]; M];
        prefetch_c::<V, M, N>(block);
        let (stride, b_stride) = (a.stride, block.b_stride);
        let mut packed_a = a.packed;
        let (mut column, mut b, mut packed) = (std::ptr::null(), block.b, block.packed);
        let (mut r, mut left) = (0, 0);
        // One loop, not one per run: around a second loop the sums are moved to memory in some builds.
        loop {
            if left == 0 {
                if r == a.n_runs {
                    break;
                }
                let run = &*a.runs.add(r);
                r += 1;
                left = run.len;
                column = run.a.add(a.offset);
                b = block.b.add(run.b_row * b_stride);
                packed = block.packed.wrapping_add(run.b_row * N * V::LANES);
                if left == 0 {
                    continue;
                }
            }
            let bs = load_b::<V, N, READING>(b, mask, packed);
            prefetch_b::<V, N>(b, b_stride);
            if const { reading::packs_b(READING) } {
                packed = packed.add(N * V::LANES);
            }
            if const { reading::packs_a(READING) } {
                V::prefetch(column.wrapping_add(ROWS_AHEAD * stride));
                copy_few::<V, M>(column, packed_a);
                packed_a = packed_a.add(M);
            }
            each_row!(I < M; {
                let a = V::splat(column.add(I));
                each_vector!(J < N; sums[I][J] = a.mul_add(bs[J], sums[I][J]));
            });
            column = column.wrapping_add(stride);
            b = b.wrapping_add(b_stride);
            left -= 1;
        }
        store::<V, M, N>(&sums, block, mask);
    }
}

/// Copies M numbers.
///
/// # Safety
/// M elements are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn copy_few<V: Vector, const M: usize>(from: *const f32, to: *mut f32) {
    // SAFETY: the caller's contract; masks keep the last vector inside.
    unsafe {
        let mut i = 0;
        while i + V::LANES <= M {
            V::load(from.add(i)).store(to.add(i));
            i += V::LANES;
        }
        if i < M {
            let mask = V::mask(M - i);
            V::load_masked(from.add(i), mask).store_masked(to.add(i), mask);
        }
    }
}

/// C is needed only after the sum: its lines come meanwhile. Also for short sums: without it the first layer of a network, with
/// a k of 9 or 27, lost 15 to 20 %.
///
/// # Safety
/// `block` names M rows of C.
#[inline(always)]
unsafe fn prefetch_c<V: Vector, const M: usize, const N: usize>(block: &Block) {
    let mut i = 0;
    while i < M {
        // SAFETY: the caller's contract.
        let c = unsafe { block.c.wrapping_add(*block.c_rows.add(i)) };
        let mut j = 0;
        while j < N * V::LANES {
            // SAFETY: prefetching any address is allowed.
            unsafe { V::prefetch(c.wrapping_add(j)) };
            j += 16;
        }
        i += 1;
    }
}

/// Rows of B that are asked for ahead of their use.
const ROWS_AHEAD: usize = 12;

/// Rows of B that are read where they lie are asked for in time. Products of rows with packed panels do without: square
/// ones lost up to 7 % to it.
///
/// # Safety
/// The instruction set of `V` is there.
#[inline(always)]
unsafe fn prefetch_b<V: Vector, const N: usize>(b: *const f32, b_stride: usize) {
    let ahead = b.wrapping_add(ROWS_AHEAD * b_stride);
    let mut j = 0;
    while j < N * V::LANES {
        // SAFETY: prefetching any address is allowed.
        unsafe { V::prefetch(ahead.wrapping_add(j)) };
        j += 16;
    }
}

/// # Safety
/// N vectors at `b` are readable, the last one through `mask` unless WHOLE; N vectors at `packed` writable when PACKING.
#[inline(always)]
unsafe fn load_b<V: Vector, const N: usize, const READING: u8>(
    b: *const f32,
    mask: V::Mask,
    packed: *mut f32,
) -> [V; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut vectors = [V::zero(); N];
        each_vector!(J < N; {
            let p = b.add(J * V::LANES);
            vectors[J] = if READING != reading::WHOLE && J == N - 1 { V::load_masked(p, mask) } else { V::load(p) };
            if const { reading::packs_b(READING) } {
                vectors[J].store(packed.add(J * V::LANES));
            }
        });
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
        each_row!(I < M; {
            let c = block.c.add(*block.c_rows.add(I));
            each_vector!(J < N; {
                let (p, sum) = (c.add(J * V::LANES), sums[I][J]);
                if J < N - 1 || whole {
                    let sum = if block.accumulate { V::load(p).add(sum) } else { sum };
                    sum.store(p);
                } else {
                    let sum = if block.accumulate { V::load_masked(p, mask).add(sum) } else { sum };
                    sum.store_masked(p, mask);
                }
            });
        });
    }
}

/// A table of kernels; those of more rows than a block has are not made.
macro_rules! table {
    ($f:ident, $reading:ident, $rows:literal, $tall_rows:literal, $vectors:literal) => {
        table!(@ $f, $reading, $rows, $tall_rows, $vectors; 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $f:ident, $reading:ident, $rows:literal, $tall_rows:literal, $vectors:literal; $($m:literal)*) => {
        [$([
            if $m <= $tall_rows { $f::<$m, 1, { reading::$reading }> } else { $f::<1, 1, { reading::$reading }> },
            if $m <= $tall_rows { $f::<$m, 2, { reading::$reading }> } else { $f::<1, 1, { reading::$reading }> },
            if $m <= $rows && $vectors > 2 { $f::<$m, 3, { reading::$reading }> } else { $f::<1, 1, { reading::$reading }> },
        ]),*]
    };
}

macro_rules! kernels {
    ($name:ident, $vector:ty, $rows:literal, $tall_rows:literal, $vectors:literal $(, $features:literal)?) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $features)])?
            unsafe fn rows<const M: usize, const N: usize, const READING: u8>(a: &RowsOfA, block: &Block) {
                // SAFETY: the caller's contract is that of `multiply_rows`.
                unsafe { multiply_rows::<$vector, M, N, READING>(a, block) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn columns<const M: usize, const N: usize, const READING: u8>(a: &ColumnsOfA, block: &Block) {
                // SAFETY: the caller's contract is that of `multiply_columns`.
                unsafe { multiply_columns::<$vector, M, N, READING>(a, block) }
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
                of_rows: table!(rows, WHOLE, $rows, $tall_rows, $vectors),
                of_rows_masked: table!(rows, MASKED, $rows, $tall_rows, $vectors),
                of_rows_packing: table!(rows, PACKING, $rows, $tall_rows, $vectors),
                of_columns: table!(columns, WHOLE, $rows, $tall_rows, $vectors),
                of_columns_masked: table!(columns, MASKED, $rows, $tall_rows, $vectors),
                of_columns_packing: table!(columns, PACKING, $rows, $tall_rows, $vectors),
                of_columns_packing_a: table!(columns, PACKING_A, $rows, $tall_rows, $vectors),
                of_columns_packing_both: table!(columns, PACKING_BOTH, $rows, $tall_rows, $vectors),
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
