//! Down by a factor each step.

use super::{Clock, Schedule, power};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// `base·gamma^step`. Matches PyTorch `lr_scheduler.ExponentialLR`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exponential {
    /// More than 0.
    pub gamma: f64,
}

impl Exponential {
    /// `gamma`, > 0, is the factor from one update to the next; within [`PerEpoch`](super::PerEpoch) from one epoch to the next.
    pub fn new(gamma: f64) -> Exponential {
        Exponential { gamma }
    }
}

impl Schedule for Exponential {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        base * &power(self.gamma, &clock.step)
    }
}
