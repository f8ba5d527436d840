//! The contract of a graph, checked between passes. Takes a graph, gives the first thing that is wrong with it, as text for us: a failure
//! here is a bug of a pass, never of a user. Never changes anything.

use super::Graph;
use super::loops::{Leak, Loops};
use super::op::Type;

/// Checks that operands precede users, that every node has the type its rule gives, and that outputs and updates fit.
pub fn verify(graph: &Graph) -> Result<(), String> {
    for id in graph.ids() {
        let node = graph.node(id);
        if let Some(late) = node.inputs.iter().find(|input| **input >= id) {
            return Err(format!("%{} uses %{}, which does not precede it", id.0, late.0));
        }
        let types: Vec<Type> = node.inputs.iter().map(|&i| graph.type_of(i)).collect();
        match node.op.infer(&types) {
            Err(rule) => return Err(format!("%{} {}: {}", id.0, node.op.name(), rule.message)),
            Ok(t) if t != graph.type_of(id) => {
                return Err(format!("%{} says {} {}, its rule {} {}", id.0, node.shape, node.dtype, t.shape, t.dtype));
            }
            Ok(_) => {}
        }
    }
    if let Some((node, token)) = graph.waits.iter().find(|(node, token)| token >= node) {
        return Err(format!("%{} waits for %{}, which does not precede it", node.0, token.0));
    }
    if let Err(Leak(node)) = Loops::of(graph) {
        return Err(format!("%{} uses a value that only the body of a loop has", node.0));
    }
    for output in &graph.outputs {
        if output.node.0 as usize >= graph.nodes.len() {
            return Err(format!("output {} is no node", output.name));
        }
    }
    let mut seen = vec![false; graph.slots.len()];
    for (slot, node) in &graph.updates {
        let s = graph.slot(*slot);
        let stored: Vec<_> = s.order.iter().map(|&axis| s.shape.0[axis]).collect();
        if graph.node(*node).shape.0 != stored || graph.node(*node).dtype != s.dtype {
            return Err(format!("update of {} has shape {}", s.name, graph.node(*node).shape));
        }
        if std::mem::replace(&mut seen[slot.0 as usize], true) {
            return Err(format!("{} is updated twice", s.name));
        }
    }
    Ok(())
}
