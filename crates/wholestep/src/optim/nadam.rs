//! NAdam.

use super::adam::moments;
use super::{
    Factor, Optimizer, StateSpec, StepScalars, bias_correction, check_adaptive, check_not_negative, coupled, decoupled,
    usual,
};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// NAdam, Adam with Nesterov's momentum: with `μ_t = β1·(1 - 0.96^(t·momentum_decay)/2)` and `Π` the product of all μ so far,
/// `p ← p - lr·(g·(1-μ_t)/(1-Π_t) + m·μ_{t+1}/(1-Π_t·μ_{t+1})) / (sqrt(v/(1-β2^t)) + eps)`.
///
/// Paper: Dozat 2016, Incorporating Nesterov Momentum into Adam. Matches PyTorch `optim.NAdam`; the product is one slot for all
/// parameters instead of one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NAdam {
    /// The base rate, >= 0; PyTorch's default is 0.002.
    pub lr: f64,
    /// β1, which μ comes near in the end, and how much of the average of g² stays; from 0 to below 1, 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Coupled unless `decoupled_weight_decay`; >= 0, 0 by default.
    #[serde(default)]
    pub weight_decay: f64,
    /// How fast μ goes from about β1/2 to β1, per update; >= 0, 0.004 by default.
    #[serde(default = "momentum_decay")]
    pub momentum_decay: f64,
    /// Whether the decay shrinks the parameter (as in AdamW) instead of being added to the gradient.
    #[serde(default)]
    pub decoupled_weight_decay: bool,
}

fn momentum_decay() -> f64 {
    4e-3
}

impl NAdam {
    /// β 0.9 and 0.999, eps 1e-8, momentum decay 0.004, no weight decay; PyTorch's rate is 0.002.
    pub fn new(lr: f64) -> NAdam {
        let (betas, eps, momentum_decay) = (usual::betas(), usual::eps(), momentum_decay());
        NAdam { lr, betas, eps, weight_decay: 0.0, momentum_decay, decoupled_weight_decay: false }
    }

    fn beta1(&self, step: &StepScalars) -> Factor {
        Factor::new(self.betas.0, step)
    }

    /// μ at step t.
    fn mu(&self, t: &Tensor, step: &StepScalars) -> Tensor {
        let decayed = (t * (self.momentum_decay * 0.96f64.ln())).exp();
        self.beta1(step).times(&(1.0 - &(&decayed * 0.5)))
    }
}

impl Optimizer for NAdam {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        moments(shape, false)
    }

    fn shared(&self) -> Vec<StateSpec> {
        vec![StateSpec::scalar("mu_product", 1.0)]
    }

    fn advance(&self, shared: &[Tensor], step: &StepScalars) -> Vec<Tensor> {
        vec![&shared[0] * &self.mu(&step.t, step)]
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let beta2 = self.betas.1;
        let (p, g) = match self.decoupled_weight_decay {
            true => (decoupled(p, step.weight_decay, &step.lr), g.clone()),
            false => (p.clone(), coupled(p, g, step.weight_decay)),
        };
        let m = self.beta1(step).mix(&state[0], &g);
        let v = &(&state[1] * beta2) + &(&g.square() * (1.0 - beta2));
        let product = &step.shared[0];
        let (mu, mu_next) = (self.mu(&step.t, step), self.mu(&(&step.t + 1.0), step));
        let of_g = &(&step.lr * &(1.0 - &mu)) / &(1.0 - product);
        let of_m = &(&step.lr * &mu_next) / &(1.0 - &(product * &mu_next));
        let unbias = bias_correction(beta2, &step.t).rsqrt();
        let denominator = &(&v.sqrt() * &unbias) + self.eps;
        (&p - &(&(&(&of_g * &g) + &(&of_m * &m)) / &denominator), vec![m, v])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn takes_momentum(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_not_negative("momentum_decay", self.momentum_decay)?;
        check_adaptive(self.lr, self.betas, self.eps, self.weight_decay)
    }
}
