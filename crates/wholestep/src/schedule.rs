//! Learning-rate schedules as Tensor maths of the step number. Takes the base rate and the number of completed steps, gives the rate of this
//! step. Never runs on the host: a schedule is a few scalar ops of the compiled step.

mod constant;
mod cosine;

pub use constant::Constant;
pub use cosine::CosineAnnealing;

use wholestep_compiler::ir::Tensor;

/// A learning rate as a function of time.
pub trait Schedule {
    /// The rate of a step. `base` (f32) is what [`crate::Step::set_lr`] sets; `step` (f32) counts completed steps from 0.
    fn rate(&self, base: &Tensor, step: &Tensor) -> Tensor;
}
