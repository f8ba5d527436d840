//! The oracle: a naive f64 interpreter. Takes any graph, a batch size and the values of inputs and slots, gives the value of every node.
//! Never optimizes and never rounds to a narrower float: what it says is what backends are judged by.
//!
//! All dtypes are carried as f64, so i64 values beyond 2^53 are not exact; other whole numbers wrap as they do on a device.

use crate::ir::loops::Loops;
use crate::ir::op::{Control, Op};
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
    /// The value of any node; of one in a loop that made no trip nothing, and after several trips the last.
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
    let loops = Loops::of(graph).expect("bug: evaluating a graph that takes values out of a loop");
    let nothing = |id: NodeId| Value { dtype: graph.node(id).dtype, shape: Vec::new(), data: Vec::new() };
    let mut run = Run { graph, loops, batch, inputs, slots, values: graph.ids().map(nothing).collect() };
    run.region(None);
    let values = run.values;
    let data = |id: NodeId| values[id.0 as usize].data.clone();
    let outputs = graph.outputs.iter().map(|o| data(o.node)).collect();
    let mut after = slots.to_vec();
    graph.updates.iter().for_each(|(slot, node)| after[slot.0 as usize] = data(*node));
    Evaluation { outputs, slots: after, values }
}

struct Run<'a> {
    graph: &'a Graph,
    loops: Loops,
    batch: usize,
    inputs: &'a [Vec<f64>],
    slots: &'a [Vec<f64>],
    values: Vec<Value>,
}

impl Run<'_> {
    /// Computes the nodes of a region, and of those inside of it, once.
    fn region(&mut self, region: Option<usize>) {
        for id in self.graph.ids().filter(|id| self.loops.of[id.0 as usize] == region).collect::<Vec<_>>() {
            let node = self.graph.node(id);
            let value = match &node.op {
                Op::Control(Control::Carry { .. }) => continue,
                Op::Control(Control::Result { index, .. }) => {
                    if let Some(inner) = self.loops.list.iter().position(|l| l.results[0] == id) {
                        self.trips(inner);
                    }
                    self.values[node.inputs[*index as usize].0 as usize].clone()
                }
                Op::Leaf(_)
                | Op::Elementwise(_)
                | Op::Movement(_)
                | Op::Reduce(_)
                | Op::Contract(_)
                | Op::Window(_)
                | Op::Index(_)
                | Op::Random(_) => self.value(id),
            };
            self.values[id.0 as usize] = value;
        }
    }

    fn trips(&mut self, index: usize) {
        let this = self.loops.list[index].clone();
        let first: Vec<NodeId> = this.carries.iter().map(|&carry| self.graph.node(carry).inputs[0]).collect();
        self.assign(&this.carries, &first);
        for _ in 0..this.max_trips {
            if self.values[this.carries[0].0 as usize].data[0] == 0.0 {
                break;
            }
            self.region(Some(index));
            self.assign(&this.carries, &this.nexts);
        }
    }

    fn assign(&mut self, to: &[NodeId], from: &[NodeId]) {
        let new: Vec<Value> = from.iter().map(|id| self.values[id.0 as usize].clone()).collect();
        to.iter().zip(new).for_each(|(id, value)| self.values[id.0 as usize] = value);
    }

    fn value(&self, id: NodeId) -> Value {
        let node = self.graph.node(id);
        let operands: Vec<&Value> = node.inputs.iter().map(|id| &self.values[id.0 as usize]).collect();
        let (inputs, slots, batch) = (self.inputs, self.slots, self.batch);
        let site = EvalSite { dtype: node.dtype, shape: node.shape.at(batch), batch, inputs, slots };
        let data = node.op.eval(&operands, &site);
        assert_eq!(data.len(), node.shape.numel_at(batch), "bug: {} gives {}", node.op.name(), node.shape);
        Value { dtype: node.dtype, shape: site.shape, data }
    }
}

#[cfg(test)]
mod tests;
