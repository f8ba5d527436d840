//! Dead code: takes a graph, gives it without the nodes that no output and no update needs. Never removes a slot or an input: they are the
//! program's interface.

use super::rewrite::Rewrite;
use crate::ir::{Graph, NodeId};

pub fn dce(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.nodes.len()];
    graph.outputs.iter().for_each(|o| live[o.node.0 as usize] = true);
    graph.updates.iter().for_each(|(_, node)| live[node.0 as usize] = true);
    for id in graph.ids().rev() {
        if live[id.0 as usize] {
            graph.node(id).inputs.iter().for_each(|input| live[input.0 as usize] = true);
        }
    }
    let mut r = Rewrite::new(graph);
    for id in graph.ids() {
        let to = if live[id.0 as usize] {
            let inputs = r.operands(graph.node(id));
            r.copy(graph.node(id), &inputs)
        } else {
            NodeId(u32::MAX)
        };
        r.map.push(to);
    }
    r.finish()
}
