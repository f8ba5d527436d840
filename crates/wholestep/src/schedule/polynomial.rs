//! A power of what is left.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// `min + (base - min)·(1 - step/steps)^power`, and `min` after `steps` steps. With `min` 0, matches PyTorch `lr_scheduler.PolynomialLR`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Polynomial {
    pub steps: u64,
    pub power: f64,
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
