//! Adam and AdamW.

use super::{Optimizer, StateSpec, StepScalars, bias_correction};
use wholestep_compiler::ir::Tensor;

/// Adam: `m ← β1·m + (1-β1)·g`, `v ← β2·v + (1-β2)·g²`, `p ← p - lr/(1-β1^t) · m / (sqrt(v)/sqrt(1-β2^t) + eps)`, with
/// `weight_decay·p` added to the gradient (coupled decay).
///
/// Paper: Kingma, Ba 2014, arXiv:1412.6980. Matches PyTorch `optim.Adam`.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

impl Adam {
    /// β 0.9 and 0.999, eps 1e-8, no decay.
    pub fn new(lr: f64) -> Adam {
        Adam { lr, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }

    pub fn betas(self, beta1: f64, beta2: f64) -> Adam {
        Adam { betas: (beta1, beta2), ..self }
    }

    pub fn eps(self, eps: f64) -> Adam {
        Adam { eps, ..self }
    }

    /// Coupled decay (L2): added to the gradient.
    pub fn weight_decay(self, weight_decay: f64) -> Adam {
        Adam { weight_decay, ..self }
    }
}

impl Optimizer for Adam {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self) -> Vec<StateSpec> {
        moments()
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let g = if self.weight_decay == 0.0 { g.clone() } else { g + &(p * self.weight_decay) };
        adam_step(p, &g, state, step, self.betas, self.eps)
    }
}

/// AdamW: Adam with decoupled decay, `p ← p·(1 - lr·weight_decay)` before the step.
///
/// Paper: Loshchilov, Hutter 2017, arXiv:1711.05101. Matches PyTorch `optim.AdamW` (default decay 0.01).
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

impl AdamW {
    /// β 0.9 and 0.999, eps 1e-8, decay 0.01.
    pub fn new(lr: f64) -> AdamW {
        AdamW { lr, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }

    pub fn betas(self, beta1: f64, beta2: f64) -> AdamW {
        AdamW { betas: (beta1, beta2), ..self }
    }

    pub fn eps(self, eps: f64) -> AdamW {
        AdamW { eps, ..self }
    }

    /// Decoupled decay: a part of the parameter itself, per unit of learning rate.
    pub fn weight_decay(self, weight_decay: f64) -> AdamW {
        AdamW { weight_decay, ..self }
    }
}

impl Optimizer for AdamW {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self) -> Vec<StateSpec> {
        moments()
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let decayed = if self.weight_decay == 0.0 { p.clone() } else { p * &(1.0 - &(&step.lr * self.weight_decay)) };
        adam_step(&decayed, g, state, step, self.betas, self.eps)
    }
}

fn moments() -> Vec<StateSpec> {
    vec![StateSpec { name: "exp_avg", init: 0.0 }, StateSpec { name: "exp_avg_sq", init: 0.0 }]
}

fn adam_step(
    p: &Tensor,
    g: &Tensor,
    state: &[Tensor],
    step: &StepScalars,
    (beta1, beta2): (f64, f64),
    eps: f64,
) -> (Tensor, Vec<Tensor>) {
    let m = &(&state[0] * beta1) + &(g * (1.0 - beta1));
    let v = &(&state[1] * beta2) + &(&(g * g) * (1.0 - beta2));
    // Scalars are joined before they meet the parameters: per element stay one square root, one division, four products.
    let step_size = &step.lr / &bias_correction(beta1, &step.t);
    let unbias = bias_correction(beta2, &step.t).rsqrt();
    let denominator = &(&v.sqrt() * &unbias) + eps;
    (p - &(&(&step_size * &m) / &denominator), vec![m, v])
}
