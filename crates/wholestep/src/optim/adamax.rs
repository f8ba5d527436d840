//! Adamax.

use super::{Factor, Optimizer, StateSpec, StepScalars, check_adaptive, coupled, usual};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Adamax, Adam by the infinity norm: `g ← g + weight_decay·p`, `m ← β1·m + (1-β1)·g`, `u ← max(β2·u, |g| + eps)`,
/// `p ← p - lr/(1-β1^t)·m/u`.
///
/// Paper: Kingma, Ba 2014, arXiv:1412.6980, section 7.1. Matches PyTorch `optim.Adamax`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adamax {
    /// The base rate, >= 0; PyTorch's default is 0.002.
    pub lr: f64,
    /// How much of the average of g, and of the largest |g|, stays at each update; from 0 to below 1, 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to |g| before the largest is taken, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Coupled decay (L2): added to the gradient.
    #[serde(default)]
    pub weight_decay: f64,
}

impl Adamax {
    /// β 0.9 and 0.999, eps 1e-8, no decay; PyTorch's rate is 0.002.
    pub fn new(lr: f64) -> Adamax {
        Adamax { lr, betas: usual::betas(), eps: usual::eps(), weight_decay: 0.0 }
    }
}

impl Optimizer for Adamax {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        vec![StateSpec::zeros("exp_avg", shape), StateSpec::zeros("exp_inf", shape)]
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let (beta1, beta2) = (Factor::new(self.betas.0, step), self.betas.1);
        let g = coupled(p, g, step.weight_decay);
        let m = beta1.mix(&state[0], &g);
        let u = (&state[1] * beta2).maximum(&g.abs() + self.eps);
        let step_size = &step.lr / &beta1.bias_correction(&step.t);
        (p - &(&(&step_size * &m) / &u), vec![m, u])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn takes_momentum(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_adaptive(self.lr, self.betas, self.eps, self.weight_decay)
    }
}
