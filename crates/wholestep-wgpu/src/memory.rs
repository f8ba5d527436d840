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
    Input(usize),
}

/// All memory of a plan.
pub struct Memory {
    pub arena: Vec<wgpu::Buffer>,
    pub slots: Vec<wgpu::Buffer>,
    pub inputs: Vec<wgpu::Buffer>,
    slot_places: Vec<Place>,
    arena_piece_bytes: u64,
    /// Calls that took memory, and what they took.
    pub allocations: u64,
    pub bytes: u64,
}

/// Every buffer is a multiple of this, so that vectors of four fit to its end.
const VECTOR_BYTES: u64 = 16;

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
        let mut memory = Memory {
            arena: Vec::new(),
            slots: Vec::new(),
            inputs: Vec::new(),
            slot_places,
            arena_piece_bytes: piece_bytes,
            allocations: 0,
            bytes: 0,
        };
        for bytes in filled {
            let buffer = memory.take(gpu, bytes, "parameters and state")?;
            memory.slots.push(buffer);
        }
        memory.make_room(gpu, plan, layout)?;
        Ok(memory)
    }

    /// Arena and inputs for a layout.
    pub fn make_room(&mut self, gpu: &Gpu, plan: &Plan, layout: &Layout) -> Result<(), DeviceError> {
        let old = self.arena.iter().chain(&self.inputs).map(wgpu::Buffer::size).sum::<u64>();
        self.bytes -= old;
        self.arena.clear();
        self.inputs.clear();
        let mut left = layout.transient_bytes as u64;
        while left > 0 || self.arena.is_empty() {
            let bytes = left.min(self.arena_piece_bytes);
            let buffer = self.take(gpu, bytes, "values of a step")?;
            self.arena.push(buffer);
            left -= bytes;
        }
        for input in &plan.inputs {
            let bytes = input.shape.numel_at(layout.max_batch) * gpu.caps.stored_bytes(input.dtype);
            let buffer = self.take(gpu, bytes as u64, &format!("input {}", input.name))?;
            self.inputs.push(buffer);
        }
        Ok(())
    }

    fn take(&mut self, gpu: &Gpu, bytes: u64, what: &str) -> Result<wgpu::Buffer, DeviceError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = buffer(gpu, bytes, usage, what)?;
        self.allocations += 1;
        self.bytes += buffer.size();
        Ok(buffer)
    }

    pub fn buffer(&self, piece: Piece) -> &wgpu::Buffer {
        match piece {
            Piece::Arena(i) => &self.arena[i],
            Piece::Slots(i) => &self.slots[i],
            Piece::Input(i) => &self.inputs[i],
        }
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
            Space::Input(input) => {
                Place { piece: Piece::Input(input.0 as usize), offset: 0, bytes: layout.sizes[i] as u64 }
            }
        }
    }
}

/// A buffer of at least `bytes`.
pub fn buffer(gpu: &Gpu, bytes: u64, usage: wgpu::BufferUsages, what: &str) -> Result<wgpu::Buffer, DeviceError> {
    let size = bytes.max(1).next_multiple_of(VECTOR_BYTES);
    if size > gpu.limits.max_buffer_size {
        return Err(DeviceError::OutOfMemory {
            wanted_bytes: size,
            what: format!("{what}, where one buffer holds at most {} bytes", gpu.limits.max_buffer_size),
        });
    }
    let made =
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    gpu.check().map_err(|error| match error {
        DeviceError::OutOfMemory { .. } => DeviceError::OutOfMemory { wanted_bytes: size, what: what.to_string() },
        other => other,
    })?;
    Ok(made)
}
