//! Sums: takes a graph, gives it with factors that a sum does not run over taken out of it, and with the sum of deviations from a mean known to
//! be zero. Batch normalization's gradient becomes the two sums that a person would write. Never touches whole numbers; floats may
//! differ in their last bits, as between any two orders of summation.

use super::rewrite::{Rewrite, constant, push_constant, rebuild};
use crate::ir::op::{Binary, Elementwise, Leaf, Movement, Op, Reduce, Unary};
use crate::ir::{Dim, Graph, Node, NodeId, Shape};
use std::collections::BTreeMap;

pub fn factor(graph: &Graph) -> Graph {
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        match &node.op {
            Op::Reduce(Reduce::Sum { axes }) if node.dtype.is_float() => {
                let mut sums = Sums { axes, like: node, made: BTreeMap::new(), factors: BTreeMap::new() };
                sums.of(r, inputs[0])
            }
            _ => r.copy(node, inputs),
        }
    })
}

/// One sum being taken apart. A term that is there twice is looked at once: what is summed is a graph and no tree, whose paths may be many.
struct Sums<'a> {
    axes: &'a [usize],
    like: &'a Node,
    /// By term, its sum.
    made: BTreeMap<NodeId, NodeId>,
    /// By term, whether its sum gets simpler.
    factors: BTreeMap<NodeId, bool>,
}

impl Sums<'_> {
    /// The sum of `x` over the axes, kept as ones.
    fn of(&mut self, r: &mut Rewrite, x: NodeId) -> NodeId {
        if let Some(made) = self.made.get(&x) {
            return *made;
        }
        let sum = self.make(r, x);
        self.made.insert(x, sum);
        sum
    }

    fn make(&mut self, r: &mut Rewrite, x: NodeId) -> NodeId {
        let (axes, like) = (self.axes, self.like);
        let operand = r.new.node(x).clone();
        match &operand.op {
            Op::Elementwise(Elementwise::Unary(Unary::Neg)) => {
                let inner = self.of(r, operand.inputs[0]);
                r.push(operand.op.clone(), &[inner], like)
            }
            Op::Elementwise(Elementwise::Binary(op @ (Binary::Mul | Binary::Div))) => {
                let [a, b] = [operand.inputs[0], operand.inputs[1]];
                if let Some(row) = row_of(r, b, axes, like) {
                    let inner = self.of(r, a);
                    return r.push(operand.op.clone(), &[inner, row], like);
                }
                match row_of(r, a, axes, like).filter(|_| *op == Binary::Mul) {
                    Some(row) => {
                        let inner = self.of(r, b);
                        r.push(operand.op.clone(), &[row, inner], like)
                    }
                    None => r.push(Reduce::Sum { axes: axes.to_vec() }, &[x], like),
                }
            }
            Op::Elementwise(Elementwise::Binary(Binary::Sub))
                if is_mean_of(&r.new, operand.inputs[1], operand.inputs[0], axes) =>
            {
                push_constant(r, 0.0, like)
            }
            Op::Elementwise(Elementwise::Binary(Binary::Add | Binary::Sub))
                if operand.inputs.iter().all(|&term| self.has_factor(&r.new, term)) =>
            {
                let terms = [self.of(r, operand.inputs[0]), self.of(r, operand.inputs[1])];
                r.push(operand.op.clone(), &terms, like)
            }
            _ => r.push(Reduce::Sum { axes: axes.to_vec() }, &[x], like),
        }
    }

    /// Whether the sum of a term gets simpler: only then is the sum of a sum taken apart.
    fn has_factor(&mut self, graph: &Graph, id: NodeId) -> bool {
        if let Some(known) = self.factors.get(&id) {
            return *known;
        }
        let (node, axes) = (graph.node(id), self.axes);
        let is_row = |id: NodeId| match &graph.node(id).op {
            Op::Movement(Movement::Broadcast { .. }) => {
                let source = &graph.node(graph.node(id).inputs[0]).shape;
                axes.iter().all(|&axis| source.0[axis] == Dim::ONE)
            }
            _ => false,
        };
        let found = match &node.op {
            Op::Elementwise(Elementwise::Unary(Unary::Neg)) => self.has_factor(graph, node.inputs[0]),
            Op::Elementwise(Elementwise::Binary(Binary::Mul)) => node.inputs.iter().any(|&x| is_row(x)),
            Op::Elementwise(Elementwise::Binary(Binary::Div)) => is_row(node.inputs[1]),
            Op::Elementwise(Elementwise::Binary(Binary::Sub))
                if is_mean_of(graph, node.inputs[1], node.inputs[0], axes) =>
            {
                true
            }
            Op::Elementwise(Elementwise::Binary(Binary::Add | Binary::Sub)) => {
                node.inputs.iter().all(|&x| self.has_factor(graph, x))
            }
            _ => false,
        };
        self.factors.insert(id, found);
        found
    }
}

/// The one value per row of a node that is equal along `axes`, in the shape of the sum.
fn row_of(r: &mut Rewrite, id: NodeId, axes: &[usize], like: &Node) -> Option<NodeId> {
    let node = r.new.node(id).clone();
    let Op::Movement(Movement::Broadcast { .. }) = &node.op else { return None };
    let source = r.new.node(node.inputs[0]).shape.clone();
    if axes.iter().any(|&axis| source.0[axis] != Dim::ONE) {
        return None;
    }
    let mut shape = node.shape.clone();
    axes.iter().for_each(|&axis| shape.0[axis] = Dim::ONE);
    if source == shape {
        return Some(node.inputs[0]);
    }
    Some(r.push(Movement::Broadcast { shape }, &[node.inputs[0]], like))
}

/// Whether `mean` is `x.sum(axes) / count`, broadcast to x.
fn is_mean_of(graph: &Graph, mean: NodeId, x: NodeId, axes: &[usize]) -> bool {
    let node = graph.node(mean);
    let Op::Movement(Movement::Broadcast { .. }) = &node.op else { return false };
    let quotient = graph.node(node.inputs[0]);
    let Op::Elementwise(Elementwise::Binary(Binary::Div)) = &quotient.op else { return false };
    let total = graph.node(quotient.inputs[0]);
    let sums_x =
        matches!(&total.op, Op::Reduce(Reduce::Sum { axes: summed }) if summed == axes) && total.inputs[0] == x;
    sums_x && is_count(graph, quotient.inputs[1], &graph.node(x).shape, axes)
}

/// Whether a node is the number of elements that a sum over `axes` of `shape` joins.
fn is_count(graph: &Graph, id: NodeId, shape: &Shape, axes: &[usize]) -> bool {
    let count = axes.iter().try_fold(Dim::ONE, |n, &axis| n.times(shape.0[axis]));
    let node = graph.node(id);
    match (&node.op, count) {
        (Op::Leaf(Leaf::Extent { dim, .. }), Some(count)) => *dim == count,
        (Op::Movement(Movement::Reshape { .. } | Movement::Broadcast { .. }), _) => {
            is_count(graph, node.inputs[0], shape, axes)
        }
        (_, Some(count)) => count.as_fixed().is_some_and(|n| constant(graph, id) == Some(n as f64)),
        (_, None) => false,
    }
}
