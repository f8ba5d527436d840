//! LAMB.

use super::adam::moments;
use super::{Factor, Optimizer, StateSpec, StepScalars, bias_correction, check_adaptive, usual};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// LAMB, Adam whose step is as long as a share of the parameter: `u = (m/(1-β1^t))/(sqrt(v/(1-β2^t)) + eps) + weight_decay·p`,
/// `p ← p - lr·(‖p‖/‖u‖)·u` with 2-norms over the whole tensor; the ratio is 1 where a norm is 0.
///
/// Paper: You and others 2019, arXiv:1904.00962, algorithm 2, with φ the identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lamb {
    /// The base rate, >= 0: the length of a step as a share of the parameter's own.
    pub lr: f64,
    /// How much of the old averages of g and of g² stays at each update, from 0 to below 1; 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-6 by default.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Added to Adam's direction, before the norm is taken.
    #[serde(default)]
    pub weight_decay: f64,
}

fn eps() -> f64 {
    1e-6
}

impl Lamb {
    /// β 0.9 and 0.999, eps 1e-6, no decay.
    pub fn new(lr: f64) -> Lamb {
        Lamb { lr, betas: usual::betas(), eps: eps(), weight_decay: 0.0 }
    }
}

impl Optimizer for Lamb {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        moments(shape, false)
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let (beta1, beta2) = (Factor::new(self.betas.0, step), self.betas.1);
        let m = beta1.mix(&state[0], g);
        let v = &(&state[1] * beta2) + &(&g.square() * (1.0 - beta2));
        let unbias = bias_correction(beta2, &step.t).rsqrt();
        let of_m = beta1.bias_correction(&step.t).recip();
        let adam = &(&of_m * &m) / &(&(&v.sqrt() * &unbias) + self.eps);
        let u = if step.weight_decay == 0.0 { adam } else { &adam + &(p * step.weight_decay) };
        let (of_p, of_u) = (p.square().sum(..).sqrt(), u.square().sum(..).sqrt());
        let is_ratio = of_p.greater(0.0).and(of_u.greater(0.0));
        let ratio = is_ratio.select(&of_p / &of_u, 1.0);
        (p - &(&(&step.lr * &ratio) * &u), vec![m, v])
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
