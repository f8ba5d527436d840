//! Schedules as data. Takes variants with typed options, gives what a step is compiled with. Never keeps a default of its own: those of the
//! schedules hold.

use super::{
    Anneal, Chained, Constant, CosineAnnealing, CosineWarmRestarts, Cycle, Cyclic, Exponential, InverseSqrt, Linear,
    MultiStep, OneCycle, PerEpoch, Plateau, Polynomial, Schedule, Sequential, StepDecay, Threshold, Warmup, Wsd,
};
use crate::Result;
use crate::error::need;
use crate::train::Metric;
use serde::{Deserialize, Serialize};

/// How long a run is, in updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLength {
    /// Updates of the whole run, all epochs together; what a length that is left out stands for.
    pub steps: u64,
    /// Updates of one epoch, which `per_epoch` counts by.
    pub steps_per_epoch: u64,
}

/// Which schedule. In files `type` names the variant. A length that is left out is that of the run, in epochs within `per_epoch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleSpec {
    /// Always the base rate.
    Constant {},
    /// [`StepDecay`].
    Step(StepDecay),
    /// [`MultiStep`].
    MultiStep(MultiStep),
    /// [`Exponential`].
    Exponential(Exponential),
    /// [`CosineAnnealing`].
    Cosine {
        /// Absent: those of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// The rate at the end.
        #[serde(default)]
        min: f64,
    },
    /// [`CosineWarmRestarts`].
    CosineWarmRestarts(CosineWarmRestarts),
    /// [`Linear`].
    Linear {
        /// Absent: those of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// Of the base rate at step 0; 1 by default.
        #[serde(default = "one")]
        start_factor: f64,
        /// Of the base rate at the end; 0 by default.
        #[serde(default)]
        end_factor: f64,
    },
    /// [`Polynomial`].
    Polynomial {
        /// Absent: those of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// 1, a line, by default.
        #[serde(default = "one")]
        power: f64,
        /// The rate at the end; 0 by default.
        #[serde(default)]
        min: f64,
    },
    /// [`Warmup`].
    Warmup {
        /// Updates of the way up, at least 1.
        steps: u64,
        /// Of the base rate at step 0; 0 by default.
        #[serde(default)]
        start_factor: f64,
        /// Absent: the base rate. A length that it leaves out is the rest of the run.
        #[serde(default)]
        then: Box<ScheduleSpec>,
    },
    /// [`OneCycle`].
    OneCycle {
        /// Absent: those of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// The share of the way up; 0.3 by default.
        #[serde(default = "pct_start")]
        pct_start: f64,
        /// "cos" by default, or "linear".
        #[serde(default)]
        anneal: Anneal,
        /// The lowest and the highest, from 0 to below 1. Absent: the momentum is not cycled; in PyTorch it is, from 0.85 to 0.95.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        momentum: Option<(f64, f64)>,
        /// Base rate by first rate; 25 by default.
        #[serde(default = "div_factor")]
        div_factor: f64,
        /// First rate by last rate; 1e4 by default.
        #[serde(default = "final_div_factor")]
        final_div_factor: f64,
        /// Whether a way down as long as the way up comes before the last one; not by default.
        #[serde(default)]
        three_phase: bool,
    },
    /// [`Cyclic`].
    Cyclic(Cyclic),
    /// [`InverseSqrt`].
    InverseSqrt(InverseSqrt),
    /// [`Wsd`].
    Wsd {
        /// Updates of the line up from 0; 0 leaves it out.
        warmup: u64,
        /// Absent: what the other two leave of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stable: Option<u64>,
        /// Updates of the way down, at least 1.
        decay: u64,
        /// The rate at the end; 0 by default.
        #[serde(default)]
        min: f64,
        /// "linear" by default, or "cos".
        #[serde(default = "line")]
        anneal: Anneal,
    },
    /// [`Sequential`].
    Sequential {
        /// Those before the last, in order.
        parts: Vec<Part>,
        /// A length that it leaves out is the rest of the run.
        last: Box<ScheduleSpec>,
    },
    /// [`Chained`].
    Chained {
        /// The first gets the base rate, each other one the rate of the one before.
        schedules: Vec<ScheduleSpec>,
    },
    /// [`PerEpoch`].
    PerEpoch {
        /// Its lengths are in epochs.
        schedule: Box<ScheduleSpec>,
    },
    /// [`Plateau`] on a number of each epoch.
    Plateau {
        /// Absent: the validation loss, or the training loss of a run without validation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metric: Option<Metric>,
        /// What a reduction multiplies the rate by, between 0 and 1; 0.1 by default.
        #[serde(default = "factor")]
        factor: f64,
        /// Epochs in a row without improvement that are borne; 10 by default.
        #[serde(default = "patience")]
        patience: u32,
        /// What counts as an improvement; `{ rel = 1e-4 }` by default.
        #[serde(default)]
        threshold: Threshold,
        /// Epochs after a reduction that do not count as bad; 0 by default.
        #[serde(default)]
        cooldown: u32,
        /// The lowest rate.
        #[serde(default)]
        min: f64,
        /// A reduction of the rate by no more than this is left out; 1e-8 by default.
        #[serde(default = "eps")]
        eps: f64,
    },
}

/// A schedule for a number of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Updates for which it runs, at least 1.
    pub steps: u64,
    /// Its time begins at 0; a length that it leaves out is `steps`.
    pub schedule: ScheduleSpec,
}

fn one() -> f64 {
    1.0
}

fn pct_start() -> f64 {
    OneCycle::new(1).pct_start
}

fn div_factor() -> f64 {
    OneCycle::new(1).div_factor
}

fn final_div_factor() -> f64 {
    OneCycle::new(1).final_div_factor
}

fn factor() -> f64 {
    Plateau::new().factor
}

fn patience() -> u32 {
    Plateau::new().patience
}

fn eps() -> f64 {
    Plateau::new().eps
}

fn line() -> Anneal {
    Anneal::Linear
}

impl Default for ScheduleSpec {
    fn default() -> ScheduleSpec {
        ScheduleSpec::Constant {}
    }
}

fn at_least_1(key: &str, n: u64) -> Result<()> {
    need(n > 0, key, "at least 1", &n)
}

fn not_negative(key: &str, x: f64) -> Result<()> {
    need(x >= 0.0 && x.is_finite(), key, "a finite number >= 0", &x)
}

fn positive(key: &str, x: f64) -> Result<()> {
    need(x > 0.0 && x.is_finite(), key, "a finite number > 0", &x)
}

fn momenta(range: Option<(f64, f64)>) -> Result<()> {
    let share = |m: f64| need((0.0..1.0).contains(&m), "momentum", "two numbers from 0 to below 1", &m);
    range.map_or(Ok(()), |(low, high)| share(low).and(share(high)))
}

impl ScheduleSpec {
    /// Errors (`ErrorKind::Config`): a number outside of its range, by name.
    pub fn check(&self) -> Result<()> {
        match self {
            ScheduleSpec::Constant {} => Ok(()),
            ScheduleSpec::Step(s) => at_least_1("size", s.size).and(positive("gamma", s.gamma)),
            ScheduleSpec::MultiStep(s) => not_negative("gamma", s.gamma),
            ScheduleSpec::Exponential(s) => positive("gamma", s.gamma),
            ScheduleSpec::Cosine { steps, min } => {
                not_negative("min", *min).and(at_least_1("steps", steps.unwrap_or(1)))
            }
            ScheduleSpec::CosineWarmRestarts(s) => {
                at_least_1("first", s.first)?;
                at_least_1("mult", s.mult)?;
                not_negative("min", s.min)
            }
            ScheduleSpec::Linear { steps, start_factor, end_factor } => {
                at_least_1("steps", steps.unwrap_or(1))?;
                not_negative("start_factor", *start_factor)?;
                not_negative("end_factor", *end_factor)
            }
            ScheduleSpec::Polynomial { steps, power, min } => {
                at_least_1("steps", steps.unwrap_or(1))?;
                positive("power", *power)?;
                not_negative("min", *min)
            }
            ScheduleSpec::Warmup { steps, start_factor, then } => {
                at_least_1("steps", *steps)?;
                not_negative("start_factor", *start_factor)?;
                then.check().map_err(|e| e.context("then"))
            }
            ScheduleSpec::OneCycle { steps, pct_start, momentum, div_factor, final_div_factor, .. } => {
                at_least_1("steps", steps.unwrap_or(1))?;
                need((0.0..=1.0).contains(pct_start), "pct_start", "a share from 0 to 1", pct_start)?;
                momenta(*momentum)?;
                positive("div_factor", *div_factor)?;
                positive("final_div_factor", *final_div_factor)
            }
            ScheduleSpec::Cyclic(s) => {
                positive("max", s.max)?;
                at_least_1("up", s.up)?;
                at_least_1("down", s.down)?;
                momenta(s.momentum)?;
                match s.mode {
                    Cycle::Triangular | Cycle::Triangular2 => Ok(()),
                    Cycle::ExpRange(gamma) => positive("mode.exp_range", gamma),
                }
            }
            ScheduleSpec::InverseSqrt(s) => at_least_1("warmup", s.warmup),
            ScheduleSpec::Wsd { decay, min, .. } => at_least_1("decay", *decay).and(not_negative("min", *min)),
            ScheduleSpec::Sequential { parts, last } => {
                for part in parts {
                    at_least_1("steps", part.steps)?;
                    part.schedule.check().map_err(|e| e.context("parts"))?;
                }
                last.check().map_err(|e| e.context("last"))
            }
            ScheduleSpec::Chained { schedules } => {
                schedules.iter().try_for_each(|s| s.check().map_err(|e| e.context("schedules")))
            }
            ScheduleSpec::PerEpoch { schedule } => schedule.check().map_err(|e| e.context("schedule")),
            ScheduleSpec::Plateau { factor, threshold, min, eps, .. } => {
                need(*factor > 0.0 && *factor < 1.0, "factor", "a number between 0 and 1", factor)?;
                let (Threshold::Rel(x) | Threshold::Abs(x)) = threshold;
                not_negative("threshold", *x)?;
                not_negative("min", *min)?;
                not_negative("eps", *eps)
            }
        }
    }

    /// The number that the run must report after each epoch: `None` for schedules that need none, `Some(None)` for what the run monitors.
    pub fn reports(&self) -> Option<Option<Metric>> {
        match self {
            ScheduleSpec::Plateau { metric, .. } => Some(*metric),
            ScheduleSpec::Warmup { then, .. } => then.reports(),
            ScheduleSpec::Sequential { parts, last } => {
                parts.iter().find_map(|p| p.schedule.reports()).or_else(|| last.reports())
            }
            ScheduleSpec::Chained { schedules } => schedules.iter().find_map(ScheduleSpec::reports),
            ScheduleSpec::PerEpoch { schedule } => schedule.reports(),
            ScheduleSpec::Constant {}
            | ScheduleSpec::Step(_)
            | ScheduleSpec::MultiStep(_)
            | ScheduleSpec::Exponential(_)
            | ScheduleSpec::Cosine { .. }
            | ScheduleSpec::CosineWarmRestarts(_)
            | ScheduleSpec::Linear { .. }
            | ScheduleSpec::Polynomial { .. }
            | ScheduleSpec::OneCycle { .. }
            | ScheduleSpec::Cyclic(_)
            | ScheduleSpec::InverseSqrt(_)
            | ScheduleSpec::Wsd { .. } => None,
        }
    }

    /// The schedule of a run of this length.
    pub fn schedule(&self, run: RunLength) -> Box<dyn Schedule> {
        let all = |steps: &Option<u64>| steps.unwrap_or(run.steps).max(1);
        let after = |steps: u64| RunLength { steps: run.steps.saturating_sub(steps), ..run };
        match self {
            ScheduleSpec::Constant {} => Box::new(Constant),
            ScheduleSpec::Step(s) => Box::new(*s),
            ScheduleSpec::MultiStep(s) => Box::new(s.clone()),
            ScheduleSpec::Exponential(s) => Box::new(*s),
            ScheduleSpec::Cosine { steps, min } => Box::new(CosineAnnealing { steps: all(steps), min: *min }),
            ScheduleSpec::CosineWarmRestarts(s) => Box::new(*s),
            ScheduleSpec::Linear { steps, start_factor, end_factor } => {
                Box::new(Linear { steps: all(steps), start_factor: *start_factor, end_factor: *end_factor })
            }
            ScheduleSpec::Polynomial { steps, power, min } => {
                Box::new(Polynomial { steps: all(steps), power: *power, min: *min })
            }
            ScheduleSpec::Warmup { steps, start_factor, then } => {
                let then = then.schedule(after(*steps));
                Box::new(Warmup { steps: *steps, start_factor: *start_factor, then })
            }
            ScheduleSpec::OneCycle {
                steps,
                pct_start,
                anneal,
                momentum,
                div_factor,
                final_div_factor,
                three_phase,
            } => Box::new(OneCycle {
                steps: all(steps),
                pct_start: *pct_start,
                anneal: *anneal,
                momentum: *momentum,
                div_factor: *div_factor,
                final_div_factor: *final_div_factor,
                three_phase: *three_phase,
            }),
            ScheduleSpec::Cyclic(s) => Box::new(*s),
            ScheduleSpec::InverseSqrt(s) => Box::new(*s),
            ScheduleSpec::Wsd { warmup, stable, decay, min, anneal } => {
                let stable = stable.unwrap_or(run.steps.saturating_sub(warmup + decay));
                Box::new(Wsd { warmup: *warmup, stable, decay: *decay, min: *min, anneal: *anneal })
            }
            ScheduleSpec::Sequential { parts, last } => {
                let total = parts.iter().map(|p| p.steps).sum();
                let of = |p: &Part| (p.schedule.schedule(RunLength { steps: p.steps, ..run }), p.steps);
                Box::new(Sequential::new(parts.iter().map(of).collect(), last.schedule(after(total))))
            }
            ScheduleSpec::Chained { schedules } => {
                Box::new(Chained::new(schedules.iter().map(|s| s.schedule(run)).collect()))
            }
            ScheduleSpec::PerEpoch { schedule } => {
                let per_epoch = run.steps_per_epoch.max(1);
                let epochs = RunLength { steps: run.steps / per_epoch, steps_per_epoch: 1 };
                Box::new(PerEpoch { steps_per_epoch: per_epoch, schedule: schedule.schedule(epochs) })
            }
            ScheduleSpec::Plateau { metric, factor, patience, threshold, cooldown, min, eps } => Box::new(Plateau {
                rises: metric.is_some_and(Metric::rises),
                factor: *factor,
                patience: *patience,
                threshold: *threshold,
                cooldown: *cooldown,
                min: *min,
                eps: *eps,
            }),
        }
    }
}
