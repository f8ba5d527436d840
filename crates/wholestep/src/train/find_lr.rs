//! The learning-rate range test of a trainer. Takes data, gives the curve of a step of its own. Never touches the trainer's step or weights.

use super::feed::Feed;
use super::{ScheduleSpec, Trainer, columns};
use crate::data::{Batch, Dataset};
use crate::step::{LrCurve, LrSearch};
use crate::{Array, Result, Step};

impl Trainer {
    /// The loss at rates that rise exponentially over batches of `data`, from the weights that are there or new ones, and a rate to begin
    /// with. The schedule is left out; weights and state stay as they are.
    ///
    /// Errors: as [`Trainer::prepare`] and [`Step::find_lr`].
    pub fn find_lr(&mut self, data: &Dataset, search: &LrSearch) -> Result<LrCurve> {
        search.check()?;
        let mut step = self.compiled(data.rows(), &ScheduleSpec::default())?;
        let data = columns::fitted(step.loaded(), data, &self.training, true)?;
        let batch = self.training.batch_size;
        let mut feed = Feed::new(&data, batch, self.training.seed, true)?;
        let every = self.training.accumulate;
        step.find_lr(search, |step| (0..every).try_for_each(|_| run(step, &next(&mut feed)?)))
    }
}

/// The next batch, of the next epoch where this one is over.
fn next(feed: &mut Feed) -> Result<Batch> {
    match feed.next_chunk()? {
        Some(chunk) => Ok(chunk),
        None => Ok(feed.next_chunk()?.expect("bug: an epoch has a batch")),
    }
}

fn run(step: &mut Step, batch: &Batch) -> Result<()> {
    let inputs: Vec<(&str, &Array)> = batch.columns().collect();
    step.run(&inputs)
}
