//! Adam and AdamW, with AMSGrad as an option of both.

use super::{Factor, Optimizer, StateSpec, StepScalars, bias_correction, check_adaptive, coupled, decoupled, usual};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Adam: `m ← β1·m + (1-β1)·g`, `v ← β2·v + (1-β2)·g²`, `p ← p - lr/(1-β1^t) · m / (sqrt(v)/sqrt(1-β2^t) + eps)`, with
/// `weight_decay·p` added to the gradient (coupled decay). With AMSGrad the largest v so far stands for v in the last line.
///
/// Papers: Kingma, Ba 2014, arXiv:1412.6980; Reddi, Kale, Kumar 2018, arXiv:1904.09237. Matches PyTorch `optim.Adam`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// The base rate, >= 0, from which a schedule makes that of each step; PyTorch's default is 0.001.
    pub lr: f64,
    /// How much of the old averages of g and of g² stays at each update, from 0 to below 1; 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Coupled decay (L2), added to the gradient; >= 0, 0 by default.
    #[serde(default)]
    pub weight_decay: f64,
    /// Whether the largest v so far stands in the denominator; one more tensor of state. Not by default.
    #[serde(default)]
    pub amsgrad: bool,
}

impl Adam {
    /// β 0.9 and 0.999, eps 1e-8, no decay, no AMSGrad.
    pub fn new(lr: f64) -> Adam {
        Adam { lr, betas: usual::betas(), eps: usual::eps(), weight_decay: 0.0, amsgrad: false }
    }

    /// How much of the old averages of g and of g² stays at each update, from 0 to below 1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> Adam {
        Adam { betas: (beta1, beta2), ..self }
    }

    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-8 by default.
    pub fn eps(self, eps: f64) -> Adam {
        Adam { eps, ..self }
    }

    /// Coupled decay (L2): added to the gradient.
    pub fn weight_decay(self, weight_decay: f64) -> Adam {
        Adam { weight_decay, ..self }
    }

    /// The largest v so far stands in the denominator; one more tensor of state.
    pub fn amsgrad(self) -> Adam {
        Adam { amsgrad: true, ..self }
    }
}

impl Optimizer for Adam {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        moments(shape, self.amsgrad)
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        adam_step(p, &coupled(p, g, step.weight_decay), state, step, self.betas, self.eps)
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

/// AdamW: Adam with decoupled decay, `p ← p·(1 - lr·weight_decay)` before the step.
///
/// Paper: Loshchilov, Hutter 2017, arXiv:1711.05101. Matches PyTorch `optim.AdamW` (default decay 0.01).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// The base rate, >= 0, from which a schedule makes that of each step; PyTorch's default is 0.001.
    pub lr: f64,
    /// How much of the old averages of g and of g² stays at each update, from 0 to below 1; 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Decoupled decay, per unit of learning rate; >= 0, 0.01 by default.
    #[serde(default = "decay")]
    pub weight_decay: f64,
    /// Whether the largest v so far stands in the denominator; one more tensor of state. Not by default.
    #[serde(default)]
    pub amsgrad: bool,
}

fn decay() -> f64 {
    0.01
}

impl AdamW {
    /// β 0.9 and 0.999, eps 1e-8, decay 0.01, no AMSGrad.
    pub fn new(lr: f64) -> AdamW {
        AdamW { lr, betas: usual::betas(), eps: usual::eps(), weight_decay: decay(), amsgrad: false }
    }

    /// How much of the old averages of g and of g² stays at each update, from 0 to below 1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> AdamW {
        AdamW { betas: (beta1, beta2), ..self }
    }

    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-8 by default.
    pub fn eps(self, eps: f64) -> AdamW {
        AdamW { eps, ..self }
    }

    /// Decoupled decay: a part of the parameter itself, per unit of learning rate.
    pub fn weight_decay(self, weight_decay: f64) -> AdamW {
        AdamW { weight_decay, ..self }
    }

    /// The largest v so far stands in the denominator; one more tensor of state.
    pub fn amsgrad(self) -> AdamW {
        AdamW { amsgrad: true, ..self }
    }
}

impl Optimizer for AdamW {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        moments(shape, self.amsgrad)
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        adam_step(&decoupled(p, step.weight_decay, &step.lr), g, state, step, self.betas, self.eps)
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

pub(super) fn moments(shape: &Shape, amsgrad: bool) -> Vec<StateSpec> {
    let largest = amsgrad.then(|| StateSpec::zeros("max_exp_avg_sq", shape));
    [StateSpec::zeros("exp_avg", shape), StateSpec::zeros("exp_avg_sq", shape)].into_iter().chain(largest).collect()
}

/// AMSGrad where there is a third state.
pub(super) fn adam_step(
    p: &Tensor,
    g: &Tensor,
    state: &[Tensor],
    step: &StepScalars,
    (beta1, beta2): (f64, f64),
    eps: f64,
) -> (Tensor, Vec<Tensor>) {
    let beta1 = Factor::new(beta1, step);
    let m = beta1.mix(&state[0], g);
    let v = &(&state[1] * beta2) + &(&(g * g) * (1.0 - beta2));
    let largest = state.get(2).map(|max| max.maximum(&v));
    // Scalars are joined before they meet the parameters: per element stay one square root, one division, four products.
    let step_size = &step.lr / &beta1.bias_correction(&step.t);
    let unbias = bias_correction(beta2, &step.t).rsqrt();
    let denominator = &(&largest.as_ref().unwrap_or(&v).sqrt() * &unbias) + eps;
    let new_p = p - &(&(&step_size * &m) / &denominator);
    (new_p, [m, v].into_iter().chain(largest).collect())
}
