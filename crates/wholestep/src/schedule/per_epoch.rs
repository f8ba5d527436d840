//! A schedule that moves once an epoch.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// `schedule` with epochs for steps: its time is `⌊step/steps_per_epoch⌋`.
#[derive(Debug)]
pub struct PerEpoch {
    /// Updates of an epoch; 0 counts as 1.
    pub steps_per_epoch: u64,
    /// Its lengths are in epochs; PyTorch's schedules, stepped once an epoch, are such.
    pub schedule: Box<dyn Schedule>,
}

impl PerEpoch {
    /// `schedule` counts epochs of `steps_per_epoch` updates.
    pub fn new(steps_per_epoch: u64, schedule: impl Schedule + 'static) -> PerEpoch {
        PerEpoch { steps_per_epoch, schedule: Box::new(schedule) }
    }
}

impl Schedule for PerEpoch {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        self.schedule.rate(base, &clock.every(self.steps_per_epoch))
    }

    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        self.schedule.momentum(&clock.every(self.steps_per_epoch))
    }

    fn cycles_momentum(&self) -> bool {
        self.schedule.cycles_momentum()
    }

    fn advance(&self, base: &Tensor, clock: &Clock) {
        self.schedule.advance(base, &clock.every(self.steps_per_epoch));
    }
}
