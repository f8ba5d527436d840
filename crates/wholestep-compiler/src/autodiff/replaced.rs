//! The same value of other operands: takes a traced value, gives it traced again with some tensors replaced. Never copies what does not depend
//! on these: that is the same value, random bits included.

use super::custom;
use crate::ir::{BuildError, CustomVjp, Graph, NodeId, Op, Tensor};
use std::collections::BTreeMap;

/// `y` with each of `x` replaced by that of `by` at its place, of the same shape and dtype. Gradients that a user defined hold for it too.
/// Errors: `y` depends on `x` through a loop on the device.
pub fn replaced(y: &Tensor, x: &[Tensor], by: &[Tensor]) -> Tensor {
    let mut graph = y.graph().borrow_mut();
    let mut map: BTreeMap<NodeId, NodeId> = x.iter().map(Tensor::id).zip(by.iter().map(Tensor::id)).collect();
    let customs: Vec<CustomVjp> = graph.custom_vjps.clone();
    let mut depends = vec![false; y.id().0 as usize + 1];
    let mut needed = vec![false; depends.len()];
    x.iter().filter(|x| x.id() <= y.id()).for_each(|x| depends[x.id().0 as usize] = true);
    for id in 0..depends.len() {
        depends[id] |= graph.nodes[id].inputs.iter().any(|i| depends[i.0 as usize]);
    }
    needed[y.id().0 as usize] = true;
    let by_output = custom::by_output(&graph);
    for id in (0..depends.len()).rev().filter(|&id| depends[id]) {
        if needed[id] && !map.contains_key(&NodeId(id as u32)) {
            graph.nodes[id].inputs.iter().for_each(|i| needed[i.0 as usize] = true);
            let custom = by_output.get(&NodeId(id as u32)).map(|&index| &customs[index]);
            custom.into_iter().flat_map(|c| captured(&graph, c)).for_each(|i| needed[i.0 as usize] = true);
        }
    }
    // A copy of a part of a loop would share its values with the other part.
    let is_loop = |id: &usize| depends[*id] && needed[*id] && matches!(graph.nodes[*id].op, Op::Control(_));
    if let Some(id) = (0..depends.len()).find(is_loop) {
        let node = &graph.nodes[id];
        let error = BuildError::new(
            node.op.name(),
            "an optimizer that searches evaluates the model again, which a loop in it does not allow yet",
        )
        .at(graph.position(node.scope, node.loc))
        .help("take another optimizer, or write the trips out");
        graph.fail(error);
        return y.clone();
    }
    let copy = |graph: &mut Graph, map: &mut BTreeMap<NodeId, NodeId>, id: NodeId| {
        let node = graph.node(id).clone();
        let inputs: Vec<NodeId> = node.inputs.iter().map(|i| *map.get(i).unwrap_or(i)).collect();
        let new = graph.push(node.op, &inputs, node.scope, node.loc);
        map.insert(id, new);
    };
    for id in (0..depends.len()).filter(|&id| depends[id] && needed[id]).map(|id| NodeId(id as u32)) {
        if !map.contains_key(&id) {
            copy(&mut graph, &mut map, id);
        }
    }
    // Outer ones come after those within them; their traces hold the inner ones'.
    for entry in customs.iter().rev() {
        if !entry.outputs.iter().any(|y| map.contains_key(y)) {
            continue;
        }
        let start = NodeId(entry.trace.start);
        if !map.contains_key(&start) {
            entry.trace.clone().for_each(|id| copy(&mut graph, &mut map, NodeId(id)));
        }
        let first = map.get(&start).map_or(graph.nodes.len() as u32, |id| id.0);
        let of = |id: &NodeId| *map.get(id).unwrap_or(id);
        let all = |ids: &[NodeId]| ids.iter().map(of).collect();
        let entry = CustomVjp {
            inputs: all(&entry.inputs),
            outputs: all(&entry.outputs),
            d_outputs: all(&entry.d_outputs),
            grads: entry.grads.iter().map(|grad| grad.as_ref().map(of)).collect(),
            trace: first..first + (entry.trace.end - entry.trace.start),
        };
        graph.custom_vjps.push(entry);
    }
    let id = *map.get(&y.id()).unwrap_or(&y.id());
    drop(graph);
    Tensor::from_node(y.graph().clone(), id)
}

/// What a custom gradient is made of that the forward pass made.
fn captured(graph: &Graph, custom: &CustomVjp) -> Vec<NodeId> {
    let traced = custom.trace.clone().flat_map(|id| graph.nodes[id as usize].inputs.clone());
    traced.chain(custom.grads.iter().flatten().copied()).filter(|id| id.0 < custom.trace.start).collect()
}
