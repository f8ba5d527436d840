//! What passes share: building a new graph from an old one, node by node. Takes a rule that gives the replacement of each node, gives the
//! graph with outputs and updates carried over. Never decides what to replace.

use crate::ir::op::{Leaf, Op};
use crate::ir::{Dim, Graph, Node, NodeId, Shape};

/// The graph under construction and where old nodes went.
pub struct Rewrite<'a> {
    pub old: &'a Graph,
    pub new: Graph,
    /// By old node.
    pub map: Vec<NodeId>,
}

impl<'a> Rewrite<'a> {
    pub fn new(old: &'a Graph) -> Rewrite<'a> {
        let empty = Graph {
            nodes: Vec::with_capacity(old.nodes.len()),
            slots: old.slots.clone(),
            inputs: old.inputs.clone(),
            outputs: Vec::new(),
            updates: Vec::new(),
            scopes: old.scopes.clone(),
            n_streams: old.n_streams,
            n_loops: old.n_loops,
            smallest_batch: old.smallest_batch.clone(),
            storage: old.storage,
            tf32: old.tf32,
            error: None,
            custom_vjps: Default::default(),
            forward: None,
            recompute: Vec::new(),
            fit: old.fit,
            waits: Default::default(),
        };
        Rewrite { old, new: empty, map: Vec::with_capacity(old.nodes.len()) }
    }

    /// The old node's operands in the new graph.
    pub fn operands(&self, node: &Node) -> Vec<NodeId> {
        node.inputs.iter().map(|id| self.map[id.0 as usize]).collect()
    }

    /// Appends a node like `like` (scope, line) with another op.
    pub fn push(&mut self, op: impl Into<Op>, inputs: &[NodeId], like: &Node) -> NodeId {
        let id = self.new.push(op.into(), inputs, like.scope, like.loc);
        if let Some(error) = &self.new.error {
            panic!("bug: a pass built a node that its rule refuses: {error}");
        }
        id
    }

    /// Appends an old node over other operands. Over operands of the same types it is what it was, which its rule need not say again.
    pub fn copy(&mut self, node: &Node, inputs: &[NodeId]) -> NodeId {
        let has_type = |(new, old): (&NodeId, &NodeId)| {
            let (new, old) = (self.new.node(*new), self.old.node(*old));
            new.dtype == old.dtype && new.shape == old.shape
        };
        if inputs.len() != node.inputs.len() || !inputs.iter().zip(&node.inputs).all(has_type) {
            return self.push(node.op.clone(), inputs, node);
        }
        self.new.nodes.push(Node {
            op: node.op.clone(),
            inputs: inputs.to_vec(),
            dtype: node.dtype,
            shape: node.shape.clone(),
            scope: node.scope,
            loc: node.loc,
        });
        NodeId(self.new.nodes.len() as u32 - 1)
    }

    /// Carries outputs, updates and the parts of the program over.
    pub fn finish(mut self) -> Graph {
        // A position in the old program becomes the one behind all that came from the nodes before it.
        let mut behind = vec![0; self.old.nodes.len() + 1];
        for (i, to) in self.map.iter().enumerate() {
            behind[i + 1] = behind[i].max(if *to == NodeId(u32::MAX) { 0 } else { to.0 + 1 });
        }
        let at = |position: u32| behind[position as usize];
        self.new.forward = self.old.forward.map(at);
        self.new.recompute = self.old.recompute.iter().map(|part| at(part.start)..at(part.end)).collect();
        self.new.outputs = self.old.outputs.clone();
        self.new.updates = self.old.updates.clone();
        self.new.outputs.iter_mut().for_each(|o| o.node = self.map[o.node.0 as usize]);
        self.new.updates.iter_mut().for_each(|(_, node)| *node = self.map[node.0 as usize]);
        self.new
    }
}

/// Rebuilds `old` with `rule`, which is given each node with its new operands and returns its replacement.
pub fn rebuild(old: &Graph, mut rule: impl FnMut(&mut Rewrite, NodeId, &[NodeId]) -> NodeId) -> Graph {
    let mut rewrite = Rewrite::new(old);
    for id in old.ids() {
        let inputs = rewrite.operands(old.node(id));
        let to = rule(&mut rewrite, id, &inputs);
        rewrite.map.push(to);
    }
    rewrite.finish()
}

/// The value of a node that holds one known number everywhere: a constant under any reshape, broadcast, permutation, slice or flip.
pub fn constant(graph: &Graph, id: NodeId) -> Option<f64> {
    let node = graph.node(id);
    match &node.op {
        Op::Leaf(Leaf::Const { value, .. }) => Some(*value),
        Op::Movement(op) => {
            use crate::ir::op::Movement;
            match op {
                Movement::Reshape { .. }
                | Movement::Permute { .. }
                | Movement::Broadcast { .. }
                | Movement::Slice { .. }
                | Movement::Flip { .. } => constant(graph, node.inputs[0]),
                Movement::Pad { .. } | Movement::Concat { .. } => None,
            }
        }
        _ => None,
    }
}

/// Appends the constant `value` in the shape and dtype of `like`.
pub fn push_constant(r: &mut Rewrite, value: f64, like: &Node) -> NodeId {
    let leaf = r.push(Leaf::Const { value, dtype: like.dtype }, &[], like);
    broadcast_scalar(r, leaf, &like.shape, like)
}

/// A scalar node seen as `shape`.
pub fn broadcast_scalar(r: &mut Rewrite, scalar: NodeId, shape: &Shape, like: &Node) -> NodeId {
    use crate::ir::op::Movement;
    if shape.rank() == 0 {
        return scalar;
    }
    let ones = Shape(vec![Dim::ONE; shape.rank()]);
    let reshaped = r.push(Movement::Reshape { shape: ones }, &[scalar], like);
    r.push(Movement::Broadcast { shape: shape.clone() }, &[reshaped], like)
}
