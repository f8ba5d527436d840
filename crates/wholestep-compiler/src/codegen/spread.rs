//! How a loop is spread over threads. Takes a loop, gives which values exist where, in how many passes, and how rows and their elements are
//! shared out: what every language of workgroups needs. Never writes text.

use crate::ir::{Dim, Shape};
use crate::kernel::{Instr, Loop, Map, ReduceOp, Value};

/// What is known of a loop's program.
pub struct Analysis {
    /// By instruction: whether its value exists once a point, rather than once a row.
    pub is_point: Vec<bool>,
    /// By instruction: how many reductions must be done before it.
    pub pass: Vec<u32>,
    /// How often a row is passed over.
    pub n_passes: u32,
}

/// What depends on what in `k`.
pub fn analyse(k: &Loop) -> Analysis {
    let n = k.instrs.len();
    let (mut is_point, mut pass) = (vec![false; n], vec![0; n]);
    for (i, instr) in k.instrs.iter().enumerate() {
        let operands = instr.operands();
        let from_operands = operands.iter().any(|v| is_point[v.0 as usize]);
        let waits = operands.iter().map(|v| pass[v.0 as usize]).max().unwrap_or(0);
        (is_point[i], pass[i]) = match instr {
            Instr::Reduce { .. } => (false, waits + 1),
            Instr::Load { map, .. } | Instr::Index { map, .. } | Instr::Random { map, .. } => (steps_inside(k, map), 0),
            Instr::Gather { map, .. } => (from_operands || steps_inside(k, map), waits),
            Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. } => (from_operands, waits),
        };
    }
    // A pass is made for the reductions that end it and, as the last, for what is stored once a point.
    let reduces = k.instrs.iter().enumerate().filter(|(_, i)| matches!(i, Instr::Reduce { .. })).map(|(i, _)| pass[i]);
    let stores = k.stores.iter().filter(|s| stores_points(k, &is_point, s.value, &s.map));
    let n_passes = reduces.chain(stores.map(|s| pass[s.value.0 as usize] + 1)).max().unwrap_or(1);
    Analysis { is_point, pass, n_passes }
}

/// Whether a store writes once a point.
pub fn stores_points(k: &Loop, is_point: &[bool], value: Value, map: &Map) -> bool {
    is_point[value.0 as usize] || steps_inside(k, map)
}

/// Whether a map depends on an inner axis.
fn steps_inside(k: &Loop, map: &Map) -> bool {
    let inner = k.n_outer..k.axes.len();
    inner.clone().any(|a| map.strides[a] != Dim::ZERO || map.guards.iter().any(|g| g.strides[a] != 0))
}

impl Analysis {
    /// Instructions that must run for each point of pass `pass`: what its reductions, and in the last pass the stores, are made of.
    pub fn points_of(&self, k: &Loop, pass: u32) -> Vec<usize> {
        let mut wanted = vec![false; k.instrs.len()];
        for (i, instr) in k.instrs.iter().enumerate() {
            if let Instr::Reduce { x, .. } = instr
                && self.pass[i] == pass + 1
            {
                wanted[x.0 as usize] = true;
            }
        }
        if pass + 1 == self.n_passes {
            k.stores.iter().for_each(|s| wanted[s.value.0 as usize] = true);
        }
        for i in (0..wanted.len()).rev().filter(|&i| self.is_point[i]) {
            if wanted[i] {
                k.instrs[i].operands().iter().for_each(|v| wanted[v.0 as usize] = true);
            }
        }
        (0..wanted.len()).filter(|&i| wanted[i] && self.is_point[i]).collect()
    }

    /// Reductions that end with pass `pass`.
    pub fn reduces_of(&self, k: &Loop, pass: u32) -> Vec<(usize, ReduceOp, Value)> {
        let found = k.instrs.iter().enumerate().filter_map(|(i, instr)| match instr {
            Instr::Reduce { op, x } => Some((i, *op, *x)),
            Instr::Load { .. }
            | Instr::Gather { .. }
            | Instr::Index { .. }
            | Instr::Random { .. }
            | Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. } => None,
        });
        found.filter(|(i, _, _)| self.pass[*i] == pass + 1).collect()
    }

    /// Row values that the points of pass `pass` or a later one use, so that every thread of the row needs them. The rest is for the one
    /// thread that stores the row's values.
    pub fn shared_rows(&self, k: &Loop) -> Vec<bool> {
        let mut shared = vec![false; k.instrs.len()];
        for (i, instr) in k.instrs.iter().enumerate() {
            if self.is_point[i] || matches!(instr, Instr::Reduce { .. }) {
                instr.operands().iter().for_each(|v| shared[v.0 as usize] = true);
            }
        }
        for store in k.stores.iter().filter(|s| stores_points(k, &self.is_point, s.value, &s.map)) {
            shared[store.value.0 as usize] = true;
        }
        for i in (0..shared.len()).rev().filter(|&i| !self.is_point[i]) {
            if shared[i] {
                k.instrs[i].operands().iter().for_each(|v| shared[v.0 as usize] = true);
            }
        }
        (0..shared.len()).map(|i| shared[i] && !self.is_point[i]).collect()
    }
}

/// How the rows of a loop and the elements of a row are shared out.
///
/// A thread takes a unit at a time: one element of one row or, where it is `wide`, four that lie side by side: of one row, or of four rows where
/// neighbouring threads have neighbouring rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Rows of one workgroup, or fours of rows.
    pub rows: u32,
    /// Threads of one row; a power of two.
    pub threads: u32,
    /// Whether neighbouring threads have neighbouring rows, rather than neighbouring elements of one row: what lies side by side in memory.
    pub across: bool,
    pub wide: bool,
    /// Elements of a row that one workgroup takes, where rows are so long and few that several share one: the partial results meet in a
    /// second dispatch.
    pub chunk: Option<u32>,
    /// In how many parts a row is cut at most, where its length depends on the batch: a workgroup then takes several chunks of a large one, and the
    /// second dispatch does not have the more to join.
    pub most_splits: Option<u32>,
    /// Units of a row that each thread has, where they are few and known: their values stay in registers from one pass to the next.
    pub held: Option<u32>,
}

/// Few rows are fewer than this, or in fewer workgroups than that: not enough to keep a device busy.
const FEW_ROWS: i64 = 1024;
const FEW_GROUPS: i64 = 128;
/// With as many rows as this each thread does more, as there are enough of them.
const MANY_ROWS: i64 = 2048;
/// Workgroups that keep a large device busy, and those of several segments: their last chunks are shorter, so that smaller ones end together.
const ENOUGH_GROUPS: i64 = 512;
const ENOUGH_OF_SEGMENTS: i64 = 4096;
/// Of rows that depend on the batch, in all and for one group of rows: a whole number of waves is not known, and the more there are the less the last one matters.
const ENOUGH_OF_BATCHES: i64 = 1024;
const MOST_SPLITS: i64 = 512;
/// A device runs a batch of about this size where an extent is a multiple of it; only the choice of a schedule depends on it.
const NOMINAL_BATCH: i64 = 64;
/// Threads of one workgroup, at most, and of one with a long row that is passed over again: the fewer rows are under way, the more of them a cache holds.
const MOST_THREADS: u32 = 256;
const MOST_OF_LONG: u32 = 1024;
/// Threads of one workgroup, at least. Where there are so many that all of a device has some, a workgroup has as many as it may; not where a row has more than
/// so many threads, which wait for each other and would wait for other rows'.
const FEWEST_THREADS: u32 = 64;
const MANY_THREADS: i64 = 1 << 16;
const FEW_THREADS_OF_ROW: u32 = 32;
const LONG_ROW: i64 = 16_384;
/// Units that a thread keeps in registers, at most, and instructions for all of them.
const MOST_HELD: i64 = 8;
const MOST_HELD_INSTRS: i64 = 320;

/// The schedule of a loop that reduces. It depends on the program alone, so the order of every sum does too. `across` is what
/// [`runs_across`] says, `wide` whether units of four are possible.
pub fn rows(k: &Loop, analysis: &Analysis, (across, wide): (bool, bool), max_threads: u32, n_segments: usize) -> Rows {
    let width = if wide { 4 } else { 1 };
    let n_instrs = analysis.is_point.iter().filter(|p| **p).count() as i64 * width;
    let nominal = |d: Dim| d.batch * NOMINAL_BATCH + d.fixed;
    let (n_rows, inner) = (nominal(product(&k.axes[..k.n_outer])).max(1), product(&k.axes[k.n_outer..]));
    let n_inner = nominal(inner).max(1);
    let is_long = n_inner > LONG_ROW && analysis.n_passes > 1;
    let most = power_below(max_threads.into(), if is_long { MOST_OF_LONG } else { MOST_THREADS });
    // Units along a row, and rows or fours of them.
    let (units, groups) = match across {
        true => (n_inner, (n_rows + width - 1) / width),
        false => ((n_inner + width - 1) / width, n_rows),
    };
    let (rows, threads) = if across {
        let rows = power_above(groups, if wide { 16 } else { 32 });
        (rows, power_below(units / 4, (most / rows).max(1)))
    } else {
        let each = if n_rows >= MANY_ROWS { 4 } else { 1 };
        let threads = power_above((units + each - 1) / each, most);
        let many = n_rows * i64::from(threads) >= MANY_THREADS && threads <= FEW_THREADS_OF_ROW;
        let least = if many { most } else { FEWEST_THREADS };
        (power_above(n_rows, (least / threads).max(1)), threads)
    };
    let n_groups = (groups + i64::from(rows) - 1) / i64::from(rows);
    let each = (units + i64::from(threads) - 1) / i64::from(threads);
    let once = analysis.n_passes == 1 && k.instrs.iter().any(|i| matches!(i, Instr::Reduce { .. }));
    let enough = if n_segments > 1 { ENOUGH_OF_SEGMENTS } else { ENOUGH_GROUPS };
    let varies = inner.batch != 0;
    let all_groups = n_groups * n_segments as i64;
    let share = if varies { 4 } else { power_below(each * all_groups / enough, 64).max(4) };
    let long = each > 2 * i64::from(share) && (n_rows < FEW_ROWS || n_groups < FEW_GROUPS);
    let splits = once && long;
    let unit = if wide && !across { 4 } else { 1 };
    let is_known = inner.batch == 0 && n_segments == 1 && inner.fixed % unit == 0;
    let few = each <= MOST_HELD && each * n_instrs <= MOST_HELD_INSTRS;
    Rows {
        rows,
        threads,
        across,
        wide,
        chunk: splits.then_some(threads * share * unit as u32),
        most_splits: (splits && varies).then_some((ENOUGH_OF_BATCHES / all_groups).clamp(1, MOST_SPLITS) as u32),
        held: (!splits && is_known && few).then_some(each as u32),
    }
}

/// How the partial results of a plan's chunks are joined.
pub fn join(k: &Loop, plan: &Rows, max_threads: u32, n_segments: usize) -> Rows {
    let chunk = plan.chunk.expect("bug: only rows in chunks are joined");
    let nominal = |d: Dim| d.batch * NOMINAL_BATCH + d.fixed;
    let most = power_below(max_threads.into(), MOST_THREADS);
    let rows = power_above(nominal(product(&k.axes[..k.n_outer])), 4);
    let splits = nominal(product(&k.axes[k.n_outer..])) / i64::from(chunk);
    let splits = plan.most_splits.map_or(splits, |most| splits.min(most.into()));
    let threads = if n_segments > 1 { 64 } else { power_below(splits / 4, (most / rows).max(1)).max(8) };
    Rows { rows, threads, across: true, wide: false, held: None, ..*plan }
}

/// The largest power of two that is at most `n` and `most`, at least 1.
fn power_below(n: i64, most: u32) -> u32 {
    let n = n.clamp(1, i64::from(most)) as u32;
    1 << (31 - n.leading_zeros())
}

/// The smallest power of two that is at least `n`, at most `most`, which is one itself.
fn power_above(n: i64, most: u32) -> u32 {
    (n.clamp(1, i64::from(most)) as u32).next_power_of_two()
}

/// Whether most of what the points touch lies side by side across rows.
pub fn runs_across(k: &Loop, analysis: &Analysis) -> bool {
    if k.n_outer == 0 || k.n_outer == k.axes.len() {
        return false;
    }
    let maps =
        k.instrs.iter().enumerate().filter(|(i, _)| analysis.is_point[*i]).filter_map(|(_, instr)| match instr {
            Instr::Load { map, .. } | Instr::Gather { map, .. } => Some(map),
            Instr::Index { .. }
            | Instr::Random { .. }
            | Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. }
            | Instr::Reduce { .. } => None,
        });
    let (mut across, mut along) = (0, 0);
    for map in maps {
        across += u32::from(map.strides[k.n_outer - 1] == Dim::ONE);
        along += u32::from(map.strides[k.axes.len() - 1] == Dim::ONE);
    }
    across > along
}

/// An extent times four, for both terms.
pub fn is_fourfold(d: Dim) -> bool {
    d.batch % 4 == 0 && d.fixed % 4 == 0
}

/// How many points some axes span.
pub fn product(axes: &[Dim]) -> Dim {
    Shape(axes.to_vec()).numel().expect("bug: a loop spans at most a·B + b points")
}
