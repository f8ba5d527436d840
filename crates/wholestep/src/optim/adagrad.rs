//! Adagrad.

use super::{Optimizer, StateSpec, StepScalars, check_not_negative, coupled};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Adagrad: `g ← g + weight_decay·p`, `s ← s + g²`, `p ← p - lr/(1 + (t-1)·lr_decay) · g/(sqrt(s) + eps)`; s begins at
/// `initial_accumulator_value`.
///
/// Paper: Duchi, Hazan, Singer 2011. Matches PyTorch `optim.Adagrad`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adagrad {
    /// The base rate, >= 0; PyTorch's default is 0.01.
    pub lr: f64,
    /// The rate of update t is `lr/(1 + (t-1)·lr_decay)`, besides what a schedule does; >= 0, 0 by default.
    #[serde(default)]
    pub lr_decay: f64,
    /// Coupled decay (L2): added to the gradient.
    #[serde(default)]
    pub weight_decay: f64,
    /// What the sums of squares begin with, in units of g², >= 0; 0 by default.
    #[serde(default)]
    pub initial_accumulator_value: f64,
    /// Added to the root, in units of g; 1e-10 by default.
    #[serde(default = "eps")]
    pub eps: f64,
}

fn eps() -> f64 {
    1e-10
}

impl Adagrad {
    /// No decay of either kind, sums from 0, eps 1e-10; PyTorch's rate is 0.01.
    pub fn new(lr: f64) -> Adagrad {
        Adagrad { lr, lr_decay: 0.0, weight_decay: 0.0, initial_accumulator_value: 0.0, eps: eps() }
    }
}

impl Optimizer for Adagrad {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        vec![StateSpec::zeros("sum", shape).init(self.initial_accumulator_value)]
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let g = coupled(p, g, step.weight_decay);
        let lr = match self.lr_decay {
            0.0 => step.lr.clone(),
            decay => &step.lr / &(&(&(&step.t - 1.0) * decay) + 1.0),
        };
        let sum = &state[0] + &g.square();
        (p - &(&(&lr * &g) / &(&sum.sqrt() + self.eps)), vec![sum])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        check_not_negative("lr_decay", self.lr_decay)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        check_not_negative("initial_accumulator_value", self.initial_accumulator_value)?;
        check_not_negative("eps", self.eps)
    }
}
