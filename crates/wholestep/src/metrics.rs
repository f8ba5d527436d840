//! Metrics over a whole set. Takes the scores a model gave and the true labels or targets, batch by batch; gives the
//! numbers scikit-learn gives for the set as one piece (not the mean of the batches). Never changes its state when an
//! update is refused, and never turns a NaN score into a number.
//!
//! ```
//! use wholestep::metrics::Confusion;
//!
//! let mut seen = Confusion::new(2)?;
//! seen.update(&[0.9, 0.1, 0.2, 0.8], &[0, 1])?; // two rows of scores [B, C], two labels
//! seen.update(&[0.3, 0.7], &[0])?; // batches may differ in size
//! assert_eq!(seen.accuracy(), Some(2.0 / 3.0));
//! println!("{seen}");
//! # Ok::<(), wholestep::Error>(())
//! ```

mod confusion;
mod hits;
mod log_loss;
mod ranking;
mod regression;
mod table;

pub use confusion::{Average, ClassScores, ClassTable, Confusion};
pub use hits::{Accuracy, TopK};
pub use log_loss::LogLoss;
pub use ranking::{BinaryRanking, OneVsRest};
pub use regression::Regression;

use crate::{Error, ErrorKind, Result};

fn refuse(metric: &str, what: String) -> Error {
    Error::new(ErrorKind::Input, format!("{metric}: {what}"))
}

/// At least one class, or the metric has no meaning.
fn check_n_classes(metric: &str, n_classes: usize) -> Result<()> {
    if n_classes == 0 {
        return Err(refuse(
            metric,
            "expected at least 1 class, got 0; pass the width of the model's output".to_string(),
        ));
    }
    Ok(())
}

/// `scores [B, C]` row by row, `labels [B]` in `0..C`, no NaN.
fn check_rows(metric: &str, scores: &[f32], n_classes: usize, labels: &[u32]) -> Result<()> {
    if labels.len().checked_mul(n_classes) != Some(scores.len()) {
        let (rows, got) = (labels.len(), scores.len());
        return Err(refuse(
            metric,
            format!(
                "expected {n_classes} scores for each of {rows} labels ({} values), got {got}; pass the model's whole \
                 output [B, {n_classes}] row by row",
                rows.saturating_mul(n_classes)
            ),
        ));
    }
    check_labels(metric, "label", labels, n_classes)?;
    if let Some(at) = scores.iter().position(|s| s.is_nan()) {
        return Err(refuse(
            metric,
            format!(
                "expected numbers, got NaN for row {} class {} of this batch; look at the loss, the model has diverged",
                at / n_classes,
                at % n_classes
            ),
        ));
    }
    Ok(())
}

/// `scores [B]`, one for each label; `labels` 0 or 1; no NaN.
fn check_binary(metric: &str, scores: &[f32], labels: &[u32]) -> Result<()> {
    check_lengths(metric, "scores", scores.len(), "labels", labels.len())?;
    check_labels(metric, "label", labels, 2)?;
    match scores.iter().position(|s| s.is_nan()) {
        None => Ok(()),
        Some(at) => Err(refuse(
            metric,
            format!("expected numbers, got NaN for row {at} of this batch; look at the loss, the model has diverged"),
        )),
    }
}

fn check_lengths(metric: &str, left: &str, n_left: usize, right: &str, n_right: usize) -> Result<()> {
    if n_left != n_right {
        return Err(refuse(
            metric,
            format!("expected as many {left} as {right}, got {n_left} {left} and {n_right} {right} in one batch"),
        ));
    }
    Ok(())
}

fn check_labels(metric: &str, what: &str, labels: &[u32], n_classes: usize) -> Result<()> {
    match labels.iter().position(|&label| label as usize >= n_classes) {
        None => Ok(()),
        Some(at) => Err(refuse(
            metric,
            format!(
                "expected each {what} in 0..{n_classes}, got {} at row {at} of this batch; number the classes from 0",
                labels[at]
            ),
        )),
    }
}

/// Class with the largest score; the first of equals, as `numpy.argmax` and `torch.argmax` on the CPU choose.
fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (class, score) in row.iter().enumerate().skip(1) {
        if *score > row[best] {
            best = class;
        }
    }
    best
}

/// `a / b`, and 0 where `b` is 0 (scikit-learn's `zero_division=0`).
fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}
