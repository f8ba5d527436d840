//! Losses: a prediction against a target. Takes logits, probabilities or values and options, gives a scalar, or one loss per row or element
//! with [`Reduction::None`]. A loss has PyTorch's defaults, and a form `…_with` that takes its options, or its reduction where that is all. Never reads a value back: ignored rows and weights are counted on the device.

mod binary;
mod class;
mod margin;
mod regression;

pub use binary::{Bce, BceWithLogits, SigmoidFocal};
pub use class::{CrossEntropy, Nll};
pub use margin::{CosineEmbedding, HingeEmbedding, MultiMargin};
pub use regression::{Huber, KlDiv, SmoothL1};

use super::{as_declared, one_axis_more, refuse};
use crate::ir::Tensor;

/// How the losses of rows or elements are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Their mean, PyTorch's default; where rows have weights, divided by the sum of the weights.
    #[default]
    Mean,
    /// Their sum; where rows have weights, of the weighted losses.
    Sum,
    /// As they are.
    None,
    /// Their sum divided by the extent of the first axis, PyTorch's `batchmean`.
    BatchMean,
}

impl Reduction {
    /// Joins the losses of equal weight.
    #[track_caller]
    pub(crate) fn join(self, losses: &Tensor) -> Tensor {
        match self {
            Reduction::Mean => losses.mean(..),
            Reduction::Sum => losses.sum(..),
            Reduction::None => losses.clone(),
            Reduction::BatchMean => match losses.shape().0.first() {
                Some(n) => losses.sum(..) / losses.extent_beside(*n),
                None => losses.clone(),
            },
        }
    }

    /// Joins losses that hold their weights already; the mean divides by the sum of `weights`.
    #[track_caller]
    pub(crate) fn join_weighted(self, losses: &Tensor, weights: &Tensor) -> Tensor {
        match self {
            Reduction::Mean => losses.sum(..) / weights.sum(..),
            Reduction::Sum | Reduction::None | Reduction::BatchMean => self.join(losses),
        }
    }
}

/// Refuses a prediction and a target of different shapes: broadcasting one would hide a mistake.
#[track_caller]
pub(crate) fn same_shape(what: &str, x: &Tensor, target: &Tensor) -> Result<(), Tensor> {
    if x.shape() == target.shape() {
        return Ok(());
    }
    let message = format!("need a target of the input's shape, got {} and {}", x.shape(), target.shape());
    let help = match (one_axis_more(&x.shape(), &target.shape()), one_axis_more(&target.shape(), &x.shape())) {
        (Some(axis), _) => {
            format!(
                "declare the target {}, or take the axis off the input by .squeeze({axis})",
                as_declared(&x.shape())
            )
        }
        (None, Some(axis)) => format!("take the axis off the target by .squeeze({axis})"),
        (None, None) => "a loss does not broadcast; reshape one of them".to_string(),
    };
    Err(refuse(what, &[x, target], message, Some(help)))
}

/// Refuses a target of another shape or type than the prediction's, which is a float: labels are no quantities.
#[track_caller]
pub(crate) fn same_type(what: &str, x: &Tensor, target: &Tensor) -> Result<(), Tensor> {
    x.float_or(what)?;
    same_shape(what, x, target)?;
    if x.dtype() == target.dtype() {
        return Ok(());
    }
    let message = format!("need a target of the input's type, got {} and {}", x.dtype(), target.dtype());
    let help = format!("quantities are .cast(DType::{:?}); labels go with cross_entropy or nll_loss", x.dtype());
    Err(refuse(what, &[x, target], message, Some(help)))
}
