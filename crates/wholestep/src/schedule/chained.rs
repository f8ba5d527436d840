//! Several schedules at once.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// The rate of each schedule is the base rate of the next: of schedules that multiply, the product.
///
/// Matches PyTorch `lr_scheduler.ChainedScheduler` of such schedules.
#[derive(Debug)]
pub struct Chained {
    schedules: Vec<Box<dyn Schedule>>,
}

impl Chained {
    /// From the first, which gets the optimizer's rate, to the last.
    pub fn new(schedules: Vec<Box<dyn Schedule>>) -> Chained {
        Chained { schedules }
    }
}

impl Schedule for Chained {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        self.schedules.iter().fold(base.clone(), |rate, schedule| schedule.rate(&rate, clock))
    }

    /// The first that there is.
    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        self.schedules.iter().find_map(|schedule| schedule.momentum(clock))
    }

    fn cycles_momentum(&self) -> bool {
        self.schedules.iter().any(|schedule| schedule.cycles_momentum())
    }

    fn advance(&self, base: &Tensor, clock: &Clock) {
        self.schedules.iter().for_each(|schedule| schedule.advance(base, clock));
    }
}
