//! Warm-up, stable, decay.

use super::{Anneal, Clock, Schedule, cosine_between, line_between};
use wholestep_compiler::ir::Tensor;

/// A line from 0 to the base rate over `warmup` steps, the base rate for `stable` steps, then down to `min` over `decay` steps, where it
/// stays.
///
/// Paper: Hu and others 2024, arXiv:2404.06395, section 4, with a line or a cosine at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wsd {
    /// Updates of the line up; the first of them has rate 0. 0 leaves it out.
    pub warmup: u64,
    /// Updates at the base rate.
    pub stable: u64,
    /// Updates of the way down, at least 1.
    pub decay: u64,
    /// The rate at the end, an absolute one; 0 by default.
    pub min: f64,
    /// The form of the way down; a line by default.
    pub anneal: Anneal,
}

impl Wsd {
    /// Down to 0 by a line.
    pub fn new(warmup: u64, stable: u64, decay: u64) -> Wsd {
        Wsd { warmup, stable, decay, min: 0.0, anneal: Anneal::Linear }
    }
}

impl Schedule for Wsd {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let share = clock.since(self.warmup + self.stable).share(self.decay);
        let min = clock.number(self.min);
        let down = match self.anneal {
            Anneal::Cos => cosine_between(base, &min, &share),
            Anneal::Linear => line_between(base, &min, &share),
        };
        clock.count.less(self.warmup as f64).select(base * &clock.share(self.warmup), &down)
    }
}
