//! Layout: takes a graph whose convolutions stand between permutations, gives one in which values stay channels-last from one convolution to
//! the next, and weights (with their gradients and optimizer state) are stored as convolutions read them. Never permutes what the user
//! or a file sees: a slot remembers its storage order.
//!
//! Permutations are pulled through pointwise ops and reductions toward the outputs until they meet their inverse. A slot whose value is
//! only used permuted is stored that way; its update is permuted alike, which pulls the optimizer's state after it.

use super::rewrite::{Rewrite, rebuild};
use super::simplify;
use crate::ir::op::{Leaf, Movement, Op, Reduce};
use crate::ir::{Dim, Graph, Node, NodeId, Shape, SlotId};
use std::borrow::Cow;

/// Rounds of pulling and re-storing: weights, then their state, then what is left.
const MAX_ROUNDS: usize = 4;

pub fn layout(graph: &Graph) -> Graph {
    let mut graph = Cow::Borrowed(graph);
    for _ in 0..MAX_ROUNDS {
        let orders = choose_orders(&graph);
        let changed = orders.iter().any(Option::is_some);
        if changed {
            graph = Cow::Owned(store(&graph, &orders));
        }
        graph = Cow::Owned(simplify(&pull(&graph)));
        if !changed {
            break;
        }
    }
    graph.into_owned()
}

/// For each slot the permutation under which it should be stored: the one that a contraction applies to it, or that a chain of pointwise ops
/// would have to undo where it meets a permuted operand (the optimizer's state meets the gradient).
fn choose_orders(graph: &Graph) -> Vec<Option<Vec<usize>>> {
    let mut orders: Vec<Option<Vec<usize>>> = vec![None; graph.slots.len()];
    let slot_of = |id: NodeId| match &graph.node(id).op {
        Op::Leaf(Leaf::Slot { id, .. }) => Some(*id),
        _ => None,
    };
    let mut choose = |slot: SlotId, perm: &[usize]| {
        let untouched = graph.slot(slot).order.iter().copied().eq(0..perm.len());
        if untouched && perm.len() > 2 {
            orders[slot.0 as usize].get_or_insert_with(|| perm.to_vec());
        }
    };
    // What a pointwise node would be a permutation of, if its operands were: told from users to operands.
    let mut wanted: Vec<Option<Vec<usize>>> = vec![None; graph.nodes.len()];
    for id in graph.ids().rev() {
        let node = graph.node(id);
        match &node.op {
            Op::Contract(_) => {
                for &x in &node.inputs {
                    if let Op::Movement(Movement::Permute { perm }) = &graph.node(x).op
                        && let Some(slot) = slot_of(graph.node(x).inputs[0])
                    {
                        choose(slot, perm);
                    }
                }
            }
            Op::Elementwise(_) => {
                let own = node.inputs.iter().find_map(|&x| as_permute(graph, x)).map(|(perm, _)| perm);
                let Some(perm) = own.or(wanted[id.0 as usize].take()) else { continue };
                for &x in node.inputs.iter().filter(|&&x| graph.node(x).shape == node.shape) {
                    match slot_of(x) {
                        Some(slot) => choose(slot, &inverse(&perm)),
                        None => wanted[x.0 as usize] = Some(perm.clone()),
                    }
                }
            }
            Op::Leaf(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Control(_) => {}
        }
    }
    orders
}

/// Stores slots under new orders: their leaves become permutations of what is stored, their updates are permuted alike.
fn store(graph: &Graph, orders: &[Option<Vec<usize>>]) -> Graph {
    let mut out = rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        if let Op::Leaf(Leaf::Slot { id: slot, dtype, shape }) = &node.op
            && let Some(perm) = &orders[slot.0 as usize]
        {
            let stored = permuted(shape, perm);
            let leaf = r.push(Leaf::Slot { id: *slot, dtype: *dtype, shape: stored }, &[], node);
            return r.push(Movement::Permute { perm: inverse(perm) }, &[leaf], node);
        }
        r.copy(node, inputs)
    });
    for (slot, order) in out.slots.iter_mut().zip(orders) {
        if let Some(perm) = order {
            slot.order = perm.clone();
        }
    }
    for i in 0..out.updates.len() {
        let (slot, node) = out.updates[i];
        if let Some(perm) = &orders[slot.0 as usize] {
            let like = out.node(node).clone();
            let op = Op::Movement(Movement::Permute { perm: perm.clone() });
            out.updates[i].1 = out.push(op, &[node], like.scope, like.loc);
        }
    }
    out
}

/// Pulls permutations through pointwise ops and reductions.
fn pull(graph: &Graph) -> Graph {
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        let pulled = match &node.op {
            Op::Elementwise(_) => pull_elementwise(r, node, inputs),
            Op::Reduce(op) => pull_reduce(r, node, op, inputs),
            Op::Movement(op) => pull_movement(r, node, op, inputs),
            Op::Leaf(_) | Op::Contract(_) | Op::Window(_) | Op::Index(_) | Op::Random(_) | Op::Control(_) => None,
        };
        pulled.unwrap_or_else(|| r.copy(node, inputs))
    })
}

/// The permutation that a node applies, with what it permutes.
fn as_permute(graph: &Graph, id: NodeId) -> Option<(Vec<usize>, NodeId)> {
    match &graph.node(id).op {
        Op::Movement(Movement::Permute { perm }) => Some((perm.clone(), graph.node(id).inputs[0])),
        _ => None,
    }
}

/// `f(permute(a), permute(b), broadcast(c))` is `permute(f(a, b, broadcast(c')))`.
fn pull_elementwise(r: &mut Rewrite, node: &Node, x: &[NodeId]) -> Option<NodeId> {
    let (perm, _) = x.iter().find_map(|&id| as_permute(&r.new, id))?;
    let back = inverse(&perm);
    let mut inner = Vec::new();
    for &id in x {
        let moved = match as_permute(&r.new, id) {
            Some((p, source)) if p == perm => source,
            Some(_) => return None,
            None => permute_small(r, node, id, &back)?,
        };
        inner.push(moved);
    }
    let result = r.push(node.op.clone(), &inner, node);
    Some(r.push(Movement::Permute { perm }, &[result], node))
}

/// `permute(x)` for an x that is a broadcast of something smaller, which is cheap to permute or need not be.
fn permute_small(r: &mut Rewrite, like: &Node, id: NodeId, perm: &[usize]) -> Option<NodeId> {
    let node = r.new.node(id).clone();
    let Op::Movement(Movement::Broadcast { shape }) = &node.op else { return None };
    let source = r.new.node(node.inputs[0]).clone();
    let kept: Vec<usize> = perm.iter().copied().filter(|&axis| source.shape.0[axis] != Dim::ONE).collect();
    let small = if kept.is_sorted() {
        r.push(Movement::Reshape { shape: permuted(&source.shape, perm) }, &[node.inputs[0]], like)
    } else {
        r.push(Movement::Permute { perm: perm.to_vec() }, &[node.inputs[0]], like)
    };
    Some(r.push(Movement::Broadcast { shape: permuted(shape, perm) }, &[small], like))
}

fn pull_reduce(r: &mut Rewrite, node: &Node, op: &Reduce, x: &[NodeId]) -> Option<NodeId> {
    let (perm, source) = as_permute(&r.new, x[0])?;
    let moved = |axes: &[usize]| {
        let mut axes: Vec<usize> = axes.iter().map(|&axis| perm[axis]).collect();
        axes.sort_unstable();
        axes
    };
    let inner = match op {
        Reduce::Sum { axes } => Reduce::Sum { axes: moved(axes) },
        Reduce::Max { axes } => Reduce::Max { axes: moved(axes) },
        Reduce::Min { axes } => Reduce::Min { axes: moved(axes) },
        Reduce::ArgMax { axis } => Reduce::ArgMax { axis: perm[*axis] },
        Reduce::CumSum { axis, reverse } => Reduce::CumSum { axis: perm[*axis], reverse: *reverse },
    };
    let result = r.push(inner, &[source], node);
    Some(r.push(Movement::Permute { perm }, &[result], node))
}

/// Padding, slices, flips and concatenations work on any axis order.
fn pull_movement(r: &mut Rewrite, node: &Node, op: &Movement, x: &[NodeId]) -> Option<NodeId> {
    let (perm, _) = as_permute(&r.new, x[0])?;
    let back = inverse(&perm);
    let sources: Option<Vec<NodeId>> =
        x.iter().map(|&id| as_permute(&r.new, id).filter(|(p, _)| *p == perm).map(|(_, source)| source)).collect();
    let sources = sources?;
    let inner = match op {
        Movement::Slice { axes } => Movement::Slice { axes: back.iter().map(|&axis| axes[axis]).collect() },
        Movement::Pad { lo, hi, value } => Movement::Pad {
            lo: back.iter().map(|&axis| lo[axis]).collect(),
            hi: back.iter().map(|&axis| hi[axis]).collect(),
            value: *value,
        },
        Movement::Flip { axes } => Movement::Flip { axes: axes.iter().map(|&axis| perm[axis]).collect() },
        Movement::Concat { axis } => Movement::Concat { axis: perm[*axis] },
        Movement::Broadcast { shape } => Movement::Broadcast { shape: permuted(shape, &back) },
        Movement::Reshape { .. } | Movement::Permute { .. } => return None,
    };
    let result = r.push(inner, &sources, node);
    Some(r.push(Movement::Permute { perm }, &[result], node))
}

/// Axis i of the result is axis `perm[i]` of `shape`.
fn permuted(shape: &Shape, perm: &[usize]) -> Shape {
    Shape(perm.iter().map(|&axis| shape.0[axis]).collect())
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
    inverse
}
