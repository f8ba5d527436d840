//! Memory that something wants: takes a graph that all passes have been through, gives it with an identity wherever a value must be copied to
//! be in memory of its own. Fusion then copies the identity, mostly as a part of a kernel that is there anyway.

use super::fuse::{Role, has_memory, is_gathered, is_pad, natural_role};
use crate::ir::loops::Loops;
use crate::ir::op::{Control, Movement, Op};
use crate::ir::{Graph, Node, NodeId};
use crate::passes::rewrite::Rewrite;

/// Puts an identity behind every leaf that something wants in memory: an output, an update, padding, an operand of a kernel that cannot
/// make known values itself; before what a loop begins with; and behind what a trip leaves without making it.
pub fn pin(graph: &Graph) -> Graph {
    let loops = Loops::of(graph).expect("bug: a pass takes values out of a loop");
    let mut pinned = Rewrite::new(graph);
    // By loop, the pinned operands of its results.
    let mut ends: Vec<Option<Vec<NodeId>>> = vec![None; loops.list.len()];
    for id in graph.ids() {
        let node = graph.node(id);
        let mut inputs = pinned.operands(node);
        match &node.op {
            Op::Control(Control::Carry { .. }) => inputs[0] = push_identity(&mut pinned, inputs[0], node),
            Op::Control(Control::Result { .. }) => {
                let of = loops.list.iter().position(|l| l.results.contains(&id)).expect("bug: a result of no loop");
                inputs = ends[of].get_or_insert_with(|| pin_trip(&mut pinned, &loops, of)).clone();
            }
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_) => {
                let wants_memory = natural_role(graph, id) == Role::Heavy || is_pad(&node.op);
                for (k, &x) in node.inputs.iter().enumerate() {
                    if (wants_memory || is_gathered(graph, id, k)) && !has_memory(graph, x) {
                        inputs[k] = push_identity(&mut pinned, inputs[k], graph.node(x));
                    }
                }
            }
        }
        let to = pinned.copy(node, &inputs);
        pinned.map.push(to);
    }
    let mut out = pinned.finish();
    for i in 0..out.outputs.len() {
        let node = out.outputs[i].node;
        out.outputs[i].node = identity_of_leaf(&mut out, node);
    }
    for i in 0..out.updates.len() {
        let node = out.updates[i].1;
        out.updates[i].1 = identity_of_leaf(&mut out, node);
    }
    out
}

/// The operands of a loop's results, in the new graph. A value that stays as it is needs nothing.
fn pin_trip(pinned: &mut Rewrite, loops: &Loops, index: usize) -> Vec<NodeId> {
    let graph = pinned.old;
    let this = &loops.list[index];
    let new = |pinned: &Rewrite, id: NodeId| pinned.map[id.0 as usize];
    let mut ends: Vec<NodeId> = this.carries.iter().map(|&id| new(pinned, id)).collect();
    for (i, (&carry, &next)) in this.carries.iter().zip(&this.nexts).enumerate() {
        let node = graph.node(next);
        let is_made_in_trip = loops.of[next.0 as usize] == Some(index)
            && !matches!(node.op, Op::Leaf(_) | Op::Control(_))
            && !this.nexts[..i].contains(&next);
        let to = new(pinned, next);
        ends.push(if next == carry || is_made_in_trip { to } else { push_identity(pinned, to, node) });
    }
    ends
}

fn push_identity(r: &mut Rewrite, id: NodeId, like: &Node) -> NodeId {
    r.push(Movement::Reshape { shape: like.shape.clone() }, &[id], like)
}

fn identity_of_leaf(graph: &mut Graph, id: NodeId) -> NodeId {
    let node = graph.node(id).clone();
    if !matches!(node.op, Op::Leaf(_) | Op::Control(_)) {
        return id;
    }
    let op = Op::Movement(Movement::Reshape { shape: node.shape.clone() });
    graph.push(op, &[id], node.scope, node.loc)
}
