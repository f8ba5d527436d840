//! Regression metrics: MAE, MSE, RMSE and R². Takes predictions and targets, gives errors in the targets' units. Never
//! takes a mean of batch means: sums and the target's variance are carried over batches in f64.

use super::table::{Column, write_table};
use super::{check_lengths, refuse};
use crate::Result;
use std::fmt;

/// Mean absolute error, mean squared error, its root, and R² of one or more outputs.
///
/// Matches scikit-learn `mean_absolute_error`, `mean_squared_error`, `root_mean_squared_error` and `r2_score`; several
/// outputs are averaged with equal weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    outputs: Vec<Output>,
    rows: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Output {
    abs_sum: f64,
    square_sum: f64,
    /// Distances of the targets are taken from the first one, and their mean and spread by Welford's update: plain sums
    /// of squares would lose R² where targets are large and close together.
    first_target: f64,
    target_mean: f64,
    target_spread: f64,
}

impl Regression {
    /// Regression with `n_outputs` outputs for each row. Errors: no output.
    pub fn new(n_outputs: usize) -> Result<Regression> {
        if n_outputs == 0 {
            let text = "expected at least 1 output, got 0; pass the width of the model's output".to_string();
            return Err(refuse("regression", text));
        }
        Ok(Regression { outputs: vec![Output::default(); n_outputs], rows: 0 })
    }

    /// Adds a batch: `predicted [B, N]`, `targets [B, N]`, N outputs.
    ///
    /// Errors (nothing is added): lengths that differ or are no multiple of N, a value that is not finite.
    pub fn update(&mut self, predicted: &[f32], targets: &[f32]) -> Result<()> {
        check_lengths("regression", "predictions", predicted.len(), "targets", targets.len())?;
        let n_outputs = self.outputs.len();
        if !predicted.len().is_multiple_of(n_outputs) {
            let text = format!("expected rows of {n_outputs} values, got {} values in one batch", predicted.len());
            return Err(refuse("regression", text));
        }
        for (what, values) in [("prediction", predicted), ("target", targets)] {
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let (value, row) = (values[at], at / n_outputs);
                return Err(refuse("regression", format!("expected finite numbers, got {what} {value} at row {row}")));
            }
        }
        for (predicted, targets) in predicted.chunks_exact(n_outputs).zip(targets.chunks_exact(n_outputs)) {
            self.rows += 1;
            for (output, (p, t)) in self.outputs.iter_mut().zip(predicted.iter().zip(targets)) {
                output.add(f64::from(*p), f64::from(*t), self.rows as f64);
            }
        }
        Ok(())
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Mean absolute error, in the targets' unit; `None` before the first row.
    pub fn mae(&self) -> Option<f64> {
        let rows = self.rows as f64;
        self.mean_over_outputs(|output| output.abs_sum / rows)
    }

    /// Mean squared error, in the targets' unit squared; `None` before the first row.
    pub fn mse(&self) -> Option<f64> {
        let rows = self.rows as f64;
        self.mean_over_outputs(|output| output.square_sum / rows)
    }

    /// Root of the mean squared error, in the targets' unit (the mean of the outputs' roots); `None` before the first row.
    pub fn rmse(&self) -> Option<f64> {
        let rows = self.rows as f64;
        self.mean_over_outputs(|output| (output.square_sum / rows).sqrt())
    }

    /// Coefficient of determination: 1 is perfect, 0 is as good as always the mean; it may be negative. `None` below two
    /// rows. Targets that are all equal give 1 when each prediction is exact, else 0, as scikit-learn has it.
    pub fn r2(&self) -> Option<f64> {
        if self.rows < 2 {
            return None;
        }
        self.mean_over_outputs(|output| match (output.square_sum == 0.0, output.target_spread == 0.0) {
            (true, _) => 1.0,
            (false, true) => 0.0,
            (false, false) => 1.0 - output.square_sum / output.target_spread,
        })
    }

    fn mean_over_outputs(&self, value: impl Fn(&Output) -> f64) -> Option<f64> {
        (self.rows > 0).then(|| self.outputs.iter().map(value).sum::<f64>() / self.outputs.len() as f64)
    }
}

impl Output {
    fn add(&mut self, predicted: f64, target: f64, n: f64) {
        let error = predicted - target;
        self.abs_sum += error.abs();
        self.square_sum += error * error;
        if n == 1.0 {
            self.first_target = target;
        }
        let shifted = target - self.first_target;
        let from_mean = shifted - self.target_mean;
        self.target_mean += from_mean / n;
        self.target_spread += from_mean * (shifted - self.target_mean);
    }
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text_of = |value: Option<f64>| value.map_or_else(|| "-".to_string(), |value| format!("{value:.6}"));
        let mut columns = [Column::left("metric"), Column::right("value")];
        let rows = [("MAE", self.mae()), ("MSE", self.mse()), ("RMSE", self.rmse()), ("R²", self.r2())]
            .map(|(n, v)| (n, text_of(v)));
        for (name, value) in rows.into_iter().chain([("rows", self.rows.to_string())]) {
            columns[0].cells.push(name.to_string());
            columns[1].cells.push(value);
        }
        write_table(f, &columns)
    }
}
