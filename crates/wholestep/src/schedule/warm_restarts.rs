//! Half a cosine down, again and again.

use super::{Clock, Schedule};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// Half a cosine from the base rate to `min` over `first` steps, then anew over `first·mult` steps, and so on.
///
/// Paper: Loshchilov, Hutter 2016, arXiv:1608.03983. Matches PyTorch `lr_scheduler.CosineAnnealingWarmRestarts` with `T_0 = first`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosineWarmRestarts {
    /// In steps, at least 1.
    pub first: u64,
    /// How many times as long a period is as the one before, at least 1; 1 by default. PyTorch's `T_mult`.
    #[serde(default = "mult")]
    pub mult: u64,
    /// The rate that each period goes down to, an absolute one; 0 by default. PyTorch's `eta_min`.
    #[serde(default)]
    pub min: f64,
}

fn mult() -> u64 {
    1
}

impl CosineWarmRestarts {
    /// Periods of `first` steps, down to 0.
    pub fn new(first: u64) -> CosineWarmRestarts {
        CosineWarmRestarts { first, mult: mult(), min: 0.0 }
    }
}

impl Schedule for CosineWarmRestarts {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let first = self.first.max(1);
        let share = if self.mult <= 1 {
            &Clock::new(clock.scope, &clock.count.remainder(first as f64)).step / first as f64
        } else {
            // Periods grow so fast that all that begin within 2^31 steps can be listed: a logarithm would round at their ends.
            let (mut start, mut length) = (0u64, first);
            let mut share = &clock.step / first as f64;
            while start + length < 1 << 31 {
                (start, length) = (start + length, length * self.mult);
                let in_it = &clock.since(start).step / length as f64;
                share = clock.count.greater_equal(start as f64).select(&in_it, &share);
            }
            share
        };
        let half = (&(&share * std::f64::consts::PI).cos() + 1.0) * 0.5;
        &(&(base - self.min) * &half) + self.min
    }
}
