//! Takes source pixels and the gradient of the convolution's output. Gives the gradient of the filters: for each tap the
//! product of the pixels it meets, transposed, and the gradient. Never multiplies by padding: runs of pixels begin and end
//! where a tap enters and leaves the image.

use super::ConvSpec;
use super::padded::Padded;
use crate::matmul::kernel::{self, ColumnsOfA, Kernels, MAX_ROWS, Run, kernels};
use crate::matmul::pack::{Panel, Strided, pack_panel};
use crate::matmul::tile::{Columns, MAX_K_BLOCK, cut};
use crate::matmul::{ALIGN_ELEMS, add_partials, align};
use crate::pool::Pool;
use crate::simd::Isa;
use std::mem::MaybeUninit;

const TASK_MULTIPLY_ADDS: usize = 1 << 19;
const MAX_TASKS: usize = 32;
const MAX_SPLITS: usize = 32;
/// Partial sums over parts of the pixels take no more than this.
const MAX_PARTIAL_ELEMS: usize = 1 << 20;
const MIN_SPLIT_PIXELS: usize = 512;
/// A gradient of more channels than this is packed into panels: its rows are too far apart.
const MAX_DIRECT_CHANNELS: usize = 128;

/// The sum over pixels as pieces of lines; see the file's header.
pub(super) struct WeightGrad {
    n: usize,
    /// Depth, height, width, as in the arrays below.
    src: [usize; 3],
    src_pixel: usize,
    dst: [usize; 3],
    /// Channels of the gradient in all.
    dst_channels: usize,
    taps: [usize; 3],
    tap_len: usize,
    groups: usize,
    stride: [usize; 3],
    dilation: [usize; 3],
    pad: [usize; 3],
    accumulate: bool,
}

impl WeightGrad {
    pub fn new(s: &ConvSpec, padded: &Padded) -> WeightGrad {
        let ([src, dst, taps], [stride, dilation, pad]) = (s.extents(), s.steps());
        let (kw, tap_len) = if padded.copied { (1, s.kw * s.ci) } else { (s.kw, s.ci_per_group()) };
        WeightGrad {
            n: s.n,
            src: if padded.copied { [1, padded.h, padded.w] } else { src },
            src_pixel: s.ci,
            dst,
            dst_channels: s.co,
            taps: [taps[0], s.kh, kw],
            tap_len,
            groups: s.groups,
            stride,
            dilation,
            pad: if padded.copied { [0; 3] } else { pad },
            accumulate: s.accumulate,
        }
    }

    fn columns_per_group(&self) -> usize {
        self.dst_channels / self.groups
    }

    fn n_taps(&self) -> usize {
        self.taps.iter().product()
    }

    /// Lines of the gradient in all images.
    fn n_lines(&self) -> usize {
        self.n * self.dst[0] * self.dst[1]
    }

    /// Rows of the result, which is [taps * channels per group of the source, channels of the gradient].
    fn n_rows(&self) -> usize {
        self.n_taps() * self.tap_len
    }

    fn max_splits(&self) -> usize {
        (MAX_PARTIAL_ELEMS / (self.n_rows() * self.dst_channels).max(1)).min(MAX_SPLITS)
    }

    fn n_splits(&self) -> usize {
        let n_pixels = self.n_lines() * self.dst[2];
        self.max_splits().min(n_pixels / MIN_SPLIT_PIXELS).max(1)
    }

    fn is_direct(&self) -> bool {
        self.dst_channels <= MAX_DIRECT_CHANNELS
    }

    fn packed_elems(&self) -> usize {
        if self.is_direct() { 0 } else { MAX_K_BLOCK * self.columns_per_group().next_multiple_of(16) }
    }

    pub fn scratch_elems(&self, n_threads: usize) -> usize {
        let max_splits = self.max_splits();
        let partials = if max_splits > 1 { max_splits * self.n_rows() * self.dst_channels } else { 0 };
        partials + n_threads * self.packed_elems() + 2 * ALIGN_ELEMS
    }

    /// # Safety
    /// As `conv_weight_grad`: the pointers are valid in the shapes this was made from, `scratch` has `scratch_elems`.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        isa: Isa,
        src: *const f32,
        d_y: *const f32,
        out: *mut f32,
        scratch: *mut f32,
    ) {
        let kernels = kernels(isa);
        let packed = align(scratch);
        let partials = align(packed.wrapping_add(self.packed_elems() * pool.n_threads()));
        let columns = Columns::new(self.columns_per_group(), kernels);
        let pieces_per_line = self.dst[2].div_ceil(MAX_K_BLOCK).max(1);
        let n_splits = self.n_splits();
        let job = Job { grad: self, kernels, src, d_y, out, packed, partials, columns, pieces_per_line, n_splits };
        // SAFETY: the caller's contract is that of the job's parts.
        unsafe { job.run(pool) }
    }
}

struct Job<'a> {
    grad: &'a WeightGrad,
    kernels: &'static Kernels,
    src: *const f32,
    d_y: *const f32,
    out: *mut f32,
    packed: *mut f32,
    partials: *mut f32,
    columns: Columns,
    /// A line of the gradient is cut into pieces of at most MAX_K_BLOCK pixels.
    pieces_per_line: usize,
    n_splits: usize,
}

// SAFETY: tasks read source and gradient, and write disjoint parts of the result and of the scratch memory.
unsafe impl Sync for Job<'_> {}

/// Part of a line of the gradient.
struct Piece {
    /// Counted through all images.
    line: usize,
    x0: usize,
    x1: usize,
}

/// The pieces of the gradient that one pass over the result adds up, and the panels they are in.
struct PixelBlock {
    pieces: (usize, usize),
    accumulate: bool,
    b: *const f32,
    /// `b` is the gradient itself: its rows are all channels wide. Otherwise it is packed, a panel after the other.
    direct: bool,
    n_pixels: usize,
}

impl Job<'_> {
    /// # Safety
    /// As `WeightGrad::run`.
    unsafe fn run(&self, pool: &Pool) {
        let g = self.grad;
        let n_pieces = g.n_lines() * self.pieces_per_line;
        let blocks_per_tap = g.tap_len.div_ceil(self.rows());
        let n_items = g.n_taps() * blocks_per_tap;
        if n_items == 0 || g.dst_channels == 0 {
            return;
        }
        let work = g.n_lines() * g.dst[2] * g.n_rows() * g.columns_per_group();
        let n_tasks = (work / TASK_MULTIPLY_ADDS).clamp(1, MAX_TASKS);
        let down = n_tasks.div_ceil(self.n_splits * g.groups).min(n_items);
        pool.run_indexed(g.groups * self.n_splits * down, &|i, worker| {
            let (part, i) = (i % down, i / down);
            let (split, group) = (i % self.n_splits, i / self.n_splits);
            let pieces = cut(n_pieces, self.n_splits, split);
            // SAFETY: tasks have disjoint rows, groups and partial sums; this worker's panels are its own.
            unsafe { self.run_task(group, split, pieces, cut(n_items, down, part), worker) };
        });
        if self.n_splits > 1 {
            let n_rows = g.n_rows();
            let n_tasks = (n_rows * g.dst_channels / 8192).clamp(1, MAX_TASKS).min(n_rows);
            let partial_elems = n_rows * g.dst_channels;
            pool.run(n_tasks, &|i| {
                let (begin, end) = cut(n_rows, n_tasks, i);
                let (begin, end) = (begin * g.dst_channels, end * g.dst_channels);
                // SAFETY: each task adds up its own rows, and all partial sums are there.
                unsafe {
                    let from = self.partials.add(begin);
                    add_partials(self.out.add(begin), from, end - begin, partial_elems, self.n_splits, g.accumulate);
                }
            });
        }
    }

    /// Most rows of the result that are summed at once.
    fn rows(&self) -> usize {
        let is_narrow = (0..self.columns.n_panels).all(|i| self.columns.panel(i).vectors <= 2);
        if is_narrow { self.kernels.tall_rows } else { self.kernels.rows }
    }

    fn piece(&self, i: usize) -> Piece {
        let g = self.grad;
        let (line, part) = (i / self.pieces_per_line, i % self.pieces_per_line);
        let (x0, x1) = cut(g.dst[2], self.pieces_per_line, part);
        Piece { line, x0, x1 }
    }

    /// # Safety
    /// As `WeightGrad::run`; nobody else touches these rows of this partial sum or this worker's panels.
    unsafe fn run_task(
        &self,
        group: usize,
        split: usize,
        pieces: (usize, usize),
        items: (usize, usize),
        worker: usize,
    ) {
        let g = self.grad;
        let longest = g.dst[2].div_ceil(self.pieces_per_line).max(1);
        let pieces_per_block = (MAX_K_BLOCK / longest).max(1);
        let n_pieces = pieces.1 - pieces.0;
        let n_blocks = n_pieces.div_ceil(pieces_per_block).max(1);
        let out =
            if self.n_splits > 1 { self.partials.wrapping_add(split * g.n_rows() * g.dst_channels) } else { self.out };
        for i in 0..n_blocks {
            let part = cut(n_pieces, n_blocks, i);
            let part = (pieces.0 + part.0, pieces.0 + part.1);
            let accumulate = i > 0 || (g.accumulate && self.n_splits == 1);
            // SAFETY: the pieces are inside the gradient, the items inside the result.
            unsafe {
                let block = self.block(group, part, accumulate, worker);
                self.add_block(group, &block, items, out);
            }
        }
    }

    /// The gradient's rows of these pieces, packed when they are far apart.
    ///
    /// # Safety
    /// As `WeightGrad::run`; nobody else touches this worker's panels.
    unsafe fn block(&self, group: usize, pieces: (usize, usize), accumulate: bool, worker: usize) -> PixelBlock {
        let g = self.grad;
        let empty = pieces.0 == pieces.1;
        let (begin, n_pixels) = if empty {
            (0, 0)
        } else {
            // Pieces that follow each other are contiguous in the gradient.
            let (first, last) = (self.piece(pieces.0), self.piece(pieces.1 - 1));
            let begin = first.line * g.dst[2] + first.x0;
            (begin, last.line * g.dst[2] + last.x1 - begin)
        };
        let b = self.d_y.wrapping_add(begin * g.dst_channels + group * g.columns_per_group());
        if g.is_direct() {
            return PixelBlock { pieces, accumulate, b, direct: true, n_pixels };
        }
        let packed = self.packed.wrapping_add(worker * g.packed_elems());
        for panel in 0..self.columns.n_panels {
            let at = self.columns.panel(panel);
            let from = Strided { p: b.wrapping_add(at.column), k_stride: g.dst_channels, column_stride: 1 };
            // SAFETY: a block has at most MAX_K_BLOCK pixels, for which the worker's panels have room.
            unsafe {
                let p = packed.add(at.column * n_pixels);
                pack_panel(self.kernels, from, Panel { p, ks: n_pixels, columns: at.columns, width: at.width });
            }
        }
        PixelBlock { pieces, accumulate, b: packed, direct: false, n_pixels }
    }

    /// # Safety
    /// As `WeightGrad::run`; nobody else touches these items of `out`.
    unsafe fn add_block(&self, group: usize, block: &PixelBlock, items: (usize, usize), out: *mut f32) {
        let g = self.grad;
        let blocks_per_tap = g.tap_len.div_ceil(self.rows());
        let c_rows: [usize; MAX_ROWS] = std::array::from_fn(|i| i * g.dst_channels);
        let mut runs = [MaybeUninit::<Run>::uninit(); MAX_K_BLOCK];
        let mut item = items.0;
        while item < items.1 {
            let tap = item / blocks_per_tap;
            let last = items.1.min((tap + 1) * blocks_per_tap);
            let n_runs = self.find_runs(block.pieces, tap, &mut runs);
            for panel in 0..self.columns.n_panels {
                let at = self.columns.panel(panel);
                let (b, b_stride) = if block.direct {
                    (block.b.wrapping_add(at.column), g.dst_channels)
                } else {
                    (block.b.wrapping_add(at.column * block.n_pixels), at.width)
                };
                let table = if block.direct { &self.kernels.of_columns_masked } else { &self.kernels.of_columns };
                let table = if at.last_lanes == self.kernels.lanes { &self.kernels.of_columns } else { table };
                for i in item..last {
                    let (begin, end) = cut(g.tap_len, blocks_per_tap, i % blocks_per_tap);
                    let offset = group * g.tap_len + begin;
                    let runs = runs.as_ptr().cast();
                    let (stride, packed) = (g.stride[2] * g.src_pixel, std::ptr::null_mut());
                    let a = ColumnsOfA { runs, n_runs, offset, stride, packed };
                    let row = tap * g.tap_len + begin;
                    let c = out.wrapping_add(row * g.dst_channels + group * g.columns_per_group() + at.column);
                    let to = kernel::Block {
                        c,
                        c_rows: c_rows.as_ptr(),
                        last_lanes: at.last_lanes,
                        accumulate: block.accumulate,
                        b,
                        b_stride,
                        packed: std::ptr::null_mut(),
                    };
                    // SAFETY: runs lie inside the source, rows of B inside the block, rows of C inside the result.
                    unsafe { table[end - begin - 1][at.vectors - 1](&a, &to) };
                }
            }
            item = last;
        }
    }

    /// The runs of source pixels that `tap` meets under these pieces; neighbours that follow each other become one.
    fn find_runs(&self, pieces: (usize, usize), tap: usize, runs: &mut [MaybeUninit<Run>; MAX_K_BLOCK]) -> usize {
        let g = self.grad;
        let k = [tap / (g.taps[1] * g.taps[2]), tap / g.taps[2] % g.taps[1], tap % g.taps[2]];
        let [z_shift, y_shift, x_shift]: [isize; 3] =
            std::array::from_fn(|i| (k[i] * g.dilation[i]) as isize - g.pad[i] as isize);
        let stride = g.stride[2] as isize;
        // The x with 0 <= x * stride + x_shift < width.
        let x_begin = (-x_shift).max(0).cast_unsigned().div_ceil(g.stride[2]);
        let x_end = ((g.src[2] as isize - x_shift).max(0)).cast_unsigned().div_ceil(g.stride[2]);
        let (mut n, mut b_row) = (0usize, 0);
        let mut end: Option<(*const f32, usize)> = None;
        for i in pieces.0..pieces.1 {
            let piece = self.piece(i);
            let (slice, y) = (piece.line / g.dst[1], piece.line % g.dst[1]);
            let (image, z) = (slice / g.dst[0], slice % g.dst[0]);
            let src_z = (z * g.stride[0]) as isize + z_shift;
            let src_y = (y * g.stride[1]) as isize + y_shift;
            let inside = (0..g.src[0] as isize).contains(&src_z) && (0..g.src[1] as isize).contains(&src_y);
            let (x0, x1) = (piece.x0.max(x_begin), piece.x1.min(x_end));
            if inside && x0 < x1 {
                let line = (image * g.src[0] + src_z.cast_unsigned()) * g.src[1] + src_y.cast_unsigned();
                let src_x = (x0 as isize * stride + x_shift).cast_unsigned();
                let a = self.src.wrapping_add((line * g.src[2] + src_x) * g.src_pixel);
                let b_begin = b_row + x0 - piece.x0;
                let len = x1 - x0;
                if n > 0 && end == Some((a, b_begin)) {
                    // SAFETY: the first n runs are written.
                    unsafe { runs[n - 1].assume_init_mut().len += len };
                } else {
                    runs[n].write(Run { a, b_row: b_begin, len });
                    n += 1;
                }
                end = Some((a.wrapping_add(len * g.stride[2] * g.src_pixel), b_begin + len));
            }
            b_row += piece.x1 - piece.x0;
        }
        n
    }
}
