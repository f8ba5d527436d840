//! Running sums. Takes `[outer, len, inner]`, gives the sums along the middle axis. Never changes the order of additions.

use crate::scatter::Addend;

/// Floats add up in f64, as PyTorch does on the cpu.
pub trait Running: Addend {
    type Sum: Copy;
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

/// Runs the kernel.
///
/// # Safety
/// `args` are operand and result of `outer·len·inner` elements each.
pub unsafe fn run<T: Running>(outer: usize, len: usize, inner: usize, reverse: bool, args: &[*mut u8]) {
    let (x, y) = (args[0].cast::<T>(), args[1].cast::<T>());
    for o in 0..outer {
        for c in 0..inner {
            let mut sum = T::START;
            for i in 0..len {
                let l = if reverse { len - 1 - i } else { i };
                let at = (o * len + l) * inner + c;
                // SAFETY: inside both by the caller's contract.
                unsafe {
                    sum = T::add(sum, *x.add(at));
                    *y.add(at) = T::narrow(sum);
                }
            }
        }
    }
}
