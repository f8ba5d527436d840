//! A gradient beside the one that follows from the ops. Takes values, gives them marked, with stand-ins for their gradients; what is made of
//! those is the gradient of the values' inputs. Never calls a closure: composite ops and users both come here.

use super::op::{Elementwise, Unary};
use super::prim::full;
use super::{CustomVjp, Tensor};

/// Values past which no gradient flows but the one that is given to [`Marked::close`].
pub(crate) struct Marked {
    pub outputs: Vec<Tensor>,
    /// Stand-ins for the gradients of `outputs`.
    pub d_outputs: Vec<Tensor>,
    first: u32,
}

impl Marked {
    /// Begins the trace of a gradient. There is at least one value.
    #[track_caller]
    pub fn new(values: &[Tensor]) -> Marked {
        let mut outputs = Vec::with_capacity(values.len());
        for value in values {
            outputs.push(value.apply(Elementwise::Unary(Unary::Detach), &[]));
        }
        let first = values[0].graph().borrow().nodes.len() as u32;
        let mut d_outputs = Vec::with_capacity(outputs.len());
        for y in &outputs {
            d_outputs.push(full(y, 0.0, y.dtype(), &y.shape()));
        }
        Marked { outputs, d_outputs, first }
    }

    /// Ends it: `grads` are the gradients of `inputs`, of their shapes and dtypes, made of `d_outputs`. Gives the marked values.
    pub fn close(self, inputs: &[Tensor], grads: &[Option<Tensor>]) -> Vec<Tensor> {
        let ids = |tensors: &[Tensor]| tensors.iter().map(Tensor::id).collect();
        let mut graph = self.outputs[0].graph().borrow_mut();
        let entry = CustomVjp {
            inputs: ids(inputs),
            outputs: ids(&self.outputs),
            d_outputs: ids(&self.d_outputs),
            grads: grads.iter().map(|g| g.as_ref().map(Tensor::id)).collect(),
            trace: self.first..graph.nodes.len() as u32,
        };
        graph.custom_vjps.push(entry);
        drop(graph);
        self.outputs
    }
}
