//! Common subexpressions: takes a graph, gives it with equal nodes joined. Random nodes of different streams are different ops, so
//! no two dropouts ever become one. Loops stay apart: two that begin alike need not be alike.

use super::rewrite::rebuild;
use crate::ir::{Graph, NodeId, Op};
use std::collections::HashMap;

pub fn cse(graph: &Graph) -> Graph {
    // Looked up, never iterated: the order of the map reaches no output.
    let mut seen: HashMap<String, NodeId> = HashMap::new();
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        if matches!(node.op, Op::Control(_)) {
            return r.push(node.op.clone(), inputs, node);
        }
        let key = format!("{:?} {inputs:?}", node.op);
        *seen.entry(key).or_insert_with(|| r.push(node.op.clone(), inputs, node))
    })
}
