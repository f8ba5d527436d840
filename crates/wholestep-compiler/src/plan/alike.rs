//! Which loops may be segments of one launch. Takes loops, gives equal words for those that are the same program over other extents, strides and
//! offsets. Never looks at what they depend on.

use crate::codegen::spread::{analyse, is_fourfold, runs_across};
use crate::ir::Dim;
use crate::kernel::lower::Work;
use crate::kernel::{Kernel, Loop, Map};
use std::collections::BTreeMap;

/// The program of a loop without what segments of one launch may differ in: extents and, where all extents are known, strides and offsets. Others
/// come from values of a batch, whose loops gain more from numbers in their text.
pub fn key(k: &Loop) -> String {
    let mut blank = Loop { axes: Vec::new(), ..k.clone() };
    let mut length = 0;
    if k.axes.iter().all(|d| d.batch == 0) {
        blank.maps_mut().into_iter().for_each(blot);
        length = length_class(k);
    }
    format!("{} {} {length} {blank:?}", k.axes.len(), moves_in_fours(k))
}

/// Puts in place of strides and offsets what segments of one launch agree in: whether a stride is 0 or 1, and where neighbours may lie side by
/// side whether all are multiples of four, so that they move as vectors in all segments or in none.
fn blot(map: &mut Map) {
    let moves = map.strides.contains(&Dim::ONE);
    let class = |n: &mut Dim| n.fixed = if n.fixed % 4 == 0 || !moves { 4 } else { 3 };
    map.strides.iter_mut().filter(|n| n.batch == 0 && n.fixed.abs() > 1).for_each(class);
    Some(&mut map.offset).filter(|n| n.batch == 0).into_iter().for_each(class);
}

/// Whether the axis along which neighbours lie, of several, is a multiple of four: see [`crate::codegen::quad`].
pub fn moves_in_fours(k: &Loop) -> bool {
    let across = runs_across(k, &analyse(k));
    let axis = if across { k.n_outer.checked_sub(1) } else { k.axes.len().checked_sub(1) };
    k.axes.len() > 1 && axis.is_some_and(|axis| is_fourfold(k.axes[axis]))
}

/// Rows of very different lengths are other work: one of 8 elements is a thread's, one of 4096 a workgroup's.
fn length_class(k: &Loop) -> u32 {
    const MOST: u32 = 4;
    let points = |axes: &[Dim]| axes.iter().map(|d| d.fixed.max(1) as u64).product::<u64>();
    if k.n_outer == 0 { 0 } else { (points(&k.axes[k.n_outer..]).ilog2() / 3).min(MOST) }
}

/// Works that do not depend on each other, with those that are alike in one.
pub fn join(works: Vec<Work>) -> Vec<Work> {
    let mut joined: Vec<Work> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for work in works {
        let Kernel::Loop(k) = &work.segments[0].kernel else {
            joined.push(work);
            continue;
        };
        match *known.entry(key(k)).or_insert(joined.len()) {
            at if at < joined.len() => joined[at].segments.extend(work.segments),
            _ => joined.push(work),
        }
    }
    joined
}
