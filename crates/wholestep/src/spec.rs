//! A model as data: which layers, in which order, on which inputs. Takes builder calls or a TOML or JSON file, gives a typed value that
//! can be compared, saved, printed and built. Never holds weights, a batch size, or a size that follows from the layers before.
//!
//! ```
//! use wholestep::nn::{Conv2dSpec, MaxPool2d};
//! use wholestep::spec::Model;
//! let model = Model::input([1, 28, 28])
//!     .layer(Conv2dSpec::new(32, 3).padding(1))
//!     .relu()
//!     .layer(MaxPool2d::new(2))
//!     .flatten()
//!     .linear(10);
//! println!("{}", model.summary()?);
//! assert_eq!(Model::from_toml(&model.to_toml()?)?, model);
//! # Ok::<(), wholestep::Error>(())
//! ```
//!
//! **Order and wiring.** Nodes run in order. A node takes what the node before it gave; the first takes the (only) input. A node with
//! `from` takes the named nodes or inputs instead, which must come before it in the same list. Only `concat`, `add` and `mul` take several.
//! Inside of containers each list is wired by itself, and `input` names what enters the list. What nobody reads is an error.

mod build;
mod layer;
mod read;
mod summary;

pub use build::Built;
pub use layer::{Add, Branches, Concat, Join, Layer, Mul, Residual, Sequential};
pub use summary::{Row, Summary};

use crate::nn::{Flatten, LinearSpec, Relu};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::DType;

/// The version of the file format that this library writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// A whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// [`VERSION`].
    pub version: u32,
    /// Whether a `Linear` that meets more than two axes flattens all but the batch axis first, visibly in the summary. Off, it maps the
    /// last axis, as PyTorch does.
    #[serde(default)]
    pub implicit_flatten: bool,
    /// What leaves the model: names of nodes. Empty: what the last node gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// What a batch holds, at least one.
    pub inputs: Vec<Input>,
    /// They run in order, at least one; see the module about wiring.
    #[serde(default)]
    pub layers: Vec<Node>,
}

/// One batch tensor that the model is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The batch tensor's name: the key in [`Infer::run`](crate::Infer::run), the column of a data set. No node may have it.
    pub name: String,
    /// Of one sample, without the batch axis.
    pub shape: Vec<usize>,
    /// f32 where a file leaves it out.
    #[serde(default = "f32", with = "read::dtype")]
    pub dtype: DType,
    /// Values are whole numbers in `0..classes`, checked when a batch is handed over: tokens, categories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
}

fn f32() -> DType {
    DType::F32
}

impl Input {
    /// An f32 input.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Input {
        Input { name: name.into(), shape: shape.into(), dtype: DType::F32, classes: None }
    }

    /// Another element type than f32.
    pub fn dtype(self, dtype: DType) -> Input {
        Input { dtype, ..self }
    }

    /// A u32 input of whole numbers in `0..classes`.
    pub fn tokens(name: impl Into<String>, shape: impl Into<Vec<usize>>, classes: usize) -> Input {
        Input { name: name.into(), shape: shape.into(), dtype: DType::U32, classes: Some(classes) }
    }
}

/// A layer with its place in the wiring. In files the layer's fields stand beside `name` and `from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The scope of the layer's parameters. Absent: its position and type, "0_conv2d".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Absent: the node before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// Whether the backward pass computes the layer's inner values again instead of keeping them ([`crate::Scope::recompute`]): of use for
    /// containers, whose inner values are many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// What it computes; in files its fields stand here.
    #[serde(flatten)]
    pub layer: Layer,
}

impl Node {
    /// A layer that reads the node before it.
    pub fn new(layer: impl Into<Layer>) -> Node {
        Node { name: None, from: Vec::new(), recompute: false, layer: layer.into() }
    }

    /// Names the scope of its parameters, and the node for others to read.
    pub fn named(self, name: impl Into<String>) -> Node {
        Node { name: Some(name.into()), ..self }
    }

    /// Reads the nodes or inputs of these names.
    pub fn from<S: Into<String>>(self, from: impl IntoIterator<Item = S>) -> Node {
        Node { from: from.into_iter().map(Into::into).collect(), ..self }
    }

    /// With the inner values of the layer computed again for the backward pass.
    pub fn recompute(self) -> Node {
        Node { recompute: true, ..self }
    }

    /// The scope of this node when it stands at `position` of its list.
    pub fn scope_name(&self, position: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("{position}_{}", self.layer.kind()))
    }
}

impl<L: Into<Layer>> From<L> for Node {
    fn from(layer: L) -> Node {
        Node::new(layer)
    }
}

impl Model {
    /// A model with one f32 input "x" of `shape` (without the batch axis) and no layers yet.
    pub fn input(shape: impl Into<Vec<usize>>) -> Model {
        Model::with_inputs([Input::new("x", shape)])
    }

    /// A model with these inputs and no layers yet.
    pub fn with_inputs(inputs: impl IntoIterator<Item = Input>) -> Model {
        let inputs = inputs.into_iter().collect();
        Model { version: VERSION, implicit_flatten: false, outputs: Vec::new(), inputs, layers: Vec::new() }
    }

    /// Adds a layer, or a [`Node`] with a name and its own wiring.
    pub fn layer(mut self, node: impl Into<Node>) -> Model {
        self.layers.push(node.into());
        self
    }

    /// Adds a `Linear` with a bias.
    pub fn linear(self, out_features: usize) -> Model {
        self.layer(LinearSpec::new(out_features))
    }

    /// Adds a `Relu`.
    pub fn relu(self) -> Model {
        self.layer(Relu::new())
    }

    /// Adds a `Flatten` of all but the batch axis.
    pub fn flatten(self) -> Model {
        self.layer(Flatten::new())
    }

    /// Says which nodes' results leave the model.
    pub fn outputs<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Model {
        Model { outputs: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether `Linear` flattens images first.
    pub fn implicit_flatten(self, implicit_flatten: bool) -> Model {
        Model { implicit_flatten, ..self }
    }
}
