//! A power of what is left.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// `min + (base - min)·(1 - step/steps)^power`, and `min` after `steps` steps. With `min` 0, matches PyTorch `lr_scheduler.PolynomialLR`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Polynomial {
    /// Updates from the base rate to `min`, at least 1; PyTorch's `total_iters`.
    pub steps: u64,
    /// 1 is a line; > 0.
    pub power: f64,
    /// The rate from step `steps` on, an absolute one; 0 by default.
    pub min: f64,
}

impl Polynomial {
    /// Down to 0.
    pub fn new(steps: u64, power: f64) -> Polynomial {
        Polynomial { steps, power, min: 0.0 }
    }
}

impl Schedule for Polynomial {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let left = -&(&clock.share(self.steps) - 1.0);
        &(&(base - self.min) * &left.pow(self.power)) + self.min
    }
}
