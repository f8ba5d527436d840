//! Reverse-mode differentiation. Takes a scalar loss and the tensors to differentiate by, appends the gradient's nodes to their graph in
//! one reverse walk and gives their handles. Never keeps a tape: a gradient is a node like any other, so it can be differentiated again.
//!
//! What flows where:
//! - Only floats carry gradients. Comparisons, indices, casts to whole numbers and bits are marked not differentiable. Their results are
//!   discrete, so they never receive a gradient, and where the loss is also reached another way (masks, gates, labels) that is right.
//! - `floor`, `ceil`, `round`, `sign` have the derivative 0 wherever they have one, `detach` by decree: they pass nothing, as PyTorch's zeros.
//! - A tensor that has no other path to the loss would silently never learn. [`gradients`] makes that a build error which names the
//!   tensor, and the op and line that cut it off; [`gradients_or_none`] is for who expects it.

mod custom;
mod least_squares;
mod replaced;
mod scan;

pub use least_squares::{Fitted, LeastSquares, levenberg_marquardt};
pub use replaced::replaced;
pub use scan::scan;

use crate::ir::op::{Leaf, Vjp};
use crate::ir::prim::{add, full};
use crate::ir::tensor::of_another_program;
use crate::ir::{BuildError, Graph, Loc, NodeId, Op, Shape, Tensor};
use std::collections::BTreeMap;
use std::panic::Location;
use std::rc::Rc;

/// The gradient of `loss` by each of `wrt`, with the shape and dtype of that tensor.
///
/// Errors (recorded in the graph, placeholders are returned): `loss` is not a float scalar; one of `wrt` holds no floats, or has no
/// differentiable path to `loss`.
#[track_caller]
pub fn gradients(loss: &Tensor, wrt: &[Tensor]) -> Vec<Tensor> {
    let loc = Loc::from(Location::caller());
    let walk = walk(loss, wrt, loc);
    let all = wrt.iter().zip(walk.gradients).map(|(x, gradient)| {
        gradient.unwrap_or_else(|| {
            let mut graph = loss.graph().borrow_mut();
            if graph.error.is_none() {
                let error = no_path(&graph, loss.id(), x.id(), &walk.cuts);
                graph.fail(error);
            }
            // A tensor of another program has no node here.
            let id = graph.placeholder(0, loc);
            drop(graph);
            Tensor::from_node(loss.graph().clone(), id)
        })
    });
    all.collect()
}

/// As [`gradients`], with `None` for a tensor that has no differentiable path to `loss`.
#[track_caller]
pub fn gradients_or_none(loss: &Tensor, wrt: &[Tensor]) -> Vec<Option<Tensor>> {
    walk(loss, wrt, Loc::from(Location::caller())).gradients
}

/// What a reverse walk found.
struct Walk {
    gradients: Vec<Option<Tensor>>,
    /// Float nodes that had a gradient and passed none on.
    cuts: Vec<NodeId>,
}

/// The state of a reverse walk. Vectors are by node, up to the loss.
struct Reverse<'a> {
    loss: &'a Tensor,
    needs: Vec<bool>,
    /// The gradient of each node, summed over the users seen so far.
    d: Vec<Option<Tensor>>,
    cuts: Vec<NodeId>,
}

fn walk(loss: &Tensor, wrt: &[Tensor], loc: Loc) -> Walk {
    if let Some(error) = unfit(loss, wrt, loc) {
        loss.graph().borrow_mut().fail(error);
    }
    if loss.graph().borrow().error.is_some() {
        return Walk { gradients: vec![None; wrt.len()], cuts: Vec::new() };
    }
    let forward = loss.graph().borrow().nodes.len() as u32;
    loss.graph().borrow_mut().forward = Some(forward);
    let customs = custom::by_output(&loss.graph().borrow());
    let n = loss.id().0 as usize + 1;
    let needs = between(&loss.graph().borrow(), n, wrt, &customs);
    let mut reverse = Reverse { loss, needs, d: vec![None; n], cuts: Vec::new() };
    if reverse.needs[n - 1] {
        reverse.d[n - 1] = Some(reverse.traced_as(loss.id(), || full(loss, 1.0, loss.dtype(), &Shape::scalar())));
    }
    for id in (0..n as u32).rev().map(NodeId) {
        match customs.get(&id) {
            _ if !reverse.needs[id.0 as usize] => {}
            Some(&index) => reverse.through_custom(index, id),
            None => reverse.through_op(id),
        }
        if loss.graph().borrow().error.is_some() {
            return Walk { gradients: vec![None; wrt.len()], cuts: Vec::new() };
        }
    }
    let d = |x: &Tensor| reverse.d.get(x.id().0 as usize).cloned().flatten();
    Walk { gradients: wrt.iter().map(d).collect(), cuts: reverse.cuts }
}

impl Reverse<'_> {
    /// Appends the gradients of the operands of `id`.
    fn through_op(&mut self, id: NodeId) {
        let Some(d_y) = self.d[id.0 as usize].clone() else { return };
        let (op, inputs) = {
            let graph = self.loss.graph().borrow();
            (graph.node(id).op.clone(), graph.node(id).inputs.clone())
        };
        let wanted: Vec<bool> = inputs.iter().map(|i| self.needs[i.0 as usize]).collect();
        if !wanted.contains(&true) {
            return;
        }
        let tensor = |id: NodeId| Tensor::from_node(self.loss.graph().clone(), id);
        let x: Vec<Tensor> = inputs.iter().map(|&i| tensor(i)).collect();
        let y = tensor(id);
        let vjp = self.traced_as(id, || op.vjp(&x, &y, &d_y, &wanted));
        if self.loss.graph().borrow().error.is_some() {
            return;
        }
        let grads = match vjp {
            Vjp::Grads(grads) => grads,
            // All marked ops have discrete results, which `between` never asks a gradient of; one with a float result ends a path here.
            Vjp::NotDifferentiable => vec![None; inputs.len()],
        };
        assert_eq!(grads.len(), inputs.len(), "bug: the gradient of {} forgets an operand", op.name());
        if grads.iter().zip(&wanted).any(|(grad, &wanted)| wanted && grad.is_none()) {
            self.cuts.push(id);
        }
        for ((input, grad), wanted) in inputs.into_iter().zip(grads).zip(wanted) {
            if let (Some(grad), true) = (grad, wanted) {
                self.receive(id, input, grad);
            }
        }
    }

    /// Appends the user's gradient of one `custom_vjp`, once all of its outputs have theirs: at the first of them.
    fn through_custom(&mut self, index: usize, id: NodeId) {
        let entry = self.loss.graph().borrow().custom_vjps[index].clone();
        if entry.outputs[0] != id || entry.outputs.iter().all(|y| self.of(*y).is_none()) {
            return;
        }
        let d_outputs: Vec<Tensor> = entry
            .outputs
            .iter()
            .map(|&y| {
                let zeros = || {
                    self.traced_as(y, || {
                        let y = Tensor::from_node(self.loss.graph().clone(), y);
                        full(&y, 0.0, y.dtype(), &y.shape())
                    })
                };
                self.of(y).unwrap_or_else(zeros)
            })
            .collect();
        let grads = custom::instantiate(self.loss.graph(), &entry, &d_outputs);
        for (&input, grad) in entry.inputs.iter().zip(grads) {
            match grad {
                _ if !self.needs[input.0 as usize] => {}
                Some(grad) => self.receive(id, input, grad),
                None => self.cuts.push(id),
            }
        }
    }

    fn of(&self, id: NodeId) -> Option<Tensor> {
        self.d.get(id.0 as usize).cloned().flatten()
    }

    /// Adds `grad`, which comes from the user `from`, to what `to` has received.
    fn receive(&mut self, from: NodeId, to: NodeId, grad: Tensor) {
        let graph = self.loss.graph();
        assert_eq!(
            graph.borrow().type_of(grad.id()),
            graph.borrow().type_of(to),
            "bug: the gradient of {} has another type than its operand",
            graph.borrow().node(from).op.name()
        );
        let sum = match self.d[to.0 as usize].take() {
            Some(before) => self.traced_as(from, || add(&before, &grad)),
            None => grad,
        };
        self.d[to.0 as usize] = Some(sum);
    }

    /// Runs `trace`; the nodes that it appends, and an error that it records, carry the place of the forward node `id`.
    fn traced_as<T>(&self, id: NodeId, trace: impl FnOnce() -> T) -> T {
        let first = self.loss.graph().borrow().nodes.len();
        let result = trace();
        let mut graph = self.loss.graph().borrow_mut();
        let (scope, loc) = (graph.node(id).scope, graph.node(id).loc);
        for node in &mut graph.nodes[first..] {
            (node.scope, node.loc) = (scope, loc);
        }
        let (what, at) = (format!("gradient of {}", graph.node(id).op.name()), graph.position(scope, loc));
        if let Some(error) = &mut graph.error {
            (error.what, error.at) = (what, Some(at));
        }
        result
    }
}

/// Which of the first `n` nodes are floats that depend on `wrt`. A custom gradient depends on its stated inputs only.
fn between(graph: &Graph, n: usize, wrt: &[Tensor], customs: &BTreeMap<NodeId, usize>) -> Vec<bool> {
    let mut needs = vec![false; n];
    for x in wrt {
        if let Some(needs) = needs.get_mut(x.id().0 as usize) {
            *needs = true;
        }
    }
    for id in (0..n as u32).map(NodeId) {
        let node = graph.node(id);
        let inputs = match customs.get(&id) {
            Some(&index) => &graph.custom_vjps[index].inputs,
            None => &node.inputs,
        };
        needs[id.0 as usize] |= node.dtype.is_float() && inputs.iter().any(|i| needs[i.0 as usize]);
    }
    needs
}

/// Why `loss` cannot be differentiated by `wrt` at all.
fn unfit(loss: &Tensor, wrt: &[Tensor], loc: Loc) -> Option<BuildError> {
    let caller = format!("{}:{}", loc.file, loc.line);
    if wrt.iter().any(|x| !Rc::ptr_eq(x.graph(), loss.graph())) {
        return Some(of_another_program("gradients").at(caller));
    }
    let graph = loss.graph().borrow();
    let node = graph.node(loss.id());
    if !node.dtype.is_float() || node.shape.rank() != 0 {
        let mut error =
            BuildError::new("gradients", format!("need a float scalar loss, got {} {}", node.shape, node.dtype))
                .at(caller)
                .help("reduce it to a scalar, for example with .mean(..)");
        error.operands = vec![format!("loss from {} at {}", node.op.name(), graph.position(node.scope, node.loc))];
        return Some(error);
    }
    let discrete = wrt.iter().find(|x| !graph.node(x.id()).dtype.is_float())?;
    let message = format!("{} is {}; only floats have gradients", name_of(&graph, discrete.id()), discrete.dtype());
    Some(BuildError::new("gradients", message).at(caller))
}

/// The error of a tensor whose gradient would be missing, with the op that cuts it off where there is one.
fn no_path(graph: &Graph, loss: NodeId, x: NodeId, cuts: &[NodeId]) -> BuildError {
    let n = loss.0 as usize + 1;
    let mut depends = vec![false; graph.nodes.len()];
    depends[x.0 as usize] = true;
    for id in 0..n {
        depends[id] |= graph.nodes[id].inputs.iter().any(|i| depends[i.0 as usize]);
    }
    let mut used = vec![false; graph.nodes.len()];
    used[loss.0 as usize] = true;
    for id in (0..n).rev().filter(|&id| depends[id]) {
        if used[id] {
            graph.nodes[id].inputs.iter().for_each(|i| used[i.0 as usize] = true);
        }
    }
    let is_cut = |&id: &NodeId| {
        let node = graph.node(id);
        let discrete = !node.dtype.is_float() && node.inputs.iter().any(|i| depends[i.0 as usize]);
        depends[id.0 as usize] && used[id.0 as usize] && (discrete || cuts.contains(&id))
    };
    // What a loop asks is discrete and stands in its body; the loop is what the user can change.
    let is_loop = |id: &NodeId| matches!(graph.node(*id).op, Op::Control(_)) && cuts.contains(id);
    let ids = || (0..n as u32).map(NodeId);
    let cut = ids().find(|id| is_loop(id) && is_cut(id)).or_else(|| ids().find(is_cut));
    let name = name_of(graph, x);
    let node = graph.node(x);
    let Some(cut) = cut else {
        return BuildError::new("gradients", format!("{name} gets no gradient: the loss does not depend on it"))
            .at(graph.position(node.scope, node.loc))
            .help("use it in the loss, make it a buffer, or freeze it");
    };
    let by = graph.node(cut);
    let message = format!("{name} gets no gradient: {} passes none on", by.op.name());
    let mut error = BuildError::new("gradients", message)
        .at(graph.position(by.scope, by.loc))
        .help("let the loss depend on it in another way, or give the op a gradient with custom_vjp");
    error.operands = vec![format!("{name} {} {}  {}:{}", node.shape, node.dtype, node.loc.file, node.loc.line)];
    error
}

/// The name by which a user knows a node.
fn name_of(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    match &node.op {
        Op::Leaf(Leaf::Slot { id, .. }) => graph.slot(*id).name.clone(),
        Op::Leaf(Leaf::Input { id, .. }) => format!("input {}", graph.inputs[id.0 as usize].name),
        op => format!("{} at {}", op.name(), graph.position(node.scope, node.loc)),
    }
}
