//! Takes source pixels and filters. Gives destination pixels, each the sum over taps of source pixel times filter: the
//! convolution itself, and the gradient of its input. Never multiplies by the zeros that a stride puts between pixels:
//! destination pixels are done in phases, and each phase has the taps that meet it.

use super::ConvSpec;
use crate::matmul::kernel::{self, Kernels, MAX_ROWS, RowsOfA, kernels};
use crate::matmul::pack::{Panel, Strided, pack_panel};
use crate::matmul::tile::{Columns, MAX_K_BLOCK, cut};
use crate::matmul::{ALIGN_ELEMS, Epilogue, Rect, align};
use crate::pool::Pool;
use crate::simd::Isa;

/// Destination pixels whose pointers are made at a time.
const BATCH: usize = 64;
const TASK_MULTIPLY_ADDS: usize = 1 << 19;
const MAX_TASKS: usize = 64;
/// Filters of more elements than this do not stay in the second cache while all pixels pass.
const CACHED_FILTER_ELEMS: usize = 1 << 17;

/// One axis of the map from destination to source. A destination coordinate `i` is in phase `(i + shift) % modulus` and
/// begins at source coordinate `(i + shift) / modulus * scale`; tap `t` of a phase is `first + t * step` from there.
#[derive(Clone, Copy)]
struct Axis {
    modulus: usize,
    shift: usize,
    scale: usize,
    taps: usize,
    dilation: usize,
    pad: usize,
    /// The map runs from input to output pixels.
    backward: bool,
}

/// The taps of one phase of an [`Axis`].
#[derive(Clone, Copy)]
struct Phase {
    n_taps: usize,
    first: isize,
    step: isize,
    /// First tap in the filter, and the distance to the next.
    tap0: usize,
    tap_step: usize,
}

impl Axis {
    /// The source coordinate where destination coordinate `i` begins.
    fn begin(&self, i: usize) -> isize {
        ((i + self.shift) / self.modulus * self.scale) as isize
    }

    fn phase(&self, r: usize) -> Phase {
        if !self.backward {
            let (first, step) = (-(self.pad as isize), self.dilation as isize);
            return Phase { n_taps: self.taps, first, step, tap0: 0, tap_step: 1 };
        }
        let (s, d) = (self.modulus, self.dilation);
        // Tap k meets phase r when k * d leaves r; such taps repeat after `period`.
        let period = (1..=s).find(|j| j * d % s == 0).unwrap_or(s);
        match (0..self.taps.min(period)).find(|k| k * d % s == r) {
            Some(tap0) => Phase {
                n_taps: (self.taps - tap0).div_ceil(period),
                first: -(((tap0 * d - r) / s) as isize),
                step: -((period * d / s) as isize),
                tap0,
                tap_step: period,
            },
            None => Phase { n_taps: 0, first: 0, step: 0, tap0: 0, tap_step: 1 },
        }
    }
}

/// A convolution as a walk over destination pixels; see the file's header.
pub(super) struct Gather {
    n: usize,
    /// Depth, height, width, as in `src` and `dst`.
    axes: [Axis; 3],
    src: [usize; 3],
    /// Elements from one source pixel to the next.
    src_pixel: usize,
    /// Contiguous numbers of one tap, and from one group to the next.
    tap_len: usize,
    dst: [usize; 3],
    dst_channels: usize,
    groups: usize,
    /// Elements of the filters: from tap to tap, along k inside a tap, from column to column, from group to group.
    filter_tap: usize,
    filter_k: usize,
    filter_column: usize,
    filter_group: usize,
    accumulate: bool,
}

impl Gather {
    pub fn forward(s: &ConvSpec) -> Gather {
        let ([src, dst, taps], [stride, dilation, pad]) = (s.extents(), s.steps());
        let axis = |i: usize| Axis {
            modulus: 1,
            shift: 0,
            scale: stride[i],
            taps: taps[i],
            dilation: dilation[i],
            pad: pad[i],
            backward: false,
        };
        let tap_len = s.ci_per_group();
        Gather {
            n: s.n,
            axes: [axis(0), axis(1), axis(2)],
            src,
            src_pixel: s.ci,
            tap_len,
            dst,
            dst_channels: s.co,
            groups: s.groups,
            filter_tap: tap_len * s.co,
            filter_k: s.co,
            filter_column: 1,
            filter_group: s.co_per_group(),
            accumulate: s.accumulate,
        }
    }

    pub fn input_grad(s: &ConvSpec) -> Gather {
        let ([dst, src, taps], [stride, dilation, pad]) = (s.extents(), s.steps());
        let axis = |i: usize| Axis {
            modulus: stride[i],
            shift: pad[i],
            scale: 1,
            taps: taps[i],
            dilation: dilation[i],
            pad: 0,
            backward: true,
        };
        Gather {
            n: s.n,
            axes: [axis(0), axis(1), axis(2)],
            src,
            src_pixel: s.co,
            tap_len: s.co_per_group(),
            dst,
            dst_channels: s.ci,
            groups: s.groups,
            filter_tap: s.ci_per_group() * s.co,
            filter_k: 1,
            filter_column: s.co,
            filter_group: s.co_per_group(),
            accumulate: s.accumulate,
        }
    }

    fn n_taps(&self) -> usize {
        self.axes.iter().map(|axis| axis.taps).product()
    }

    fn n_phases(&self) -> usize {
        self.axes.iter().map(|axis| axis.modulus).product()
    }

    fn n_pixels(&self) -> usize {
        self.n * self.dst.iter().product::<usize>()
    }

    fn columns_per_group(&self) -> usize {
        self.dst_channels / self.groups
    }

    fn packed_elems_per_group(&self) -> usize {
        self.n_taps() * self.tap_len * self.columns_per_group().next_multiple_of(16)
    }

    /// f32 elements of one worker's table of pointers.
    fn table_elems(&self) -> usize {
        let pointers = self.n_taps() * BATCH * size_of::<*const f32>() / size_of::<f32>();
        pointers.next_multiple_of(ALIGN_ELEMS)
    }

    /// A row of zeros stands in for pixels outside the source.
    fn zero_elems(&self) -> usize {
        (self.tap_len * self.groups).next_multiple_of(ALIGN_ELEMS)
    }

    pub fn scratch_elems(&self, n_threads: usize) -> usize {
        let packed = (self.packed_elems_per_group() * self.groups).next_multiple_of(ALIGN_ELEMS);
        packed + self.table_elems() * n_threads + self.zero_elems() + ALIGN_ELEMS
    }

    /// # Safety
    /// As `conv_forward`: the pointers are valid in the shapes this was made from, `scratch` has `scratch_elems`.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        isa: Isa,
        src: *const f32,
        filters: *const f32,
        dst: *mut f32,
        scratch: *mut f32,
        epilogue: Epilogue<'_>,
    ) {
        let kernels = kernels(isa);
        let zeros = align(scratch);
        let tables = zeros.wrapping_add(self.zero_elems());
        let packed = tables.wrapping_add(self.table_elems() * pool.n_threads());
        // SAFETY: the row of zeros is inside the scratch memory.
        unsafe { std::ptr::write_bytes(zeros, 0, self.zero_elems()) };
        let columns = Columns::new(self.columns_per_group(), kernels);
        let job = Job { gather: self, kernels, src, filters, dst, zeros, tables, packed, columns, epilogue };
        // SAFETY: the caller's contract is that of the job's parts.
        unsafe { job.run(pool) }
    }
}

struct Job<'a> {
    gather: &'a Gather,
    kernels: &'static Kernels,
    src: *const f32,
    filters: *const f32,
    dst: *mut f32,
    zeros: *const f32,
    tables: *mut f32,
    packed: *mut f32,
    columns: Columns,
    epilogue: Epilogue<'a>,
}

// SAFETY: tasks read source and filters, and write disjoint parts of the destination and of the scratch memory.
unsafe impl Sync for Job<'_> {}

/// Destination pixels of one phase, up to [`BATCH`] of them: where they lie and which source pixels their taps meet.
struct Batch {
    n: usize,
    dst_rows: [usize; BATCH],
    table: *mut *const f32,
    n_taps: usize,
}

impl Job<'_> {
    /// # Safety
    /// As `Gather::run`.
    unsafe fn run(&self, pool: &Pool) {
        let g = self.gather;
        let n_panels = self.columns.n_panels;
        let n_taps = g.n_taps();
        let n_pieces = (n_taps * g.tap_len).div_ceil(512).min(n_taps).max(1);
        pool.run(g.groups * n_panels * n_pieces, &|i| {
            let (panel, piece) = (i / n_pieces, i % n_pieces);
            // SAFETY: each task packs its own taps of its own panel.
            unsafe { self.pack(panel / n_panels, panel % n_panels, cut(n_taps, n_pieces, piece)) }
        });
        let n_pixels = g.n_pixels();
        let chunk = self.pixels_per_chunk();
        let n_chunks = n_pixels.div_ceil(chunk);
        let work = n_pixels * n_taps * g.tap_len * g.dst_channels / g.n_phases();
        let n_tasks = (work / TASK_MULTIPLY_ADDS).clamp(1, MAX_TASKS).div_ceil(g.groups);
        let by_columns = g.packed_elems_per_group() > CACHED_FILTER_ELEMS;
        let across = if by_columns { n_panels.min(n_tasks) } else { 1 };
        let down = n_tasks.div_ceil(across).min(n_chunks);
        let across = n_tasks.div_ceil(down).min(n_panels);
        pool.run_indexed(g.groups * across * down, &|i, worker| {
            let chunks = cut(n_chunks, down, i % down);
            let panels = cut(n_panels, across, i / down % across);
            for c in chunks.0..chunks.1 {
                let pixels = (c * chunk, ((c + 1) * chunk).min(n_pixels));
                // SAFETY: tasks have disjoint chunks, panels and groups; this worker's table is its own.
                unsafe { self.run_chunk(i / down / across, panels, pixels, worker) };
            }
        });
    }

    fn batch(&self) -> usize {
        BATCH / self.kernels.rows * self.kernels.rows
    }

    /// One batch of each phase, so that the epilogue sees pixels that lie next to each other.
    fn pixels_per_chunk(&self) -> usize {
        self.batch() * self.gather.n_phases().min(8)
    }

    /// Packs taps `taps` (counted in the order of the phases) of a panel.
    ///
    /// # Safety
    /// As `Gather::run`; nobody else touches these taps of the panel.
    unsafe fn pack(&self, group: usize, panel: usize, taps: (usize, usize)) {
        let g = self.gather;
        let at = self.columns.panel(panel);
        let base = group * g.packed_elems_per_group() + at.column * g.n_taps() * g.tap_len;
        let mut tap_idx = 0;
        self.for_each_phase(|_, phases| {
            let [nz, ny, nx] = phases.map(|phase| phase.n_taps);
            for i in 0..nz * ny * nx {
                if (taps.0..taps.1).contains(&tap_idx) {
                    let at_phase = [i / (ny * nx), i / nx % ny, i % nx];
                    let k: [usize; 3] = std::array::from_fn(|j| phases[j].tap0 + at_phase[j] * phases[j].tap_step);
                    let tap = (k[0] * g.axes[1].taps + k[1]) * g.axes[2].taps + k[2];
                    let from = tap * g.filter_tap + group * g.filter_group + at.column * g.filter_column;
                    let to = base + tap_idx * g.tap_len * at.width;
                    // SAFETY: tap, group and column are inside the filters, the panel inside the scratch memory.
                    unsafe {
                        let p = self.filters.add(from);
                        let from = Strided { p, k_stride: g.filter_k, column_stride: g.filter_column };
                        let p = self.packed.add(to);
                        let to = Panel { p, ks: g.tap_len, columns: at.columns, width: at.width };
                        pack_panel(self.kernels, from, to);
                    }
                }
                tap_idx += 1;
            }
        });
    }

    /// Calls `f` with the number of each phase on each axis and its taps.
    fn for_each_phase(&self, mut f: impl FnMut([usize; 3], [Phase; 3])) {
        let axes = &self.gather.axes;
        for rz in 0..axes[0].modulus {
            for ry in 0..axes[1].modulus {
                for rx in 0..axes[2].modulus {
                    f([rz, ry, rx], [axes[0].phase(rz), axes[1].phase(ry), axes[2].phase(rx)]);
                }
            }
        }
    }

    /// # Safety
    /// As `Gather::run`; nobody else touches these pixels and panels or this worker's table.
    unsafe fn run_chunk(&self, group: usize, panels: (usize, usize), pixels: (usize, usize), worker: usize) {
        let g = self.gather;
        let table = self.tables.wrapping_add(worker * g.table_elems()).cast::<*const f32>();
        let mut tap0 = 0;
        self.for_each_phase(|r, phases| {
            let n_taps = phases.iter().map(|phase| phase.n_taps).product();
            let mut batch = Batch { n: 0, dst_rows: [0; BATCH], table, n_taps };
            let mut pixel = pixels.0;
            while pixel < pixels.1 {
                let (line, x0) = (pixel / g.dst[2], pixel % g.dst[2]);
                let (slice, y) = (line / g.dst[1], line % g.dst[1]);
                let (image, z) = (slice / g.dst[0], slice % g.dst[0]);
                let x1 = g.dst[2].min(x0 + pixels.1 - pixel);
                pixel += x1 - x0;
                let [d, v, h] = &g.axes;
                if (z + d.shift) % d.modulus != r[0] || (y + v.shift) % v.modulus != r[1] {
                    continue;
                }
                let mut x = x0 + (r[2] + h.modulus - (x0 + h.shift) % h.modulus) % h.modulus;
                while x < x1 {
                    batch.dst_rows[batch.n] = (line * g.dst[2] + x) * g.dst_channels;
                    // SAFETY: the table has room for a batch of pixels times all taps.
                    unsafe { self.point(&mut batch, image, [d.begin(z), v.begin(y), h.begin(x)], &phases) };
                    x += h.modulus;
                    if batch.n == self.batch() {
                        // SAFETY: the batch is complete and its pixels are inside the chunk.
                        unsafe { self.multiply(&batch, group, panels, tap0) };
                        batch.n = 0;
                    }
                }
            }
            if batch.n > 0 {
                // SAFETY: as above.
                unsafe { self.multiply(&batch, group, panels, tap0) };
            }
            tap0 += n_taps;
        });
        if let Some(epilogue) = self.epilogue {
            let (first, last) = (self.columns.panel(panels.0), self.columns.panel(panels.1 - 1));
            let col0 = group * g.columns_per_group() + first.column;
            let cols = last.column + last.columns - first.column;
            epilogue(Rect { row0: pixels.0, rows: pixels.1 - pixels.0, col0, cols });
        }
    }

    /// Adds one destination pixel to the batch: for each tap the source pixel it meets, or the row of zeros.
    ///
    /// # Safety
    /// The batch is not full and its table has room.
    #[inline]
    unsafe fn point(&self, batch: &mut Batch, image: usize, begin: [isize; 3], phases: &[Phase; 3]) {
        let g = self.gather;
        let rows = self.kernels.rows;
        let (block, row) = (batch.n / rows, batch.n % rows);
        let mut to = batch.table.wrapping_add(block * batch.n_taps * rows + row);
        let [z, y, x] = phases;
        let mut src_z = begin[0] + z.first;
        for _ in 0..z.n_taps {
            let slice_inside = (src_z as usize) < g.src[0];
            let slice = (image * g.src[0]).wrapping_add_signed(src_z);
            let mut src_y = begin[1] + y.first;
            for _ in 0..y.n_taps {
                let line_inside = slice_inside && (src_y as usize) < g.src[1];
                let line = slice.wrapping_mul(g.src[1]).wrapping_add_signed(src_y);
                let line = self.src.wrapping_add(line.wrapping_mul(g.src[2] * g.src_pixel));
                let mut src_x = begin[2] + x.first;
                for _ in 0..x.n_taps {
                    let inside = line_inside && (src_x as usize) < g.src[2];
                    let pixel = line.wrapping_offset(src_x * g.src_pixel as isize);
                    // SAFETY: the caller vouches for the room.
                    unsafe { *to = if inside { pixel } else { self.zeros } };
                    to = to.wrapping_add(rows);
                    src_x += x.step;
                }
                src_y += y.step;
            }
            src_z += z.step;
        }
        batch.n += 1;
    }

    /// # Safety
    /// As `Gather::run`; the batch's table is filled and nobody else touches its pixels in these panels.
    unsafe fn multiply(&self, batch: &Batch, group: usize, panels: (usize, usize), tap0: usize) {
        let g = self.gather;
        let rows = self.kernels.rows;
        // Short taps go together, long ones are cut.
        let (n_tap_blocks, n_cuts) = if g.tap_len > MAX_K_BLOCK {
            (batch.n_taps, g.tap_len.div_ceil(MAX_K_BLOCK))
        } else {
            (batch.n_taps.div_ceil((MAX_K_BLOCK / g.tap_len.max(1)).max(1)), 1)
        };
        let n_blocks = (n_tap_blocks * n_cuts).max(1);
        for block in 0..n_blocks {
            let taps = cut(batch.n_taps, n_tap_blocks.max(1), block / n_cuts);
            let part = cut(g.tap_len, n_cuts, block % n_cuts);
            for panel in panels.0..panels.1 {
                let at = self.columns.panel(panel);
                let k0 = (tap0 + taps.0) * g.tap_len + part.0;
                let b = group * g.packed_elems_per_group() + at.column * g.n_taps() * g.tap_len + k0 * at.width;
                let column = group * g.columns_per_group() + at.column;
                for first in (0..batch.n).step_by(rows) {
                    let n_rows = rows.min(batch.n - first);
                    let a = RowsOfA {
                        table: batch.table.wrapping_add(first * batch.n_taps + taps.0 * rows).cast_const(),
                        table_stride: rows,
                        n_segments: taps.1 - taps.0,
                        offset: group * g.tap_len + part.0,
                        len: part.1 - part.0,
                    };
                    let out = kernel::Block {
                        c: self.dst.wrapping_add(column),
                        c_rows: batch.dst_rows[first..].as_ptr(),
                        last_lanes: at.last_lanes,
                        accumulate: block > 0 || g.accumulate,
                        b: self.packed.wrapping_add(b).cast_const(),
                        b_stride: at.width,
                        packed: std::ptr::null_mut(),
                    };
                    // SAFETY: the table's pointers lead to a whole pixel or to the row of zeros; the rows are inside the
                    // destination; the kernel has the block's number of rows and vectors.
                    unsafe { self.kernels.of_rows[n_rows - 1][at.vectors - 1](&a, &out) };
                }
            }
        }
    }
}

const _: () = assert!(BATCH >= MAX_ROWS);
