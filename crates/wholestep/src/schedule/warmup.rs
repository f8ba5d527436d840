//! A line up before another schedule.

use super::{Clock, Schedule, line_between};
use wholestep_compiler::ir::Tensor;

/// From `start_factor·base` to the base rate over `steps` steps, then `then`, for which time begins there.
///
/// Matches PyTorch `SequentialLR([LinearLR(start_factor, total_iters = steps), then], milestones = [steps])`.
#[derive(Debug)]
pub struct Warmup {
    /// Updates of the way up; the one after them has the base rate and is the first of `then`.
    pub steps: u64,
    /// Of the base rate at step 0; 0 by default, so that the first update changes nothing. PyTorch's `LinearLR` begins at 1/3.
    pub start_factor: f64,
    /// What follows; its step 0 is step `steps`.
    pub then: Box<dyn Schedule>,
}

impl Warmup {
    /// From 0 to the base rate, and `then`.
    pub fn new(steps: u64, then: impl Schedule + 'static) -> Warmup {
        Warmup { steps, start_factor: 0.0, then: Box::new(then) }
    }
}

impl Schedule for Warmup {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let factor = line_between(&clock.number(self.start_factor), &clock.number(1.0), &clock.share(self.steps));
        let then = self.then.rate(base, &clock.since(self.steps));
        clock.count.less(self.steps as f64).select(base * &factor, &then)
    }

    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        self.then.momentum(&clock.since(self.steps))
    }

    fn cycles_momentum(&self) -> bool {
        self.then.cycles_momentum()
    }

    fn advance(&self, base: &Tensor, clock: &Clock) {
        self.then.advance(base, &clock.since(self.steps));
    }
}
