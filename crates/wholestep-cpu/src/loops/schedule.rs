//! How a loop's points are cut into tiles and blocks. Takes a program and its accesses at one batch size, gives a [`Schedule`]. Never
//! looks at the number of threads: the cut decides the order of sums.

use super::access::Access;
use super::machine::{PARTIAL_WORDS, POINT_BYTES, ROW_BYTES};
use super::program::{Op, Program};
use wholestep_compiler::kernel::ReduceOp;

/// The cut of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub rows: usize,
    pub len: usize,
    /// Lanes run across rows instead of along them.
    pub across: bool,
    pub by_blocks: bool,
    pub tile_rows: usize,
    pub tile_len: usize,
    /// A tile is one block: point values stay in registers from pass to pass.
    pub resident: bool,
    pub splits: usize,
    pub split_len: usize,
    pub units: usize,
    pub cost_ns: u64,
}

/// Blocks have no more lanes than this, rows kept in registers no more than that.
const MAX_BLOCK: usize = 1024;
const MAX_RESIDENT: usize = 8192;
/// Bytes of live registers that a block should not exceed.
const HOT_BYTES: usize = 24 << 10;

/// The cut for `rows` rows of `len` positions. `accesses` gives each value's and each store's access, where it has one.
pub fn choose(
    program: &Program,
    rows: usize,
    len: usize,
    accesses: &[Access],
    of_value: &[u32],
    of_store: &[u32],
) -> Schedule {
    let costs = Costs::new(program, accesses, of_value, of_store);
    let room = POINT_BYTES / program.point_lane_bytes / 2;
    // Registers are used again, so about half of the values live at a time.
    let hot = HOT_BYTES * 2 / program.point_lane_bytes;
    let block = hot.clamp(256, MAX_BLOCK).min(room) / 64 * 64;
    if program.n_outer == 0 && costs.n_joins == 0 {
        return elementwise(program, len, block, &costs, accesses, of_value);
    }
    let resident = MAX_RESIDENT.min(room / 64 * 64);
    let most_rows = (ROW_BYTES / program.row_lane_bytes / 2).max(16) / 16 * 16;
    let along = along(rows, len, block, resident, most_rows);
    let across = across(rows, len, block, resident, most_rows);
    let (cost_along, cost_across) = (costs.along(&along), costs.across(&across));
    let (mut s, cost) = if cost_across < cost_along { (across, cost_across) } else { (along, cost_along) };
    s.cost_ns = cost as u64;
    if !s.resident && costs.can_split {
        split(&mut s, costs.n_joins);
    }
    s.units = s.rows.div_ceil(s.tile_rows.max(1)) * s.splits;
    s
}

fn elementwise(
    program: &Program,
    len: usize,
    block: usize,
    costs: &Costs,
    accesses: &[Access],
    of_value: &[u32],
) -> Schedule {
    let mut tile_len = block;
    for (v, &access) in program.values.iter().zip(of_value) {
        if !v.is_needed || access == u32::MAX {
            continue;
        }
        // Whole periods of a value that repeats along the block let it be filled once.
        let inner = &accesses[access as usize].inner;
        if inner.n == 2 && inner.strides[0] == 0 && inner.extents[1] < block {
            let step = lcm(inner.extents[1], 16);
            if step <= block {
                tile_len = block / step * step;
                break;
            }
        }
    }
    Schedule {
        rows: 1,
        len,
        across: false,
        by_blocks: true,
        tile_rows: 1,
        tile_len: tile_len.min(len.max(1)),
        resident: len <= tile_len,
        splits: 1,
        split_len: len,
        units: len.div_ceil(tile_len.min(len.max(1))),
        cost_ns: (len as f64 * (costs.flat + costs.arithmetic)) as u64,
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

fn along(rows: usize, len: usize, block: usize, resident: usize, most_rows: usize) -> Schedule {
    let mut s = Schedule {
        rows,
        len,
        across: false,
        by_blocks: false,
        tile_rows: 1,
        tile_len: len.max(1),
        resident: true,
        splits: 1,
        split_len: len,
        units: 0,
        cost_ns: 0,
    };
    if len > resident {
        (s.tile_len, s.resident) = (block, false);
    } else {
        let fit = (block / len.max(1)).clamp(1, most_rows);
        s.tile_rows = if fit > 16 { fit / 16 * 16 } else { fit }.min(rows.max(1));
    }
    s
}

fn across(rows: usize, len: usize, block: usize, resident: usize, most_rows: usize) -> Schedule {
    let mut s = along(rows, len, block, resident, most_rows);
    s.across = true;
    if len * 16 <= resident {
        // Memory is read in longer stretches, and what is done once a tile is done less often, when a tile takes some of the first cache.
        let fit = (4 * block / len.max(1)).max(16) / 16 * 16;
        s.tile_rows = fit.min(most_rows).min(rows.max(1));
        (s.tile_len, s.resident) = (len.max(1), true);
    } else {
        s.tile_rows = block.min(512).min(most_rows).min(rows.max(1));
        s.tile_len = (2 * block / s.tile_rows).clamp(1, len.max(1));
        s.resident = s.tile_len >= len;
    }
    s
}

/// Few long rows are cut into parts, as many as the extents say.
fn split(s: &mut Schedule, n_joins: usize) {
    let tiles = s.rows.div_ceil(s.tile_rows);
    let elems = s.rows * s.len;
    if tiles >= 16 || elems < 65_536 {
        return;
    }
    let parts = (elems / 32_768).min(32).min(PARTIAL_WORDS / (s.rows * n_joins.max(1)).max(1));
    let parts = parts.min(s.len / s.tile_len);
    if parts < 2 {
        return;
    }
    s.split_len = s.len.div_ceil(parts).next_multiple_of(s.tile_len);
    s.splits = s.len.div_ceil(s.split_len);
}

/// Nanoseconds per element, roughly.
struct Costs {
    arithmetic: f64,
    along: f64,
    across: f64,
    flat: f64,
    n_point: f64,
    n_row: f64,
    n_joins: usize,
    can_split: bool,
}

/// What copying a lane costs when lanes run over `last` with `stride`.
fn lane_cost(axes: &super::access::Axes, guards: u32) -> f64 {
    if axes.n == 0 {
        return 0.05;
    }
    let (extent, stride) = (axes.extents[axes.n - 1], axes.strides[axes.n - 1]);
    let run = if axes.n == 1 && guards == 0 { 0.0 } else { 4.0 / extent as f64 + 0.05 };
    match stride {
        0 => run + 0.05,
        1 => run + 0.05,
        _ => run + 0.7,
    }
}

impl Costs {
    fn new(program: &Program, accesses: &[Access], of_value: &[u32], of_store: &[u32]) -> Costs {
        let mut c = Costs {
            arithmetic: 0.0,
            along: 0.0,
            across: 0.0,
            flat: 0.0,
            n_point: 0.0,
            n_row: 0.0,
            n_joins: 0,
            can_split: program.n_passes == 1,
        };
        let moved = |c: &mut Costs, access: u32| {
            let a = &accesses[access as usize];
            c.along += lane_cost(&a.inner, a.guards.1);
            c.across += lane_cost(&a.rows, a.guards.1);
            c.flat += lane_cost(&a.inner, a.guards.1);
        };
        for (v, &access) in program.values.iter().zip(of_value).filter(|(v, _)| v.is_needed) {
            if let Op::Reduce { op, .. } = v.op {
                c.n_joins += 1;
                c.can_split &= op != ReduceOp::ArgMax;
            } else if v.is_row {
                c.n_row += 1.0;
            } else {
                c.n_point += 1.0;
                c.arithmetic += match &v.op {
                    Op::Block { is_costly: true, .. } => 0.4,
                    Op::Random => 2.0,
                    Op::Gather { .. } => 1.5,
                    _ => 0.06,
                };
                if access != u32::MAX {
                    moved(&mut c, access);
                }
            }
        }
        for (s, &access) in program.stores.iter().zip(of_store) {
            if s.is_row {
                c.n_row += 1.0;
            } else {
                moved(&mut c, access);
            }
        }
        c
    }

    /// Nanoseconds for a schedule with lanes along the rows.
    fn along(&self, s: &Schedule) -> f64 {
        let joins = self.n_joins as f64;
        let row_steps = (self.n_row + 1.0) / s.tile_rows as f64;
        let blocks = s.len.div_ceil(s.tile_len).max(1) as f64 / s.tile_rows as f64;
        let per_row = s.len as f64 * (self.along + self.arithmetic + 0.03 * joins)
            + 9.0 * joins
            + 5.0 * row_steps
            + 5.0 * blocks * self.n_point;
        per_row * s.rows as f64
    }

    /// Nanoseconds for a schedule with lanes across the rows.
    fn across(&self, s: &Schedule) -> f64 {
        let joins = self.n_joins as f64;
        let narrow = if s.tile_rows < 16 { 1.0 } else { 0.0 };
        let row_steps = (self.n_row + 1.0) / s.tile_rows as f64;
        let blocks = s.len.div_ceil(s.tile_len).max(1) as f64 / s.tile_rows as f64;
        let per_row = s.len as f64 * (self.across + self.arithmetic + (0.05 + narrow) * joins)
            + 5.0 * row_steps
            + 5.0 * blocks * (self.n_point + joins);
        per_row * s.rows as f64
    }
}
