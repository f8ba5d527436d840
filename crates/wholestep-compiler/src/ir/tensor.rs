//! A handle to a node of the graph that is being traced. Takes nothing, gives shape and dtype; the maths is in `ops/`. Never
//! outlives tracing as anything but an index: once a step is compiled, no handle into it does anything.

use super::op::Op;
use super::{BuildError, DType, Graph, Loc, NodeId, Shape};
use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;

/// A value of the traced program: a shape, a dtype and the node that computes it. Cheap to clone.
#[derive(Clone)]
#[must_use = "an operation gives a new tensor and changes none"]
pub struct Tensor {
    graph: Rc<RefCell<Graph>>,
    id: NodeId,
    /// Where the value is being used, if not where it was made; see [`Scope::enter`](super::Scope::enter).
    scope: Option<u32>,
}

impl Tensor {
    /// A handle to a node that is in the graph already: for rules and passes that build nodes by themselves.
    pub fn from_node(graph: Rc<RefCell<Graph>>, id: NodeId) -> Tensor {
        Tensor { graph, id, scope: None }
    }

    /// The same value as something that the place with index `scope` works on.
    pub(super) fn seen_from(&self, scope: u32) -> Tensor {
        Tensor { scope: Some(scope), ..self.clone() }
    }

    /// Index of the place that works on this value: where it was made, unless a place was [entered](super::Scope::enter) with it.
    pub fn scope_in(&self, graph: &Graph) -> u32 {
        self.scope.unwrap_or_else(|| graph.node(self.id).scope)
    }

    /// The node behind this handle.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The graph being traced.
    pub fn graph(&self) -> &Rc<RefCell<Graph>> {
        &self.graph
    }

    /// The extents; one may depend on the batch size.
    pub fn shape(&self) -> Shape {
        self.graph.borrow().node(self.id).shape.clone()
    }

    /// The type of the elements; an operation converts none unless it is asked to.
    pub fn dtype(&self) -> DType {
        self.graph.borrow().node(self.id).dtype
    }

    /// How many axes.
    pub fn rank(&self) -> usize {
        self.graph.borrow().node(self.id).shape.rank()
    }

    /// Applies `op` to this tensor and `others`, at the caller's line and in the latest of the operands' scopes.
    #[track_caller]
    pub fn apply(&self, op: impl Into<Op>, others: &[&Tensor]) -> Tensor {
        let loc = Loc::from(Location::caller());
        let mut inputs = vec![self.id];
        inputs.extend(others.iter().map(|t| t.id));
        let op = op.into();
        if let Some(stranger) = others.iter().find(|t| !t.is_of(&self.graph)) {
            return self.refuse_stranger(op.name(), stranger, loc);
        }
        let mut graph = self.graph.borrow_mut();
        // Scopes are numbered as they are entered, so the latest one is the layer at work, not where x came from.
        let scope = others.iter().map(|t| t.scope_in(&graph)).fold(self.scope_in(&graph), u32::max);
        let id = graph.push(op, &inputs, scope, loc);
        drop(graph);
        Tensor::from_node(self.graph.clone(), id)
    }

    /// Whether this is a value of the program `graph`.
    pub(super) fn is_of(&self, graph: &Rc<RefCell<Graph>>) -> bool {
        Rc::ptr_eq(&self.graph, graph)
    }

    /// Records in both programs that a value of one meets a value of the other: which of them is being traced cannot be known here.
    fn refuse_stranger(&self, what: &str, stranger: &Tensor, loc: Loc) -> Tensor {
        for program in [&self.graph, &stranger.graph] {
            program.borrow_mut().fail(of_another_program(what).at(format!("{}:{}", loc.file, loc.line)));
        }
        let id = self.graph.borrow_mut().placeholder(0, loc);
        Tensor::from_node(self.graph.clone(), id)
    }

    /// Records an error of a composite op at the caller's line and gives a placeholder.
    #[track_caller]
    pub fn fail(&self, what: &str, message: impl Into<String>, help: Option<String>) -> Tensor {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = self.scope_in(&graph);
        let mut error = BuildError::new(what, message).at(graph.position(scope, loc));
        error.help = help;
        graph.fail(error);
        let id = graph.placeholder(scope, loc);
        drop(graph);
        Tensor::from_node(self.graph.clone(), id)
    }
}

/// The error of a tensor that was kept from one traced program and used in another.
pub(crate) fn of_another_program(what: &str) -> BuildError {
    BuildError::new(what, "a tensor of another program came in: each closure that is compiled has tensors of its own")
        .help("make the value within this closure, or hand it over as an input, a parameter or a constant")
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{} {} {}", self.id.0, self.shape(), self.dtype())
    }
}
