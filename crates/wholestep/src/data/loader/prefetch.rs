//! Threads that make batches ahead. Takes jobs, gives their batches in the order of the jobs. Never holds more batches
//! than its bound, and never outlives the loader.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{Loading, Made, SampleMap, sample};
use crate::data::array::Array;
use crate::data::dataset::Dataset;
use crate::device::Device;
use crate::{Error, ErrorKind, Result};

/// One batch to make.
pub(super) struct Job {
    pub epoch: u64,
    pub rows: Vec<usize>,
    /// Arrays whose memory may be used.
    pub spare: Vec<Array>,
    /// Whose pinned memory the batch should lie in.
    pub device: Option<Device>,
}

/// A few threads, the jobs they work on and the batches that are done.
pub(super) struct Workers {
    jobs: Option<Sender<(u64, Job)>>,
    done: Receiver<(u64, Result<Made>)>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// Batches that came before their turn.
    early: BTreeMap<u64, Result<Made>>,
    n_sent: u64,
    n_given: u64,
    bound: u64,
}

impl Workers {
    /// Errors: the system gives no thread.
    pub fn start(loading: &Loading, data: &Dataset, map: &SampleMap) -> Result<Workers> {
        let (jobs, from_loader) = channel::<(u64, Job)>();
        let (to_loader, done) = channel();
        let from_loader = Arc::new(Mutex::new(from_loader));
        let mut workers = Workers {
            jobs: Some(jobs),
            done,
            threads: Vec::new(),
            stop: Arc::default(),
            early: BTreeMap::new(),
            n_sent: 0,
            n_given: 0,
            bound: loading.prefetch.max(loading.workers).max(1) as u64,
        };
        for i in 0..loading.workers {
            let (from_loader, to_loader) = (from_loader.clone(), to_loader.clone());
            let (data, map, stop, loading) = (data.clone(), map.clone(), workers.stop.clone(), loading.clone());
            let work = move || {
                let stopped = || stop.load(Ordering::Relaxed);
                loop {
                    // A panic of another worker cannot leave the queue half changed, so a poisoned lock is as good.
                    let job = from_loader.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((ticket, job)) = job else { return };
                    let batch = sample::mapped(&data, &map, &loading, job, &stopped);
                    if stopped() || to_loader.send((ticket, batch)).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("wholestep-data-{i}")).spawn(work).map_err(|e| {
                Error::new(ErrorKind::Io, format!("loader: cannot start worker {i}: {e}; use fewer workers"))
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Whether one more job may be sent.
    pub fn has_room(&self) -> bool {
        self.n_sent - self.n_given < self.bound
    }

    pub fn send(&mut self, job: Job) {
        let jobs = self.jobs.as_ref().expect("bug: the queue of jobs is closed before the loader is dropped");
        jobs.send((self.n_sent, job)).expect("bug: all workers of a loader have ended");
        self.n_sent += 1;
    }

    /// The batch of the oldest job that was not given yet.
    pub fn receive(&mut self) -> Result<Made> {
        let ticket = self.n_given;
        self.n_given += 1;
        loop {
            if let Some(batch) = self.early.remove(&ticket) {
                return batch;
            }
            let (came, batch) = self.done.recv().expect("bug: all workers of a loader have ended");
            // What is older was forgotten by a seek.
            if came >= ticket {
                self.early.insert(came, batch);
            }
        }
    }

    /// Drops what was made ahead: the jobs sent so far will not be asked for.
    pub fn forget(&mut self) {
        self.n_given = self.n_sent;
        self.early.clear();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A worker only panics by a bug, which it has printed; a second panic in a drop would abort.
            let _ = thread.join();
        }
    }
}
