//! Rematerialization: takes a graph and which values of the forward pass not to keep, gives one in which the backward pass computes these again
//! when it needs them. Never changes what the forward pass computes, and never computes a leaf, an output or an update twice.
//!
//! A copy waits for the gradient that it meets ([`Graph::waits`]), so that neither fusion nor the order of launches makes it early. It runs after
//! all other passes: gradients have their final form, and no pass is left that would join a copy with what it copies.
//!
//! Paper: Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174. Not to be confused with
//! `kernel/recompute.rs`, which spares stores of cheap values whose operands are in memory anyway.

use super::rewrite::Rewrite;
use crate::ir::loops::Loops;
use crate::ir::op::{Elementwise, Leaf, Movement, Op};
use crate::ir::{Graph, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// A graph with values computed again.
#[derive(Clone, Debug)]
pub struct Remat {
    pub graph: Graph,
    /// Each copy with what it copies.
    pub copies: BTreeMap<NodeId, NodeId>,
}

/// By node, how many recomputations it lies in the inside of: 0 is kept, 1 is computed again once the backward pass comes there, 2 is
/// computed again a second time within that, and so on.
pub type Depths = Vec<u32>;

/// The depths that the program asks for with `Scope::recompute`.
pub fn by_scope(graph: &Graph) -> Depths {
    let mut parts = graph.recompute.clone();
    parts.sort_by_key(|part| (part.start, std::cmp::Reverse(part.end)));
    by_parts(graph, |id| parts.iter().filter(|part| part.contains(&id.0)).cloned().collect())
}

/// The depths of values within parts of the program; `around` gives those around a node, the outermost first. What leaves a part is kept.
pub fn by_parts(graph: &Graph, around: impl Fn(NodeId) -> Vec<std::ops::Range<u32>>) -> Depths {
    let mut depths = vec![0; graph.nodes.len()];
    let forward = NodeId(graph.forward.unwrap_or(0));
    let users = users(graph);
    let kept = kept(graph);
    for id in graph.ids().rev().filter(|id| *id < forward && !kept[id.0 as usize]) {
        let users = || users[id.0 as usize].iter().filter(|user| **user < forward);
        let inside =
            around(id).into_iter().take_while(|part| users().all(|user| part.contains(&user.0))).count() as u32;
        // A view that is kept keeps what it looks at.
        let views = users().filter(|user| is_view(graph, **user)).map(|user| depths[user.0 as usize]);
        depths[id.0 as usize] = views.fold(inside, u32::min);
    }
    depths
}

/// Which nodes can never be worth computing again, or must not be: leaves and views of them, what survives the step or is read after it, and
/// sums that are small beside their operands.
pub fn kept(graph: &Graph) -> Vec<bool> {
    let mut kept = vec![false; graph.nodes.len()];
    let loops = Loops::of(graph).expect("bug: a pass takes values out of a loop");
    for id in graph.ids() {
        let node = graph.node(id);
        kept[id.0 as usize] = match &node.op {
            // A loop is kept as a whole.
            _ if loops.of[id.0 as usize].is_some() => true,
            Op::Leaf(_) | Op::Control(_) => true,
            Op::Movement(_) if is_view(graph, id) => is_known(graph, node.inputs[0]) && kept[node.inputs[0].0 as usize],
            Op::Reduce(_) => SMALL * elements(graph, id) <= elements(graph, node.inputs[0]),
            Op::Movement(_) | Op::Elementwise(_) | Op::Contract(_) | Op::Window(_) | Op::Index(_) | Op::Random(_) => {
                false
            }
        };
    }
    graph.outputs.iter().for_each(|o| kept[o.node.0 as usize] = true);
    graph.updates.iter().for_each(|(_, node)| kept[node.0 as usize] = true);
    kept
}

/// A sum of at least so many elements is kept: it takes little, and reading all its operands again takes long.
const SMALL: usize = 16;
/// The batch size at which extents are compared.
const NOMINAL_BATCH: usize = 32;

fn elements(graph: &Graph, id: NodeId) -> usize {
    graph.node(id).shape.numel_at(NOMINAL_BATCH)
}

/// Whether a node is a leaf under any number of views.
fn is_known(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    matches!(node.op, Op::Leaf(_)) || (is_view(graph, id) && is_known(graph, node.inputs[0]))
}

/// Whether a node says anew where elements lie, or how wide they are, and mostly needs no memory.
pub fn is_view(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    match &node.op {
        Op::Movement(Movement::Concat { .. } | Movement::Pad { .. }) => false,
        Op::Movement(_) => true,
        Op::Elementwise(Elementwise::Cast(to)) => to.size_bytes() > graph.node(node.inputs[0]).dtype.size_bytes(),
        Op::Leaf(_)
        | Op::Elementwise(_)
        | Op::Reduce(_)
        | Op::Contract(_)
        | Op::Window(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::Control(_) => false,
    }
}

/// The nodes that read each node.
pub fn users(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut users = vec![Vec::new(); graph.nodes.len()];
    for id in graph.ids() {
        graph.node(id).inputs.iter().for_each(|x| users[x.0 as usize].push(id));
    }
    users
}

/// `graph` with the values of depth 1 and more computed again for the backward pass.
pub fn remat(graph: &Graph, depths: &Depths) -> Remat {
    let forward = NodeId(graph.forward.unwrap_or(0));
    if depths.iter().all(|&depth| depth == 0) {
        return Remat { graph: graph.clone(), copies: BTreeMap::new() };
    }
    let mut work = Work { graph, depths, r: Rewrite::new(graph), made: BTreeMap::new(), copies: BTreeMap::new() };
    let gradients = Gradients::new(graph, forward);
    let mut waits = BTreeMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let again = |x: NodeId| id >= forward && x < forward && depths[x.0 as usize] > 0;
        let first = work.r.new.nodes.len() as u32;
        let wanted: Vec<NodeId> = node.inputs.iter().copied().filter(|&x| again(x)).collect();
        wanted.iter().for_each(|&x| work.make(x));
        let end = work.r.new.nodes.len() as u32;
        if let Some(token) = if first < end { gradients.met_by(id) } else { None } {
            waits.extend((first..end).map(|copy| (NodeId(copy), work.r.map[token.0 as usize])));
        }
        let operand =
            |x: NodeId| if again(x) { work.copy_of(x, depths[x.0 as usize]) } else { work.r.map[x.0 as usize] };
        let inputs: Vec<NodeId> = node.inputs.iter().map(|&x| operand(x)).collect();
        let to = work.r.copy(node, &inputs);
        work.r.map.push(to);
    }
    let copies = work.copies;
    let mut graph = work.r.finish();
    graph.waits = waits;
    Remat { graph, copies }
}

struct Work<'a> {
    graph: &'a Graph,
    depths: &'a Depths,
    r: Rewrite<'a>,
    /// By old node and depth.
    made: BTreeMap<(NodeId, u32), NodeId>,
    /// New nodes with the new nodes that they copy.
    copies: BTreeMap<NodeId, NodeId>,
}

impl Work<'_> {
    /// What stands for an operand in a recomputation of `depth`: what is kept stands for itself, also what is kept within that recomputation.
    fn copy_of(&self, x: NodeId, depth: u32) -> NodeId {
        match depth.min(self.depths[x.0 as usize]) {
            0 => self.r.map[x.0 as usize],
            depth => self.made[&(x, depth)],
        }
    }

    /// Appends the copy of `x` and of all that it is made of, as far as that is neither kept nor there already.
    fn make(&mut self, x: NodeId) {
        let mut needed = BTreeSet::new();
        let mut open = vec![(x, self.depths[x.0 as usize])];
        while let Some((id, depth)) = open.pop() {
            if depth > 0 && !self.made.contains_key(&(id, depth)) && needed.insert((id, depth)) {
                let inputs = &self.graph.node(id).inputs;
                open.extend(inputs.iter().map(|&x| (x, depth.min(self.depths[x.0 as usize]))));
            }
        }
        // Operands have lower ids, so this is an order.
        for (id, depth) in needed {
            let node = self.graph.node(id);
            let inputs: Vec<NodeId> = node.inputs.iter().map(|&x| self.copy_of(x, depth)).collect();
            let copy = self.r.copy(node, &inputs);
            self.made.insert((id, depth), copy);
            self.copies.insert(copy, self.r.map[id.0 as usize]);
        }
    }
}

/// Which nodes are gradients, and where they meet values of the forward pass.
struct Gradients {
    users: Vec<Vec<NodeId>>,
    operands: Vec<Vec<NodeId>>,
    /// Whether a node comes after the forward pass and depends on what the step is given.
    is_gradient: Vec<bool>,
}

/// How many nodes are looked at for the gradient that a value meets: a mask or a derivative is made of few.
const SEARCHED: usize = 64;

impl Gradients {
    fn new(graph: &Graph, forward: NodeId) -> Gradients {
        let mut depends = vec![false; graph.nodes.len()];
        for id in graph.ids() {
            let node = graph.node(id);
            let is_given = matches!(node.op, Op::Leaf(Leaf::Input { .. }));
            depends[id.0 as usize] = is_given || node.inputs.iter().any(|x| depends[x.0 as usize]);
        }
        let is_gradient = graph.ids().map(|id| id >= forward && depends[id.0 as usize]).collect();
        Gradients { users: users(graph), operands: graph.nodes.iter().map(|n| n.inputs.clone()).collect(), is_gradient }
    }

    /// The gradient with which `id`, or what is made of it, is first joined, if it is there before `id`; else the newest one before `id`.
    fn met_by(&self, id: NodeId) -> Option<NodeId> {
        let is_before = |x: &NodeId| *x < id && self.is_gradient[x.0 as usize];
        let mut open = BTreeSet::from([id]);
        for _ in 0..SEARCHED {
            let Some(at) = open.pop_first() else { break };
            if let Some(met) = self.operands[at.0 as usize].iter().copied().filter(is_before).max() {
                return Some(met);
            }
            open.extend(&self.users[at.0 as usize]);
        }
        (0..id.0).rev().map(NodeId).find(is_before)
    }
}
