//! `wholestep predict`. Takes saved weights and new rows, gives classes with probabilities, or numbers, as CSV. Never needs the target.

use crate::arguments;
use crate::config::{Data, dialect, table};
use crate::page::likeliest;
use crate::{saved, say};
use std::fmt::Write;
use std::path::Path;
use wholestep::checkpoint::write_atomically;
use wholestep::data::images::{self, Channels};
use wholestep::data::{Array, Dataset, Standardize, npy};
use wholestep::train::Task;
use wholestep::{Error, ErrorKind, Result};

pub fn predict(arguments: &arguments::Predict) -> Result<()> {
    let mut saved = saved::open(&arguments.run)?;
    let rows = read(&saved, &arguments.data)?;
    let rows = match saved.meta.scalings.first() {
        Some(scaling) => Standardize::from(scaling.clone()).apply(&rows)?,
        None => rows,
    };
    let output = saved.trainer.predict(&rows)?;
    let text = predictions(&output, saved.config.loss.task(), &saved.meta.class_names)?;
    match &arguments.out {
        Some(path) => write_atomically(path, text.as_bytes()),
        None => say(text.trim_end()),
    }
}

/// The rows in `path`, by what its name ends in.
fn read(saved: &saved::Saved, path: &Path) -> Result<Dataset> {
    let end = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let shape: Vec<usize> = saved.config.model.inputs.first().map_or(Vec::new(), |i| i.shape.clone());
    let x = match end.as_str() {
        // Tables may be packed.
        "csv" | "tsv" | "gz" => return csv(saved, path, shape.first().copied().unwrap_or(0)),
        "npy" => npy::read(path)?,
        "png" | "jpg" | "jpeg" => {
            let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            let channels = if shape.first() == Some(&1) { Channels::Gray } else { Channels::Rgb };
            let pixels = images::from_bytes(&bytes, channels).map_err(|e| e.context(path.display()))?;
            let values = pixels.slice::<u8>()?.iter().map(|&p| f32::from(p) / 255.0).collect();
            Array::new(values, pixels.shape())?
        }
        _ => {
            let message =
                format!("{}: predict reads .csv, .tsv (packed as .gz or not), .npy, .png and .jpg", path.display());
            return Err(Error::new(ErrorKind::Config, message));
        }
    };
    // One sample may come without the batch axis.
    let single = x.shape() == shape;
    let shape = if single { [&[1], x.shape()].concat() } else { x.shape().to_vec() };
    Dataset::new([("x", x.reshape(shape)?)])
}

/// A table, with or without the target column.
fn csv(saved: &saved::Saved, path: &Path, n_features: usize) -> Result<Dataset> {
    let names = dialect(path).names(path)?;
    let Data::Csv(known) = &saved.config.data else {
        if names.iter().all(|name| name.parse::<f64>().is_ok()) {
            let message = format!(
                "{}: the first line holds numbers, \"{}\", where the names of the columns are expected; give the table a first line of names",
                path.display(),
                names.join(",")
            );
            return Err(Error::new(ErrorKind::Input, message));
        }
        let plain = dialect(path).read(path)?.into_dataset()?;
        if plain.feature_names().len() == n_features {
            return Ok(plain);
        }
        let n = plain.feature_names().len();
        let message = format!("{}: the model takes {n_features} columns, {n} came", path.display());
        return Err(Error::new(ErrorKind::Input, message));
    };
    let t = crate::config::Table { path: path.to_path_buf(), ..known.clone() };
    let has_target = names.contains(&t.target);
    let (rows, _) = table(&t, &saved.meta.vocabularies, has_target)?;
    let (want, came) = (&saved.meta.feature_names, rows.feature_names());
    if want != came {
        let message = format!("{}: the model takes the columns {want:?}, the file has {came:?}", path.display());
        return Err(Error::new(ErrorKind::Input, message));
    }
    Ok(rows)
}

fn predictions(output: &Array, task: Task, class_names: &[String]) -> Result<String> {
    let values = output.slice::<f32>()?;
    let width = output.row_elems().max(1);
    let name = |class: usize| class_names.get(class).cloned().unwrap_or_else(|| class.to_string());
    let mut text = String::from(match task {
        Task::Classes => "class,probability\n",
        Task::Binary => "probability\n",
        Task::Values => "value\n",
    });
    for row in values.chunks(width) {
        let _ = match task {
            Task::Classes => {
                let (class, probability) = likeliest(row);
                writeln!(text, "{},{probability:.6}", name(class))
            }
            Task::Binary => writeln!(text, "{}", joined(row, |x| 1.0 / (1.0 + (-x).exp()))),
            Task::Values => writeln!(text, "{}", joined(row, |x| x)),
        };
    }
    Ok(text)
}

fn joined(row: &[f32], f: impl Fn(f32) -> f32) -> String {
    row.iter().map(|&x| f(x).to_string()).collect::<Vec<_>>().join(",")
}
