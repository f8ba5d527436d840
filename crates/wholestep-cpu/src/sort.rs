//! Orders of lines. Takes `[outer, len, inner]`, gives for each line along the middle axis the places of its elements in order. Never
//! moves the elements themselves.

use crate::pool::Pool;
use std::cmp::Ordering;

/// Elements below which one thread does all.
const MIN_SHARED: usize = 4096;

struct Pointers<T> {
    x: *const T,
    y: *mut i32,
    order: *mut i32,
}

// SAFETY: tasks write disjoint lines of the result, workers their own part of `order`.
unsafe impl<T> Sync for Pointers<T> {}

/// Runs the kernel over `[outer, len, inner]`; `order` has room for one line for each thread of the pool.
///
/// # Safety
/// `args` are operand (`T`) and result (i32) of `outer·len·inner` elements each.
pub unsafe fn run<T: Copy + PartialOrd>(
    pool: &Pool,
    [outer, len, inner]: [usize; 3],
    descending: bool,
    args: &[*mut u8],
    order: &mut [i32],
) {
    assert!(order.len() >= len * pool.n_threads(), "bug: no room to sort lines of {len}");
    let p = Pointers::<T> { x: args[0].cast(), y: args[1].cast(), order: order.as_mut_ptr() };
    let lines = outer * inner;
    let n_tasks = if lines * len < MIN_SHARED { 1 } else { lines.min(64) };
    pool.run_indexed(n_tasks, &|t, worker| {
        let p = &p;
        // SAFETY: no other thread has this worker's number now.
        let order = unsafe { std::slice::from_raw_parts_mut(p.order.add(worker * len), len) };
        for line in lines * t / n_tasks..lines * (t + 1) / n_tasks {
            // SAFETY: inside by the caller's contract; the line is this task's.
            unsafe { sort_line(p, (line / inner * len * inner) + line % inner, inner, descending, order) };
        }
    });
}

/// # Safety
/// The line of `order.len()` elements, `stride` apart from `first` on, is inside operand and result.
unsafe fn sort_line<T: Copy + PartialOrd>(
    p: &Pointers<T>,
    first: usize,
    stride: usize,
    descending: bool,
    order: &mut [i32],
) {
    // Two values that cannot be compared: at least one is NaN, which is the largest.
    #[allow(clippy::eq_op)]
    let rank = |a: T, b: T| a.partial_cmp(&b).unwrap_or_else(|| (a != a).cmp(&(b != b)));
    // SAFETY: the caller's contract.
    let at = |l: i32| unsafe { *p.x.add(first + l as usize * stride) };
    order.iter_mut().enumerate().for_each(|(i, v)| *v = i as i32);
    order.sort_unstable_by(|&a, &b| {
        let by_value = rank(at(a), at(b));
        let by_value = if descending { by_value.reverse() } else { by_value };
        // Equal elements keep their order.
        if by_value == Ordering::Equal { a.cmp(&b) } else { by_value }
    });
    for (l, v) in order.iter().enumerate() {
        // SAFETY: the caller's contract.
        unsafe { *p.y.add(first + l * stride) = *v };
    }
}
