//! A schedule in the user's words.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// `base·f(step)`, f being Tensor maths of the number of steps (f32, from 0): `Lambda(|step| (step * -0.01).exp())`.
///
/// Matches PyTorch `lr_scheduler.LambdaLR`.
pub struct Lambda<F: Fn(&Tensor) -> Tensor>(pub F);

impl<F: Fn(&Tensor) -> Tensor> std::fmt::Debug for Lambda<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lambda")
    }
}

impl<F: Fn(&Tensor) -> Tensor> Schedule for Lambda<F> {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        base * &(self.0)(&clock.step)
    }
}
