//! Schedule-free AdamW.

use super::{Factor, Optimizer, StateSpec, StepScalars, bias_correction, check_adaptive, usual};
use crate::Result;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Schedule-free AdamW: gradients are taken at y, between the fast weights z and their average x:
/// `v ← β2·v + (1-β2)·g²`, `z ← z - lr·(g/(sqrt(v/(1-β2^t)) + eps) + weight_decay·y)`, `x ← (1-c)·x + c·z`, `y ← (1-β1)·z + β1·x`,
/// where c is the share of this step's `lr_max²` in the sum of all so far and `lr_max` the largest rate so far.
///
/// The parameters hold y while training; evaluation, prediction and saving use x. A warm-up is a schedule.
/// Paper: Defazio and others 2024, arXiv:2405.15682, algorithm 1, with the weights of its reference implementation (r = 0, power 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleFreeAdamW {
    /// The base rate, >= 0, which stays: no schedule but a warm-up is meant for it. The paper's is 0.0025.
    pub lr: f64,
    /// How near y is to the average x, and how much of the average of g² stays; from 0 to below 1, 0.9 and 0.999 by default.
    #[serde(default = "usual::betas")]
    pub betas: (f64, f64),
    /// Added to the root, after the bias correction, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub eps: f64,
    /// Decoupled decay, at y.
    #[serde(default)]
    pub weight_decay: f64,
}

impl ScheduleFreeAdamW {
    /// β 0.9 and 0.999, eps 1e-8, no decay; the paper's rate is 0.0025.
    pub fn new(lr: f64) -> ScheduleFreeAdamW {
        ScheduleFreeAdamW { lr, betas: usual::betas(), eps: usual::eps(), weight_decay: 0.0 }
    }
}

impl Optimizer for ScheduleFreeAdamW {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        ["x", "z", "exp_avg_sq"].map(|name| StateSpec::zeros(name, shape)).to_vec()
    }

    fn shared(&self) -> Vec<StateSpec> {
        vec![StateSpec::scalar("lr_max", 0.0), StateSpec::scalar("weight_sum", 0.0)]
    }

    fn advance(&self, shared: &[Tensor], step: &StepScalars) -> Vec<Tensor> {
        let lr_max = shared[0].maximum(&step.lr);
        let sum = &shared[1] + &lr_max.square();
        vec![lr_max, sum]
    }

    fn update(&self, y: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let (beta1, beta2) = (Factor::new(self.betas.0, step), self.betas.1);
        // All three begin at the parameter, whatever it was set to.
        let is_first = step.t.equal(1.0);
        let [x, z] = [0, 1].map(|i| is_first.select(y, &state[i]));
        let v = &(&state[2] * beta2) + &(&g.square() * (1.0 - beta2));
        let unbias = bias_correction(beta2, &step.t).rsqrt();
        let scaled = g / &(&(&v.sqrt() * &unbias) + self.eps);
        let direction = if step.weight_decay == 0.0 { scaled } else { &scaled + &(y * step.weight_decay) };
        let z = &z - &(&step.lr * &direction);
        let (lr_max, sum) = (&step.shared[0], &step.shared[1]);
        // A warm-up may begin at 0, and then nothing has weight.
        let share = sum.greater(0.0).select(&(&lr_max.square() / sum), 0.0);
        let x = &x + &(&share * &(&z - &x));
        let y = beta1.mix(&x, &z);
        (y, vec![x, z, v])
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn averaged(&self) -> Option<&'static str> {
        Some("x")
    }

    fn takes_momentum(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_adaptive(self.lr, self.betas, self.eps, self.weight_decay)
    }
}
