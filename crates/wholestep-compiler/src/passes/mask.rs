//! Masks: takes a graph, gives one whose backward pass reads where a ReLU was 0 from its output, where the backward pass reads the output
//! anyway: then the mask needs no memory of its own. `max(x, 0) <= 0` is `x <= 0` for every x, NaN included, so not a bit changes.

use super::remat::{is_view, users};
use super::rewrite::{Rewrite, constant, rebuild};
use crate::ir::op::{Binary, Elementwise, Op};
use crate::ir::{Graph, Node, NodeId};
use std::collections::BTreeMap;

pub fn mask(graph: &Graph) -> Graph {
    let Some(forward) = graph.forward.map(NodeId) else { return graph.clone() };
    let users = users(graph);
    // By mask, the output that is kept.
    let outputs: BTreeMap<NodeId, NodeId> = graph
        .ids()
        .filter(|&id| id < forward && is_read(graph, &users, id, forward))
        .filter_map(|id| relu(graph, id).map(|mask| (mask, id)))
        .collect();
    let mut made = BTreeMap::new();
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        let mut inputs = inputs.to_vec();
        for (input, old) in inputs.iter_mut().zip(&node.inputs).filter(|_| id >= forward) {
            if let Some(output) = outputs.get(old) {
                *input = *made.entry(*old).or_insert_with(|| again(r, *old, *output, node));
            }
        }
        r.copy(node, &inputs)
    })
}

/// The mask `x <= 0` of a node that is `where(x <= 0, 0, x)`.
fn relu(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let node = graph.node(id);
    let Op::Elementwise(Elementwise::Select) = &node.op else { return None };
    let [mask, zero, x] = node.inputs[..] else { return None };
    let compared = graph.node(mask);
    let is_mask = matches!(compared.op, Op::Elementwise(Elementwise::Binary(Binary::Le)))
        && compared.inputs[0] == x
        && constant(graph, compared.inputs[1]) == Some(0.0);
    (is_mask && constant(graph, zero) == Some(0.0)).then_some(mask)
}

/// Whether the backward pass reads a value, as it is or seen another way.
fn is_read(graph: &Graph, users: &[Vec<NodeId>], id: NodeId, forward: NodeId) -> bool {
    let reads = |&user: &NodeId| user >= forward || (is_view(graph, user) && is_read(graph, users, user, forward));
    users[id.0 as usize].iter().any(reads)
}

/// The comparison of `mask` with `output` in place of what it compares.
fn again(r: &mut Rewrite, mask: NodeId, output: NodeId, like: &Node) -> NodeId {
    let compared = r.old.node(mask);
    let zero = r.map[compared.inputs[1].0 as usize];
    let output = r.map[output.0 as usize];
    r.push(compared.op.clone(), &[output, zero], like)
}
