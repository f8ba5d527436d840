//! The oracle: a naive f64 interpreter. Takes any graph, a batch size and the values of inputs and slots, gives the value of every node.
//! Never optimizes and never rounds to a narrower float: what it says is what backends are judged by.
//!
//! All dtypes are carried as f64, so i64 values beyond 2^53 are not exact; other whole numbers wrap as they do on a device.

use crate::ir::{EvalSite, Graph, NodeId, Value};

/// What one step gives.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// By output of the graph, row-major.
    pub outputs: Vec<Vec<f64>>,
    /// By slot, in stored order: what each holds after the step.
    pub slots: Vec<Vec<f64>>,
    values: Vec<Value>,
}

impl Evaluation {
    /// The value of any node.
    pub fn value(&self, id: NodeId) -> &Value {
        &self.values[id.0 as usize]
    }
}

/// Runs one step of `graph`. `inputs` are by [`Graph::inputs`], row-major; `slots` by [`Graph::slots`], row-major in stored order.
///
/// Panics if the graph holds an error, or where a length does not fit the batch size: both are bugs of the caller.
pub fn eval(graph: &Graph, batch: usize, inputs: &[Vec<f64>], slots: &[Vec<f64>]) -> Evaluation {
    assert!(graph.error.is_none(), "bug: evaluating a graph with an error: {}", graph.error.as_ref().expect("checked"));
    for (decl, data) in graph.inputs.iter().zip(inputs) {
        assert_eq!(data.len(), decl.shape.numel_at(batch), "bug: input {} {} at B = {batch}", decl.name, decl.shape);
    }
    for (slot, data) in graph.slots.iter().zip(slots) {
        assert_eq!(data.len(), slot.shape.numel_at(batch), "bug: slot {} {}", slot.name, slot.shape);
    }
    let mut values: Vec<Value> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let operands: Vec<&Value> = node.inputs.iter().map(|id| &values[id.0 as usize]).collect();
        let site = EvalSite { dtype: node.dtype, shape: node.shape.at(batch), batch, inputs, slots };
        let data = node.op.eval(&operands, &site);
        assert_eq!(data.len(), node.shape.numel_at(batch), "bug: {} gives {}", node.op.name(), node.shape);
        values.push(Value { dtype: node.dtype, shape: site.shape, data });
    }
    let data = |id: NodeId| values[id.0 as usize].data.clone();
    let outputs = graph.outputs.iter().map(|o| data(o.node)).collect();
    let mut after = slots.to_vec();
    graph.updates.iter().for_each(|(slot, node)| after[slot.0 as usize] = data(*node));
    Evaluation { outputs, slots: after, values }
}

#[cfg(test)]
mod tests;
