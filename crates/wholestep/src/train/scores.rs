//! Numbers of a data set while its batches pass by. Takes outputs and targets, gives [`Numbers`] over the whole set. Never averages
//! batches: each number is that of the set as one piece.

use super::loss::{Loss, Task};
use super::record::Numbers;
use crate::data::Array;
use crate::metrics::{Average, BinaryRanking, Confusion, Regression, TopK};
use crate::{Error, ErrorKind, Result};

/// From this number of classes up there is no matrix: it would be larger than what it says.
const MAX_MATRIX: usize = 1024;

/// A data set's numbers, and the counts behind them.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Those that the task has.
    pub numbers: Numbers,
    /// Of tasks with classes, up to 1024 of them.
    pub confusion: Option<Confusion>,
    /// Samples, those that do not count in the loss included.
    pub rows: u64,
}

/// What is counted so far.
pub(crate) struct Scores {
    counts: Counts,
    loss_sum: f64,
    loss_weight: f64,
    rows: u64,
}

enum Counts {
    Classes { n_classes: usize, confusion: Option<Confusion>, top5: Option<TopK>, right: u64, labels: u64 },
    Binary { confusion: Confusion, ranking: BinaryRanking, is_hard: bool },
    Values(Regression),
}

impl Scores {
    /// For outputs `[B, ..]` of `row` elements' shape.
    pub fn new(loss: &Loss, row: &[usize]) -> Result<Scores> {
        let elems: usize = row.iter().product();
        let counts = match loss.task() {
            Task::Classes => {
                let n_classes = row.first().copied().unwrap_or(0);
                let confusion = (n_classes <= MAX_MATRIX).then(|| Confusion::new(n_classes)).transpose()?;
                let top5 = (n_classes > 5).then(|| TopK::new(5, n_classes)).transpose()?;
                Counts::Classes { n_classes, confusion, top5, right: 0, labels: 0 }
            }
            Task::Binary => {
                Counts::Binary { confusion: Confusion::new(2)?, ranking: BinaryRanking::new(), is_hard: true }
            }
            Task::Values => Counts::Values(Regression::new(elems.max(1))?),
        };
        Ok(Scores { counts, loss_sum: 0.0, loss_weight: 0.0, rows: 0 })
    }

    /// Adds a batch: its mean loss, the model's output, the target as the step takes it.
    pub fn add(&mut self, loss: &Loss, mean: f64, output: &Array, target: &Array) -> Result<()> {
        let rows = output.rows();
        let weight = batch_weight(loss, target, rows)?;
        // The mean of a batch in which no row counts is 0/0 and says nothing.
        if weight > 0.0 {
            self.loss_sum += mean * weight;
            self.loss_weight += weight;
        }
        self.rows += rows as u64;
        let scores = output.slice::<f32>()?;
        match &mut self.counts {
            Counts::Classes { n_classes, confusion, top5, right, labels } => {
                let (scores, classes) = counted_rows(scores, *n_classes, target, loss.class_options().0)?;
                for (row, label) in scores.chunks(*n_classes).zip(&classes) {
                    let at = row.get(*label as usize).copied().unwrap_or(f32::NAN);
                    let before = |i: usize, x: f32| x > at || (x == at && i < *label as usize) || x.is_nan();
                    *right += u64::from(!row.iter().enumerate().any(|(i, &x)| before(i, x)));
                }
                *labels += classes.len() as u64;
                if let Some(confusion) = confusion {
                    confusion.update(&scores, &classes)?;
                }
                match top5 {
                    Some(top5) => top5.update(&scores, &classes),
                    None => Ok(()),
                }
            }
            Counts::Binary { confusion, ranking, is_hard } => {
                let targets = target.slice::<f32>()?;
                // Soft targets have a loss and no right or wrong.
                *is_hard &= targets.iter().all(|&t| t == 0.0 || t == 1.0);
                if !*is_hard {
                    return Ok(());
                }
                let labels: Vec<u32> = targets.iter().map(|&t| t as u32).collect();
                confusion.update_binary(scores, 0.0, &labels)?;
                ranking.update(scores, &labels)
            }
            Counts::Values(regression) => regression.update(scores, target.slice::<f32>()?),
        }
    }

    /// The numbers of all batches.
    pub fn finish(self) -> Evaluation {
        let loss = self.loss_sum / self.loss_weight;
        let numbers = Numbers { loss, ..Numbers::default() };
        let (numbers, confusion) = match self.counts {
            Counts::Classes { confusion, top5, right, labels, .. } => {
                let accuracy = (labels > 0).then(|| right as f64 / labels as f64);
                let macro_f1 = confusion.as_ref().filter(|c| c.rows() > 0).map(|c| c.average(Average::Macro).f1);
                (Numbers { accuracy, macro_f1, top5: top5.and_then(|t| t.value()), ..numbers }, confusion)
            }
            Counts::Binary { confusion, ranking, is_hard: true } => {
                let macro_f1 = (confusion.rows() > 0).then(|| confusion.average(Average::Macro).f1);
                let accuracy = confusion.accuracy();
                (Numbers { accuracy, macro_f1, roc_auc: ranking.roc_auc(), ..numbers }, Some(confusion))
            }
            Counts::Binary { is_hard: false, .. } => (numbers, None),
            Counts::Values(r) => (Numbers { mae: r.mae(), rmse: r.rmse(), r2: r.r2(), ..numbers }, None),
        };
        Evaluation { numbers, confusion, rows: self.rows }
    }
}

/// What a batch's mean loss was divided by: rows, or the weights of those that count.
fn batch_weight(loss: &Loss, target: &Array, rows: usize) -> Result<f64> {
    let (ignore, weights) = loss.class_options();
    if ignore.is_none() && weights.is_none() {
        return Ok(rows as f64);
    }
    let labels = target.cast::<i64>()?;
    let weight = |l: &&i64| weights.and_then(|w| w.get(**l as usize)).copied().unwrap_or(1.0);
    Ok(labels.slice::<i64>()?.iter().filter(|l| Some(**l) != ignore).map(|l| weight(&l)).sum())
}

/// Scores `[B, C, d..]` as rows `[B·d, C]` with their labels, without those that are ignored.
fn counted_rows(scores: &[f32], n_classes: usize, target: &Array, ignore: Option<i64>) -> Result<(Vec<f32>, Vec<u32>)> {
    let labels = target.cast::<i64>()?;
    let labels = labels.slice::<i64>()?;
    let n = labels.len().max(1);
    if n_classes == 0 || scores.len() != labels.len() * n_classes {
        let message = format!("{} scores of {n_classes} classes came for {} labels", scores.len(), labels.len());
        return Err(Error::new(ErrorKind::Input, message));
    }
    let inner = n / target.rows().max(1);
    let mut out = Vec::with_capacity(scores.len());
    let mut kept = Vec::with_capacity(n);
    for (at, &label) in labels.iter().enumerate().filter(|(_, l)| Some(**l) != ignore) {
        let (row, place) = (at / inner, at % inner);
        out.extend((0..n_classes).map(|c| scores[(row * n_classes + c) * inner + place]));
        kept.push(label as u32);
    }
    Ok((out, kept))
}
