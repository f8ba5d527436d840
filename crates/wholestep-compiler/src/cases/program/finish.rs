//! The end of a random program: outputs, gradients, slot updates. Takes the values there are, gives the graph its ends. Never leaves a
//! program without an output.

use super::{Builder, Known};
use crate::autodiff::gradients_or_none;
use crate::ir::Tensor;
use std::ops::Range;

impl Builder<'_> {
    /// Chooses what the program gives back and what its slots become.
    pub fn finish(&mut self) {
        for i in 0..1 + self.pick(3) {
            let known = if i == 0 { self.pool[self.pool.len() - 1].clone() } else { self.any() };
            self.scope.output(&format!("out{i}"), &known.t);
        }
        let grads = if self.pick(4) > 0 { self.gradients() } else { Vec::new() };
        for slot in self.slots.clone() {
            let grad = grads.iter().find(|(of, _)| of.id() == slot.id()).map(|(_, g)| g.clone());
            self.update(&slot, grad);
        }
    }

    /// The gradient of a scalar made of some values, by all slots and the float inputs; some of them become outputs.
    fn gradients(&mut self) -> Vec<(Tensor, Tensor)> {
        let wrt: Vec<Tensor> = self.slots.iter().cloned().chain(self.float_inputs()).collect();
        let mut loss: Option<Tensor> = None;
        for _ in 0..1 + self.pick(2) {
            let Some(y) = self.any_float() else { continue };
            let small = &y.t * (1.0 / y.bound);
            let term = match self.pick(3) {
                0 => y.t.mean(..),
                1 => small.square().mean(..),
                _ => small.sum(..),
            };
            loss = Some(match loss {
                Some(sum) => sum + term,
                None => term,
            });
        }
        let Some(loss) = loss else { return Vec::new() };
        let n_nodes = loss.graph().borrow().nodes.len();
        let parts = self.parts(n_nodes);
        loss.graph().borrow_mut().recompute = parts;
        let found = gradients_or_none(&loss, &wrt);
        let mut graph = loss.graph().borrow_mut();
        // An op that no gradient passes lies between: nothing to check then.
        if graph.error.take().is_some() {
            graph.nodes.truncate(n_nodes);
            return Vec::new();
        }
        drop(graph);
        let found: Vec<(Tensor, Tensor)> = wrt.into_iter().zip(found).filter_map(|(x, g)| Some((x, g?))).collect();
        self.scope.output("loss", &loss);
        for (i, (_, grad)) in found.iter().enumerate() {
            if self.pick(2) == 0 {
                self.scope.output(&format!("d{i}"), grad);
            }
        }
        found
    }

    /// Parts of the forward pass that the backward pass computes again, some of them within others.
    fn parts(&mut self, n_nodes: usize) -> Vec<Range<u32>> {
        let mut parts = Vec::new();
        for _ in 0..self.pick(3) {
            let start = self.pick(n_nodes);
            let outer = start..start + 1 + self.pick(n_nodes - start);
            let inner = start + self.pick(outer.len())..outer.end;
            parts.extend([inner, outer].map(|part| part.start as u32..part.end as u32));
        }
        parts
    }

    fn float_inputs(&self) -> Vec<Tensor> {
        let is_input = |k: &&Known| {
            let graph = self.scope.graph().borrow();
            let node = graph.node(k.t.id());
            node.dtype.is_float() && matches!(node.op, crate::ir::Op::Leaf(crate::ir::op::Leaf::Input { .. }))
        };
        self.pool.iter().filter(is_input).map(|k| k.t.clone()).collect()
    }

    fn update(&mut self, slot: &Tensor, grad: Option<Tensor>) {
        let same = |t: &&Tensor| t.shape() == slot.shape() && t.dtype() == slot.dtype();
        let all = self.slots.iter().chain(self.pool.iter().map(|k| &k.t));
        let others: Vec<Tensor> = all.filter(same).cloned().collect();
        let value = match (self.pick(6), grad) {
            (0, _) => return,
            (1 | 2, Some(grad)) => slot - &(grad * 0.125),
            // Another slot's old value, some value of the program, or the slot itself.
            (3, _) => others[self.pick(others.len())].clone(),
            (4, _) if slot.rank() > 0 => match self.pick(3) {
                0 => slot.flip(-1),
                1 if slot.rank() == 2 && slot.shape().0[0] == slot.shape().0[1] => slot.t() * 0.5,
                _ => slot - &slot.mean_keepdim(-1),
            },
            (_, Some(grad)) => slot * 0.5 + grad.sum(..) * 0.125,
            (_, None) => slot * 0.5 + 0.25,
        };
        self.scope.update(slot, &value);
    }
}
