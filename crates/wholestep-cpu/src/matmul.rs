//! Takes two strided f32 matrices in memory. Gives their product in a third, cut into tiles for the threads of a pool,
//! each tile handed to an epilogue while it is in cache. Never allocates, never lets the thread count change a bit, and
//! knows nothing of tensors.
//!
//! The scheme is that of Goto and van de Geijn 2008 ("Anatomy of high-performance matrix multiplication") as refined by
//! BLIS: panels of B packed by the tile that uses them, blocks of C in registers, k cut so that panels stay in cache. Panels are
//! packed by the kernels that read them first, on the way: a pass of its own cost 3 to 8 % of a square product.

pub(crate) mod kernel;
pub(crate) mod pack;
pub(crate) mod tile;

use crate::pool::Pool;
use crate::simd::Isa;
use kernel::{Kernels, kernels};
use pack::{Panel, Strided, pack_panel};
use tile::{Columns, MAX_K_BLOCK, MAX_PANEL_ELEMS, ROWS_PER_CHUNK, Tiles, cut};

/// A part of C: rows `row0..row0 + rows`, columns `col0..col0 + cols`. For a convolution a row is a pixel
/// (image, then line, then column of pixels) and a column is a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub row0: usize,
    pub rows: usize,
    pub col0: usize,
    pub cols: usize,
}

/// What is called on each finished part of C, by the thread that made it. The parts cover C once.
pub type Epilogue<'a> = Option<&'a (dyn Fn(Rect) + Sync)>;

/// `C [m, n] = A [m, k] · B [k, n]`, or `C += A · B`. Strides are in elements; `rs` is from row to row, `cs` from column to
/// column. The columns of C are next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulSpec {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a_rs: usize,
    pub a_cs: usize,
    pub b_rs: usize,
    pub b_cs: usize,
    pub ldc: usize,
    /// Add to what C holds. Otherwise C is written without being read.
    pub accumulate: bool,
}

impl MatmulSpec {
    /// Row-major A, B and C without gaps, C overwritten.
    pub fn dense(m: usize, n: usize, k: usize) -> MatmulSpec {
        MatmulSpec { m, n, k, a_rs: k, a_cs: 1, b_rs: n, b_cs: 1, ldc: n, accumulate: false }
    }
}

/// How the kernels reach A.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AccessA {
    /// Each row is contiguous.
    Rows,
    /// Each column is contiguous.
    Columns,
    /// As `Columns`, but they are far apart: a block of rows is packed by the kernel that reads it first.
    PackedColumns,
    /// Neither: a block of rows is copied first.
    Copied,
}

/// How the kernels reach B.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AccessB {
    /// Where it is.
    Direct,
    /// Where it is, and they pack it on the way: the copy costs next to nothing beside the multiply-adds.
    PackNow,
    /// In panels that were packed before.
    Packed,
}

impl AccessB {
    /// For the rows after the first block of them.
    fn later(self) -> AccessB {
        if self == AccessB::PackNow { AccessB::Packed } else { self }
    }
}

/// Everything about a product that its shape decides.
struct Plan {
    access_a: AccessA,
    access_b: AccessB,
    /// Parts of k whose products are added at the end; 1 = none.
    n_splits: usize,
    a_elems_per_worker: usize,
    b_elems_per_worker: usize,
    partial_elems: usize,
}

/// Partial sums of a split k take no more than this.
const MAX_PARTIAL_ELEMS: usize = 1 << 20;
const MIN_SPLIT_K: usize = 1024;
const MAX_SPLITS: usize = 32;
/// Parts of the scratch memory begin on a cache line.
pub(crate) const ALIGN_ELEMS: usize = 16;

impl Plan {
    fn new(s: &MatmulSpec) -> Plan {
        let access_a = if s.a_cs == 1 || s.k <= 1 {
            AccessA::Rows
        } else if s.a_rs != 1 && s.m > 1 {
            AccessA::Copied
        } else if s.n <= 16 || s.a_cs <= 64 {
            AccessA::Columns
        } else {
            AccessA::PackedColumns
        };
        let access_b = if s.b_cs != 1 && s.n > 1 {
            AccessB::Packed
        } else if s.m <= 16 || s.b_rs <= 128 {
            AccessB::Direct
        } else {
            AccessB::PackNow
        };
        let panel_elems = (s.k.min(MAX_K_BLOCK) * s.n.next_multiple_of(16)).min(MAX_PANEL_ELEMS);
        let b_elems_per_worker = if access_b == AccessB::Direct { 0 } else { panel_elems };
        let mut n_splits = 1;
        let mut partial_elems = 0;
        if s.k >= 2 * MIN_SPLIT_K && s.m * s.n > 0 {
            let n_tiles = s.m.div_ceil(64) * s.n.div_ceil(96);
            if n_tiles < 8 {
                n_splits = (s.k / MIN_SPLIT_K).min(MAX_PARTIAL_ELEMS / (s.m * s.n)).clamp(1, MAX_SPLITS);
            }
            // An upper bound that grows with every extent, so that a smaller batch always fits.
            partial_elems = MAX_PARTIAL_ELEMS.min(MAX_SPLITS * s.m * s.n);
        }
        let packs_a = matches!(access_a, AccessA::PackedColumns | AccessA::Copied);
        let a_elems_per_worker = if packs_a { kernel::MAX_ROWS * s.k.min(MAX_K_BLOCK) } else { 0 };
        Plan { access_a, access_b, n_splits, a_elems_per_worker, b_elems_per_worker, partial_elems }
    }

    fn scratch_elems(&self, n_threads: usize) -> usize {
        let total = (self.a_elems_per_worker + self.b_elems_per_worker) * n_threads + self.partial_elems;
        if total == 0 { 0 } else { total + 3 * ALIGN_ELEMS }
    }
}

/// Scratch memory that [`matmul`] needs for `spec` on a pool of `n_threads`, in f32. It grows with `m`, `n` and `k`, so the
/// amount for the largest batch serves every smaller one with the same strides. The same for every instruction set.
pub fn matmul_scratch_elems(spec: &MatmulSpec, n_threads: usize) -> usize {
    Plan::new(spec).scratch_elems(n_threads)
}

/// `C = A · B` or `C += A · B` in f32; see [`MatmulSpec`].
///
/// Each element is one chain of multiply-adds over k, cut at places that only the shape decides: the same bits for every
/// number of threads. Results differ in the last bits between instruction sets. `epilogue` sees each part of C when its sum
/// is complete.
///
/// # Safety
/// `isa` is available. A and B are readable and C writable (readable too with `accumulate`) at every index that the spec
/// names, C overlaps nothing else, and `scratch` has [`matmul_scratch_elems`] writable elements for the pool's thread count,
/// of any content.
pub unsafe fn matmul(
    pool: &Pool,
    isa: Isa,
    spec: &MatmulSpec,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    scratch: *mut f32,
    epilogue: Epilogue<'_>,
) {
    if spec.m == 0 || spec.n == 0 {
        return;
    }
    debug_assert!(isa.is_available());
    let plan = Plan::new(spec);
    let packed_b = align(scratch);
    let packed_a = align(packed_b.wrapping_add(plan.b_elems_per_worker * pool.n_threads()));
    let partials = align(packed_a.wrapping_add(plan.a_elems_per_worker * pool.n_threads()));
    let job = Job { spec: *spec, kernels: kernels(isa), plan, a, b, c, packed_a, packed_b, partials, epilogue };
    // SAFETY: the caller's contract is that of the job's parts.
    unsafe { job.run(pool) }
}

/// Rounds up to a cache line; [`ALIGN_ELEMS`] spare elements pay for it.
pub(crate) fn align(p: *mut f32) -> *mut f32 {
    p.wrapping_add((p.addr().wrapping_neg() % (4 * ALIGN_ELEMS)) / 4)
}

struct Job<'a> {
    spec: MatmulSpec,
    kernels: &'static Kernels,
    plan: Plan,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    packed_a: *mut f32,
    packed_b: *mut f32,
    partials: *mut f32,
    epilogue: Epilogue<'a>,
}

// SAFETY: tasks read A and B, and write disjoint parts of C and of the scratch memory.
unsafe impl Sync for Job<'_> {}

/// One task: rows, panels and steps of k.
struct Tile {
    rows: (usize, usize),
    panels: (usize, usize),
    ks: (usize, usize),
    split: usize,
}

/// A block of k of one tile.
struct Step<'a> {
    columns: &'a Columns,
    panels: (usize, usize),
    ks: (usize, usize),
    first_column: usize,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
    packed_a: *mut f32,
    packed_b: *mut f32,
}

impl Job<'_> {
    /// # Safety
    /// As [`matmul`].
    unsafe fn run(&self, pool: &Pool) {
        let (s, plan) = (&self.spec, &self.plan);
        let columns = Columns::new(s.n, self.kernels);
        // Each tile packs its rows of A and its columns of B; columns of A are the dearer ones.
        let aspect = if plan.access_a == AccessA::PackedColumns { 3 } else { 1 };
        let tiles = Tiles::new(s.m, s.k, plan.n_splits, aspect, &columns, self.kernels);
        let n_tiles = tiles.n_rows * tiles.n_columns;
        pool.run_indexed(n_tiles * plan.n_splits, &|i, worker| {
            let (split, i) = (i / n_tiles, i % n_tiles);
            let tile = Tile {
                rows: cut(s.m, tiles.n_rows, i % tiles.n_rows),
                panels: cut(columns.n_panels, tiles.n_columns, i / tiles.n_rows),
                ks: cut(s.k, plan.n_splits, split),
                split,
            };
            // SAFETY: tiles are disjoint, so are their parts of C and of the partial sums.
            unsafe { self.run_tile(&columns, &tile, worker) }
        });
        if plan.n_splits > 1 {
            let n_chunks = s.m.div_ceil(rows_per_rect(s.n));
            pool.run(n_chunks, &|i| {
                // SAFETY: each task adds up its own rows, and all partial sums are there.
                unsafe { self.add_rows(cut(s.m, n_chunks, i)) }
            });
        }
    }

    /// # Safety
    /// As [`matmul`]; `packed` has room for these steps of these panels, and nobody else touches it.
    unsafe fn pack_b(&self, columns: &Columns, panels: (usize, usize), ks: (usize, usize), packed: *mut f32) {
        let (s, n_ks) = (&self.spec, ks.1 - ks.0);
        let first = columns.panel(panels.0).column;
        for panel in panels.0..panels.1 {
            let at = columns.panel(panel);
            let p = self.b.wrapping_add(ks.0 * s.b_rs + at.column * s.b_cs);
            let from = Strided { p, k_stride: s.b_rs, column_stride: s.b_cs };
            let p = packed.wrapping_add((at.column - first) * n_ks);
            // SAFETY: the panel's columns and the steps of k are inside B, the packed panel inside `packed`.
            unsafe { pack_panel(self.kernels, from, Panel { p, ks: n_ks, columns: at.columns, width: at.width }) };
        }
    }

    /// # Safety
    /// As [`matmul`]; nobody else touches this tile of C or this worker's scratch.
    unsafe fn run_tile(&self, columns: &Columns, tile: &Tile, worker: usize) {
        let (s, plan) = (&self.spec, &self.plan);
        let split_sum = plan.n_splits > 1;
        let (c, ldc) =
            if split_sum { (self.partials.wrapping_add(tile.split * s.m * s.n), s.n) } else { (self.c, s.ldc) };
        let first = columns.panel(tile.panels.0);
        let last = columns.panel(tile.panels.1 - 1);
        let (col0, cols) = (first.column, last.column + last.columns - first.column);
        let n_ks = tile.ks.1 - tile.ks.0;
        let n_blocks = n_ks.div_ceil(MAX_K_BLOCK).max(1);
        let n_rows = tile.rows.1 - tile.rows.0;
        let n_chunks = n_rows.div_ceil(ROWS_PER_CHUNK);
        let packed_b = self.packed_b.wrapping_add(worker * plan.b_elems_per_worker);
        let packed_a = self.packed_a.wrapping_add(worker * plan.a_elems_per_worker);
        for block in 0..n_blocks {
            let ks = cut(n_ks, n_blocks, block);
            let ks = (tile.ks.0 + ks.0, tile.ks.0 + ks.1);
            if plan.access_b == AccessB::Packed {
                // SAFETY: the worker's memory has room for a block of k and a tile's columns.
                unsafe { self.pack_b(columns, tile.panels, ks, packed_b) };
            }
            let accumulate = block > 0 || (s.accumulate && !split_sum);
            let (panels, first_column) = (tile.panels, col0);
            let step = Step { columns, panels, ks, first_column, c, ldc, accumulate, packed_a, packed_b };
            for chunk in 0..n_chunks {
                let rows = cut(n_rows, n_chunks, chunk);
                let rows = (tile.rows.0 + rows.0, tile.rows.0 + rows.1);
                let access_b = if chunk > 0 { plan.access_b.later() } else { plan.access_b };
                // SAFETY: the chunk is inside the tile; the first one leaves the panels packed for the others.
                unsafe { self.run_chunk(&step, rows, access_b) };
                if let (Some(epilogue), true) = (self.epilogue, block + 1 == n_blocks && !split_sum) {
                    epilogue(Rect { row0: rows.0, rows: rows.1 - rows.0, col0, cols });
                }
            }
        }
    }

    /// # Safety
    /// As [`matmul`]; nobody else touches these rows and panels of C or this step's scratch.
    unsafe fn run_chunk(&self, step: &Step, rows: (usize, usize), access_b: AccessB) {
        let n_rows = rows.1 - rows.0;
        let n_blocks = n_rows.div_ceil(step.columns.block_rows(self.kernels));
        // Rows outside: a few rows of A stay in the first cache while the panels of B pass from the second.
        for block in 0..n_blocks {
            let (begin, end) = cut(n_rows, n_blocks, block);
            let access_b = if block > 0 { access_b.later() } else { access_b };
            let rows = (rows.0 + begin, rows.0 + end);
            // SAFETY: the block is inside the chunk.
            unsafe {
                if self.plan.access_a == AccessA::Rows {
                    self.run_rows(step, rows, access_b);
                } else {
                    self.run_columns(step, rows, access_b);
                }
            }
        }
    }

    /// One block of rows, each contiguous in A.
    ///
    /// # Safety
    /// As `run_chunk`.
    unsafe fn run_rows(&self, step: &Step, rows: (usize, usize), access_b: AccessB) {
        let (s, kernels) = (&self.spec, self.kernels);
        let a = self.a.wrapping_add(rows.0 * s.a_rs + step.ks.0);
        let table: [*const f32; kernel::MAX_ROWS] = std::array::from_fn(|i| a.wrapping_add(i * s.a_rs));
        let c_rows: [usize; kernel::MAX_ROWS] = std::array::from_fn(|i| i * step.ldc);
        let len = step.ks.1 - step.ks.0;
        let of = kernel::RowsOfA { table: table.as_ptr(), table_stride: 0, n_segments: 1, offset: 0, len };
        for panel in step.panels.0..step.panels.1 {
            let at = step.columns.panel(panel);
            let table = match access_b {
                AccessB::PackNow => &kernels.of_rows_packing,
                AccessB::Direct if at.last_lanes < kernels.lanes => &kernels.of_rows_masked,
                AccessB::Direct | AccessB::Packed => &kernels.of_rows,
            };
            let out = self.block(step, &at, rows.0, &c_rows, access_b);
            // SAFETY: the block is inside A, B and C, and the kernel has its number of rows and vectors.
            unsafe { table[rows.1 - rows.0 - 1][at.vectors - 1](&of, &out) };
        }
    }

    /// One block of rows that are next to each other in A, or copied so first.
    ///
    /// # Safety
    /// As `run_chunk`.
    unsafe fn run_columns(&self, step: &Step, rows: (usize, usize), access_b: AccessB) {
        let (s, kernels, access_a) = (&self.spec, self.kernels, self.plan.access_a);
        let (n_rows, len) = (rows.1 - rows.0, step.ks.1 - step.ks.0);
        let (mut a, mut stride) = (self.a.wrapping_add(rows.0 * s.a_rs + step.ks.0 * s.a_cs), s.a_cs);
        if access_a == AccessA::Copied {
            let from = Strided { p: a, k_stride: s.a_cs, column_stride: s.a_rs };
            let to = Panel { p: step.packed_a, ks: len, columns: n_rows, width: n_rows };
            // SAFETY: the block of rows is inside A, and the step's copy has room for it.
            unsafe { pack_panel(kernels, from, to) };
            (a, stride) = (step.packed_a, n_rows);
        }
        let mut packs_a = access_a == AccessA::PackedColumns && step.panels.1 - step.panels.0 > 1;
        let c_rows: [usize; kernel::MAX_ROWS] = std::array::from_fn(|i| i * step.ldc);
        for panel in step.panels.0..step.panels.1 {
            let at = step.columns.panel(panel);
            let table = match access_b {
                AccessB::PackNow if packs_a => &kernels.of_columns_packing_both,
                AccessB::PackNow => &kernels.of_columns_packing,
                AccessB::Direct | AccessB::Packed if packs_a => &kernels.of_columns_packing_a,
                AccessB::Direct if at.last_lanes < kernels.lanes => &kernels.of_columns_masked,
                AccessB::Direct | AccessB::Packed => &kernels.of_columns,
            };
            let run = kernel::Run { a, b_row: 0, len };
            let of = kernel::ColumnsOfA { runs: &run, n_runs: 1, offset: 0, stride, packed: step.packed_a };
            let out = self.block(step, &at, rows.0, &c_rows, access_b);
            // SAFETY: the block is inside A, B and C, the copy has room for it, and the kernel has its number of rows and
            // vectors.
            unsafe { table[n_rows - 1][at.vectors - 1](&of, &out) };
            if packs_a {
                (a, stride, packs_a) = (step.packed_a, n_rows, false);
            }
        }
    }

    /// What a kernel needs to know of B and C.
    #[inline(always)]
    fn block(
        &self,
        step: &Step,
        at: &tile::Panel,
        row: usize,
        c_rows: &[usize; kernel::MAX_ROWS],
        access_b: AccessB,
    ) -> kernel::Block {
        let s = &self.spec;
        let packed = step.packed_b.wrapping_add((at.column - step.first_column) * (step.ks.1 - step.ks.0));
        let (b, b_stride) = match access_b {
            AccessB::Packed => (packed.cast_const(), at.width),
            AccessB::Direct | AccessB::PackNow => (self.b.wrapping_add(step.ks.0 * s.b_rs + at.column), s.b_rs),
        };
        let c = step.c.wrapping_add(row * step.ldc + at.column);
        let (c_rows, last_lanes) = (c_rows.as_ptr(), at.last_lanes);
        kernel::Block { c, c_rows, last_lanes, accumulate: step.accumulate, b, b_stride, packed }
    }

    /// # Safety
    /// All partial sums are written, and nobody else touches these rows of C.
    unsafe fn add_rows(&self, rows: (usize, usize)) {
        let s = &self.spec;
        for row in rows.0..rows.1 {
            // SAFETY: the row is inside C and inside each partial sum, which do not overlap.
            unsafe {
                let (c, p) = (self.c.add(row * s.ldc), self.partials.add(row * s.n));
                add_partials(c, p, s.n, s.m * s.n, self.plan.n_splits, s.accumulate);
            }
        }
        if let Some(epilogue) = self.epilogue {
            epilogue(Rect { row0: rows.0, rows: rows.1 - rows.0, col0: 0, cols: s.n });
        }
    }
}

/// Adds `n_partials` vectors of `len`, `stride` elements apart, in order; to what `out` holds when `accumulate`.
///
/// # Safety
/// The vectors are readable, `out` is writable, and they do not overlap.
pub(crate) unsafe fn add_partials(
    out: *mut f32,
    partials: *const f32,
    len: usize,
    stride: usize,
    n_partials: usize,
    accumulate: bool,
) {
    /// Elements that stay in the first cache while all partial sums pass.
    const STRIP: usize = 1024;
    for begin in (0..len).step_by(STRIP) {
        let strip = STRIP.min(len - begin);
        for i in 0..n_partials {
            // SAFETY: the strip is inside both vectors, which do not overlap.
            let (out, p) = unsafe {
                let p = std::slice::from_raw_parts(partials.add(i * stride + begin), strip);
                (out.add(begin), p)
            };
            if i == 0 && !accumulate {
                // SAFETY: as above; what `out` holds may be uninitialized, so it is not made a slice yet.
                unsafe { std::ptr::copy_nonoverlapping(p.as_ptr(), out, strip) };
            } else {
                // SAFETY: as above, and `out` is initialized by now.
                let out = unsafe { std::slice::from_raw_parts_mut(out, strip) };
                out.iter_mut().zip(p).for_each(|(out, p)| *out += p);
            }
        }
    }
}

/// Rows of C that one call of the epilogue sees: some ten KB of them, and no more than a chunk.
pub(crate) fn rows_per_rect(columns: usize) -> usize {
    (8192 / columns.max(1)).clamp(16, ROWS_PER_CHUNK)
}
