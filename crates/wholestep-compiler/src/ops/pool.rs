//! Pooling in PyTorch's order. Takes `[N, C, d..]`, gives the largest element or the mean of each window, `[N, C, out..]`. Never lets padding
//! be chosen: it holds no elements, and counts in a mean only where that is asked for.

use super::{Traced, refuse, settle};
use crate::ir::op::{Window, WindowGeometry};
use crate::ir::{Dim, Shape, Tensor};

/// Options of a pooling over N spatial axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions<const N: usize> {
    /// The extents of the window, at least 1.
    pub size: [usize; N],
    /// How far the window moves, at least 1; as far as the window is large by default.
    pub stride: [usize; N],
    /// Before and after each axis; at most half of the window.
    pub padding: [(usize, usize); N],
    /// Of max pooling only.
    pub dilation: [usize; N],
    /// Whether the last window may hang over the end.
    pub ceil_mode: bool,
    /// Whether padding counts in a mean.
    pub count_include_pad: bool,
}

impl<const N: usize> PoolOptions<N> {
    /// Windows of `size` side by side, PyTorch's defaults.
    pub fn new(size: [usize; N]) -> PoolOptions<N> {
        PoolOptions {
            size,
            stride: size,
            padding: [(0, 0); N],
            dilation: [1; N],
            ceil_mode: false,
            count_include_pad: true,
        }
    }
}

// The three ranks of a pooling, which differ in nothing but N.
macro_rules! pools {
    ($($(#[$doc:meta])* $name:ident, $inner:ident, $n:literal;)+) => {
        impl Tensor {
            $($(#[$doc])*
            #[track_caller]
            pub fn $name(&self, options: &PoolOptions<$n>) -> Tensor {
                settle($inner(stringify!($name), self, options))
            })+
        }
    };
}
pools! {
    /// The largest element of each window of x `[N, C, L]`; at ties the first gets the gradient. Matches PyTorch `max_pool1d`.
    max_pool1d, max_pool, 1;
    /// The largest element of each window of x `[N, C, H, W]`; at ties the first in row-major order gets the gradient. Matches PyTorch
    /// `max_pool2d`.
    max_pool2d, max_pool, 2;
    /// The largest element of each window of x `[N, C, D, H, W]`; at ties the first gets the gradient. Matches PyTorch `max_pool3d`.
    max_pool3d, max_pool, 3;
    /// The mean of each window of x `[N, C, L]`. Matches PyTorch `avg_pool1d`.
    avg_pool1d, avg_pool, 1;
    /// The mean of each window of x `[N, C, H, W]`. Matches PyTorch `avg_pool2d`.
    avg_pool2d, avg_pool, 2;
    /// The mean of each window of x `[N, C, D, H, W]`, which is at least as large as the window. Matches PyTorch `avg_pool3d`.
    avg_pool3d, avg_pool, 3;
}

impl Tensor {
    /// The mean over all spatial axes: x `[N, C, d..]` -> `[N, C]`.
    #[track_caller]
    pub fn global_avg_pool(&self) -> Tensor {
        match self.spatial("global_avg_pool") {
            Ok(axes) => self.mean(axes),
            Err(placeholder) => placeholder,
        }
    }

    /// The largest element over all spatial axes, at ties the first: x `[N, C, d..]` -> `[N, C]`.
    #[track_caller]
    pub fn global_max_pool(&self) -> Tensor {
        match self.spatial("global_max_pool") {
            Ok(axes) => {
                let y = self.adaptive_max_pool(&vec![1; axes.len()]);
                let indices: Vec<usize> = axes.iter().map(|&axis| axis as usize).collect();
                y.without(&indices)
            }
            Err(placeholder) => placeholder,
        }
    }

    /// Means of as many windows as `out` says, window i from `⌊i·in/out⌋` to `⌈(i+1)·in/out⌉`: x `[N, C, d..]` -> `[N, C, out..]`. Matches
    /// PyTorch `adaptive_avg_pool1d` to `3d`.
    #[track_caller]
    pub fn adaptive_avg_pool(&self, out: &[usize]) -> Tensor {
        settle(adaptive("adaptive_avg_pool", self, out))
    }

    /// Largest elements of as many windows as `out` says, window i from `⌊i·in/out⌋` to `⌈(i+1)·in/out⌉`: x `[N, C, d..]` ->
    /// `[N, C, out..]`. Matches PyTorch `adaptive_max_pool1d` to `3d`.
    #[track_caller]
    pub fn adaptive_max_pool(&self, out: &[usize]) -> Tensor {
        settle(adaptive("adaptive_max_pool", self, out))
    }

    /// The spatial axes of `[N, C, d..]`, of which there is at least one.
    #[track_caller]
    fn spatial(&self, what: &str) -> Result<Vec<i64>, Tensor> {
        if self.rank() < 3 {
            let message = format!("need [N, C, d..] with at least one axis d, got {}", self.shape());
            return Err(refuse(what, &[self], message, None));
        }
        Ok((2..self.rank() as i64).collect())
    }
}

/// Where the windows of a pooling lie, checked.
#[track_caller]
fn geometry<const N: usize>(what: &str, x: &Tensor, o: &PoolOptions<N>) -> Result<WindowGeometry, Tensor> {
    let shape = x.shape();
    let input = if shape.rank() == N + 2 { Shape(shape.0[2..].to_vec()).as_fixed() } else { None };
    let Some(input) = input else {
        let message = format!("need [N, C, ..] of rank {} with fixed spatial extents, got {shape}", N + 2);
        return Err(refuse(what, &[x], message, None));
    };
    let mut out = vec![0; N];
    for i in 0..N {
        let (size, stride, (lo, hi), dilation) = (o.size[i], o.stride[i], o.padding[i], o.dilation[i]);
        if size == 0 || stride == 0 || dilation == 0 {
            let message = format!("need size, stride and dilation of at least 1, got {size}, {stride} and {dilation}");
            return Err(refuse(what, &[x], message, None));
        }
        let span = dilation * (size - 1) + 1;
        if lo > span / 2 || hi > span / 2 {
            let message =
                format!("need padding of at most half a window of {span}, got {lo} and {hi} at spatial axis {i}");
            return Err(refuse(what, &[x], message, None));
        }
        // In PyTorch's ceil_mode even the first window may hang over the end.
        let overhang = if o.ceil_mode { stride - 1 } else { 0 };
        let Some(room) = (input[i] + lo + hi + overhang).checked_sub(span) else {
            let message = format!(
                "a window of {span} does not fit spatial axis {i}: {} elements and {} of padding",
                input[i],
                lo + hi
            );
            return Err(refuse(what, &[x], message, None));
        };
        out[i] = room / stride + 1;
        // The last window must start inside the input or the padding before it, else it would hold nothing.
        if (out[i] - 1) * stride >= input[i] + lo {
            out[i] -= 1;
        }
    }
    Ok(WindowGeometry {
        size: o.size.to_vec(),
        stride: o.stride.to_vec(),
        pad_lo: o.padding.iter().map(|p| p.0).collect(),
        out,
        dilation: o.dilation.to_vec(),
    })
}

#[track_caller]
fn max_pool<const N: usize>(what: &str, x: &Tensor, o: &PoolOptions<N>) -> Traced {
    let geometry = geometry(what, x, o)?;
    let rows = x.channels_last();
    let place = rows.apply(Window::ArgMax(geometry.clone()), &[]);
    Ok(rows.apply(Window::Take(geometry), &[&place]).channels_second())
}

#[track_caller]
fn avg_pool<const N: usize>(what: &str, x: &Tensor, o: &PoolOptions<N>) -> Traced {
    x.float_or(what)?;
    if o.dilation != [1; N] {
        let message = format!("a mean has no dilation, got {:?}", o.dilation);
        return Err(refuse(what, &[x], message, None));
    }
    let geometry = geometry(what, x, o)?;
    let input = Shape(x.shape().0[2..].to_vec()).as_fixed().unwrap_or_default();
    // PyTorch's rule for volumes alone, kept so that what trains here trains there.
    if N == 3 && input.iter().zip(&o.size).any(|(extent, size)| extent < size) {
        let message = format!("need a volume at least as large as the window {:?}, got {}", o.size, x.shape());
        return Err(refuse(what, &[x], message, Some("padding does not count here".to_string())));
    }
    let mut sums = x.channels_last().apply(Window::Sum(geometry.clone()), &[]);
    let mut uniform = 1;
    for (i, &extent) in input.iter().enumerate() {
        let axis = CountAxis { o, geometry: &geometry, i, extent };
        match axis.uniform() {
            Some(count) => uniform *= count,
            None => sums = &sums / axis.counts(&sums),
        }
    }
    if uniform > 1 {
        sums = sums / uniform as f64;
    }
    Ok(sums.channels_second())
}

/// How many elements the windows of one axis hold.
struct CountAxis<'a, const N: usize> {
    o: &'a PoolOptions<N>,
    geometry: &'a WindowGeometry,
    i: usize,
    extent: usize,
}

impl<const N: usize> CountAxis<'_, N> {
    /// First and last place that counts, as seen from the start of the input.
    fn bounds(&self) -> (f64, f64) {
        let (lo, hi) = self.o.padding[self.i];
        let counted = if self.o.count_include_pad { (lo, hi) } else { (0, 0) };
        (-(counted.0 as f64), (self.extent + counted.1) as f64)
    }

    /// The count, where it is the same for all windows.
    fn uniform(&self) -> Option<usize> {
        let ((first, end), size) = (self.bounds(), self.geometry.size[self.i]);
        let start = -(self.geometry.pad_lo[self.i] as f64);
        let last = start + ((self.geometry.out[self.i] - 1) * self.geometry.stride[self.i]) as f64;
        (start >= first && last + size as f64 <= end).then_some(size)
    }

    /// The count of each window along its axis of `sums` `[N, out.., C]`, computed from positions, since the program holds no tables.
    #[track_caller]
    fn counts(&self, sums: &Tensor) -> Tensor {
        let (first, end) = self.bounds();
        let (size, stride) = (self.geometry.size[self.i] as f64, self.geometry.stride[self.i] as f64);
        let start = sums.positions(self.i as i64 + 1, sums.dtype()) * stride - self.geometry.pad_lo[self.i] as f64;
        (&start + size).clamp_max(end) - start.clamp_min(first)
    }
}

#[track_caller]
fn adaptive(what: &'static str, x: &Tensor, out: &[usize]) -> Traced {
    let shape = x.shape();
    let input = if shape.rank() == out.len() + 2 { Shape(shape.0[2..].to_vec()).as_fixed() } else { None };
    let Some(input) = input.filter(|input| !input.contains(&0) && !out.contains(&0) && !out.is_empty()) else {
        let message = format!("need [N, C, d..] with fixed d.. for an output of {out:?}, got {shape}");
        return Err(refuse(what, &[x], message, None));
    };
    if what == "adaptive_avg_pool" {
        x.float_or(what)?;
    }
    let windows = |i: usize| {
        let (n, m) = (input[i], out[i]);
        (0..m).map(move |j| (j * n / m, ((j + 1) * n).div_ceil(m)))
    };
    if input.iter().zip(out).all(|(n, m)| n.is_multiple_of(*m)) {
        return Ok(evenly(what, x, &input, out));
    }
    // Windows of unequal length are joined one by one. Both poolings may go axis by axis: a window's rows are equally long, and the
    // last axis first finds the first of several largest in row-major order.
    let mut y = x.clone();
    for i in (0..out.len()).rev() {
        let mut parts = Vec::with_capacity(out[i]);
        for (start, end) in windows(i) {
            let part = y.narrowed(i + 2, Dim::fixed(start), Dim::fixed(end - start));
            let mut extents: Vec<usize> =
                Shape(part.shape().0.get(2..).unwrap_or_default().to_vec()).as_fixed().unwrap_or_default();
            if extents.len() != out.len() {
                return Err(part); // the placeholder of an earlier error
            }
            let from = extents.clone();
            extents[i] = 1;
            parts.push(evenly(what, &part, &from, &extents));
        }
        let first = parts.remove(0);
        y = first.joined(&parts, i + 2);
    }
    Ok(y)
}

/// Adaptive pooling where each output extent divides the input's.
#[track_caller]
fn evenly(what: &str, x: &Tensor, input: &[usize], out: &[usize]) -> Tensor {
    let size: Vec<usize> = input.iter().zip(out).map(|(n, m)| n / m).collect();
    let n = size.len();
    let geometry = WindowGeometry {
        stride: size.clone(),
        pad_lo: vec![0; n],
        out: out.to_vec(),
        dilation: vec![1; n],
        size: size.clone(),
    };
    let rows = x.channels_last();
    let pooled = if what == "adaptive_avg_pool" {
        rows.apply(Window::Sum(geometry), &[]) / size.iter().product::<usize>() as f64
    } else {
        let place = rows.apply(Window::ArgMax(geometry.clone()), &[]);
        rows.apply(Window::Take(geometry), &[&place])
    };
    pooled.channels_second()
}
