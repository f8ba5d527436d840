//! Batches on their way to the device. Takes the inputs of a few steps, gives where kernels find them: each turn has memory of its own, so that one
//! is written while the device works on another. Never lets a turn be written that is still read.

use crate::driver::{Driver, Event, Host, Stream};
use crate::memory::Memory;
use wholestep_compiler::backend::DeviceError;

pub struct Batches {
    /// Steps of one turn.
    pub steps: usize,
    turns: Vec<Turn>,
    next: usize,
    /// Whether kernels read the host's memory; else there is a place on the device for each turn.
    reads_host: bool,
}

struct Turn {
    host: Host,
    /// The batches have left the host.
    sent: Event,
    /// The steps that read them are done.
    read: Event,
}

/// Turns of batches that are copied: one is filled while the other is worked on.
const COPIED: usize = 2;
/// Turns of batches that kernels read where they are, which are small: so many that the host seldom waits.
const READ: usize = 2 * HALF;
/// Of those, turns that are marked, and waited for, together.
const HALF: usize = 4;
/// Batches of one turn, in bytes, if that is more than one step: few, so that the copies of one turn and the steps of another go on at the same time.
const TURN_BYTES: u64 = 512 << 10;

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
            let host = driver.pin(steps * block_bytes as usize)?;
            turns.push(Turn { host, sent: driver.event()?, read: driver.event()? });
        }
        Ok(Batches { steps, turns, next: 0, reads_host })
    }

    /// Gives the memory back.
    pub fn drop_from(&mut self, driver: &mut dyn Driver) {
        for turn in self.turns.drain(..) {
            driver.unpin(turn.host);
        }
    }

    /// Blocks on the device that all turns take.
    pub fn n_blocks(&self) -> u64 {
        if self.reads_host { 0 } else { (self.turns.len() * self.steps) as u64 }
    }

    /// Sends the inputs of `steps` steps, given by input; gives the address where they begin. Work that is submitted next finds them there.
    pub fn send<'a>(
        &mut self,
        driver: &mut dyn Driver,
        memory: &Memory,
        steps: usize,
        inputs: impl Iterator<Item = &'a [u8]>,
    ) -> Result<u64, DeviceError> {
        let Some(turn) = self.turns.get(self.next) else { return Ok(memory.block(0)) };
        match self.reads_host {
            true if self.next.is_multiple_of(HALF) => driver.wait(self.turns[self.next + HALF - 1].read)?,
            true => {}
            false => driver.wait(turn.sent)?,
        }
        let block_bytes = memory.block_bytes as usize;
        let to = driver.host(turn.host);
        for (i, bytes) in inputs.enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            let at = memory.input(i).offset as usize;
            for (step, part) in bytes.chunks_exact(bytes.len() / steps).enumerate() {
                to[step * block_bytes + at..][..part.len()].copy_from_slice(part);
            }
        }
        if self.reads_host {
            return Ok(driver.address(turn.host));
        }
        let first = memory.block((self.next * self.steps) as u64);
        driver.after(Stream::Copy, turn.read)?;
        driver.send(turn.host, 0..steps * block_bytes, first)?;
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
