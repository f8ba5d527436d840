//! RMSprop.

use super::{Factor, Optimizer, StateSpec, StepScalars, check_not_negative, check_share, coupled, usual};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// RMSprop: `g ← g + weight_decay·p`, `v ← α·v + (1-α)·g²`, `d = sqrt(v) + eps`, `p ← p - lr·g/d`.
///
/// Centered, `a ← α·a + (1-α)·g` and `d = sqrt(v - a²) + eps`. With momentum, `b ← momentum·b + g/d` and `p ← p - lr·b`.
/// Source: Hinton 2012, lecture 6e; centered: Graves 2013, arXiv:1308.0850. Matches PyTorch `optim.RMSprop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmsProp {
    /// The base rate, >= 0; PyTorch's default is 0.01.
    pub lr: f64,
    /// How much of the old average of g² stays at each update, from 0 to below 1; 0.99 by default.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Added to the root, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Coupled decay (L2): added to the gradient.
    #[serde(default)]
    pub weight_decay: f64,
    /// How much of the last step goes into this one, >= 0; 0 by default, and then without state for it.
    #[serde(default)]
    pub momentum: f64,
    /// Whether the mean gradient is taken out of the average of g²: a variance; one more tensor of state. Not by default.
    #[serde(default)]
    pub centered: bool,
}

fn alpha() -> f64 {
    0.99
}

impl RmsProp {
    /// α 0.99, eps 1e-8, no decay, no momentum, not centered; PyTorch's rate is 0.01.
    pub fn new(lr: f64) -> RmsProp {
        RmsProp { lr, alpha: alpha(), eps: usual::eps(), weight_decay: 0.0, momentum: 0.0, centered: false }
    }
}

impl Optimizer for RmsProp {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        let mut state = vec![StateSpec::zeros("square_avg", shape)];
        state.extend(self.centered.then(|| StateSpec::zeros("grad_avg", shape)));
        state.extend((self.momentum > 0.0).then(|| StateSpec::zeros("momentum_buffer", shape)));
        state
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let g = coupled(p, g, step.weight_decay);
        let v = &(&state[0] * self.alpha) + &(&g.square() * (1.0 - self.alpha));
        let mut next = vec![v.clone()];
        let mut variance = v;
        if self.centered {
            let a = &(&state[1] * self.alpha) + &(&g * (1.0 - self.alpha));
            variance = &variance - &a.square();
            next.push(a);
        }
        let scaled = &g / &(&variance.sqrt() + self.eps);
        let direction = match state.last().filter(|_| self.momentum > 0.0) {
            Some(b) => {
                let b = &Factor::new(self.momentum, step).times(b) + &scaled;
                next.push(b.clone());
                b
            }
            None => scaled,
        };
        (p - &(&step.lr * &direction), next)
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn takes_momentum(&self) -> bool {
        self.momentum > 0.0
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        check_share("alpha", self.alpha)?;
        check_not_negative("eps", self.eps)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        check_not_negative("momentum", self.momentum)
    }
}
