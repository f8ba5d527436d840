//! Takes a number of independent tasks and a function to call on each. Gives them to a fixed set of threads, of which the
//! caller is one, and returns when all are done. Never allocates per call, never spins without bound, and never lets the
//! choice of thread show in a result: a task sees its own number and a worker number, and nothing else.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread that waits looks at memory before it goes to sleep. Longer than the gap between two kernels of a
/// step, shorter than anything another user of the machine would notice.
const SPIN: Duration = Duration::from_micros(40);

/// Bit 0 of the gate: workers may still enter the job.
const OPEN: u64 = 1;
/// One worker inside the job, in the gate's bits 1 to 15.
const ONE_INSIDE: u64 = 2;
const INSIDE_MASK: u64 = 0xfffe;
const EPOCH_SHIFT: u32 = 16;

type Task = dyn Fn(usize, usize) + Sync;

/// A fixed set of threads that runs numbered tasks; see [`Pool::run`].
///
/// `Pool::new(1)` starts no thread: everything runs on the caller. Dropping the pool ends its threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
}

struct Shared {
    /// epoch << 16 | workers inside << 1 | open. A worker enters by a compare-exchange on an open gate, so a worker that
    /// wakes too late never delays the caller.
    gate: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    caller_waits: AtomicBool,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake_workers: Condvar,
    wake_caller: Condvar,
    /// Workers that have begun to serve.
    started: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Job {
    task: Option<*const Task>,
    n_tasks: usize,
}

// SAFETY: `job` is written by the caller only while the gate is closed and nobody is inside, and read only by workers that
// entered through the gate; the gate's acquire and release order the two. The other fields are Sync themselves.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is followed only between entering and leaving the gate, while `run` keeps its target alive.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `n_threads` threads in all, the caller included, so it starts `n_threads - 1`. 0 counts as 1.
    ///
    /// When the system refuses a thread the pool goes on with those it has; [`Pool::n_threads`] tells how many. Returns when all
    /// threads run: a thread allocates when it starts, and that must not fall into a step.
    pub fn new(n_threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { task: None, n_tasks: 0 }),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            caller_waits: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake_workers: Condvar::new(),
            wake_caller: Condvar::new(),
            started: AtomicUsize::new(0),
        });
        let n_workers = n_threads.clamp(1, (INSIDE_MASK / ONE_INSIDE) as usize) - 1;
        let mut workers = Vec::with_capacity(n_workers);
        for worker in 1..=n_workers {
            let shared = Arc::clone(&shared);
            let name = format!("wholestep-{worker}");
            match std::thread::Builder::new().name(name).spawn(move || shared.serve(worker)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        shared.wait_for_start(workers.len());
        Pool { shared, workers, busy: AtomicBool::new(false) }
    }

    /// Threads that take part in [`Pool::run`], the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i` in `0..n_tasks`, in any order and on any thread, and returns when all are done.
    ///
    /// One task runs on the caller and wakes nobody. A `run` inside a task, or beside another `run` of the same pool, runs
    /// all its tasks on its own caller. A panic in a task reaches the caller of `run`; tasks not yet begun are then left out.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_indexed(n_tasks, &|i, _| task(i));
    }

    /// As [`Pool::run`], and tells each task the worker that runs it: a number below [`Pool::n_threads`] that no other
    /// thread has during this call. It is for picking scratch memory and must not change any result.
    pub fn run_indexed(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if n_tasks <= 1 || self.workers.is_empty() || self.busy.swap(true, Ordering::Acquire) {
            for i in 0..n_tasks {
                task(i, 0);
            }
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. Workers use the pointer only inside the gate, and `finish` below returns
        // after the last of them left, also when a task panics.
        let erased: *const Task = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static Task>(task) };
        // SAFETY: `busy` makes this the only caller, the gate is closed and nobody is inside.
        unsafe { *shared.job.get() = Job { task: Some(erased), n_tasks } };
        shared.next.store(0, Ordering::Relaxed);
        let epoch = (shared.gate.load(Ordering::Relaxed) >> EPOCH_SHIFT) + 1;
        shared.gate.store(epoch << EPOCH_SHIFT | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            shared.wake(n_tasks - 1);
        }
        shared.claim(task, n_tasks, 0);
        shared.finish();
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("n_threads", &self.n_threads()).finish()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.guard());
        self.shared.wake_workers.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never panics outside a task, and task panics were handed to their caller.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_start(&self, n_workers: usize) {
        let mut guard = self.guard();
        while self.started.load(Ordering::SeqCst) < n_workers {
            guard = self.wake_caller.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self, n_useful: usize) {
        // Taking the lock closes the window in which a worker has looked at the gate but does not sleep yet.
        drop(self.guard());
        if n_useful < self.sleepers.load(Ordering::Relaxed) {
            for _ in 0..n_useful {
                self.wake_workers.notify_one();
            }
        } else {
            self.wake_workers.notify_all();
        }
    }

    /// Runs tasks until none is left; a panic is kept for the caller and cancels the tasks not begun.
    fn claim(&self, task: &(dyn Fn(usize, usize) + Sync), n_tasks: usize, worker: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= n_tasks {
                    return;
                }
                task(i, worker);
            }
        }));
        if let Err(payload) = outcome {
            self.next.store(n_tasks, Ordering::Relaxed);
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(payload);
        }
    }

    /// Closes the gate and waits for the workers inside.
    fn finish(&self) {
        if self.gate.fetch_and(!OPEN, Ordering::AcqRel) & INSIDE_MASK == 0 {
            return;
        }
        let inside = || self.gate.load(Ordering::SeqCst) & INSIDE_MASK != 0;
        if spin_until(|| !inside()) {
            return;
        }
        let mut guard = self.guard();
        self.caller_waits.store(true, Ordering::SeqCst);
        while inside() {
            guard = self.wake_caller.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    fn serve(&self, worker: usize) {
        let mut seen = 0;
        self.started.fetch_add(1, Ordering::SeqCst);
        drop(self.guard());
        self.wake_caller.notify_all();
        while let Some(gate) = self.next_gate(seen) {
            let entered = self.gate.compare_exchange(gate, gate + ONE_INSIDE, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_err() {
                // Another worker entered or the job ended between the look and the try: look again.
                continue;
            }
            seen = gate >> EPOCH_SHIFT;
            // SAFETY: this worker is inside the gate, so the caller neither writes the job nor leaves `run`.
            let job = unsafe { *self.job.get() };
            if let Some(task) = job.task {
                // SAFETY: as above, `run` keeps the function alive until this worker left the gate.
                self.claim(unsafe { &*task }, job.n_tasks, worker);
            }
            let after = self.gate.fetch_sub(ONE_INSIDE, Ordering::SeqCst) - ONE_INSIDE;
            if after & (INSIDE_MASK | OPEN) == 0 && self.caller_waits.load(Ordering::SeqCst) {
                drop(self.guard());
                self.wake_caller.notify_all();
            }
        }
    }

    /// Waits for an open gate of a job other than `seen`: spins a little, then sleeps. None: the pool is being dropped.
    fn next_gate(&self, seen: u64) -> Option<u64> {
        let look = || {
            let gate = self.gate.load(Ordering::SeqCst);
            (gate & OPEN != 0 && gate >> EPOCH_SHIFT != seen).then_some(gate)
        };
        let mut found = None;
        spin_until(|| {
            found = look();
            found.is_some() || self.stop.load(Ordering::Relaxed)
        });
        if found.is_none() {
            let mut guard = self.guard();
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            loop {
                found = look();
                if found.is_some() || self.stop.load(Ordering::SeqCst) {
                    break;
                }
                guard = self.wake_workers.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        if self.stop.load(Ordering::SeqCst) { None } else { found }
    }
}

/// Looks at `done` for at most [`SPIN`]; tells whether it became true.
fn spin_until(mut done: impl FnMut() -> bool) -> bool {
    let mut begin = None;
    loop {
        for _ in 0..16 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let begin = *begin.get_or_insert_with(Instant::now);
        if begin.elapsed() > SPIN {
            return done();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_at_any_thread_count() {
        for n_threads in [1, 2, 3, 5] {
            let pool = Pool::new(n_threads);
            for n_tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run_indexed(n_tasks, &|i, worker| {
                        assert!(worker < pool.n_threads());
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n_threads} {n_tasks}");
                }
            }
        }
    }

    #[test]
    fn worker_numbers_are_never_shared() {
        let pool = Pool::new(4);
        let held: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..200 {
            pool.run_indexed(32, &|_, worker| {
                assert!(!held[worker].swap(true, Ordering::SeqCst));
                std::hint::black_box((0..200).sum::<u64>());
                held[worker].store(false, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn a_sleeping_pool_wakes_and_a_long_task_is_waited_for() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            let begin = Instant::now();
            while begin.elapsed() < 5 * SPIN {
                std::thread::yield_now();
            }
            let done = AtomicUsize::new(0);
            pool.run(3, &|i| {
                let begin = Instant::now();
                while i > 0 && begin.elapsed() < 5 * SPIN {
                    std::thread::yield_now();
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(done.load(Ordering::SeqCst), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|i| {
                    if i == bad {
                        std::panic::panic_any(format!("task {i}"));
                    }
                });
            }));
            let payload = outcome.expect_err("the panic must reach the caller");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad}")));
        }
        let done = AtomicUsize::new(0);
        pool.run(10, &|_| {
            done.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.load(Ordering::SeqCst), 10);
    }

    #[test]
    fn a_run_inside_a_task_and_runs_side_by_side_finish() {
        let pool = Pool::new(2);
        let done = AtomicUsize::new(0);
        let count = |_: usize| {
            done.fetch_add(1, Ordering::SeqCst);
        };
        pool.run(4, &|_| pool.run(4, &count));
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| (0..20).for_each(|_| pool.run(5, &count)));
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 16 + 300);
    }
}
