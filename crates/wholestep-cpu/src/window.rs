//! Pooling's parts. Takes channels-last images, gives the largest or the sum of each window and the adjoints. Never reads padding.

use crate::pool::Pool;
use wholestep_compiler::kernel::{WindowKernel, WindowOp};

/// Elements that windows add and compare.
pub trait Element: Copy + PartialOrd + Send + Sync {
    const ZERO: Self;
    fn plus(self, other: Self) -> Self;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    fn plus(self, other: f32) -> f32 {
        self + other
    }
}

impl Element for f64 {
    const ZERO: f64 = 0.0;
    fn plus(self, other: f64) -> f64 {
        self + other
    }
}

/// Extents with the spatial axes filled up to three.
struct Sizes {
    input: [usize; 3],
    out: [usize; 3],
    size: [usize; 3],
    stride: [usize; 3],
    pad: [usize; 3],
    dilation: [usize; 3],
    channels: usize,
}

#[derive(Clone, Copy)]
struct Pointers<T> {
    x: *const T,
    place: *mut i32,
    y: *mut T,
}

// SAFETY: tasks read shared operands and write the parts of the result that belong to their image.
unsafe impl<T> Sync for Pointers<T> {}

fn three(v: &[usize], fill: usize) -> [usize; 3] {
    let mut out = [fill; 3];
    out[3 - v.len()..].copy_from_slice(v);
    out
}

/// Runs the kernel over `n` images.
///
/// # Safety
/// `args` are the kernel's operands and result, of the extents that the kernel says and the element type `T`.
pub unsafe fn run<T: Element>(pool: &Pool, kernel: &WindowKernel, n: usize, args: &[*mut u8]) {
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
    let windows = sizes.out.iter().product::<usize>() * sizes.channels * sizes.size.iter().product::<usize>();
    let n_tasks = if n * windows < 20_000 { 1 } else { n.min(64) };
    pool.run(n_tasks, &|t| {
        let p = &p;
        for image in n * t / n_tasks..n * (t + 1) / n_tasks {
            // SAFETY: the caller's contract; each image is done by one task.
            unsafe {
                match kernel.op {
                    WindowOp::ArgMax => arg_max(&sizes, p, image),
                    WindowOp::Take => take(&sizes, p, image),
                    WindowOp::Put => put(&sizes, p, image),
                    WindowOp::Sum => sum(&sizes, p, image),
                    WindowOp::Spread => spread(&sizes, p, image),
                }
            }
        }
    });
}

impl Sizes {
    fn in_elems(&self) -> usize {
        self.input.iter().product::<usize>() * self.channels
    }

    fn out_elems(&self) -> usize {
        self.out.iter().product::<usize>() * self.channels
    }

    /// The pixel that place `at` of the window of output pixel `o` covers, if it is inside.
    #[inline]
    fn pixel(&self, o: [usize; 3], at: [usize; 3]) -> Option<usize> {
        let mut pixel = 0;
        for i in 0..3 {
            let x = (o[i] * self.stride[i] + at[i] * self.dilation[i]).checked_sub(self.pad[i])?;
            if x >= self.input[i] {
                return None;
            }
            pixel = pixel * self.input[i] + x;
        }
        Some(pixel)
    }

    /// Calls `f(output pixel's number, place in the window, input pixel)` for each window and each place that exists.
    #[inline(always)]
    fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let mut number = 0;
        for a in 0..self.out[0] {
            for b in 0..self.out[1] {
                for c in 0..self.out[2] {
                    let mut place = 0;
                    for i in 0..self.size[0] {
                        for j in 0..self.size[1] {
                            for k in 0..self.size[2] {
                                if let Some(pixel) = self.pixel([a, b, c], [i, j, k]) {
                                    f(number, place, pixel);
                                }
                                place += 1;
                            }
                        }
                    }
                    number += 1;
                }
            }
        }
    }

    fn place_at(&self, place: usize) -> [usize; 3] {
        [place / (self.size[1] * self.size[2]), place / self.size[2] % self.size[1], place % self.size[2]]
    }
}

/// # Safety
/// As [`run`].
unsafe fn arg_max<T: Element>(s: &Sizes, p: &Pointers<T>, image: usize) {
    let c = s.channels;
    // SAFETY: the image's own parts of operand and result.
    let (x, place) = unsafe {
        (
            std::slice::from_raw_parts(p.x.add(image * s.in_elems()), s.in_elems()),
            std::slice::from_raw_parts_mut(p.place.add(image * s.out_elems()), s.out_elems()),
        )
    };
    place.fill(-1);
    #[allow(clippy::eq_op)]
    let is_nan = |v: T| v != v;
    s.for_each(|number, at, pixel| {
        let row = &x[pixel * c..][..c];
        let best = &mut place[number * c..][..c];
        let o = [number / (s.out[1] * s.out[2]), number / s.out[2] % s.out[1], number % s.out[2]];
        for ch in 0..c {
            if best[ch] < 0 {
                best[ch] = at as i32;
                continue;
            }
            let held = s.pixel(o, s.place_at(best[ch] as usize)).map_or(row[ch], |q| x[q * c + ch]);
            if row[ch] > held || (is_nan(row[ch]) && !is_nan(held)) {
                best[ch] = at as i32;
            }
        }
    });
    place.iter_mut().for_each(|v| *v = (*v).max(0));
}

/// # Safety
/// As [`run`].
unsafe fn take<T: Element>(s: &Sizes, p: &Pointers<T>, image: usize) {
    let c = s.channels;
    for number in 0..s.out.iter().product::<usize>() {
        let o = [number / (s.out[1] * s.out[2]), number / s.out[2] % s.out[1], number % s.out[2]];
        for ch in 0..c {
            let at = image * s.out_elems() + number * c + ch;
            // SAFETY: places are checked by `pixel`; the element is the image's.
            unsafe {
                let place = (*p.place.add(at)).max(0) as usize;
                let v = s.pixel(o, s.place_at(place));
                *p.y.add(at) = v.map_or(T::ZERO, |q| *p.x.add(image * s.in_elems() + q * c + ch));
            }
        }
    }
}

/// # Safety
/// As [`run`].
unsafe fn put<T: Element>(s: &Sizes, p: &Pointers<T>, image: usize) {
    let c = s.channels;
    // SAFETY: the image's own part of the result.
    let y = unsafe { std::slice::from_raw_parts_mut(p.y.add(image * s.in_elems()), s.in_elems()) };
    y.fill(T::ZERO);
    for number in 0..s.out.iter().product::<usize>() {
        let o = [number / (s.out[1] * s.out[2]), number / s.out[2] % s.out[1], number % s.out[2]];
        for ch in 0..c {
            let at = image * s.out_elems() + number * c + ch;
            // SAFETY: reads the image's own operands.
            let (place, v) = unsafe { ((*p.place.add(at)).max(0) as usize, *p.x.add(at)) };
            if let Some(q) = s.pixel(o, s.place_at(place)) {
                y[q * c + ch] = y[q * c + ch].plus(v);
            }
        }
    }
}

/// # Safety
/// As [`run`].
unsafe fn sum<T: Element>(s: &Sizes, p: &Pointers<T>, image: usize) {
    let c = s.channels;
    // SAFETY: the image's own parts of operand and result.
    let (x, y) = unsafe {
        (
            std::slice::from_raw_parts(p.x.add(image * s.in_elems()), s.in_elems()),
            std::slice::from_raw_parts_mut(p.y.add(image * s.out_elems()), s.out_elems()),
        )
    };
    y.fill(T::ZERO);
    s.for_each(|number, _, pixel| {
        for (y, x) in y[number * c..][..c].iter_mut().zip(&x[pixel * c..][..c]) {
            *y = y.plus(*x);
        }
    });
}

/// # Safety
/// As [`run`].
unsafe fn spread<T: Element>(s: &Sizes, p: &Pointers<T>, image: usize) {
    let c = s.channels;
    // SAFETY: the image's own parts of operand and result.
    let (d_y, y) = unsafe {
        (
            std::slice::from_raw_parts(p.x.add(image * s.out_elems()), s.out_elems()),
            std::slice::from_raw_parts_mut(p.y.add(image * s.in_elems()), s.in_elems()),
        )
    };
    y.fill(T::ZERO);
    s.for_each(|number, _, pixel| {
        for (y, x) in y[pixel * c..][..c].iter_mut().zip(&d_y[number * c..][..c]) {
            *y = y.plus(*x);
        }
    });
}
