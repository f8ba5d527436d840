//! Single samples and how they become a batch. Takes rows and the user's change, gives stacked arrays. Never lets a
//! sample of another shape or type slip into a batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::prefetch::Job;
use super::{Loading, Made, OnError, SampleMap, Skipped};
use crate::data::array::Array;
use crate::data::dataset::Dataset;
use crate::data::random::Philox;
use crate::{Error, ErrorKind, Result};

/// One row of a data set: its columns without the first axis, so `[N, 1, 28, 28]` gives `[1, 28, 28]` and `[N]` gives `[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    columns: Vec<(Arc<str>, Array)>,
    row: usize,
}

impl Sample {
    /// Its row in the data set.
    pub fn row(&self) -> usize {
        self.row
    }

    /// The column `name`. Errors: there is none.
    pub fn get(&self, name: &str) -> Result<&Array> {
        find(&self.columns, name)
    }

    /// The column `name`, to change it in place. Errors: there is none.
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Array> {
        find(&self.columns, name)?;
        let column = self.columns.iter_mut().find(|(n, _)| &**n == name);
        Ok(column.map(|(_, a)| a).expect("bug: a column was found and is gone"))
    }

    /// Puts `array` in column `name`, which may be new. All samples of a batch need the same columns and shapes.
    pub fn set(&mut self, name: &str, array: Array) {
        match self.columns.iter_mut().find(|(n, _)| &**n == name) {
            Some((_, old)) => *old = array,
            None => self.columns.push((Arc::from(name), array)),
        }
    }

    /// Leaves out column `name`. Errors: there is none.
    pub fn remove(&mut self, name: &str) -> Result<Array> {
        find(&self.columns, name)?;
        let at = self.columns.iter().position(|(n, _)| &**n == name);
        Ok(self.columns.remove(at.expect("bug: a column was found and is gone")).1)
    }
}

pub(super) fn find<'a>(columns: &'a [(Arc<str>, Array)], name: &str) -> Result<&'a Array> {
    columns.iter().find(|(n, _)| &**n == name).map(|(_, a)| a).ok_or_else(|| {
        let names: Vec<&str> = columns.iter().map(|(n, _)| &**n).collect();
        Error::new(ErrorKind::Input, format!("no column {name:?}; the columns are {names:?}"))
    })
}

// Keeps the seeds of samples apart from the orders of epochs, whose streams are the epochs themselves.
const SAMPLE_STREAM: u64 = 1 << 62;

/// The batch of `job` with `map` done to each sample. `stopped` is asked before each sample; the batch is then worthless.
pub(super) fn mapped(
    data: &Dataset,
    map: &SampleMap,
    loading: &Loading,
    job: Job,
    stopped: &dyn Fn() -> bool,
) -> Result<Made> {
    let mut spare = job.spare.into_iter();
    let mut columns: Vec<(Arc<str>, Array)> = Vec::new();
    let mut skipped = Vec::new();
    let (mut first, mut n) = (0, 0);
    for &row in &job.rows {
        if stopped() {
            return Err(Error::new(ErrorKind::Input, "loader: stopped"));
        }
        let seed = Philox::at(loading.seed, SAMPLE_STREAM | job.epoch, row as u64);
        let sample = match map_one(data, map, row, seed).map_err(|e| e.context(format!("map of row {row}"))) {
            Ok(sample) => sample,
            Err(e) if loading.on_error == OnError::Skip => {
                skipped.push(Skipped { epoch: job.epoch, row, why: e.to_string() });
                continue;
            }
            Err(e) => return Err(e),
        };
        if n == 0 {
            first = row;
            for (name, array) in &sample.columns {
                let shape = [&[job.rows.len()], array.shape()].concat();
                columns.push((name.clone(), array.room_like(shape, spare.next(), job.device.as_ref())));
            }
        }
        stack(&mut columns, n, &sample, first)?;
        n += 1;
    }
    if n < job.rows.len() {
        columns = columns.into_iter().map(|(name, a)| Ok((name, a.slice_rows(0, n)?))).collect::<Result<_>>()?;
    }
    Ok(Made { columns, skipped })
}

fn map_one(data: &Dataset, map: &SampleMap, row: usize, seed: u64) -> Result<Sample> {
    let columns = data.shared_names().iter().map(|(name, array)| {
        let shape = array.shape()[1..].to_vec();
        Ok((name.clone(), array.slice_rows(row, row + 1)?.reshape(shape)?))
    });
    let mut sample = Sample { columns: columns.collect::<Result<_>>()?, row };
    // A sample left half changed by a panic is dropped right here, so unwinding cannot show it to anyone.
    match catch_unwind(AssertUnwindSafe(|| map(&mut sample, seed))) {
        Ok(done) => done.map(|()| sample),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into());
            Err(Error::new(ErrorKind::Input, format!("it panicked: {text}")))
        }
    }
}

/// Copies `sample` into row `at` of `batch`, which has the form of the sample of row `first`.
fn stack(batch: &mut [(Arc<str>, Array)], at: usize, sample: &Sample, first: usize) -> Result<()> {
    let same_names = batch.len() == sample.columns.len() && batch.iter().zip(&sample.columns).all(|(a, b)| a.0 == b.0);
    if !same_names {
        let names = |c: &[(Arc<str>, Array)]| format!("{:?}", c.iter().map(|(n, _)| &**n).collect::<Vec<_>>());
        return Err(Error::new(
            ErrorKind::Input,
            format!(
                "map of row {}: expected columns {} as from row {first}, {} came; give every sample the same columns",
                sample.row,
                names(batch),
                names(&sample.columns)
            ),
        ));
    }
    for ((name, to), (_, from)) in batch.iter_mut().zip(&sample.columns) {
        if to.shape()[1..] != *from.shape() || !to.put_row(at, from) {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "map of row {}: expected column {name:?} {}{:?} as from row {first}, {}{:?} came; \
                     give every sample the same type and shape",
                    sample.row,
                    to.dtype(),
                    &to.shape()[1..],
                    from.dtype(),
                    from.shape()
                ),
            ));
        }
    }
    Ok(())
}
