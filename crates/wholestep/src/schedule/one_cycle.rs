//! Up once and down for the rest of the run.

use super::{Clock, Schedule, cosine_between, line_between};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// From `base/div_factor` up to the base rate and down to `base/div_factor/final_div_factor`, where it stays; the base rate is
/// PyTorch's `max_lr`.
///
/// The way up takes `pct_start` of `steps`. With `three_phase`, the way down ends at where the way up began and the rest goes to the end. A
/// momentum range is gone through the other way round. Matches PyTorch `lr_scheduler.OneCycleLR`.
/// Paper: Smith, Topin 2017, arXiv:1708.07120.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneCycle {
    /// Updates of the whole cycle; fewer than 2 count as 2. PyTorch's `total_steps`.
    pub steps: u64,
    /// The share of `steps` that the way up takes, 0 to 1; 0.3 by default.
    pub pct_start: f64,
    /// The form of each phase; cosines by default, as in PyTorch.
    pub anneal: Anneal,
    /// The lowest and the highest momentum; PyTorch's default is 0.85 and 0.95, and here it is not to cycle it.
    pub momentum: Option<(f64, f64)>,
    /// The first rate is the base rate divided by this; > 0, 25 by default.
    pub div_factor: f64,
    /// The last rate is the first one divided by this; > 0, 1e4 by default.
    pub final_div_factor: f64,
    /// Whether the way down is as long as the way up and a third phase goes on to the last rate; not by default.
    pub three_phase: bool,
}

/// How a phase goes from one value to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anneal {
    /// Half a cosine: `(1 - cos(π·share))/2` of the way.
    #[default]
    Cos,
    /// A line.
    Linear,
}

impl OneCycle {
    /// Up for 0.3 of `steps`, from a 25th, down to a 250,000th, by cosines.
    pub fn new(steps: u64) -> OneCycle {
        OneCycle {
            steps,
            pct_start: 0.3,
            anneal: Anneal::Cos,
            momentum: None,
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        }
    }

    /// Goes through the values at the ends of phases: `initial`, `peak`, `last`.
    fn through(&self, initial: &Tensor, peak: &Tensor, last: &Tensor, clock: &Clock) -> Tensor {
        let steps = self.steps.max(2) as f64;
        let (first_end, last_end) = (self.pct_start * steps - 1.0, steps - 1.0);
        let phases = match self.three_phase {
            true => vec![
                (first_end, initial, peak),
                (2.0 * self.pct_start * steps - 2.0, peak, initial),
                (last_end, initial, last),
            ],
            false => vec![(first_end, initial, peak), (last_end, peak, last)],
        };
        let mut start = 0.0;
        let mut parts = Vec::new();
        for (end, from, to) in phases {
            // A phase without length is over before it begins.
            let length = if end > start { end - start } else { 1.0 };
            let share = (&(&clock.step - start) / length).maximum(0.0).minimum(1.0);
            let value = match self.anneal {
                Anneal::Cos => cosine_between(from, to, &share),
                Anneal::Linear => line_between(from, to, &share),
            };
            parts.push((end, value));
            start = end;
        }
        let last = parts.pop().expect("bug: there are phases").1;
        parts.into_iter().rev().fold(last, |later, (end, value)| clock.step.less_equal(end).select(&value, &later))
    }
}

impl Schedule for OneCycle {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let initial = base / self.div_factor;
        self.through(&initial, base, &(&initial / self.final_div_factor), clock)
    }

    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        let (low, high) = self.momentum?;
        let [low, high] = [low, high].map(|m| clock.number(m));
        Some(self.through(&high, &low, &high, clock))
    }

    fn cycles_momentum(&self) -> bool {
        self.momentum.is_some()
    }
}
