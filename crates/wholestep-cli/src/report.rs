//! The training report. Takes a [`Report`] of plain numbers and texts, gives one HTML page that holds its own style,
//! drawings and pictures. Never loads anything, never reads a clock, and never writes a number it was not given.
//!
//! Every part may be missing: a field that is `None` or empty leaves its place out of the page.

mod chart;
mod classes;
mod html;
mod page;
mod picture;
mod regression;
#[cfg(test)]
mod sample;
mod scale;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything the page shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub title: String,
    /// The command line that made the run.
    pub command: String,
    /// When the run started, as text; left out of the page when not given.
    pub started: Option<String>,
    /// Device name as the library prints it.
    pub device: String,
    pub layers: Vec<LayerRow>,
    pub totals: Totals,
    pub epochs: Vec<EpochRow>,
    /// Names of the classes, by class index.
    pub class_names: Vec<String>,
    /// Counts `[C, C]` row by row: row = true class, column = predicted class.
    pub confusion: Vec<u64>,
    pub classes: Vec<ClassRow>,
    pub mistakes: Vec<Mistake>,
    pub regression: Option<Regression>,
    pub costs: Vec<CostRow>,
    /// The whole configuration file.
    pub config_toml: String,
    /// The compiled plan as text.
    pub plan_summary: String,
}

/// One layer of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRow {
    pub layer: String,
    pub output_shape: String,
    pub params: u64,
}

/// Numbers about the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub params: Option<u64>,
    pub planned_bytes: Option<u64>,
    pub compile_ms: Option<f64>,
    pub step_ms: Option<f64>,
    pub samples_per_s: Option<f64>,
    /// Seconds until the target that the configuration names was reached.
    pub seconds_to_target: Option<f64>,
}

/// One epoch. Losses may be NaN or infinite; the page says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochRow {
    pub epoch: u32,
    pub train_loss: f64,
    pub val_loss: Option<f64>,
    /// Accuracies are shares, 0 to 1.
    pub train_acc: Option<f64>,
    pub val_acc: Option<f64>,
    pub lr: Option<f64>,
    pub grad_norm: Option<f64>,
    pub noise_scale: Option<f64>,
    pub seconds: Option<f64>,
}

/// Scores of one class, shares 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub support: u64,
}

/// One row of the set that the model got wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    /// Row index in the set.
    pub index: u64,
    pub label: u32,
    pub predicted: u32,
    /// The model's probability of `predicted`, 0 to 1.
    pub confidence: f32,
    pub image: Option<Picture>,
}

/// A picture: `height · width · channels` bytes, row by row, the channels of a pixel side by side (1 grey, 2 grey and
/// alpha, 3 RGB, 4 RGBA).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub channels: u32,
    pub pixels: Vec<u8>,
}

/// Predictions of a model with a number as output, in the targets' unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Regression {
    pub truth: Vec<f32>,
    pub predicted: Vec<f32>,
    pub mae: Option<f64>,
    pub rmse: Option<f64>,
    pub r2: Option<f64>,
    /// What the numbers count ("USD"), shown on the axes.
    pub unit: Option<String>,
}

/// One kernel of the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CostRow {
    pub kernel: String,
    pub scope: String,
    pub time_us: f64,
    /// Share of the whole step, 0 to 1.
    pub share: f64,
    pub gflops: Option<f64>,
    pub gb_per_s: Option<f64>,
}

impl Report {
    /// Name of a class: its own, or its number.
    fn class_name(&self, class: usize) -> String {
        match self.class_names.get(class) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => class.to_string(),
        }
    }
}

/// The page as text. Same report, same bytes.
pub fn render(report: &Report) -> String {
    page::page(report)
}

/// Writes the page to `path`. Errors: the file cannot be written.
pub fn write(report: &Report, path: &Path) -> wholestep::Result<()> {
    wholestep::checkpoint::write_atomically(path, render(report).as_bytes())
}
