//! Losses over two classes: cross-entropy on probabilities and on logits, and focal loss. Takes predictions and targets in [0, 1] of one
//! shape, gives a loss per element, joined as asked. Never takes the logarithm of 0.

use super::{Reduction, same_type};
use crate::ir::{DType, Tensor};
use crate::ops::{Traced, broadcast_shape, refuse, settle};

/// Options of [`Tensor::bce_loss_with`].
#[derive(Clone, Debug, Default)]
pub struct Bce {
    /// A factor for each element; broadcasts.
    pub weight: Option<Tensor>,
    /// Of the losses of all elements; the mean divides by their number, whatever their weights, as PyTorch's.
    pub reduction: Reduction,
}

/// Options of [`Tensor::bce_with_logits_with`].
#[derive(Clone, Debug, Default)]
pub struct BceWithLogits {
    /// A factor for each element; broadcasts.
    pub weight: Option<Tensor>,
    /// A factor for the positive class; broadcasts, mostly `[C]`.
    pub pos_weight: Option<Tensor>,
    /// Of the losses of all elements; the mean divides by their number, whatever their weights, as PyTorch's.
    pub reduction: Reduction,
}

/// Options of [`Tensor::sigmoid_focal_loss_with`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SigmoidFocal {
    /// The positive class's factor, the negative's is `1 - alpha`; `None` weighs neither.
    pub alpha: Option<f64>,
    /// How much easy elements are damped; 0 is cross-entropy.
    pub gamma: f64,
    /// Of the losses of all elements; the mean by default, in torchvision none.
    pub reduction: Reduction,
}

impl Default for SigmoidFocal {
    fn default() -> SigmoidFocal {
        SigmoidFocal { alpha: Some(0.25), gamma: 2.0, reduction: Reduction::Mean }
    }
}

impl Tensor {
    /// `-(t·ln p + (1 - t)·ln(1 - p))`, mean, each logarithm at least -100; any shape. Matches PyTorch `binary_cross_entropy`.
    #[track_caller]
    pub fn bce_loss(&self, target: &Tensor) -> Tensor {
        self.bce_loss_with(target, &Bce::default())
    }

    /// [`Tensor::bce_loss`] with weights and reduction. Matches PyTorch `binary_cross_entropy`.
    #[track_caller]
    pub fn bce_loss_with(&self, target: &Tensor, options: &Bce) -> Tensor {
        settle(bce(self, target, options))
    }

    /// `-(t·ln σ(x) + (1 - t)·ln(1 - σ(x)))`, mean, without overflow; any shape. Matches PyTorch `binary_cross_entropy_with_logits`.
    #[track_caller]
    pub fn bce_with_logits(&self, target: &Tensor) -> Tensor {
        self.bce_with_logits_with(target, &BceWithLogits::default())
    }

    /// [`Tensor::bce_with_logits`] with weights and reduction. Matches PyTorch `binary_cross_entropy_with_logits`.
    #[track_caller]
    pub fn bce_with_logits_with(&self, target: &Tensor, options: &BceWithLogits) -> Tensor {
        settle(bce_with_logits(self, target, options))
    }

    /// `-alpha_t·(1 - p_t)^gamma·ln p_t` on logits, mean, with alpha 0.25 and gamma 2; any shape. Paper: Lin et al. 2017, arXiv:1708.02002,
    /// equation 5. Matches torchvision `sigmoid_focal_loss`, whose default alone is to join nothing.
    #[track_caller]
    pub fn sigmoid_focal_loss(&self, target: &Tensor) -> Tensor {
        self.sigmoid_focal_loss_with(target, &SigmoidFocal::default())
    }

    /// [`Tensor::sigmoid_focal_loss`] with alpha, gamma and reduction.
    #[track_caller]
    pub fn sigmoid_focal_loss_with(&self, target: &Tensor, options: &SigmoidFocal) -> Tensor {
        settle(sigmoid_focal(self, target, options))
    }
}

#[track_caller]
fn bce(p: &Tensor, t: &Tensor, options: &Bce) -> Traced {
    const WHAT: &str = "bce_loss";
    same_type(WHAT, p, t)?;
    // At 0 and 1 PyTorch's gradient is (p - t) / max(p·(1 - p), 1e-12): there each logarithm becomes a line of that slope through its
    // clamped value, and the logarithm of the other side a constant.
    let slope = if p.dtype() == DType::F16 { 65504.0 } else { 1e12 };
    let (at_0, at_1) = (p.equal(0.0), p.equal(1.0));
    let safe = at_0.or(&at_1).select(0.5, p);
    let log_p = at_0.select(p * slope - 100.0, at_1.select(0.0, safe.log().clamp_min(-100.0)));
    let log_q = at_1.select((1.0 - p) * slope - 100.0, at_0.select(0.0, (-&safe).log1p().clamp_min(-100.0)));
    let losses = -(t * log_p + (1.0 - t) * log_q);
    weighted(WHAT, losses, options.weight.as_ref(), options.reduction)
}

#[track_caller]
fn bce_with_logits(x: &Tensor, t: &Tensor, options: &BceWithLogits) -> Traced {
    const WHAT: &str = "bce_with_logits";
    same_type(WHAT, x, t)?;
    let losses = match &options.pos_weight {
        None => logit_losses(x, t),
        Some(w) => {
            fits(WHAT, x, w, "pos_weight")?;
            // -ln(1 - σ(x)) = x - ln σ(x)
            (1.0 - t) * x - ((w - 1.0) * t + 1.0) * x.log_sigmoid()
        }
    };
    weighted(WHAT, losses, options.weight.as_ref(), options.reduction)
}

/// `-(t·ln σ(x) + (1 - t)·ln(1 - σ(x)))` = `(1 - t)·x - ln σ(x)`.
#[track_caller]
fn logit_losses(x: &Tensor, t: &Tensor) -> Tensor {
    (1.0 - t) * x - x.log_sigmoid()
}

#[track_caller]
fn sigmoid_focal(x: &Tensor, t: &Tensor, options: &SigmoidFocal) -> Traced {
    const WHAT: &str = "sigmoid_focal_loss";
    same_type(WHAT, x, t)?;
    if options.gamma.is_nan() || options.gamma < 0.0 {
        let message = format!("need gamma of at least 0, got {}", options.gamma);
        return Err(refuse(WHAT, &[x], message, None));
    }
    let p = x.sigmoid();
    let mut losses = logit_losses(x, t);
    if options.gamma != 0.0 {
        // 1 - p_t = p + t - 2·p·t
        let miss = &p + t - &p * t * 2.0;
        losses = losses * miss.pow(options.gamma);
    }
    if let Some(alpha) = options.alpha {
        losses = losses * (t * (2.0 * alpha - 1.0) + (1.0 - alpha));
    }
    Ok(options.reduction.join(&losses))
}

/// Times the weights, joined; the mean divides by the number of elements.
#[track_caller]
fn weighted(what: &str, losses: Tensor, weight: Option<&Tensor>, reduction: Reduction) -> Traced {
    let Some(weight) = weight else { return Ok(reduction.join(&losses)) };
    fits(what, &losses, weight, "weight")?;
    Ok(reduction.join(&(losses * weight)))
}

/// Refuses weights that would make the losses larger than the input.
#[track_caller]
fn fits(what: &str, x: &Tensor, weight: &Tensor, name: &str) -> Result<(), Tensor> {
    let (shape, own) = (x.shape(), weight.shape());
    if broadcast_shape(&shape, &own).as_ref() == Some(&shape) {
        return Ok(());
    }
    let message = format!("need a {name} that broadcasts to {shape}, got {own}");
    Err(refuse(what, &[x, weight], message, None))
}
