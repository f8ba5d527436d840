//! Takes images, filters and their gradients as channels-last f32 memory. Gives the convolution and its two gradients on
//! the kernels of the matrix product, which follow pointers to pixels. Never copies pixels into a matrix (im2col): only an
//! image of at most four channels is copied once, with its padding.
//!
//! The idea of pointers instead of im2col is that of Dukhan 2019, "The Indirect Convolution Algorithm", arXiv:1907.02129.
//! One-dimensional data are images of height 1; volumes are stacks of images, and a filter's taps run through the stack.

mod depthwise;
mod gather;
mod lines;
mod padded;
mod weight_grad;

use crate::matmul::{Epilogue, MatmulSpec, matmul, matmul_scratch_elems};
use crate::pool::Pool;
use crate::simd::Isa;
use depthwise::{depthwise_forward, depthwise_input_grad, depthwise_scratch_elems, depthwise_weight_grad};
use gather::Gather;
use lines::Lines;
use padded::Padded;
use weight_grad::WeightGrad;

/// A convolution `y = x * filters` as deep learning means it (no flip).
///
/// Shapes, the last axis without gaps: `x [n, h, w, ci]`, `filters [kh, kw, ci / groups, co]`, `y [n, oh, ow, co]`; with a
/// [`Depth`] `x [n, d, h, w, ci]` and so on. `y[.., oy, ox, ..]` meets `x[.., oy * stride + ky * dilation - pad, ..]`; what lies outside `x` counts as zero, so the
/// padding at the bottom and on the right follows from `oh` and `ow`. Group `g` takes channels `g * ci / groups ..` to
/// channels `g * co / groups ..`. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub ci: usize,
    pub oh: usize,
    pub ow: usize,
    pub co: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Rows of zeros above and columns of zeros left of each image.
    pub pad: [usize; 2],
    pub groups: usize,
    /// The third axis, outside of the other two.
    pub depth: Depth,
    /// Add to what the output holds. Otherwise the output is written without being read.
    pub accumulate: bool,
}

/// The axis of a volume that images do not have; the fields mean what those of [`ConvSpec`] do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub d: usize,
    pub od: usize,
    pub kd: usize,
    pub stride: usize,
    pub dilation: usize,
    pub pad: usize,
}

impl Depth {
    /// That of an image.
    pub const FLAT: Depth = Depth { d: 1, od: 1, kd: 1, stride: 1, dilation: 1, pad: 0 };
}

impl ConvSpec {
    /// Extents from the outermost axis in: of `x`, of `y`, of the filters.
    fn extents(&self) -> [[usize; 3]; 3] {
        let Depth { d, od, kd, .. } = self.depth;
        [[d, self.h, self.w], [od, self.oh, self.ow], [kd, self.kh, self.kw]]
    }

    /// Stride, dilation and padding in the order of [`ConvSpec::extents`].
    fn steps(&self) -> [[usize; 3]; 3] {
        let with_depth = |depth: usize, [y, x]: [usize; 2]| [depth, y, x];
        let Depth { stride, dilation, pad, .. } = self.depth;
        [with_depth(stride, self.stride), with_depth(dilation, self.dilation), with_depth(pad, self.pad)]
    }

    fn ci_per_group(&self) -> usize {
        self.ci / self.groups
    }

    fn co_per_group(&self) -> usize {
        self.co / self.groups
    }

    /// The output has no element.
    fn is_empty(&self) -> bool {
        self.n * self.depth.od * self.oh * self.ow * self.co == 0
    }

    /// A filter of one pixel that steps over every pixel: a product of matrices.
    fn is_matmul(&self) -> bool {
        let ([x, y, filters], [stride, _, pad]) = (self.extents(), self.steps());
        self.groups == 1 && (filters, stride, pad) == ([1; 3], [1; 3], [0; 3]) && x == y
    }

    /// Images with one filter per channel.
    fn is_depthwise(&self) -> bool {
        self.depth == Depth::FLAT && self.groups > 1 && self.groups == self.ci && self.groups == self.co
    }

    fn pixels(&self) -> usize {
        self.n * self.depth.d * self.h * self.w
    }

    fn forward_matmul(&self) -> MatmulSpec {
        MatmulSpec { accumulate: self.accumulate, ..MatmulSpec::dense(self.pixels(), self.co, self.ci) }
    }

    fn input_grad_matmul(&self) -> MatmulSpec {
        let dense = MatmulSpec::dense(self.pixels(), self.ci, self.co);
        MatmulSpec { b_rs: 1, b_cs: self.co, accumulate: self.accumulate, ..dense }
    }

    fn weight_grad_matmul(&self) -> MatmulSpec {
        let dense = MatmulSpec::dense(self.ci, self.co, self.pixels());
        MatmulSpec { a_rs: 1, a_cs: self.ci, accumulate: self.accumulate, ..dense }
    }
}

/// Scratch memory of [`conv_forward`] on a pool of `n_threads`, in f32. It grows with `n`, so the amount for the largest
/// batch serves every smaller one. The same for every instruction set.
pub fn conv_forward_scratch_elems(spec: &ConvSpec, n_threads: usize) -> usize {
    if spec.is_matmul() {
        matmul_scratch_elems(&spec.forward_matmul(), n_threads)
    } else if spec.is_depthwise() {
        0
    } else {
        let padded = Padded::new(spec);
        if padded.copied {
            Lines::new(spec, &padded).scratch_elems(n_threads)
        } else {
            Gather::forward(spec).scratch_elems(n_threads)
        }
    }
}

/// Scratch memory of [`conv_input_grad`]; see [`conv_forward_scratch_elems`].
pub fn conv_input_grad_scratch_elems(spec: &ConvSpec, n_threads: usize) -> usize {
    if spec.is_matmul() {
        matmul_scratch_elems(&spec.input_grad_matmul(), n_threads)
    } else if spec.is_depthwise() {
        0
    } else {
        Gather::input_grad(spec).scratch_elems(n_threads)
    }
}

/// Scratch memory of [`conv_weight_grad`]; see [`conv_forward_scratch_elems`].
pub fn conv_weight_grad_scratch_elems(spec: &ConvSpec, n_threads: usize) -> usize {
    if spec.is_matmul() {
        matmul_scratch_elems(&spec.weight_grad_matmul(), n_threads)
    } else if spec.is_depthwise() {
        depthwise_scratch_elems(spec)
    } else {
        let padded = Padded::new(spec);
        padded.scratch_elems() + WeightGrad::new(spec, &padded).scratch_elems(n_threads)
    }
}

/// `y = x * filters`; see [`ConvSpec`]. `epilogue` sees each finished part of `y` (rows are pixels, columns are channels).
///
/// The same bits for every number of threads.
///
/// # Safety
/// `isa` is available, `groups` divides `ci` and `co`, strides and dilations are at least 1. `x` and `filters` are readable
/// and `y` is writable (readable too with `accumulate`) in the shapes of the spec, `y` overlaps nothing else, and `scratch`
/// has [`conv_forward_scratch_elems`] writable elements for the pool's thread count, of any content.
pub unsafe fn conv_forward(
    pool: &Pool,
    isa: Isa,
    spec: &ConvSpec,
    x: *const f32,
    filters: *const f32,
    y: *mut f32,
    scratch: *mut f32,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: the caller's contract is handed on.
    unsafe {
        if spec.is_empty() {
        } else if spec.is_matmul() {
            matmul(pool, isa, &spec.forward_matmul(), x, filters, y, scratch, epilogue);
        } else if spec.is_depthwise() {
            depthwise_forward(pool, isa, spec, x, filters, y, epilogue);
        } else {
            let padded = Padded::new(spec);
            if padded.copied {
                Lines::new(spec, &padded).run(pool, isa, x, filters, y, scratch, epilogue);
            } else {
                Gather::forward(spec).run(pool, isa, x, filters, y, scratch, epilogue);
            }
        }
    }
}

/// `d_x = ` gradient of [`conv_forward`] with respect to `x`, from `d_y [n, oh, ow, co]`. `epilogue` sees each finished part
/// of `d_x`. With a stride only products that are not zero by construction are made.
///
/// # Safety
/// As [`conv_forward`], with `d_y` and `filters` read, `d_x` written, and [`conv_input_grad_scratch_elems`] of scratch.
pub unsafe fn conv_input_grad(
    pool: &Pool,
    isa: Isa,
    spec: &ConvSpec,
    d_y: *const f32,
    filters: *const f32,
    d_x: *mut f32,
    scratch: *mut f32,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: the caller's contract is handed on.
    unsafe {
        if spec.pixels() * spec.ci == 0 {
        } else if spec.is_matmul() {
            matmul(pool, isa, &spec.input_grad_matmul(), d_y, filters, d_x, scratch, epilogue);
        } else if spec.is_depthwise() {
            depthwise_input_grad(pool, isa, spec, d_y, filters, d_x, epilogue);
        } else {
            Gather::input_grad(spec).run(pool, isa, d_y, filters, d_x, scratch, epilogue);
        }
    }
}

/// `d_filters = ` gradient of [`conv_forward`] with respect to `filters`, from `x` and `d_y [n, oh, ow, co]`. The sum over
/// pixels is cut where the shape says and added in a fixed order.
///
/// # Safety
/// As [`conv_forward`], with `x` and `d_y` read, `d_filters` written, and [`conv_weight_grad_scratch_elems`] of scratch.
pub unsafe fn conv_weight_grad(
    pool: &Pool,
    isa: Isa,
    spec: &ConvSpec,
    x: *const f32,
    d_y: *const f32,
    d_filters: *mut f32,
    scratch: *mut f32,
) {
    // SAFETY: the caller's contract is handed on.
    unsafe {
        if spec.is_matmul() {
            matmul(pool, isa, &spec.weight_grad_matmul(), x, d_y, d_filters, scratch, None);
        } else if spec.is_depthwise() {
            depthwise_weight_grad(pool, isa, spec, x, d_y, d_filters, scratch);
        } else {
            let padded = Padded::new(spec);
            let (x, scratch) = padded.fill(pool, spec, x, scratch);
            WeightGrad::new(spec, &padded).run(pool, isa, x, d_y, d_filters, scratch);
        }
    }
}
