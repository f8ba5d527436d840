//! How contractions are divided among workgroups. Takes a contraction, gives the tile and the parts that rates measured once say are the
//! fastest, those that are worth timing, and the names that both have in files. Never prints a shader and never measures.

use super::contract::{self, Gemm, LEAST_STEPS, Placement, gemm};
use super::direct;
use super::tile::Tile;
use crate::caps::Workgroups;
use crate::ir::{DType, Dim};
use crate::kernel::{Contract, Contraction, ConvSizes, Map};
use std::fmt;

/// How a contraction is divided among workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub tile: Tile,
    /// The most parts into which the depth is cut, each made by a workgroup of its own and joined by a second dispatch; 1 for none.
    pub parts: u32,
}

/// "128x64x16 of 8x8, 1 slice, 1 stage, unroll 8, 4 parts".
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { rows, cols, depth, thread_rows, thread_cols, slices, stages, unroll } = self.tile;
        let s = |n: u32| if n == 1 { "" } else { "s" };
        write!(f, "{rows}x{cols}x{depth} of {thread_rows}x{thread_cols}, {slices} slice{}, ", s(slices))?;
        write!(f, "{stages} stage{}, unroll {unroll}, {} part{}", s(stages), self.parts, s(self.parts))
    }
}

impl Choice {
    /// Whether both add the products of each sum in the same order, at every batch size. In one piece that is the order of the depth; pieces are
    /// whole tiles deep.
    pub fn adds_like(&self, other: &Choice) -> bool {
        let pieces = |c: &Choice| (c.parts, c.tile.slices);
        pieces(self) == pieces(other) && (pieces(self) == (1, 1) || self.tile.depth == other.tile.depth)
    }

    /// The choice that is written as `text`; `None` unless it is one that this version may make for the contraction on this device.
    pub fn read(text: &str, k: &Contract, workgroups: &Workgroups) -> Option<Choice> {
        let parts = text.rsplit(", ").next()?.split(' ').next()?.parse().ok()?;
        if !has_choice(k, workgroups) || !(1..=most_parts(&gemm(&k.contraction))).contains(&parts) {
            return None;
        }
        let choices = fitting(workgroups).map(|r| Choice { tile: r.tile, parts });
        choices.into_iter().find(|c| c.to_string() == text)
    }
}

/// Whether the tiles of this file make the contraction, so that there is something to choose.
pub fn has_choice(k: &Contract, workgroups: &Workgroups) -> bool {
    k.dtype == DType::F32 && direct::narrow(&k.contraction).is_none() && contract::on_units(k, workgroups).is_none()
}

/// What the table says, where nothing was measured: the least estimated time at [`NOMINAL_BATCH`], whatever batch sizes will come.
pub fn table(k: &Contract, workgroups: &Workgroups) -> Choice {
    let estimates = estimates(&gemm(&k.contraction), workgroups, NOMINAL_BATCH);
    let first = |best: (f64, Choice), e: (f64, Choice)| if e.0 < best.0 { e } else { best };
    estimates.into_iter().reduce(first).expect("bug: the fourth tile fits every device").1
}

/// The most candidates for one contraction, and how much slower than the fastest one may be by the estimate.
const MOST: usize = 4;
const SLOWEST: f64 = 1.35;

/// What is worth timing at a batch size: first what the table says, then the fastest by the estimate. Empty where there is no choice.
pub fn candidates(k: &Contract, workgroups: &Workgroups, batch: usize) -> Vec<Choice> {
    if !has_choice(k, workgroups) {
        return Vec::new();
    }
    let mut all = estimates(&gemm(&k.contraction), workgroups, batch);
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bar = all[0].0 * SLOWEST;
    let mut found = vec![table(k, workgroups)];
    for (_, c) in all.into_iter().take_while(|(time, _)| *time <= bar) {
        // A few parts more or less of the same tile teach nothing.
        let is_near = |o: &Choice| o.tile == c.tile && 3 * o.parts.max(c.parts) < 4 * o.parts.min(c.parts);
        if found.len() < MOST && !found.iter().any(is_near) {
            found.push(c);
        }
    }
    found
}

/// What is worth timing where no bit may change: `from`, then the fastest by the estimate of those that add in its order.
pub fn alike(k: &Contract, workgroups: &Workgroups, batch: usize, from: Choice) -> Vec<Choice> {
    let others = fitting(workgroups).map(|r| Choice { tile: r.tile, ..from });
    let others = others.filter(|c| *c != from && c.adds_like(&from));
    let mut others: Vec<(f64, Choice)> = others.map(|c| (estimated_us(k, c, batch), c)).collect();
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bar = estimated_us(k, from, batch) * SLOWEST;
    let near = others.into_iter().filter(|(time, _)| *time <= bar).map(|(_, c)| c);
    [from].into_iter().chain(near).take(MOST).collect()
}

/// Microseconds that a choice takes by the estimate.
pub fn estimated_us(k: &Contract, choice: Choice, batch: usize) -> f64 {
    let g = gemm(&k.contraction);
    TILES.iter().find(|r| r.tile == choice.tile).map_or(f64::INFINITY, |r| estimate(&g, &r.rate(), choice.parts, batch))
}

/// Elements of arguments 0 to 2 that a contraction reaches.
pub fn reach(k: &Contract, batch: usize) -> [usize; 3] {
    let all = |extents: &[usize]| extents.iter().product::<usize>();
    match &k.contraction {
        Contraction::Matmul { batch: lead, m, n, k, lhs, rhs } => {
            let last = |map: &Map, tail: [&Dim; 2]| {
                let axes = lead.iter().chain(tail).zip(&map.strides);
                let steps = axes.map(|(d, stride)| (d.at(batch) as i64 - 1).max(0) * stride.at_signed(batch).max(0));
                (map.offset.at_signed(batch) + steps.sum::<i64>() + 1).max(0) as usize
            };
            let result: Vec<usize> = lead.iter().chain([m, n]).map(|d| d.at(batch)).collect();
            [last(lhs, [m, k]), last(rhs, [k, n]), all(&result)]
        }
        Contraction::Conv(s) | Contraction::ConvInputGrad(s) | Contraction::ConvWeightGrad(s) => {
            let n = s.n.at(batch);
            let (x, y) = (n * all(&s.input) * s.c_in, n * all(&s.out) * s.c_out);
            let w = all(&s.kernel) * s.c_in / s.geometry.groups * s.c_out;
            match &k.contraction {
                Contraction::ConvInputGrad(_) => [y, w, x],
                Contraction::ConvWeightGrad(_) => [x, y, w],
                Contraction::Conv(_) | Contraction::Matmul { .. } => [x, w, y],
            }
        }
    }
}

/// Multiplications of a contraction, those with padding included.
pub fn multiplications(k: &Contract, batch: usize) -> f64 {
    let g = gemm(&k.contraction);
    let (n, depth, _) = products(&g, batch);
    n * depth * extent(g.m, batch) * extent(g.n, batch)
}

/// What a contraction is called where choices are kept: all that decides about its speed. Batch sizes up to the same power of two share a
/// name; of an epilogue there is a hash (FNV-1a).
pub fn key(k: &Contract, batch: usize) -> String {
    let dtypes: Vec<&str> = k.args.iter().take(3).map(|a| a.dtype.name()).collect();
    let fnv = |text: String| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    };
    let then = k.epilogue.as_ref().map(|e| format!(", then {:016x}", fnv(e.to_string())));
    let at = format!("{}, at most {}{}", dtypes.join(" "), batch.next_power_of_two(), then.unwrap_or_default());
    let triangle = k.triangle;
    match &k.contraction {
        Contraction::Matmul { batch, m, n, k, lhs, rhs } => {
            let batch: String = batch.iter().map(|d| format!("{d} x ")).collect();
            let triangle = triangle.map(|t| format!(", {t}")).unwrap_or_default();
            format!("matmul {batch}{m} x {n} x {k}, lhs {lhs}, rhs {rhs}{triangle}, {at}")
        }
        Contraction::Conv(s) => format!("conv {}, {at}", sizes(s)),
        Contraction::ConvInputGrad(s) => format!("conv_input_grad {}, {at}", sizes(s)),
        Contraction::ConvWeightGrad(s) => format!("conv_weight_grad {}, {at}", sizes(s)),
    }
}

fn sizes(s: &ConvSizes) -> String {
    let g = &s.geometry;
    format!(
        "{} x {:?} x {} to {:?} x {}, kernel {:?}, stride {:?}, pad {:?} {:?}, dilation {:?}, groups {}",
        s.n, s.input, s.c_in, s.out, s.c_out, s.kernel, g.stride, g.pad_lo, g.pad_hi, g.dilation, g.groups
    )
}

fn fitting(workgroups: &Workgroups) -> impl Iterator<Item = &'static Rated> {
    let (threads, bytes) = (workgroups.threads, workgroups.shared_bytes);
    TILES.iter().filter(move |r| r.tile.threads() <= threads && r.tile.shared_bytes() <= bytes)
}

/// The estimated time of every tile that fits with every number of parts worth a look.
fn estimates(g: &Gemm, workgroups: &Workgroups, batch: usize) -> Vec<(f64, Choice)> {
    let of = |rated: &'static Rated| {
        let rate = rated.rate();
        let counts = part_counts(g, &rate, batch).into_iter();
        counts.map(move |parts| (estimate(g, &rate, parts, batch), Choice { tile: rated.tile, parts }))
    };
    fitting(workgroups).flat_map(of).collect()
}

/// The batch size for which the table judges shapes that depend on it: a larger batch than was asked for first changes no choice.
pub(super) const NOMINAL_BATCH: usize = 64;
/// Multiprocessors of the device for which shapes are judged.
const PROCESSORS: f64 = 132.0;
/// The most parts of a depth.
const MAX_PARTS: u32 = 256;

fn extent(d: Dim, batch: usize) -> f64 {
    d.at_signed(batch).max(1) as f64
}

/// How many products of this shape there are, and the depth of each: on average and of the deepest.
fn products(g: &Gemm, batch: usize) -> (f64, f64, f64) {
    let n: f64 = g.batch.iter().map(|d| extent(*d, batch)).product();
    let depth = extent(g.k, batch);
    match &g.result {
        Placement::Batched | Placement::Grouped { .. } => (n, depth, depth),
        Placement::Strided(c) => {
            let classes = f64::from(c.count());
            (n * classes, depth / classes, depth * c.largest_share())
        }
    }
}

fn tile_count(g: &Gemm, t: &Rate, batch: usize) -> f64 {
    let (m, n) = (extent(g.m, batch), extent(g.n, batch));
    (m / f64::from(t.rows)).ceil() * (n / f64::from(t.cols)).ceil() * products(g, batch).0
}

/// The most parts that the form allows. Pixels of a class have depths of their own, which are short.
fn most_parts(g: &Gemm) -> u32 {
    match g.result {
        Placement::Strided(_) => 1,
        Placement::Batched | Placement::Grouped { .. } => MAX_PARTS,
    }
}

/// Numbers of parts worth a look: those that give each multiprocessor a whole number of workgroups.
pub(super) fn part_counts(g: &Gemm, t: &Rate, batch: usize) -> Vec<u32> {
    let most = (extent(g.k, batch) / f64::from(t.depth * LEAST_STEPS)).min(f64::from(most_parts(g))) as u32;
    let filling = (1..=12).map(|per| (PROCESSORS * f64::from(per) / tile_count(g, t, batch)) as u32);
    let mut counts: Vec<u32> = filling.filter(|&n| n > 1 && n <= most).collect();
    counts.push(1);
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Microseconds, roughly, of an H100 through Vulkan: waves of the workgroups that a multiprocessor runs beside each other, each as long as its
/// arithmetic or as its steps wait for memory, and what parts cost to join. The numbers of it and of [`TILES`] were fitted to 800 times of 70
/// contractions, which it meets within 19 % (root of the mean square).
pub(super) fn estimate(g: &Gemm, t: &Rate, parts: u32, batch: usize) -> f64 {
    let (n_parts, (n_products, depth, deepest)) = (f64::from(parts), products(g, batch));
    let steps = |depth: f64| (depth / n_parts / f64::from(t.depth)).ceil();
    let per_processor = (tile_count(g, t, batch) * n_parts / PROCESSORS).ceil();
    let flops = 2.0 * f64::from(t.rows * t.cols * t.depth) * steps(depth);
    // One workgroup's arithmetic, and a wave of n workgroups.
    let busy = flops / (t.tflops * 1e6 / PROCESSORS);
    let wave = |n: f64, depth: f64| if n > 0.0 { (n * busy).max(steps(depth) * t.step_us) } else { 0.0 };
    let (whole, last) = ((per_processor / t.resident).floor(), per_processor % t.resident);
    // The deepest product decides where nothing follows it.
    let is_one = per_processor <= t.resident;
    let depth = if is_one { deepest } else { depth };
    let all = whole * wave(t.resident, depth) + wave(last, depth) + TAIL * busy;
    if parts == 1 {
        return LAUNCH_US + all;
    }
    let bytes = extent(g.m, batch) * extent(g.n, batch) * n_products * 8.0 * n_parts;
    // One dispatch is better than two that are hardly faster.
    LAUNCH_US + 1.05 * all + JOIN_US + bytes / JOIN_BYTES_PER_US
}

/// What a dispatch takes that does nothing, and what a second one adds.
const LAUNCH_US: f64 = 5.0;
const JOIN_US: f64 = 3.2;
/// Bytes of partial sums that are written and read again in a microsecond.
const JOIN_BYTES_PER_US: f64 = 2.2e6;
/// What the beginning and the end of a dispatch cost, in workgroups of a multiprocessor.
const TAIL: f64 = 0.07;

/// What of a tile decides about its time.
pub(super) struct Rate {
    pub rows: u32,
    pub cols: u32,
    pub depth: u32,
    /// See [`Rated`].
    pub tflops: f64,
    pub resident: f64,
    pub step_us: f64,
}

impl Rated {
    fn rate(&self) -> Rate {
        let Rated { tile: Tile { rows, cols, depth, .. }, tflops, resident, step_us } = *self;
        Rate { rows, cols, depth, tflops, resident, step_us }
    }
}

/// A tile with its rate where arithmetic decides, how many of its workgroups a multiprocessor runs in a wave, and what a step of one that is
/// alone takes.
#[derive(Clone, Copy, Debug)]
pub struct Rated {
    pub tile: Tile,
    tflops: f64,
    resident: f64,
    step_us: f64,
}

/// The shipped tiles: of 37 that were timed, those without which one of the 70 contractions is the slowest. The first needs more workgroup
/// memory than some devices have; the second takes its place there. The fourth fits every device.
pub const TILES: [Rated; 12] = [
    rated([128, 128, 16], [8, 8], 1, 2, 16, [39.3, 5.0, 1.66]),
    rated([128, 128, 16], [8, 8], 1, 1, 16, [38.8, 4.0, 1.82]),
    rated([128, 64, 16], [8, 8], 1, 1, 8, [32.7, 5.0, 1.53]),
    rated([64, 64, 16], [8, 4], 1, 1, 8, [29.4, 4.0, 1.39]),
    rated([64, 64, 16], [8, 4], 1, 2, 16, [25.1, 8.0, 0.80]),
    rated([64, 64, 32], [8, 4], 2, 1, 8, [28.8, 11.0, 1.46]),
    rated([32, 64, 32], [4, 4], 2, 1, 8, [23.9, 11.0, 0.82]),
    rated([32, 32, 32], [4, 4], 2, 2, 8, [16.2, 4.0, 0.67]),
    rated([32, 32, 64], [4, 4], 4, 1, 8, [21.1, 11.0, 0.96]),
    rated([32, 16, 64], [4, 4], 8, 1, 8, [15.7, 3.0, 0.68]),
    rated([16, 16, 256], [4, 4], 16, 1, 8, [18.0, 1.0, 1.69]),
    rated([16, 16, 64], [4, 4], 8, 1, 8, [12.0, 10.0, 0.52]),
];

const fn rated(
    [rows, cols, depth]: [u32; 3],
    [thread_rows, thread_cols]: [u32; 2],
    slices: u32,
    stages: u32,
    unroll: u32,
    [tflops, resident, step_us]: [f64; 3],
) -> Rated {
    let tile = Tile { rows, cols, depth, thread_rows, thread_cols, slices, stages, unroll };
    Rated { tile, tflops, resident, step_us }
}
