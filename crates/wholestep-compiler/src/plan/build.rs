//! From clusters to a plan. Takes a fused graph, gives launches in order with their buffers and lifetimes; decides which slots are
//! updated in place. Never assigns offsets: the largest batch size is not known yet.

use super::order::{WorkGraph, merge_segments, order};
use super::{Buffer, BufferId, Item, Launch, Output, Plan, Segment, Size, Space};
use crate::ir::op::{Leaf, Op};
use crate::ir::{DType, Dim, Graph, NodeId, SlotId};
use crate::kernel::fuse::{ClusterKind, Fusion, Role, is_gathered, squeeze};
use crate::kernel::lower::{Place, Places, Work, copy_to_slot, lower, stored};
use crate::kernel::{Access, Contract, Instr, Kernel};
use std::collections::BTreeMap;

/// The plan of a fused graph.
pub fn build(graph: &Graph, mut fusion: Fusion, align_bytes: usize) -> Plan {
    let (in_slot, copies) = donate(graph, &mut fusion);
    let places = Places { stored: stored(graph, &fusion), in_slot };
    let mut works = WorkGraph::default();
    let mut last_of_cluster: Vec<Vec<usize>> = Vec::new();
    let by_cluster: Vec<Vec<Work>> = fusion.clusters.iter().map(|c| lower(graph, &fusion, &places, c)).collect();
    for (cluster, made) in fusion.clusters.iter().zip(by_cluster) {
        let priority = match cluster.kind {
            ClusterKind::Contract(id) | ClusterKind::Other(id) => id.0,
            ClusterKind::Loop => cluster.nodes.iter().map(|id| id.0).min().unwrap_or(0),
        };
        // Dependencies are cluster indices until all works are there.
        let deps = cluster.deps.clone();
        last_of_cluster.push(made.into_iter().map(|work| works.add(work, deps.clone(), priority)).collect());
    }
    for deps in &mut works.deps {
        *deps = deps.iter().flat_map(|&c| last_of_cluster[c].iter().copied()).collect();
    }
    for (slot, node) in copies {
        let all = (0..works.works.len()).collect();
        works.add(copy_to_slot(graph, &places, node, slot), all, u32::MAX);
    }
    let works = merge_segments(works);
    let order = order(&works);
    assemble(graph, &places, order.into_iter().map(|i| works.works[i].clone()).collect(), align_bytes)
}

/// Slots whose new value can be written over the old one, by the node that makes it; and updates that need a copy at the end.
///
/// In place is safe if every other reader of the old value runs before the writer, and the writer reads each element only where it writes it.
fn donate(graph: &Graph, fusion: &mut Fusion) -> (Vec<Option<SlotId>>, Vec<(SlotId, NodeId)>) {
    let mut in_slot: Vec<Option<SlotId>> = vec![None; graph.nodes.len()];
    let mut copies = Vec::new();
    for &(slot, node) in &graph.updates {
        let leaves: Vec<NodeId> = graph
            .ids()
            .filter(|&id| matches!(&graph.node(id).op, Op::Leaf(Leaf::Slot { id: s, .. }) if *s == slot))
            .filter(|id| fusion.role[id.0 as usize] == Role::Leaf)
            .collect();
        let writer = fusion.cluster[node.0 as usize].expect("bug: an update's value is computed");
        let readers: Vec<usize> = (0..fusion.clusters.len())
            .filter(|&c| c != writer && leaves.iter().any(|leaf| fusion.clusters[c].reads.contains(leaf)))
            .collect();
        let free = in_slot[node.0 as usize].is_none()
            && leaves.iter().all(|&leaf| reads_where_it_writes(graph, fusion, writer, leaf, node))
            && readers.iter().all(|&r| !depends_on(fusion, r, writer));
        if free {
            fusion.clusters[writer].deps.extend(readers);
            in_slot[node.0 as usize] = Some(slot);
        } else {
            copies.push((slot, node));
        }
    }
    (in_slot, copies)
}

fn reads_where_it_writes(graph: &Graph, fusion: &Fusion, writer: usize, leaf: NodeId, node: NodeId) -> bool {
    let cluster = &fusion.clusters[writer];
    if !cluster.reads.contains(&leaf) {
        return true;
    }
    if matches!(cluster.kind, ClusterKind::Other(_)) {
        return false;
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

fn depends_on(fusion: &Fusion, from: usize, target: usize) -> bool {
    let mut open = vec![from];
    let mut seen = vec![false; fusion.clusters.len()];
    while let Some(at) = open.pop() {
        if at == target {
            return true;
        }
        if !std::mem::replace(&mut seen[at], true) {
            open.extend(fusion.clusters[at].deps.iter().copied());
        }
    }
    false
}

/// Turns works in order into launches, equal kernels into one, and places into buffers with lifetimes.
fn assemble(graph: &Graph, places: &Places, works: Vec<Work>, align_bytes: usize) -> Plan {
    let mut plan = Plan {
        kernels: Vec::new(),
        items: Vec::new(),
        buffers: Vec::new(),
        inputs: graph.inputs.clone(),
        slots: graph.slots.clone(),
        outputs: Vec::new(),
        align_bytes,
    };
    let mut kernel_index: BTreeMap<String, u32> = BTreeMap::new();
    let mut buffer_index: BTreeMap<Place, BufferId> = BTreeMap::new();
    let end = works.len() as u32;
    for (position, work) in works.into_iter().enumerate() {
        let key = format!("{:?}", work.kernel);
        let kernel = *kernel_index.entry(key).or_insert_with(|| {
            plan.kernels.push(work.kernel.clone());
            plan.kernels.len() as u32 - 1
        });
        let args = work.kernel.args();
        let segments = work.segments.iter().map(|(axes, at)| {
            let ids = at.iter().zip(args).map(|(&place, arg)| {
                let id = *buffer_index.entry(place).or_insert_with(|| {
                    plan.buffers.push(new_buffer(graph, place, kernel, arg.dtype, position as u32));
                    BufferId(plan.buffers.len() as u32 - 1)
                });
                plan.buffers[id.0 as usize].last = position as u32;
                id
            });
            Segment { axes: axes.clone(), args: ids.collect() }
        });
        let segments = segments.collect();
        let (scope, ops) = describe(graph, &work.nodes);
        plan.items.push(Item::Launch(Launch { kernel, segments, scope, ops }));
    }
    for output in &graph.outputs {
        let node = graph.node(output.node);
        let place = places.in_slot[output.node.0 as usize].map_or(Place::Node(output.node), Place::Slot);
        let buffer = *buffer_index.get(&place).expect("bug: an output is computed");
        plan.buffers[buffer.0 as usize].last = end;
        plan.outputs.push(Output { name: output.name.clone(), buffer, shape: node.shape.clone(), dtype: node.dtype });
    }
    plan
}

fn new_buffer(graph: &Graph, place: Place, kernel: u32, dtype: DType, first: u32) -> Buffer {
    let shape_of = |id: NodeId| Size::Elements(graph.node(id).shape.clone());
    let (space, size) = match place {
        Place::Node(id) => (Space::Transient, shape_of(id)),
        Place::Slot(id) => (Space::Slot(id), Size::Elements(graph.slot(id).shape.clone())),
        Place::Input(id) => (Space::Input(id), Size::Elements(graph.inputs[id.0 as usize].shape.clone())),
        Place::Scratch(_) => (Space::Transient, Size::Scratch { kernel }),
    };
    Buffer { space, dtype, size, first, last: first }
}

/// Scope and ops of a launch, for people.
fn describe(graph: &Graph, nodes: &[NodeId]) -> (String, String) {
    let main = nodes.iter().find(|&&id| matches!(graph.node(id).op, Op::Contract(_))).or(nodes.first());
    let scope = main.map_or(String::new(), |&id| graph.scopes[graph.node(id).scope as usize].clone());
    const SHOWN: usize = 6;
    let mut names: Vec<&str> = nodes.iter().take(SHOWN).map(|&id| graph.node(id).op.name()).collect();
    let more = format!("+{}", nodes.len().saturating_sub(SHOWN));
    if nodes.len() > SHOWN {
        names.push(&more);
    }
    (scope, names.join(" "))
}

/// Checks the contract of a plan: buffers exist, lifetimes cover uses, kernels get as many args as they take, and a transient value is written before
/// it is read.
pub fn verify(plan: &Plan) -> Result<(), String> {
    let mut written = vec![false; plan.buffers.len()];
    for (position, launch) in plan.launches().into_iter().enumerate() {
        let kernel: &Kernel = &plan.kernels[launch.kernel as usize];
        for segment in &launch.segments {
            if segment.args.len() != kernel.args().len() {
                return Err(format!(
                    "launch {position} gives {} args, its kernel takes {}",
                    segment.args.len(),
                    kernel.args().len()
                ));
            }
            for (id, arg) in segment.args.iter().zip(kernel.args()) {
                let Some(buffer) = plan.buffers.get(id.0 as usize) else {
                    return Err(format!("launch {position} uses b{}, which is no buffer", id.0));
                };
                let at = position as u32;
                if buffer.space == Space::Transient && (at < buffer.first || at > buffer.last) {
                    return Err(format!("launch {position} uses b{} outside of its life", id.0));
                }
                if buffer.space == Space::Transient && arg.access == Access::Read && !written[id.0 as usize] {
                    return Err(format!("launch {position} reads b{} before it is written", id.0));
                }
            }
            check_bounds(plan, kernel, segment).map_err(|fault| format!("launch {position}: {fault}"))?;
            for (id, arg) in segment.args.iter().zip(kernel.args()) {
                written[id.0 as usize] |= arg.access != Access::Read;
            }
        }
    }
    Ok(())
}

/// Batch sizes at which addresses are checked: they are linear in B, so two would do for most.
const CHECKED_BATCHES: [usize; 3] = [1, 3, 32];

/// Checks that a loop (or an epilogue) addresses nothing outside of its buffers: backends trust it with raw memory.
fn check_bounds(plan: &Plan, kernel: &Kernel, segment: &Segment) -> Result<(), String> {
    let (program, axes) = match kernel {
        Kernel::Loop(k) => (k, &segment.axes),
        Kernel::Contract(Contract { epilogue: Some(k), .. }) => (k, &k.axes),
        Kernel::Contract(_) | Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => {
            return Ok(());
        }
    };
    let loads = program.instrs.iter().filter_map(|i| match i {
        Instr::Load { arg, map, .. } => Some((*arg, map)),
        Instr::Gather { .. }
        | Instr::Index { .. }
        | Instr::Random { .. }
        | Instr::Const { .. }
        | Instr::Extent { .. }
        | Instr::Unary { .. }
        | Instr::Binary { .. }
        | Instr::Select { .. }
        | Instr::Cast { .. }
        | Instr::Reduce { .. } => None,
    });
    let stores = program.stores.iter().map(|s| (s.arg, &s.map));
    for (arg, map) in loads.chain(stores).filter(|(_, map)| map.guards.is_empty()) {
        let id = segment.args[arg as usize];
        let Size::Elements(shape) = &plan.buffers[id.0 as usize].size else { continue };
        for batch in CHECKED_BATCHES {
            let n = shape.numel_at(batch) as i64;
            let last = |axis: &Dim| axis.at_signed(batch) - 1;
            if axes.iter().any(|axis| last(axis) < 0) {
                continue;
            }
            let steps = map.strides.iter().zip(axes).map(|(s, axis)| s.at_signed(batch) * last(axis));
            let (down, up): (Vec<i64>, Vec<i64>) = steps.partition(|&step| step < 0);
            let offset = map.offset.at_signed(batch);
            let (lowest, highest) = (offset + down.iter().sum::<i64>(), offset + up.iter().sum::<i64>());
            if lowest < 0 || highest >= n {
                return Err(format!(
                    "a{arg}{map} reaches {lowest} to {highest} of b{} with {n} elements at B = {batch}",
                    id.0
                ));
            }
        }
    }
    Ok(())
}
