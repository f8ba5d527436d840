//! The learning-rate range test of a trainer. Takes data, gives the curve of a step of its own. Never touches the trainer's step or weights.

use super::feed::Feed;
use super::{ScheduleSpec, Trainer, columns, fit};
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
        fit::check_rows(&self.training, data.rows())?;
        // A rate has a whole update, wherever epochs end.
        let mut step = self.compiled(data.rows(), &ScheduleSpec::default(), false)?;
        let data = columns::fitted(step.loaded(), data, &self.training, true)?;
        let batch = self.training.batch_size;
        let mut feed = Feed::new(&data, batch, self.training.seed, true, &self.device)?;
        let (every, least) = (self.training.accumulate, if self.training.drop_last { batch } else { 1 });
        step.find_lr(search, |step| (0..every).try_for_each(|_| run(step, &next(&mut feed, least)?)))
    }
}

/// The next batch of at least so many rows, of the next epoch where this one has no more. An epoch has one.
fn next(feed: &mut Feed, least: usize) -> Result<Batch> {
    loop {
        match feed.next_chunk()? {
            Some(chunk) if chunk.rows() >= least => return Ok(chunk),
            Some(_) | None => {}
        }
    }
}

fn run(step: &mut Step, batch: &Batch) -> Result<()> {
    let inputs: Vec<(&str, &Array)> = batch.columns().collect();
    step.run(&inputs)
}
