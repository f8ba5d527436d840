//! Losses between values and between distributions. Takes predictions and targets of one shape, gives a loss per element, joined as asked.
//! Never broadcasts a target.

use super::{Reduction, same_type};
use crate::ir::Tensor;
use crate::ops::{Traced, refuse, settle};

impl Tensor {
    /// `(x - t)²`; any shape. Matches PyTorch `mse_loss`.
    #[track_caller]
    pub fn mse_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        if let Err(placeholder) = same_type("mse_loss", self, target) {
            return placeholder;
        }
        reduction.join(&(self - target).square())
    }

    /// `|x - t|`, with gradient 0 at 0; any shape. Matches PyTorch `l1_loss`.
    #[track_caller]
    pub fn l1_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        if let Err(placeholder) = same_type("l1_loss", self, target) {
            return placeholder;
        }
        reduction.join(&(self - target).abs())
    }

    /// `d²/2` where `|d| < delta`, else `delta·(|d| - delta/2)`, with `d = x - t`; any shape. Matches PyTorch `huber_loss`.
    #[track_caller]
    pub fn huber_loss(&self, target: &Tensor, delta: f64, reduction: Reduction) -> Tensor {
        settle(huber("huber_loss", self, target, delta, reduction))
    }

    /// `d²/(2·beta)` where `|d| < beta`, else `|d| - beta/2`, with `d = x - t`; any shape. Matches PyTorch `smooth_l1_loss`.
    #[track_caller]
    pub fn smooth_l1_loss(&self, target: &Tensor, beta: f64, reduction: Reduction) -> Tensor {
        settle(smooth_l1(self, target, beta, reduction))
    }

    /// `p·(ln p - x)`, or `e^t·(t - x)` where the target is `t = ln p` (`log_target`); x holds log-probabilities. PyTorch's `batchmean` is
    /// [`Reduction::BatchMean`]. Matches PyTorch `kl_div`.
    #[track_caller]
    pub fn kl_div(&self, target: &Tensor, log_target: bool, reduction: Reduction) -> Tensor {
        if let Err(placeholder) = same_type("kl_div", self, target) {
            return placeholder;
        }
        if log_target {
            return reduction.join(&(target.exp() * (target - self)));
        }
        let zero = target.equal(0.0);
        let entropy = zero.select(0.0, target * zero.select(1.0, target).log());
        reduction.join(&(entropy - target * self))
    }
}

#[track_caller]
fn huber(what: &str, x: &Tensor, target: &Tensor, delta: f64, reduction: Reduction) -> Traced {
    same_type(what, x, target)?;
    if delta.is_nan() || delta <= 0.0 {
        return Err(refuse(what, &[x, target], format!("need a width above 0, got {delta}"), None));
    }
    let d = x - target;
    let size = d.abs();
    let losses = size.less(delta).select(d.square() * 0.5, (&size - 0.5 * delta) * delta);
    Ok(reduction.join(&losses))
}

#[track_caller]
fn smooth_l1(x: &Tensor, target: &Tensor, beta: f64, reduction: Reduction) -> Traced {
    if beta == 0.0 {
        return Ok(x.l1_loss(target, reduction));
    }
    let losses = huber("smooth_l1_loss", x, target, beta, Reduction::None)?;
    Ok(reduction.join(&(losses / beta)))
}
