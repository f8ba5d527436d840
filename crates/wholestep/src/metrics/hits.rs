//! Accuracy and top-k accuracy. Takes rows of scores and labels, gives the share of rows that hit. Never stores scores.

use super::{argmax, check_labels, check_lengths, check_n_classes, check_rows, refuse};
use crate::Result;
use std::fmt;

/// Share of rows whose largest score is the label's. Equal largest scores: the first class is the prediction.
///
/// Matches scikit-learn `accuracy_score(labels, scores.argmax(axis=1))`. Needs no memory per class, so it also fits
/// vocabularies of any size; [`Confusion`](super::Confusion) says more where classes are few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accuracy {
    n_classes: usize,
    hits: u64,
    rows: u64,
}

impl Accuracy {
    /// Accuracy over `n_classes` classes. Errors: no class.
    pub fn new(n_classes: usize) -> Result<Accuracy> {
        check_n_classes("accuracy", n_classes)?;
        Ok(Accuracy { n_classes, hits: 0, rows: 0 })
    }

    /// Adds a batch: `scores [B, C]` (logits or probabilities), `labels [B]`.
    ///
    /// Errors (nothing is added): lengths that do not fit, a label outside `0..C`, a NaN score.
    pub fn update(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        check_rows("accuracy", scores, self.n_classes, labels)?;
        let rows = scores.chunks_exact(self.n_classes).zip(labels);
        self.hits += rows.filter(|(row, label)| argmax(row) == **label as usize).count() as u64;
        self.rows += labels.len() as u64;
        Ok(())
    }

    /// Adds a batch of classes already chosen, for example on the device: `predicted [B]`, `labels [B]`.
    ///
    /// Errors (nothing is added): lengths that differ, a class outside `0..C`.
    pub fn update_classes(&mut self, predicted: &[u32], labels: &[u32]) -> Result<()> {
        check_lengths("accuracy", "predictions", predicted.len(), "labels", labels.len())?;
        check_labels("accuracy", "prediction", predicted, self.n_classes)?;
        check_labels("accuracy", "label", labels, self.n_classes)?;
        self.hits += predicted.iter().zip(labels).filter(|(p, l)| p == l).count() as u64;
        self.rows += labels.len() as u64;
        Ok(())
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The accuracy in `0..=1`; `None` before the first row.
    pub fn value(&self) -> Option<f64> {
        share(self.hits, self.rows)
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_share(f, "accuracy", self.hits, self.rows)
    }
}

/// Share of rows whose label is among the `k` largest scores.
///
/// Matches scikit-learn `top_k_accuracy_score(labels, scores, k=k, labels=range(C))` for three classes or more, ties
/// included: of equal scores the *later* class ranks first there, so with ties `k = 1` may differ from [`Accuracy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopK {
    k: usize,
    n_classes: usize,
    hits: u64,
    rows: u64,
}

impl TopK {
    /// Top-`k` accuracy over `n_classes` classes. Errors: no class, `k` is 0.
    pub fn new(k: usize, n_classes: usize) -> Result<TopK> {
        check_n_classes("top-k accuracy", n_classes)?;
        if k == 0 {
            return Err(refuse("top-k accuracy", "expected k of 1 or more, got 0".to_string()));
        }
        Ok(TopK { k, n_classes, hits: 0, rows: 0 })
    }

    /// Adds a batch: `scores [B, C]` (logits or probabilities), `labels [B]`.
    ///
    /// Errors (nothing is added): lengths that do not fit, a label outside `0..C`, a NaN score.
    pub fn update(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        check_rows("top-k accuracy", scores, self.n_classes, labels)?;
        for (row, label) in scores.chunks_exact(self.n_classes).zip(labels) {
            let label = *label as usize;
            // The rank needs no sort: it is the number of classes that come before the label.
            let above = row.iter().filter(|s| **s > row[label]).count();
            let tied_later = row[label + 1..].iter().filter(|s| **s == row[label]).count();
            self.hits += u64::from(above + tied_later < self.k);
        }
        self.rows += labels.len() as u64;
        Ok(())
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The top-k accuracy in `0..=1`; `None` before the first row.
    pub fn value(&self) -> Option<f64> {
        share(self.hits, self.rows)
    }
}

impl fmt::Display for TopK {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_share(f, &format!("top-{} accuracy", self.k), self.hits, self.rows)
    }
}

fn share(hits: u64, rows: u64) -> Option<f64> {
    (rows > 0).then(|| hits as f64 / rows as f64)
}

fn write_share(f: &mut fmt::Formatter<'_>, name: &str, hits: u64, rows: u64) -> fmt::Result {
    match share(hits, rows) {
        None => write!(f, "{name} - (no rows)"),
        Some(value) => write!(f, "{name} {value:.4} ({hits} of {rows})"),
    }
}
