//! Stochastic gradient descent.

use super::{Factor, Optimizer, StateSpec, StepScalars, check_not_negative, coupled};
use crate::Result;
use crate::error::need;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{DType, Shape, Tensor};

/// Stochastic gradient descent: `g ← g + weight_decay·p`, `b ← momentum·b + (1 - dampening)·g` (at the first step `b = g`),
/// `p ← p - lr·(nesterov ? g + momentum·b : b)`.
///
/// Paper: Sutskever, Martens, Dahl, Hinton 2013, in PyTorch's form. Matches PyTorch `optim.SGD`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// The base rate, >= 0, from which a schedule makes that of each step; PyTorch's default is 0.001.
    pub lr: f64,
    /// How much of the last direction stays at each update, >= 0; 0 by default, and then without state.
    #[serde(default)]
    pub momentum: f64,
    /// The part of a gradient that momentum leaves out, from the second update on; any finite number, 0 by default.
    #[serde(default)]
    pub dampening: f64,
    /// Coupled decay (L2), added to the gradient; >= 0, 0 by default.
    #[serde(default)]
    pub weight_decay: f64,
    /// Whether the direction looks one momentum step ahead; it needs momentum > 0 and dampening 0. Not by default.
    #[serde(default)]
    pub nesterov: bool,
}

impl Sgd {
    /// Plain descent with learning rate `lr`.
    pub fn new(lr: f64) -> Sgd {
        Sgd { lr, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }
    }

    /// How much of the last direction stays at each update, >= 0; 0.9 is usual. The new gradient goes in whole: `b ← momentum·b + g`.
    pub fn momentum(self, momentum: f64) -> Sgd {
        Sgd { momentum, ..self }
    }

    /// The part of a gradient that momentum leaves out, from the second update on; 0 by default.
    pub fn dampening(self, dampening: f64) -> Sgd {
        Sgd { dampening, ..self }
    }

    /// Coupled decay (L2): added to the gradient.
    pub fn weight_decay(self, weight_decay: f64) -> Sgd {
        Sgd { weight_decay, ..self }
    }

    /// The direction looks one momentum step ahead; it needs momentum > 0 and dampening 0.
    pub fn nesterov(self) -> Sgd {
        Sgd { nesterov: true, ..self }
    }
}

impl Optimizer for Sgd {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        if self.momentum == 0.0 { vec![] } else { vec![StateSpec::zeros("momentum_buffer", shape)] }
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let g = coupled(p, g, step.weight_decay);
        let Some(b) = state.first() else {
            return (p - &(&step.lr * &g), vec![]);
        };
        let momentum = Factor::new(self.momentum, step);
        // The first step takes the gradient whole: `1 - dampening` would shrink it. With b = 0 one factor says both.
        let fresh = if self.dampening == 0.0 {
            g.clone()
        } else {
            let first = step.t.equal(step.scope.constant(1.0, DType::F32));
            let one = step.scope.constant(1.0, DType::F32);
            let rest = step.scope.constant(1.0 - self.dampening, DType::F32);
            &g * &first.select(&one, &rest)
        };
        let b = &momentum.times(b) + &fresh;
        let direction = if self.nesterov { &g + &momentum.times(&b) } else { b.clone() };
        (p - &(&step.lr * &direction), vec![b])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn takes_momentum(&self) -> bool {
        self.momentum != 0.0
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        check_not_negative("momentum", self.momentum)?;
        need(self.dampening.is_finite(), "dampening", "a finite number", &self.dampening)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        let possible = !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0);
        need(possible, "nesterov", "momentum > 0 and dampening 0 with it", &self.nesterov)
    }
}
