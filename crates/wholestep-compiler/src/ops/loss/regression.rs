//! Losses between values and between distributions. Takes predictions and targets of one shape, gives a loss per element, joined as asked.
//! Never broadcasts a target.

use super::{Reduction, same_type};
use crate::ir::Tensor;
use crate::ops::{Traced, refuse, settle};

/// Options of [`Tensor::huber_loss_with`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Huber {
    /// Where the parabola becomes a line.
    pub delta: f64,
    /// Of the losses of all elements; the mean by default.
    pub reduction: Reduction,
}

impl Default for Huber {
    fn default() -> Huber {
        Huber { delta: 1.0, reduction: Reduction::Mean }
    }
}

/// Options of [`Tensor::smooth_l1_loss_with`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothL1 {
    /// Where the parabola becomes a line; 0 is [`Tensor::l1_loss`].
    pub beta: f64,
    /// Of the losses of all elements; the mean by default.
    pub reduction: Reduction,
}

impl Default for SmoothL1 {
    fn default() -> SmoothL1 {
        SmoothL1 { beta: 1.0, reduction: Reduction::Mean }
    }
}

/// Options of [`Tensor::kl_div_with`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KlDiv {
    /// Whether the target holds logarithms of probabilities.
    pub log_target: bool,
    /// Of the losses of all elements; their mean by default, as PyTorch's. The divergence as defined is `BatchMean`.
    pub reduction: Reduction,
}

impl Tensor {
    /// `(x - t)²`, mean; any shape. Matches PyTorch `mse_loss`.
    #[track_caller]
    pub fn mse_loss(&self, target: &Tensor) -> Tensor {
        self.mse_loss_with(target, Reduction::Mean)
    }

    /// [`Tensor::mse_loss`] with a reduction. Matches PyTorch `mse_loss`.
    #[track_caller]
    pub fn mse_loss_with(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        if let Err(placeholder) = same_type("mse_loss", self, target) {
            return placeholder;
        }
        reduction.join(&(self - target).square())
    }

    /// `|x - t|`, mean, with gradient 0 at 0; any shape. Matches PyTorch `l1_loss`.
    #[track_caller]
    pub fn l1_loss(&self, target: &Tensor) -> Tensor {
        self.l1_loss_with(target, Reduction::Mean)
    }

    /// [`Tensor::l1_loss`] with a reduction. Matches PyTorch `l1_loss`.
    #[track_caller]
    pub fn l1_loss_with(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        if let Err(placeholder) = same_type("l1_loss", self, target) {
            return placeholder;
        }
        reduction.join(&(self - target).abs())
    }

    /// `d²/2` where `|d| < 1`, else `|d| - 1/2`, mean, with `d = x - t`; any shape. Matches PyTorch `huber_loss`.
    #[track_caller]
    pub fn huber_loss(&self, target: &Tensor) -> Tensor {
        self.huber_loss_with(target, &Huber::default())
    }

    /// `d²/2` where `|d| < delta`, else `delta·(|d| - delta/2)`, with `d = x - t`; any shape. Matches PyTorch `huber_loss`.
    #[track_caller]
    pub fn huber_loss_with(&self, target: &Tensor, options: &Huber) -> Tensor {
        settle(huber("huber_loss", self, target, options.delta, options.reduction))
    }

    /// `d²/2` where `|d| < 1`, else `|d| - 1/2`, mean, with `d = x - t`; any shape. Matches PyTorch `smooth_l1_loss`.
    #[track_caller]
    pub fn smooth_l1_loss(&self, target: &Tensor) -> Tensor {
        self.smooth_l1_loss_with(target, &SmoothL1::default())
    }

    /// `d²/(2·beta)` where `|d| < beta`, else `|d| - beta/2`, with `d = x - t`; any shape. Matches PyTorch `smooth_l1_loss`.
    #[track_caller]
    pub fn smooth_l1_loss_with(&self, target: &Tensor, options: &SmoothL1) -> Tensor {
        settle(smooth_l1(self, target, options.beta, options.reduction))
    }

    /// `p·(ln p - x)`, mean over all elements; x holds log-probabilities, the target p. Matches PyTorch `kl_div`.
    #[track_caller]
    pub fn kl_div(&self, target: &Tensor) -> Tensor {
        self.kl_div_with(target, &KlDiv::default())
    }

    /// [`Tensor::kl_div`], or `e^t·(t - x)` where the target is `t = ln p` (`log_target`). PyTorch's `batchmean`, which is the divergence, is
    /// [`Reduction::BatchMean`]. Matches PyTorch `kl_div`.
    #[track_caller]
    pub fn kl_div_with(&self, target: &Tensor, options: &KlDiv) -> Tensor {
        if let Err(placeholder) = same_type("kl_div", self, target) {
            return placeholder;
        }
        if options.log_target {
            return options.reduction.join(&(target.exp() * (target - self)));
        }
        let zero = target.equal(0.0);
        let entropy = zero.select(0.0, target * zero.select(1.0, target).log());
        options.reduction.join(&(entropy - target * self))
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
        return Ok(x.l1_loss_with(target, reduction));
    }
    let losses = huber("smooth_l1_loss", x, target, beta, Reduction::None)?;
    Ok(reduction.join(&(losses / beta)))
}
