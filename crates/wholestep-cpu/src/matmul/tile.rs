//! Takes the shape of a product. Gives the cuts of it: panels of columns, tiles for the tasks, blocks of k.
//! Never looks at the number of threads: the same shape is cut the same way everywhere.

use super::kernel::Kernels;

/// Steps of k between two visits of a block of C: eight rows of A of this length fill a third of the first cache.
pub(crate) const MAX_K_BLOCK: usize = 512;
/// Elements of a tile's packed panels: 256 KB, which leaves most of the second cache to A and C also where it is small. With
/// 1 MB of them square products of 512 and more ran up to 4 % slower on a core whose second cache has 1 MB; between 128 and
/// 512 KB they ran alike.
pub(crate) const MAX_PANEL_ELEMS: usize = 64 << 10;
/// Rows of one tile: B is packed again for each tile below another.
const MAX_TILE_ROWS: usize = 512;
/// Rows of C between two walks over the panels.
pub(crate) const ROWS_PER_CHUNK: usize = 64;
/// Multiply-adds worth the trouble of handing a task to another thread: some microseconds.
const TASK_MULTIPLY_ADDS: usize = 1 << 19;
const FEW_TASKS: usize = 8;
/// Large products get one more task for each of these.
const MANY_TASKS_MULTIPLY_ADDS: usize = 1 << 26;
const MAX_TASKS: usize = 64;

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
    n: usize,
    lanes: usize,
    pub n_panels: usize,
    /// The first `n_wide` panels have one vector more than the `narrow` ones.
    n_wide: usize,
    narrow: usize,
}

/// One panel of [`Columns`].
pub(crate) struct Panel {
    /// First column.
    pub column: usize,
    pub columns: usize,
    pub vectors: usize,
    /// Elements of a packed row: whole vectors.
    pub width: usize,
    /// Columns that count in the last vector.
    pub last_lanes: usize,
}

impl Columns {
    pub fn new(n: usize, kernels: &Kernels) -> Columns {
        let lanes = kernels.lanes;
        let n_vectors = n.div_ceil(lanes);
        let n_panels = n_vectors.div_ceil(kernels.vectors);
        let parts = n_panels.max(1);
        Columns { n, lanes, n_panels, n_wide: n_vectors % parts, narrow: n_vectors / parts }
    }

    /// Rows of a full block of these columns.
    pub fn block_rows(&self, kernels: &Kernels) -> usize {
        if self.narrow + self.n_wide.min(1) > 2 { kernels.rows } else { kernels.tall_rows }
    }

    #[inline]
    pub fn panel(&self, i: usize) -> Panel {
        let begin = i * self.narrow + i.min(self.n_wide);
        let vectors = self.narrow + usize::from(i < self.n_wide);
        let (end, column) = (begin + vectors, begin * self.lanes);
        let columns = (end * self.lanes).min(self.n) - column;
        Panel {
            column,
            columns,
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
    /// `aspect`: how many times as wide as high a tile should be.
    pub fn new(m: usize, k: usize, n_splits: usize, aspect: usize, columns: &Columns, kernels: &Kernels) -> Tiles {
        let width = kernels.columns();
        let work = m * columns.n * k;
        let n_tasks = (work / TASK_MULTIPLY_ADDS).clamp(1, FEW_TASKS) + work / MANY_TASKS_MULTIPLY_ADDS;
        let n_tasks = n_tasks.min(MAX_TASKS).div_ceil(n_splits);
        let block = (k / n_splits).clamp(1, MAX_K_BLOCK);
        let most_panels = (MAX_PANEL_ELEMS / (block * width)).max(1);
        let n_columns = columns.n_panels.div_ceil(most_panels);
        let mut tiles = Tiles { n_rows: m.div_ceil(MAX_TILE_ROWS), n_columns };
        while tiles.n_rows * tiles.n_columns < n_tasks {
            let tile_rows = m / tiles.n_rows;
            let tile_panels = columns.n_panels / tiles.n_columns;
            if tile_panels > 1 && (tile_panels * width >= aspect * tile_rows || tile_rows < 64) {
                tiles.n_columns = (2 * tiles.n_columns).min(columns.n_panels);
            } else if tile_rows >= 64 {
                tiles.n_rows *= 2;
            } else {
                break;
            }
        }
        tiles
    }
}
