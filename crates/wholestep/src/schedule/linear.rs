//! A line between two factors.

use super::{Clock, Schedule, line_between};
use wholestep_compiler::ir::Tensor;

/// The base rate times a factor that goes from `start_factor` to `end_factor` over `steps` steps and stays there.
///
/// Matches PyTorch `lr_scheduler.LinearLR` with `total_iters = steps`, whose default is to warm up, from 1/3 to 1; with both factors equal until the end,
/// `ConstantLR`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Updates from the first factor to the last, at least 1.
    pub steps: u64,
    /// Of the base rate at step 0; 1 by default, in PyTorch 1/3.
    pub start_factor: f64,
    /// Of the base rate from step `steps` on; 0 by default, in PyTorch 1.
    pub end_factor: f64,
}

impl Linear {
    /// From the base rate to 0.
    pub fn new(steps: u64) -> Linear {
        Linear { steps, start_factor: 1.0, end_factor: 0.0 }
    }
}

impl Schedule for Linear {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let [start, end] = [self.start_factor, self.end_factor].map(|f| clock.number(f));
        base * &line_between(&start, &end, &clock.share(self.steps))
    }
}
