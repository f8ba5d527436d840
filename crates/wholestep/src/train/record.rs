//! What a run says about itself: numbers of a data set, of an epoch, of all epochs, and the rules that read them. Takes plain numbers,
//! gives plain numbers. Never holds a device, a file or a clock.

use super::fingerprint::Fingerprint;
use super::loss::Task;
use crate::error::need;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize};

/// Numbers over a whole data set; those that the task does not have are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// The mean over all rows that count, not one of batch means; NaN where none counts.
    #[serde(deserialize_with = "maybe_nan")]
    pub loss: f64,
    /// Share of rows whose class is right, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Share of rows whose class is among the five likeliest; from six classes up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    /// Mean of the F1 of each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
    /// Area under the ROC curve, two classes as one logit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Mean absolute error, in the target's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// Root of the mean squared error, in the target's unit; of several outputs the mean of their roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    /// Coefficient of determination: 1 is perfect, 0 as good as always the mean; it may be negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
}

/// A number of an epoch that rules can look at. In files "loss", "accuracy", "train_loss" ….
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Of the validation set, as all without "train"; less is better.
    Loss,
    /// [`Numbers::accuracy`]; more is better.
    Accuracy,
    /// [`Numbers::top5`]; more is better.
    Top5,
    /// [`Numbers::macro_f1`]; more is better.
    MacroF1,
    /// [`Numbers::roc_auc`]; more is better.
    RocAuc,
    /// [`Numbers::mae`]; less is better.
    Mae,
    /// [`Numbers::rmse`]; less is better.
    Rmse,
    /// [`Numbers::r2`]; more is better.
    R2,
    /// [`Epoch::train_loss`]: over rows as they were trained on, with dropout; less is better.
    TrainLoss,
    /// [`Epoch::train_accuracy`], counted as `train_loss`; more is better.
    TrainAccuracy,
}

impl Metric {
    /// Whether more is better.
    pub fn rises(self) -> bool {
        match self {
            Metric::Accuracy | Metric::Top5 | Metric::MacroF1 | Metric::RocAuc | Metric::R2 | Metric::TrainAccuracy => {
                true
            }
            Metric::Loss | Metric::Mae | Metric::Rmse | Metric::TrainLoss => false,
        }
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::Accuracy => "accuracy",
            Metric::Top5 => "top5",
            Metric::MacroF1 => "macro_f1",
            Metric::RocAuc => "roc_auc",
            Metric::Mae => "mae",
            Metric::Rmse => "rmse",
            Metric::R2 => "r2",
            Metric::TrainLoss => "train_loss",
            Metric::TrainAccuracy => "train_accuracy",
        }
    }

    const ALL: [Metric; 10] = [
        Metric::Loss,
        Metric::Accuracy,
        Metric::Top5,
        Metric::MacroF1,
        Metric::RocAuc,
        Metric::Mae,
        Metric::Rmse,
        Metric::R2,
        Metric::TrainLoss,
        Metric::TrainAccuracy,
    ];

    /// Whether a task has this number.
    pub fn is_of(self, task: Task) -> bool {
        match self {
            Metric::Loss | Metric::TrainLoss => true,
            Metric::Accuracy | Metric::MacroF1 | Metric::TrainAccuracy => task != Task::Values,
            Metric::Top5 => task == Task::Classes,
            Metric::RocAuc => task == Task::Binary,
            Metric::Mae | Metric::Rmse | Metric::R2 => task == Task::Values,
        }
    }

    /// Errors (`ErrorKind::Config`): `task` has no such number; the text lists those that it has.
    pub fn check(self, task: Task) -> Result<()> {
        if self.is_of(task) {
            return Ok(());
        }
        let of_task = match task {
            Task::Classes => "a loss over classes",
            Task::Binary => "a loss over yes and no",
            Task::Values => "a loss over quantities",
        };
        let known: Vec<&str> = Metric::ALL.into_iter().filter(|m| m.is_of(task)).map(Metric::name).collect();
        let message = format!("{of_task} has no {}; it has {}", self.name(), known.join(", "));
        Err(Error::new(ErrorKind::Config, message))
    }

    /// Whether it needs a validation set.
    pub fn needs_validation(self) -> bool {
        !matches!(self, Metric::TrainLoss | Metric::TrainAccuracy)
    }
}

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// Steps of the run so far.
    pub steps: u64,
    /// Mean of the loss over the rows of this epoch, each with the weights of its step.
    #[serde(deserialize_with = "maybe_nan")]
    pub train_loss: f64,
    /// Share of rows that were right while training on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// Of the whole validation set with the weights at the end of the epoch, or their average where one is kept; absent without such a set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Numbers>,
    /// The rate of the last step.
    pub lr: f64,
    /// The 2-norm of the last step's gradient before clipping, where the run notes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// The gradient's noise scale by then, in rows, where the run notes it: batches far beyond it stop paying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_scale: Option<f64>,
    /// Of this epoch with its validation.
    pub seconds: f64,
    /// Since the run began, compilation included.
    pub elapsed_seconds: f64,
    /// Whether it is the best so far by the number that the run monitors.
    pub is_best: bool,
}

impl Numbers {
    /// The number called `metric`, if there is one; never one of training.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Loss => Some(self.loss),
            Metric::Accuracy => self.accuracy,
            Metric::Top5 => self.top5,
            Metric::MacroF1 => self.macro_f1,
            Metric::RocAuc => self.roc_auc,
            Metric::Mae => self.mae,
            Metric::Rmse => self.rmse,
            Metric::R2 => self.r2,
            Metric::TrainLoss | Metric::TrainAccuracy => None,
        }
    }
}

impl Epoch {
    /// The number called `metric`, if this run has it.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::TrainLoss => Some(self.train_loss),
            Metric::TrainAccuracy => self.train_accuracy,
            other => self.validation.and_then(|n| n.get(other)),
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All epochs ran.
    Epochs,
    /// The target of [`StopAt`] was reached, this many seconds after the run began.
    Target {
        /// From the start of the run, those of earlier processes included, to the end of the epoch that reached it.
        seconds: f64,
    },
    /// Nothing improved for as long as [`EarlyStopping`] waits.
    Patience,
    /// A callback asked for it.
    Callback,
}

/// All epochs of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// In order, those before a resumption included.
    pub epochs: Vec<Epoch>,
    /// Why there is no other epoch.
    pub ended: Ended,
    /// The number of the epoch that was best by the monitored number.
    pub best_epoch: Option<u32>,
    /// From the start of `fit` to its end, with those of the run that it went on from.
    pub seconds: f64,
}

/// Ends a run that no longer improves, and puts back the weights of its best epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Epochs without improvement after which the run ends.
    pub patience: u32,
    /// What counts as improvement must be larger than this.
    #[serde(default)]
    pub min_delta: f64,
    /// Absent: the validation loss, or the training loss of a run without validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Metric>,
}

impl EarlyStopping {
    /// On the loss.
    pub fn new(patience: u32) -> EarlyStopping {
        EarlyStopping { patience, min_delta: 0.0, monitor: None }
    }

    pub(crate) fn check(&self) -> Result<()> {
        need(self.patience > 0, "early_stopping.patience", "at least 1 epoch", &self.patience)?;
        let fits = self.min_delta >= 0.0 && self.min_delta.is_finite();
        need(fits, "early_stopping.min_delta", "a finite number >= 0", &self.min_delta)
    }
}

/// Ends a run once a number is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopAt {
    /// What is looked at; one of training needs no validation set.
    pub metric: Metric,
    /// Accuracies are shares: 0.99.
    pub value: f64,
}

impl StopAt {
    /// Errors (`ErrorKind::Config`): a value that is no finite number.
    pub fn check(&self) -> Result<()> {
        need(self.value.is_finite(), "value", "a finite number", &self.value)
    }

    /// Whether a number of this metric is good enough; one that is absent is not.
    pub fn is_reached(&self, number: Option<f64>) -> bool {
        number.is_some_and(|x| if self.metric.rises() { x >= self.value } else { x <= self.value })
    }
}

/// JSON writes what is not finite as null.
fn maybe_nan<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// How far a run was, in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Those that ended.
    pub epochs: Vec<Epoch>,
    /// The best of them, and how long ago that was.
    pub best: Best,
    /// Seconds of training so far, over all resumptions.
    pub seconds: f64,
    /// What it learns from.
    pub data: Fingerprint,
}

/// The best epoch so far by one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The number that is compared, of the validation set unless it is one of training.
    pub metric: Metric,
    min_delta: f64,
    /// Its bits, because JSON has no infinity.
    value: Option<u64>,
    /// Its number, from 1; `None` before the first.
    pub epoch: Option<u32>,
    /// Epochs since then.
    pub waited: u32,
}

impl Best {
    pub(crate) fn new(metric: Metric, min_delta: f64) -> Best {
        Best { metric, min_delta, value: None, epoch: None, waited: 0 }
    }

    /// Whether `epoch` is better than all before.
    pub(crate) fn is_improved_by(&mut self, epoch: &Epoch) -> bool {
        let improved = match (epoch.get(self.metric).filter(|x| !x.is_nan()), self.value.map(f64::from_bits)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(new), Some(old)) if self.metric.rises() => new > old + self.min_delta,
            (Some(new), Some(old)) => new < old - self.min_delta,
        };
        if improved {
            self.value = epoch.get(self.metric).map(f64::to_bits);
            self.epoch = Some(epoch.epoch);
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        improved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u32, loss: f64) -> Epoch {
        let numbers = Numbers { loss, accuracy: Some(loss), ..Numbers::default() };
        Epoch {
            epoch,
            steps: u64::from(epoch),
            train_loss: loss,
            train_accuracy: None,
            validation: Some(numbers),
            lr: 0.1,
            grad_norm: None,
            noise_scale: None,
            seconds: 1.0,
            elapsed_seconds: 1.0,
            is_best: false,
        }
    }

    /// Falling by less than `min_delta` counts as no improvement, however often it happens; rising likewise where more is better.
    #[test]
    fn only_more_than_the_least_difference_is_an_improvement() {
        for (metric, numbers, expected, waited) in [
            (Metric::Loss, [1.0, 0.95, 0.91, 0.85, 0.8], [true, false, false, true, false], 1),
            (Metric::Accuracy, [0.5, 0.55, 0.59, 0.65, 0.8], [true, false, false, true, true], 0),
        ] {
            let mut best = Best::new(metric, 0.1);
            let improved = [1, 2, 3, 4, 5].map(|n| best.is_improved_by(&epoch(n, numbers[n as usize - 1])));
            assert_eq!((improved, best.waited), (expected, waited), "{metric:?}");
        }
        // No number is no improvement, unless there is nothing else yet.
        let mut best = Best::new(Metric::Loss, 0.0);
        assert!(!best.is_improved_by(&epoch(1, f64::NAN)) && best.is_improved_by(&epoch(2, 3.0)));
    }
}
