//! Which elements kernels address. Takes a kernel and the buffers of one of its segments, gives the first argument that it may leave. Never trusts
//! guards that it cannot follow: backends run kernels on raw memory, with nothing between them and what lies beside a buffer.

use super::{Plan, Segment, Size};
use crate::ir::Dim;
use crate::kernel::{Contract, Contraction, ConvSizes, Instr, Kernel, Loop, Map, WindowKernel, WindowOp};
use std::fmt;

/// Batch sizes at which addresses are checked: they are linear in B, so two would do for most.
const CHECKED_BATCHES: [usize; 3] = [1, 3, 32];

/// The first and the last element of something; nothing at all if they are the wrong way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range(i64, i64);

impl Range {
    fn and(self, other: Range) -> Range {
        Range(self.0.max(other.0), self.1.min(other.1))
    }

    fn plus(self, other: Range) -> Range {
        Range(self.0 + other.0, self.1 + other.1)
    }

    fn times(self, n: i64) -> Range {
        let (a, b) = (self.0 * n, self.1 * n);
        Range(a.min(b), a.max(b))
    }

    fn is_empty(self) -> bool {
        self.0 > self.1
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.0, self.1)
    }
}

/// Checks that a kernel addresses nothing outside of a segment's buffers.
/// Errors: the argument that it may leave, and how far.
pub fn check(plan: &Plan, kernel: &Kernel, segment: &Segment) -> Result<(), String> {
    for batch in CHECKED_BATCHES {
        for (arg, reached) in reached(kernel, &segment.axes, batch) {
            let id = segment.args[arg as usize];
            let Size::Elements(shape) = &plan.buffers[id.0 as usize].size else { continue };
            let n = shape.numel_at(batch) as i64;
            if !reached.is_empty() && (reached.0 < 0 || reached.1 >= n) {
                let kind = kernel.kind();
                return Err(format!(
                    "a {kind} reaches {reached} of a{arg}, b{}, with {n} elements at B = {batch}",
                    id.0
                ));
            }
        }
    }
    Ok(())
}

/// The elements of each argument that a kernel may address.
fn reached(kernel: &Kernel, axes: &[Dim], batch: usize) -> Vec<(u32, Range)> {
    let first = |dims: &[Dim]| Range(0, dims.iter().map(|d| d.at_signed(batch)).product::<i64>() - 1);
    match kernel {
        Kernel::Loop(k) => of_loop(k, axes, batch),
        Kernel::Contract(k) => of_contract(k, batch),
        Kernel::Window(k) => of_window(k, batch),
        Kernel::Scatter(k) => {
            let index = if k.along { first(&[k.outer, k.n_index, k.inner]) } else { first(&[k.n_index]) };
            vec![(0, first(&[k.outer, k.n_index, k.inner])), (1, index), (2, first(&[k.outer, k.len, k.inner]))]
        }
        Kernel::Sort(k) => [0, 1].map(|arg| (arg, first(&[k.outer, k.len, k.inner]))).to_vec(),
        Kernel::Scan(k) => [0, 1].map(|arg| (arg, first(&[k.outer, k.len, k.inner]))).to_vec(),
    }
}

fn of_loop(k: &Loop, axes: &[Dim], batch: usize) -> Vec<(u32, Range)> {
    let loads = k.instrs.iter().filter_map(|instr| match instr {
        Instr::Load { arg, map, .. } => Some((*arg, of_map(map, axes, batch))),
        Instr::Gather { arg, map, stride, len, .. } => {
            let places = Range(0, len.at_signed(batch) - 1).times(stride.at_signed(batch));
            Some((*arg, of_map(map, axes, batch).plus(places)))
        }
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
    loads.chain(k.stores.iter().map(|s| (s.arg, of_map(&s.map, axes, batch)))).collect()
}

fn of_contract(k: &Contract, batch: usize) -> Vec<(u32, Range)> {
    let all = |extents: &[usize]| extents.iter().product::<usize>();
    let conv = |s: &ConvSizes| {
        let n = s.n.at(batch);
        let w = all(&s.kernel) * s.c_in / s.geometry.groups * s.c_out;
        [n * all(&s.input) * s.c_in, n * all(&s.out) * s.c_out, w].map(|n| Range(0, n as i64 - 1))
    };
    let mut found = match &k.contraction {
        Contraction::Matmul { batch: lead, m, n, k, lhs, rhs } => {
            let over = |tail: [Dim; 2]| lead.iter().copied().chain(tail).collect::<Vec<Dim>>();
            let result: i64 = over([*m, *n]).iter().map(|d| d.at_signed(batch)).product();
            let [lhs, rhs] = [(lhs, [*m, *k]), (rhs, [*k, *n])].map(|(map, tail)| of_map(map, &over(tail), batch));
            vec![(0, lhs), (1, rhs), (2, Range(0, result - 1))]
        }
        Contraction::Conv(s) => {
            let [x, y, w] = conv(s);
            vec![(0, x), (1, w), (2, y)]
        }
        Contraction::ConvInputGrad(s) => {
            let [x, y, w] = conv(s);
            vec![(0, y), (1, w), (2, x)]
        }
        Contraction::ConvWeightGrad(s) => {
            let [x, y, w] = conv(s);
            vec![(0, x), (1, y), (2, w)]
        }
    };
    found.extend(k.epilogue.iter().flat_map(|e| of_loop(e, &e.axes, batch)));
    found
}

fn of_window(k: &WindowKernel, batch: usize) -> Vec<(u32, Range)> {
    let of = |extents: &[usize]| Range(0, (k.n.at(batch) * extents.iter().product::<usize>() * k.channels) as i64 - 1);
    let (x, y) = (of(&k.input), of(&k.geometry.out));
    let args = match k.op {
        WindowOp::ArgMax | WindowOp::Sum => vec![x, y],
        WindowOp::Take => vec![x, y, y],
        WindowOp::Put => vec![y, y, x],
        WindowOp::Spread => vec![y, x],
    };
    (0..).zip(args).collect()
}

/// The places of a map over axes where its guards hold.
fn of_map(map: &Map, axes: &[Dim], batch: usize) -> Range {
    const NOTHING: Range = Range(0, -1);
    let mut places: Vec<Range> = axes.iter().map(|axis| Range(0, axis.at_signed(batch) - 1)).collect();
    let strides: Vec<i64> = map.strides.iter().map(|s| s.at_signed(batch)).collect();
    // What a guard of one axis leaves of it.
    for guard in &map.guards {
        let mut of = (0..axes.len()).filter(|&i| guard.strides[i] != 0);
        if let (Some(axis), None) = (of.next(), of.next()) {
            let (offset, extent) = (guard.offset.at_signed(batch), guard.extent.at_signed(batch));
            let (stride, from, to) = match guard.strides[axis] {
                // -offset <= stride·i < extent - offset, or the same turned round.
                stride @ 1.. => (stride, -offset, extent - 1 - offset),
                stride => (-stride, offset - (extent - 1), offset),
            };
            let up = from.div_euclid(stride) + i64::from(from.rem_euclid(stride) != 0);
            places[axis] = places[axis].and(Range(up, to.div_euclid(stride)));
        }
    }
    if places.iter().any(|p| p.is_empty()) {
        return NOTHING;
    }
    // An axis that was split: where the map moves as the guard does, the guard bounds both.
    let mut bounded = vec![false; axes.len()];
    let mut all = Range(0, 0).plus(Range(map.offset.at_signed(batch), map.offset.at_signed(batch)));
    for guard in &map.guards {
        let of: Vec<usize> = (0..axes.len()).filter(|&i| guard.strides[i] != 0).collect();
        let [first, _, ..] = of[..] else { continue };
        let ratio = strides[first] / guard.strides[first];
        if of.iter().any(|&i| bounded[i] || strides[i] != ratio * guard.strides[i]) {
            continue;
        }
        let offset = guard.offset.at_signed(batch);
        let free = of.iter().map(|&i| places[i].times(guard.strides[i])).fold(Range(offset, offset), Range::plus);
        let held = free.and(Range(0, guard.extent.at_signed(batch) - 1));
        if held.is_empty() {
            return NOTHING;
        }
        all = all.plus(held.plus(Range(-offset, -offset)).times(ratio));
        of.iter().for_each(|&i| bounded[i] = true);
    }
    let free = (0..axes.len()).filter(|&i| !bounded[i]).map(|i| places[i].times(strides[i]));
    free.fold(all, Range::plus)
}

#[cfg(test)]
mod tests {
    use super::{Range, of_map};
    use crate::ir::{Batch, Dim};
    use crate::kernel::{Guard, Map};

    fn d(n: i64) -> Dim {
        Dim { batch: 0, fixed: n }
    }

    /// The places by trying every point.
    fn tried(map: &Map, axes: &[Dim], batch: usize) -> Option<Range> {
        let mut found: Option<Range> = None;
        let n: Vec<i64> = axes.iter().map(|a| a.at_signed(batch)).collect();
        for number in 0..n.iter().product::<i64>() {
            let (mut rest, mut at) = (number, vec![0; n.len()]);
            for i in (0..n.len()).rev() {
                (at[i], rest) = (rest % n[i], rest / n[i]);
            }
            let sum = |strides: &mut dyn Iterator<Item = i64>| strides.zip(&at).map(|(s, i)| s * i).sum::<i64>();
            let holds = map.guards.iter().all(|g| {
                let place = g.offset.at_signed(batch) + sum(&mut g.strides.iter().copied());
                (0..g.extent.at_signed(batch)).contains(&place)
            });
            if holds {
                let place = map.offset.at_signed(batch) + sum(&mut map.strides.iter().map(|s| s.at_signed(batch)));
                found = Some(found.map_or(Range(place, place), |f| Range(f.0.min(place), f.1.max(place))));
            }
        }
        found
    }

    #[test]
    fn places_are_those_that_every_point_reaches() {
        let guard = |strides: &[i64], offset, extent| Guard { strides: strides.to_vec(), offset: d(offset), extent };
        let map = |strides: &[i64], offset, guards: Vec<Guard>| Map {
            strides: strides.iter().map(|&s| d(s)).collect(),
            offset: d(offset),
            guards,
        };
        let cases = [
            // A batch of rows, turned round.
            (vec![Batch, d(4)], map(&[4, -1], 3, vec![])),
            // Padding on both sides; every second place of it; from the end.
            (vec![d(9)], map(&[1], -2, vec![guard(&[1], -2, d(5))])),
            (vec![d(5)], map(&[2], -3, vec![guard(&[2], -3, d(4))])),
            (vec![d(6)], map(&[-3], 10, vec![guard(&[-3], 10, d(9))])),
            // Two padded axes, and an axis of 12 places that was split into 3 x 4.
            (vec![d(5), d(6)], map(&[4, 1], -9, vec![guard(&[1, 0], -2, d(3)), guard(&[0, 1], -1, d(4))])),
            (vec![Batch, d(3), d(4)], map(&[7, 4, 1], -2, vec![guard(&[0, 4, 1], -2, d(7))])),
            (vec![d(3), d(4)], map(&[12, 3], 5, vec![guard(&[4, 1], 0, Batch)])),
        ];
        for (axes, map) in &cases {
            for batch in [1, 2, 3, 7] {
                assert_eq!(Some(of_map(map, axes, batch)), tried(map, axes, batch), "{map:?} at {batch}");
            }
        }
        // Padding alone is nowhere.
        let outside = map(&[1], -8, vec![guard(&[1], -8, d(4))]);
        assert!(of_map(&outside, &[d(6)], 1).is_empty() && tried(&outside, &[d(6)], 1).is_none());
    }
}
