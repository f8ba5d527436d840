//! A place in the model while it is traced: "gpt/block3/up". Takes names, gives inputs, parameters and random bits that carry that
//! place. Never outlives the tracing of its program.

use super::op::{Leaf, Op, Random};
use super::{
    BuildError, DType, Dim, Graph, Init, InputDecl, InputId, Loc, NodeId, OutputDecl, Shape, Slot, SlotId, SlotKind,
    Tensor, names,
};
use crate::ir::graph::{LabelRange, SmallestBatch};
use crate::ir::tensor::of_another_program;
use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;

/// Whether a program, or a part of it, learns: what dropout and batch normalization ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Dropout draws, and norms use and follow their batch.
    Train,
    /// Dropout does nothing, and norms use their running statistics.
    Infer,
}

/// A named place in the model being traced. Names below it are joined with `/`.
#[derive(Clone)]
pub struct Scope {
    graph: Rc<RefCell<Graph>>,
    path: String,
    mode: Mode,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scope({:?}, {:?})", self.path, self.mode)
    }
}

/// The slot that counts completed steps (u32).
pub const STEP: &str = "step";
/// The slot that holds the random key (u32 [2]).
pub const KEY: &str = "key";

impl Scope {
    /// The root of a new, empty program.
    pub fn root(mode: Mode) -> Scope {
        Scope { graph: Rc::new(RefCell::new(Graph::new())), path: String::new(), mode }
    }

    /// The place `name` below this one.
    pub fn sub(&self, name: impl AsRef<str>) -> Scope {
        let path = join(&self.path, name.as_ref());
        self.graph.borrow_mut().scope_index(&path);
        Scope { graph: self.graph.clone(), path, mode: self.mode }
    }

    /// The same value, seen from this place: what is computed from it belongs here, in errors and in cost tables. A layer with parameters
    /// gets this from them; one without (a pool, an activation) has nothing else that says where it stands.
    pub fn enter(&self, x: &Tensor) -> Tensor {
        x.seen_from(self.graph.borrow_mut().scope_index(&self.path))
    }

    /// What `part` gives; the values inside it are not kept for the backward pass, which computes them again from what `part` reads when
    /// it needs them. Less memory for more work: as PyTorch's `torch.utils.checkpoint`.
    ///
    /// What enters and leaves `part` is kept, and so are outputs, updates and sums that are small beside what they add up (statistics of a
    /// normalization). Random bits are drawn the same again; running statistics are updated once. Parts may lie within parts: the inner
    /// one is then computed again within the outer one, too. A gradient that the model itself takes keeps what it reads.
    pub fn recompute<T>(&self, part: impl FnOnce(&Scope) -> T) -> T {
        let first = self.graph.borrow().nodes.len() as u32;
        let result = part(self);
        let mut graph = self.graph.borrow_mut();
        let end = graph.nodes.len() as u32;
        graph.recompute.push(first..end);
        drop(graph);
        result
    }

    /// This place as in inference, while the rest of the model trains: below it batch normalization uses its running statistics and leaves them
    /// as they are, and dropout is the identity. Parameters are still learned unless a group freezes them. As PyTorch's `eval()` on a part
    /// of a model: `Backbone::new(&s.sub("backbone").eval())`.
    #[must_use = "gives a place and changes none"]
    pub fn eval(&self) -> Scope {
        Scope { mode: Mode::Infer, ..self.clone() }
    }

    /// Whether what is traced at this place learns: false in a program for inference, and below [`Scope::eval`].
    pub fn is_training(&self) -> bool {
        self.mode == Mode::Train
    }

    /// "gpt/block3"; empty at the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The graph being traced.
    pub fn graph(&self) -> &Rc<RefCell<Graph>> {
        &self.graph
    }

    /// A tensor that each step is given under `name`. `(Batch, 784)` has one row per sample.
    /// Errors: the name is taken by an input of another shape or dtype.
    #[track_caller]
    pub fn input(&self, name: &str, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        self.declare_input(InputDecl { name: name.to_string(), dtype, shape: shape.into(), range: None })
    }

    /// An input of class indices or tokens in `0..n`, checked when a batch is handed over; `ignore` is allowed besides, and losses over classes
    /// leave out the rows that have it.
    /// Errors: as [`Scope::input`]; a dtype that is no whole number; no class.
    #[track_caller]
    pub fn labels(&self, name: &str, shape: impl Into<Shape>, dtype: DType, n: usize, ignore: Option<i64>) -> Tensor {
        let range = Some(LabelRange { n, ignore });
        if !dtype.is_int() || n == 0 {
            let message = format!("{name}: need whole numbers of at least 1 class, got {dtype} of {n} classes");
            let mut graph = self.graph.borrow_mut();
            let scope = graph.scope_index(&self.path);
            let error = BuildError::new("labels", message).at(graph.position(scope, Location::caller().into()));
            graph.fail(error);
        }
        self.declare_input(InputDecl { name: name.to_string(), dtype, shape: shape.into(), range })
    }

    /// A parameter that the optimizer learns, f32.
    /// Errors: the name is taken; the shape depends on the batch size.
    #[track_caller]
    pub fn param(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Tensor {
        self.slot(name, SlotKind::Param { trainable: true }, DType::F32, shape.into(), init)
    }

    /// A value that the step keeps and inference needs, f32: a running statistic. Changed with [`Scope::update`].
    #[track_caller]
    pub fn buffer(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Tensor {
        self.slot(name, SlotKind::Buffer, DType::F32, shape.into(), init)
    }

    /// The parameter `name` below this place, which a layer has declared: for a penalty on its weight, for a weight that two layers share, for a
    /// gradient as an output. "fc1/weight", or "fc1.weight" as in PyTorch's `Module.get_parameter`.
    /// Errors: nothing has this name yet; it is a buffer.
    #[track_caller]
    pub fn get_parameter(&self, name: &str) -> Tensor {
        self.declared("get_parameter", name, |kind| matches!(kind, SlotKind::Param { .. }))
    }

    /// The buffer `name` below this place, which a layer has declared: "bn/running_mean". As PyTorch's `Module.get_buffer`.
    /// Errors: nothing has this name yet; it is a parameter.
    #[track_caller]
    pub fn get_buffer(&self, name: &str) -> Tensor {
        self.declared("get_buffer", name, |kind| kind == SlotKind::Buffer)
    }

    #[track_caller]
    fn declared(&self, what: &str, name: &str, is_asked: fn(SlotKind) -> bool) -> Tensor {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        let full = join(&self.path, name);
        let found = graph.slots.iter().position(|s| is_asked(s.kind) && is_one_name(&s.name, &full));
        // A slot that was declared after an error has no node.
        let node = found.and_then(|i| slot_node(&graph, SlotId(i as u32))).unwrap_or_else(|| {
            let below = join(&self.path, "");
            let all: Vec<&str> =
                graph.slots.iter().filter(|s| is_asked(s.kind)).filter_map(|s| s.name.strip_prefix(&below)).collect();
            let place = if self.path.is_empty() { "the model" } else { &self.path };
            let there = if all.is_empty() { "none yet".to_string() } else { names::known(name, &all) };
            let help = match graph.slots.iter().find(|s| is_one_name(&s.name, &full)).map(|s| s.kind) {
                Some(SlotKind::Param { .. }) => "it is a parameter: get_parameter gives it",
                Some(SlotKind::Buffer) => "it is a buffer: get_buffer gives it",
                Some(SlotKind::State | SlotKind::Scalar) | None => {
                    "a layer declares what it has when it is made: ask afterwards"
                }
            };
            let error = BuildError::new(what, format!("nothing in {place} is called {name}; there are {there}"))
                .at(graph.position(scope, loc))
                .help(help);
            graph.fail(error);
            graph.placeholder(scope, loc)
        });
        drop(graph);
        Tensor::from_node(self.graph.clone(), node)
    }

    /// A named value of any kind and dtype that survives the step; names are unique, also where `/` is written `.`, as in files.
    #[track_caller]
    pub fn slot(&self, name: &str, kind: SlotKind, dtype: DType, shape: Shape, init: Init) -> Tensor {
        let loc = Loc::from(Location::caller());
        let name = join(&self.path, name);
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        let taken = graph.slots.iter().find(|s| is_one_name(&s.name, &name)).map(|s| s.loc);
        if let Some(first) = taken {
            let error = BuildError::new("param", format!("the name {name} is taken"))
                .at(graph.position(scope, loc))
                .help(format!(
                    "it was first used at {}:{}; give each layer a scope: s.sub(\"fc1\")",
                    first.file, first.line
                ));
            graph.fail(error);
        }
        if shape.as_fixed().is_none() {
            let error = BuildError::new("param", format!("{name} {shape} depends on the batch size"))
                .at(graph.position(scope, loc))
                .help("what survives a step has a fixed shape");
            graph.fail(error);
        }
        if let Some(fault) = shape.as_fixed().and_then(|_| init.fault(shape.numel_at(0))) {
            let error = BuildError::new("param", format!("{name}: {fault}")).at(graph.position(scope, loc));
            graph.fail(error);
        }
        let id = SlotId(graph.slots.len() as u32);
        let order = (0..shape.rank()).collect();
        graph.slots.push(Slot { name, kind, dtype, shape: shape.clone(), order, init, loc });
        let node = graph.push(Op::Leaf(Leaf::Slot { id, dtype, shape }), &[], scope, loc);
        drop(graph);
        Tensor::from_node(self.graph.clone(), node)
    }

    /// After the step the slot behind `slot` holds `value`.
    /// Errors: `slot` is not a slot; shape or dtype differ; the slot has an update already; a tensor is of another program.
    #[track_caller]
    pub fn update(&self, slot: &Tensor, value: &Tensor) {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        if !slot.is_of(&self.graph) || !value.is_of(&self.graph) {
            let error = of_another_program("update").at(graph.position(scope, loc));
            return graph.fail(error);
        }
        let id = match &graph.node(slot.id()).op {
            Op::Leaf(Leaf::Slot { id, .. }) => Some(*id),
            _ => None,
        };
        let fault = match id {
            None => Some("the first argument is no slot".to_string()),
            Some(id) if graph.updates.iter().any(|(s, _)| *s == id) => {
                Some(format!("{} is updated twice in one step", graph.slot(id).name))
            }
            Some(_) if graph.type_of(slot.id()) != graph.type_of(value.id()) => {
                let (to, from) = (graph.type_of(slot.id()), graph.type_of(value.id()));
                Some(format!("need {} {}, got {} {}", to.shape, to.dtype, from.shape, from.dtype))
            }
            Some(_) => None,
        };
        match (fault, id) {
            (None, Some(id)) => graph.updates.push((id, value.id())),
            (fault, _) => {
                let error = BuildError::new("update", fault.unwrap_or_default()).at(graph.position(scope, loc));
                graph.fail(error);
            }
        }
    }

    /// Makes `value` readable after each step under `name`.
    /// Errors: the name is taken; the tensor is of another program.
    #[track_caller]
    pub fn output(&self, name: &str, value: &Tensor) {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        if !value.is_of(&self.graph) {
            let error = of_another_program("output").at(graph.position(scope, loc));
            return graph.fail(error);
        }
        if graph.outputs.iter().any(|o| o.name == name) {
            let error = BuildError::new("output", format!("the name {name} is taken")).at(graph.position(scope, loc));
            graph.fail(error);
        }
        graph.outputs.push(OutputDecl { name: name.to_string(), node: value.id() });
    }

    /// A batch of fewer than `rows` rows is refused before it runs, because of `why`: "BatchNorm1d needs …".
    #[track_caller]
    pub fn need_batch(&self, rows: usize, why: &str) {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        if graph.smallest_batch.as_ref().is_none_or(|s| s.rows < rows) {
            let why = format!("{why}, at {}", graph.position(scope, loc));
            graph.smallest_batch = Some(SmallestBatch { rows, why });
        }
    }

    /// A scalar constant.
    #[track_caller]
    pub fn constant(&self, value: f64, dtype: DType) -> Tensor {
        self.leaf(Leaf::Const { value, dtype })
    }

    /// The scalar `a·B + b` as a float.
    #[track_caller]
    pub fn extent(&self, dim: Dim, dtype: DType) -> Tensor {
        self.leaf(Leaf::Extent { dim, dtype })
    }

    /// The vector 0, 1, 2 … `len - 1`.
    #[track_caller]
    pub fn iota(&self, len: impl Into<Dim>, dtype: DType) -> Tensor {
        self.leaf(Leaf::Iota { len: len.into(), dtype })
    }

    /// Uniform random u32 bits, new at each step, the same for the same seed.
    #[track_caller]
    pub fn random_bits(&self, shape: impl Into<Shape>) -> Tensor {
        let key = self.scalar(KEY, DType::U32, Shape::from([2usize]), Init::Key);
        let step = self.step();
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let stream = graph.n_streams;
        graph.n_streams += 1;
        let scope = graph.scope_index(&self.path);
        let op = Op::Random(Random { shape: shape.into(), stream });
        let id = graph.push(op, &[key.id(), step.id()], scope, loc);
        drop(graph);
        Tensor::from_node(self.graph.clone(), id)
    }

    /// The number of completed steps, u32.
    #[track_caller]
    pub fn step(&self) -> Tensor {
        self.scalar(STEP, DType::U32, Shape::scalar(), Init::Const(0.0))
    }

    /// The step scalar `name` (not below this place: there is one per program), made at its first use.
    /// Errors: the name is that of a parameter or a buffer.
    #[track_caller]
    pub fn scalar(&self, name: &str, dtype: DType, shape: Shape, init: Init) -> Tensor {
        let found = {
            let mut graph = self.graph.borrow_mut();
            let slot = graph.slots.iter().position(|s| s.name == name);
            if let Some(taken) = slot.map(|i| &graph.slots[i]).filter(|s| s.kind != SlotKind::Scalar) {
                let error = BuildError::new(
                    "param",
                    format!("the name {name} is taken: the step keeps a number of its own there"),
                )
                .at(graph.position(0, taken.loc))
                .help("give the parameter another name, or a scope: s.sub(\"fc1\")");
                graph.fail(error);
            }
            slot.and_then(|i| slot_node(&graph, SlotId(i as u32)))
        };
        match found {
            Some(id) => Tensor::from_node(self.graph.clone(), id),
            None => {
                let root = Scope { graph: self.graph.clone(), path: String::new(), mode: self.mode };
                root.slot(name, SlotKind::Scalar, dtype, shape, init)
            }
        }
    }

    #[track_caller]
    fn leaf(&self, leaf: Leaf) -> Tensor {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        let id = graph.push(Op::Leaf(leaf), &[], scope, loc);
        drop(graph);
        Tensor::from_node(self.graph.clone(), id)
    }

    #[track_caller]
    fn declare_input(&self, decl: InputDecl) -> Tensor {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph.borrow_mut();
        let scope = graph.scope_index(&self.path);
        let found = graph.inputs.iter().position(|i| i.name == decl.name);
        let id = match found {
            Some(i) if graph.inputs[i] == decl => {
                // One node for each input, so that the gradient by it is the whole gradient. None is there after an earlier error.
                if let Some(known) = input_node(&graph, InputId(i as u32)) {
                    drop(graph);
                    return Tensor::from_node(self.graph.clone(), known);
                }
                InputId(i as u32)
            }
            Some(i) => {
                let first = &graph.inputs[i];
                let message = format!(
                    "{} is {} {} already, now {} {}",
                    decl.name, first.shape, first.dtype, decl.shape, decl.dtype
                );
                let error = BuildError::new("input", message).at(graph.position(scope, loc));
                graph.fail(error);
                InputId(i as u32)
            }
            None => {
                graph.inputs.push(decl.clone());
                InputId(graph.inputs.len() as u32 - 1)
            }
        };
        let op = Op::Leaf(Leaf::Input { id, dtype: decl.dtype, shape: decl.shape });
        let node = graph.push(op, &[], scope, loc);
        drop(graph);
        Tensor::from_node(self.graph.clone(), node)
    }
}

/// Whether two slots have one name in files, where `.` stands for `/`.
fn is_one_name(a: &str, b: &str) -> bool {
    let in_files = |name: &'_ str| name.bytes().map(|b| if b == b'/' { b'.' } else { b }).collect::<Vec<u8>>();
    a == b || (a.len() == b.len() && in_files(a) == in_files(b))
}

/// The node that reads a slot.
pub fn slot_node(graph: &Graph, slot: SlotId) -> Option<NodeId> {
    graph.ids().find(|&id| matches!(&graph.node(id).op, Op::Leaf(Leaf::Slot { id: s, .. }) if *s == slot))
}

/// The node that reads an input.
fn input_node(graph: &Graph, input: InputId) -> Option<NodeId> {
    graph.ids().find(|&id| matches!(&graph.node(id).op, Op::Leaf(Leaf::Input { id: i, .. }) if *i == input))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}/{name}") }
}
