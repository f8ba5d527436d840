//! Learning-rate schedules as Tensor maths of the number of updates. Takes the base rate and the clock of a step, gives the rate of this step.
//! Never runs on the host: a schedule is a few scalar ops of the compiled step.

mod chained;
mod constant;
mod cosine;
mod cyclic;
mod exponential;
mod inverse_sqrt;
mod lambda;
mod linear;
mod multi_step;
mod one_cycle;
mod per_epoch;
mod plateau;
mod polynomial;
mod sequential;
mod spec;
mod step_decay;
mod warm_restarts;
mod warmup;
mod wsd;

pub use chained::Chained;
pub use constant::Constant;
pub use cosine::CosineAnnealing;
pub use cyclic::{Cycle, Cyclic};
pub use exponential::Exponential;
pub use inverse_sqrt::InverseSqrt;
pub use lambda::Lambda;
pub use linear::Linear;
pub use multi_step::MultiStep;
pub use one_cycle::{Anneal, OneCycle};
pub use per_epoch::PerEpoch;
pub(crate) use plateau::REPORTED;
pub use plateau::{Plateau, Threshold};
pub use polynomial::Polynomial;
pub use sequential::Sequential;
pub use spec::{Part, RunLength, ScheduleSpec};
pub use step_decay::StepDecay;
pub use warm_restarts::CosineWarmRestarts;
pub use warmup::Warmup;
pub use wsd::Wsd;

use wholestep_compiler::ir::{DType, Scope, Tensor};

/// When a step is.
#[derive(Debug)]
pub struct Clock<'a> {
    /// The root of the program: for constants and for slots in which a schedule remembers.
    pub scope: &'a Scope,
    /// Updates before this one, from 0, f32.
    pub step: Tensor,
    /// The same, u32: for divisions, which are exact for it.
    pub count: Tensor,
}

impl<'a> Clock<'a> {
    /// The clock of a step after `count` (u32) updates.
    pub fn new(scope: &'a Scope, count: &Tensor) -> Clock<'a> {
        Clock { scope, step: count.cast(DType::F32), count: count.clone() }
    }

    /// The clock that begins to run after `start` updates.
    pub fn since(&self, start: u64) -> Clock<'a> {
        if start == 0 {
            return Clock { scope: self.scope, step: self.step.clone(), count: self.count.clone() };
        }
        Clock::new(self.scope, &(self.count.maximum(start as f64) - start as f64))
    }

    /// A clock that ticks every `every` updates.
    pub fn every(&self, every: u64) -> Clock<'a> {
        Clock::new(self.scope, &(&self.count / every.max(1) as f64))
    }

    /// How much of `steps` updates is over, 0 to 1.
    pub fn share(&self, steps: u64) -> Tensor {
        let steps = steps.max(1) as f64;
        self.step.minimum(steps) / steps
    }

    /// An f32 scalar.
    pub fn number(&self, value: f64) -> Tensor {
        self.scope.constant(value, DType::F32)
    }
}

/// A learning rate as a function of time.
pub trait Schedule {
    /// The rate of a step. `base` (f32) is what [`crate::Step::set_lr`] sets, or the base rate of a parameter group.
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor;

    /// The momentum (β1 of the Adam family) of a step, for schedules that cycle it.
    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        let _ = clock;
        None
    }

    /// Whether [`Schedule::momentum`] is there.
    fn cycles_momentum(&self) -> bool {
        false
    }

    /// Updates what the schedule itself remembers in slots; called once before [`Schedule::rate`], with the step's base rate.
    fn advance(&self, base: &Tensor, clock: &Clock) {
        let _ = (base, clock);
    }
}

impl std::fmt::Debug for dyn Schedule + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dyn Schedule")
    }
}

impl Schedule for Box<dyn Schedule> {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        (**self).rate(base, clock)
    }

    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        (**self).momentum(clock)
    }

    fn cycles_momentum(&self) -> bool {
        (**self).cycles_momentum()
    }

    fn advance(&self, base: &Tensor, clock: &Clock) {
        (**self).advance(base, clock);
    }
}

/// `from + (to - from)·(1 - cos(π·share))/2`.
fn cosine_between(from: &Tensor, to: &Tensor, share: &Tensor) -> Tensor {
    let up = (-&(&(share * std::f64::consts::PI).cos() - 1.0)) * 0.5;
    from + &(&(to - from) * &up)
}

/// `from + (to - from)·share`.
fn line_between(from: &Tensor, to: &Tensor, share: &Tensor) -> Tensor {
    from + &(&(to - from) * share)
}

/// `base^n`.
fn power(base: f64, n: &Tensor) -> Tensor {
    (n * base.ln()).exp()
}
