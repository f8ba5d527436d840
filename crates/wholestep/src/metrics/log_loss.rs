//! Log loss (cross-entropy) over a set. Takes probabilities or logits and labels, gives the mean of -log p(label) in
//! nats. Never normalizes rows of probabilities that do not sum to one.

use super::{check_n_classes, check_rows, refuse};
use crate::Result;
use std::fmt;

/// Mean of `-log p(label)`, in nats.
///
/// Matches scikit-learn `log_loss` on f32 probabilities: `p` is kept inside `[e, 1 - e]` with `e` = `f32::EPSILON`, so
/// a sure and wrong prediction costs 15.94 and not infinity. Accumulates in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLoss {
    n_classes: usize,
    sum: f64,
    rows: u64,
}

/// How far a row of probabilities may be from a sum of one: f32 rounding over a wide softmax stays far below it.
const SUM_TOLERANCE: f64 = 1e-3;

impl LogLoss {
    /// Log loss over `n_classes` classes. Errors: no class.
    pub fn new(n_classes: usize) -> Result<LogLoss> {
        check_n_classes("log loss", n_classes)?;
        Ok(LogLoss { n_classes, sum: 0.0, rows: 0 })
    }

    /// Adds a batch of probabilities: `probs [B, C]`, `labels [B]`.
    ///
    /// Errors (nothing is added): lengths that do not fit, a label outside `0..C`, a NaN, a value outside `0..=1`, a row
    /// whose sum is off 1 by more than 0.001 (logits go to [`LogLoss::update_logits`]).
    pub fn update_probs(&mut self, probs: &[f32], labels: &[u32]) -> Result<()> {
        check_rows("log loss", probs, self.n_classes, labels)?;
        for (row_idx, row) in probs.chunks_exact(self.n_classes).enumerate() {
            let sum: f64 = row.iter().map(|p| f64::from(*p)).sum();
            if (sum - 1.0).abs() > SUM_TOLERANCE || row.iter().any(|p| !(0.0..=1.0).contains(p)) {
                let text = format!(
                    "expected probabilities (0 to 1, sum 1 in each row), got a row with sum {sum} at row {row_idx} of \
                     this batch; pass logits to update_logits"
                );
                return Err(refuse("log loss", text));
            }
        }
        let low = f64::from(f32::EPSILON);
        for (row, label) in probs.chunks_exact(self.n_classes).zip(labels) {
            self.sum -= f64::from(row[*label as usize]).clamp(low, 1.0 - low).ln();
        }
        self.rows += labels.len() as u64;
        Ok(())
    }

    /// Adds a batch of logits: `logits [B, C]`, `labels [B]`; the softmax is taken here, in f64 and without the clipping
    /// of [`LogLoss::update_probs`].
    ///
    /// Errors (nothing is added): lengths that do not fit, a label outside `0..C`, a NaN, a logit of +infinity, or of
    /// -infinity for the true label (its loss is infinite).
    pub fn update_logits(&mut self, logits: &[f32], labels: &[u32]) -> Result<()> {
        check_rows("log loss", logits, self.n_classes, labels)?;
        if let Some(at) = logits.iter().position(|x| *x == f32::INFINITY) {
            let (row, class) = (at / self.n_classes, at % self.n_classes);
            return Err(refuse("log loss", format!("expected finite logits, got inf for row {row} class {class}")));
        }
        let mut sum = 0.0;
        for (row_idx, (row, label)) in logits.chunks_exact(self.n_classes).zip(labels).enumerate() {
            let of_label = f64::from(row[*label as usize]);
            if of_label == f64::NEG_INFINITY {
                let text = format!("expected a finite logit for the label {label} of row {row_idx}, got -inf");
                return Err(refuse("log loss", text));
            }
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exp_sum: f64 = row.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).sum();
            sum += exp_sum.ln() + f64::from(max) - of_label;
        }
        self.sum += sum;
        self.rows += labels.len() as u64;
        Ok(())
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The mean in nats; `None` before the first row.
    pub fn value(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.sum / self.rows as f64)
    }
}

impl fmt::Display for LogLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value() {
            None => write!(f, "log loss - (no rows)"),
            Some(value) => write!(f, "log loss {value:.6} ({} rows)", self.rows),
        }
    }
}
