//! Which values have one memory. Takes a fused graph, gives the memory of values that are slots or values of loops under another name: what is
//! updated is written over what it was, a loop works in the memory of what it begins with, what is left of it stays there, and the parts of a
//! concatenation are made side by side. Never
//! moves anything where somebody still reads what was there.

use crate::ir::op::{Control, Index, Leaf, Movement, Op};
use crate::ir::{Dim, Graph, NodeId, SlotId};
use crate::kernel::fuse::{ClusterKind, Fusion, Role, is_gathered, squeeze};
use crate::kernel::lower::Place;
use std::collections::BTreeSet;

/// What shares memory with what.
#[derive(Clone)]
pub struct Sharing {
    /// By node, the memory of its value, where that is not its own.
    pub at: Vec<Option<Place>>,
    /// By node, at which element of that memory the value begins.
    pub offsets: Vec<Dim>,
    /// Values that must be copied to where they are to be, at the end of a trip or, for `None`, of the step.
    pub copies: Vec<(Option<usize>, NodeId, Place)>,
    /// Clusters that have nothing to do, or would copy a value to where it is.
    pub idle: BTreeSet<usize>,
}

/// Something with memory of its own that a step or a trip gives a new value.
struct Target {
    place: Place,
    /// The nodes that read its old value.
    leaves: Vec<NodeId>,
    new: NodeId,
    region: Option<usize>,
}

pub fn share(graph: &Graph, fusion: &mut Fusion) -> Sharing {
    // Of an empty cluster there is nothing to run.
    let idle = (0..fusion.clusters.len()).filter(|&c| fusion.clusters[c].nodes.is_empty()).collect();
    let n = graph.nodes.len();
    let mut sharing = Sharing { at: vec![None; n], offsets: vec![Dim::ZERO; n], copies: Vec::new(), idle };
    let updates: Vec<(SlotId, NodeId)> = graph.updates.clone();
    let of_slots = updates.iter().map(|&(slot, new)| Target {
        place: Place::Slot(slot),
        leaves: leaves_of(graph, fusion, slot),
        new,
        region: None,
    });
    let mut targets: Vec<Target> = of_slots.collect();
    let loops = fusion.loops.clone();
    for (index, l) in loops.list.iter().enumerate() {
        let values = l.carries.iter().zip(&l.nexts).filter(|(carry, next)| carry != next);
        targets.extend(values.map(|(&carry, &new)| Target {
            place: Place::Node(carry),
            leaves: vec![carry],
            new,
            region: Some(index),
        }));
    }
    let lent: Vec<bool> = targets.iter().map(|target| lend(graph, fusion, &mut sharing, target)).collect();
    for &carry in loops.list.iter().flat_map(|l| &l.carries) {
        let at = home(&sharing, carry);
        sharing.at[carry.0 as usize] = Some(at);
        sharing.at[graph.node(carry).inputs[0].0 as usize] = Some(at);
    }
    for l in &loops.list {
        for &result in &l.results {
            let Op::Control(Control::Result { index, .. }) = graph.node(result).op else { continue };
            sharing.at[result.0 as usize] = Some(home(&sharing, l.carries[index as usize]));
        }
    }
    for (target, _) in targets.iter().zip(lent).filter(|(_, is_lent)| !is_lent) {
        donate(graph, fusion, &mut sharing, target);
    }
    for c in 0..fusion.clusters.len() {
        if let ClusterKind::Other(id) = fusion.clusters[c].kind
            && let Op::Movement(Movement::Concat { axis }) = graph.node(id).op
        {
            make_in_place(graph, fusion, &mut sharing, (c, id), axis);
        }
    }
    sharing
}

/// Lets the parts of a concatenation along its outermost axis be made where they are to lie, instead of copied there: those that a loop makes
/// and nobody else reads.
fn make_in_place(graph: &Graph, fusion: &Fusion, sharing: &mut Sharing, (c, id): (usize, NodeId), axis: usize) {
    let shape = &graph.node(id).shape;
    let step = shape.strides().expect("bug: a node holds at most a·B + b elements")[axis];
    if shape.0[..axis].iter().any(|d| *d != Dim::ONE) || sharing.at[id.0 as usize].is_some() {
        return;
    }
    let n_parts = graph.node(id).inputs.len();
    let sources: Vec<NodeId> = (0..n_parts).map(|k| fusion.source(graph, id, k)).collect();
    let mut makers = BTreeSet::new();
    let (mut at, mut n_made) = (Dim::ZERO, 0);
    for (k, &source) in sources.iter().enumerate() {
        let part = &graph.node(graph.node(id).inputs[k]).shape;
        let maker = fusion.cluster[source.0 as usize].filter(|&maker| {
            let whole = graph.node(source);
            let is_whole = whole.shape.numel() == part.numel() && whole.dtype == graph.node(id).dtype;
            let is_once = sources.iter().filter(|&&other| other == source).count() == 1;
            is_whole && is_once && is_only_read_by(graph, fusion, sharing, source, c) && makers.insert(maker)
        });
        if maker.is_some() {
            sharing.at[source.0 as usize] = Some(Place::Node(id));
            sharing.offsets[source.0 as usize] = at.times(step).expect("bug: a node holds at most a·B + b elements");
            n_made += 1;
        }
        at = at + part.0[axis];
    }
    if n_made == n_parts {
        sharing.idle.insert(c);
    }
}

/// Whether a loop makes a value that has no memory yet and that nothing but the cluster `reader`, of another kind and in the same region, reads.
fn is_only_read_by(graph: &Graph, fusion: &Fusion, sharing: &Sharing, value: NodeId, reader: usize) -> bool {
    let Some(maker) = fusion.cluster[value.0 as usize] else { return false };
    let same = fusion.clusters[maker].region == fusion.clusters[reader].region;
    let is_loop = fusion.clusters[maker].kind == ClusterKind::Loop && !sharing.idle.contains(&maker);
    let firsts = fusion.loops.list.iter().flat_map(|l| l.carries.iter().map(|carry| graph.node(*carry).inputs[0]));
    let nexts = fusion.loops.list.iter().flat_map(|l| l.nexts.iter().copied());
    let updates = graph.updates.iter().map(|(_, node)| *node);
    let mut kept = graph.outputs.iter().map(|o| o.node).chain(updates).chain(firsts).chain(nexts);
    let mut others = (0..fusion.clusters.len()).filter(|&c| c != reader && fusion.clusters[c].reads.contains(&value));
    let has_none = sharing.at[value.0 as usize].is_none() && !kept.any(|id| id == value);
    same && is_loop && has_none && others.next().is_none()
}

/// The memory of a loop's value: its own, or that which was lent to it.
fn home(sharing: &Sharing, carry: NodeId) -> Place {
    match sharing.at[carry.0 as usize] {
        Some(Place::Node(other)) if other != carry => home(sharing, other),
        Some(place) => place,
        None => Place::Node(carry),
    }
}

fn leaves_of(graph: &Graph, fusion: &Fusion, slot: SlotId) -> Vec<NodeId> {
    let reads = |id: &NodeId| matches!(graph.node(*id).op, Op::Leaf(Leaf::Slot { id: s, .. }) if s == slot);
    graph.ids().filter(reads).filter(|id| fusion.role[id.0 as usize] == Role::Leaf).collect()
}

/// Lets a loop work in the memory of `target`, where its new value is what is left of a value that began as the old one, and everybody else
/// who reads the old value can do so before the loop.
fn lend(graph: &Graph, fusion: &mut Fusion, sharing: &mut Sharing, target: &Target) -> bool {
    let Some((index, carry, moves)) = borrower(graph, fusion, target) else { return false };
    let inside = |fusion: &Fusion, c: usize| fusion.loops.is_within(fusion.clusters[c].region, Some(index));
    let clusters = 0..fusion.clusters.len();
    let reads = |c: &usize| target.leaves.iter().any(|leaf| fusion.clusters[*c].reads.contains(leaf));
    let readers: Vec<usize> = clusters.clone().filter(|c| reads(c) && !moves.contains(c)).collect();
    let trips: Vec<usize> = clusters.filter(|&c| inside(fusion, c)).collect();
    let is_late = |r: usize| inside(fusion, r) || trips.iter().any(|&trip| depends_on(fusion, r, trip));
    if trips.is_empty() || readers.iter().any(|&r| is_late(r)) {
        return false;
    }
    trips.iter().for_each(|&trip| fusion.clusters[trip].deps.extend(&readers));
    sharing.at[carry.0 as usize] = Some(target.place);
    sharing.at[target.new.0 as usize] = Some(target.place);
    sharing.idle.extend(moves);
    true
}

/// The loop whose value `target` could be, that value, and the two clusters that would copy in and out.
fn borrower(graph: &Graph, fusion: &Fusion, target: &Target) -> Option<(usize, NodeId, [usize; 2])> {
    if !fusion.moves.contains(&target.new) {
        return None;
    }
    let result = graph.node(target.new).inputs[0];
    let Op::Control(Control::Result { index: value, .. }) = graph.node(result).op else { return None };
    let index = fusion.loops.list.iter().position(|l| l.results.contains(&result))?;
    let l = &fusion.loops.list[index];
    let carry = l.carries[value as usize];
    let first = graph.node(carry).inputs[0];
    let begins_there = fusion.moves.contains(&first) && target.leaves.contains(&graph.node(first).inputs[0]);
    if l.parent != target.region || !begins_there {
        return None;
    }
    Some((index, carry, [fusion.cluster[first.0 as usize]?, fusion.cluster[target.new.0 as usize]?]))
}

/// Writes the new value over the old one, by the cluster that makes it, or notes that it is copied at the end.
///
/// In place is safe if every other reader of the old value runs before the writer, and the writer reads each element only where it writes it.
fn donate(graph: &Graph, fusion: &mut Fusion, sharing: &mut Sharing, target: &Target) {
    let &Target { place, ref leaves, new, region } = target;
    let writer = fusion.cluster[new.0 as usize].expect("bug: an update's value is computed");
    let readers: Vec<usize> = (0..fusion.clusters.len())
        .filter(|&c| c != writer && leaves.iter().any(|leaf| fusion.clusters[c].reads.contains(leaf)))
        .filter(|c| !sharing.idle.contains(c))
        .collect();
    let free = sharing.at[new.0 as usize].is_none()
        && leaves.iter().all(|&leaf| reads_where_it_writes(graph, fusion, writer, leaf, new))
        && readers.iter().all(|&r| !depends_on(fusion, r, writer));
    let place = match place {
        Place::Node(carry) => home(sharing, carry),
        other => other,
    };
    if free {
        fusion.clusters[writer].deps.extend(readers);
        sharing.at[new.0 as usize] = Some(place);
    } else {
        sharing.copies.push((region, new, place));
    }
}

fn reads_where_it_writes(graph: &Graph, fusion: &Fusion, writer: usize, leaf: NodeId, node: NodeId) -> bool {
    let cluster = &fusion.clusters[writer];
    if !cluster.reads.contains(&leaf) {
        return true;
    }
    if let ClusterKind::Other(id) = cluster.kind {
        let sources: Vec<NodeId> = (0..fusion.n_operands(graph, id)).map(|k| fusion.source(graph, id, k)).collect();
        let is_put = matches!(graph.node(id).op, Op::Index(Index::Put { .. }));
        return is_put && sources[0] == leaf && !sources[1..].contains(&leaf);
    }
    cluster.nodes.iter().all(|&id| {
        (0..fusion.n_operands(graph, id)).filter(|&k| fusion.source(graph, id, k) == leaf).all(|k| {
            let view = fusion.operand(graph, id, k);
            let same_shape = squeeze(&graph.node(id).shape) == squeeze(&graph.node(node).shape);
            let identity = view.map.is_row_major(fusion.operand_shape(graph, id, k).dims());
            let plain = !is_gathered(graph, id, k) && !matches!(graph.node(id).op, Op::Contract(_));
            plain && same_shape && identity && fusion.role[id.0 as usize] != Role::Reduce
        })
    })
}

/// Whether `from` runs after `target`: it, what it waits for, or, around any of these, a loop in which `target` is not, waits for it.
fn depends_on(fusion: &Fusion, from: usize, target: usize) -> bool {
    let mut open = vec![from];
    let mut seen = vec![false; fusion.clusters.len()];
    let mut seen_loops = vec![false; fusion.loops.list.len()];
    while let Some(at) = open.pop() {
        if at == target {
            return true;
        }
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        open.extend(fusion.clusters[at].deps.iter().copied());
        for l in fusion.loops.chain(fusion.clusters[at].region) {
            let has_target = fusion.loops.is_within(fusion.clusters[target].region, Some(l));
            if !has_target && !std::mem::replace(&mut seen_loops[l], true) {
                let inside = |c: &usize| fusion.loops.is_within(fusion.clusters[*c].region, Some(l));
                open.extend((0..fusion.clusters.len()).filter(inside));
            }
        }
    }
    false
}
