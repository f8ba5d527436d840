//! Batches on their way to the device. Takes the inputs of a few steps, gives where kernels find them: each turn has memory of its own, so that one
//! is written while the device works on another. Never lets a turn be written that is still read.

use crate::driver::{Driver, Event, Host, Stream};
use crate::memory::Memory;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Arc, LazyLock};
use wholestep_compiler::backend::{DeviceError, HostMemory};

pub struct Batches {
    /// Steps of one turn.
    pub steps: usize,
    turns: Vec<Turn>,
    next: usize,
    /// Whether kernels read the host's memory; else there is a place on the device for each turn.
    reads_host: bool,
}

struct Turn {
    /// Room for all inputs; if that is much, once it was needed: a system takes its time to pin it.
    host: Option<Host>,
    /// By input: room for one that is not lent while another is, if there is none for all.
    rest: Vec<Option<Host>>,
    /// What is sent from where it lies, until it has left the host.
    lent: Vec<Arc<dyn HostMemory>>,
    /// The batches have left the host.
    sent: Event,
    /// The steps that read them are done.
    read: Event,
}

/// Turns of batches that are copied: one is filled while the other is worked on.
const COPIED: usize = 2;
/// Turns of batches that kernels read where they are, which are small: so many that the host seldom waits.
pub const READ: usize = 2 * HALF;
/// Of those, turns that are marked, and waited for, together: waiting takes the host 1.5 µs, however long the mark has been passed.
pub const HALF: usize = 16;
/// Batches of one turn, in bytes, if that is more than one step: few, so that the copies of one turn and the steps of another go on at the same time.
const TURN_BYTES: u64 = 512 << 10;

/// The least that one step's input has for a copy of its own, from where it lies: the host copies less in the time that it takes to ask for that.
pub const LEAST_LENT: usize = 64 << 10;
/// Bytes that several threads of the host copy, as one takes longer for them than threads take to wake, and that are pinned when they are needed.
const LARGE: usize = 4 << 20;
/// As many as keep its memory busy.
const THREADS: usize = 4;

impl Batches {
    /// Turns of up to `most` steps whose inputs take `block_bytes` each; none for steps without inputs.
    pub fn new(
        driver: &mut dyn Driver,
        most: usize,
        block_bytes: u64,
        reads_host: bool,
    ) -> Result<Batches, DeviceError> {
        let by_bytes = (TURN_BYTES / block_bytes.max(1)) as usize;
        let steps = most.min(by_bytes).max(1);
        let n = match reads_host {
            _ if block_bytes == 0 => 0,
            true => READ,
            false => COPIED,
        };
        let mut turns = Vec::with_capacity(n);
        for _ in 0..n {
            let bytes = steps * block_bytes as usize;
            let host = if bytes < LARGE { Some(driver.pin(bytes)?) } else { None };
            let (rest, lent) = Default::default();
            turns.push(Turn { host, rest, lent, sent: driver.event()?, read: driver.event()? });
        }
        Ok(Batches { steps, turns, next: 0, reads_host })
    }

    /// Gives the memory back.
    pub fn drop_from(&mut self, driver: &mut dyn Driver) {
        for turn in self.turns.drain(..) {
            // What fails here fails because the device is lost, which reads no more then.
            let _ = driver.wait(turn.sent);
            turn.host.into_iter().chain(turn.rest.into_iter().flatten()).for_each(|host| driver.unpin(host));
        }
    }

    /// Blocks on the device that all turns take.
    pub fn n_blocks(&self) -> u64 {
        if self.reads_host { 0 } else { (self.turns.len() * self.steps) as u64 }
    }

    /// Sends the inputs of `steps` steps, given by input; gives the address where they begin. Work that is submitted next finds them there.
    /// Of an input in `lent` the bytes lie in that memory.
    pub fn send<'a>(
        &mut self,
        driver: &mut dyn Driver,
        memory: &Memory,
        steps: usize,
        inputs: impl Iterator<Item = &'a [u8]> + Clone,
        lent: &[Option<Arc<dyn HostMemory>>],
    ) -> Result<u64, DeviceError> {
        let next = self.next;
        if self.turns.is_empty() {
            return Ok(memory.block(0));
        }
        match self.reads_host {
            true if next.is_multiple_of(HALF) => driver.wait(self.turns[next + HALF - 1].read)?,
            true => {}
            false => driver.wait(self.turns[next].sent)?,
        }
        let turn = &mut self.turns[next];
        turn.lent.clear();
        let is_lent = |i: usize, part: &[u8]| !self.reads_host && lent[i].is_some() && part.len() >= LEAST_LENT;
        // By input and step: the number, the step, where it goes in the turn, and the bytes.
        let parts = inputs.enumerate().filter(|(_, bytes)| !bytes.is_empty()).flat_map(|(i, bytes)| {
            let at = move |step: usize| step * memory.block_bytes as usize + memory.input(i).offset as usize;
            bytes.chunks_exact(bytes.len() / steps).enumerate().map(move |(step, part)| (i, step, at(step), part))
        });
        let first = memory.block((next * self.steps) as u64);
        if parts.clone().any(|(i, _, _, part)| is_lent(i, part)) {
            driver.after(Stream::Copy, turn.read)?;
            turn.lent.extend(lent.iter().flatten().cloned());
            turn.rest.resize(lent.len(), None);
            for (i, step, at, part) in parts {
                if is_lent(i, part) {
                    driver.send_lent(part, first + at as u64)?;
                    continue;
                }
                let most = memory.input(i).bytes as usize;
                let (host, from) = match turn.host {
                    Some(host) => (host, at),
                    None => (pinned(driver, &mut turn.rest[i], self.steps * most)?, step * most),
                };
                copy(&mut driver.host(host)[from..][..part.len()], part);
                driver.send(host, from..from + part.len(), first + at as u64)?;
            }
        } else {
            let host = pinned(driver, &mut turn.host, self.steps * memory.block_bytes as usize)?;
            let to = driver.host(host);
            parts.for_each(|(_, _, at, part)| copy(&mut to[at..][..part.len()], part));
            if self.reads_host {
                return Ok(driver.address(host));
            }
            driver.after(Stream::Copy, turn.read)?;
            driver.send(host, 0..steps * memory.block_bytes as usize, first)?;
        }
        driver.record(turn.sent, Stream::Copy)?;
        driver.after(Stream::Compute, turn.sent)?;
        Ok(first)
    }

    /// The steps that read the last batches are submitted.
    pub fn submitted(&mut self, driver: &mut dyn Driver) -> Result<(), DeviceError> {
        let Some(turn) = self.turns.get(self.next) else { return Ok(()) };
        self.next = (self.next + 1) % self.turns.len();
        // A mark between two kernels would keep the second from beginning early.
        let is_marked = !self.reads_host || self.next.is_multiple_of(HALF);
        if is_marked { driver.record(turn.read, Stream::Compute) } else { Ok(()) }
    }
}

/// Pinned memory, taken if there is none yet.
fn pinned(driver: &mut dyn Driver, host: &mut Option<Host>, bytes: usize) -> Result<Host, DeviceError> {
    match *host {
        Some(host) => Ok(host),
        None => driver.pin(bytes).map(|taken| *host.insert(taken)),
    }
}

/// Copies by as many threads as it is worth.
fn copy(to: &mut [u8], from: &[u8]) {
    match (from.len() >= LARGE).then(copiers).flatten() {
        Some(pool) => {
            let piece = from.len().div_ceil(pool.current_num_threads());
            let pieces = to.par_chunks_mut(piece).zip(from.par_chunks(piece));
            pool.install(|| pieces.for_each(|(to, from)| to.copy_from_slice(from)));
        }
        None => to.copy_from_slice(from),
    }
}

/// The threads that copy, of all executables: kept from the first large batch on, as starting them takes longer than waking them. None where there is
/// but one core, or the system gives no thread.
fn copiers() -> Option<&'static ThreadPool> {
    static COPIERS: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
        let n = THREADS.min(std::thread::available_parallelism().map_or(1, usize::from));
        let copiers = ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("wholestep copy {i}"));
        if n > 1 { copiers.build().ok() } else { None }
    });
    COPIERS.as_ref()
}

#[cfg(test)]
mod tests {
    use super::{LARGE, copy};

    #[test]
    fn batches_of_any_size_are_copied_whole() {
        for n in [0, 1, LARGE - 1, LARGE, LARGE + 3, 3 * LARGE + 1] {
            let from: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
            let mut to = vec![255; n];
            copy(&mut to, &from);
            assert!(to == from, "{n} bytes");
        }
    }
}
