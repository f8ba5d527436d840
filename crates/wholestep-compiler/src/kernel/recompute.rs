//! Computing again instead of storing. Takes clusters, gives them with cheap values made a second time in the clusters that read them, where
//! what they are made of lies in memory anyway, or in half the bytes: what a product rounded to 16 bits is stored as that, and scaled and masked by who
//! reads it. The same instructions run on the same operands, so not a bit changes. A dear function is computed twice only for values so large that
//! moving them costs more.

use super::fuse::{ClusterKind, Fusion, Level, Role, has_memory, is_gathered, squeeze};
use super::lower::stored;
use crate::ir::op::{Binary, Elementwise, Leaf, Op, Unary};
use crate::ir::{DType, Graph, NodeId};
use std::collections::BTreeSet;

/// How many nodes may be computed again to spare one value, one that is modest and one that is large; and to spare a read of a modest one that others read
/// all the same: the mask of a normalized activation shows in what was normalized.
const MAX_CHAIN: usize = 4;
const MAX_MODEST_CHAIN: usize = 8;
const MAX_LONG_CHAIN: usize = 24;
const MODEST_BYTES: usize = 1 << 18;
/// How many of them may be dear, and only for a large value: it lies in no cache, and waits there for the backward pass.
const MAX_DEAR: usize = 2;
const LARGE_BYTES: usize = 8 << 20;
/// Bytes of an element of the widest value that a mask is read from.
const WIDEST: usize = 4;

/// Lets readers of cheap values compute them, so that the values need no memory.
pub fn recompute(graph: &Graph, fusion: &mut Fusion) {
    let ends: BTreeSet<NodeId> =
        graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node)).collect();
    let readers = readers(graph, fusion);
    let mut kept = stored(graph, fusion);
    for v in graph.ids() {
        let Some(owner) = fusion.cluster[v.0 as usize] else { continue };
        let outside: Vec<usize> = readers[v.0 as usize].iter().copied().filter(|&c| c != owner).collect();
        if outside.is_empty()
            || ends.contains(&v)
            || !may_repeat(cost(graph, v), bytes(graph, v))
            || fusion.level[v.0 as usize] != Level::Point
        {
            continue;
        }
        let longest = match bytes(graph, v) {
            LARGE_BYTES.. => MAX_LONG_CHAIN,
            MODEST_BYTES.. => MAX_MODEST_CHAIN,
            _ => MAX_CHAIN,
        };
        let plan = |&c| chain(graph, fusion, &kept, (v, c), (longest, true)).filter(|plan| plan.pays);
        let plans: Option<Vec<Chain>> = outside.iter().map(plan).collect();
        if let Some(plans) = plans {
            kept[v.0 as usize] = false;
            plans.iter().flat_map(|plan| &plan.kept).for_each(|id| kept[id.0 as usize] = true);
            outside.iter().zip(plans).for_each(|(&c, plan)| add(graph, fusion, c, v, plan.nodes));
        } else {
            for c in outside {
                if let Some(plan) = spared(graph, fusion, &kept, v, c) {
                    add(graph, fusion, c, v, plan.nodes);
                }
            }
        }
    }
    prune(graph, fusion);
}

/// How a cluster comes to a value without reading it.
struct Chain {
    /// What it computes.
    nodes: Vec<NodeId>,
    /// What is stored for it instead of the value.
    kept: Vec<NodeId>,
    /// Whether it costs no more memory traffic than a value that nobody stores.
    pays: bool,
    /// Whether it costs hardly any, so that it is better than a read of a value that is stored for others.
    spares: bool,
}

/// Takes out the points that nobody uses any more where they were made first.
fn prune(graph: &Graph, fusion: &mut Fusion) {
    loop {
        let stored = stored(graph, fusion);
        let mut is_done = true;
        for c in 0..fusion.clusters.len() {
            let nodes = &fusion.clusters[c].nodes;
            let mut used = BTreeSet::new();
            for &id in nodes.iter().rev() {
                let is_point = fusion.role[id.0 as usize] == Role::Point;
                if !is_point || stored[id.0 as usize] || used.contains(&id) {
                    used.extend((0..fusion.n_operands(graph, id)).map(|k| fusion.source(graph, id, k)));
                    used.insert(id);
                }
            }
            if nodes.iter().all(|id| used.contains(id)) {
                continue;
            }
            is_done = false;
            let cluster = &mut fusion.clusters[c];
            cluster.nodes.retain(|id| used.contains(id));
            cluster.reads.retain(|id| used.contains(id));
        }
        if is_done {
            return;
        }
    }
}

/// The clusters that read each node.
fn readers(graph: &Graph, fusion: &Fusion) -> Vec<BTreeSet<usize>> {
    let mut readers = vec![BTreeSet::new(); graph.nodes.len()];
    for (c, cluster) in fusion.clusters.iter().enumerate() {
        cluster.reads.iter().for_each(|id| {
            readers[id.0 as usize].insert(c);
        });
    }
    readers
}

/// The nodes that cluster `c` would compute to have `v` itself, if they are at most `longest`, beside those that spare it reads where it `may_spare` some.
fn chain(
    graph: &Graph,
    fusion: &Fusion,
    kept: &[bool],
    (v, c): (NodeId, usize),
    (longest, may_spare): (usize, bool),
) -> Option<Chain> {
    let cluster = &fusion.clusters[c];
    if matches!(cluster.kind, ClusterKind::Other(_)) || squeeze(&graph.node(v).shape) != cluster.space {
        return None;
    }
    let reads_in_place = cluster.nodes.iter().all(|&id| {
        (0..fusion.n_operands(graph, id)).filter(|&k| fusion.source(graph, id, k) == v).all(|k| {
            let view = fusion.operand(graph, id, k);
            let shape = fusion.operand_shape(graph, id, k);
            let plain = !is_gathered(graph, id, k) && !matches!(graph.node(id).op, Op::Contract(_));
            plain && squeeze(shape) == cluster.space && view.map.is_row_major(shape.dims())
        })
    });
    if !reads_in_place {
        return None;
    }
    let v_bytes = bytes(graph, v);
    let (mut nodes, mut instead) = (Vec::new(), Vec::new());
    // What spares reads is no part of the chain's length.
    let mut beside: BTreeSet<NodeId> = BTreeSet::new();
    let (mut reads, mut dear) = (0, 0);
    let owner = fusion.cluster[v.0 as usize];
    let mut open = vec![v];
    while let Some(id) = open.pop() {
        if nodes.contains(&id) || cluster.nodes.contains(&id) {
            continue;
        }
        nodes.push(id);
        dear += usize::from(cost(graph, id) == Cost::Dear);
        let in_place = |k: usize| {
            let shape = fusion.operand_shape(graph, id, k);
            squeeze(shape) == cluster.space && fusion.operand(graph, id, k).map.is_row_major(shape.dims())
        };
        for k in 0..fusion.n_operands(graph, id) {
            let source = fusion.source(graph, id, k);
            let fixed = match &graph.node(source).op {
                Op::Leaf(Leaf::Slot { id: slot, .. }) => graph.updates.iter().all(|(s, _)| s != slot),
                // A trip overwrites it.
                Op::Control(_) => false,
                _ => true,
            };
            let in_memory = fusion.role[source.0 as usize] == Role::Leaf || kept[source.0 as usize];
            let is_new = in_memory && has_memory(graph, source) && !cluster.reads.contains(&source);
            if !in_memory && fusion.cluster[source.0 as usize] == owner && is_instead(graph, source, v) {
                if !instead.contains(&source) {
                    reads += bytes(graph, source);
                    instead.push(source);
                }
            } else if let Some(plan) = Some(source)
                .filter(|_| is_new && may_spare && in_place(k))
                .and_then(|source| spared(graph, fusion, kept, source, c))
            {
                beside.extend(plan.nodes);
            } else if in_memory && fixed {
                reads += if is_new { bytes(graph, source) } else { 0 };
            } else if may_repeat(cost(graph, source), v_bytes)
                && fusion.level[source.0 as usize] == Level::Point
                && nodes.len() < longest
            {
                if !in_place(k) {
                    return None;
                }
                open.push(source);
            } else {
                return None;
            }
        }
    }
    // A little more than the value itself: rows' means and scales are small beside it. A mask that one value shows costs that value's bytes
    // to read instead of being written and read, which is about as much, and no memory for as long as the backward pass takes.
    let is_mask = graph.node(v).dtype == DType::Bool && nodes.len() == 1 && reads <= WIDEST * v_bytes;
    let fits = nodes.len() <= longest && dear <= MAX_DEAR;
    let pays = reads <= v_bytes + v_bytes / 8 || is_mask;
    let spares = dear == 0 && reads <= v_bytes / 8 && cluster.kind == ClusterKind::Loop;
    nodes.extend(beside.into_iter().filter(|id| !nodes.contains(id)).collect::<Vec<_>>());
    (fits && fusion.has_room(graph, c, &nodes)).then_some(Chain { nodes, kept: instead, pays, spares })
}

/// How a loop comes to a value that is stored in any case, for others, if it reads most of what that is made of.
fn spared(graph: &Graph, fusion: &Fusion, kept: &[bool], v: NodeId, c: usize) -> Option<Chain> {
    let is_one = fusion.clusters[c].kind == ClusterKind::Loop && fusion.role[v.0 as usize] == Role::Point;
    let is_large = bytes(graph, v) >= MODEST_BYTES && fusion.level[v.0 as usize] == Level::Point;
    let may_be = is_one && is_large && cost(graph, v) == Cost::Cheap;
    may_be.then(|| chain(graph, fusion, kept, (v, c), (MAX_MODEST_CHAIN, false))).flatten().filter(|plan| plan.spares)
}

/// Whether `source` may be stored in place of `v`, which the same cluster makes of it: a rounded value in place of one of twice its bytes, or what a product
/// is rounded to, which then has no epilogue.
fn is_instead(graph: &Graph, source: NodeId, v: NodeId) -> bool {
    let (from, to) = (bytes(graph, source), bytes(graph, v));
    let is_product = || matches!(graph.node(graph.node(source).inputs[0]).op, Op::Contract(_));
    is_rounded(graph, source) && (2 * from <= to || from <= to && is_product())
}

/// Whether a value is rounded to 16 bits where it is made.
fn is_rounded(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    matches!(node.op, Op::Elementwise(Elementwise::Cast(_))) && matches!(node.dtype, DType::F16 | DType::BF16)
}

fn add(graph: &Graph, fusion: &mut Fusion, c: usize, v: NodeId, nodes: Vec<NodeId>) {
    for &id in &nodes {
        for k in 0..fusion.n_operands(graph, id) {
            let source = fusion.source(graph, id, k);
            if has_memory(graph, source) && !nodes.contains(&source) && !fusion.clusters[c].nodes.contains(&source) {
                fusion.clusters[c].reads.insert(source);
                if let Some(from) = fusion.cluster[source.0 as usize].filter(|&from| from != c) {
                    fusion.clusters[c].deps.insert(from);
                }
            }
        }
    }
    let cluster = &mut fusion.clusters[c];
    cluster.reads.remove(&v);
    cluster.nodes.extend(nodes);
    // Ids are in topological order; a contraction stays first by its kind.
    cluster.nodes.sort_unstable();
    cluster.nodes.dedup();
}

/// What computing a node again costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// Less than reading it.
    Cheap,
    /// Less than reading it from far.
    Dear,
    /// More, or it cannot be.
    Never,
}

fn may_repeat(cost: Cost, v_bytes: usize) -> bool {
    match cost {
        Cost::Cheap => true,
        Cost::Dear => v_bytes >= LARGE_BYTES,
        Cost::Never => false,
    }
}

fn cost(graph: &Graph, id: NodeId) -> Cost {
    match &graph.node(id).op {
        Op::Elementwise(Elementwise::Unary(op)) => match op {
            Unary::Neg | Unary::Abs | Unary::Not | Unary::Detach => Cost::Cheap,
            Unary::Exp | Unary::Tanh | Unary::Sigmoid | Unary::Erf | Unary::Sqrt | Unary::Rsqrt | Unary::Recip => {
                Cost::Dear
            }
            Unary::Sign
            | Unary::Expm1
            | Unary::Log
            | Unary::Log1p
            | Unary::Sin
            | Unary::Cos
            | Unary::Asin
            | Unary::Acos
            | Unary::Atan
            | Unary::Asinh
            | Unary::Floor
            | Unary::Ceil
            | Unary::Round => Cost::Never,
        },
        Op::Elementwise(Elementwise::Binary(op)) => match op {
            Binary::Div => Cost::Dear,
            Binary::Rem | Binary::Pow | Binary::Atan2 => Cost::Never,
            _ => Cost::Cheap,
        },
        Op::Elementwise(Elementwise::Select | Elementwise::Cast(_)) => Cost::Cheap,
        Op::Leaf(_)
        | Op::Movement(_)
        | Op::Reduce(_)
        | Op::Contract(_)
        | Op::Window(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::Control(_) => Cost::Never,
    }
}

fn bytes(graph: &Graph, id: NodeId) -> usize {
    const NOMINAL_BATCH: usize = 32;
    graph.node(id).shape.numel_at(NOMINAL_BATCH) * graph.node(id).dtype.size_bytes()
}
