//! RAdam.

use super::adam::moments;
use super::{Factor, Optimizer, StateSpec, StepScalars, bias_correction, check_adaptive, coupled, decoupled, usual};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// RAdam, Adam that trusts its second moment only once enough steps have gone into it: with `ρ∞ = 2/(1-β2) - 1` and
/// `ρ = ρ∞ - 2·t·β2^t/(1-β2^t)`, `p ← p - lr·m/(1-β1^t) · (ρ > 5 ? r·sqrt(1-β2^t)/(sqrt(v) + eps) : 1)`, where
/// `r² = (ρ-4)(ρ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρ)`.
///
/// Paper: Liu and others 2019, arXiv:1908.03265. Matches PyTorch `optim.RAdam`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RAdam {
    /// The base rate, >= 0; PyTorch's default is 0.001.
    pub lr: f64,
    /// How much of the old averages of g and of g² stays at each update, from 0 to below 1; 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to the root, before the bias correction, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Coupled unless `decoupled_weight_decay`; >= 0, 0 by default.
    #[serde(default)]
    pub weight_decay: f64,
    /// Whether the decay shrinks the parameter (as in AdamW) instead of being added to the gradient.
    #[serde(default)]
    pub decoupled_weight_decay: bool,
}

impl RAdam {
    /// β 0.9 and 0.999, eps 1e-8, no decay; PyTorch's rate is 0.001.
    pub fn new(lr: f64) -> RAdam {
        let (betas, eps) = (usual::betas(), usual::eps());
        RAdam { lr, betas, eps, weight_decay: 0.0, decoupled_weight_decay: false }
    }

    /// ρ at step t, with `β2^t/(1-β2^t) = 1/(β2^-t - 1)`. Its terms are near 2/(1-β2) in the first steps, so that it is known to about 1e-4
    /// there, and a step size to about 1e-5 of itself.
    fn rho(&self, t: &Tensor) -> Tensor {
        &(-&(&(t * 2.0) / &(t * -self.betas.1.ln()).expm1())) + self.rho_inf()
    }

    fn rho_inf(&self) -> f64 {
        2.0 / (1.0 - self.betas.1) - 1.0
    }
}

impl Optimizer for RAdam {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        moments(shape, false)
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let (beta1, beta2) = (Factor::new(self.betas.0, step), self.betas.1);
        let (p, g) = match self.decoupled_weight_decay {
            true => (decoupled(p, step.weight_decay, &step.lr), g.clone()),
            false => (p.clone(), coupled(p, g, step.weight_decay)),
        };
        let m = beta1.mix(&state[0], &g);
        let v = &(&state[1] * beta2) + &(&g.square() * (1.0 - beta2));
        let (rho, rho_inf) = (self.rho(&step.t), self.rho_inf());
        let square = &(&(&(&rho - 4.0) * &(&rho - 2.0)) / &rho) * (rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0)));
        let is_trusted = rho.greater(5.0);
        // Where it is not trusted the square may be negative; its root is not used.
        let rectified = &square.maximum(0.0).sqrt() * &bias_correction(beta2, &step.t).sqrt();
        let step_size = &step.lr / &beta1.bias_correction(&step.t);
        let adaptive = &rectified / &(&v.sqrt() + self.eps);
        let scale = is_trusted.select(&adaptive, 1.0);
        (&p - &(&(&step_size * &m) * &scale), vec![m, v])
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
