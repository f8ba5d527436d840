//! Products of which a mask of positions leaves a half, as causal attention's does of its scores and of all that is made of them. Takes a graph, gives the
//! half that counts: of the left operand, where the rest is 0, or of the result, where nobody reads the rest or the epilogue makes it 0. Never takes a value
//! for 0 that a mask does not make 0, except that what a 0 is multiplied with is taken to be finite, as in [`crate::passes::position`].

use crate::ir::op::{Binary, Elementwise, Leaf, Movement, Op, Unary};
use crate::ir::{Dim, Graph, NodeId};
use crate::passes::rewrite::constant;
use std::fmt;

/// A half of a matrix with its diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Columns up to the number of the row.
    Lower,
    /// Columns from the number of the row on.
    Upper,
}

/// What of a matrix product counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triangle {
    /// The left operand is 0 outside of this half.
    Lhs(Half),
    /// Nobody reads what is made of sums outside of this half.
    Read(Half),
    /// All that the epilogue stores outside of this half is 0.
    Stored(Half),
}

/// "lhs is 0 outside of its lower half".
impl fmt::Display for Triangle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |half: &Half| match half {
            Half::Lower => "lower",
            Half::Upper => "upper",
        };
        match self {
            Triangle::Lhs(half) => write!(f, "lhs is 0 outside of its {} half", name(half)),
            Triangle::Read(half) => write!(f, "nobody reads outside of the {} half", name(half)),
            Triangle::Stored(half) => write!(f, "0 outside of the {} half", name(half)),
        }
    }
}

/// How many nodes lie between a value and the mask that is looked for, at most.
const FAR: usize = 16;
const HALVES: [Half; 2] = [Half::Lower, Half::Upper];

impl Half {
    /// That of the matrix with rows and columns exchanged.
    fn turned(self) -> Half {
        match self {
            Half::Lower => Half::Upper,
            Half::Upper => Half::Lower,
        }
    }

    /// The half that a movement makes of this one; `None` if it moves the last two axes otherwise than by exchanging them.
    fn moved(self, graph: &Graph, id: NodeId) -> Option<Half> {
        let node = graph.node(id);
        let last = |id: NodeId| graph.node(id).shape.dims().iter().rev().take(2).copied().collect::<Vec<Dim>>();
        let Op::Movement(op) = &node.op else { return None };
        match op {
            Movement::Permute { perm } => match perm.len().checked_sub(2).map(|r| (&perm[r..], r)) {
                Some((&[row, column], r)) if (row, column) == (r, r + 1) => Some(self),
                Some((&[row, column], r)) if (row, column) == (r + 1, r) => Some(self.turned()),
                Some(_) | None => None,
            },
            Movement::Reshape { .. } => (node.shape.rank() >= 2 && last(id) == last(node.inputs[0])).then_some(self),
            Movement::Broadcast { .. }
            | Movement::Slice { .. }
            | Movement::Flip { .. }
            | Movement::Pad { .. }
            | Movement::Concat { .. } => None,
        }
    }
}

/// What of the product `id` counts, of which others read the `stored` values.
pub fn triangle(graph: &Graph, id: NodeId, stored: &[NodeId]) -> Option<Triangle> {
    let lhs = graph.node(id).inputs[0];
    if let Some(half) = HALVES.into_iter().find(|&half| is_zero(graph, lhs, half, FAR)) {
        return Some(Triangle::Lhs(half));
    }
    let all = |of: &dyn Fn(NodeId, Half) -> bool| {
        HALVES.into_iter().find(|&half| !stored.is_empty() && stored.iter().all(|&v| of(v, half)))
    };
    let readers = Readers::new(graph);
    let read = all(&|v, half| readers.leave_out(v, half, FAR)).map(Triangle::Read);
    read.or_else(|| all(&|v, half| v != id && is_zero(graph, v, half, FAR)).map(Triangle::Stored))
}

/// Whether a value is 0 outside of a half of its last two axes.
fn is_zero(graph: &Graph, id: NodeId, half: Half, far: usize) -> bool {
    is_made(graph, id, half, far, 0.0)
}

/// Whether a value is `what`, 0 or negative infinity, outside of a half.
fn is_made(graph: &Graph, id: NodeId, half: Half, far: usize, what: f64) -> bool {
    let node = graph.node(id);
    let Some(far) = far.checked_sub(1).filter(|_| node.dtype.is_float()) else { return false };
    if constant(graph, id) == Some(what) {
        return true;
    }
    let of = |i: usize| is_made(graph, node.inputs[i], half, far, what);
    match &node.op {
        Op::Elementwise(Elementwise::Select) => match says(graph, node.inputs[0], half, far) {
            Some(chosen) => of(if chosen { 1 } else { 2 }),
            None => of(1) && of(2),
        },
        Op::Elementwise(Elementwise::Cast(_)) => of(0),
        Op::Elementwise(Elementwise::Binary(Binary::Mul)) if what == 0.0 => of(0) || of(1),
        Op::Elementwise(Elementwise::Binary(Binary::Div) | Elementwise::Unary(Unary::Neg)) if what == 0.0 => of(0),
        Op::Elementwise(Elementwise::Unary(Unary::Exp)) if what == 0.0 => {
            is_made(graph, node.inputs[0], half, far, f64::NEG_INFINITY)
        }
        // Less the largest of the row, which is finite or makes all of the row NaN.
        Op::Elementwise(Elementwise::Binary(Binary::Sub)) if what != 0.0 => of(0),
        Op::Movement(_) => HALVES
            .into_iter()
            .any(|before| before.moved(graph, id) == Some(half) && is_made(graph, node.inputs[0], before, far, what)),
        // tidy: wildcard, what is not known to keep it may lose it
        _ => false,
    }
}

/// What a mask is everywhere outside of a half, if that is one truth.
fn says(graph: &Graph, mask: NodeId, half: Half, far: usize) -> Option<bool> {
    let (node, far) = (graph.node(mask), far.checked_sub(1)?);
    let of = |i: usize| says(graph, node.inputs[i], half, far);
    let Op::Elementwise(op) = &node.op else { return None };
    match op {
        Elementwise::Unary(Unary::Not) => of(0).map(|truth| !truth),
        Elementwise::Binary(op @ (Binary::And | Binary::Or)) => match (of(0), of(1)) {
            (Some(x), Some(y)) => Some(if *op == Binary::Or { x || y } else { x && y }),
            (Some(x), None) | (None, Some(x)) => (x == (*op == Binary::Or)).then_some(x),
            (None, None) => None,
        },
        Elementwise::Binary(op) => {
            let axes = [0, 1].map(|i| position(graph, node.inputs[i]));
            // Outside of the lower half columns are larger than rows.
            let is_larger = match axes {
                [Some(Axis::Column), Some(Axis::Row)] => half == Half::Lower,
                [Some(Axis::Row), Some(Axis::Column)] => half == Half::Upper,
                _ => return None,
            };
            match op {
                Binary::Gt | Binary::Ge => Some(is_larger),
                Binary::Lt | Binary::Le => Some(!is_larger),
                Binary::Ne => Some(true),
                Binary::Eq => Some(false),
                // tidy: wildcard, no comparison
                _ => None,
            }
        }
        // tidy: wildcard, no truth of truths
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Row,
    Column,
}

/// Along which of the last two axes a value counts 0, 1, 2 …
fn position(graph: &Graph, id: NodeId) -> Option<Axis> {
    // From the last one.
    fn axis(graph: &Graph, id: NodeId) -> Option<usize> {
        let node = graph.node(id);
        let Op::Movement(op) = &node.op else {
            return matches!(node.op, Op::Leaf(Leaf::Iota { .. })).then_some(0);
        };
        let before = axis(graph, node.inputs[0])?;
        match op {
            Movement::Broadcast { .. } => Some(before),
            Movement::Reshape { .. } => {
                let of = graph.node(node.inputs[0]).shape.dims();
                let extent = of[of.len() - 1 - before];
                let is_line = |dims: &[Dim]| dims.iter().filter(|d| **d != Dim::ONE).count() == 1;
                let dims = node.shape.dims();
                let at = dims.iter().rev().position(|d| *d == extent)?;
                (extent != Dim::ONE && is_line(of) && is_line(dims)).then_some(at)
            }
            Movement::Permute { .. }
            | Movement::Slice { .. }
            | Movement::Flip { .. }
            | Movement::Pad { .. }
            | Movement::Concat { .. } => None,
        }
    }
    match axis(graph, id)? {
        0 => Some(Axis::Column),
        1 => Some(Axis::Row),
        _ => None,
    }
}

/// Who reads each value.
struct Readers<'a> {
    graph: &'a Graph,
    of: Vec<Vec<NodeId>>,
    /// By node: whether it is read by others than nodes.
    is_kept: Vec<bool>,
}

impl Readers<'_> {
    fn new(graph: &Graph) -> Readers<'_> {
        let (mut of, mut is_kept) = (vec![Vec::new(); graph.nodes.len()], vec![false; graph.nodes.len()]);
        for id in graph.ids() {
            graph.node(id).inputs.iter().for_each(|x| of[x.0 as usize].push(id));
        }
        let kept = graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node));
        kept.for_each(|id| is_kept[id.0 as usize] = true);
        Readers { graph, of, is_kept }
    }

    /// Whether all readers of a value select something else outside of a half.
    fn leave_out(&self, id: NodeId, half: Half, far: usize) -> bool {
        let Some(far) = far.checked_sub(1) else { return false };
        !self.is_kept[id.0 as usize] && self.of[id.0 as usize].iter().all(|&by| self.leaves_out(by, id, half, far))
    }

    fn leaves_out(&self, by: NodeId, id: NodeId, half: Half, far: usize) -> bool {
        let node = self.graph.node(by);
        match &node.op {
            Op::Elementwise(Elementwise::Select) => {
                let chosen = says(self.graph, node.inputs[0], half, far).map(|truth| if truth { 1 } else { 2 });
                let is_read = node.inputs[0] == id || chosen.is_none_or(|i| node.inputs[i] == id);
                !is_read || self.leave_out(by, half, far)
            }
            Op::Elementwise(_) => self.leave_out(by, half, far),
            Op::Movement(_) => half.moved(self.graph, by).is_some_and(|half| self.leave_out(by, half, far)),
            // tidy: wildcard, all others may use every element
            _ => false,
        }
    }
}
