//! Losses as data. Takes a variant with its options, gives the target input and the scalar loss of a traced model. Never guesses what a
//! target means: the variant says it.

use crate::error::need;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{DType, Init, Scope, Shape, SlotKind, Tensor};
use wholestep_compiler::ops::loss::{BceWithLogits, CrossEntropy, Huber, Nll, Reduction, SmoothL1};

/// What a step minimizes: a mean over the batch. In files `type` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Logits `[B, C, d..]`, labels `[B, d..]` in `0..C`. Matches PyTorch `cross_entropy`.
    CrossEntropy {
        /// The share of probability that is spread evenly over all classes, in \[0, 1\].
        #[serde(default)]
        label_smoothing: f64,
        /// One factor per class.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class_weights: Option<Vec<f64>>,
        /// Rows with this label do not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ignore_index: Option<i64>,
    },
    /// Log-probabilities `[B, C, d..]`, labels `[B, d..]`. Matches PyTorch `nll_loss`.
    Nll {
        /// One factor per class.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class_weights: Option<Vec<f64>>,
        /// Rows with this label do not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ignore_index: Option<i64>,
    },
    /// Logits and targets in \[0, 1\] of one shape. Matches PyTorch `binary_cross_entropy_with_logits`.
    BceWithLogits {
        /// A factor for the positive class.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pos_weight: Option<f64>,
    },
    /// Mean of `d²`. Matches PyTorch `mse_loss`.
    Mse {},
    /// Mean of `|d|`. Matches PyTorch `l1_loss`.
    Mae {},
    /// `d²/2` below `delta`, a line above. Matches PyTorch `huber_loss`.
    Huber {
        /// Where the parabola becomes a line, in the target's unit; > 0, 1 by default.
        #[serde(default = "one")]
        delta: f64,
    },
    /// Huber divided by `beta`. Matches PyTorch `smooth_l1_loss`.
    SmoothL1 {
        /// Where the parabola becomes a line, in the target's unit; >= 0, 1 by default. 0 is the mean of `|d|`.
        #[serde(default = "one")]
        beta: f64,
    },
}

fn one() -> f64 {
    1.0
}

/// What a loss says about the model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One of C classes.
    Classes,
    /// Yes or no, as logits.
    Binary,
    /// Numbers.
    Values,
}

/// A traced loss.
pub(crate) struct Traced {
    pub target: Tensor,
    /// The mean over the batch, a scalar.
    pub loss: Tensor,
    /// What that mean was divided by, where it is not the number of targets: the weights of those that count.
    pub weight: Option<Tensor>,
    /// Bool of the target's shape: which targets count, where not all do.
    pub counts: Option<Tensor>,
}

impl Traced {
    fn plain(target: Tensor, loss: Tensor) -> Traced {
        Traced { target, loss, weight: None, counts: None }
    }

    /// The loss of labels with class weights, or with a label that does not count.
    fn weighted(labels: Tensor, loss: Tensor, weights: Option<&Tensor>, ignore: Option<i64>) -> Traced {
        let counts = ignore.map(|label| labels.not_equal(label as f64));
        let weights = weights.map(|w| w.take(0, &labels));
        let weight = match (&weights, &counts) {
            (None, None) => None,
            (None, Some(counts)) => Some(counts.cast(DType::F32).sum(..)),
            (Some(weights), None) => Some(weights.sum(..)),
            (Some(weights), Some(counts)) => Some(counts.select(weights, 0.0).sum(..)),
        };
        Traced { target: labels, loss, weight, counts }
    }
}

impl Loss {
    /// Cross-entropy without options.
    pub fn cross_entropy() -> Loss {
        Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None, ignore_index: None }
    }

    /// What the outputs mean.
    pub fn task(&self) -> Task {
        match self {
            Loss::CrossEntropy { .. } | Loss::Nll { .. } => Task::Classes,
            Loss::BceWithLogits { .. } => Task::Binary,
            Loss::Mse {} | Loss::Mae {} | Loss::Huber { .. } | Loss::SmoothL1 { .. } => Task::Values,
        }
    }

    /// Errors (`ErrorKind::Config`): an option that no loss can have, by name.
    pub fn check(&self) -> Result<()> {
        match self {
            Loss::CrossEntropy { label_smoothing, class_weights, .. } => {
                need(
                    (0.0..=1.0).contains(label_smoothing),
                    "label_smoothing",
                    "a number from 0 to 1",
                    label_smoothing,
                )?;
                check_weights(class_weights)
            }
            Loss::Nll { class_weights, .. } => check_weights(class_weights),
            Loss::BceWithLogits { pos_weight } => {
                let weight = pos_weight.unwrap_or(1.0);
                need(weight > 0.0 && weight.is_finite(), "pos_weight", "a finite number > 0", &weight)
            }
            Loss::Huber { delta } => need(*delta > 0.0 && delta.is_finite(), "delta", "a finite number > 0", delta),
            Loss::SmoothL1 { beta } => need(*beta >= 0.0 && beta.is_finite(), "beta", "a finite number >= 0", beta),
            Loss::Mse {} | Loss::Mae {} => Ok(()),
        }
    }

    /// The label that does not count, and the factor of each class.
    pub(crate) fn class_options(&self) -> (Option<i64>, Option<&[f64]>) {
        match self {
            Loss::CrossEntropy { class_weights, ignore_index, .. } | Loss::Nll { class_weights, ignore_index } => {
                (*ignore_index, class_weights.as_deref())
            }
            Loss::BceWithLogits { .. } | Loss::Mse {} | Loss::Mae {} | Loss::Huber { .. } | Loss::SmoothL1 { .. } => {
                (None, None)
            }
        }
    }

    /// Declares the input `target` and traces the mean loss of `output`.
    /// Errors: an output without a class axis; class weights of another number.
    pub(crate) fn trace(&self, s: &Scope, target: &str, output: &Tensor) -> Result<Traced> {
        let s = s.sub("loss");
        let joined = |loss: fn(&Tensor, &Tensor) -> Tensor| {
            let target = s.input(target, output.shape(), DType::F32);
            let loss = loss(output, &target);
            Traced::plain(target, loss)
        };
        match self {
            Loss::CrossEntropy { label_smoothing, class_weights, ignore_index } => {
                let (labels, weight) = labels(&s, target, output, class_weights.as_deref(), *ignore_index)?;
                let options = CrossEntropy {
                    axis: 1,
                    weight: weight.clone(),
                    ignore_index: *ignore_index,
                    label_smoothing: *label_smoothing,
                    reduction: Reduction::Mean,
                };
                let loss = output.cross_entropy_with(&labels, &options);
                Ok(Traced::weighted(labels, loss, weight.as_ref(), *ignore_index))
            }
            Loss::Nll { class_weights, ignore_index } => {
                let (labels, weight) = labels(&s, target, output, class_weights.as_deref(), *ignore_index)?;
                let (weights, reduction) = (weight.clone(), Reduction::Mean);
                let options = Nll { axis: 1, weight: weights, ignore_index: *ignore_index, reduction };
                let loss = output.nll_loss_with(&labels, &options);
                Ok(Traced::weighted(labels, loss, weight.as_ref(), *ignore_index))
            }
            Loss::BceWithLogits { pos_weight } => {
                let target = s.input(target, output.shape(), DType::F32);
                let pos_weight = pos_weight.map(|w| s.constant(w, DType::F32));
                let options = BceWithLogits { weight: None, pos_weight, reduction: Reduction::Mean };
                let loss = output.bce_with_logits_with(&target, &options);
                Ok(Traced::plain(target, loss))
            }
            Loss::Mse {} => Ok(joined(|x, t| x.mse_loss(t))),
            Loss::Mae {} => Ok(joined(|x, t| x.l1_loss(t))),
            Loss::Huber { delta } => {
                let target = s.input(target, output.shape(), DType::F32);
                let loss = output.huber_loss_with(&target, &Huber { delta: *delta, ..Huber::default() });
                Ok(Traced::plain(target, loss))
            }
            Loss::SmoothL1 { beta } => {
                let target = s.input(target, output.shape(), DType::F32);
                let loss = output.smooth_l1_loss_with(&target, &SmoothL1 { beta: *beta, ..SmoothL1::default() });
                Ok(Traced::plain(target, loss))
            }
        }
    }
}

/// The label input of scores `[B, C, d..]` and the factors of the classes.
fn labels(
    s: &Scope,
    target: &str,
    output: &Tensor,
    weights: Option<&[f64]>,
    ignore: Option<i64>,
) -> Result<(Tensor, Option<Tensor>)> {
    let build = |text: String| Error::new(ErrorKind::Build, text);
    let shape = output.shape();
    let n_classes = shape.dims().get(1).and_then(|d| d.as_fixed());
    let Some(n_classes) = n_classes else {
        return Err(build(format!("the loss needs scores [B, C, ..] with C classes, the model gives {shape}")));
    };
    if let Some(weights) = weights.filter(|w| w.len() != n_classes) {
        let n = weights.len();
        return Err(build(format!(
            "class_weights has {n} factors, the model gives {n_classes} classes; give one for each"
        )));
    }
    let mut dims = shape.dims().to_vec();
    dims.remove(1);
    let dtype = if ignore.is_some_and(|i| i < 0) { DType::I32 } else { DType::U32 };
    let labels = s.labels(target, Shape(dims), dtype, n_classes, ignore);
    let weight = weights.map(|w| {
        let values = w.iter().map(|&w| w as f32).collect();
        s.slot("class_weights", SlotKind::State, DType::F32, Shape::from(&[n_classes][..]), Init::Values(values))
    });
    Ok((labels, weight))
}

fn check_weights(weights: &Option<Vec<f64>>) -> Result<()> {
    match weights.iter().flatten().find(|w| !(**w >= 0.0 && w.is_finite())) {
        Some(bad) => need(false, "class_weights", "finite numbers >= 0", bad),
        None => Ok(()),
    }
}
