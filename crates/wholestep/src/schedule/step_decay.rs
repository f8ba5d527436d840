//! Down by a factor every so many steps.

use super::{Clock, Schedule, power};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// `base·gamma^⌊step/size⌋`. Matches PyTorch `lr_scheduler.StepLR` with `step_size = size`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDecay {
    /// In steps, at least 1.
    pub size: u64,
    /// More than 0.
    #[serde(default = "gamma")]
    pub gamma: f64,
}

fn gamma() -> f64 {
    0.1
}

impl StepDecay {
    /// To a tenth every `size` steps.
    pub fn new(size: u64) -> StepDecay {
        StepDecay { size, gamma: gamma() }
    }
}

impl Schedule for StepDecay {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        base * &power(self.gamma, &clock.every(self.size).step)
    }
}
