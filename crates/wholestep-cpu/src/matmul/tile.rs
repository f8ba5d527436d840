//! Takes the shape of a product. Gives the cuts of it: panels of columns, tiles for the tasks, blocks of k.
//! Never looks at the number of threads: the same shape is cut the same way everywhere.

use super::kernel::Kernels;

/// Steps of k between two visits of a block of C: a panel of B of this length just fits the first cache.
pub(crate) const MAX_K_BLOCK: usize = 256;
/// B is packed in slabs of columns of at most this many elements (16 MB), or of one panel if that is more.
pub(crate) const MAX_PACKED_ELEMS: usize = 1 << 22;
/// Rows of C between two walks over the panels.
pub(crate) const ROWS_PER_CHUNK: usize = 64;
/// Multiply-adds worth the trouble of handing a task to another thread: some microseconds.
const TASK_MULTIPLY_ADDS: usize = 1 << 19;
const MAX_TASKS: usize = 32;

/// Part `i` of `parts` nearly equal parts of `0..len`, as begin and end.
#[inline]
pub(crate) fn cut(len: usize, parts: usize, i: usize) -> (usize, usize) {
    if parts == 1 {
        return (0, len);
    }
    (len * i / parts, len * (i + 1) / parts)
}

/// Columns cut into panels of whole vectors, all nearly as wide.
pub(crate) struct Columns {
    begin: usize,
    n: usize,
    n_vectors: usize,
    lanes: usize,
    pub n_panels: usize,
}

/// One panel of [`Columns`].
pub(crate) struct Panel {
    /// First column in the matrix.
    pub column: usize,
    pub columns: usize,
    /// First column in the packed slab.
    pub packed_column: usize,
    pub vectors: usize,
    /// Elements of a packed row: whole vectors.
    pub width: usize,
    /// Columns that count in the last vector.
    pub last_lanes: usize,
}

impl Columns {
    pub fn new(begin: usize, n: usize, kernels: &Kernels) -> Columns {
        let lanes = kernels.lanes;
        let n_vectors = n.div_ceil(lanes);
        Columns { begin, n, n_vectors, lanes, n_panels: n_vectors.div_ceil(kernels.vectors) }
    }

    #[inline]
    pub fn panel(&self, i: usize) -> Panel {
        let (begin, end) = cut(self.n_vectors, self.n_panels, i);
        let packed_column = begin * self.lanes;
        let columns = (end * self.lanes).min(self.n) - packed_column;
        let vectors = end - begin;
        Panel {
            column: self.begin + packed_column,
            columns,
            packed_column,
            vectors,
            width: vectors * self.lanes,
            last_lanes: columns - (vectors - 1) * self.lanes,
        }
    }
}

/// How many tiles C is cut into, down and across.
pub(crate) struct Tiles {
    pub n_rows: usize,
    pub n_columns: usize,
}

impl Tiles {
    pub fn new(m: usize, k: usize, columns: &Columns, kernels: &Kernels) -> Tiles {
        let width = kernels.columns();
        let n_tasks = (m * columns.n * k / TASK_MULTIPLY_ADDS).clamp(1, MAX_TASKS);
        let mut tiles = Tiles { n_rows: m.div_ceil(256), n_columns: (columns.n_panels * width).div_ceil(480) };
        while tiles.n_rows * tiles.n_columns < n_tasks {
            let tile_rows = m / tiles.n_rows;
            let tile_panels = columns.n_panels / tiles.n_columns;
            if tile_panels > 1 && (tile_panels * width >= tile_rows || tile_rows < 32) {
                tiles.n_columns = (2 * tiles.n_columns).min(columns.n_panels);
            } else if tile_rows >= 32 {
                tiles.n_rows *= 2;
            } else {
                break;
            }
        }
        tiles
    }
}
