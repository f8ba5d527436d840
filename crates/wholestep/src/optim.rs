//! Optimizers as Tensor maths inside of the step. Takes a parameter, its gradient and its state, gives the next of each. Never keeps
//! anything of its own: what an optimizer remembers is a slot.

mod adam;
mod sgd;

pub use adam::{Adam, AdamW};
pub use sgd::Sgd;

use wholestep_compiler::ir::{Scope, Tensor};

/// One tensor that an optimizer remembers for each parameter, of the parameter's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateSpec {
    /// "exp_avg", as in PyTorch's state_dict.
    pub name: &'static str,
    /// What it holds before the first step.
    pub init: f64,
}

/// What is the same for all parameters in a step.
pub struct StepScalars<'a> {
    pub scope: &'a Scope,
    /// The learning rate of this step, f32.
    pub lr: Tensor,
    /// The number of this step, counted from 1, f32.
    pub t: Tensor,
}

/// A rule that turns gradients into new parameters.
///
/// Shapes: parameter, gradient and all state have one shape. `update` is traced once per parameter and compiled into the step.
pub trait Optimizer {
    /// The learning rate that the step starts with.
    fn lr(&self) -> f64;

    /// What is remembered for each parameter.
    fn state(&self) -> Vec<StateSpec>;

    /// The new parameter and the new state, in the order of [`Optimizer::state`].
    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>);
}

/// `1 - base^t` without cancellation for bases next to 1.
pub(crate) fn bias_correction(base: f64, t: &Tensor) -> Tensor {
    -((t * base.ln()).expm1())
}
