//! Fitting a step into memory: which values to compute again so that it takes no more than it may. Takes a graph after all passes and what the
//! program asks for already, gives depths for `passes::remat`. Never changes how a value is computed.
//!
//! What lies between two contractions is cheap to compute again: pointwise work on kept results. Where that is not enough, parts of 1, 2, 4 …
//! contractions are computed again, first those that spare the most bytes for each operation; they are cut where the least crosses. Whether a choice fits is not estimated: it is planned. A part's memory is taken once more while its
//! gradient runs, so that the least memory is at parts of some middle size (Chen et al. 2016, arXiv:1604.06174: the square root).

use super::{Planned, plan_with};
use crate::caps::Caps;
use crate::ir::op::Op;
use crate::ir::{BuildError, Fit, Graph, NodeId, SlotKind};
use crate::passes::remat::{Depths, by_parts, kept, users};
use crate::plan::{Layout, Plan, Size, Space};
use std::ops::Range;

/// The batch size at which choices are compared.
const NOMINAL_BATCH: usize = 32;

/// The plan that keeps as much as fits.
/// Errors: nothing fits; says the least that was reached, and by what that is taken.
pub fn fit(graph: &Graph, asked: &Depths, caps: &Caps, fit: Fit) -> Result<Planned, BuildError> {
    let mut search = Search { graph, caps, fit, least: None };
    if let Some(planned) = search.tried(asked) {
        return Ok(planned);
    }
    let cuts = cuts(graph);
    let mut width = 1;
    while width <= cuts.len() {
        let ladder = Ladder::new(graph, asked, &cuts, width);
        if let Some(planned) = search.climb(&ladder) {
            return Ok(planned);
        }
        width *= 2;
    }
    Err(search.nothing_fits())
}

struct Search<'a> {
    graph: &'a Graph,
    caps: &'a Caps,
    fit: Fit,
    /// What takes the least memory of all that was tried.
    least: Option<(u64, Plan, Layout)>,
}

impl Search<'_> {
    /// The plan with `depths`, if it fits.
    fn tried(&mut self, depths: &Depths) -> Option<Planned> {
        let planned = plan_with(self.graph, depths, self.caps);
        let layout = Layout::new(&planned.plan, self.caps, self.fit.max_batch);
        let bytes = (planned.plan.persistent_bytes() + layout.transient_bytes) as u64;
        if bytes <= self.fit.bytes {
            return Some(planned);
        }
        if self.least.as_ref().is_none_or(|(least, ..)| bytes < *least) {
            self.least = Some((bytes, planned.plan, layout));
        }
        None
    }

    /// The plan with as few parts of the ladder as fit.
    fn climb(&mut self, ladder: &Ladder) -> Option<Planned> {
        let mut best = self.tried(&ladder.depths(ladder.parts.len()))?;
        let (mut too_few, mut enough) = (None, ladder.parts.len());
        // The lowest step is tried too: `too_few` is below it at first.
        while let Some(middle) = between(too_few, enough) {
            match self.tried(&ladder.depths(middle)) {
                Some(planned) => (best, enough) = (planned, middle),
                None => too_few = Some(middle),
            }
        }
        Some(best)
    }

    fn nothing_fits(self) -> BuildError {
        let (bytes, plan, layout) = self.least.expect("bug: something was tried");
        let message = format!(
            "the step needs at least {bytes} bytes at batch size {}, with all that helps computed again; {} may be taken, {} too few",
            self.fit.max_batch,
            self.fit.bytes,
            bytes - self.fit.bytes
        );
        let mut error = BuildError::new("fit_in", message)
            .help("a smaller batch, with accumulate for the same update, or a 16-bit precision needs less");
        error.operands = taken_by(&plan, &layout);
        error
    }
}

/// A number between a step that is too low and one that is high enough.
fn between(low: Option<usize>, high: usize) -> Option<usize> {
    let first = low.map_or(0, |low| low + 1);
    (first < high).then(|| first + (high - first) / 2)
}

/// In the unit that leaves digits to see.
fn amount(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.1} KiB", bytes as f64 / (1 << 10) as f64),
        10_000_000.. => format!("{:.2} MiB", bytes as f64 / (1 << 20) as f64),
    }
}

/// How many buffers of the fullest moment are named.
const NAMED: usize = 6;

/// By what memory is taken: slots by kind, and the largest buffers of the moment at which the arena is fullest.
fn taken_by(plan: &Plan, layout: &Layout) -> Vec<String> {
    let of = |is: fn(SlotKind) -> bool| {
        let slots = plan.slots.iter().filter(|s| is(s.kind));
        slots.map(|s| (s.shape.numel_at(0) * s.dtype.size_bytes()).next_multiple_of(plan.align_bytes) as u64).sum()
    };
    let mut lines = vec![
        format!("{:>12}  parameters", amount(of(|kind| matches!(kind, SlotKind::Param { .. })))),
        format!("{:>12}  state of the optimizer, averages and sums", amount(of(|kind| kind == SlotKind::State))),
        format!("{:>12}  buffers and scalars", amount(of(|kind| matches!(kind, SlotKind::Buffer | SlotKind::Scalar)))),
    ];
    let launches = plan.launches();
    let live = |at: usize| {
        let lives = move |i: &usize| {
            let b = &plan.buffers[*i];
            b.space == Space::Transient && b.first as usize <= at && at <= b.last as usize
        };
        (0..plan.buffers.len()).filter(lives)
    };
    let held = |at: usize| live(at).map(|i| layout.sizes[i]).sum::<usize>();
    let fullest = (0..launches.len()).max_by_key(|&at| (held(at), std::cmp::Reverse(at))).unwrap_or(0);
    let place = |at: usize| match launches.get(at) {
        Some(launch) if launch.scope.is_empty() => launch.ops.clone(),
        Some(launch) => format!("{} in {}", launch.ops, launch.scope),
        None => "the end of the step".to_string(),
    };
    let arena = amount(layout.transient_bytes as u64);
    lines.push(format!("{arena:>12}  arena, fullest at launch {fullest}, {}; then it holds", place(fullest)));
    let mut largest: Vec<usize> = live(fullest).collect();
    largest.sort_by_key(|&i| (std::cmp::Reverse(layout.sizes[i]), i));
    lines.extend(largest.iter().take(NAMED).map(|&i| {
        let what = match plan.buffers[i].size {
            Size::Elements(_) => place(plan.buffers[i].first as usize),
            Size::Scratch { .. } => format!("scratch of {}", place(plan.buffers[i].first as usize)),
        };
        format!("{:>16}  {what}", amount(layout.sizes[i] as u64))
    }));
    let rest: usize = largest.iter().skip(NAMED).map(|&i| layout.sizes[i]).sum();
    if rest > 0 {
        lines.push(format!("{:>16}  {} more", amount(rest as u64), largest.len() - NAMED));
    }
    lines
}

/// Choices of growing effect: the first part of the list computed again, then the first two, and so on; of what is left, what is cheap.
struct Ladder<'a> {
    graph: &'a Graph,
    asked: &'a Depths,
    /// From the result of one contraction to that of the next.
    narrow: Vec<Range<u32>>,
    /// In the order in which they are chosen.
    parts: Vec<Range<u32>>,
}

impl Ladder<'_> {
    fn new<'a>(graph: &'a Graph, asked: &'a Depths, cuts: &[Cut], width: usize) -> Ladder<'a> {
        let end = graph.forward.unwrap_or(0);
        let narrow = between_contractions(cuts, end);
        let mut parts = parts(cuts, width, end);
        // The last part's gradient comes at once: its values would be computed again while they are still there.
        parts.pop();
        let mut ranked: Vec<(f64, Range<u32>)> = parts.into_iter().map(|part| (worth(graph, &part), part)).collect();
        ranked.sort_by(|(a, p), (b, q)| b.total_cmp(a).then(p.start.cmp(&q.start)));
        Ladder { graph, asked, narrow, parts: ranked.into_iter().map(|(_, part)| part).collect() }
    }

    /// The depths if the first `n` parts are computed again.
    fn depths(&self, n: usize) -> Depths {
        let of = |parts: &[Range<u32>], id: NodeId| parts.iter().find(|part| part.contains(&id.0)).cloned();
        let chosen =
            by_parts(self.graph, |id| of(&self.parts[..n], id).or_else(|| of(&self.narrow, id)).into_iter().collect());
        self.asked.iter().zip(chosen).map(|(&asked, chosen)| if asked > 0 { asked } else { chosen }).collect()
    }
}

/// Bytes that a part spares for each operation that it costs.
fn worth(graph: &Graph, part: &Range<u32>) -> f64 {
    let depths = by_parts(graph, |id| part.contains(&id.0).then(|| part.clone()).into_iter().collect());
    let forward = NodeId(graph.forward.unwrap_or(0));
    let users = users(graph);
    let (mut bytes, mut work) = (0.0, 1.0);
    for id in (part.start..part.end).map(NodeId).filter(|id| depths[id.0 as usize] > 0) {
        if users[id.0 as usize].iter().any(|user| *user >= forward) {
            bytes += size(graph, id) as f64;
        }
        work += graph.flops(id, NOMINAL_BATCH);
    }
    bytes / work
}

fn size(graph: &Graph, id: NodeId) -> usize {
    graph.node(id).shape.numel_at(NOMINAL_BATCH) * graph.node(id).dtype.size_bytes()
}

/// A place where the forward pass can be cut: what crosses it is kept.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Somewhere behind this contraction and before the next one.
    contraction: NodeId,
    /// Behind this many nodes.
    at: u32,
    crossing_bytes: usize,
}

/// For each contraction of the forward pass the best cut behind it and before the next one.
fn cuts(graph: &Graph) -> Vec<Cut> {
    let forward = graph.forward.unwrap_or(0);
    let users = users(graph);
    let kept = kept(graph);
    // Bytes that begin and end to cross at each place.
    let mut change = vec![0i64; forward as usize + 1];
    let source = |mut id: NodeId| {
        while let (Op::Movement(_), [x]) = (&graph.node(id).op, &graph.node(id).inputs[..]) {
            id = *x;
        }
        id
    };
    let mut last_use: Vec<u32> = (0..forward).collect();
    for id in (0..forward).map(NodeId) {
        let last = users[id.0 as usize].iter().map(|user| user.0).filter(|&user| user < forward).max().unwrap_or(0);
        let of = &mut last_use[source(id).0 as usize];
        *of = (*of).max(last);
    }
    for id in (0..forward).map(NodeId).filter(|&id| !kept[id.0 as usize] && source(id) == id) {
        change[id.0 as usize + 1] += size(graph, id) as i64;
        change[last_use[id.0 as usize] as usize + 1] -= size(graph, id) as i64;
    }
    let mut cuts: Vec<Cut> = Vec::new();
    let mut crossing = 0;
    for at in 1..=forward {
        crossing += change[at as usize];
        let crossing_bytes = crossing.max(0) as usize;
        if matches!(graph.node(NodeId(at - 1)).op, Op::Contract(_)) {
            cuts.push(Cut { contraction: NodeId(at - 1), at, crossing_bytes });
        } else if let Some(cut) = cuts.last_mut().filter(|cut| crossing_bytes < cut.crossing_bytes) {
            (cut.at, cut.crossing_bytes) = (at, crossing_bytes);
        }
    }
    cuts
}

/// The parts in which no contraction is computed again: its result ends one and is kept.
fn between_contractions(cuts: &[Cut], end: u32) -> Vec<Range<u32>> {
    let ends: Vec<u32> = cuts.iter().map(|cut| cut.contraction.0 + 1).chain([end]).collect();
    std::iter::once(0).chain(ends.iter().copied()).zip(ends.iter().copied()).map(|(start, end)| start..end).collect()
}

/// Parts of about `width` contractions, between cuts where little crosses. The last one ends with the forward pass.
fn parts(cuts: &[Cut], width: usize, end: u32) -> Vec<Range<u32>> {
    let (mut parts, mut start, mut next) = (Vec::new(), 0, 0);
    while next + width <= cuts.len() {
        // The cut after `width` contractions, or one nearby that less crosses.
        let ideal = next + width - 1;
        let nearby = next + width / 2..(ideal + width / 2 + 1).min(cuts.len());
        let best = nearby.min_by_key(|&i| (cuts[i].crossing_bytes, i.abs_diff(ideal))).unwrap_or(ideal);
        parts.push(start..cuts[best].at);
        (start, next) = (cuts[best].at, best + 1);
    }
    parts.push(start..end);
    parts
}
