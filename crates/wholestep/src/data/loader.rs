//! Batches of a data set. Takes the set, a batch size, a seed and an optional change to each sample, gives one batch of
//! named arrays after another from any position. Never lets the number of threads change a single value.

mod prefetch;
mod sample;

use std::sync::Arc;

use super::array::Array;
use super::dataset::Dataset;
use super::random::Philox;
use crate::device::Device;
use crate::{Error, ErrorKind, Result};
use prefetch::{Job, Workers};
pub use sample::Sample;
use serde::{Deserialize, Serialize};

/// How a [`Loader`] forms batches. Unlike PyTorch's, it shuffles unless told otherwise: give `shuffle: false` for the order of the data, to evaluate
/// or where rows follow each other in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Loading {
    /// Rows in a batch; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// A new order in each epoch, which depends on `seed` and the epoch alone; else the order of the data.
    pub shuffle: bool,
    /// Seed of the order and of the changes to samples.
    pub seed: u64,
    /// Leaves out a last batch that is not full.
    pub drop_last: bool,
    /// Threads that change samples. 0 does it in the caller's thread. Without a change there is nothing to do for
    /// them: rows are then gathered directly, and no thread starts.
    pub workers: usize,
    /// Batches made ahead of the one asked for, at least one for each worker.
    pub prefetch: usize,
    /// What happens to a sample whose change fails or panics.
    pub on_error: OnError,
}

/// What a loader does with a sample that cannot be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Its batch is an error.
    #[default]
    Stop,
    /// Its batch comes without it, or not at all if no sample is left; [`Loader::skipped`] tells which and why.
    Skip,
}

/// A sample that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Epochs that were complete before it.
    pub epoch: u64,
    /// Its row in the data set.
    pub row: usize,
    /// The error's text.
    pub why: String,
}

/// Of samples that were left out, so many are told apart; all are counted.
const MAX_SKIPPED: usize = 1000;

impl Default for Loading {
    /// 32 rows, shuffled by seed 0, the last batch kept, no threads.
    fn default() -> Loading {
        Loading {
            batch_size: 32,
            shuffle: true,
            seed: 0,
            drop_last: false,
            workers: 0,
            prefetch: 2,
            on_error: OnError::Stop,
        }
    }
}

/// Where a loader stands, and what must be the same for this to mean the same batch. Store it with a checkpoint and
/// give it to [`Loader::seek`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epochs completed.
    pub epoch: u64,
    /// Batches of this epoch that were given out.
    pub batch: u64,
    /// Rows of the data set.
    pub rows: u64,
    /// As in [`Loading`].
    pub batch_size: u64,
    /// As in [`Loading`].
    pub seed: u64,
    /// As in [`Loading`].
    pub shuffle: bool,
    /// As in [`Loading`].
    pub drop_last: bool,
}

/// The columns of the data set for some of its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    columns: Vec<(Arc<str>, Array)>,
    /// Epochs completed before this one.
    pub epoch: u64,
    /// Its number in the epoch, from 0.
    pub index: u64,
}

impl Batch {
    /// The column `name`, `[rows, ..]`. Errors: there is none; the text lists those there are.
    pub fn column(&self, name: &str) -> Result<&Array> {
        sample::find(&self.columns, name).map_err(|e| e.context("batch"))
    }

    /// Names and arrays, in the order of the data set.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.columns.iter().map(|(n, a)| (&**n, a))
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, a)| a.rows())
    }
}

/// A change to one sample. The second argument is a seed for this sample in this epoch: use it for all randomness and
/// the same run gives the same samples for every number of threads and every batch size.
pub type SampleMap = Arc<dyn Fn(&mut Sample, u64) -> Result<()> + Send + Sync>;

/// Gives the batches of a data set, shuffled unless [`Loading::shuffle`] is set to false. As an iterator it ends after each epoch and then goes on
/// with the next one:
///
/// ```
/// use wholestep::data::{Array, Dataset, Loader, loader::Loading};
/// let data = Dataset::new([("x", Array::from_vec((0..10).collect::<Vec<i32>>()))])?;
/// let mut loader = Loader::new(&data, Loading { batch_size: 4, ..Loading::default() })?;
/// for _epoch in 0..2 {
///     let sizes: Vec<usize> = (&mut loader).map(|b| Ok(b?.rows())).collect::<wholestep::Result<_>>()?;
///     assert_eq!(sizes, [4, 4, 2]);
/// }
/// # Ok::<(), wholestep::Error>(())
/// ```
///
/// A loop that is left by `break` leaves the loader where it stands, and the next loop goes on within the same epoch, where PyTorch's loader would
/// begin a new one: [`Loader::restart`] does.
///
/// Memory of a batch is used again once the batch and its clones are dropped. Dropping the loader ends its threads and
/// waits for them.
pub struct Loader {
    data: Dataset,
    loading: Loading,
    map: Option<SampleMap>,
    workers: Option<Workers>,
    /// Of the next batch to give out.
    epoch: u64,
    batch: u64,
    /// Of the next batch to make, which is ahead of the one above when workers prefetch.
    next_epoch: u64,
    next_batch: u64,
    order: Vec<usize>,
    order_epoch: Option<u64>,
    /// Whose pinned memory batches lie in.
    device: Option<Device>,
    /// Arrays of batches given out, to be used again when nobody else holds them.
    lent: Vec<Vec<Array>>,
    skipped: Vec<Skipped>,
    n_skipped: u64,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Loader { data, loading, epoch, batch, .. } = self;
        let mut shown = f.debug_struct("Loader");
        shown.field("data", data).field("loading", loading).field("epoch", epoch).field("batch", batch);
        shown.finish_non_exhaustive()
    }
}

impl Loader {
    /// Batches of the rows of `data` as they are. Errors: a batch size of 0, no row, or fewer rows than one batch with
    /// `drop_last`.
    pub fn new(data: &Dataset, loading: Loading) -> Result<Loader> {
        Loader::build(data, loading, None)
    }

    /// Batches of samples changed by `map`. Errors: as [`Loader::new`]. An error or a panic in `map` comes out of
    /// `next()` for the batch it belongs to.
    pub fn with_map(
        data: &Dataset,
        loading: Loading,
        map: impl Fn(&mut Sample, u64) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Loader> {
        Loader::build(data, loading, Some(Arc::new(map)))
    }

    fn build(data: &Dataset, loading: Loading, map: Option<SampleMap>) -> Result<Loader> {
        let n_rows = data.rows();
        if loading.batch_size == 0 || n_rows == 0 {
            return Err(Error::new(
                ErrorKind::Input,
                format!("loader: batches of {} from {n_rows} rows came; both must be at least 1", loading.batch_size),
            ));
        }
        if loading.drop_last && n_rows < loading.batch_size {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "loader: {n_rows} rows do not fill one batch of {} and drop_last leaves nothing; use a smaller batch",
                    loading.batch_size
                ),
            ));
        }
        let workers = match &map {
            Some(map) if loading.workers > 0 => Some(Workers::start(&loading, data, map)?),
            Some(_) | None => None,
        };
        Ok(Loader {
            data: data.clone(),
            loading,
            map,
            workers,
            epoch: 0,
            batch: 0,
            next_epoch: 0,
            next_batch: 0,
            order: Vec::new(),
            order_epoch: None,
            device: None,
            lent: Vec::new(),
            skipped: Vec::new(),
            n_skipped: 0,
        })
    }

    /// The same with batches in memory that `device` copies from by itself while the host goes on, as [`Array::pin_memory`] says. Batches that were
    /// made ahead are as they are.
    pub fn pin_memory(self, device: &Device) -> Loader {
        Loader { device: Some(device.clone()), ..self }
    }

    /// Batches in one epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        let (n, size) = (self.data.rows(), self.loading.batch_size);
        (if self.loading.drop_last { n / size } else { n.div_ceil(size) }) as u64
    }

    /// The data set.
    pub fn dataset(&self) -> &Dataset {
        &self.data
    }

    /// How batches are formed.
    pub fn loading(&self) -> &Loading {
        &self.loading
    }

    /// Where the loader stands: after the batches that `next()` gave, whatever was made ahead.
    pub fn current_position(&self) -> Position {
        Position {
            epoch: self.epoch,
            batch: self.batch,
            rows: self.data.rows() as u64,
            batch_size: self.loading.batch_size as u64,
            seed: self.loading.seed,
            shuffle: self.loading.shuffle,
            drop_last: self.loading.drop_last,
        }
    }

    /// Goes to `position`, so that the next batch is the one that would have followed there. Errors: the position is of
    /// other data or other settings; nothing changes then.
    pub fn seek(&mut self, position: &Position) -> Result<()> {
        let here = Position { epoch: position.epoch, batch: position.batch, ..self.current_position() };
        if here != *position || position.batch > self.batches_per_epoch() {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "loader: the stored position is {position:?}, this loader has {:?} and {} batches in an epoch; \
                     resume with the same data, batch size, seed and order",
                    self.current_position(),
                    self.batches_per_epoch()
                ),
            ));
        }
        self.go_to(position.epoch, position.batch);
        Ok(())
    }

    /// Begins a new epoch where batches of this one were given out, whether or not some are left, as a loop over PyTorch's loader does.
    pub fn restart(&mut self) {
        if self.batch > 0 {
            self.go_to(self.epoch + 1, 0);
        }
    }

    /// The next batch to give out; what was made ahead of it is thrown away.
    fn go_to(&mut self, epoch: u64, batch: u64) {
        (self.epoch, self.batch) = (epoch, batch);
        (self.next_epoch, self.next_batch) = (epoch, batch);
        if let Some(workers) = &mut self.workers {
            workers.forget();
        }
    }

    /// Takes the rows of the next batch to make and moves on.
    fn next_job(&mut self) -> Job {
        if self.next_batch >= self.batches_per_epoch() {
            self.next_epoch += 1;
            self.next_batch = 0;
        }
        let (epoch, n) = (self.next_epoch, self.data.rows());
        if self.order_epoch.is_none() || (self.loading.shuffle && self.order_epoch != Some(epoch)) {
            order_into(&mut self.order, n, &self.loading, epoch);
            self.order_epoch = Some(epoch);
        }
        let start = self.next_batch as usize * self.loading.batch_size;
        let rows = self.order[start..(start + self.loading.batch_size).min(n)].to_vec();
        self.next_batch += 1;
        Job { epoch, rows, spare: self.take_spare(), device: self.device.clone() }
    }

    /// The arrays of an earlier batch that nobody holds any more.
    fn take_spare(&mut self) -> Vec<Array> {
        let free = self.lent.iter_mut().position(|arrays| arrays.iter_mut().all(Array::is_unshared));
        free.map(|i| self.lent.swap_remove(i)).unwrap_or_default()
    }

    /// The samples that [`OnError::Skip`] left out of the batches given so far, the first thousand of them.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// How many samples were left out of the batches given so far, over all epochs.
    pub fn n_skipped(&self) -> u64 {
        self.n_skipped
    }

    fn counted(&mut self, made: Made) -> Vec<(Arc<str>, Array)> {
        self.n_skipped += made.skipped.len() as u64;
        let room = MAX_SKIPPED - self.skipped.len();
        self.skipped.extend(made.skipped.into_iter().take(room));
        made.columns
    }

    fn next_columns(&mut self) -> Result<Made> {
        let Some(mut workers) = self.workers.take() else {
            let job = self.next_job();
            return match &self.map {
                Some(map) => sample::mapped(&self.data, map, &self.loading, job, &|| false),
                None => gathered(&self.data, job),
            };
        };
        while workers.has_room() {
            workers.send(self.next_job());
        }
        let columns = workers.receive();
        self.workers = Some(workers);
        columns
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    /// The next batch, or `None` once at the end of each epoch. After an error the loader stands behind the batch that
    /// failed.
    fn next(&mut self) -> Option<Result<Batch>> {
        loop {
            if self.batch >= self.batches_per_epoch() {
                self.epoch += 1;
                self.batch = 0;
                return None;
            }
            let (epoch, index) = (self.epoch, self.batch);
            let made = self.next_columns();
            self.batch += 1;
            let columns = match made {
                Ok(made) => self.counted(made),
                Err(e) => return Some(Err(e)),
            };
            // Batches made ahead, the one in use and two that a device still copies can be out at once; more would only be kept for nothing.
            if self.lent.len() > self.loading.prefetch.max(self.loading.workers) + 3 {
                self.lent.remove(0);
            }
            if !columns.is_empty() {
                self.lent.push(columns.iter().map(|(_, a)| a.clone()).collect());
                return Some(Ok(Batch { columns, epoch, index }));
            }
        }
    }
}

/// A batch from a worker or from the caller's thread; without columns if no sample of it is left.
struct Made {
    columns: Vec<(Arc<str>, Array)>,
    skipped: Vec<Skipped>,
}

/// The order of `n` rows in `epoch`: a function of the seed and the epoch alone.
fn order_into(order: &mut Vec<usize>, n: usize, loading: &Loading, epoch: u64) {
    order.clear();
    order.extend(0..n);
    if loading.shuffle {
        Philox::new(loading.seed, epoch).shuffle(order);
    }
}

fn gathered(data: &Dataset, job: Job) -> Result<Made> {
    let (mut spare, device) = (job.spare.into_iter(), job.device.as_ref());
    let columns = data.shared_names().iter();
    let columns =
        columns.map(|(name, array)| Ok((name.clone(), array.take_rows_into(&job.rows, spare.next(), device)?)));
    Ok(Made { columns: columns.collect::<Result<_>>()?, skipped: Vec::new() })
}
