//! Pooling's parts. Takes channels-last images, gives the largest or the sum of each window and the adjoints. Never reads padding.

mod half;
mod lanes;

use crate::loops::level::Level;
use crate::pool::Pool;
pub use half::{Bf16, F16};
pub use lanes::Element;
use std::ops::Range;
use wholestep_compiler::kernel::{WindowKernel, WindowOp};

/// Extents with the spatial axes filled up to three.
pub struct Sizes {
    input: [usize; 3],
    out: [usize; 3],
    size: [usize; 3],
    stride: [usize; 3],
    pad: [usize; 3],
    dilation: [usize; 3],
    channels: usize,
}

/// Operands and result: `x` is read, `place` is read or (ArgMax) written, `y` is written.
#[derive(Clone, Copy)]
pub struct Pointers<T> {
    x: *const T,
    place: *mut i32,
    y: *mut T,
}

// SAFETY: tasks read shared operands and write the rows of the result that are theirs.
unsafe impl<T> Sync for Pointers<T> {}

/// Elements of windows below which one thread does all.
const MIN_SHARED: usize = 20_000;

fn three(v: &[usize], fill: usize) -> [usize; 3] {
    let mut out = [fill; 3];
    out[3 - v.len()..].copy_from_slice(v);
    out
}

/// Runs the kernel over `n` images.
///
/// # Safety
/// `args` are the kernel's operands and result, of the extents that the kernel says and the element type `T`; the machine has `level`.
pub unsafe fn run<T: Element>(pool: &Pool, level: Level, kernel: &WindowKernel, n: usize, args: &[*mut u8]) {
    let g = &kernel.geometry;
    let sizes = Sizes {
        input: three(&kernel.input, 1),
        out: three(&g.out, 1),
        size: three(&g.size, 1),
        stride: three(&g.stride, 1),
        pad: three(&g.pad_lo, 0),
        dilation: three(&g.dilation, 1),
        channels: kernel.channels,
    };
    let null = std::ptr::null_mut();
    let p: Pointers<T> = match kernel.op {
        WindowOp::ArgMax => Pointers { x: args[0].cast(), place: args[1].cast(), y: null },
        WindowOp::Take | WindowOp::Put => Pointers { x: args[0].cast(), place: args[1].cast(), y: args[2].cast() },
        WindowOp::Sum | WindowOp::Spread => {
            Pointers { x: args[0].cast(), place: std::ptr::null_mut(), y: args[1].cast() }
        }
    };
    // Rows of the result are independent: the adjoints gather from all windows that cover a row.
    let result = match kernel.op {
        WindowOp::ArgMax | WindowOp::Take | WindowOp::Sum => &sizes.out,
        WindowOp::Put | WindowOp::Spread => &sizes.input,
    };
    let rows = n * result[0] * result[1];
    let windows = n * sizes.out.iter().product::<usize>() * sizes.channels * sizes.size.iter().product::<usize>();
    let n_tasks = if windows < MIN_SHARED { 1 } else { rows.min(64) };
    let f = T::rows(kernel.op, level);
    pool.run(n_tasks, &|t| {
        let p = &p;
        // SAFETY: the caller's contract; each row of the result is done by one task.
        unsafe { f(&sizes, p, rows * t / n_tasks..rows * (t + 1) / n_tasks) }
    });
}

impl Sizes {
    fn in_elems(&self) -> usize {
        self.input.iter().product::<usize>() * self.channels
    }

    /// Places of the window of output `o` along axis `i` that are inside the input.
    #[inline]
    fn places(&self, i: usize, o: usize) -> Range<usize> {
        let (start, d) = (o * self.stride[i], self.dilation[i]);
        let from = self.pad[i].saturating_sub(start).div_ceil(d);
        let to = (self.input[i] + self.pad[i]).saturating_sub(start).div_ceil(d).min(self.size[i]);
        from.min(to)..to
    }

    /// Outputs along axis `i` whose place `k` is inside the input.
    #[inline]
    fn outputs(&self, i: usize, k: usize) -> Range<usize> {
        let at = k * self.dilation[i];
        let from = self.pad[i].saturating_sub(at).div_ceil(self.stride[i]);
        let to = (self.input[i] + self.pad[i]).saturating_sub(at).div_ceil(self.stride[i]).min(self.out[i]);
        from.min(to)..to
    }

    /// The input's position along axis `i` under place `k` of output `o`; it must be inside.
    #[inline]
    fn position(&self, i: usize, o: usize, k: usize) -> usize {
        o * self.stride[i] + k * self.dilation[i] - self.pad[i]
    }

    /// Outputs along axis `i`, ascending, that cover position `at`, each with the place that does.
    #[inline]
    fn covering(&self, i: usize, at: usize) -> impl Iterator<Item = (usize, usize)> {
        let (at, stride, dilation, size) = (at + self.pad[i], self.stride[i], self.dilation[i], self.size[i]);
        let from = (at + 1).saturating_sub((size - 1) * dilation + 1).div_ceil(stride);
        let to = (at / stride + 1).min(self.out[i]);
        (from..to.max(from)).filter_map(move |o| {
            let rest = at - o * stride;
            rest.is_multiple_of(dilation).then_some((o, rest / dilation))
        })
    }
}
