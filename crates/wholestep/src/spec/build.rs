//! From a description to tensors. Takes a model and a scope, gives the inputs and outputs of its traced forward pass, with sizes inferred
//! from what enters each layer. Never changes the description and never keeps a layer: all that lasts is in the graph.

use super::{Input, Join, Layer, Model, Node, VERSION};
use crate::{Error, ErrorKind, Result, nn};
use wholestep_compiler::ir::{Batch, Dim, Scope, Shape, Tensor, names};

/// A traced forward pass.
#[derive(Clone, Debug)]
pub struct Built {
    /// By input of the model.
    pub inputs: Vec<(String, Tensor)>,
    /// By output of the model; the last node under its own name where none is listed.
    pub outputs: Vec<(String, Tensor)>,
}

impl Built {
    /// The only output, or the first.
    pub fn output(&self) -> &Tensor {
        &self.outputs[0].1
    }
}

/// Told of each node once it is traced: nesting depth, name, the layer's kind, its result and what it declared (index of its first slot).
pub(super) type Observer<'a> = &'a mut dyn FnMut(usize, &str, &str, &Tensor, usize);

impl Model {
    /// Declares the model's inputs with the batch axis [`Batch`] and traces its layers below `s`.
    ///
    /// Errors: `ErrorKind::Config` for wiring (an unknown or repeated name, a result that nobody reads, a version that this library does
    /// not know); `ErrorKind::Build` for a shape that a layer cannot take, with the layer's name and what to do.
    #[track_caller]
    pub fn build(&self, s: &Scope) -> Result<Built> {
        self.build_observed(s, &mut |_, _, _, _, _| {})
    }

    #[track_caller]
    pub(super) fn build_observed(&self, s: &Scope, observe: Observer) -> Result<Built> {
        self.check()?;
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            inputs.push((input.name.clone(), declare(s, input)));
        }
        self.trace(s, &inputs, observe)
    }

    /// As [`Model::build`] on given inputs (with their batch axes), in the order of [`Model::inputs`]: another batch size, another image
    /// size, the result of other code.
    #[track_caller]
    pub fn forward(&self, s: &Scope, inputs: &[Tensor]) -> Result<Built> {
        self.check()?;
        if inputs.len() != self.inputs.len() {
            let message = format!("need {} inputs, got {}", self.inputs.len(), inputs.len());
            return Err(Error::new(ErrorKind::Config, message));
        }
        let inputs: Vec<(String, Tensor)> =
            self.inputs.iter().zip(inputs).map(|(i, x)| (i.name.clone(), x.clone())).collect();
        self.trace(s, &inputs, &mut |_, _, _, _, _| {})
    }

    fn check(&self) -> Result<()> {
        if self.version != VERSION {
            return Err(config(format!(
                "model version {} is unknown; this library reads version {VERSION}",
                self.version
            )));
        }
        if self.inputs.is_empty() || self.layers.is_empty() {
            return Err(config("a model needs at least one input and one layer"));
        }
        for input in &self.inputs {
            let elements = input.shape.iter().fold(1u128, |n, &d| n.saturating_mul(d as u128));
            if !(1..1 << 40).contains(&elements) {
                return Err(config(format!(
                    "input {}: need extents of at least 1 and at most 2^40 elements, got {:?}",
                    input.name, input.shape
                )));
            }
            if input.classes.is_some() && !input.dtype.is_int() {
                return Err(config(format!(
                    "input {}: classes need a whole-number dtype, got {}",
                    input.name, input.dtype
                )));
            }
        }
        Ok(())
    }

    #[track_caller]
    fn trace(&self, s: &Scope, inputs: &[(String, Tensor)], observe: Observer) -> Result<Built> {
        let mut list = List::new(inputs, self.implicit_flatten, 0);
        let last = list.run(s, &self.layers, observe)?;
        let outputs = match self.outputs.as_slice() {
            [] => vec![last],
            names => names.iter().map(|name| list.find(name, "outputs")).collect::<Result<Vec<_>>>()?,
        };
        let mut outputs_seen = self.outputs.clone();
        outputs_seen.sort_unstable();
        if outputs_seen.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(config("an output is listed twice"));
        }
        if !self.outputs.is_empty() {
            list.check_all_read(None)?;
        } else {
            list.check_all_read(outputs.first().map(|(name, _)| name.as_str()))?;
        }
        Ok(Built { inputs: inputs.to_vec(), outputs })
    }
}

#[track_caller]
fn declare(s: &Scope, input: &Input) -> Tensor {
    let mut dims = vec![Batch];
    dims.extend(input.shape.iter().map(|&n| Dim::fixed(n)));
    match input.classes {
        Some(n) => s.labels(&input.name, Shape(dims), input.dtype, n, None),
        None => s.input(&input.name, Shape(dims), input.dtype),
    }
}

fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// The error that tracing has recorded, if any.
fn build_error(s: &Scope) -> Result<()> {
    match &s.graph().borrow().error {
        Some(error) => Err(Error::new(ErrorKind::Build, error.to_string())),
        None => Ok(()),
    }
}

/// One list of nodes being traced: what can be named so far, and whether it was read.
struct List {
    known: Vec<(String, Tensor, bool)>,
    n_inputs: usize,
    implicit_flatten: bool,
    depth: usize,
}

impl List {
    fn new(inputs: &[(String, Tensor)], implicit_flatten: bool, depth: usize) -> List {
        let known = inputs.iter().map(|(name, x)| (name.clone(), x.clone(), false)).collect();
        List { known, n_inputs: inputs.len(), implicit_flatten, depth }
    }

    fn find(&mut self, name: &str, reader: &str) -> Result<(String, Tensor)> {
        let Some(found) = self.known.iter_mut().find(|(n, _, _)| n == name) else {
            let all: Vec<&str> = self.known.iter().map(|(n, _, _)| n.as_str()).collect();
            let known = names::known(name, &all);
            return Err(config(format!("{reader}: no node or input before it is named {name}; there are {known}")));
        };
        found.2 = true;
        Ok((found.0.clone(), found.1.clone()))
    }

    /// What node `position` takes.
    fn sources(&mut self, node: &Node, name: &str, position: usize) -> Result<Vec<Tensor>> {
        if !node.from.is_empty() {
            return node.from.iter().map(|from| self.find(from, name).map(|(_, x)| x)).collect();
        }
        if position == 0 && self.n_inputs > 1 {
            return Err(config(format!(
                "{name}: the model has {} inputs; say which it takes with `from`",
                self.n_inputs
            )));
        }
        let before = self.known.last_mut().ok_or_else(|| config("a model needs at least one input"))?;
        before.2 = true;
        Ok(vec![before.1.clone()])
    }

    /// Traces all nodes and gives the last one's name and result.
    #[track_caller]
    fn run(&mut self, s: &Scope, nodes: &[Node], observe: Observer) -> Result<(String, Tensor)> {
        for (position, node) in nodes.iter().enumerate() {
            let name = node.scope_name(position);
            check_name(&name, self.known.iter().map(|(n, _, _)| n.as_str()))?;
            let sources = self.sources(node, &name, position)?;
            let first_slot = s.graph().borrow().slots.len();
            let sub = s.sub(&name);
            let sources: Vec<Tensor> = sources.iter().map(|x| sub.enter(x)).collect();
            let (implicit_flatten, depth) = (self.implicit_flatten, self.depth);
            let within = &mut Within { implicit_flatten, depth, observe: &mut *observe };
            let y = match node.recompute {
                true => sub.recompute(|sub| apply(&node.layer, sub, &sources, &name, within)),
                false => apply(&node.layer, &sub, &sources, &name, within),
            }?;
            build_error(s)?;
            if !nn::is_countable(y.shape().dims()) {
                return Err(Error::new(ErrorKind::Build, format!("{name}: the result {} is too large", y.shape())));
            }
            observe(self.depth, &name, node.layer.kind(), &y, first_slot);
            self.known.push((name, y, false));
        }
        let (name, y, _) = self.known.last().ok_or_else(|| config("a model needs at least one input"))?;
        Ok((name.clone(), y.clone()))
    }

    /// Nothing is dropped without a word: every input and node but `last` must have been read.
    fn check_all_read(&self, last: Option<&str>) -> Result<()> {
        match self.known.iter().find(|(name, _, read)| !read && Some(name.as_str()) != last) {
            None => Ok(()),
            Some((name, _, _)) => Err(config(format!(
                "{name}: nobody reads its result; name it in a `from` or in `outputs`, or take it out"
            ))),
        }
    }
}

/// Names become scopes and, with dots, PyTorch's keys.
fn check_name<'a>(name: &str, mut taken: impl Iterator<Item = &'a str>) -> Result<()> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Err(config(format!("need a name of letters, digits, _ and -, got {name:?}")));
    }
    if taken.any(|n| n == name) {
        return Err(config(format!("{name}: the name is taken by an input or an earlier node of the same list")));
    }
    Ok(())
}

/// What containers hand down.
struct Within<'a> {
    implicit_flatten: bool,
    depth: usize,
    observe: Observer<'a>,
}

impl Within<'_> {
    /// Traces a list of its own on `x`; an empty one is the identity.
    #[track_caller]
    fn inner(&mut self, s: &Scope, nodes: &[Node], x: &Tensor) -> Result<Tensor> {
        if nodes.is_empty() {
            return Ok(x.clone());
        }
        let mut list = List::new(&[("input".to_string(), x.clone())], self.implicit_flatten, self.depth + 1);
        let (last, y) = list.run(s, nodes, self.observe)?;
        list.check_all_read(Some(&last))?;
        Ok(y)
    }
}

/// The extent of axis `axis` where it is a number.
fn extent(x: &Tensor, axis: usize) -> Option<usize> {
    x.shape().dims().get(axis).and_then(|d| d.as_fixed())
}

/// The channels of an image with `n` spatial axes, with or without a batch axis; 1 where there are none, which the layer then refuses.
fn channels(x: &Tensor, n: usize) -> usize {
    x.rank().checked_sub(n + 1).and_then(|axis| extent(x, axis)).unwrap_or(1)
}

/// The last `n` extents; ones where they are missing, which the layer then refuses.
fn trailing(x: &Tensor, n: usize) -> Vec<usize> {
    let rank = x.rank();
    (0..n.clamp(1, 8)).map(|i| (rank + i).checked_sub(n).and_then(|axis| extent(x, axis)).unwrap_or(1)).collect()
}

/// One layer on its inputs.
#[track_caller]
fn apply(layer: &Layer, s: &Scope, xs: &[Tensor], name: &str, within: &mut Within) -> Result<Tensor> {
    let joins = matches!(layer, Layer::Concat(_) | Layer::Add(_) | Layer::Mul(_));
    let x = match xs {
        [x] => x,
        [x, ..] if joins => x,
        _ => return Err(config(format!("{name}: {} takes one input, got {}", layer.kind(), xs.len()))),
    };
    Ok(match layer {
        Layer::Linear(spec) => {
            let x = if within.implicit_flatten && x.rank() > 2 { flatten_first(x, within) } else { x.clone() };
            let n_in = x.rank().checked_sub(1).and_then(|last| extent(&x, last)).unwrap_or(1);
            nn::Linear::with(s, n_in, spec).forward(&x)
        }
        Layer::Conv1d(spec) => nn::Conv1d::with(s, channels(x, 1), spec).forward(x),
        Layer::Conv2d(spec) => nn::Conv2d::with(s, channels(x, 2), spec).forward(x),
        Layer::Conv3d(spec) => nn::Conv3d::with(s, channels(x, 3), spec).forward(x),
        Layer::ConvTranspose1d(spec) => nn::ConvTranspose1d::with(s, channels(x, 1), spec).forward(x),
        Layer::ConvTranspose2d(spec) => nn::ConvTranspose2d::with(s, channels(x, 2), spec).forward(x),
        Layer::ConvTranspose3d(spec) => nn::ConvTranspose3d::with(s, channels(x, 3), spec).forward(x),
        Layer::MaxPool1d(pool) => pool.forward(x),
        Layer::MaxPool2d(pool) => pool.forward(x),
        Layer::MaxPool3d(pool) => pool.forward(x),
        Layer::AvgPool1d(pool) => pool.forward(x),
        Layer::AvgPool2d(pool) => pool.forward(x),
        Layer::AvgPool3d(pool) => pool.forward(x),
        Layer::GlobalAvgPool(pool) => pool.forward(x),
        Layer::GlobalMaxPool(pool) => pool.forward(x),
        Layer::AdaptiveAvgPool1d(pool) => pool.forward(x),
        Layer::AdaptiveAvgPool2d(pool) => pool.forward(x),
        Layer::AdaptiveAvgPool3d(pool) => pool.forward(x),
        Layer::AdaptiveMaxPool1d(pool) => pool.forward(x),
        Layer::AdaptiveMaxPool2d(pool) => pool.forward(x),
        Layer::AdaptiveMaxPool3d(pool) => pool.forward(x),
        Layer::BatchNorm1d(spec) => nn::BatchNorm1d::with(s, extent(x, 1).unwrap_or(1), spec).forward(x),
        Layer::BatchNorm2d(spec) => nn::BatchNorm2d::with(s, extent(x, 1).unwrap_or(1), spec).forward(x),
        Layer::BatchNorm3d(spec) => nn::BatchNorm3d::with(s, extent(x, 1).unwrap_or(1), spec).forward(x),
        Layer::LayerNorm(spec) => nn::LayerNorm::with(s, trailing(x, spec.axes), spec).forward(x),
        Layer::GroupNorm(spec) => nn::GroupNorm::with(s, extent(x, 1).unwrap_or(1), spec).forward(x),
        Layer::InstanceNorm1d(spec) => nn::InstanceNorm1d::with(s, channels(x, 1), spec).forward(x),
        Layer::InstanceNorm2d(spec) => nn::InstanceNorm2d::with(s, channels(x, 2), spec).forward(x),
        Layer::InstanceNorm3d(spec) => nn::InstanceNorm3d::with(s, channels(x, 3), spec).forward(x),
        Layer::RmsNorm(spec) => nn::RmsNorm::with(s, trailing(x, spec.axes), spec).forward(x),
        Layer::Normalize(spec) => nn::Normalize::new(s, spec).forward(x),
        Layer::Dropout(spec) => nn::Dropout::with(s, spec).forward(x),
        Layer::Embedding(spec) => nn::Embedding::with(s, spec).forward(x),
        Layer::Flatten(flatten) => flatten.forward(x),
        Layer::Reshape(reshape) => reshape.forward(x),
        Layer::Permute(permute) => permute.forward(x),
        Layer::Unsqueeze(unsqueeze) => unsqueeze.forward(x),
        Layer::ZeroPad2d(pad) => pad.forward(x),
        Layer::Relu(f) => f.forward(x),
        Layer::LeakyRelu(f) => f.forward(x),
        Layer::Prelu(spec) => {
            let n = if spec.per_channel { extent(x, 1).unwrap_or(1) } else { 1 };
            nn::Prelu::with(s, n, spec).forward(x)
        }
        Layer::Elu(f) => f.forward(x),
        Layer::Selu(f) => f.forward(x),
        Layer::Gelu(f) => f.forward(x),
        Layer::Silu(f) => f.forward(x),
        Layer::Mish(f) => f.forward(x),
        Layer::Hardswish(f) => f.forward(x),
        Layer::Softplus(f) => f.forward(x),
        Layer::Sigmoid(f) => f.forward(x),
        Layer::Tanh(f) => f.forward(x),
        Layer::Softmax(f) => f.forward(x),
        Layer::LogSoftmax(f) => f.forward(x),
        Layer::Sequential(inner) => within.inner(s, &inner.layers, x)?,
        Layer::Residual(inner) => {
            let body = within.inner(&s.sub("body"), &inner.body, x)?;
            let shortcut = within.inner(&s.sub("shortcut"), &inner.shortcut, x)?;
            add(
                s,
                &[body, shortcut],
                "add a shortcut (a 1x1 convolution with the stride of the body) that gives the body's shape",
            )
        }
        Layer::Branches(inner) => {
            let mut results = Vec::new();
            for (i, branch) in inner.branches.iter().enumerate() {
                results.push(within.inner(&s.sub(i.to_string()), branch, x)?);
            }
            match (results.is_empty(), inner.join) {
                (true, _) => return Err(config(format!("{name}: need at least one branch"))),
                (false, Join::Concat { axis }) => concat(&results, axis),
                (false, Join::Add) => add(s, &results, "give the branches one shape, or join them by concat"),
            }
        }
        Layer::Concat(join) => concat(xs, join.axis),
        Layer::Add(_) => add(s, xs, "add takes tensors of one shape"),
        Layer::Mul(_) => mul(s, xs),
    })
}

/// The implicit adapter before a `Linear`, shown as a row of its own.
#[track_caller]
fn flatten_first(x: &Tensor, within: &mut Within) -> Tensor {
    let flat = nn::Flatten::new().forward(x);
    let first_slot = x.graph().borrow().slots.len();
    (within.observe)(within.depth, "(implicit)", "flatten", &flat, first_slot);
    flat
}

#[track_caller]
fn concat(xs: &[Tensor], axis: i64) -> Tensor {
    xs[0].concat(&xs[1..], axis)
}

#[track_caller]
fn add(s: &Scope, xs: &[Tensor], help: &str) -> Tensor {
    if let Err(placeholder) = need_one_shape(s, "Add", xs, help) {
        return placeholder;
    }
    let mut sum = xs[0].clone();
    for x in &xs[1..] {
        sum = sum + x;
    }
    sum
}

#[track_caller]
fn mul(s: &Scope, xs: &[Tensor]) -> Tensor {
    if let Err(placeholder) = need_one_shape(s, "Mul", xs, "mul takes tensors of one shape") {
        return placeholder;
    }
    let mut product = xs[0].clone();
    for x in &xs[1..] {
        product = product * x;
    }
    product
}

/// Broadcasting would silently adapt a shape, so operands must be equal.
#[track_caller]
fn need_one_shape(s: &Scope, layer: &'static str, xs: &[Tensor], help: &str) -> std::result::Result<(), Tensor> {
    let shape = xs[0].shape();
    match xs.iter().find(|x| x.shape() != shape) {
        None => Ok(()),
        Some(x) => {
            let message = format!("need tensors of one shape, got {shape} and {}", x.shape());
            Err(nn::Place::new(s, layer).refuse(x, message, help))
        }
    }
}
