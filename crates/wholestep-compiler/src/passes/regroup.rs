//! Sums of weighted products: takes a graph, gives one in which `Σⱼ p[i, j]·(a·bᵀ)[i, j]` is `Σ_d a[i, d]·(p·b)[i, d]` wherever `p·b` is there anyway and its
//! rows are not longer. The sum in the gradient of attention's softmax then needs no product of its own, and what is done with that product's elements can
//! be done where they are made. Floats may differ in their last bits, as between any two orders of summation.
//! Paper: Dao, Fu, Ermon, Rudra, Ré 2022, arXiv:2205.14135.

use super::rewrite::rebuild;
use crate::ir::op::{Binary, Contract, Elementwise, Movement, Op, Reduce};
use crate::ir::{Graph, NodeId, Shape};

pub fn regroup(graph: &Graph) -> Graph {
    let products: Vec<NodeId> = graph.ids().filter(|&id| is_product(graph, id)).collect();
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        let Some(factors) = regrouped(graph, &products, id) else { return r.copy(node, inputs) };
        // Where both are there in another order of their rows, they are read in that one: it is the one in which the next layer reads them.
        let (factors, order) = match in_other_order(graph, factors) {
            Some((factors, order)) => (factors, Some(order)),
            None => (factors, None),
        };
        let factors = factors.map(|x| r.map[x.0 as usize]);
        let terms = r.push(Elementwise::Binary(Binary::Mul), &factors, node);
        let sums = r.push(node.op.clone(), &[terms], node);
        order.map_or(sums, |perm| r.push(Movement::Permute { perm }, &[sums], node))
    })
}

fn is_product(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Contract(Contract::Matmul))
}

/// For a sum of a product's elements times weights, the values whose elements times each other have the same sum.
fn regrouped(graph: &Graph, products: &[NodeId], sum: NodeId) -> Option<[NodeId; 2]> {
    let node = graph.node(sum);
    let terms = graph.node(*node.inputs.first()?);
    let is_of_rows = matches!(&node.op, Op::Reduce(Reduce::Sum { axes }) if axes[..] == [terms.shape.rank() - 1]);
    if !is_of_rows || !matches!(terms.op, Op::Elementwise(Elementwise::Binary(Binary::Mul))) {
        return None;
    }
    let [x, y] = [terms.inputs[0], terms.inputs[1]];
    [(x, y), (y, x)].into_iter().filter(|(_, product)| is_product(graph, *product)).find_map(|(weights, product)| {
        let [a, b] = [0, 1].map(|i| graph.node(product).inputs[i]);
        let mixed = products.iter().copied().find(|&other| {
            let of = &graph.node(other).inputs;
            other < sum && of[0] == weights && are_transposes(graph, of[1], b)
        })?;
        let [of_a, of_mixed, of_terms] = [a, mixed, node.inputs[0]].map(|x| &graph.node(x).shape);
        let length = |shape: &Shape| shape.0.last()?.as_fixed();
        (of_a == of_mixed && length(of_a)? <= length(of_terms)?).then_some([a, mixed])
    })
}

/// The values whose rows in another order are those of `a` and of `b`, and that order.
fn in_other_order(graph: &Graph, [a, b]: [NodeId; 2]) -> Option<([NodeId; 2], Vec<usize>)> {
    let (first, order) = permuted(graph, a)?;
    let keeps_rows = order.last() == Some(&(order.len() - 1));
    let is_of_b = |(source, back): (NodeId, &[usize])| {
        source == b && back.len() == order.len() && order.iter().enumerate().all(|(i, &axis)| back[axis] == i)
    };
    let second = graph.ids().take_while(|&id| id < a).find(|&id| permuted(graph, id).is_some_and(is_of_b))?;
    keeps_rows.then(|| ([first, second], order.to_vec()))
}

/// What a value is with its axes in another order, and that order.
fn permuted(graph: &Graph, id: NodeId) -> Option<(NodeId, &[usize])> {
    match &graph.node(id).op {
        Op::Movement(Movement::Permute { perm }) => Some((graph.node(id).inputs[0], perm)),
        // tidy: wildcard, nothing else only exchanges axes
        _ => None,
    }
}

/// Whether one value is the other with its last two axes exchanged.
fn are_transposes(graph: &Graph, a: NodeId, b: NodeId) -> bool {
    let rank = graph.node(a).shape.rank();
    let unmoved: Vec<usize> = (0..rank).collect();
    let of = |id: NodeId| permuted(graph, id).unwrap_or((id, &unmoved));
    let ((x, order), (y, other)) = (of(a), of(b));
    let mut exchanged = other.to_vec();
    if rank >= 2 && exchanged.len() == rank {
        exchanged.swap(rank - 2, rank - 1);
    }
    x == y && rank >= 2 && order == exchanged
}
