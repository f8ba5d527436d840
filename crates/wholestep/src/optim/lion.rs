//! Lion.

use super::{Factor, Optimizer, StateSpec, StepScalars, check_not_negative, check_share, decoupled};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Lion: `p ← p·(1 - lr·weight_decay)`, `p ← p - lr·sign(β1·m + (1-β1)·g)`, `m ← β2·m + (1-β2)·g`.
///
/// Paper: Chen and others 2023, arXiv:2302.06675, program 1. Its rates are 3 to 10 times smaller than AdamW's, its decays as much larger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lion {
    /// The base rate, >= 0: how far each element moves in a step, whatever its gradient.
    pub lr: f64,
    /// The share of m in the direction, and how much of m stays at each update; from 0 to below 1, 0.9 and 0.99 by default.
    #[serde(default = "betas")]
    pub betas: (f64, f64),
    /// Decoupled decay.
    #[serde(default)]
    pub weight_decay: f64,
}

fn betas() -> (f64, f64) {
    (0.9, 0.99)
}

impl Lion {
    /// β 0.9 and 0.99, no decay.
    pub fn new(lr: f64) -> Lion {
        Lion { lr, betas: betas(), weight_decay: 0.0 }
    }
}

impl Optimizer for Lion {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        vec![StateSpec::zeros("exp_avg", shape)]
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let mix = |beta: Factor| beta.mix(&state[0], g);
        let (beta1, beta2) = (Factor::new(self.betas.0, step), Factor::Number(self.betas.1));
        let p = decoupled(p, step.weight_decay, &step.lr);
        (&p - &(&step.lr * &mix(beta1).sign()), vec![mix(beta2)])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn takes_momentum(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        check_share("betas", self.betas.0)?;
        check_share("betas", self.betas.1)?;
        check_not_negative("weight_decay", self.weight_decay)
    }
}
