//! Orders of lines. Takes `[outer, len, inner]`, gives for each line along the middle axis the places of its elements in order. Never
//! moves the elements themselves.

use std::cmp::Ordering;

/// Runs the kernel; `order` has room for one line.
///
/// # Safety
/// `args` are operand (`T`) and result (i32) of `outer·len·inner` elements each.
pub unsafe fn run<T: Copy + PartialOrd>(
    outer: usize,
    len: usize,
    inner: usize,
    descending: bool,
    args: &[*mut u8],
    order: &mut [i32],
) {
    let (x, y) = (args[0].cast::<T>(), args[1].cast::<i32>());
    let order = &mut order[..len];
    // Two values that cannot be compared: at least one is NaN, which is the largest.
    #[allow(clippy::eq_op)]
    let rank = |a: T, b: T| a.partial_cmp(&b).unwrap_or_else(|| (a != a).cmp(&(b != b)));
    for o in 0..outer {
        for c in 0..inner {
            // SAFETY: inside by the caller's contract.
            let at = |l: i32| unsafe { *x.add((o * len + l as usize) * inner + c) };
            order.iter_mut().enumerate().for_each(|(i, v)| *v = i as i32);
            order.sort_unstable_by(|&a, &b| {
                let by_value = rank(at(a), at(b));
                let by_value = if descending { by_value.reverse() } else { by_value };
                // Equal elements keep their order.
                if by_value == Ordering::Equal { a.cmp(&b) } else { by_value }
            });
            for (l, v) in order.iter().enumerate() {
                // SAFETY: as above.
                unsafe { *y.add((o * len + l) * inner + c) = *v };
            }
        }
    }
}
