//! Half a cosine down.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// `min + (base - min)·(1 + cos(π·step/steps))/2`: from the base rate at step 0 to `min` at step `steps`, and up again after it.
///
/// Paper: Loshchilov, Hutter 2016, arXiv:1608.03983, without restarts. Matches the closed form of PyTorch
/// `lr_scheduler.CosineAnnealingLR` with `T_max = steps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineAnnealing {
    /// Updates from the base rate to `min`, at least 1; PyTorch's `T_max`.
    pub steps: u64,
    /// The rate at step `steps`, an absolute one; 0 by default. PyTorch's `eta_min`.
    pub min: f64,
}

impl CosineAnnealing {
    /// Down to 0 over `steps` steps.
    pub fn new(steps: u64) -> CosineAnnealing {
        CosineAnnealing { steps, min: 0.0 }
    }

    /// The rate at the end.
    pub fn min(self, min: f64) -> CosineAnnealing {
        CosineAnnealing { min, ..self }
    }
}

impl Schedule for CosineAnnealing {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let half = (&(&clock.step * (std::f64::consts::PI / self.steps.max(1) as f64)).cos() + 1.0) * 0.5;
        &(&(base - self.min) * &half) + self.min
    }
}
