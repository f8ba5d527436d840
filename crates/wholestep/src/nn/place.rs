//! Where and what a layer is, for its errors. Takes a scope and a layer's name, gives messages that show the operand, its origin and a
//! way out, and parameters with initializers. Never does any maths.

use super::Initializer;
use std::panic::Location;
use wholestep_compiler::ir::op::{Leaf, Op};
use wholestep_compiler::ir::{BuildError, DType, Dim, Init, Loc, Scope, Shape, SlotKind, Tensor};

/// No axis, channel count or kernel of a layer may be larger: products of a few of them must fit 64 bits.
const MAX_SIZE: usize = 1 << 31;
/// No tensor of a layer may hold more elements per sample.
const MAX_ELEMENTS: u128 = 1 << 44;

/// A layer's name and place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub scope: Scope,
    pub layer: &'static str,
}

impl Place {
    pub fn new(scope: &Scope, layer: &'static str) -> Place {
        Place { scope: scope.clone(), layer }
    }

    /// Records that the layer cannot take `x` and gives a placeholder.
    #[track_caller]
    pub fn refuse(&self, x: &Tensor, message: impl Into<String>, help: impl Into<String>) -> Tensor {
        let scope = x.graph().borrow_mut().scope_index(self.scope.path());
        record(BuildError::new(self.layer, message).help(help), x, scope)
    }

    /// Records that the layer cannot be made as asked.
    #[track_caller]
    pub fn reject(&self, message: impl Into<String>, help: impl Into<String>) {
        let loc = Loc::from(Location::caller());
        let mut graph = self.scope.graph().borrow_mut();
        let scope = graph.scope_index(self.scope.path());
        let error = BuildError::new(self.layer, message).at(graph.position(scope, loc)).help(help);
        graph.fail(error);
    }

    /// Records an error unless each size is at least `least` and not absurd.
    #[track_caller]
    pub fn need_sizes(&self, least: usize, sizes: &[(&str, usize)]) -> bool {
        let wrong = sizes.iter().find(|(_, n)| *n < least || *n > MAX_SIZE);
        if let Some((name, n)) = wrong {
            let need = if *n < least { format!("at least {least}") } else { format!("at most {MAX_SIZE}") };
            self.reject(format!("need {name} of {need}, got {n}"), format!("check {name} where the layer is made"));
        }
        wrong.is_none()
    }

    /// Refuses `x` unless statistics are taken over two values or more: at once where their number is fixed, else each batch before it
    /// runs. `of` is what has them: "channel".
    #[track_caller]
    pub fn need_two_values(&self, x: &Tensor, values: Option<Dim>, of: &str) -> Result<(), Tensor> {
        let Some(values) = values else { return Ok(()) };
        let need = format!("more than one value per {of} to train");
        match (values.as_fixed(), usize::try_from(values.batch)) {
            (Some(0 | 1), _) => {
                let message = format!("need {need}, got {}", x.shape());
                Err(self.refuse(x, message, "use a larger batch or larger images"))
            }
            (None, Ok(per_row)) if per_row > 0 => {
                let missing = usize::try_from(2 - values.fixed).unwrap_or(0);
                self.scope.need_batch(missing.div_ceil(per_row), &format!("{} needs {need}", self.layer));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Records an error unless a norm's eps is a finite number >= 0.
    #[track_caller]
    pub fn need_eps(&self, eps: f64) {
        if !(eps >= 0.0 && eps.is_finite()) {
            self.reject(format!("need a finite eps >= 0, got {eps}"), "1e-5 is usual");
        }
    }

    /// Records an error unless there are axes to normalize and none is empty.
    #[track_caller]
    pub fn need_dims(&self, dims: &[usize]) {
        if dims.is_empty() {
            self.reject("need at least one axis to normalize, got none", "give the last extents of x: [c]");
        }
        let named: Vec<(&str, usize)> = dims.iter().map(|&n| ("each extent", n)).collect();
        self.need_sizes(1, &named);
    }

    /// Records an error unless a window has elements, moves, and is not absurd.
    #[track_caller]
    pub fn need_window(&self, kernel: &[usize], stride: &[usize], dilation: &[usize]) -> bool {
        let parts = [("a kernel", kernel), ("a stride", stride), ("a dilation", dilation)];
        let sizes: Vec<(&str, usize)> =
            parts.iter().flat_map(|(name, each)| each.iter().map(|&n| (*name, n))).collect();
        self.need_sizes(1, &sizes)
    }

    /// The parameters of a convolution: `weight` of `shape` and maybe `bias` of `c_out`, by default as PyTorch starts them.
    #[track_caller]
    pub fn weight_and_bias(
        &self,
        shape: &[usize],
        c_out: usize,
        has_bias: bool,
        weight_init: &Option<Initializer>,
        bias_init: &Option<Initializer>,
    ) -> (Tensor, Option<Tensor>) {
        let fan_in = shape[1..].iter().fold(1usize, |n, &d| n.saturating_mul(d));
        let weight = self.param("weight", shape, &weight_init.unwrap_or(Initializer::TORCH_WEIGHT));
        let bias_init = bias_init.unwrap_or(Initializer::torch_bias(fan_in));
        match has_bias {
            true => (weight, Some(self.param("bias", &[c_out], &bias_init))),
            false => (weight, None),
        }
    }

    /// A parameter that starts as `init` says.
    #[track_caller]
    pub fn param(&self, name: &str, shape: &[usize], init: &Initializer) -> Tensor {
        let elements = shape.iter().fold(1u128, |n, &d| n.saturating_mul(d as u128));
        if elements > MAX_ELEMENTS {
            self.reject(
                format!("{name} {shape:?} holds {elements} elements"),
                "no device holds that; check the layer's sizes",
            );
            return self.scope.param(name, [1usize], Init::Const(0.0));
        }
        let init = match init.resolve(shape) {
            Ok(init) => init,
            Err(why) => {
                self.reject(format!("{name}: {why}"), "choose another initializer for it");
                Init::Const(0.0)
            }
        };
        self.scope.slot(name, SlotKind::Param { trainable: true }, DType::F32, Shape::from(shape), init)
    }
}

/// Like [`Place::refuse`] for a layer without a scope of its own.
#[track_caller]
pub(crate) fn refuse(layer: &'static str, x: &Tensor, message: impl Into<String>, help: impl Into<String>) -> Tensor {
    let scope = x.scope_in(&x.graph().borrow());
    record(BuildError::new(layer, message).help(help), x, scope)
}

/// Records `error` about `x` at the caller's line and gives a placeholder.
#[track_caller]
fn record(error: BuildError, x: &Tensor, scope: u32) -> Tensor {
    let loc = Loc::from(Location::caller());
    let mut graph = x.graph().borrow_mut();
    let at = graph.position(scope, loc);
    let operands = vec![describe(&graph, x)];
    graph.fail(BuildError { operands, ..error.at(at) });
    let id = graph.placeholder(scope, loc);
    drop(graph);
    Tensor::from_node(x.graph().clone(), id)
}

/// "x [B, 784] f32  from input x   src/main.rs:12".
fn describe(graph: &wholestep_compiler::ir::Graph, x: &Tensor) -> String {
    let node = graph.node(x.id());
    let origin = match &node.op {
        Op::Leaf(Leaf::Slot { id, .. }) => graph.slot(*id).name.clone(),
        Op::Leaf(Leaf::Input { id, .. }) => format!("input {}", graph.inputs[id.0 as usize].name),
        op => match graph.scopes[node.scope as usize].as_str() {
            "" => op.name().to_string(),
            path => format!("{} in {path}", op.name()),
        },
    };
    format!("x {} {}  from {origin}   {}:{}", node.shape, node.dtype, node.loc.file, node.loc.line)
}

/// Whether tracing has failed already: then shapes are placeholders and nothing more can be said.
pub(crate) fn has_failed(x: &Tensor) -> bool {
    x.graph().borrow().error.is_some()
}

/// Whether an axis is exactly `n`.
pub(crate) fn is_extent(dim: Dim, n: usize) -> bool {
    dim == Dim::fixed(n)
}

/// Whether a tensor of these extents (per sample where they depend on the batch) is small enough to count its elements.
pub(crate) fn is_countable(dims: &[Dim]) -> bool {
    let elements = dims.iter().fold(1u128, |n, d| n.saturating_mul((d.batch.max(0) + d.fixed.max(0)) as u128));
    elements <= MAX_ELEMENTS
}
