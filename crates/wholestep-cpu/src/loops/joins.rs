//! Reductions of blocks. Takes a block of positions and rows, joins it into one accumulator a row. Never depends on how many threads run:
//! the order within a block follows from its two extents, and sums of f32 are made in f64, where it hardly matters.

use super::level::Level;
use std::marker::PhantomData;
use wholestep_compiler::ir::DType;
use wholestep_compiler::kernel::ReduceOp;

/// Joins a block into accumulators: `acc[l]` for each of `rows` rows with the row's `cols` elements. `places` is used by ArgMax only: the
/// accumulators of i32 places, whose first element of the block has place `first`.
pub type JoinFn = unsafe fn(acc: *mut u8, places: *mut i32, x: *const u8, rows: usize, cols: usize, first: usize);

/// A way to join elements.
trait Join {
    type T: Copy;
    /// What elements are joined in.
    type Acc: Copy;
    const FIRST: Self::Acc;
    fn add(acc: Self::Acc, x: Self::T) -> Self::Acc;
    fn join(a: Self::Acc, b: Self::Acc) -> Self::Acc;
}

trait Body {
    /// # Safety
    /// As [`JoinFn`].
    unsafe fn run(acc: *mut u8, places: *mut i32, x: *const u8, rows: usize, cols: usize, first: usize);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn at_avx512<B: Body>(a: *mut u8, p: *mut i32, x: *const u8, r: usize, c: usize, f: usize) {
    // SAFETY: the caller's contract.
    unsafe { B::run(a, p, x, r, c, f) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn at_avx2<B: Body>(a: *mut u8, p: *mut i32, x: *const u8, r: usize, c: usize, f: usize) {
    // SAFETY: the caller's contract.
    unsafe { B::run(a, p, x, r, c, f) }
}

unsafe fn at_baseline<B: Body>(a: *mut u8, p: *mut i32, x: *const u8, r: usize, c: usize, f: usize) {
    // SAFETY: the caller's contract.
    unsafe { B::run(a, p, x, r, c, f) }
}

fn pick<B: Body>(level: Level) -> JoinFn {
    match level {
        Level::Baseline => at_baseline::<B>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => at_avx2::<B>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => at_avx512::<B>,
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => at_baseline::<B>,
    }
}

/// Rows lie one after the other: `x[l·cols + j]`.
struct Rows<J>(PhantomData<J>);
/// Positions lie one after the other: `x[j·rows + l]`.
struct Columns<J>(PhantomData<J>);

const WIDE: usize = 32;

impl<J: Join> Body for Rows<J> {
    #[inline(always)]
    unsafe fn run(acc: *mut u8, _: *mut i32, x: *const u8, rows: usize, cols: usize, _: usize) {
        // SAFETY: the caller gives rows accumulators and rows·cols elements.
        let (acc, x) = unsafe {
            (
                std::slice::from_raw_parts_mut(acc.cast::<J::Acc>(), rows),
                std::slice::from_raw_parts(x.cast::<J::T>(), rows * cols),
            )
        };
        for (l, acc) in acc.iter_mut().enumerate() {
            let row = &x[l * cols..(l + 1) * cols];
            let (mut lanes, rest) = ([J::FIRST; WIDE], row.len() / WIDE * WIDE);
            for chunk in row.chunks_exact(WIDE) {
                for (lane, v) in lanes.iter_mut().zip(chunk) {
                    *lane = J::add(*lane, *v);
                }
            }
            for (lane, v) in lanes.iter_mut().zip(&row[rest..]) {
                *lane = J::add(*lane, *v);
            }
            let mut width = if cols <= 16 { 16 } else { WIDE };
            while width > 1 {
                width /= 2;
                for i in 0..width {
                    lanes[i] = J::join(lanes[i], lanes[i + width]);
                }
            }
            *acc = J::join(*acc, lanes[0]);
        }
    }
}

impl<J: Join> Body for Columns<J> {
    #[inline(always)]
    unsafe fn run(acc: *mut u8, _: *mut i32, x: *const u8, rows: usize, cols: usize, _: usize) {
        // SAFETY: as above.
        let (acc, x) = unsafe {
            (
                std::slice::from_raw_parts_mut(acc.cast::<J::Acc>(), rows),
                std::slice::from_raw_parts(x.cast::<J::T>(), rows * cols),
            )
        };
        const STRIP: usize = 16;
        let n_strips = rows / STRIP;
        for strip in 0..n_strips {
            let at = strip * STRIP;
            // Two chains of additions, for even and odd positions.
            let (mut even, mut odd) = ([J::FIRST; STRIP], [J::FIRST; STRIP]);
            let mut j = 0;
            while j + 2 <= cols {
                let (a, b) = (&x[j * rows + at..][..STRIP], &x[(j + 1) * rows + at..][..STRIP]);
                for i in 0..STRIP {
                    even[i] = J::add(even[i], a[i]);
                    odd[i] = J::add(odd[i], b[i]);
                }
                j += 2;
            }
            if j < cols {
                let a = &x[j * rows + at..][..STRIP];
                for i in 0..STRIP {
                    even[i] = J::add(even[i], a[i]);
                }
            }
            for i in 0..STRIP {
                acc[at + i] = J::join(acc[at + i], J::join(even[i], odd[i]));
            }
        }
        for l in n_strips * STRIP..rows {
            let (mut even, mut odd) = (J::FIRST, J::FIRST);
            for j in 0..cols {
                let v = x[j * rows + l];
                if j % 2 == 0 {
                    even = J::add(even, v);
                } else {
                    odd = J::add(odd, v);
                }
            }
            acc[l] = J::join(acc[l], J::join(even, odd));
        }
    }
}

macro_rules! join {
    ($level:expr, $by_rows:expr, $t:ty, $acc:ty, $first:expr, |$a:ident, $b:ident| $e:expr, |$s:ident, $x:ident| $add:expr) => {{
        struct K;
        impl Join for K {
            type T = $t;
            type Acc = $acc;
            const FIRST: $acc = $first;
            #[inline(always)]
            fn add($s: $acc, $x: $t) -> $acc {
                $add
            }
            #[inline(always)]
            fn join($a: $acc, $b: $acc) -> $acc {
                $e
            }
        }
        if $by_rows { pick::<Rows<K>>($level) } else { pick::<Columns<K>>($level) }
    }};
}

/// A NaN once joined stays.
macro_rules! larger {
    ($a:expr, $b:expr) => {
        if $b > $a || $b != $b { $b } else { $a }
    };
}

macro_rules! smaller {
    ($a:expr, $b:expr) => {
        if $b < $a || $b != $b { $b } else { $a }
    };
}

macro_rules! join_float {
    ($op:expr, $level:expr, $rows:expr, $t:ident) => {
        match $op {
            // In f64: how a kernel cuts its rows into blocks, which depends on all that it does, then shows in no bit of a sum in f32 but by a chance
            // of one in many millions. So what is computed again in another kernel gives the sums that it gave before.
            ReduceOp::Sum => join!($level, $rows, $t, f64, 0.0, |a, b| a + b, |s, x| s + f64::from(x)),
            ReduceOp::Max => join!($level, $rows, $t, $t, $t::NEG_INFINITY, |a, b| larger!(a, b), |a, b| larger!(a, b)),
            ReduceOp::Min => join!($level, $rows, $t, $t, $t::INFINITY, |a, b| smaller!(a, b), |a, b| smaller!(a, b)),
            ReduceOp::ArgMax => place_of_largest::<$t>($rows),
        }
    };
}

macro_rules! join_whole {
    ($op:expr, $level:expr, $rows:expr, $t:ident) => {
        match $op {
            ReduceOp::Sum => join!($level, $rows, $t, $t, 0, |a, b| a.wrapping_add(b), |a, b| a.wrapping_add(b)),
            ReduceOp::Max => join!($level, $rows, $t, $t, $t::MIN, |a, b| a.max(b), |a, b| a.max(b)),
            ReduceOp::Min => join!($level, $rows, $t, $t, $t::MAX, |a, b| a.min(b), |a, b| a.min(b)),
            ReduceOp::ArgMax => place_of_largest::<$t>($rows),
        }
    };
}

/// The function that joins blocks; `by_rows` says which of the two extents is the inner one.
pub fn join(op: ReduceOp, dtype: DType, by_rows: bool, level: Level) -> Option<JoinFn> {
    Some(match dtype {
        DType::F32 => join_float!(op, level, by_rows, f32),
        DType::F64 => join_float!(op, level, by_rows, f64),
        DType::I64 => join_whole!(op, level, by_rows, i64),
        DType::I32 => join_whole!(op, level, by_rows, i32),
        DType::U32 => join_whole!(op, level, by_rows, u32),
        DType::U8 | DType::Bool => join_whole!(op, level, by_rows, u8),
        DType::F16 | DType::BF16 => return None,
    })
}

/// The dtype of the accumulators.
pub fn acc_dtype(op: ReduceOp, dtype: DType) -> DType {
    match (op, dtype) {
        (ReduceOp::Sum, DType::F32) => DType::F64,
        _ => dtype,
    }
}

/// Bits that accumulators start from: joining them changes nothing. `ArgMax` starts from the smallest and place 0, which is right when
/// nothing is larger.
pub fn first_bits(op: ReduceOp, dtype: DType) -> u64 {
    match (op, dtype) {
        (ReduceOp::Sum, _) => 0,
        (ReduceOp::Max | ReduceOp::ArgMax, DType::F32) => u64::from(f32::NEG_INFINITY.to_bits()),
        (ReduceOp::Max | ReduceOp::ArgMax, DType::F64) => f64::NEG_INFINITY.to_bits(),
        (ReduceOp::Max | ReduceOp::ArgMax, DType::I64) => i64::MIN as u64,
        (ReduceOp::Max | ReduceOp::ArgMax, DType::I32) => u64::from(i32::MIN as u32),
        (ReduceOp::Max | ReduceOp::ArgMax, _) => 0,
        (ReduceOp::Min, DType::F32) => u64::from(f32::INFINITY.to_bits()),
        (ReduceOp::Min, DType::F64) => f64::INFINITY.to_bits(),
        (ReduceOp::Min, DType::I64) => i64::MAX as u64,
        (ReduceOp::Min, DType::I32) => u64::from(i32::MAX as u32),
        (ReduceOp::Min, _) => u64::MAX,
    }
}

fn place_of_largest<T: Copy + PartialOrd>(by_rows: bool) -> JoinFn {
    if by_rows { place_body::<T, true> } else { place_body::<T, false> }
}

/// # Safety
/// As [`JoinFn`].
unsafe fn place_body<T: Copy + PartialOrd, const BY_ROWS: bool>(
    acc: *mut u8,
    places: *mut i32,
    x: *const u8,
    rows: usize,
    cols: usize,
    first: usize,
) {
    // SAFETY: the caller gives rows accumulators and places, and rows·cols elements.
    let (acc, places, x) = unsafe {
        (
            std::slice::from_raw_parts_mut(acc.cast::<T>(), rows),
            std::slice::from_raw_parts_mut(places, rows),
            std::slice::from_raw_parts(x.cast::<T>(), rows * cols),
        )
    };
    // A value that does not equal itself is NaN, which is the largest.
    #[allow(clippy::eq_op)]
    let is_nan = |v: T| v != v;
    let mut visit = |l: usize, j: usize, v: T| {
        if v > acc[l] || (is_nan(v) && !is_nan(acc[l])) {
            (acc[l], places[l]) = (v, (first + j) as i32);
        }
    };
    if BY_ROWS {
        for l in 0..rows {
            (0..cols).for_each(|j| visit(l, j, x[l * cols + j]));
        }
    } else {
        for j in 0..cols {
            (0..rows).for_each(|l| visit(l, j, x[j * rows + l]));
        }
    }
}
