//! Common subexpressions: takes a graph, gives it with equal nodes joined. Random nodes of different streams are different ops, so
//! no two dropouts ever become one. Loops stay apart: two that begin alike need not be alike.

use super::rewrite::rebuild;
use crate::ir::op::{Leaf, Movement};
use crate::ir::{DType, Graph, NodeId, Op, Shape};
use std::collections::HashMap;

/// What equal nodes have in common beside their op.
type Key<'a> = (&'static str, Vec<NodeId>, DType, &'a Shape);

pub fn cse(graph: &Graph) -> Graph {
    // Looked up, never iterated: the order of the map reaches no output.
    let mut seen: HashMap<Key, Vec<NodeId>> = HashMap::new();
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        if matches!(node.op, Op::Control(_)) {
            return r.copy(node, inputs);
        }
        let alike = seen.entry((node.op.name(), inputs.to_vec(), node.dtype, &node.shape)).or_default();
        alike.iter().copied().find(|&other| is_same(&r.new.node(other).op, &node.op)).unwrap_or_else(|| {
            let new = r.copy(node, inputs);
            alike.push(new);
            new
        })
    })
}

/// Whether two ops over the same operands give the same bits: 0.0 and -0.0 are equal numbers, and NaN is not equal to itself.
fn is_same(a: &Op, b: &Op) -> bool {
    let number = |op: &Op| match op {
        Op::Leaf(Leaf::Const { value, .. }) | Op::Movement(Movement::Pad { value, .. }) => Some(value.to_bits()),
        Op::Leaf(_)
        | Op::Elementwise(_)
        | Op::Movement(_)
        | Op::Reduce(_)
        | Op::Contract(_)
        | Op::Window(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::Control(_) => None,
    };
    let is_constant = matches!(a, Op::Leaf(Leaf::Const { .. })) && matches!(b, Op::Leaf(Leaf::Const { .. }));
    number(a) == number(b) && (is_constant || a == b)
}
