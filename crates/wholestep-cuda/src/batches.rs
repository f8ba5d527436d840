//! Batches on their way to the device. Takes the inputs of a few steps, gives where on the device they will be: each turn has memory of its own on
//! both sides, so that one is written and copied while the device works on the other. Never lets a turn be written that is still read.

use crate::driver::{Driver, Event, Host, Stream};
use crate::memory::Memory;
use wholestep_compiler::backend::DeviceError;

/// How many turns there are.
pub const TURNS: usize = 2;

pub struct Batches {
    /// Steps of one turn.
    pub steps: usize,
    turns: Vec<Turn>,
    next: usize,
}

struct Turn {
    host: Host,
    /// The batches have left the host.
    sent: Event,
    /// The steps that read them are done.
    read: Event,
}

impl Batches {
    /// Turns of so many steps whose inputs take `block_bytes` each; none for steps without inputs.
    pub fn new(driver: &mut dyn Driver, steps: usize, block_bytes: u64) -> Result<Batches, DeviceError> {
        let mut turns = Vec::new();
        if block_bytes > 0 {
            for _ in 0..TURNS {
                let host = driver.pin(steps * block_bytes as usize)?;
                turns.push(Turn { host, sent: driver.event()?, read: driver.event()? });
            }
        }
        Ok(Batches { steps, turns, next: 0 })
    }

    /// Memory of the same number of steps with another size.
    pub fn resize(&mut self, driver: &mut dyn Driver, steps: usize, block_bytes: u64) -> Result<(), DeviceError> {
        self.steps = steps;
        for turn in &mut self.turns {
            driver.unpin(turn.host);
            turn.host = driver.pin(steps * block_bytes as usize)?;
        }
        Ok(())
    }

    /// Device blocks that all turns take.
    pub fn n_blocks(&self) -> u64 {
        (self.turns.len() * self.steps) as u64
    }

    /// Sends the inputs of `steps` steps, of which `part(i)` gives the bytes of input i; gives the first block that they are in. Work on them that
    /// is submitted next comes after that.
    pub fn send<'a>(
        &mut self,
        driver: &mut dyn Driver,
        memory: &Memory,
        steps: usize,
        inputs: impl Iterator<Item = &'a [u8]>,
    ) -> Result<u64, DeviceError> {
        let Some(turn) = self.turns.get(self.next) else { return Ok(0) };
        driver.wait(turn.sent)?;
        let block_bytes = memory.block_bytes as usize;
        let to = driver.host(turn.host);
        for (i, bytes) in inputs.enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            let at = memory.input(i).offset as usize;
            for (step, part) in bytes.chunks_exact(bytes.len() / steps).enumerate() {
                to[step * block_bytes + at..][..part.len()].copy_from_slice(part);
            }
        }
        let first = (self.next * self.steps) as u64;
        driver.after(Stream::Copy, turn.read)?;
        driver.send(turn.host, 0..steps * block_bytes, memory.block(first))?;
        driver.record(turn.sent, Stream::Copy)?;
        driver.after(Stream::Compute, turn.sent)?;
        Ok(first)
    }

    /// The steps that read the last batches are submitted.
    pub fn submitted(&mut self, driver: &mut dyn Driver) -> Result<(), DeviceError> {
        let Some(turn) = self.turns.get(self.next) else { return Ok(()) };
        self.next = (self.next + 1) % self.turns.len();
        driver.record(turn.read, Stream::Compute)
    }
}
