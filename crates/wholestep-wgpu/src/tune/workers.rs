//! The host's threads, which work while their user looks at what they have made. Takes jobs, in order and urgent ones first, gives each back once.
//! Never begins a job after its time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a job came to.
pub enum Made<T> {
    It(T),
    /// Its time was over before it began.
    TooLate,
    Panicked,
}

/// Jobs of one kind `J`, each with the time until which it may begin.
pub struct Workers<J> {
    jobs: Mutex<Jobs<J>>,
    changed: Condvar,
}

struct Jobs<J> {
    waiting: VecDeque<(J, Instant)>,
    is_over: bool,
}

impl<J: Copy + Send> Workers<J> {
    /// Runs `user` beside threads that do `jobs` and what it asks for meanwhile; each job comes to it with what `make` made of it.
    pub fn with<T: Send, R>(
        jobs: impl IntoIterator<Item = (J, Instant)>,
        make: impl Fn(J) -> T + Sync,
        user: impl FnOnce(&Workers<J>, Receiver<(J, Made<T>)>) -> R,
    ) -> R {
        let jobs = Jobs { waiting: jobs.into_iter().collect(), is_over: false };
        let workers = Workers { jobs: Mutex::new(jobs), changed: Condvar::new() };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|scope| {
            // However the user ends, the threads do.
            let _end = End(&workers);
            let (sender, receiver) = channel();
            for _ in 0..threads {
                let (sender, workers, make) = (sender.clone(), &workers, &make);
                scope.spawn(move || workers.work(make, &sender));
            }
            drop(sender);
            user(&workers, receiver)
        })
    }

    /// Has a job done before all that wait.
    pub fn ask(&self, job: J, until: Instant) {
        self.jobs().waiting.push_front((job, until));
        self.changed.notify_one();
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs<J>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work<T>(&self, make: &impl Fn(J) -> T, sender: &Sender<(J, Made<T>)>) {
        while let Some((job, until)) = self.next() {
            let made = match Instant::now() < until {
                true => catch_unwind(AssertUnwindSafe(|| make(job))).map_or(Made::Panicked, Made::It),
                false => Made::TooLate,
            };
            // Nobody listens any more where the user ended early.
            let _ = sender.send((job, made));
        }
    }

    fn next(&self) -> Option<(J, Instant)> {
        let mut jobs = self.jobs();
        loop {
            if jobs.is_over {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lets the threads end when it is dropped.
struct End<'a, J: Copy + Send>(&'a Workers<J>);

impl<J: Copy + Send> Drop for End<'_, J> {
    fn drop(&mut self) {
        self.0.jobs().is_over = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{Made, Workers};
    use std::time::{Duration, Instant};

    #[test]
    fn each_job_comes_back_once_late_and_panicked_ones_too() {
        let (soon, never) = (Instant::now() + Duration::from_secs(600), Instant::now());
        let jobs = (0..100).map(|i| (i, if i % 10 == 3 { never } else { soon }));
        let make = |i: u32| {
            assert_ne!(i, 42, "a job that panics");
            2 * i
        };
        let mut found = Workers::with(jobs, make, |workers, results| {
            let mut found = Vec::new();
            let mut left = 100;
            while left > 0 {
                let (job, made) = results.recv().unwrap();
                left -= 1;
                if job == 7 {
                    workers.ask(1007, soon);
                    left += 1;
                }
                found.push((
                    job,
                    match made {
                        Made::It(n) => Some(n),
                        Made::TooLate => None,
                        Made::Panicked => Some(u32::MAX),
                    },
                ));
            }
            found
        });
        found.sort_unstable();
        let expected = (0..100).chain([1007]).map(|i| match i {
            42 => (i, Some(u32::MAX)),
            3..100 if i % 10 == 3 => (i, None),
            _ => (i, Some(2 * i)),
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_asked_for_comes_before_what_waits_and_an_early_end_leaves_the_rest() {
        let soon = Instant::now() + Duration::from_secs(600);
        let slow = |_: usize| std::thread::sleep(Duration::from_millis(2));
        let before = Workers::with((0..5000).map(|i| (i, soon)), slow, |workers, results| {
            workers.ask(9999, soon);
            results.iter().take_while(|(job, _)| *job != 9999).count()
        });
        assert!(before < 4000, "{before} jobs came first");
    }
}
