//! Batches for a step, several at a time. Takes a data set, gives chunks of rows that hold whole batches one after the other. Never lets the
//! number of batches in a chunk change their order or content.

use crate::Result;
use crate::data::loader::{Loading, Position};
use crate::data::{Batch, Dataset, Loader};
use std::time::Duration;

/// Steps timed one by one before several go into one submission.
const TIMED: u64 = 32;
/// How long a submission may last, so that progress can be shown.
const SUBMISSION: Duration = Duration::from_millis(40);
/// The largest number of steps in a submission; divides [`TIMED`].
const MAX_STEPS: u64 = 32;

/// The rows of a data set in the order of training.
pub struct Feed {
    data: Dataset,
    batch: usize,
    seed: u64,
    loader: Loader,
    steps: u64,
    timed: u64,
    fastest: Duration,
}

impl Feed {
    pub fn new(data: &Dataset, batch: usize, seed: u64) -> Result<Feed> {
        let loader = loader(data, batch, seed)?;
        Ok(Feed { data: data.clone(), batch, seed, loader, steps: 1, timed: 0, fastest: Duration::MAX })
    }

    /// The next rows of this epoch; `None` at its end.
    pub fn next_chunk(&mut self) -> Result<Option<Batch>> {
        self.loader.next().transpose()
    }

    /// Told how long a chunk took: short steps are put together from then on.
    pub fn note(&mut self, took: Duration) -> Result<()> {
        self.timed += 1;
        self.fastest = self.fastest.min(took);
        if self.timed != TIMED {
            return Ok(());
        }
        let fit = SUBMISSION.as_nanos() / self.fastest.as_nanos().max(1);
        self.steps = (1..=MAX_STEPS).rev().find(|n| TIMED.is_multiple_of(*n) && u128::from(*n) <= fit).unwrap_or(1);
        let here = self.loader.current_position();
        let mut loader = loader(&self.data, self.batch * self.steps as usize, self.seed)?;
        let batch = if here.batch.is_multiple_of(self.steps) { here.batch / self.steps } else { return Ok(()) };
        loader.seek(&Position { epoch: here.epoch, batch, ..loader.current_position() })?;
        self.loader = loader;
        Ok(())
    }
}

fn loader(data: &Dataset, batch_size: usize, seed: u64) -> Result<Loader> {
    Loader::new(data, Loading { batch_size, seed, ..Loading::default() })
}
