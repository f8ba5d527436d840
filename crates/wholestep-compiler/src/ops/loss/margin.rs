//! Losses that ask for a distance: hinges, embeddings, margins. Takes scores or vectors and targets of ±1 or labels, gives a loss per
//! element or row, joined as asked. Never penalizes what is beyond its margin.

use super::class::{Labels, check_labels, check_weight, none_ignored, sum_last};
use super::{Reduction, same_shape, same_type};
use crate::ir::op::Index;
use crate::ir::{Shape, Tensor};
use crate::ops::{Traced, refuse, settle};

/// Options of [`Tensor::hinge_embedding_loss_with`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HingeEmbedding {
    /// The distance from which a pair of target -1 costs nothing; 1 by default.
    pub margin: f64,
    /// Of the losses of all elements; the mean by default.
    pub reduction: Reduction,
}

impl Default for HingeEmbedding {
    fn default() -> HingeEmbedding {
        HingeEmbedding { margin: 1.0, reduction: Reduction::Mean }
    }
}

/// Options of [`Tensor::cosine_embedding_loss_with`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CosineEmbedding {
    /// The cosine up to which a pair of target -1 costs nothing, -1 to 1; 0 by default.
    pub margin: f64,
    /// Of the losses of all rows; the mean by default.
    pub reduction: Reduction,
}

/// Options of [`Tensor::multi_margin_loss_with`].
#[derive(Clone, Debug)]
pub struct MultiMargin {
    /// 1 or 2: the power of each violation.
    pub p: usize,
    /// By how much the label's score must be above each other one to cost nothing; 1 by default.
    pub margin: f64,
    /// One factor per class, `[C]`.
    pub weight: Option<Tensor>,
    /// Of the losses of all rows; the mean by default, which divides by their number.
    pub reduction: Reduction,
}

impl Default for MultiMargin {
    fn default() -> MultiMargin {
        MultiMargin { p: 1, margin: 1.0, weight: None, reduction: Reduction::Mean }
    }
}

impl Tensor {
    /// `max(0, 1 - t·x)`, mean, with targets ±1 of x's shape. Matches `relu(1 - t * x).mean()` in PyTorch.
    #[track_caller]
    pub fn hinge_loss(&self, target: &Tensor) -> Tensor {
        self.hinge_loss_with(target, Reduction::Mean)
    }

    /// [`Tensor::hinge_loss`] with a reduction.
    #[track_caller]
    pub fn hinge_loss_with(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        if let Err(placeholder) = same_type("hinge_loss", self, target) {
            return placeholder;
        }
        reduction.join(&(1.0 - target * self).relu())
    }

    /// x where the target is 1, `max(0, 1 - x)` where it is -1, mean; any shape. Matches PyTorch `hinge_embedding_loss`.
    #[track_caller]
    pub fn hinge_embedding_loss(&self, target: &Tensor) -> Tensor {
        self.hinge_embedding_loss_with(target, &HingeEmbedding::default())
    }

    /// [`Tensor::hinge_embedding_loss`] with `max(0, margin - x)`, and a reduction. Matches PyTorch `hinge_embedding_loss`.
    #[track_caller]
    pub fn hinge_embedding_loss_with(&self, target: &Tensor, options: &HingeEmbedding) -> Tensor {
        if let Err(placeholder) = same_shape("hinge_embedding_loss", self, target) {
            return placeholder;
        }
        // PyTorch's two terms: a target that is neither 1 nor -1 counts in both.
        let near = target.not_equal(-1.0).select(self, 0.0);
        let far = target.not_equal(1.0).select((options.margin - self).clamp_min(0.0), 0.0);
        options.reduction.join(&(near + far))
    }

    /// `1 - cos(x, y)` where the target is 1, `max(0, cos(x, y))` where it is -1, mean: x, y `[N, D]`, target `[N]`. Matches PyTorch
    /// `cosine_embedding_loss`.
    #[track_caller]
    pub fn cosine_embedding_loss(&self, other: &Tensor, target: &Tensor) -> Tensor {
        self.cosine_embedding_loss_with(other, target, &CosineEmbedding::default())
    }

    /// [`Tensor::cosine_embedding_loss`] with `max(0, cos(x, y) - margin)`, and a reduction. Matches PyTorch `cosine_embedding_loss`.
    #[track_caller]
    pub fn cosine_embedding_loss_with(&self, other: &Tensor, target: &Tensor, options: &CosineEmbedding) -> Tensor {
        settle(cosine_embedding(self, other, target, options))
    }

    /// `Σ_{j≠label} max(0, 1 - x[label] + x[j]) / C`, mean over rows: scores `[N, C]`, labels `[N]`. Matches PyTorch `multi_margin_loss`.
    #[track_caller]
    pub fn multi_margin_loss(&self, labels: &Tensor) -> Tensor {
        self.multi_margin_loss_with(labels, &MultiMargin::default())
    }

    /// `Σ_{j≠label} max(0, margin - x[label] + x[j])^p / C`, with class weights and reduction. Matches PyTorch `multi_margin_loss`.
    #[track_caller]
    pub fn multi_margin_loss_with(&self, labels: &Tensor, options: &MultiMargin) -> Tensor {
        settle(multi_margin(self, labels, options))
    }
}

#[track_caller]
fn cosine_embedding(x: &Tensor, y: &Tensor, target: &Tensor, options: &CosineEmbedding) -> Traced {
    const WHAT: &str = "cosine_embedding_loss";
    x.float_or(WHAT)?;
    let shape = x.shape();
    let rows = Shape(shape.0[..shape.rank().saturating_sub(1)].to_vec());
    if shape.rank() == 0 || y.shape() != shape || target.shape() != rows {
        let message =
            format!("need two inputs [.., D] and a target [..], got {shape}, {} and {}", y.shape(), target.shape());
        return Err(refuse(WHAT, &[x, y, target], message, None));
    }
    const EPS: f64 = 1e-12; // PyTorch's
    let norms = (sum_last(&x.square()) + EPS) * (sum_last(&y.square()) + EPS);
    let cosine = sum_last(&(x * y)) / norms.sqrt();
    let near = target.equal(1.0).select(1.0 - &cosine, 0.0);
    let far = target.equal(-1.0).select((cosine - options.margin).clamp_min(0.0), 0.0);
    Ok(options.reduction.join(&(near + far)))
}

#[track_caller]
fn multi_margin(x: &Tensor, target: &Tensor, options: &MultiMargin) -> Traced {
    const WHAT: &str = "multi_margin_loss";
    x.float_or(WHAT)?;
    if x.rank() != 2 {
        return Err(refuse(WHAT, &[x, target], format!("need scores [N, C], got {}", x.shape()), None));
    }
    if options.p != 1 && options.p != 2 {
        return Err(refuse(WHAT, &[x, target], format!("need p of 1 or 2, got {}", options.p), None));
    }
    check_labels(WHAT, x, target, 1)?;
    none_ignored(WHAT, x, target)?;
    check_weight(WHAT, x, 1, options.weight.as_ref())?;
    let labels = Labels::new(x, target, None, None);
    let violation = (x - labels.pick(x).unsqueeze(-1) + options.margin).relu();
    let powered = if options.p == 2 { violation.square() } else { violation };
    let mut losses = sum_last(&labels.hit().select(0.0, powered)) / x.extent_beside(x.shape().0[1]);
    if let Some(weight) = &options.weight {
        losses = losses * weight.detach().apply(Index::Take { axis: 0 }, &[target]);
    }
    Ok(options.reduction.join(&losses))
}
