//! Takes images and one filter per channel. Gives the depthwise convolution and its two gradients, with the vector along
//! the channels. Never mixes channels, so there is nothing to pack: filters and pixels are read where they lie.

use super::ConvSpec;
use crate::matmul::tile::cut;
use crate::matmul::{ALIGN_ELEMS, Epilogue, Rect, add_partials, align};
use crate::pool::Pool;
use crate::simd::{Isa, Vector};

const TASK_MULTIPLY_ADDS: usize = 1 << 17;
const MAX_TASKS: usize = 32;
const MAX_SPLITS: usize = 16;
/// Pixels that share the loads of a filter.
const PIXELS: usize = 4;
/// Taps of one line that share the loads of a gradient.
const TAPS: usize = 4;

/// One destination line as a sum over source pixels: destination `x` adds, for each tap, the source pixel at
/// `(x + shift) / modulus * scale + ...`. The forward map and the gradient of the input differ in these numbers only.
struct Line<'a> {
    spec: &'a ConvSpec,
    backward: bool,
    src: *const f32,
    filters: *const f32,
    dst: *mut f32,
}

// SAFETY: tasks read source and filters and write disjoint lines of the destination.
unsafe impl Sync for Line<'_> {}

impl Line<'_> {
    fn src_size(&self) -> [usize; 2] {
        let s = self.spec;
        if self.backward { [s.oh, s.ow] } else { [s.h, s.w] }
    }

    fn dst_size(&self) -> [usize; 2] {
        let s = self.spec;
        if self.backward { [s.h, s.w] } else { [s.oh, s.ow] }
    }

    /// The source coordinate that destination coordinate `i` meets at tap `k` of axis `axis`, if it is inside.
    #[inline(always)]
    fn source(&self, axis: usize, i: usize, k: usize) -> Option<usize> {
        let s = self.spec;
        let (stride, reach, pad) = (s.stride[axis], k * s.dilation[axis], s.pad[axis]);
        let (from, to) = if self.backward { (reach, i + pad) } else { (pad, i * stride + reach) };
        if to < from || (self.backward && !(to - from).is_multiple_of(stride)) {
            return None;
        }
        let at = if self.backward { (to - from) / stride } else { to - from };
        if at < self.src_size()[axis] { Some(at) } else { None }
    }

    /// # Safety
    /// The instruction set of `V` is there and the pointers are valid in the shapes of the spec; `line` counts the lines
    /// of all images of the destination, and nobody else touches it.
    #[inline(always)]
    unsafe fn fill<V: Vector>(&self, line: usize) {
        let s = self.spec;
        let [_, src_w] = self.src_size();
        let [dst_h, dst_w] = self.dst_size();
        let (image, y) = (line / dst_h, line % dst_h);
        // Loops are spelled out: adapters of iterators are not inlined into functions with more of the instruction set than
        // the standard library was built with, in builds that depend on luck.
        let mut x0 = 0;
        while x0 < dst_w {
            let n_pixels = PIXELS.min(dst_w - x0);
            let mut c = 0;
            while c < s.ci {
                // SAFETY: pixels are inside source and destination, and the mask keeps lanes inside the channels.
                unsafe {
                    let mask = V::mask(V::LANES.min(s.ci - c));
                    let mut sums = [V::zero(); PIXELS];
                    let mut ky = 0;
                    while ky < s.kh {
                        if let Some(src_y) = self.source(0, y, ky) {
                            let src_line = self.src.add(((image * self.src_size()[0] + src_y) * src_w) * s.ci + c);
                            let mut kx = 0;
                            while kx < s.kw {
                                let filter = V::load_masked(self.filters.add((ky * s.kw + kx) * s.ci + c), mask);
                                let mut i = 0;
                                while i < PIXELS {
                                    if let (true, Some(src_x)) = (i < n_pixels, self.source(1, x0 + i, kx)) {
                                        let pixel = V::load_masked(src_line.add(src_x * s.ci), mask);
                                        sums[i] = pixel.mul_add(filter, sums[i]);
                                    }
                                    i += 1;
                                }
                                kx += 1;
                            }
                        }
                        ky += 1;
                    }
                    let dst_line = self.dst.add((line * dst_w + x0) * s.ci + c);
                    let mut i = 0;
                    while i < PIXELS {
                        if i < n_pixels {
                            let p = dst_line.add(i * s.ci);
                            let sum = if s.accumulate { V::load_masked(p, mask).add(sums[i]) } else { sums[i] };
                            sum.store_masked(p, mask);
                        }
                        i += 1;
                    }
                }
                c += V::LANES;
            }
            x0 += PIXELS;
        }
    }

    /// # Safety
    /// As `conv_forward` or `conv_input_grad`.
    unsafe fn run(&self, pool: &Pool, isa: Isa, epilogue: Epilogue<'_>) {
        let s = self.spec;
        let [dst_h, dst_w] = self.dst_size();
        let n_lines = s.n * dst_h;
        let work = n_lines * dst_w * s.ci * s.kh * s.kw;
        let n_tasks = (work / TASK_MULTIPLY_ADDS).clamp(1, MAX_TASKS).min(n_lines);
        let fill = entry_points(isa).fill;
        pool.run(n_tasks, &|i| {
            let (begin, end) = cut(n_lines, n_tasks, i);
            for line in begin..end {
                // SAFETY: tasks have disjoint lines.
                unsafe { fill(self, line) };
                if let Some(epilogue) = epilogue {
                    epilogue(Rect { row0: line * dst_w, rows: dst_w, col0: 0, cols: s.ci });
                }
            }
        });
    }
}

/// # Safety
/// As `conv_forward`.
pub(super) unsafe fn depthwise_forward(
    pool: &Pool,
    isa: Isa,
    spec: &ConvSpec,
    x: *const f32,
    filters: *const f32,
    y: *mut f32,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: the caller's contract is handed on.
    unsafe { Line { spec, backward: false, src: x, filters, dst: y }.run(pool, isa, epilogue) }
}

/// # Safety
/// As `conv_input_grad`.
pub(super) unsafe fn depthwise_input_grad(
    pool: &Pool,
    isa: Isa,
    spec: &ConvSpec,
    d_y: *const f32,
    filters: *const f32,
    d_x: *mut f32,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: the caller's contract is handed on.
    unsafe { Line { spec, backward: true, src: d_y, filters, dst: d_x }.run(pool, isa, epilogue) }
}

/// Lines of the gradient are added up in this many parts.
fn n_splits(s: &ConvSpec) -> usize {
    let work = s.n * s.oh * s.ow * s.ci * s.kh * s.kw;
    (work / TASK_MULTIPLY_ADDS).clamp(1, MAX_SPLITS).min((s.n * s.oh).max(1))
}

pub(super) fn depthwise_scratch_elems(s: &ConvSpec) -> usize {
    let n = n_splits(s);
    if n > 1 { n * s.kh * s.kw * s.ci + ALIGN_ELEMS } else { 0 }
}

struct FilterGrad<'a> {
    spec: &'a ConvSpec,
    x: *const f32,
    d_y: *const f32,
}

// SAFETY: tasks only read.
unsafe impl Sync for FilterGrad<'_> {}

impl FilterGrad<'_> {
    /// Adds up the gradient of all taps over some lines of `d_y`; `out` is written, or added to.
    ///
    /// # Safety
    /// The instruction set of `V` is there, the pointers are valid in the shapes of the spec, nobody else touches `out`.
    #[inline(always)]
    unsafe fn add_lines<V: Vector>(&self, lines: (usize, usize), out: *mut f32, accumulate: bool) {
        let s = self.spec;
        for ky in 0..s.kh {
            for kx0 in (0..s.kw).step_by(TAPS) {
                let n_taps = TAPS.min(s.kw - kx0);
                for c in (0..s.ci).step_by(V::LANES) {
                    let n = V::LANES.min(s.ci - c);
                    // SAFETY: pixels are inside x and d_y, and the mask keeps lanes inside the channels.
                    unsafe {
                        let mask = V::mask(n);
                        let mut sums = [V::zero(); TAPS];
                        for line in lines.0..lines.1 {
                            self.add_line::<V>(line, ky, (kx0, n_taps), c, mask, &mut sums);
                        }
                        for (i, &sum) in sums.iter().enumerate().take(n_taps) {
                            let p = out.add((ky * s.kw + kx0 + i) * s.ci + c);
                            let sum = if accumulate { V::load_masked(p, mask).add(sum) } else { sum };
                            sum.store_masked(p, mask);
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As `add_lines`.
    #[inline(always)]
    unsafe fn add_line<V: Vector>(
        &self,
        line: usize,
        ky: usize,
        (kx0, n_taps): (usize, usize),
        c: usize,
        mask: V::Mask,
        sums: &mut [V; TAPS],
    ) {
        let s = self.spec;
        let (image, y) = (line / s.oh, line % s.oh);
        let Some(src_y) = (y * s.stride[0] + ky * s.dilation[0]).checked_sub(s.pad[0]).filter(|y| *y < s.h) else {
            return;
        };
        // SAFETY: the caller's contract.
        unsafe {
            let src_line = self.x.add((image * s.h + src_y) * s.w * s.ci + c);
            for x in 0..s.ow {
                let d_y = V::load_masked(self.d_y.add((line * s.ow + x) * s.ci + c), mask);
                for (i, sum) in sums.iter_mut().enumerate().take(n_taps) {
                    let src_x = (x * s.stride[1] + (kx0 + i) * s.dilation[1]).wrapping_sub(s.pad[1]);
                    if src_x < s.w {
                        *sum = V::load_masked(src_line.add(src_x * s.ci), mask).mul_add(d_y, *sum);
                    }
                }
            }
        }
    }
}

/// # Safety
/// As `conv_weight_grad`.
pub(super) unsafe fn depthwise_weight_grad(
    pool: &Pool,
    isa: Isa,
    spec: &ConvSpec,
    x: *const f32,
    d_y: *const f32,
    d_filters: *mut f32,
    scratch: *mut f32,
) {
    let s = spec;
    let (n_splits, n_lines) = (n_splits(s), s.n * s.oh);
    let elems = s.kh * s.kw * s.ci;
    let grad = FilterGrad { spec, x, d_y };
    let add_lines = entry_points(isa).add_lines;
    if n_splits == 1 {
        // SAFETY: the caller's contract is handed on.
        return unsafe { add_lines(&grad, (0, n_lines), d_filters, s.accumulate) };
    }
    let partials = super::padded::Shared(align(scratch));
    pool.run(n_splits, &|i| {
        let out = partials.get().wrapping_add(i * elems);
        // SAFETY: each task has its own partial sum.
        unsafe { add_lines(&grad, cut(n_lines, n_splits, i), out, false) };
    });
    // SAFETY: all partial sums are there, and the caller vouches for the result.
    unsafe { add_partials(d_filters, partials.get(), elems, elems, n_splits, s.accumulate) };
}

struct EntryPoints {
    fill: unsafe fn(&Line<'_>, usize),
    add_lines: unsafe fn(&FilterGrad<'_>, (usize, usize), *mut f32, bool),
}

macro_rules! entry_points {
    ($name:ident, $vector:ty $(, $features:literal)?) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $features)])?
            unsafe fn fill(line: &Line<'_>, i: usize) {
                // SAFETY: the caller's contract is that of `Line::fill`.
                unsafe { line.fill::<$vector>(i) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn add_lines(grad: &FilterGrad<'_>, lines: (usize, usize), out: *mut f32, accumulate: bool) {
                // SAFETY: the caller's contract is that of `FilterGrad::add_lines`.
                unsafe { grad.add_lines::<$vector>(lines, out, accumulate) }
            }
            pub(super) static ENTRY: EntryPoints = EntryPoints { fill, add_lines };
        }
    };
}

entry_points!(scalar, crate::simd::scalar::Scalar4);
#[cfg(target_arch = "x86_64")]
entry_points!(avx2, crate::simd::x86::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
entry_points!(avx512, crate::simd::x86::Avx512, "avx512f,avx2,fma");
#[cfg(target_arch = "aarch64")]
entry_points!(neon, crate::simd::neon::Neon, "neon");

fn entry_points(isa: Isa) -> &'static EntryPoints {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &avx2::ENTRY,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &avx512::ENTRY,
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => &scalar::ENTRY,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &neon::ENTRY,
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon => &scalar::ENTRY,
        Isa::Scalar => &scalar::ENTRY,
    }
}
