//! Checkpoints written while training goes on. Takes snapshots, gives folders from a thread of its own. Never makes training wait for the
//! disk, and never lets a failure pass: the next call tells it.

use super::folder::{self, Record};
use super::keep::{self, Home, Keep};
use super::{Weights, damaged};
use crate::step::Snapshot;
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// One checkpoint to write.
pub struct Job {
    pub snapshot: Snapshot,
    pub record: Record,
    /// The weights of the best epoch, where a run will put them back.
    pub best_weights: Option<Weights>,
    /// Whether it is the best so far.
    pub is_best: bool,
    /// Whether weights that are not finite are an error: such a checkpoint would take the place of a good one.
    pub must_be_finite: bool,
}

/// A thread that writes one checkpoint after the other.
///
/// Where the disk is slower than training, a checkpoint that waits gives way to a newer one, so that at most one ordinary and one best
/// checkpoint wait while a third is written.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    home: Home,
    keep: Keep,
    /// Files that are on disk before a checkpoint is.
    beside: Vec<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Job>,
    is_writing: bool,
    is_closed: bool,
    /// Memory of snapshots that were written.
    spare: Vec<Vec<u8>>,
    fault: Option<Error>,
    last: Option<PathBuf>,
    best: Option<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// A writer into `home`, where `last` and `best` are there already.
    pub fn start(
        home: Home,
        keep: Keep,
        beside: Vec<PathBuf>,
        last: Option<PathBuf>,
        best: Option<u64>,
    ) -> Result<Writer> {
        let state = Mutex::new(State { last, best, ..State::default() });
        let shared = Arc::new(Shared { home, keep, beside, state, changed: Condvar::new() });
        let ours = shared.clone();
        let thread = std::thread::Builder::new()
            .name("wholestep-checkpoint".to_string())
            .spawn(move || work(&ours))
            .map_err(|e| Error::io("start a thread that writes", &shared.home.path, e))?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    /// Memory for the next snapshot.
    pub fn memory(&self) -> Vec<u8> {
        self.shared.state().spare.pop().unwrap_or_default()
    }

    /// Hands over a checkpoint and returns at once.
    /// Errors: an earlier one could not be written.
    pub fn submit(&self, job: Job) -> Result<()> {
        let mut state = self.shared.state();
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        let is_old = |waiting: &Job| !waiting.is_best || job.is_best;
        let (old, kept): (Vec<Job>, Vec<Job>) = state.waiting.drain(..).partition(is_old);
        state.waiting = kept;
        let State { waiting, spare, .. } = &mut *state;
        spare.extend(old.into_iter().filter_map(|job| job.snapshot.into_memory()));
        waiting.push(job);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until everything is on disk.
    /// Errors: a checkpoint could not be written.
    pub fn finish(&self) -> Result<()> {
        let mut state = self.shared.state();
        while state.is_writing || !state.waiting.is_empty() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.fault.take().map_or(Ok(()), Err)
    }

    /// The newest checkpoint on disk.
    pub fn last(&self) -> Option<PathBuf> {
        self.shared.state().last.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed; a second panic in a drop would abort.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let mut state = shared.state();
        while state.waiting.is_empty() {
            if state.is_closed {
                return;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let job = state.waiting.remove(0);
        state.is_writing = true;
        let best = if job.is_best { Some(job.record.step) } else { state.best };
        drop(state);
        let written = write(shared, &job, best);
        let mut state = shared.state();
        state.is_writing = false;
        match written {
            Ok(path) => (state.last, state.best) = (Some(path), best),
            Err(fault) => state.fault = state.fault.take().or(Some(fault)),
        }
        state.spare.extend(job.snapshot.into_memory());
        drop(state);
        shared.changed.notify_all();
    }
}

fn write(shared: &Shared, job: &Job, best: Option<u64>) -> Result<PathBuf> {
    if let Some((slot, at)) = job.snapshot.first_bad_weight().filter(|_| job.must_be_finite) {
        let message = format!(
            "no checkpoint was written after step {}: {} is not finite, first at element {at}",
            job.record.step, slot.name
        );
        return Err(damaged(message));
    }
    let path = shared.home.path.join(keep::name(job.record.step));
    folder::write_with(&path, &job.snapshot, &job.record, job.best_weights.as_ref(), &shared.beside)?;
    keep::prune(&shared.home.path, shared.keep, best)?;
    Ok(path)
}
