//! The graph: an arena of typed nodes, the slots that survive a step, and what the step hands back. Takes ops through [`Graph::push`],
//! which is the one place that checks them and records the first error. Never holds element data.

use super::op::{Op, RuleError, Type};
use super::{BuildError, DType, Shape};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::Location;

/// Index of a node in its graph. Operands come before their users, so ids are in topological order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Index of a slot in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// Index of a batch input in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputId(pub u32);

/// A line of the user's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loc {
    /// As the Rust compiler was given it: "src/gpt.rs".
    pub file: &'static str,
    /// Counted from 1.
    pub line: u32,
}

impl From<&'static Location<'static>> for Loc {
    fn from(l: &'static Location<'static>) -> Loc {
        Loc { file: l.file(), line: l.line() }
    }
}

/// One op applied to earlier nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What computes it.
    pub op: Op,
    /// The op's operands, in the order that its family states; all earlier nodes.
    pub inputs: Vec<NodeId>,
    /// Of the result, as the op's rule has it.
    pub dtype: DType,
    /// Of the result, in the order in which it is stored.
    pub shape: Shape,
    /// Index into [`Graph::scopes`].
    pub scope: u32,
    /// Where the user's program made it.
    pub loc: Loc,
}

/// What a slot holds, which decides its gradient, its place in a checkpoint and whether inference needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// Learned by the optimizer.
    Param {
        /// Not of a group that is frozen: such a parameter has no gradient, state or update.
        trainable: bool,
    },
    /// Learned otherwise and needed for inference: BatchNorm's running statistics.
    Buffer,
    /// The optimizer's memory of a parameter.
    State,
    /// A step scalar: step number, learning rate, random key, loss scale.
    Scalar,
}

/// How a slot is filled before the first step. Random kinds draw from the seed and the slot's name, so a model's values do not depend on
/// the order in which its layers were built.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Every element this number.
    Const(f64),
    /// Uniform in [lo, hi).
    Uniform {
        /// The least value.
        lo: f64,
        /// The upper end, which is not drawn.
        hi: f64,
    },
    /// Of this mean and standard deviation.
    Normal {
        /// Finite.
        mean: f64,
        /// The standard deviation, >= 0.
        std: f64,
    },
    /// Normal, drawn again outside of `mean ± 2 std`… generalised to [lo, hi] as PyTorch's `trunc_normal_`.
    TruncNormal {
        /// Before it is cut.
        mean: f64,
        /// Before it is cut, > 0.
        std: f64,
        /// An absolute number, not one in deviations.
        lo: f64,
        /// An absolute number above `lo`.
        hi: f64,
    },
    /// (Semi-)orthogonal rows or columns times `gain`. Paper: Saxe, McClelland, Ganguli 2013.
    Orthogonal {
        /// A factor on all elements.
        gain: f64,
    },
    /// Given values, row-major, as many as the slot has elements.
    Values(Vec<f32>),
    /// The random key: two words made from the seed.
    Key,
}

impl Init {
    /// Why a slot of `elements` elements cannot begin so, if it cannot.
    pub fn fault(&self, elements: usize) -> Option<String> {
        let (numbers, is_ordered): (&[f64], bool) = match self {
            // An infinity is a meaningful beginning: the least number seen so far.
            Init::Const(_) | Init::Key => (&[], true),
            Init::Values(values) if values.len() != elements => {
                return Some(format!("need {elements} values, got {}", values.len()));
            }
            Init::Values(_) => (&[], true),
            Init::Uniform { lo, hi } => (&[*lo, *hi], lo <= hi),
            Init::Normal { mean, std } => (&[*mean, *std], *std >= 0.0),
            Init::TruncNormal { mean, std, lo, hi } => (&[*mean, *std, *lo, *hi], *std > 0.0 && lo < hi),
            Init::Orthogonal { gain } => (&[*gain], true),
        };
        if numbers.iter().any(|n| !n.is_finite()) {
            return Some(format!("need finite numbers, got {self:?}"));
        }
        (!is_ordered).then(|| format!("need lo <= hi and a spread that is not negative, got {self:?}"))
    }
}

/// A named value that survives the step. Everything that a checkpoint must hold is a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// "gpt/block3/up/weight".
    pub name: String,
    /// Who changes it, and whether inference needs it.
    pub kind: SlotKind,
    /// Of its elements on the device.
    pub dtype: DType,
    /// The shape the user declared. Without B.
    pub shape: Shape,
    /// Storage order: axis i in memory is axis `order[i]` of `shape`. Nodes see the stored shape; files and the user see `shape`.
    pub order: Vec<usize>,
    /// What it holds before the first step.
    pub init: Init,
    /// Where the user's program declared it.
    pub loc: Loc,
}

/// A batch tensor that each step is given.
#[derive(Clone, Debug, PartialEq)]
pub struct InputDecl {
    /// The key of the batch: "x".
    pub name: String,
    /// What a batch must have; nothing is converted.
    pub dtype: DType,
    /// What a batch must have, mostly with B as its first extent.
    pub shape: Shape,
    /// Values must be in `0..n` (labels, tokens): checked on the host when the batch is handed over. `ignore` is allowed besides.
    pub range: Option<LabelRange>,
}

/// The values that an index input may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelRange {
    /// Values are in `0..n`.
    pub n: usize,
    /// A value outside of that range that is allowed: rows that do not count.
    pub ignore: Option<i64>,
}

/// A value that can be read after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputDecl {
    /// By which it is read.
    pub name: String,
    /// What computes it.
    pub node: NodeId,
}

/// A gradient that the user defined, as `Tensor::custom_vjp` traced it. Read by differentiation; passes, which come later, drop it.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomVjp {
    /// What it is a function of.
    pub inputs: Vec<NodeId>,
    /// One after another, each a `detach` of what the forward closure gave.
    pub outputs: Vec<NodeId>,
    /// Stand-ins for the gradients of `outputs` within `trace`.
    pub d_outputs: Vec<NodeId>,
    /// By input; `None` where nothing flows.
    pub grads: Vec<Option<NodeId>>,
    /// The nodes that the backward closure traced.
    pub trace: Range<u32>,
}

/// The memory that a step is to fit into: slots and arena together, at the largest batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Of slots and arena together.
    pub bytes: u64,
    /// The batch that must fit.
    pub max_batch: usize,
}

/// The smallest batch for which a program has a meaning: statistics of a single value are none.
#[derive(Clone, Debug, PartialEq)]
pub struct SmallestBatch {
    /// A batch has at least so many.
    pub rows: usize,
    /// "BatchNorm1d needs more than one value per channel to train, at src/main.rs:12   in bn".
    pub why: String,
}

/// A traced program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// By [`NodeId`]; operands come before their users.
    pub nodes: Vec<Node>,
    /// By [`SlotId`], in the order in which they were declared.
    pub slots: Vec<Slot>,
    /// By [`InputId`], in the order in which they were declared.
    pub inputs: Vec<InputDecl>,
    /// In the order in which they were named.
    pub outputs: Vec<OutputDecl>,
    /// What each slot holds after the step; a slot that is not named keeps its value.
    pub updates: Vec<(SlotId, NodeId)>,
    /// "gpt/block3/up"; a node's scope is an index. Entry 0 is the root, "".
    pub scopes: Vec<String>,
    /// How many random streams have been handed out.
    pub n_streams: u32,
    /// How many loops have been traced.
    pub n_loops: u32,
    /// The 16-bit float in which values that hold the batch are kept, where the program asks for mixed precision.
    pub storage: Option<DType>,
    /// Whether contractions may round operands of f32 to 11 bits (TF32), where a device multiplies such faster.
    pub tf32: bool,
    /// Gradients that the user defined.
    pub custom_vjps: Vec<CustomVjp>,
    /// How many nodes there were when gradients were last taken: the forward pass. `None` where none were.
    pub forward: Option<u32>,
    /// The nodes that each `Scope::recompute` traced; inner ones come before those around them.
    pub recompute: Vec<Range<u32>>,
    /// Where the step is to take no more memory than this; values are computed again until it does.
    pub fit: Option<Fit>,
    /// What a node waits for besides its operands, earlier nodes both: see `passes::remat`, which alone writes it.
    pub waits: BTreeMap<NodeId, NodeId>,
    /// Checked on the host before each run.
    pub smallest_batch: Option<SmallestBatch>,
    /// The first error; later ones are its consequence and are dropped.
    pub error: Option<BuildError>,
}

impl Graph {
    /// Empty, but for the root among its scopes.
    pub fn new() -> Graph {
        Graph { scopes: vec![String::new()], ..Graph::default() }
    }

    /// Panics if there is none.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Panics if there is none.
    pub fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    /// Ids in topological order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The index of `path` in the scope table.
    pub fn scope_index(&mut self, path: &str) -> u32 {
        let found = self.scopes.iter().rposition(|s| s == path);
        found.unwrap_or_else(|| {
            self.scopes.push(path.to_string());
            self.scopes.len() - 1
        }) as u32
    }

    /// Appends `op`. If its rule refuses the operands, records the error (unless one is there) and appends a scalar placeholder, so that
    /// tracing can go on to the one place that returns it.
    pub fn push(&mut self, op: Op, inputs: &[NodeId], scope: u32, loc: Loc) -> NodeId {
        let types: Vec<Type> = inputs.iter().map(|&id| self.type_of(id)).collect();
        let result = if self.error.is_some() { None } else { Some(checked(op.infer(&types))) };
        match result {
            Some(Ok(t)) => {
                self.append(Node { op, inputs: inputs.to_vec(), dtype: t.dtype, shape: t.shape, scope, loc })
            }
            Some(Err(rule)) => {
                let error = BuildError {
                    what: op.name().to_string(),
                    message: rule.message,
                    at: Some(self.position(scope, loc)),
                    operands: operand_lines(self, inputs),
                    help: rule.help,
                };
                self.fail(error);
                self.placeholder(scope, loc)
            }
            None => self.placeholder(scope, loc),
        }
    }

    /// Records `error` unless an earlier one is there.
    pub fn fail(&mut self, error: BuildError) {
        self.error.get_or_insert(error);
    }

    /// A scalar that stands where an op failed; the recorded error keeps it from ever being compiled.
    pub fn placeholder(&mut self, scope: u32, loc: Loc) -> NodeId {
        let op = Op::Leaf(super::op::Leaf::Const { value: 0.0, dtype: DType::F32 });
        self.append(Node { op, inputs: Vec::new(), dtype: DType::F32, shape: Shape::scalar(), scope, loc })
    }

    /// dtype and shape of a node, as the rules see it.
    pub fn type_of(&self, id: NodeId) -> Type {
        let node = self.node(id);
        Type { dtype: node.dtype, shape: node.shape.clone() }
    }

    /// Multiplications and additions of a contraction at a batch size; 0 for what is none.
    pub fn flops(&self, id: NodeId, batch: usize) -> f64 {
        let node = self.node(id);
        match &node.op {
            Op::Contract(op) => {
                let [a, b] = [0, 1].map(|k| &self.node(node.inputs[k]).shape);
                op.flops([a, b], &node.shape, batch)
            }
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Control(_) => 0.0,
        }
    }

    /// "src/gpt.rs:41   in gpt/block3/up".
    pub fn position(&self, scope: u32, loc: Loc) -> String {
        match self.scopes[scope as usize].as_str() {
            "" => format!("{}:{}", loc.file, loc.line),
            path => format!("{}:{}   in {path}", loc.file, loc.line),
        }
    }

    fn append(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }
}

/// What a rule gives, unless nothing can have that shape.
fn checked(inferred: Result<Type, RuleError>) -> Result<Type, RuleError> {
    let t = inferred?;
    match t.shape.fault() {
        Some(fault) => Err(RuleError::new(fault)),
        None => Ok(t),
    }
}

/// "lhs [32, 128, 768] f32  from gpt/block3/ln   src/gpt.rs:40", aligned.
pub(crate) fn operand_lines(graph: &Graph, inputs: &[NodeId]) -> Vec<String> {
    let roles: &[&str] = if inputs.len() == 2 { &["lhs", "rhs"] } else { &["x", "y", "z"] };
    let shapes: Vec<String> = inputs.iter().map(|&id| graph.node(id).shape.to_string()).collect();
    let width = shapes.iter().map(String::len).max().unwrap_or(0);
    let lines = inputs.iter().zip(&shapes).enumerate().map(|(i, (&id, shape))| {
        let node = graph.node(id);
        let role = roles.get(i).copied().unwrap_or("..");
        let origin = match &node.op {
            Op::Leaf(super::op::Leaf::Slot { id, .. }) => graph.slot(*id).name.clone(),
            Op::Leaf(super::op::Leaf::Input { id, .. }) => format!("input {}", graph.inputs[id.0 as usize].name),
            op => match graph.scopes[node.scope as usize].as_str() {
                "" => op.name().to_string(),
                path => format!("{} in {path}", op.name()),
            },
        };
        format!("{role} {shape:width$} {}  from {origin}   {}:{}", node.dtype, node.loc.file, node.loc.line)
    });
    lines.collect()
}
