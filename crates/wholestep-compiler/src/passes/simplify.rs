//! Algebra: takes a graph, gives it without ops that change nothing and with movement where it cancels. Never reassociates floating-point
//! sums: results keep their bits, except for `x + 0` at negative zero.

use super::dce;
use super::rewrite::{Rewrite, constant, rebuild};
use crate::ir::op::{Binary, Contract, Elementwise, Movement, Op, Reduce, Unary};
use crate::ir::{Dim, Graph, Node, NodeId, Shape};

pub fn simplify(graph: &Graph) -> Graph {
    // What nobody needs any more is no user.
    let graph = &dce(graph);
    let mut n_users = vec![0u32; graph.nodes.len()];
    graph.nodes.iter().flat_map(|n| &n.inputs).for_each(|id| n_users[id.0 as usize] += 1);
    graph.outputs.iter().for_each(|o| n_users[o.node.0 as usize] += 1);
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        let simpler = match &node.op {
            // A weight gradient is made in the weight's own order: `(x^T·d)^T` is `d^T·x`.
            Op::Movement(Movement::Permute { perm })
                if swaps_last_two(perm) && n_users[node.inputs[0].0 as usize] == 1 && is_matmul(&r.new, inputs[0]) =>
            {
                Some(transposed_matmul(r, node, perm, inputs[0]))
            }
            // Parts that are put beside each other, as gradients of slices are, are put where they will be read.
            Op::Movement(Movement::Permute { perm }) if is_sum_of_parts(graph, &n_users, node.inputs[0]) => {
                Some(permuted_parts(r, node, perm, node.inputs[0]))
            }
            Op::Elementwise(op) => elementwise(r, node, op, inputs),
            Op::Movement(op) => movement(r, node, op, inputs),
            Op::Reduce(op) => reduce(r, op, inputs),
            Op::Leaf(_) | Op::Contract(_) | Op::Window(_) | Op::Index(_) | Op::Random(_) | Op::Control(_) => None,
        };
        simpler.unwrap_or_else(|| r.copy(node, inputs))
    })
}

fn elementwise(r: &mut Rewrite, node: &Node, op: &Elementwise, x: &[NodeId]) -> Option<NodeId> {
    match op {
        Elementwise::Unary(Unary::Detach) => return Some(x[0]),
        Elementwise::Unary(Unary::Neg) => {
            if let Op::Elementwise(Elementwise::Unary(Unary::Neg)) = r.new.node(x[0]).op {
                return Some(r.new.node(x[0]).inputs[0]);
            }
        }
        Elementwise::Cast(to) if r.new.node(x[0]).dtype == *to => return Some(x[0]),
        Elementwise::Binary(op) => {
            if let Some(same) = binary_identity(&r.new, *op, x) {
                return Some(same);
            }
        }
        Elementwise::Select => match constant(&r.new, x[0]) {
            Some(0.0) => return Some(x[2]),
            Some(_) => return Some(x[1]),
            None => {}
        },
        Elementwise::Unary(_) | Elementwise::Cast(_) => {}
    }
    under_broadcast(r, node, x)
}

/// The operand that `op` returns unchanged because the other is its neutral element.
fn binary_identity(graph: &Graph, op: Binary, x: &[NodeId]) -> Option<NodeId> {
    let (left, right) = (constant(graph, x[0]), constant(graph, x[1]));
    match op {
        Binary::Add if left == Some(0.0) => Some(x[1]),
        Binary::Add | Binary::Sub if right == Some(0.0) => Some(x[0]),
        Binary::Mul if left == Some(1.0) => Some(x[1]),
        Binary::Mul | Binary::Div if right == Some(1.0) => Some(x[0]),
        Binary::Pow if right == Some(1.0) => Some(x[0]),
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Rem
        | Binary::Pow
        | Binary::Atan2
        | Binary::Max
        | Binary::Min
        | Binary::Eq
        | Binary::Ne
        | Binary::Lt
        | Binary::Le
        | Binary::Gt
        | Binary::Ge
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::Shl
        | Binary::Shr => None,
    }
}

/// `f(broadcast(a), broadcast(b))` is `broadcast(f(a, b))`: fewer points, the same values.
fn under_broadcast(r: &mut Rewrite, node: &Node, x: &[NodeId]) -> Option<NodeId> {
    let mut small: Option<Shape> = None;
    let mut sources = Vec::new();
    for &id in x {
        let operand = r.new.node(id);
        match &operand.op {
            Op::Movement(Movement::Broadcast { .. }) => {
                let source = r.new.node(operand.inputs[0]);
                // Operands of several small shapes: all points of the joint shape.
                let joint = match small {
                    None => source.shape.clone(),
                    Some(s) => join(&s, &source.shape),
                };
                small = Some(joint);
                sources.push(operand.inputs[0]);
            }
            _ => return None,
        }
    }
    let small = small?;
    if small == node.shape {
        return None;
    }
    let mut widened = Vec::new();
    for source in sources {
        let same = r.new.node(source).shape == small;
        let wide = if same { source } else { r.push(Movement::Broadcast { shape: small.clone() }, &[source], node) };
        widened.push(wide);
    }
    let inner = r.push(node.op.clone(), &widened, node);
    Some(r.push(Movement::Broadcast { shape: node.shape.clone() }, &[inner], node))
}

fn join(a: &Shape, b: &Shape) -> Shape {
    Shape(a.0.iter().zip(&b.0).map(|(x, y)| if *x == Dim::ONE { *y } else { *x }).collect())
}

fn movement(r: &mut Rewrite, node: &Node, op: &Movement, x: &[NodeId]) -> Option<NodeId> {
    let operand = r.new.node(x[0]).clone();
    if let Movement::Concat { .. } = op {
        return (x.len() == 1).then_some(x[0]);
    }
    if changes_nothing(op, &operand.shape, &node.shape) {
        return Some(x[0]);
    }
    match (op, &operand.op) {
        (Movement::Reshape { .. }, Op::Movement(Movement::Reshape { .. })) => {
            let source = operand.inputs[0];
            if r.new.node(source).shape == node.shape {
                return Some(source);
            }
            Some(r.push(op.clone(), &[source], node))
        }
        (Movement::Permute { perm }, Op::Movement(Movement::Permute { perm: first })) => {
            let joined: Vec<usize> = perm.iter().map(|&axis| first[axis]).collect();
            if joined.iter().copied().eq(0..joined.len()) {
                return Some(operand.inputs[0]);
            }
            Some(r.push(Movement::Permute { perm: joined }, &[operand.inputs[0]], node))
        }
        (Movement::Broadcast { .. }, Op::Movement(Movement::Broadcast { .. })) => {
            Some(r.push(op.clone(), &[operand.inputs[0]], node))
        }
        // A permutation that only moves axes of extent 1 is a reshape.
        (Movement::Permute { perm }, _) => {
            let kept: Vec<usize> = perm.iter().copied().filter(|&axis| operand.shape.0[axis] != Dim::ONE).collect();
            let in_order = kept.windows(2).all(|w| w[0] < w[1]);
            in_order.then(|| r.push(Movement::Reshape { shape: node.shape.clone() }, x, node))
        }
        _ => None,
    }
}

fn changes_nothing(op: &Movement, from: &Shape, to: &Shape) -> bool {
    match op {
        Movement::Reshape { .. } | Movement::Broadcast { .. } => from == to,
        Movement::Permute { perm } => perm.iter().copied().eq(0..perm.len()),
        Movement::Slice { axes } => from == to && axes.iter().all(|a| a.start == Dim::ZERO && a.step == 1),
        Movement::Pad { lo, hi, .. } => lo.iter().chain(hi).all(|&n| n == 0),
        Movement::Flip { axes } => axes.iter().all(|&axis| from.0[axis] == Dim::ONE),
        Movement::Concat { .. } => false,
    }
}

fn swaps_last_two(perm: &[usize]) -> bool {
    let r = perm.len();
    r >= 2 && perm[..r - 2].iter().copied().eq(0..r - 2) && perm[r - 2] == r - 1
}

fn is_matmul(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Contract(Contract::Matmul))
}

/// Whether a node is a sum of at least two padded values that nobody else uses.
fn is_sum_of_parts(graph: &Graph, n_users: &[u32], id: NodeId) -> bool {
    let node = graph.node(id);
    let is_part = |x: &NodeId| match graph.node(*x).op {
        Op::Movement(Movement::Pad { .. }) => n_users[x.0 as usize] == 1,
        _ => is_sum_of_parts(graph, n_users, *x),
    };
    matches!(node.op, Op::Elementwise(Elementwise::Binary(Binary::Add)))
        && n_users[id.0 as usize] == 1
        && node.inputs.iter().all(is_part)
}

/// Such a sum, a node of the old graph, with its axes in another order.
fn permuted_parts(r: &mut Rewrite, like: &Node, perm: &[usize], id: NodeId) -> NodeId {
    let part = r.old.node(id).clone();
    let order = |of: &[usize]| perm.iter().map(|&axis| of[axis]).collect();
    match &part.op {
        Op::Movement(Movement::Pad { lo, hi, value }) => {
            let x = r.map[part.inputs[0].0 as usize];
            let turned = r.push(Movement::Permute { perm: perm.to_vec() }, &[x], like);
            r.push(Movement::Pad { lo: order(lo), hi: order(hi), value: *value }, &[turned], like)
        }
        op => {
            let operands: Vec<NodeId> = part.inputs.iter().map(|&x| permuted_parts(r, like, perm, x)).collect();
            r.push(op.clone(), &operands, like)
        }
    }
}

/// `(a·b)^T` as `b^T·a^T`: the transposes are strides of the operands and cost nothing.
fn transposed_matmul(r: &mut Rewrite, node: &Node, perm: &[usize], matmul: NodeId) -> NodeId {
    let product = r.new.node(matmul).clone();
    let transposed = [product.inputs[1], product.inputs[0]].map(|x| {
        let op = Movement::Permute { perm: perm.to_vec() };
        let shape = Shape(perm.iter().map(|&axis| r.new.node(x).shape.0[axis]).collect());
        let like = Node { shape, ..node.clone() };
        movement(r, &like, &op, &[x]).unwrap_or_else(|| r.push(op, &[x], node))
    });
    r.push(Contract::Matmul, &transposed, node)
}

/// A reduction over axes of extent 1 joins nothing.
fn reduce(r: &mut Rewrite, op: &Reduce, x: &[NodeId]) -> Option<NodeId> {
    let shape = &r.new.node(x[0]).shape;
    match op {
        Reduce::Sum { axes } | Reduce::Max { axes } | Reduce::Min { axes } => {
            axes.iter().all(|&axis| shape.0[axis] == Dim::ONE).then_some(x[0])
        }
        Reduce::CumSum { axis, .. } => (shape.0[*axis] == Dim::ONE).then_some(x[0]),
        Reduce::ArgMax { axis } => {
            if shape.0[*axis] != Dim::ONE {
                return None;
            }
            // The only place there is: zero, in the operand's shape.
            let like = Node { dtype: crate::ir::DType::I32, ..r.new.node(x[0]).clone() };
            Some(super::rewrite::push_constant(r, 0.0, &like))
        }
    }
}
