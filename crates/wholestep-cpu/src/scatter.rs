//! Adds at places given by data. Takes values and an index, gives zeros with each value added at its place in the order of the index, or what
//! was there with slices replaced.
//! Never adds from two threads to one place.

use crate::pool::Pool;
use wholestep_compiler::ir::DType;

/// Elements that can be added.
pub trait Addend: Copy + Send + Sync {
    const ZERO: Self;
    fn plus(self, other: Self) -> Self;
}

macro_rules! addend {
    ($($t:ty: $zero:expr, |$a:ident, $b:ident| $e:expr;)+) => {
        $(impl Addend for $t {
            const ZERO: $t = $zero;
            fn plus(self, other: $t) -> $t {
                let ($a, $b) = (self, other);
                $e
            }
        })+
    };
}
addend! {
    f32: 0.0, |a, b| a + b;
    f64: 0.0, |a, b| a + b;
    i32: 0, |a, b| a.wrapping_add(b);
    i64: 0, |a, b| a.wrapping_add(b);
    u32: 0, |a, b| a.wrapping_add(b);
    u8: 0, |a, b| a.wrapping_add(b);
}

/// The extents of a scatter at one batch size.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub outer: usize,
    pub n_index: usize,
    pub len: usize,
    pub inner: usize,
    pub along: bool,
    pub replaces: bool,
    pub index_dtype: DType,
}

struct Pointers<T> {
    values: *const T,
    index: *const u8,
    result: *mut T,
}

// SAFETY: tasks write disjoint columns of the result.
unsafe impl<T> Sync for Pointers<T> {}

/// # Safety
/// `index` has an element at `i`.
#[inline]
unsafe fn index_at(index: *const u8, dtype: DType, i: usize) -> i64 {
    // SAFETY: the caller's contract.
    unsafe {
        match dtype {
            DType::I64 => *index.cast::<i64>().add(i),
            DType::U32 => i64::from(*index.cast::<u32>().add(i)),
            _ => i64::from(*index.cast::<i32>().add(i)),
        }
    }
}

/// Runs the kernel.
///
/// # Safety
/// `args` are values, index and result with the extents of `s`.
pub unsafe fn run<T: Addend>(pool: &Pool, s: &Sizes, args: &[*mut u8]) {
    let p = Pointers::<T> { values: args[0].cast(), index: args[1], result: args[2].cast() };
    // Columns of the inner axis are independent; the cut follows from the extents.
    let width = s.inner.div_ceil(8).max(64).min(s.inner.max(1));
    let strips = s.inner.div_ceil(width);
    let strips = if s.outer * s.inner * (s.n_index + s.len) < 20_000 { 1 } else { strips };
    let width = if strips == 1 { s.inner } else { width };
    let n_tasks = if strips == 1 && s.outer * s.inner * (s.n_index + s.len) < 20_000 { 1 } else { s.outer * strips };
    let each = (s.outer * strips).div_ceil(n_tasks.max(1));
    pool.run(n_tasks, &|t| {
        let p = &p;
        for unit in t * each..((t + 1) * each).min(s.outer * strips) {
            let (o, strip) = (unit / strips, unit % strips);
            let (from, to) = (strip * width, ((strip + 1) * width).min(s.inner));
            // SAFETY: the caller's contract; this task alone writes these columns.
            unsafe { add_columns(s, p, o, from, to) }
        }
    });
}

/// # Safety
/// As [`run`]; nobody else writes columns `from..to` of `o`.
unsafe fn add_columns<T: Addend>(s: &Sizes, p: &Pointers<T>, o: usize, from: usize, to: usize) {
    // SAFETY: places are clamped to the axis; all else follows from the extents.
    unsafe {
        let result = p.result.add(o * s.len * s.inner);
        for l in 0..if s.replaces { 0 } else { s.len } {
            std::slice::from_raw_parts_mut(result.add(l * s.inner + from), to - from).fill(T::ZERO);
        }
        if s.len == 0 {
            return;
        }
        let last = s.len as i64 - 1;
        for i in 0..s.n_index {
            let row = (o * s.n_index + i) * s.inner;
            if s.along {
                for c in from..to {
                    let at = index_at(p.index, s.index_dtype, row + c).clamp(0, last) as usize;
                    let to = result.add(at * s.inner + c);
                    *to = (*to).plus(*p.values.add(row + c));
                }
            } else {
                let at = index_at(p.index, s.index_dtype, i).clamp(0, last) as usize;
                let to_row = std::slice::from_raw_parts_mut(result.add(at * s.inner + from), to - from);
                let values = std::slice::from_raw_parts(p.values.add(row + from), to - from);
                if s.replaces {
                    to_row.copy_from_slice(values);
                } else {
                    to_row.iter_mut().zip(values).for_each(|(r, v)| *r = (*r).plus(*v));
                }
            }
        }
    }
}
