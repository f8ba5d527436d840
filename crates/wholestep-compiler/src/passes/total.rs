//! Long sums of sums: takes a graph, gives it with the sums of many tensors put side by side and added up by one reduction, where each was added to
//! the one before. The norm of all gradients is one more row to reduce then, and the tensors' own sums stay equal programs. Never touches
//! whole numbers; floats may differ in their last bits, as between any two orders of summation.

use super::rewrite::{Rewrite, rebuild};
use crate::ir::op::{Binary, Elementwise, Movement, Op, Reduce};
use crate::ir::{Dim, Graph, Node, NodeId, Shape};

/// Fewer sums than this are added one to the other.
const FEWEST: usize = 4;

pub fn total(graph: &Graph) -> Graph {
    let users = users(graph);
    let is_link = |id: NodeId| {
        let node = graph.node(id);
        let is_add = matches!(node.op, Op::Elementwise(Elementwise::Binary(Binary::Add)));
        is_add && node.dtype.is_float() && is_one(node)
    };
    // Of the links of a chain all but the last have one user, which is a link.
    let mut is_inner = vec![false; graph.nodes.len()];
    for id in graph.ids().filter(|&id| is_link(id)) {
        for &x in graph.node(id).inputs.iter().filter(|&&x| is_link(x) && users[x.0 as usize] == 1) {
            is_inner[x.0 as usize] = true;
        }
    }
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        if is_link(id) && !is_inner[id.0 as usize] {
            let terms = terms(graph, id, &is_inner);
            let (sums, rest): (Vec<NodeId>, Vec<NodeId>) =
                terms.into_iter().partition(|&term| is_own_sum(graph, term, &users));
            if sums.len() >= FEWEST {
                return added(r, node, &sums, &rest);
            }
        }
        r.copy(node, inputs)
    })
}

/// How often each node is read; what is left after a step counts as much as two.
fn users(graph: &Graph) -> Vec<usize> {
    let mut users = vec![0; graph.nodes.len()];
    graph.nodes.iter().flat_map(|n| &n.inputs).for_each(|x| users[x.0 as usize] += 1);
    let left = graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node));
    left.for_each(|id| users[id.0 as usize] += 2);
    users
}

/// What a chain adds up, in its order.
fn terms(graph: &Graph, last: NodeId, is_inner: &[bool]) -> Vec<NodeId> {
    let mut terms = Vec::new();
    let mut open = vec![last];
    while let Some(id) = open.pop() {
        if id == last || is_inner[id.0 as usize] {
            open.extend(graph.node(id).inputs.iter().rev());
        } else {
            terms.push(id);
        }
    }
    terms
}

/// Whether a term is the sum of a tensor that nobody else reads.
fn is_own_sum(graph: &Graph, id: NodeId, users: &[usize]) -> bool {
    let node = graph.node(id);
    let is_read_once = users[id.0 as usize] == 1;
    match node.op {
        Op::Movement(Movement::Reshape { .. }) => is_read_once && is_own_sum(graph, node.inputs[0], users),
        Op::Reduce(Reduce::Sum { .. }) => is_read_once && is_one(node),
        _ => false,
    }
}

fn is_one(node: &Node) -> bool {
    node.shape.dims().iter().all(|d| *d == Dim::ONE)
}

/// The sums as one reduction, and the rest added to it.
fn added(r: &mut Rewrite, like: &Node, sums: &[NodeId], rest: &[NodeId]) -> NodeId {
    let seen_as = |r: &mut Rewrite, id: NodeId, shape: &Shape| match r.new.node(id).shape == *shape {
        true => id,
        false => r.push(Movement::Reshape { shape: shape.clone() }, &[id], like),
    };
    let one = Shape(vec![Dim::ONE]);
    let parts: Vec<NodeId> = sums.iter().map(|id| r.map[id.0 as usize]).collect();
    let parts: Vec<NodeId> = parts.into_iter().map(|id| seen_as(r, id, &one)).collect();
    let all = r.push(Movement::Concat { axis: 0 }, &parts, like);
    let sum = r.push(Reduce::Sum { axes: vec![0] }, &[all], like);
    let mut total = seen_as(r, sum, &like.shape);
    for id in rest {
        total = r.push(like.op.clone(), &[total, r.map[id.0 as usize]], like);
    }
    total
}
