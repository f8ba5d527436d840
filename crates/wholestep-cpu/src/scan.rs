//! Running sums. Takes `[outer, len, inner]`, gives the sums along the middle axis. Never changes the order of additions.

use crate::pool::Pool;
use crate::scatter::Addend;

/// Floats add up in f64, as PyTorch does on the cpu.
pub trait Running: Addend {
    type Sum: Copy + Send + Sync;
    const START: Self::Sum;
    fn add(sum: Self::Sum, x: Self) -> Self::Sum;
    fn narrow(sum: Self::Sum) -> Self;
}

macro_rules! running {
    ($($t:ty, $sum:ty, $start:expr, |$s:ident, $x:ident| $add:expr;)+) => {
        $(impl Running for $t {
            type Sum = $sum;
            const START: $sum = $start;
            fn add($s: $sum, $x: $t) -> $sum {
                $add
            }
            fn narrow(sum: $sum) -> $t {
                sum as $t
            }
        })+
    };
}
running! {
    f32, f64, 0.0, |s, x| s + f64::from(x);
    f64, f64, 0.0, |s, x| s + x;
    i32, i32, 0, |s, x| s.wrapping_add(x);
    i64, i64, 0, |s, x| s.wrapping_add(x);
    u32, u32, 0, |s, x| s.wrapping_add(x);
    u8, u8, 0, |s, x| s.wrapping_add(x);
}

/// Columns whose sums run side by side.
const STRIP: usize = 64;
/// Elements below which one thread does all.
const MIN_SHARED: usize = 16_384;

struct Pointers<T> {
    x: *const T,
    y: *mut T,
}

// SAFETY: tasks write disjoint columns of the result.
unsafe impl<T> Sync for Pointers<T> {}

/// Runs the kernel over `[outer, len, inner]`.
///
/// # Safety
/// `args` are operand and result of `outer·len·inner` elements each.
pub unsafe fn run<T: Running>(pool: &Pool, [outer, len, inner]: [usize; 3], reverse: bool, args: &[*mut u8]) {
    let p = Pointers::<T> { x: args[0].cast(), y: args[1].cast() };
    let strips = inner.div_ceil(STRIP);
    let units = outer * strips;
    let n_tasks = if outer * len * inner < MIN_SHARED { 1 } else { units.min(64) };
    pool.run(n_tasks, &|t| {
        let p = &p;
        for unit in units * t / n_tasks..units * (t + 1) / n_tasks {
            let (o, from) = (unit / strips, unit % strips * STRIP);
            if inner == 1 {
                // SAFETY: the caller's contract; the line is this task's.
                unsafe { scan_line(p, o * len, len, reverse) };
                continue;
            }
            let mut sums = [T::START; STRIP];
            let sums = &mut sums[..STRIP.min(inner - from)];
            for i in 0..len {
                let l = if reverse { len - 1 - i } else { i };
                let at = (o * len + l) * inner + from;
                // SAFETY: inside both by the caller's contract; these columns are this task's.
                unsafe {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = T::add(*sum, *p.x.add(at + c));
                        *p.y.add(at + c) = T::narrow(*sum);
                    }
                }
            }
        }
    });
}

/// One line of neighbours; its sum stays in a register.
///
/// # Safety
/// `len` elements from `first` on are inside operand and result.
unsafe fn scan_line<T: Running>(p: &Pointers<T>, first: usize, len: usize, reverse: bool) {
    let mut sum = T::START;
    for i in 0..len {
        let at = first + if reverse { len - 1 - i } else { i };
        // SAFETY: the caller's contract.
        unsafe {
            sum = T::add(sum, *p.x.add(at));
            *p.y.add(at) = T::narrow(sum);
        }
    }
}
