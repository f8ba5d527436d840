//! Mixed precision: takes a graph that asks for 16-bit storage ([`Graph::storage`]), gives one in which contractions multiply 16-bit operands
//! and values that hold the batch are kept in 16 bits between them. Never touches slots, whole numbers or what a reduction adds up.
//!
//! | what | runs in |
//! | --- | --- |
//! | matrix products, convolutions and their gradients | 16-bit operands, f32 sums; the result is kept in 16 bits if it holds the batch, else (a weight's gradient) in f32 |
//! | what a contraction reads | whatever makes it, in f32; kept in 16 bits for all its users if it holds the batch |
//! | `+ -`, max, min, select, neg, abs, products with a scale, but not what a row's mean is taken off | f32; the result is kept in 16 bits if its full-size operands are and a contraction uses it, and that of adding a bias in any case |
//! | movement, and pooling that chooses (the largest of each window, and its gradient, which is added up in f32) | the type of what it moves |
//! | all other maths: products, quotients, exp, tanh, erf ..: activations, softmax, losses, norms | f32 |
//! | reductions, scans, sums of windows, indexing | f32 |
//! | parameters, optimizer, slots, outputs | f32 |
//!
//! A value of 16 bits is widened by a cast of its own for each of its users, which is how the user loads it.

use super::rewrite::Rewrite;
use crate::ir::op::{Binary, Elementwise, Movement, Op, Unary, Window};
use crate::ir::{DType, Graph, Node, NodeId};

pub fn precision(graph: &Graph) -> Graph {
    let Some(half) = graph.storage else { return graph.clone() };
    let none = vec![None; graph.nodes.len()];
    let (wanted, operands) = (wanted(graph), operands(graph));
    let mut p = Precision { half, wanted, operands, narrow: none.clone(), of_wide: none, r: Rewrite::new(graph) };
    for id in graph.ids() {
        let to = p.node(graph, id);
        p.r.map.push(to);
    }
    // What is handed out keeps its type; its 16-bit form is widened once.
    for id in graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node)) {
        if p.narrow[id.0 as usize].is_some() {
            p.r.map[id.0 as usize] = p.wide(graph, id, graph.node(id));
            p.narrow[id.0 as usize] = None;
        }
    }
    p.r.finish()
}

struct Precision<'a> {
    half: DType,
    /// Whether a contraction uses a value, through pointwise ops, movement and windows that choose at most.
    wanted: Vec<bool>,
    /// Whether a contraction reads a value itself, through movement and windows that choose at most.
    operands: Vec<bool>,
    /// The 16-bit form of an old node, which all its users read; the node in `r.map` is then only what was rounded.
    narrow: Vec<Option<NodeId>>,
    /// The 16-bit form that contractions use of a value that is kept in its own type.
    of_wide: Vec<Option<NodeId>>,
    r: Rewrite<'a>,
}

impl Precision<'_> {
    fn node(&mut self, graph: &Graph, id: NodeId) -> NodeId {
        let node = graph.node(id);
        let is_f32 = node.dtype == DType::F32;
        match &node.op {
            Op::Contract(_) if is_f32 => {
                let inputs: Vec<NodeId> = node.inputs.iter().map(|&x| self.rounded(graph, x, node)).collect();
                let y = self.r.copy(node, &inputs);
                self.keep(id, y, node, holds_batch(node))
            }
            Op::Movement(op) if is_f32 && node.inputs.iter().all(|x| self.narrow[x.0 as usize].is_some()) => {
                let inputs: Vec<NodeId> = node.inputs.iter().filter_map(|x| self.narrow[x.0 as usize]).collect();
                let y = self.r.push(op.clone(), &inputs, node);
                self.narrow[id.0 as usize] = Some(y);
                y
            }
            // The places that are chosen are the same; they are whole numbers, and so no value to keep in 16 bits.
            Op::Window(op) if chooses(op) && self.narrow[node.inputs[0].0 as usize].is_some() => {
                let mut inputs: Vec<NodeId> = node.inputs.iter().map(|x| self.r.map[x.0 as usize]).collect();
                inputs[0] = self.narrow[node.inputs[0].0 as usize].unwrap_or(inputs[0]);
                let y = self.r.push(op.clone(), &inputs, node);
                self.narrow[id.0 as usize] = is_f32.then_some(y);
                y
            }
            Op::Elementwise(op) if is_f32 => {
                let i = id.0 as usize;
                let passes_on = (self.wanted[i] && follows(graph, op, node) || is_bias(graph, op, node))
                    && self.has_narrow_operands(graph, node);
                let is_narrow = passes_on || self.operands[i];
                let y = self.in_own_type(graph, node);
                self.keep(id, y, node, is_narrow && holds_batch(node))
            }
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Control(_) => self.in_own_type(graph, node),
        }
    }

    fn in_own_type(&mut self, graph: &Graph, node: &Node) -> NodeId {
        let inputs: Vec<NodeId> = node.inputs.iter().map(|&x| self.wide(graph, x, node)).collect();
        self.r.copy(node, &inputs)
    }

    fn keep(&mut self, id: NodeId, y: NodeId, node: &Node, is_narrow: bool) -> NodeId {
        if is_narrow {
            self.narrow[id.0 as usize] = Some(self.r.push(Elementwise::Cast(self.half), &[y], node));
        }
        y
    }

    /// An operand in its own type, widened for `like` alone where it is kept in 16 bits.
    fn wide(&mut self, graph: &Graph, x: NodeId, like: &Node) -> NodeId {
        match self.narrow[x.0 as usize] {
            Some(narrow) => self.r.push(Elementwise::Cast(graph.node(x).dtype), &[narrow], like),
            None => self.r.map[x.0 as usize],
        }
    }

    /// An operand of a contraction: of 16 bits, widened, which a kernel does while it reads.
    fn rounded(&mut self, graph: &Graph, x: NodeId, like: &Node) -> NodeId {
        let narrow = self.narrowed(graph, x);
        self.r.push(Elementwise::Cast(graph.node(x).dtype), &[narrow], like)
    }

    /// The 16-bit form of an operand, made once for all contractions. Movement stays outside of it, where it is a stride.
    fn narrowed(&mut self, graph: &Graph, x: NodeId) -> NodeId {
        if let Some(narrow) = self.narrow[x.0 as usize].or(self.of_wide[x.0 as usize]) {
            return narrow;
        }
        let node = graph.node(x);
        let narrow = match &node.op {
            Op::Movement(op) if node.inputs.len() == 1 => {
                let source = self.narrowed(graph, node.inputs[0]);
                self.r.push(op.clone(), &[source], node)
            }
            Op::Movement(_)
            | Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Control(_) => self.r.push(Elementwise::Cast(self.half), &[self.r.map[x.0 as usize]], node),
        };
        self.of_wide[x.0 as usize] = Some(narrow);
        narrow
    }

    /// Whether all float operands are of 16 bits, except those that are small.
    fn has_narrow_operands(&self, graph: &Graph, node: &Node) -> bool {
        let floats = || node.inputs.iter().filter(|x| graph.node(**x).dtype.is_float());
        let is_narrow = |x: &NodeId| self.narrow[x.0 as usize].is_some();
        floats().any(is_narrow) && floats().all(|x| is_narrow(x) || is_small(graph, *x))
    }
}

/// Broadcasts (a bias, a scale, a row's mean) and leaves.
fn is_small(graph: &Graph, x: NodeId) -> bool {
    matches!(graph.node(x).op, Op::Movement(Movement::Broadcast { .. }) | Op::Leaf(_))
}

/// Whether something small is added, as a layer adds its bias.
fn is_bias(graph: &Graph, op: &Elementwise, node: &Node) -> bool {
    *op == Elementwise::Binary(Binary::Add) && node.inputs.iter().any(|x| is_small(graph, *x))
}

/// Which values a contraction uses through pointwise ops that may be of 16 bits, movement, and windows that choose.
fn wanted(graph: &Graph) -> Vec<bool> {
    used(graph, |node, op| follows(graph, op, node))
}

/// Which values a contraction reads, through movement and windows that choose at most.
fn operands(graph: &Graph) -> Vec<bool> {
    used(graph, |_, _| false)
}

/// Which values a contraction uses through movement, windows that choose and the pointwise ops that `passes` names.
fn used(graph: &Graph, passes: impl Fn(&Node, &Elementwise) -> bool) -> Vec<bool> {
    let mut used = vec![false; graph.nodes.len()];
    for id in graph.ids().rev() {
        let node = graph.node(id);
        let passes_on = match &node.op {
            Op::Contract(_) => true,
            Op::Movement(_) => used[id.0 as usize],
            Op::Window(op) => used[id.0 as usize] && chooses(op),
            Op::Elementwise(op) => used[id.0 as usize] && passes(node, op),
            Op::Leaf(_) | Op::Reduce(_) | Op::Index(_) | Op::Random(_) | Op::Control(_) => false,
        };
        if passes_on {
            node.inputs.iter().for_each(|x| used[x.0 as usize] = true);
        }
    }
    used
}

/// Whether a window op hands on values that it is given, which are then as exact in 16 bits as they were. Only the gradient of windows that overlap is
/// rounded once more, after it was added up in f32.
fn chooses(op: &Window) -> bool {
    match op {
        Window::ArgMax(_) | Window::Take(_) | Window::Put { .. } => true,
        Window::Sum(_) | Window::Spread { .. } => false,
    }
}

/// Whether a value is one of many samples': only these are worth 16 bits.
fn holds_batch(node: &Node) -> bool {
    node.shape.0.iter().any(|d| d.batch != 0)
}

/// Whether an op gives 16 bits where its operands have them: those that joins of layers and of gradients are made of. In between, as in an
/// activation, values stay what they are: they live in registers.
fn follows(graph: &Graph, op: &Elementwise, node: &Node) -> bool {
    match op {
        Elementwise::Unary(op) => matches!(op, Unary::Neg | Unary::Abs | Unary::Detach),
        Elementwise::Binary(op) => match op {
            Binary::Mul | Binary::Div => node.inputs.iter().any(|x| is_small(graph, *x)),
            // What a row's mean is taken off is the inside of a norm.
            Binary::Sub => !node.inputs.iter().any(|x| is_small(graph, *x)),
            op => matches!(op, Binary::Add | Binary::Max | Binary::Min),
        },
        Elementwise::Select => true,
        Elementwise::Cast(_) => false,
    }
}
