//! Weights of another model, for transfer learning. Takes weights and a program, loads what fits by name, shape and dtype, gives a report of
//! all that was loaded, skipped and missing. Never runs unless it was asked for by name.

use super::{Weights, counted, damaged, dotted, learned, overwrite};
use crate::step::{Loaded, Step};
use crate::train::Trainer;
use crate::{Array, Result};
use std::fmt;
use std::path::Path;

/// What [`Weights::load_fitting`] did, by names as in files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fitted {
    /// Tensors of the file that were written into the model.
    pub loaded: Vec<String>,
    /// Tensors of the file that went nowhere, and why.
    pub skipped: Vec<(String, String)>,
    /// Tensors of the model that keep their values.
    pub missing: Vec<String>,
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (loaded, skipped, missing) = (self.loaded.len(), self.skipped.len(), self.missing.len());
        write!(f, "{loaded} tensors loaded, {skipped} of the file skipped, {missing} of the model keep their values")?;
        self.loaded.iter().try_for_each(|name| write!(f, "\n  loaded  {name}"))?;
        self.skipped.iter().try_for_each(|(name, why)| write!(f, "\n  skipped {name}: {why}"))?;
        self.missing.iter().try_for_each(|name| write!(f, "\n  missing {name}"))
    }
}

impl Weights {
    /// Overwrites those parameters and running statistics of `step` for which these weights have one of the same name, shape and dtype and
    /// `wanted` says yes, with the averages of these parameters where they are kept, and reports all of them.
    ///
    /// Errors (`ErrorKind::Checkpoint`): not one fits; nothing is written then.
    pub fn load_fitting(&self, step: &mut Step, wanted: impl Fn(&str) -> bool) -> Result<Fitted> {
        let (values, report) = self.those_that_fit(step.loaded(), &wanted)?;
        overwrite(step, &values)?;
        Ok(report)
    }

    fn those_that_fit(&self, loaded: &Loaded, wanted: &dyn Fn(&str) -> bool) -> Result<(Vec<(String, Array)>, Fitted)> {
        let slots: Vec<(String, Vec<usize>, String)> =
            learned(loaded).map(|(name, shape, dtype)| (name.to_string(), shape, dtype.to_string())).collect();
        let mut report = Fitted::default();
        let mut values = Vec::new();
        for (name, value) in self.tensors().map(|(name, value)| (name, counted(name, value))) {
            let (shape, dtype) = (value.shape(), value.dtype().to_string());
            let skip = |why: String| (name.to_string(), why);
            match slots.iter().find(|(slot, ..)| dotted(slot) == name) {
                None => report.skipped.push(skip("the model has none of that name".to_string())),
                Some(_) if !wanted(name) => report.skipped.push(skip("it was not wanted".to_string())),
                Some((_, want, want_type)) if want != shape || *want_type != dtype => {
                    report.skipped.push(skip(format!("the model has {want:?} {want_type}, the file {shape:?} {dtype}")))
                }
                Some((slot, ..)) => {
                    report.loaded.push(name.to_string());
                    values.push((slot.clone(), value));
                }
            }
        }
        let is_loaded = |slot: &str| values.iter().any(|(name, _)| name == slot);
        report.missing = slots.iter().filter(|(slot, ..)| !is_loaded(slot)).map(|(slot, ..)| dotted(slot)).collect();
        if values.is_empty() {
            return Err(damaged(format!("not one of these weights fits the model: {report}")));
        }
        Ok((values, report))
    }
}

impl Trainer {
    /// [`Weights::load_fitting`] from a file, all of it, after [`Trainer::prepare`].
    /// Errors: as [`Weights::open`]; nothing was prepared; not one tensor fits.
    pub fn load_fitting(&mut self, path: impl AsRef<Path>) -> Result<Fitted> {
        let path = path.as_ref();
        let (weights, _) = Weights::open(path)?;
        let step =
            self.step().ok_or_else(|| damaged("load_fitting needs a compiled step; call prepare first".to_string()))?;
        weights.load_fitting(step, |_| true).map_err(|e| e.context(path.display()))
    }
}
