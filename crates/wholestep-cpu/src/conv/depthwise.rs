//! Takes images and one filter per channel. Gives the depthwise convolution and its two gradients, with the vector along
//! the channels. Never mixes channels, so there is nothing to pack: filters and pixels are read where they lie.

use super::ConvSpec;
use crate::matmul::tile::cut;
use crate::matmul::{ALIGN_ELEMS, Epilogue, Rect, add_partials, align};
use crate::pool::Pool;
use crate::simd::{Isa, Vector, each};

const TASK_MULTIPLY_ADDS: usize = 1 << 17;
const MAX_TASKS: usize = 32;
const MAX_SPLITS: usize = 16;
/// Pixels that share the loads of a filter.
const PIXELS: usize = 8;
macro_rules! each_pixel {
    ($i:ident; $body:expr) => { each!($i < PIXELS of 0 1 2 3 4 5 6 7; $body) };
}
/// Taps of one line that share the loads of a gradient.
const TAPS: usize = 4;
macro_rules! each_tap {
    ($i:ident < $n:ident; $body:expr) => { each!($i < $n of 0 1 2 3; $body) };
}

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
        let at = if self.backward {
            let at = (i + pad).checked_sub(reach)?;
            if !at.is_multiple_of(stride) {
                return None;
            }
            at / stride
        } else {
            (i * stride + reach).checked_sub(pad)?
        };
        (at < self.src_size()[axis]).then_some(at)
    }

    /// Whether destination pixels `x0..x0 + PIXELS` of a line meet all taps of an axis inside the source, side by side.
    fn is_inside(&self, x0: usize) -> bool {
        let s = self.spec;
        let (reach, pad, last) = (s.kw.saturating_sub(1) * s.dilation[1], s.pad[1], x0 + PIXELS - 1);
        let [_, src_w] = self.src_size();
        let [_, dst_w] = self.dst_size();
        last < dst_w
            && if self.backward {
                s.stride[1] == 1 && x0 + pad >= reach && last + pad < src_w
            } else {
                x0 * s.stride[1] >= pad && last * s.stride[1] + reach - pad < src_w
            }
    }

    /// # Safety
    /// The instruction set of `V` is there and the pointers are valid in the shapes of the spec; `line` counts the lines
    /// of all images of the destination, and nobody else touches it.
    #[inline(always)]
    unsafe fn fill<V: Vector>(&self, line: usize) {
        let s = self.spec;
        let [_, dst_w] = self.dst_size();
        let mut x0 = 0;
        while x0 < dst_w {
            let is_inside = self.is_inside(x0);
            let mut c = 0;
            while c < s.ci {
                // SAFETY: the caller's contract; the pixels meet all taps when they are said to.
                unsafe {
                    if is_inside {
                        self.fill_inside::<V>(line, x0, c);
                    } else {
                        self.fill_any::<V>(line, x0, c);
                    }
                }
                c += V::LANES;
            }
            x0 += PIXELS;
        }
    }

    /// # Safety
    /// As `fill`; `is_inside` is true of `x0`, and `c` is a channel.
    #[inline(always)]
    unsafe fn fill_inside<V: Vector>(&self, line: usize, x0: usize, c: usize) {
        let s = self.spec;
        let [src_h, src_w] = self.src_size();
        let [dst_h, dst_w] = self.dst_size();
        let (image, y) = (line / dst_h, line % dst_h);
        let step = if self.backward { s.ci } else { s.stride[1] * s.ci };
        // SAFETY: pixels are inside source and destination, and the mask keeps lanes inside the channels.
        unsafe {
            let mask = V::mask(V::LANES.min(s.ci - c));
            let mut sums = [V::zero(); PIXELS];
            let mut ky = 0;
            while ky < s.kh {
                if let Some(src_y) = self.source(0, y, ky) {
                    let src_line = self.src.add((image * src_h + src_y) * src_w * s.ci + c);
                    let mut filter = self.filters.add(ky * s.kw * s.ci + c);
                    let mut kx = 0;
                    while kx < s.kw {
                        let reach = kx * s.dilation[1];
                        let src_x =
                            if self.backward { x0 + s.pad[1] - reach } else { x0 * s.stride[1] + reach - s.pad[1] };
                        let pixel = src_line.add(src_x * s.ci);
                        let weight = V::load_masked(filter, mask);
                        each_pixel!(I; sums[I] = V::load_masked(pixel.add(I * step), mask).mul_add(weight, sums[I]));
                        filter = filter.wrapping_add(s.ci);
                        kx += 1;
                    }
                }
                ky += 1;
            }
            let dst = self.dst.add((line * dst_w + x0) * s.ci + c);
            each_pixel!(I; self.put(sums[I], dst.add(I * s.ci), mask));
        }
    }

    /// # Safety
    /// As `fill`; `x0` is a destination pixel of the line and `c` a channel.
    #[inline(always)]
    unsafe fn fill_any<V: Vector>(&self, line: usize, x0: usize, c: usize) {
        let s = self.spec;
        let [src_h, src_w] = self.src_size();
        let [dst_h, dst_w] = self.dst_size();
        let (image, y) = (line / dst_h, line % dst_h);
        // SAFETY: as in `fill_inside`; taps outside of the source are left out.
        unsafe {
            let mask = V::mask(V::LANES.min(s.ci - c));
            let mut x = x0;
            while x < dst_w.min(x0 + PIXELS) {
                let mut sum = V::zero();
                let mut tap = 0;
                while tap < s.kh * s.kw {
                    if let (Some(src_y), Some(src_x)) = (self.source(0, y, tap / s.kw), self.source(1, x, tap % s.kw)) {
                        let pixel = self.src.add(((image * src_h + src_y) * src_w + src_x) * s.ci + c);
                        let weight = V::load_masked(self.filters.add(tap * s.ci + c), mask);
                        sum = V::load_masked(pixel, mask).mul_add(weight, sum);
                    }
                    tap += 1;
                }
                self.put(sum, self.dst.add((line * dst_w + x) * s.ci + c), mask);
                x += 1;
            }
        }
    }

    /// # Safety
    /// The lanes of `mask` are writable at `p`.
    #[inline(always)]
    unsafe fn put<V: Vector>(&self, sum: V, p: *mut f32, mask: V::Mask) {
        // SAFETY: the caller's contract.
        unsafe {
            let sum = if self.spec.accumulate { V::load_masked(p, mask).add(sum) } else { sum };
            sum.store_masked(p, mask);
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
        // SAFETY: `out` has this many elements; everything else is the caller's contract.
        unsafe {
            if !accumulate {
                std::ptr::write_bytes(out, 0, s.kh * s.kw * s.ci);
            }
            // All taps of a line before the next line: both are then read from the second cache once.
            let mut c = 0;
            while c < s.ci {
                let mut line = lines.0;
                while line < lines.1 {
                    let mut ky = 0;
                    while ky < s.kh {
                        self.add_line::<V>(line, ky, c, out);
                        ky += 1;
                    }
                    line += 1;
                }
                c += V::LANES;
            }
        }
    }

    /// Adds the gradient of the taps of line `ky` of the filter.
    ///
    /// # Safety
    /// As `add_lines`, and `out` is initialized.
    #[inline(always)]
    unsafe fn add_line<V: Vector>(&self, line: usize, ky: usize, c: usize, out: *mut f32) {
        let s = self.spec;
        let (image, y) = (line / s.oh, line % s.oh);
        let Some(src_y) = (y * s.stride[0] + ky * s.dilation[0]).checked_sub(s.pad[0]).filter(|y| *y < s.h) else {
            return;
        };
        // SAFETY: the caller's contract; the taps are inside the filter.
        unsafe {
            let src_line = self.x.add((image * s.h + src_y) * s.w * s.ci + c);
            let d_line = self.d_y.add(line * s.ow * s.ci + c);
            let mut kx = 0;
            while kx < s.kw {
                let out = out.add((ky * s.kw + kx) * s.ci + c);
                match s.kw - kx {
                    1 => self.add_taps::<V, 1>(src_line, d_line, kx, c, out),
                    2 => self.add_taps::<V, 2>(src_line, d_line, kx, c, out),
                    3 => self.add_taps::<V, 3>(src_line, d_line, kx, c, out),
                    _ => self.add_taps::<V, TAPS>(src_line, d_line, kx, c, out),
                }
                kx += TAPS;
            }
        }
    }

    /// Adds the gradient of N neighbouring taps, whose places in the result follow `out`.
    ///
    /// # Safety
    /// As `add_line`; both lines begin at channel `c`.
    #[inline(always)]
    unsafe fn add_taps<V: Vector, const N: usize>(
        &self,
        src_line: *const f32,
        d_line: *const f32,
        kx: usize,
        c: usize,
        out: *mut f32,
    ) {
        let s = self.spec;
        let (stride, dilation, pad) = (s.stride[1], s.dilation[1], s.pad[1]);
        // The x at which all N taps are inside.
        let reach = (kx + N - 1) * dilation;
        let begin = pad.saturating_sub(kx * dilation).div_ceil(stride).min(s.ow);
        let end = (s.w + pad).saturating_sub(reach).div_ceil(stride).clamp(begin, s.ow);
        // SAFETY: the caller's contract; pixels outside of the line are left out.
        unsafe {
            let mask = V::mask(V::LANES.min(s.ci - c));
            let mut sums = [V::zero(); N];
            each_tap!(I < N; sums[I] = V::load_masked(out.add(I * s.ci), mask));
            let mut x = 0;
            while x < s.ow {
                if x == begin {
                    while x < end {
                        let d_y = V::load_masked(d_line.add(x * s.ci), mask);
                        let pixel = src_line.add((x * stride + kx * dilation - pad) * s.ci);
                        each_tap!(I < N; {
                            let pixel = V::load_masked(pixel.add(I * dilation * s.ci), mask);
                            sums[I] = pixel.mul_add(d_y, sums[I]);
                        });
                        x += 1;
                    }
                    if x == s.ow {
                        break;
                    }
                }
                let d_y = V::load_masked(d_line.add(x * s.ci), mask);
                each_tap!(I < N; {
                    let src_x = (x * stride + (kx + I) * dilation).wrapping_sub(pad);
                    if src_x < s.w {
                        sums[I] = V::load_masked(src_line.add(src_x * s.ci), mask).mul_add(d_y, sums[I]);
                    }
                });
                x += 1;
            }
            each_tap!(I < N; sums[I].store_masked(out.add(I * s.ci), mask));
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
