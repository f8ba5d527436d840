//! Device memory. Takes a plan and where its buffers lie, gives the device's buffers and each plan buffer's place in them. Never moves a
//! slot: those live apart from what a batch size decides.

use crate::adapter::Gpu;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::ir::SlotId;
use wholestep_compiler::plan::{BufferId, Layout, Plan, Space};

/// Where a plan buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub piece: Piece,
    pub offset: u64,
    pub bytes: u64,
}

/// Which of the device's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    Arena(usize),
    Slots(usize),
    /// All inputs of a step; those of several steps lie one block after the other.
    Inputs,
}

/// All memory of a plan.
pub struct Memory {
    pub arena: Vec<wgpu::Buffer>,
    pub slots: Vec<wgpu::Buffer>,
    pub inputs: wgpu::Buffer,
    /// Bytes from the inputs of one step to those of the next.
    pub block_bytes: u64,
    slot_places: Vec<Place>,
    /// In the block of a step.
    input_places: Vec<Place>,
    arena_piece_bytes: u64,
    /// Calls that took memory, and what they took.
    pub allocations: u64,
    pub bytes: u64,
}

/// Every buffer is a multiple of this, so that vectors of four fit to its end.
const VECTOR_BYTES: u64 = 16;
const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

impl Memory {
    pub fn new(gpu: &Gpu, plan: &Plan, layout: &Layout) -> Result<Memory, DeviceError> {
        let caps = &gpu.caps;
        let piece_bytes = (caps.max_buffer_bytes / caps.align_bytes * caps.align_bytes) as u64;
        let mut slot_places = Vec::with_capacity(plan.slots.len());
        let mut filled: Vec<u64> = vec![0];
        for slot in &plan.slots {
            let bytes = (slot.shape.numel_at(0) * caps.stored_bytes(slot.dtype)) as u64;
            let room = bytes.next_multiple_of(caps.align_bytes as u64);
            if filled[filled.len() - 1] + room > piece_bytes {
                filled.push(0);
            }
            let piece = filled.len() - 1;
            slot_places.push(Place { piece: Piece::Slots(piece), offset: filled[piece], bytes });
            filled[piece] += room;
        }
        check_room(gpu, filled.iter().sum::<u64>() + layout.transient_bytes as u64)?;
        // Stands there until `make_room` knows how large batches are.
        let inputs = buffer(gpu, 0, USAGE, "inputs")?;
        let mut memory = Memory {
            arena: Vec::new(),
            slots: Vec::new(),
            allocations: 1,
            bytes: inputs.size(),
            inputs,
            block_bytes: 0,
            slot_places,
            input_places: Vec::new(),
            arena_piece_bytes: piece_bytes,
        };
        for bytes in filled {
            let buffer = memory.take(gpu, bytes, "parameters and state")?;
            memory.slots.push(buffer);
        }
        memory.make_room(gpu, plan, layout)?;
        Ok(memory)
    }

    /// Arena and inputs of one step for a layout. What was there before is given back first, so that both need not fit at once.
    pub fn make_room(&mut self, gpu: &Gpu, plan: &Plan, layout: &Layout) -> Result<(), DeviceError> {
        check_room(gpu, self.slots.iter().map(wgpu::Buffer::size).sum::<u64>() + layout.transient_bytes as u64)?;
        for buffer in self.arena.drain(..) {
            self.bytes -= buffer.size();
            buffer.destroy();
        }
        // The device takes back what was destroyed when it is asked whether its work is done.
        gpu.wait(None)?;
        let mut left = layout.transient_bytes as u64;
        while left > 0 || self.arena.is_empty() {
            let bytes = left.min(self.arena_piece_bytes);
            let buffer = self.take(gpu, bytes, "values of a step")?;
            self.arena.push(buffer);
            left -= bytes;
        }
        self.input_places.clear();
        self.block_bytes = 0;
        for input in &plan.inputs {
            let bytes = (input.shape.numel_at(layout.max_batch) * gpu.caps.stored_bytes(input.dtype)) as u64;
            self.input_places.push(Place { piece: Piece::Inputs, offset: self.block_bytes, bytes });
            self.block_bytes += bytes.next_multiple_of(gpu.caps.align_bytes as u64);
        }
        self.make_blocks(gpu, 1)
    }

    /// Room for the inputs of `steps` steps; what is bound to the old one must be bound anew.
    pub fn make_blocks(&mut self, gpu: &Gpu, steps: usize) -> Result<(), DeviceError> {
        let made = self.take(gpu, self.block_bytes * steps as u64, "the inputs of all steps of one call")?;
        let old = std::mem::replace(&mut self.inputs, made);
        self.bytes -= old.size();
        Ok(())
    }

    /// Whether the inputs of so many steps fit.
    pub fn has_blocks(&self, steps: usize) -> bool {
        self.block_bytes * steps as u64 <= self.inputs.size()
    }

    fn take(&mut self, gpu: &Gpu, bytes: u64, what: &str) -> Result<wgpu::Buffer, DeviceError> {
        let buffer = buffer(gpu, bytes, USAGE, what)?;
        self.allocations += 1;
        self.bytes += buffer.size();
        Ok(buffer)
    }

    pub fn buffer(&self, piece: Piece) -> &wgpu::Buffer {
        match piece {
            Piece::Arena(i) => &self.arena[i],
            Piece::Slots(i) => &self.slots[i],
            Piece::Inputs => &self.inputs,
        }
    }

    /// Where input `i` begins in the block of a step.
    pub fn input_offset(&self, i: usize) -> u64 {
        self.input_places[i].offset
    }

    pub fn slot(&self, slot: SlotId) -> Place {
        self.slot_places[slot.0 as usize]
    }

    /// Where a plan buffer lies.
    pub fn place(&self, plan: &Plan, layout: &Layout, id: BufferId) -> Place {
        let i = id.0 as usize;
        match plan.buffers[i].space {
            Space::Transient => {
                let at = layout.offsets[i] as u64;
                let piece = (at / self.arena_piece_bytes) as usize;
                let offset = at - piece as u64 * self.arena_piece_bytes;
                Place { piece: Piece::Arena(piece), offset, bytes: layout.sizes[i] as u64 }
            }
            Space::Slot(slot) => self.slot(slot),
            Space::Input(input) => self.input_places[input.0 as usize],
        }
    }
}

/// Whether there can be room for so much at all. Whether there is shows when it is taken.
fn check_room(gpu: &Gpu, wanted_bytes: u64) -> Result<(), DeviceError> {
    match gpu.caps.memory_bytes.filter(|&has| wanted_bytes > has) {
        Some(has) => {
            let what = format!("a step, where {} has {has}", gpu.caps.name);
            Err(DeviceError::OutOfMemory { wanted_bytes, what })
        }
        None => Ok(()),
    }
}

/// A buffer of at least `bytes`; it is mapped where it is for the host to write.
pub fn buffer(gpu: &Gpu, bytes: u64, usage: wgpu::BufferUsages, what: &str) -> Result<wgpu::Buffer, DeviceError> {
    let size = bytes.max(1).next_multiple_of(VECTOR_BYTES);
    if size > gpu.limits.max_buffer_size {
        return Err(DeviceError::OutOfMemory {
            wanted_bytes: size,
            what: format!("{what}, where one buffer holds at most {} bytes", gpu.limits.max_buffer_size),
        });
    }
    let mapped_at_creation = usage.contains(wgpu::BufferUsages::MAP_WRITE);
    let made = gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation });
    gpu.check().map_err(|error| match error {
        DeviceError::OutOfMemory { .. } => DeviceError::OutOfMemory { wanted_bytes: size, what: what.to_string() },
        other => other,
    })?;
    Ok(made)
}
