//! The confusion matrix and what follows from it: accuracy, precision, recall and F1. Takes predicted and true classes,
//! gives counts and ratios with scikit-learn's `zero_division=0`. Never stores more than the counts.

use super::table::{Column, write_table};
use super::{argmax, check_binary, check_labels, check_lengths, check_n_classes, check_rows, ratio, refuse};
use crate::Result;
use std::fmt;

/// Above this the matrix alone passes 128 MiB; [`Accuracy`](super::Accuracy) and [`TopK`](super::TopK) have no limit.
const MAX_CLASSES: usize = 4096;

/// Counts of (true class, predicted class) over a whole set.
///
/// Matches scikit-learn `confusion_matrix` and `precision_recall_fscore_support` with `labels=range(C)` and
/// `zero_division=0`: a class that never occurs counts as 0 in the macro average.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    n_classes: usize,
    /// Row = true class, column = predicted class.
    counts: Vec<u64>,
}

/// Precision, recall, F1 and support of one class, or their average over classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassScores {
    /// Right predictions of the class / all predictions of it; 0 when it was never predicted.
    pub precision: f64,
    /// Right predictions of the class / all rows of it; 0 when it has no rows.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 when the class neither occurs nor is predicted.
    pub f1: f64,
    /// Rows whose true class it is.
    pub support: u64,
}

/// How per-class scores become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// The mean over classes: each class counts the same.
    Macro,
    /// From the summed counts: each row counts the same (with one label per row it equals the accuracy).
    Micro,
    /// The mean over classes weighted by support.
    Weighted,
}

impl Confusion {
    /// An empty matrix for `n_classes` classes. Errors: no class, or more than 4096.
    pub fn new(n_classes: usize) -> Result<Confusion> {
        check_n_classes("confusion matrix", n_classes)?;
        if n_classes > MAX_CLASSES {
            return Err(refuse(
                "confusion matrix",
                format!("expected at most {MAX_CLASSES} classes, got {n_classes}; use Accuracy or TopK for so many"),
            ));
        }
        Ok(Confusion { n_classes, counts: vec![0; n_classes * n_classes] })
    }

    /// Adds a batch: `scores [B, C]` (logits or probabilities), `labels [B]`. The first of equal largest scores wins.
    ///
    /// Errors (nothing is added): lengths that do not fit, a label outside `0..C`, a NaN score.
    pub fn update(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        check_rows("confusion matrix", scores, self.n_classes, labels)?;
        for (row, label) in scores.chunks_exact(self.n_classes).zip(labels) {
            self.count(*label as usize, argmax(row));
        }
        Ok(())
    }

    /// Adds a batch of classes already chosen: `predicted [B]`, `labels [B]`.
    ///
    /// Errors (nothing is added): lengths that differ, a class outside `0..C`.
    pub fn update_classes(&mut self, predicted: &[u32], labels: &[u32]) -> Result<()> {
        check_lengths("confusion matrix", "predictions", predicted.len(), "labels", labels.len())?;
        check_labels("confusion matrix", "prediction", predicted, self.n_classes)?;
        check_labels("confusion matrix", "label", labels, self.n_classes)?;
        for (predicted, label) in predicted.iter().zip(labels) {
            self.count(*label as usize, *predicted as usize);
        }
        Ok(())
    }

    /// Adds a batch of a two-class model with one output: `scores [B]`, class 1 where the score is above `threshold`
    /// (0.5 for probabilities, 0 for logits), `labels [B]` 0 or 1.
    ///
    /// Errors (nothing is added): not a two-class matrix, lengths that differ, a label above 1, a NaN score or threshold.
    pub fn update_binary(&mut self, scores: &[f32], threshold: f32, labels: &[u32]) -> Result<()> {
        if self.n_classes != 2 {
            let text = format!("expected 2 classes for one score per row, got a matrix of {}", self.n_classes);
            return Err(refuse("confusion matrix", text));
        }
        if threshold.is_nan() {
            return Err(refuse("confusion matrix", "expected a number as threshold, got NaN".to_string()));
        }
        check_binary("confusion matrix", scores, labels)?;
        for (score, label) in scores.iter().zip(labels) {
            self.count(*label as usize, usize::from(*score > threshold));
        }
        Ok(())
    }

    fn count(&mut self, label: usize, predicted: usize) {
        self.counts[label * self.n_classes + predicted] += 1;
    }

    /// Number of classes `C`.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Counts `[C, C]` row by row: row = true class, column = predicted class.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of rows on the diagonal; `None` before the first row.
    pub fn accuracy(&self) -> Option<f64> {
        let rows = self.rows();
        (rows > 0).then(|| self.hits() as f64 / rows as f64)
    }

    /// Precision, recall, F1 and support of each class.
    pub fn per_class(&self) -> Vec<ClassScores> {
        let mut predicted = vec![0u64; self.n_classes];
        for row in self.counts.chunks_exact(self.n_classes) {
            for (sum, count) in predicted.iter_mut().zip(row) {
                *sum += count;
            }
        }
        let rows = self.counts.chunks_exact(self.n_classes).enumerate();
        rows.map(|(class, row)| scores_from_counts(row[class], row.iter().sum(), predicted[class])).collect()
    }

    /// Precision, recall and F1 averaged over classes; support is the number of rows. All 0 before the first row.
    pub fn average(&self, average: Average) -> ClassScores {
        let rows = self.rows();
        let weight: fn(&ClassScores) -> f64 = match average {
            Average::Micro => return scores_from_counts(self.hits(), rows, rows),
            Average::Macro => |_| 1.0,
            Average::Weighted => |class| class.support as f64,
        };
        let classes = self.per_class();
        let total: f64 = classes.iter().map(weight).sum();
        let mean = |value: fn(&ClassScores) -> f64| {
            ratio(classes.iter().map(|class| value(class) * weight(class)).sum(), total)
        };
        ClassScores { precision: mean(|c| c.precision), recall: mean(|c| c.recall), f1: mean(|c| c.f1), support: rows }
    }

    /// The table that [`Display`](fmt::Display) prints, with `names` for the classes (a number where one is missing).
    pub fn table<'a>(&'a self, names: &'a [String]) -> ClassTable<'a> {
        ClassTable { confusion: self, names }
    }

    fn hits(&self) -> u64 {
        (0..self.n_classes).map(|class| self.counts[class * self.n_classes + class]).sum()
    }
}

fn scores_from_counts(hits: u64, truth: u64, predicted: u64) -> ClassScores {
    ClassScores {
        precision: ratio(hits as f64, predicted as f64),
        recall: ratio(hits as f64, truth as f64),
        f1: ratio(2.0 * hits as f64, (truth + predicted) as f64),
        support: truth,
    }
}

impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(&[]).fmt(f)
    }
}

/// Per-class table with averages below it, and the matrix itself up to 20 classes. Made by [`Confusion::table`].
#[derive(Clone, Copy, Debug)]
pub struct ClassTable<'a> {
    confusion: &'a Confusion,
    names: &'a [String],
}

impl fmt::Display for ClassTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_classes = self.confusion.n_classes;
        let name = |class: usize| self.names.get(class).cloned().unwrap_or_else(|| class.to_string());
        let mut columns = [
            Column::left("class"),
            Column::right("precision"),
            Column::right("recall"),
            Column::right("f1"),
            Column::right("support"),
        ];
        let mut push = |name: String, scores: ClassScores| {
            let cells = [
                name,
                format!("{:.4}", scores.precision),
                format!("{:.4}", scores.recall),
                format!("{:.4}", scores.f1),
                scores.support.to_string(),
            ];
            for (column, cell) in columns.iter_mut().zip(cells) {
                column.cells.push(cell);
            }
        };
        for (class, scores) in self.confusion.per_class().into_iter().enumerate() {
            push(name(class), scores);
        }
        push("macro average".to_string(), self.confusion.average(Average::Macro));
        push("micro average".to_string(), self.confusion.average(Average::Micro));
        push("weighted average".to_string(), self.confusion.average(Average::Weighted));
        write_table(f, &columns)?;
        match self.confusion.accuracy() {
            None => write!(f, "\naccuracy - (no rows)")?,
            Some(accuracy) => write!(f, "\naccuracy {accuracy:.4} of {} rows", self.confusion.rows())?,
        }
        if n_classes > 20 {
            return Ok(());
        }
        write!(f, "\n\n")?;
        let mut matrix = vec![Column::left("true \\ predicted")];
        matrix[0].cells.extend((0..n_classes).map(name));
        for class in 0..n_classes {
            let mut column = Column::right(&name(class));
            column.cells.extend((0..n_classes).map(|row| self.confusion.counts[row * n_classes + class].to_string()));
            matrix.push(column);
        }
        write_table(f, &matrix)
    }
}
