//! Takes images of very few channels and filters. Gives the convolution line by line: a band of padded lines is copied into
//! the first cache, and blocks of neighbouring pixels of one output line meet all taps at once. Never makes a table of
//! pixels: the blocks of a band differ only by an offset.

use super::ConvSpec;
use super::padded::Padded;
use crate::matmul::kernel::{self, Kernels, MAX_ROWS, RowsOfA, kernels};
use crate::matmul::tile::{Columns, cut};
use crate::matmul::{ALIGN_ELEMS, Epilogue, Rect, align};
use crate::pool::Pool;
use crate::simd::Isa;

const TASK_MULTIPLY_ADDS: usize = 1 << 19;
const MAX_TASKS: usize = 64;
/// Elements of the output that a band has, and its epilogue sees: they stay in the first cache.
const BAND_ELEMS: usize = 8192;

/// A convolution by bands of lines; see the file's header.
pub(super) struct Lines<'a> {
    spec: &'a ConvSpec,
    /// Pixels of a padded line.
    width: usize,
    /// Lines of output in a band, at most.
    band: usize,
}

impl Lines<'_> {
    pub fn new<'a>(spec: &'a ConvSpec, padded: &Padded) -> Lines<'a> {
        let band = (BAND_ELEMS / (spec.ow * spec.co).max(1)).clamp(1, spec.oh.max(1));
        Lines { spec, width: padded.w, band }
    }

    /// Lines of input that `lines` lines of output meet.
    fn input_lines(&self, lines: usize) -> usize {
        let s = self.spec;
        (lines - 1) * s.stride[0] + (s.kh.max(1) - 1) * s.dilation[0] + 1
    }

    fn copy_elems(&self) -> usize {
        (self.input_lines(self.band) * self.width * self.spec.ci).next_multiple_of(ALIGN_ELEMS)
    }

    /// f32 elements of one worker's table of pointers.
    fn table_elems(&self) -> usize {
        let pointers = self.spec.kh * MAX_ROWS * size_of::<*const f32>() / size_of::<f32>();
        pointers.next_multiple_of(ALIGN_ELEMS)
    }

    pub fn scratch_elems(&self, n_threads: usize) -> usize {
        (self.copy_elems() + self.table_elems()) * n_threads + ALIGN_ELEMS
    }

    /// # Safety
    /// As `conv_forward`: the pointers are valid in the shapes of the spec, `scratch` has `scratch_elems`.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        isa: Isa,
        x: *const f32,
        filters: *const f32,
        y: *mut f32,
        scratch: *mut f32,
        epilogue: Epilogue<'_>,
    ) {
        let kernels = kernels(isa);
        let columns = Columns::new(self.spec.co, kernels);
        let job = Job { lines: self, kernels, columns, x, filters, y, scratch: align(scratch), epilogue };
        // SAFETY: the caller's contract is that of the job's parts.
        unsafe { job.run(pool) }
    }
}

struct Job<'a> {
    lines: &'a Lines<'a>,
    kernels: &'static Kernels,
    columns: Columns,
    x: *const f32,
    filters: *const f32,
    y: *mut f32,
    scratch: *mut f32,
    epilogue: Epilogue<'a>,
}

// SAFETY: tasks read images and filters, and write disjoint lines of the output and the scratch memory of their worker.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    /// # Safety
    /// As `Lines::run`.
    unsafe fn run(&self, pool: &Pool) {
        let s = self.lines.spec;
        let bands = s.oh.div_ceil(self.lines.band);
        let work = s.n * s.oh * s.ow * s.co * s.kh * s.kw * s.ci;
        let n_tasks = (work / TASK_MULTIPLY_ADDS).clamp(1, MAX_TASKS).min(s.n * bands);
        pool.run_indexed(n_tasks, &|task, worker| {
            let elems = self.lines.copy_elems() + self.lines.table_elems();
            let table = self.scratch.wrapping_add(worker * elems);
            let copy = table.wrapping_add(self.lines.table_elems());
            let table = table.cast::<*const f32>();
            for ky in 0..s.kh {
                for i in 0..MAX_ROWS {
                    let pixel = ky * s.dilation[0] * self.lines.width + i * s.stride[1];
                    // SAFETY: the table has room for all taps and rows.
                    unsafe { *table.add(ky * MAX_ROWS + i) = copy.wrapping_add(pixel * s.ci) };
                }
            }
            let (begin, end) = cut(s.n * bands, n_tasks, task);
            for i in begin..end {
                let lines = cut(s.oh, bands, i % bands);
                // SAFETY: tasks have disjoint bands; this worker's table and copy are its own.
                unsafe { self.run_band(i / bands, lines, table, copy) };
            }
        });
    }

    /// # Safety
    /// As `Lines::run`; nobody else touches these lines of the image's output, or `copy`, which has room for a band.
    unsafe fn run_band(&self, image: usize, lines: (usize, usize), table: *const *const f32, copy: *mut f32) {
        let s = self.lines.spec;
        // SAFETY: the copy has room for the lines that a band meets.
        unsafe { self.copy_lines(image, lines, copy) };
        let row0 = (image * s.oh + lines.0) * s.ow;
        let c_rows: [usize; MAX_ROWS] = std::array::from_fn(|i| i * s.co);
        let is_narrow = (0..self.columns.n_panels).all(|i| self.columns.panel(i).vectors <= 2);
        let rows = if is_narrow { self.kernels.tall_rows } else { self.kernels.rows };
        let blocks = s.ow.div_ceil(rows);
        for line in 0..lines.1 - lines.0 {
            for block in 0..blocks {
                let (x0, x1) = cut(s.ow, blocks, block);
                let a = RowsOfA {
                    table,
                    table_stride: MAX_ROWS,
                    n_segments: s.kh,
                    offset: (line * s.stride[0] * self.lines.width + x0 * s.stride[1]) * s.ci,
                    len: s.kw * s.ci,
                };
                for panel in 0..self.columns.n_panels {
                    let at = self.columns.panel(panel);
                    let out = kernel::Block {
                        c: self.y.wrapping_add((row0 + line * s.ow + x0) * s.co + at.column),
                        c_rows: c_rows.as_ptr(),
                        last_lanes: at.last_lanes,
                        accumulate: s.accumulate,
                        b: self.filters.wrapping_add(at.column),
                        b_stride: s.co,
                        packed: std::ptr::null_mut(),
                    };
                    let whole = at.last_lanes == self.kernels.lanes;
                    let table = if whole { &self.kernels.of_rows } else { &self.kernels.of_rows_masked };
                    // SAFETY: the pixels' taps are inside the copy, the panel inside the filters, the rows inside the
                    // output; the kernel has the block's number of rows and vectors.
                    unsafe { table[x1 - x0 - 1][at.vectors - 1](&a, &out) };
                }
            }
        }
        if let Some(epilogue) = self.epilogue {
            epilogue(Rect { row0, rows: (lines.1 - lines.0) * s.ow, col0: 0, cols: s.co });
        }
    }

    /// Copies the lines of input that these lines of output meet, with their padding.
    ///
    /// # Safety
    /// As `run_band`.
    unsafe fn copy_lines(&self, image: usize, lines: (usize, usize), copy: *mut f32) {
        let (s, width) = (self.lines.spec, self.lines.width);
        let left = s.pad[1].min(width);
        for i in 0..self.lines.input_lines(lines.1 - lines.0) {
            let y = lines.0 * s.stride[0] + i;
            let inside = y >= s.pad[0] && y - s.pad[0] < s.h;
            let columns = if inside { s.w.min(width - left) } else { 0 };
            let to = copy.wrapping_add(i * width * s.ci);
            // SAFETY: left + columns <= width, and the source line has at least `columns` pixels.
            unsafe {
                std::ptr::write_bytes(to, 0, left * s.ci);
                if inside {
                    let from = self.x.add(((image * s.h + y - s.pad[0]) * s.w) * s.ci);
                    std::ptr::copy_nonoverlapping(from, to.add(left * s.ci), columns * s.ci);
                }
                std::ptr::write_bytes(to.add((left + columns) * s.ci), 0, (width - left - columns) * s.ci);
            }
        }
    }
}
