//! Constant folding: takes a graph, gives it with pointwise ops on known numbers replaced by their results. Never folds what depends on B.

use super::rewrite::{constant, push_constant, rebuild};
use crate::ir::op::Op;
use crate::ir::value::{EvalSite, Value};
use crate::ir::{Graph, Node, NodeId};

pub fn fold(graph: &Graph) -> Graph {
    rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        match known_value(&r.new, node, inputs) {
            Some(value) => push_constant(r, value, node),
            None => r.copy(node, inputs),
        }
    })
}

/// The number that a pointwise op gives everywhere, if all its operands are known.
fn known_value(graph: &Graph, node: &Node, inputs: &[NodeId]) -> Option<f64> {
    let Op::Elementwise(op) = &node.op else { return None };
    let scalar = |&id: &NodeId| {
        let data = vec![constant(graph, id)?];
        Some(Value { dtype: graph.node(id).dtype, shape: Vec::new(), data })
    };
    let operands: Vec<Value> = inputs.iter().map(scalar).collect::<Option<_>>()?;
    let site = EvalSite { dtype: node.dtype, shape: Vec::new(), batch: 1, inputs: &[], slots: &[] };
    let value = op.eval(&operands.iter().collect::<Vec<_>>(), &site)[0];
    // What f32 cannot hold is left to the device, which rounds as it does elsewhere.
    let exact = !node.dtype.is_float() || node.dtype == crate::ir::DType::F64 || value.is_finite();
    exact.then_some(value)
}
