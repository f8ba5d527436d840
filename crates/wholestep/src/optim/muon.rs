//! Muon.

use super::adam::{adam_step, moments};
use super::{
    Factor, Optimizer, StateSpec, StepScalars, Update, check_not_negative, check_positive, check_share, decoupled,
    usual,
};
use crate::Result;
use crate::error::need;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// Muon: matrices move by the orthogonal factor of their momentum, `b ← momentum·b + (1-momentum)·g`,
/// `u = nesterov ? (1-momentum)·g + momentum·b : b`, `p ← p·(1 - lr·weight_decay) - s·lr·NS(u)`; all other parameters by AdamW.
///
/// NS is `ns_steps` times `X ← aX + (bA + cA²)X` with `A = XXᵀ` from `X = u/‖u‖`, on the transpose where a matrix is tall. It runs
/// in f32 (PyTorch rounds it to bf16), for all matrices of one shape together. `s` is chosen by [`MuonRate`].
/// Source: Jordan and others 2024, <https://kellerjordan.github.io/posts/muon/>. Matches PyTorch `optim.Muon` on matrices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Muon {
    /// The base rate of matrices before `rate`, >= 0; PyTorch's default is 0.001. Other parameters get `lr·adamw_lr_scale`.
    pub lr: f64,
    /// Decoupled decay of all parameters, those of AdamW too; >= 0, 0.1 by default.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// How much of the average gradient of a matrix stays at each update, from 0 to below 1; 0.95 by default.
    #[serde(default = "momentum")]
    pub momentum: f64,
    /// Whether the direction looks one momentum step ahead; by default it does.
    #[serde(default = "nesterov")]
    pub nesterov: bool,
    /// a, b and c.
    #[serde(default = "ns_coefficients")]
    pub ns_coefficients: (f64, f64, f64),
    /// Newton-Schulz iterations, 1 to 99; 5 by default.
    #[serde(default = "ns_steps")]
    pub ns_steps: u32,
    /// The least norm that a matrix is divided by, > 0; 1e-7 by default.
    #[serde(default = "eps")]
    pub eps: f64,
    /// How the rate depends on the shape of a matrix; `Original` by default, as in PyTorch.
    #[serde(default)]
    pub rate: MuonRate,
    /// β of AdamW for parameters that are no matrices.
    #[serde(default = "usual::betas")]
    pub adamw_betas: (f64, f64),
    /// Added to the root in AdamW's step, in units of g; >= 0, 1e-8 by default.
    #[serde(default = "usual::eps")]
    pub adamw_eps: f64,
    /// The rate of AdamW as a multiple of `lr`.
    #[serde(default = "adamw_lr_scale")]
    pub adamw_lr_scale: f64,
}

/// What the rate of a matrix `[rows, cols]` is multiplied by; PyTorch's `adjust_lr_fn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MuonRate {
    /// `sqrt(max(1, rows/cols))`, as in the source.
    #[default]
    Original,
    /// `0.2·sqrt(max(rows, cols))`, so that AdamW's rates and decays fit (arXiv:2502.16982).
    MatchRmsAdamw,
    /// `sqrt(rows/cols)` (arXiv:2310.17813).
    SpectralUnclamped,
}

fn weight_decay() -> f64 {
    0.1
}

fn momentum() -> f64 {
    0.95
}

fn nesterov() -> bool {
    true
}

fn ns_coefficients() -> (f64, f64, f64) {
    (3.4445, -4.775, 2.0315)
}

fn ns_steps() -> u32 {
    5
}

fn eps() -> f64 {
    1e-7
}

fn adamw_lr_scale() -> f64 {
    1.0
}

impl Muon {
    /// PyTorch's options: momentum 0.95 (Nesterov), decay 0.1, five steps; AdamW with β 0.9 and 0.999 at the same rate.
    pub fn new(lr: f64) -> Muon {
        Muon {
            lr,
            weight_decay: weight_decay(),
            momentum: momentum(),
            nesterov: nesterov(),
            ns_coefficients: ns_coefficients(),
            ns_steps: ns_steps(),
            eps: eps(),
            rate: MuonRate::default(),
            adamw_betas: usual::betas(),
            adamw_eps: usual::eps(),
            adamw_lr_scale: adamw_lr_scale(),
        }
    }

    fn rate_scale(&self, rows: usize, cols: usize) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self.rate {
            MuonRate::Original => (rows / cols).max(1.0).sqrt(),
            MuonRate::MatchRmsAdamw => 0.2 * rows.max(cols).sqrt(),
            MuonRate::SpectralUnclamped => (rows / cols).sqrt(),
        }
    }

    /// The orthogonal factors, nearly, of `u` `[n, rows, cols]` or `[rows, cols]`.
    fn newton_schulz(&self, u: &Tensor, is_tall: bool) -> Tensor {
        let (a, b, c) = self.ns_coefficients;
        let wide = if is_tall { u.transpose(-1, -2) } else { u.clone() };
        let norm = wide.square().sum_keepdim([-1, -2]).sqrt().maximum(self.eps);
        let mut x = &wide / &norm;
        for _ in 0..self.ns_steps {
            let gram = x.matmul(&x.transpose(-1, -2));
            let polynomial = &(&gram * b) + &(&gram.matmul(&gram) * c);
            x = &(&x * a) + &polynomial.matmul(&x);
        }
        if is_tall { x.transpose(-1, -2) } else { x }
    }

    /// The next momentum and the direction made of it.
    fn direction(&self, u: &Update, step: &StepScalars) -> (Tensor, Tensor) {
        let momentum = Factor::new(self.momentum, step);
        let b = momentum.mix(&u.state[0], &u.g);
        let direction = if self.nesterov { momentum.mix(&b, &u.g) } else { b.clone() };
        (b, direction)
    }

    /// The matrices of one shape.
    fn matrices(&self, updates: &[&Update], step: &StepScalars) -> Vec<(Tensor, Vec<Tensor>)> {
        let dims = updates[0].p.shape().at(0);
        let (rows, cols) = (dims[0], dims[1]);
        let (momenta, directions): (Vec<Tensor>, Vec<Tensor>) = updates.iter().map(|u| self.direction(u, step)).unzip();
        let lr = &step.lr * self.rate_scale(rows, cols);
        let factors = match directions.split_first() {
            Some((first, [])) => vec![self.newton_schulz(first, rows > cols)],
            Some((first, others)) => {
                let all = self.newton_schulz(&first.stack(others, 0), rows > cols);
                (0..directions.len()).map(|i| all.index(0, i as i64)).collect()
            }
            None => Vec::new(),
        };
        let moved = |(u, (b, factor)): (&&Update, (Tensor, Tensor))| {
            (&decoupled(&u.p, step.weight_decay, &step.lr) - &(&lr * &factor), vec![b])
        };
        updates.iter().zip(momenta.into_iter().zip(factors)).map(moved).collect()
    }
}

impl Optimizer for Muon {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        if shape.rank() == 2 { vec![StateSpec::zeros("momentum_buffer", shape)] } else { moments(shape, false) }
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        let update = Update { p: p.clone(), g: g.clone(), state: state.to_vec() };
        self.update_all(&[update], step).remove(0)
    }

    fn update_all(&self, updates: &[Update], step: &StepScalars) -> Vec<(Tensor, Vec<Tensor>)> {
        let mut done: Vec<Option<(Tensor, Vec<Tensor>)>> = vec![None; updates.len()];
        let lr = &step.lr * self.adamw_lr_scale;
        let rest = StepScalars { lr, t: step.t.clone(), momentum: step.momentum.clone(), shared: Vec::new(), ..*step };
        for (i, u) in updates.iter().enumerate() {
            if u.p.rank() != 2 {
                let p = decoupled(&u.p, rest.weight_decay, &rest.lr);
                done[i] = Some(adam_step(&p, &u.g, &u.state, &rest, self.adamw_betas, self.adamw_eps));
            } else if done[i].is_none() {
                let alike: Vec<usize> = (i..updates.len()).filter(|&k| updates[k].p.shape() == u.p.shape()).collect();
                let members: Vec<&Update> = alike.iter().map(|&k| &updates[k]).collect();
                for (k, new) in alike.into_iter().zip(self.matrices(&members, step)) {
                    done[k] = Some(new);
                }
            }
        }
        done.into_iter().map(|new| new.expect("bug: every parameter was updated")).collect()
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn takes_momentum(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_not_negative("lr", self.lr)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        check_share("momentum", self.momentum)?;
        need((1..100).contains(&self.ns_steps), "ns_steps", "1 to 99", &self.ns_steps)?;
        check_positive("eps", self.eps)?;
        check_share("adamw_betas", self.adamw_betas.0)?;
        check_share("adamw_betas", self.adamw_betas.1)?;
        check_not_negative("adamw_eps", self.adamw_eps)?;
        check_positive("adamw_lr_scale", self.adamw_lr_scale)
    }
}
