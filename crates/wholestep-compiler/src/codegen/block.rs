//! Elementwise loops that read along one axis what they write along another, such as a transposition: sixteen points a thread, four along each,
//! so that memory moves in vectors on both sides. Takes a loop of that kind, gives its shader; other loops are left to [`super::quad`].

use super::loops::prologue;
use super::point::Site;
use super::quad::{LANES, Quads};
use super::source::define;
use super::spread::is_fourfold;
use super::{Count, Grid, Shader, Source, Word, index};
use crate::caps::Workgroups;
use crate::ir::Dim;
use crate::kernel::{Instr, Loop};

/// Points of a workgroup along either axis: 256 threads of four by four.
const EDGE: u32 = 64;
const THREADS: u32 = 256;
/// Longer programs are bound by other things, and stand sixteen times in the text.
const MOST_INSTRS: usize = 16;
/// Fewer points than this, at the nominal batch size, leave most of a device idle in such large pieces.
const WORTHWHILE: i64 = 65_536;
const NOMINAL_BATCH: i64 = 64;

/// The axis other than the last along which some load is a vector that is none along the last.
fn other_axis(k: &Loop, along: &Quads) -> Option<usize> {
    let last = k.axes.len().checked_sub(1)?;
    let steps = |i: usize, a: usize| matches!(&k.instrs[i], Instr::Load { map, .. } if map.strides[a] == Dim::ONE);
    let reads = (0..k.instrs.len()).filter(|&i| !along.uniform[i] && !along.whole[i]);
    reads.flat_map(|i| (0..last).filter(move |&a| steps(i, a))).next()
}

/// The shader of a loop, if it is of this kind.
pub fn shader(k: &Loop, workgroups: &Workgroups) -> Option<Shader> {
    let last = k.axes.len().checked_sub(1)?;
    let n: i64 = k.axes.iter().map(|d| d.batch * NOMINAL_BATCH + d.fixed).product();
    if k.instrs.len() > MOST_INSTRS || n < WORTHWHILE || !is_fourfold(k.axes[last]) || workgroups.threads < THREADS {
        return None;
    }
    let along = Quads::along(k, last);
    let axis = other_axis(k, &along).filter(|&a| is_fourfold(k.axes[a]))?;
    let across = Quads::along(k, axis);
    if !(0..k.instrs.len()).any(|i| across.whole[i] && !along.uniform[i]) {
        return None;
    }
    let mut s = Source::new(workgroups, &k.args).with_open_numbers();
    [&along, &across].iter().for_each(|q| q.bind(&mut s));
    let mut body = prologue(&mut s, 1);
    let (mut sizes, mut counts) = (Vec::new(), Vec::new());
    for (a, &extent) in k.axes.iter().enumerate() {
        let per = if a == last || a == axis { EDGE } else { 1 };
        sizes.push(s.divisor(a, extent, per));
        counts.push(if per == 1 { Word::Dim(extent) } else { Word::Tiles(extent, per) });
    }
    let (text, mut names) = index::unravel("tile", &sizes, "t", &define);
    body += &text;
    // Threads that run together are eight along the last axis by four along the other: whole lines of memory on either side.
    body += "let along = (local & 7u) | ((local >> 2u) & 8u);\nlet across = ((local >> 3u) & 3u) | ((local >> 4u) & 12u);\n";
    body += &define("b_last", &format!("{} * {EDGE}u + along * 4u", names[last]));
    body += &define("b_axis", &format!("{} * {EDGE}u + across * 4u", names[axis]));
    (names[last], names[axis]) = ("b_last".to_string(), "b_axis".to_string());
    body += &format!("if (b_last < {} && b_axis < {}) {{\n", s.dim(k.axes[last]), s.dim(k.axes[axis]));
    let (mut indices, mut suffixes) = (Vec::new(), Vec::new());
    for (at, (l, p)) in (0..4).flat_map(|l| (0..4).map(move |p| (l, p))).enumerate() {
        debug_assert_eq!(at, 4 * l + p);
        let mut names = names.clone();
        names[last] = format!("(b_last + {l}u)");
        names[axis] = format!("(b_axis + {p}u)");
        indices.push(names);
        suffixes.push(along.suffixes(LANES[l], |i| if across.uniform[i] { String::new() } else { format!("_{p}") }));
    }
    let site = |l: usize, p: usize| Site {
        index: &indices[4 * l + p],
        linear: None,
        axes: &k.axes,
        suffixes: Some(&suffixes[4 * l + p]),
    };
    let line = |p: usize| [0, 1, 2, 3].map(|l| site(l, p));
    let column = |l: usize| [0, 1, 2, 3].map(|p| site(l, p));
    for i in 0..k.instrs.len() {
        if along.whole[i] {
            let lines = if across.uniform[i] { 1 } else { 4 };
            (0..lines).for_each(|p| body += &along.instruction(&mut s, k, i, &line(p), None));
        } else {
            let columns = if along.uniform[i] { 1 } else { 4 };
            (0..columns).for_each(|l| body += &across.instruction(&mut s, k, i, &column(l), None));
        }
    }
    for store in &k.stores {
        if along.moves(store.arg) {
            (0..4).for_each(|p| body += &along.store(&mut s, store, &line(p)));
        } else {
            (0..4).for_each(|l| body += &across.store(&mut s, store, &column(l)));
        }
    }
    body += "}\n";
    Some(s.finish([THREADS, 1, 1], Grid::Line(Count { of: counts, per: 1 }), &body))
}
