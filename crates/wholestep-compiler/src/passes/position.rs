//! Masks of positions, such as that of causal attention: takes a graph, gives one in which whoever selects by such a mask compares the positions itself,
//! so that the mask takes no memory and it is known there which elements it discards. A sum of products with what a mask makes 0, as in the gradient of a
//! masked softmax, leaves those products out: 0 times the other factor is 0, unless that is infinite or NaN, and then the values that the mask lets through are already.

use super::rewrite::{Rewrite, constant, push_constant, rebuild};
use crate::ir::op::{Binary, Elementwise, Leaf, Movement, Op, Reduce, Unary};
use crate::ir::{DType, Dim, Graph, Node, NodeId, Shape};

/// How many nodes a mask is made of, or lie between a mask and a product, at most.
const FAR: usize = 8;

pub fn position(graph: &Graph) -> Graph {
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        match &node.op {
            Op::Elementwise(Elementwise::Select) if is_of_positions(graph, node.inputs[0], FAR) => {
                let mask = again(r, node.inputs[0], &node.shape, node);
                r.push(node.op.clone(), &[mask, inputs[1], inputs[2]], node)
            }
            Op::Reduce(Reduce::Sum { .. }) => match left_out(graph, node.inputs[0]) {
                Some(mask) => {
                    let product = graph.node(node.inputs[0]);
                    let mask = again(r, mask, &product.shape, node);
                    let zero = push_constant(r, 0.0, product);
                    let rest = r.push(Elementwise::Select, &[mask, zero, inputs[0]], product);
                    r.push(node.op.clone(), &[rest], node)
                }
                None => r.copy(node, inputs),
            },
            // tidy: wildcard, all others stay as they are
            _ => r.copy(node, inputs),
        }
    })
}

/// The mask of positions where a product is 0 because a factor is.
fn left_out(graph: &Graph, product: NodeId) -> Option<NodeId> {
    let node = graph.node(product);
    let is_product = matches!(node.op, Op::Elementwise(Elementwise::Binary(Binary::Mul)));
    let mask = is_product.then(|| zero_where(graph, product, FAR)).flatten()?;
    is_of_positions(graph, mask, FAR).then_some(mask)
}

/// A mask where a value is 0.
fn zero_where(graph: &Graph, id: NodeId, far: usize) -> Option<NodeId> {
    let (node, far) = (graph.node(id), far.checked_sub(1)?);
    let of = |i: usize| zero_where(graph, node.inputs[i], far);
    let Op::Elementwise(op) = &node.op else { return None };
    match op {
        Elementwise::Select => (constant(graph, node.inputs[1]) == Some(0.0)).then_some(node.inputs[0]),
        Elementwise::Binary(Binary::Mul) => of(0).or_else(|| of(1)),
        Elementwise::Binary(Binary::Div) | Elementwise::Unary(Unary::Neg) => of(0),
        Elementwise::Unary(Unary::Exp) => lowest_where(graph, node.inputs[0], far),
        // tidy: wildcard, what is not known to keep a 0 may lose it
        _ => None,
    }
}

/// A mask where a value is negative infinity.
fn lowest_where(graph: &Graph, id: NodeId, far: usize) -> Option<NodeId> {
    let (node, far) = (graph.node(id), far.checked_sub(1)?);
    let Op::Elementwise(op) = &node.op else { return None };
    match op {
        Elementwise::Select => (constant(graph, node.inputs[1]) == Some(f64::NEG_INFINITY)).then_some(node.inputs[0]),
        Elementwise::Binary(Binary::Sub) => lowest_where(graph, node.inputs[0], far),
        // tidy: wildcard, as above
        _ => None,
    }
}

/// Whether a value is made of positions and known numbers alone, by so many nodes at most.
fn is_of_positions(graph: &Graph, id: NodeId, far: usize) -> bool {
    fn count(graph: &Graph, id: NodeId, left: &mut usize, has_iota: &mut bool) -> bool {
        let node = graph.node(id);
        match &node.op {
            Op::Leaf(Leaf::Iota { .. }) => {
                *has_iota = true;
                return true;
            }
            Op::Leaf(Leaf::Const { .. } | Leaf::Extent { .. }) => return true,
            Op::Movement(Movement::Broadcast { .. } | Movement::Reshape { .. }) => {}
            Op::Elementwise(_) if *left > 0 => *left -= 1,
            // tidy: wildcard, all others read memory or are too far
            _ => return false,
        }
        node.inputs.iter().all(|&x| count(graph, x, left, has_iota))
    }
    let (mut left, mut has_iota) = (far, false);
    graph.node(id).dtype == DType::Bool && count(graph, id, &mut left, &mut has_iota) && has_iota
}

/// Appends a mask once more, computed at every element of `shape`, along whose last axes it lies.
fn again(r: &mut Rewrite, mask: NodeId, shape: &Shape, like: &Node) -> NodeId {
    let node = r.old.node(mask);
    match &node.op {
        Op::Elementwise(op) => {
            let inputs: Vec<NodeId> = node.inputs.iter().map(|&x| again(r, x, shape, like)).collect();
            return r.push(*op, &inputs, like);
        }
        Op::Movement(Movement::Broadcast { .. }) => return again(r, node.inputs[0], shape, like),
        Op::Movement(Movement::Reshape { .. }) if adds_ones(r.old.node(node.inputs[0]), node) => {
            return again(r, node.inputs[0], shape, like);
        }
        // tidy: wildcard, what a mask compares is read as it is
        _ => {}
    }
    let mut to = r.map[mask.0 as usize];
    if node.shape.rank() < shape.rank() {
        let ones = vec![Dim::ONE; shape.rank() - node.shape.rank()];
        let shape = Shape([&ones[..], node.shape.dims()].concat());
        to = r.push(Movement::Reshape { shape }, &[to], like);
    }
    if node.shape == *shape { to } else { r.push(Movement::Broadcast { shape: shape.clone() }, &[to], like) }
}

/// Whether a shape is another one behind axes of extent 1.
fn adds_ones(of: &Node, node: &Node) -> bool {
    let (dims, of) = (node.shape.dims(), of.shape.dims());
    dims.ends_with(of) && dims[..dims.len() - of.len()].iter().all(|d| *d == Dim::ONE)
}
