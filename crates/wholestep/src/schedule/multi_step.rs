//! Down by a factor at given steps.

use super::{Clock, Schedule};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// The base rate times `gamma` for each milestone that was reached. Matches PyTorch `lr_scheduler.MultiStepLR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiStep {
    /// In steps.
    pub milestones: Vec<u64>,
    /// The factor at each milestone, >= 0; 0.1 by default.
    #[serde(default = "gamma")]
    pub gamma: f64,
}

fn gamma() -> f64 {
    0.1
}

impl MultiStep {
    /// To a tenth at each of `milestones`.
    pub fn new(milestones: impl Into<Vec<u64>>) -> MultiStep {
        MultiStep { milestones: milestones.into(), gamma: gamma() }
    }
}

impl Schedule for MultiStep {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let lower = |rate: Tensor, &at: &u64| clock.count.greater_equal(at as f64).select(&rate * self.gamma, &rate);
        self.milestones.iter().fold(base.clone(), lower)
    }
}
