//! What part each node plays in kernels, and through which view it is read: what does not depend on what is merged. Takes a graph, gives a fusion
//! without clusters. Never merges anything.

use super::regions::{moves, regions};
use super::{Fusion, Level, Limits, Role, has_memory, is_gathered, is_pad};
use crate::ir::op::{Elementwise, Index, Movement, Op, Reduce};
use crate::ir::{DType, Graph, NodeId};
use crate::kernel::view::View;

impl Fusion {
    /// Decides every node's role and view: the part of fusion that does not depend on what is merged.
    pub(super) fn new(graph: &Graph, limits: &Limits) -> Fusion {
        let n = graph.nodes.len();
        let mut fusion = Fusion {
            clusters: Vec::new(),
            role: Vec::with_capacity(n),
            view: Vec::with_capacity(n),
            copied: vec![None; n],
            cluster: vec![None; n],
            level: vec![Level::Point; n],
            pass: vec![0; n],
            refusals: Vec::new(),
            loops: regions(graph),
            moves: moves(graph),
            deferred: vec![false; n],
            limits: limits.clone(),
            users: vec![Vec::new(); n],
            readers: vec![Vec::new(); n],
            is_end: vec![false; n],
            next: vec![None; graph.slots.len()],
        };
        for id in graph.ids() {
            let role = natural_role(graph, id);
            let view = match (&graph.node(id).op, role) {
                (Op::Movement(op), Role::Virtual) => fusion.view_of_movement(graph, id, op),
                // A widening cast reads what its operand reads.
                (Op::Elementwise(_), Role::Virtual) => fusion.view[graph.node(id).inputs[0].0 as usize].clone(),
                _ => identity(graph, id),
            };
            fusion.role.push(role);
            fusion.view.push(view);
            if role == Role::Heavy {
                fusion.materialize_operands(graph, id);
            }
            for k in (0..graph.node(id).inputs.len()).filter(|&k| is_gathered(graph, id, k)) {
                let x = graph.node(id).inputs[k];
                let view = &fusion.view[x.0 as usize];
                if !has_memory(graph, view.source) || !view.map.guards.is_empty() {
                    fusion.materialize(graph, x);
                }
            }
        }
        for output in &graph.outputs {
            fusion.materialize(graph, output.node);
            fusion.is_end[output.node.0 as usize] = true;
        }
        for (slot, node) in &graph.updates {
            fusion.materialize(graph, *node);
            fusion.is_end[node.0 as usize] = true;
            fusion.next[slot.0 as usize] = Some(*node);
        }
        for l in &fusion.loops.list.clone() {
            l.carries.iter().for_each(|carry| fusion.materialize(graph, graph.node(*carry).inputs[0]));
            l.nexts.iter().filter(|next| !l.carries.contains(next)).for_each(|next| fusion.materialize(graph, *next));
        }
        for id in graph.ids().filter(|id| !matches!(fusion.role[id.0 as usize], Role::Leaf | Role::Virtual)) {
            for k in 0..fusion.n_operands(graph, id) {
                let source = fusion.source(graph, id, k);
                fusion.users[source.0 as usize].push(id);
            }
        }
        fusion
    }

    fn view_of_movement(&mut self, graph: &Graph, id: NodeId, op: &Movement) -> View {
        let node = graph.node(id);
        let x = node.inputs[0];
        let shape = &graph.node(x).shape;
        // What is not loaded has no guards: a padded constant is stored first.
        let guardable = !is_pad(&node.op) || has_memory(graph, self.view[x.0 as usize].source);
        if guardable && let Some(view) = self.view[x.0 as usize].through(op, shape, &node.shape) {
            return view;
        }
        self.materialize(graph, x);
        let view = self.view[x.0 as usize].through(op, shape, &node.shape);
        view.expect("bug: a movement of contiguous memory is a view")
    }

    /// Kernels that are no loops want operands in contiguous memory; a matrix product takes any strides.
    fn materialize_operands(&mut self, graph: &Graph, id: NodeId) {
        let node = graph.node(id);
        let is_matmul = matches!(node.op, Op::Contract(crate::ir::op::Contract::Matmul));
        let widens = matches!(node.op, Op::Contract(_) | Op::Movement(_));
        for &x in &node.inputs {
            let view = &self.view[x.0 as usize];
            let has_memory = has_memory(graph, view.source);
            let has_type = widens || graph.node(view.source).dtype == graph.node(x).dtype;
            let fits =
                if is_matmul { view.map.guards.is_empty() } else { view.map.is_row_major(graph.node(x).shape.dims()) };
            if !fits || !has_memory || !has_type {
                self.materialize_below(graph, x, widens);
            }
        }
    }

    /// Gives `x` memory; what a kernel widens itself is kept in 16 bits there.
    fn materialize_below(&mut self, graph: &Graph, x: NodeId, widens: bool) {
        if !widens || !is_widening(graph, x) || self.role[x.0 as usize] != Role::Virtual {
            return self.materialize(graph, x);
        }
        let narrow = graph.node(x).inputs[0];
        self.materialize(graph, narrow);
        self.view[x.0 as usize] = self.view[narrow.0 as usize].clone();
    }

    /// Makes `id` a value with memory of its own.
    fn materialize(&mut self, graph: &Graph, id: NodeId) {
        let i = id.0 as usize;
        match self.role[i] {
            Role::Leaf => panic!("bug: a leaf is pinned before fusion"),
            Role::Virtual => {
                self.role[i] = Role::Copy;
                self.copied[i] = Some(std::mem::replace(&mut self.view[i], identity(graph, id)));
            }
            Role::Copy | Role::Point | Role::Reduce | Role::Heavy => {}
        }
    }
}

fn identity(graph: &Graph, id: NodeId) -> View {
    View::identity(id, &graph.node(id).shape).expect("bug: a node holds at most a·B + b elements")
}

pub fn natural_role(graph: &Graph, id: NodeId) -> Role {
    match &graph.node(id).op {
        Op::Leaf(_) | Op::Control(_) => Role::Leaf,
        Op::Movement(Movement::Concat { .. }) => Role::Heavy,
        Op::Movement(_) => Role::Virtual,
        Op::Elementwise(_) if is_widening(graph, id) => Role::Virtual,
        Op::Elementwise(_) | Op::Random(_) | Op::Index(Index::Take { .. } | Index::TakeAlong { .. }) => Role::Point,
        Op::Reduce(Reduce::Sum { .. } | Reduce::Max { .. } | Reduce::Min { .. } | Reduce::ArgMax { .. }) => {
            Role::Reduce
        }
        Op::Reduce(Reduce::CumSum { .. })
        | Op::Contract(_)
        | Op::Window(_)
        | Op::Index(Index::TakeGrad { .. } | Index::TakeAlongGrad { .. } | Index::Put { .. } | Index::ArgSort { .. }) => {
            Role::Heavy
        }
    }
}

/// Whether a node makes wider floats of 16-bit ones.
fn is_widening(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let is_16_bit = |x: &NodeId| matches!(graph.node(*x).dtype, DType::F16 | DType::BF16);
    matches!(node.op, Op::Elementwise(Elementwise::Cast(DType::F32 | DType::F64))) && is_16_bit(&node.inputs[0])
}
