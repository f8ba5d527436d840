//! Windows of floats of 16 bits that choose: the largest of each, and its gradient. Takes a range of the result's rows, writes them. Never rounds a sum
//! before its end: values are compared and added in f32.

use super::lanes::{ArgMax, Element, Forward, LANES, Rows, RowsFn, Take, pick};
use super::{Pointers, Sizes};
use crate::loops::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::loops::level::Level;
use std::cmp::Ordering;
use std::ops::Range;
use wholestep_compiler::kernel::WindowOp;

/// A float of 16 bits.
trait Half: Element {
    fn wide(self) -> f32;
    fn rounded(x: f32) -> Self;
}

/// An f16 by its bits.
#[derive(Clone, Copy)]
pub struct F16(u16);

/// A bf16 by its bits.
#[derive(Clone, Copy)]
pub struct Bf16(u16);

impl Half for F16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f16_to_f32(self.0)
    }

    #[inline(always)]
    fn rounded(x: f32) -> F16 {
        F16(f32_to_f16(x))
    }
}

impl Half for Bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        bf16_to_f32(self.0)
    }

    #[inline(always)]
    fn rounded(x: f32) -> Bf16 {
        Bf16(f32_to_bf16(x))
    }
}

/// Both order as the numbers that they are.
macro_rules! element {
    ($half:ident, $least:literal) => {
        impl PartialEq for $half {
            #[inline(always)]
            fn eq(&self, other: &$half) -> bool {
                self.wide() == other.wide()
            }
        }

        impl PartialOrd for $half {
            #[inline(always)]
            fn partial_cmp(&self, other: &$half) -> Option<Ordering> {
                self.wide().partial_cmp(&other.wide())
            }

            #[inline(always)]
            fn le(&self, other: &$half) -> bool {
                self.wide() <= other.wide()
            }
        }

        impl Element for $half {
            const ZERO: $half = $half(0);
            const LEAST: $half = $half($least);
            fn rows(op: WindowOp, level: Level) -> RowsFn<$half> {
                match op {
                    WindowOp::ArgMax => pick::<$half, Forward<ArgMax>>(level),
                    WindowOp::Take => pick::<$half, Forward<Take>>(level),
                    WindowOp::Put => pick::<$half, Put>(level),
                    WindowOp::Sum | WindowOp::Spread => panic!("bug: sums of 16-bit windows were loaded"),
                }
            }
        }
    };
}

// Both are -inf.
element!(F16, 0xfc00);
element!(Bf16, 0xff80);

/// The values of the windows that chose an element, added up for one pixel after the other.
struct Put;

impl<T: Half> Rows<T> for Put {
    #[inline(always)]
    unsafe fn run(s: &Sizes, p: &Pointers<T>, rows: Range<usize>) {
        let (c, [a_out, b_out, w_out]) = (s.channels, s.out);
        for row in rows {
            let image = row / (s.input[0] * s.input[1]);
            for x in 0..s.input[2] {
                let to = (row * s.input[2] + x) * c;
                // The windows that cover the pixel, each with its number and the pixel's place in it.
                let covering = || {
                    s.covering(0, row / s.input[1] % s.input[0]).flat_map(move |(a, i)| {
                        s.covering(1, row % s.input[1]).flat_map(move |(b, j)| {
                            s.covering(2, x).map(move |(o, k)| {
                                let window = ((image * a_out + a) * b_out + b) * w_out + o;
                                (window * c, ((i * s.size[1] + j) * s.size[2] + k) as i32)
                            })
                        })
                    })
                };
                let mut l = 0;
                // SAFETY: the row is this task's, and the windows that cover its pixels exist.
                unsafe {
                    while l + LANES <= c {
                        put::<T, LANES>(p, covering(), l, to);
                        l += LANES;
                    }
                    (l..c).for_each(|l| put::<T, 1>(p, covering(), l, to));
                }
            }
        }
    }
}

/// Writes `W` channels, from `channel` on, of the pixel at `to`.
///
/// # Safety
/// The pixel exists, and so do the windows.
#[inline(always)]
unsafe fn put<T: Half, const W: usize>(
    p: &Pointers<T>,
    windows: impl Iterator<Item = (usize, i32)>,
    channel: usize,
    to: usize,
) {
    let mut sum = [0.0; W];
    // SAFETY: the caller's contract.
    unsafe {
        for (window, place) in windows {
            let d = p.x.add(window + channel).cast::<[T; W]>().read_unaligned();
            let at = p.place.add(window + channel).cast::<[i32; W]>().read_unaligned();
            for l in 0..W {
                sum[l] += if at[l] == place { d[l].wide() } else { 0.0 };
            }
        }
        p.y.add(to + channel).cast::<[T; W]>().write_unaligned(sum.map(T::rounded));
    }
}
