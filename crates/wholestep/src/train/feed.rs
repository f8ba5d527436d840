//! Batches for a step, several at a time. Takes a data set, gives chunks of rows that hold whole batches one after the other. Never lets the
//! number of batches in a chunk change their order or content.

use crate::Result;
use crate::data::loader::{Loading, Position};
use crate::data::{Batch, Dataset, Loader};
use crate::device::Device;
use std::time::Duration;

/// Steps timed one by one before several go into one submission.
const TIMED: u64 = 32;
/// How long a submission may last, so that progress can be shown.
const SUBMISSION: Duration = Duration::from_millis(40);
/// The largest number of steps in a submission.
const MAX_STEPS: u64 = 32;

/// The rows of a data set in the order of training.
pub struct Feed {
    data: Dataset,
    batch: usize,
    seed: u64,
    shuffle: bool,
    device: Device,
    loader: Loader,
    /// Batches in a chunk, now and as soon as the place in the epoch is a multiple.
    steps: u64,
    wanted: u64,
    timed: u64,
    fastest: Duration,
}

impl Feed {
    pub fn new(data: &Dataset, batch: usize, seed: u64, shuffle: bool, device: &Device) -> Result<Feed> {
        let (data, device, fastest) = (data.clone(), device.clone(), Duration::MAX);
        let loader = loader(&data, batch, seed, shuffle, &device)?;
        Ok(Feed { data, batch, seed, shuffle, device, loader, steps: 1, wanted: 1, timed: 0, fastest })
    }

    /// The next rows of this epoch; `None` at its end.
    pub fn next_chunk(&mut self) -> Result<Option<Batch>> {
        let here = self.position();
        if self.wanted != self.steps && here.batch.is_multiple_of(self.wanted) {
            let mut loader = self.loader_of(self.batch * self.wanted as usize)?;
            let place = Position { epoch: here.epoch, batch: here.batch / self.wanted, ..loader.current_position() };
            loader.seek(&place)?;
            (self.loader, self.steps) = (loader, self.wanted);
        }
        self.loader.next().transpose()
    }

    /// Told how long a chunk took: short steps are put together from then on.
    pub fn note(&mut self, took: Duration) {
        self.timed += 1;
        self.fastest = self.fastest.min(took);
        if self.timed == TIMED {
            let fit = SUBMISSION.as_nanos() / self.fastest.as_nanos().max(1);
            let powers = (0..).map(|n| 1 << n).take_while(|n| *n <= MAX_STEPS && u128::from(*n) <= fit);
            self.wanted = powers.last().unwrap_or(1);
        }
    }

    /// Where it stands, counted in batches.
    pub fn position(&self) -> Position {
        let here = self.loader.current_position();
        let all = here.rows.div_ceil(self.batch as u64);
        Position { batch: (here.batch * self.steps).min(all), batch_size: self.batch as u64, ..here }
    }

    /// Goes to where another feed stood.
    /// Errors: it was over other data or had other settings.
    pub fn seek(&mut self, position: &Position) -> Result<()> {
        let mut loader = self.loader_of(self.batch)?;
        loader.seek(position)?;
        (self.loader, self.steps) = (loader, 1);
        Ok(())
    }

    fn loader_of(&self, batch_size: usize) -> Result<Loader> {
        loader(&self.data, batch_size, self.seed, self.shuffle, &self.device)
    }
}

fn loader(data: &Dataset, batch_size: usize, seed: u64, shuffle: bool, device: &Device) -> Result<Loader> {
    Ok(Loader::new(data, Loading { batch_size, seed, shuffle, ..Loading::default() })?.pin_memory(device))
}
