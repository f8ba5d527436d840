//! Optimizers, schedules and clipping as data. Takes variants with typed options, gives what a step is compiled with. Never keeps a
//! default of its own: those of `optim` and `schedule` hold.

use super::loss::need;
use crate::optim::{Adam, AdamW, Optimizer, Sgd, StateSpec, StepScalars};
use crate::schedule::{Constant, CosineAnnealing, Schedule};
use crate::{Clip, Result};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// Which optimizer, with its options. In files `type` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerSpec {
    /// [`Sgd`].
    Sgd {
        lr: f64,
        #[serde(default)]
        momentum: f64,
        #[serde(default)]
        dampening: f64,
        #[serde(default)]
        weight_decay: f64,
        #[serde(default)]
        nesterov: bool,
    },
    /// [`Adam`].
    Adam {
        lr: f64,
        #[serde(default = "betas")]
        betas: (f64, f64),
        #[serde(default = "eps")]
        eps: f64,
        #[serde(default)]
        weight_decay: f64,
    },
    /// [`AdamW`].
    AdamW {
        lr: f64,
        #[serde(default = "betas")]
        betas: (f64, f64),
        #[serde(default = "eps")]
        eps: f64,
        #[serde(default = "decay")]
        weight_decay: f64,
    },
}

fn betas() -> (f64, f64) {
    Adam::new(0.0).betas
}

fn eps() -> f64 {
    Adam::new(0.0).eps
}

fn decay() -> f64 {
    AdamW::new(0.0).weight_decay
}

impl OptimizerSpec {
    /// Plain descent.
    pub fn sgd(lr: f64) -> OptimizerSpec {
        OptimizerSpec::Sgd { lr, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }
    }

    /// Adam with its usual options.
    pub fn adam(lr: f64) -> OptimizerSpec {
        OptimizerSpec::Adam { lr, betas: betas(), eps: eps(), weight_decay: 0.0 }
    }

    /// AdamW with its usual options.
    pub fn adamw(lr: f64) -> OptimizerSpec {
        OptimizerSpec::AdamW { lr, betas: betas(), eps: eps(), weight_decay: decay() }
    }

    /// Errors (`ErrorKind::Config`): a rate, decay or beta outside of its range, by name.
    pub fn check(&self) -> Result<()> {
        let at_least_0 = |key: &str, x: f64| need(x >= 0.0 && x.is_finite(), key, "a finite number >= 0", &x);
        let rate = |lr: f64| need(lr > 0.0 && lr.is_finite(), "lr", "a finite number > 0", &lr);
        match self {
            OptimizerSpec::Sgd { lr, momentum, dampening, weight_decay, nesterov } => {
                rate(*lr)?;
                at_least_0("momentum", *momentum)?;
                need(dampening.is_finite(), "dampening", "a finite number", dampening)?;
                at_least_0("weight_decay", *weight_decay)?;
                let possible = !nesterov || (*momentum > 0.0 && *dampening == 0.0);
                need(possible, "nesterov", "momentum > 0 and dampening 0 with it", nesterov)
            }
            OptimizerSpec::Adam { lr, betas, eps, weight_decay }
            | OptimizerSpec::AdamW { lr, betas, eps, weight_decay } => {
                rate(*lr)?;
                for beta in [betas.0, betas.1] {
                    need((0.0..1.0).contains(&beta), "betas", "numbers from 0 to below 1", &beta)?;
                }
                at_least_0("eps", *eps)?;
                at_least_0("weight_decay", *weight_decay)
            }
        }
    }

    fn rule(&self) -> Box<dyn Optimizer> {
        match *self {
            OptimizerSpec::Sgd { lr, momentum, dampening, weight_decay, nesterov } => {
                Box::new(Sgd { lr, momentum, dampening, weight_decay, nesterov })
            }
            OptimizerSpec::Adam { lr, betas, eps, weight_decay } => Box::new(Adam { lr, betas, eps, weight_decay }),
            OptimizerSpec::AdamW { lr, betas, eps, weight_decay } => Box::new(AdamW { lr, betas, eps, weight_decay }),
        }
    }
}

impl Optimizer for OptimizerSpec {
    fn lr(&self) -> f64 {
        self.rule().lr()
    }

    fn state(&self) -> Vec<StateSpec> {
        self.rule().state()
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        self.rule().update(p, g, state, step)
    }
}

/// Which schedule. In files `type` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleSpec {
    /// Always the base rate.
    Constant {},
    /// [`CosineAnnealing`].
    Cosine {
        /// Over how many steps; absent: all steps of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// The rate at the end.
        #[serde(default)]
        min: f64,
    },
}

impl Default for ScheduleSpec {
    fn default() -> ScheduleSpec {
        ScheduleSpec::Constant {}
    }
}

impl ScheduleSpec {
    /// Errors (`ErrorKind::Config`): a number outside of its range, by name.
    pub fn check(&self) -> Result<()> {
        match self {
            ScheduleSpec::Constant {} => Ok(()),
            ScheduleSpec::Cosine { steps, min } => {
                need(*min >= 0.0 && min.is_finite(), "min", "a finite number >= 0", min)?;
                let n = steps.unwrap_or(1);
                need(n > 0, "steps", "at least 1", &n)
            }
        }
    }

    /// The schedule of a run of `all_steps` steps.
    pub(crate) fn schedule(&self, all_steps: u64) -> Box<dyn Schedule> {
        match self {
            ScheduleSpec::Constant {} => Box::new(Constant),
            ScheduleSpec::Cosine { steps, min } => {
                Box::new(CosineAnnealing { steps: steps.unwrap_or(all_steps).max(1), min: *min })
            }
        }
    }
}

/// [`Clip`] as data: `clip = { norm = 1.0 }` or `clip = { value = 0.5 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipSpec {
    Norm(f64),
    Value(f64),
}

impl ClipSpec {
    /// Errors (`ErrorKind::Config`): a limit that is not a finite number > 0.
    pub fn check(self) -> Result<()> {
        let (ClipSpec::Norm(limit) | ClipSpec::Value(limit)) = self;
        need(limit > 0.0 && limit.is_finite(), "clip", "a finite number > 0", &limit)
    }

    pub(crate) fn clip(self) -> Clip {
        match self {
            ClipSpec::Norm(norm) => Clip::GlobalNorm(norm),
            ClipSpec::Value(limit) => Clip::Value(limit),
        }
    }
}
