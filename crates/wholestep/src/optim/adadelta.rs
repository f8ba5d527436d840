//! Adadelta.

use super::{Optimizer, StateSpec, StepScalars, check_not_negative, check_share, coupled};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Adadelta: `g ← g + weight_decay·p`, `v ← ρ·v + (1-ρ)·g²`, `d = g·sqrt(u + eps)/sqrt(v + eps)`, `u ← ρ·u + (1-ρ)·d²`, `p ← p - lr·d`.
///
/// Paper: Zeiler 2012, arXiv:1212.5701. Matches PyTorch `optim.Adadelta`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adadelta {
    /// 1 in the paper.
    pub lr: f64,
    /// How much of the old averages stays at each update, from 0 to below 1; 0.9 by default.
    #[serde(default = "rho")]
    pub rho: f64,
    /// Added under both roots, in units of g² and of steps²; 1e-6 by default. It sets the length of the first steps.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Coupled decay (L2): added to the gradient.
    #[serde(default)]
    pub weight_decay: f64,
}

fn rho() -> f64 {
    0.9
}

fn eps() -> f64 {
    1e-6
}

impl Adadelta {
    /// ρ 0.9, eps 1e-6, no decay.
    pub fn new(lr: f64) -> Adadelta {
        Adadelta { lr, rho: rho(), eps: eps(), weight_decay: 0.0 }
    }
}

impl Optimizer for Adadelta {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        vec![StateSpec::zeros("square_avg", shape), StateSpec::zeros("acc_delta", shape)]
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let g = coupled(p, g, step.weight_decay);
        let mix = |average: &Tensor, x: &Tensor| &(average * self.rho) + &(&x.square() * (1.0 - self.rho));
        let v = mix(&state[0], &g);
        let delta = &(&(&state[1] + self.eps).sqrt() / &(&v + self.eps).sqrt()) * &g;
        let u = mix(&state[1], &delta);
        (p - &(&step.lr * &delta), vec![v, u])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        check_share("rho", self.rho)?;
        check_not_negative("eps", self.eps)?;
        check_not_negative("weight_decay", self.weight_decay)
    }
}
