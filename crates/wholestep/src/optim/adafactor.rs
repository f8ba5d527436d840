//! Adafactor.

use super::{Optimizer, StateSpec, StepScalars, check_not_negative, decoupled};
use crate::Result;
use crate::error::need;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{DType, Dim, Shape, Tensor};

/// Adafactor: the second moment of a matrix is kept as its row and column means, `v = row·col / mean(row)`, that of a vector whole.
/// With `1-β2 = t^beta2_decay`, `u = g/sqrt(max(v, eps1²))` and `α = max(eps2, rms(p))·min(lr, 1/sqrt(t))`,
/// `p ← p·(1 - lr·weight_decay) - α·u/max(1, rms(u)/d)`.
///
/// Shapes: tensors of rank 2 and more have rows and columns in their last two axes. Matches PyTorch `optim.Adafactor`.
/// Paper: Shazeer, Stern 2018, arXiv:1804.04235.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adafactor {
    /// The most that a step is of a parameter's root mean square, >= 0: the rate is `min(lr, 1/sqrt(t))`. PyTorch's default is 0.01.
    pub lr: f64,
    /// How fast the second moment comes to rest: `1-β2 = t^beta2_decay`, <= 0; -0.8 by default.
    #[serde(default = "beta2_decay")]
    pub beta2_decay: f64,
    /// Of the second moment's root and of the parameter's root mean square.
    #[serde(default = "eps")]
    pub eps: (f64, f64),
    /// What the root mean square of an update is clipped to.
    #[serde(default = "d")]
    pub d: f64,
    /// Decoupled decay.
    #[serde(default)]
    pub weight_decay: f64,
}

fn beta2_decay() -> f64 {
    -0.8
}

/// PyTorch's `None` is the machine precision of the parameter.
fn eps() -> (f64, f64) {
    (f64::from(f32::EPSILON), 1e-3)
}

fn d() -> f64 {
    1.0
}

impl Adafactor {
    /// β2 decay -0.8, eps 1.19e-7 and 1e-3, d 1, no decay; PyTorch's rate is 0.01.
    pub fn new(lr: f64) -> Adafactor {
        Adafactor { lr, beta2_decay: beta2_decay(), eps: eps(), d: d(), weight_decay: 0.0 }
    }
}

/// `shape` with extent 1 at the axis `from_end` (1: the last).
fn averaged_over(shape: &Shape, from_end: usize) -> Shape {
    let mut shape = shape.clone();
    let rank = shape.rank();
    shape.0[rank - from_end] = Dim::ONE;
    shape
}

impl Optimizer for Adafactor {
    fn lr(&self) -> f64 {
        self.lr
    }

    /// The numbers that depend on the shape are state that never changes, and not constants: so the update is one program for all shapes, and
    /// takes as many launches for many of them as for one.
    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        let part = |n: usize| 1.0 / n.max(1) as f64;
        let dims = shape.at(0);
        let share = StateSpec::scalar("element_share", part(dims.iter().product()));
        let Some((last, rest)) = dims.split_last().filter(|(_, rest)| !rest.is_empty()) else {
            return vec![StateSpec::zeros("variance", shape), share];
        };
        vec![
            StateSpec::zeros("row_var", &averaged_over(shape, 1)),
            StateSpec::zeros("col_var", &averaged_over(shape, 2)),
            share,
            StateSpec::scalar("col_share", part(*last)),
            StateSpec::scalar("row_share", part(rest[rest.len() - 1])),
        ]
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let fresh = (&step.t.log() * self.beta2_decay).exp();
        let mix = |old: &Tensor, new: &Tensor| old + &(&fresh * &(new - old));
        let one = step.scope.constant(1.0, DType::F32);
        let rate = step.lr.minimum(step.t.rsqrt());
        let share = if p.rank() < 2 { &state[1] } else { &state[2] };
        let rms = |x: &Tensor| (&x.square().sum(..) * share).sqrt();
        let alpha = &rms(p).maximum(self.eps.1) * &rate;
        let squares = g.square();
        let (variance, next) = if p.rank() < 2 {
            let v = mix(&state[0], &squares);
            (v.clone(), vec![v, state[1].clone()])
        } else {
            let row = mix(&state[0], &(&squares.sum_keepdim(-1) * &state[3]));
            let col = mix(&state[1], &(&squares.sum_keepdim(-2) * &state[4]));
            let mean = (&row.sum_keepdim(-2) * &state[4]).maximum(self.eps.0);
            (&(&row / &mean) * &col, [&[row, col], &state[2..]].concat())
        };
        let u = &variance.maximum(self.eps.0 * self.eps.0).rsqrt() * g;
        let clipped = (&rms(&u) / self.d).maximum(&one);
        (&decoupled(p, step.weight_decay, &step.lr) - &(&(&alpha / &clipped) * &u), next)
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        need(
            self.beta2_decay <= 0.0 && self.beta2_decay.is_finite(),
            "beta2_decay",
            "a number <= 0",
            &self.beta2_decay,
        )?;
        check_not_negative("eps", self.eps.0)?;
        check_not_negative("eps", self.eps.1)?;
        need(self.d >= 1.0 && self.d.is_finite(), "d", "a finite number >= 1", &self.d)?;
        check_not_negative("weight_decay", self.weight_decay)
    }
}
