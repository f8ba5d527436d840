//! Down when a number stops improving.

use super::{Clock, Schedule};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{DType, Init, Shape, Tensor};

/// The slots that [`crate::Step::report`] writes: the newest value of the watched number, and 1 until a step has looked at it.
pub(crate) const REPORTED: [&str; 2] = ["plateau/reported", "plateau/pending"];

/// The base rate times `factor` each time that more than `patience` reports in a row were no improvement, but not below `min`.
///
/// [`crate::Step::report`] hands over a number, and the next step looks at it once; everything else happens on the device. A trainer reports
/// after each epoch. After a reduction, `cooldown` reports do not count. Matches PyTorch `lr_scheduler.ReduceLROnPlateau`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plateau {
    /// Whether more is better.
    pub rises: bool,
    /// What a reduction multiplies the rate by, between 0 and 1; 0.1 by default.
    pub factor: f64,
    /// Reports in a row without improvement that are borne; the next one lowers the rate. 10 by default.
    pub patience: u32,
    /// `Rel(1e-4)` by default.
    pub threshold: Threshold,
    /// Reports after a reduction that do not count as bad, whatever they say; 0 by default.
    pub cooldown: u32,
    /// The lowest rate.
    pub min: f64,
    /// A reduction of the rate by no more than this is left out.
    pub eps: f64,
}

/// How much better than the best a number must be to count: a share of the best, or a difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threshold {
    /// Below `best·(1 - x)`, or above `best·(1 + x)` where more is better. Not for numbers below 0, whose bound lies on the wrong side.
    Rel(f64),
    /// Below `best - x`, or above `best + x` where more is better, in the number's own unit.
    Abs(f64),
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold::Rel(1e-4)
    }
}

impl Plateau {
    /// For a loss: to a tenth after more than 10 reports without improvement.
    pub fn new() -> Plateau {
        Plateau {
            rises: false,
            factor: 0.1,
            patience: 10,
            threshold: Threshold::default(),
            cooldown: 0,
            min: 0.0,
            eps: 1e-8,
        }
    }

    fn is_better(&self, value: &Tensor, best: &Tensor) -> Tensor {
        match (self.rises, self.threshold) {
            (false, Threshold::Rel(x)) => value.less(best * (1.0 - x)),
            (false, Threshold::Abs(x)) => value.less(best - x),
            (true, Threshold::Rel(x)) => value.greater(best * (1.0 + x)),
            (true, Threshold::Abs(x)) => value.greater(best + x),
        }
    }

    fn lowered(&self, base: &Tensor, scale: &Tensor) -> Tensor {
        // The base rate itself may lie below the lowest.
        (base * scale).maximum(base.minimum(self.min))
    }
}

impl Default for Plateau {
    fn default() -> Plateau {
        Plateau::new()
    }
}

/// A scalar that the schedule remembers.
fn slot(clock: &Clock, name: &str, init: f64) -> Tensor {
    clock.scope.scalar(name, DType::F32, Shape::scalar(), Init::Const(init))
}

impl Schedule for Plateau {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        self.lowered(base, &self.scale(base, clock).1)
    }

    fn advance(&self, base: &Tensor, clock: &Clock) {
        let home = clock.scope;
        let State { is_new, best, bad, cooldown } = self.look(clock);
        let is_due = bad.greater(f64::from(self.patience));
        let keep = |name: &str, init: f64, new: &Tensor| {
            let slot = slot(clock, name, init);
            home.update(&slot, &is_new.select(new, &slot));
        };
        keep("plateau/best", self.worst(), &best);
        keep("plateau/bad_reports", 0.0, &is_due.select(0.0, &bad));
        keep("plateau/cooldown", 0.0, &is_due.select(f64::from(self.cooldown), &cooldown));
        let (old, scale) = self.scale(base, clock);
        home.update(&old, &scale);
        let pending = slot(clock, REPORTED[1], 0.0);
        home.update(&pending, &pending.full_like(0.0));
    }
}

/// What a report makes of the counters, before a reduction.
struct State {
    is_new: Tensor,
    best: Tensor,
    bad: Tensor,
    cooldown: Tensor,
}

impl Plateau {
    /// What anything is better than.
    fn worst(&self) -> f64 {
        if self.rises { f64::NEG_INFINITY } else { f64::INFINITY }
    }

    fn look(&self, clock: &Clock) -> State {
        let value = slot(clock, REPORTED[0], 0.0);
        let is_new = slot(clock, REPORTED[1], 0.0).equal(1.0);
        let best = slot(clock, "plateau/best", self.worst());
        let bad = slot(clock, "plateau/bad_reports", 0.0);
        let cooldown = slot(clock, "plateau/cooldown", 0.0);
        let is_better = self.is_better(&value, &best);
        let rests = cooldown.greater(0.0);
        let bad = is_better.or(&rests).select(0.0, &bad + 1.0);
        State { is_new, best: is_better.select(&value, &best), bad, cooldown: (&cooldown - 1.0).maximum(0.0) }
    }

    /// The slot of the factor on the base rate, and what it holds after this step.
    fn scale(&self, base: &Tensor, clock: &Clock) -> (Tensor, Tensor) {
        let State { is_new, bad, .. } = self.look(clock);
        let old = slot(clock, "plateau/scale", 1.0);
        let less = &old * self.factor;
        let matters = (self.lowered(base, &old) - self.lowered(base, &less)).greater(self.eps);
        let is_due = is_new.and(bad.greater(f64::from(self.patience))).and(&matters);
        let new = is_due.select(&less, &old);
        (old, new)
    }
}
