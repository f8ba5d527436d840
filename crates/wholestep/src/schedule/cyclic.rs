//! Up and down between two rates.

use super::{Clock, Schedule, power};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// A line from the base rate up to `max` over `up` steps, down over `down` steps, and again; [`Cycle`] says how the height shrinks.
///
/// A momentum range is gone through the other way round. Matches PyTorch `lr_scheduler.CyclicLR`.
/// Paper: Smith 2015, arXiv:1506.01186.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cyclic {
    /// The highest rate, an absolute one, > 0; PyTorch's `max_lr`.
    pub max: f64,
    /// In steps, at least 1.
    pub up: u64,
    /// In steps, at least 1.
    pub down: u64,
    /// How the height of a cycle shrinks; `Triangular`, not at all, by default.
    #[serde(default)]
    pub mode: Cycle,
    /// The lowest and the highest momentum; absent: it is not cycled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<(f64, f64)>,
}

/// The height of a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cycle {
    /// All cycles alike.
    #[default]
    Triangular,
    /// Each half as high as the one before.
    Triangular2,
    /// Times this number, more than 0, at each step.
    ExpRange(f64),
}

impl Cyclic {
    /// Triangles of `2·up` steps.
    pub fn new(max: f64, up: u64) -> Cyclic {
        Cyclic { max, up, down: up, mode: Cycle::Triangular, momentum: None }
    }

    /// The height at a step, 0 to 1.
    fn height(&self, clock: &Clock) -> Tensor {
        let (up, down) = (self.up.max(1), self.down.max(1));
        let within = Clock::new(clock.scope, &clock.count.remainder((up + down) as f64)).step;
        let rising = &within / up as f64;
        let falling = &(-&(&within - (up + down) as f64)) / down as f64;
        let triangle = within.less_equal(up as f64).select(&rising, &falling);
        match self.mode {
            Cycle::Triangular => triangle,
            Cycle::Triangular2 => &triangle * &power(0.5, &clock.every(up + down).step),
            Cycle::ExpRange(gamma) => &triangle * &power(gamma, &clock.step),
        }
    }
}

impl Schedule for Cyclic {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        base + &(&(-&(base - self.max)) * &self.height(clock))
    }

    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        let (low, high) = self.momentum?;
        Some(&(&self.height(clock) * (low - high)) + high)
    }

    fn cycles_momentum(&self) -> bool {
        self.momentum.is_some()
    }
}
