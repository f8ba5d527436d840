//! Ways between host and device: a ring of mapped memory that batches are written to, one turn a submission, and memory for the small values
//! that are copied out at the end of a submission because they were asked for after the one before. Never takes a turn again before the submission
//! that had it is done.

use crate::adapter::Gpu;
use crate::memory;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::plan::{Layout, Plan};

/// Submissions that may wait in the queue: enough that the device never waits for the host.
pub const TURNS: usize = 4;

/// Submissions that may not be done, the oldest first: each has a turn of the ring.
pub struct InFlight<S>(VecDeque<S>);

impl<S> InFlight<S> {
    pub fn empty() -> InFlight<S> {
        InFlight(VecDeque::with_capacity(TURNS))
    }

    /// Waits for the oldest where all turns are taken: the next submission gets its turn.
    pub fn make_room(&mut self, wait: impl FnOnce(S) -> Result<(), DeviceError>) -> Result<(), DeviceError> {
        if self.0.len() < TURNS {
            return Ok(());
        }
        self.0.pop_front().map_or(Ok(()), wait)
    }

    /// Adds a submission, for which there is room.
    pub fn push(&mut self, submission: S) {
        assert!(self.0.len() < TURNS, "bug: a submission took the turn of another that may not be done");
        self.0.push_back(submission);
    }

    pub fn last(&self) -> Option<&S> {
        self.0.back()
    }

    /// All are done.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Memory that batches are written to. Unlike what a queue takes for each write, it is taken once.
pub struct Ring {
    turns: Vec<Turn>,
    at: usize,
}

struct Turn {
    buffer: wgpu::Buffer,
    is_mapped: Arc<AtomicBool>,
}

impl Ring {
    /// Without memory yet.
    pub fn empty() -> Ring {
        Ring { turns: Vec::new(), at: 0 }
    }

    /// Bytes of one turn.
    pub fn bytes(&self) -> u64 {
        self.turns.first().map_or(0, |t| t.buffer.size())
    }

    /// Takes memory for turns of so many bytes.
    pub fn make(gpu: &Gpu, bytes: u64) -> Result<Ring, DeviceError> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let turn = |_| {
            let buffer = memory::buffer(gpu, bytes, usage, "batches on their way")?;
            Ok(Turn { buffer, is_mapped: Arc::new(AtomicBool::new(true)) })
        };
        Ok(Ring { turns: (0..TURNS).map(turn).collect::<Result<_, DeviceError>>()?, at: 0 })
    }

    /// The memory whose turn it is.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.turns[self.at].buffer
    }

    /// Its first `bytes` bytes, to be written.
    pub fn view(&self, bytes: u64) -> Result<wgpu::BufferViewMut, DeviceError> {
        let turn = &self.turns[self.at];
        if !turn.is_mapped.load(Ordering::Acquire) {
            return Err(DeviceError::Lost("memory for batches did not come back".to_string()));
        }
        turn.buffer.get_mapped_range_mut(0..bytes).map_err(|e| DeviceError::Lost(e.to_string()))
    }

    /// Gives what was written to the device, before it is submitted.
    pub fn hand_over(&self) {
        let turn = &self.turns[self.at];
        turn.is_mapped.store(false, Ordering::Release);
        turn.buffer.unmap();
    }

    /// Asks for the memory back as soon as the submission is done; the next one's turn comes.
    pub fn next(&mut self) {
        let turn = &self.turns[self.at];
        let is_mapped = turn.is_mapped.clone();
        turn.buffer.map_async(wgpu::MapMode::Write, .., move |done| is_mapped.store(done.is_ok(), Ordering::Release));
        self.at = (self.at + 1) % TURNS;
    }
}

/// Outputs larger than this are copied only when they are asked for.
const SMALL_BYTES: usize = 4096;

/// Small outputs that are copied out with the step.
pub struct Answers {
    buffer: Option<wgpu::Buffer>,
    /// By output: where it is, if it is small.
    places: Vec<Option<u64>>,
    /// What came, by output; empty until it is fetched.
    bytes: Vec<u8>,
    /// Outputs that were asked for since the last submission, as bits.
    pub asked: u64,
    /// Outputs that the last submission copies out.
    pub copied: u64,
}

impl Answers {
    pub fn new(gpu: &Gpu, plan: &Plan, layout: &Layout) -> Result<Answers, DeviceError> {
        let mut bytes = 0;
        let mut place = |output: &wholestep_compiler::plan::Output| {
            let n = layout.sizes[output.buffer.0 as usize];
            let at = (n > 0 && n <= SMALL_BYTES).then_some(bytes as u64);
            bytes += at.map_or(0, |_| n.next_multiple_of(16));
            at
        };
        // As many as there are bits.
        let places: Vec<Option<u64>> = plan.outputs.iter().take(64).map(&mut place).collect();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = match bytes {
            0 => None,
            n => Some(memory::buffer(gpu, n as u64, usage, "small outputs")?),
        };
        Ok(Answers { buffer, places, bytes: Vec::with_capacity(bytes), asked: 0, copied: 0 })
    }

    pub fn held_bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, wgpu::Buffer::size)
    }

    /// Notes that output `index` was asked for.
    pub fn ask(&mut self, index: usize) {
        if self.places.get(index).copied().flatten().is_some() {
            self.asked |= 1 << index;
        }
    }

    /// Where the outputs of `set` go: their numbers, the memory and the places in it.
    pub fn copies(&self, set: u64) -> impl Iterator<Item = (usize, &wgpu::Buffer, u64)> {
        let of = move |(i, place): (usize, &Option<u64>)| {
            let at = place.filter(|_| set >> i & 1 == 1)?;
            self.buffer.as_ref().map(|buffer| (i, buffer, at))
        };
        self.places.iter().enumerate().filter_map(of)
    }

    /// A submission begins that copies `set` out.
    pub fn begin(&mut self, set: u64) {
        self.copied = set;
        self.asked = 0;
        self.bytes.clear();
    }

    /// What the last submission copied out of output `index`, `len` bytes; `wait` waits for it.
    pub fn fetch(
        &mut self,
        index: usize,
        len: usize,
        wait: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Option<&[u8]>, DeviceError> {
        let found = self.copies(self.copied).find(|(i, _, _)| *i == index).map(|(_, buffer, at)| (buffer.clone(), at));
        let Some((buffer, at)) = found else { return Ok(None) };
        if self.bytes.is_empty() {
            buffer.map_async(wgpu::MapMode::Read, .., |_| {});
            wait()?;
            let mapped = buffer.get_mapped_range(..).map_err(|e| DeviceError::Lost(e.to_string()))?;
            self.bytes.extend_from_slice(&mapped);
            drop(mapped);
            buffer.unmap();
        }
        Ok(Some(&self.bytes[at as usize..at as usize + len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Software Vulkan is done with a step before the next is handed over, so that no step there would tell.
    #[test]
    fn a_turn_is_taken_again_only_when_the_submission_that_had_it_is_done() {
        let (mut in_flight, mut waited) = (InFlight::empty(), Vec::new());
        for submission in 0..10 {
            let done = in_flight.make_room(|oldest| {
                waited.push(oldest);
                Ok(())
            });
            done.unwrap();
            in_flight.push(submission);
            assert_eq!(in_flight.last(), Some(&submission));
        }
        assert_eq!(waited, [0, 1, 2, 3, 4, 5], "four are on their way when the fifth waits for the first");
        let lost = in_flight.make_room(|_| Err(DeviceError::Lost("it is gone".to_string())));
        assert!(matches!(lost, Err(DeviceError::Lost(_))));
        in_flight.clear();
        for submission in 0..TURNS {
            in_flight.make_room(|_| panic!("nothing is on its way")).unwrap();
            in_flight.push(submission);
        }
        let hasty = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| in_flight.push(9)));
        assert!(hasty.is_err(), "nobody may leave the wait out");
    }
}
