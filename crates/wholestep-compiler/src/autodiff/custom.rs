//! Gradients that a user defines. Takes a forward and a backward closure, traces both at once, gives the outputs. Never keeps a closure:
//! the backward part is traced with stand-ins for the outputs' gradients, and differentiation copies it with the real ones put in.

use crate::ir::vjp::Marked;
use crate::ir::{CustomVjp, Graph, NodeId, Tensor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

impl Tensor {
    /// `forward` of this tensor and `others`, with the gradient that `backward` says instead of the one that follows from its ops.
    ///
    /// `forward(inputs)` gives float tensors of any number and shape. `backward(inputs, outputs, d_outputs)` gives for each input a
    /// gradient of its shape and dtype, or `None`. Both are called once, here. No gradient flows through the ops of `forward`, so a tensor
    /// that it captures rather than takes as an input gets none. Gradients of the gradient follow from the ops of `backward`.
    /// Errors: outputs that are not floats; gradients of the wrong number, shape or dtype.
    /// Like PyTorch's `autograd.Function`.
    #[track_caller]
    pub fn custom_vjp(
        &self,
        others: &[&Tensor],
        forward: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
        backward: impl FnOnce(&[Tensor], &[Tensor], &[Tensor]) -> Vec<Option<Tensor>>,
    ) -> Vec<Tensor> {
        let inputs: Vec<Tensor> = std::iter::once(self).chain(others.iter().copied()).cloned().collect();
        let values = forward(&inputs);
        if values.is_empty() {
            return values;
        }
        if let Some(y) = values.iter().find(|y| !y.dtype().is_float()) {
            return vec![self.fail("custom_vjp", format!("need float outputs, got {}", y.dtype()), None); values.len()];
        }
        let marked = Marked::new(&values);
        let grads = backward(&inputs, &marked.outputs, &marked.d_outputs);
        if let Some(fault) = unfit(&inputs, &grads) {
            let help = "backward gives one gradient, or None, for each input".to_string();
            let _ = self.fail("custom_vjp", fault, Some(help));
            return marked.outputs;
        }
        marked.close(&inputs, &grads)
    }
}

fn unfit(inputs: &[Tensor], grads: &[Option<Tensor>]) -> Option<String> {
    if inputs.len() != grads.len() {
        return Some(format!("need {} gradients, got {}", inputs.len(), grads.len()));
    }
    let mut pairs = inputs.iter().zip(grads).enumerate().filter_map(|(i, (x, g))| Some((i, x, g.as_ref()?)));
    pairs.find_map(|(i, x, g)| {
        let (shape, dtype) = (x.shape(), x.dtype());
        let fits = g.shape() == shape && g.dtype() == dtype && dtype.is_float();
        (!fits).then(|| format!("input {i} is {shape} {dtype}, its gradient {} {}", g.shape(), g.dtype()))
    })
}

/// Which entry of the graph's list each marked output belongs to.
pub(super) fn by_output(graph: &Graph) -> BTreeMap<NodeId, usize> {
    let entries = graph.custom_vjps.iter().enumerate();
    entries.flat_map(|(index, entry)| entry.outputs.iter().map(move |&y| (y, index))).collect()
}

/// Copies what `backward` traced, with `d_outputs` in place of the stand-ins, and gives the inputs' gradients.
pub(super) fn instantiate(graph: &Rc<RefCell<Graph>>, entry: &CustomVjp, d_outputs: &[Tensor]) -> Vec<Option<Tensor>> {
    let mut g = graph.borrow_mut();
    let base = g.nodes.len() as u32;
    let copy_of = |id: NodeId| match entry.d_outputs.iter().position(|&d| d == id) {
        Some(i) => d_outputs[i].id(),
        None if entry.trace.contains(&id.0) => NodeId(id.0 - entry.trace.start + base),
        None => id,
    };
    let copies = |ids: &[NodeId]| -> Vec<NodeId> { ids.iter().map(|&id| copy_of(id)).collect() };
    for id in entry.trace.clone() {
        let node = g.nodes[id as usize].clone();
        g.push(node.op, &copies(&node.inputs), node.scope, node.loc);
    }
    // A custom gradient within `backward` holds for its copy too. Its trace starts later, after the stand-ins of this one.
    let starts_within = |inner: &&CustomVjp| entry.trace.contains(&inner.trace.start) && inner.trace != entry.trace;
    let within: Vec<CustomVjp> = g.custom_vjps.iter().filter(starts_within).cloned().collect();
    for inner in within {
        let shift = |id: u32| id - entry.trace.start + base;
        g.custom_vjps.push(CustomVjp {
            inputs: copies(&inner.inputs),
            outputs: copies(&inner.outputs),
            d_outputs: copies(&inner.d_outputs),
            grads: inner.grads.iter().map(|grad| grad.map(copy_of)).collect(),
            trace: shift(inner.trace.start)..shift(inner.trace.end),
        });
    }
    drop(g);
    entry.grads.iter().map(|grad| grad.map(|id| Tensor::from_node(graph.clone(), copy_of(id)))).collect()
}
