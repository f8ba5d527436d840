//! Device memory. Takes a plan and where its buffers lie, gives two pieces of memory and each plan buffer's address in them: one for slots, which
//! never move, one for all that a batch size decides. Never takes memory for a single value.

use crate::driver::Driver;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::SlotId;
use wholestep_compiler::plan::{BufferId, Layout, Plan, Size, Space};

/// Where a plan buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub piece: Piece,
    pub offset: u64,
    pub bytes: u64,
}

impl Place {
    /// Whether some byte is in both.
    pub fn overlaps(&self, other: &Place) -> bool {
        let end = |p: &Place| p.offset.saturating_add(p.bytes);
        self.piece == other.piece && self.offset < end(other) && other.offset < end(self)
    }
}

/// What a place counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Slots,
    Arena,
    /// The inputs of a step, which lie in a block; there are several blocks.
    Inputs,
    /// Partial results within a launch.
    Scratch,
}

/// What a step needs beside what the plan says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The least that values take, with what libraries work in among them.
    pub arena_bytes: u64,
    pub scratch_bytes: u64,
    pub params_bytes: u64,
    pub n_blocks: u64,
}

/// All memory of a plan on the device.
pub struct Memory {
    slots_at: u64,
    slots: Vec<Place>,
    slots_bytes: u64,
    arena_at: u64,
    arena_bytes: u64,
    pub scratch_at: u64,
    pub params_at: u64,
    inputs_at: u64,
    inputs: Vec<Place>,
    pub block_bytes: u64,
    align: u64,
    /// Pieces taken since the beginning.
    pub allocations: u64,
}

impl Memory {
    /// Slots, all zero, and no arena yet.
    pub fn new(driver: &mut dyn Driver, plan: &Plan, caps: &Caps) -> Result<Memory, DeviceError> {
        let align = caps.align_bytes as u64;
        let mut slots = Vec::with_capacity(plan.slots.len());
        let mut slots_bytes = 0;
        for slot in &plan.slots {
            let bytes = (slot.shape.numel_at(0) * caps.stored_bytes(slot.dtype)) as u64;
            slots.push(Place { piece: Piece::Slots, offset: slots_bytes, bytes });
            slots_bytes += bytes.next_multiple_of(align);
        }
        let what = || format!("parameters and state in {} slots", plan.slots.len());
        let slots_at = take(driver, slots_bytes, what)?;
        driver.clear(slots_at, slots_bytes)?;
        Ok(Memory {
            slots_at,
            slots,
            slots_bytes,
            arena_at: 0,
            arena_bytes: 0,
            scratch_at: 0,
            params_at: 0,
            inputs_at: 0,
            inputs: Vec::new(),
            block_bytes: 0,
            align,
            allocations: 1,
        })
    }

    /// Lays inputs out for a batch size: the bytes of a block are known from now on.
    pub fn lay_inputs(&mut self, plan: &Plan, layout: &Layout, caps: &Caps) {
        self.inputs.clear();
        self.block_bytes = 0;
        for input in &plan.inputs {
            let bytes = (input.shape.numel_at(layout.max_batch) * caps.stored_bytes(input.dtype)) as u64;
            self.inputs.push(Place { piece: Piece::Inputs, offset: self.block_bytes, bytes });
            self.block_bytes += bytes.next_multiple_of(self.align);
        }
    }

    /// Takes the arena for a layout instead of the one there was.
    /// Errors: the device has not so much memory; the error says what would have lain there.
    pub fn make_room(
        &mut self,
        driver: &mut dyn Driver,
        plan: &Plan,
        layout: &Layout,
        extras: Extras,
    ) -> Result<(), DeviceError> {
        if self.arena_at != 0 {
            driver.free(std::mem::take(&mut self.arena_at));
            self.arena_bytes = 0;
        }
        let values = extras.arena_bytes.max(layout.transient_bytes as u64);
        let sizes = [values, extras.scratch_bytes, extras.params_bytes];
        let [values, scratch, params] = sizes.map(|n| n.next_multiple_of(self.align));
        let bytes = values + scratch + params + self.block_bytes * extras.n_blocks;
        self.arena_at = take(driver, bytes, || {
            let inputs = self.block_bytes * extras.n_blocks;
            let slots = self.slots_bytes;
            let largest = largest(plan, layout);
            format!(
                "a step on {} (beside {slots} for parameters and state): values {values}, the largest {largest}; partial results {scratch}; batches \
                 {inputs}",
                layout.max_batch
            )
        })?;
        self.arena_bytes = bytes;
        self.allocations += 1;
        self.scratch_at = self.arena_at + values;
        self.params_at = self.scratch_at + scratch;
        self.inputs_at = self.params_at + params;
        Ok(())
    }

    /// Sets slots to zero again.
    pub fn clear_slots(&self, driver: &mut dyn Driver) -> Result<(), DeviceError> {
        driver.clear(self.slots_at, self.slots_bytes)
    }

    /// Sets all of the arena to zero.
    pub fn clear_arena(&self, driver: &mut dyn Driver) -> Result<(), DeviceError> {
        driver.clear(self.arena_at, self.arena_bytes)
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> u64 {
        self.slots_bytes + self.arena_bytes
    }

    /// Where a block of inputs begins.
    pub fn block(&self, block: u64) -> u64 {
        self.inputs_at + block * self.block_bytes
    }

    pub fn input(&self, i: usize) -> Place {
        self.inputs[i]
    }

    pub fn slots_bytes(&self) -> u64 {
        self.slots_bytes
    }

    pub fn slot(&self, slot: SlotId) -> Place {
        self.slots[slot.0 as usize]
    }

    /// Where a plan buffer lies.
    pub fn place(&self, plan: &Plan, layout: &Layout, id: BufferId) -> Place {
        let i = id.0 as usize;
        match plan.buffers[i].space {
            Space::Transient => {
                Place { piece: Piece::Arena, offset: layout.offsets[i] as u64, bytes: layout.sizes[i] as u64 }
            }
            Space::Slot(slot) => self.slot(slot),
            Space::Input(input) => self.inputs[input.0 as usize],
        }
    }

    /// The address of an offset, for a step whose inputs begin at `inputs_at`.
    pub fn address(&self, piece: Piece, offset: u64, inputs_at: u64) -> u64 {
        let begin = match piece {
            Piece::Slots => self.slots_at,
            Piece::Arena => self.arena_at,
            Piece::Inputs => inputs_at,
            Piece::Scratch => self.scratch_at,
        };
        begin + offset
    }
}

/// Device memory for `what`.
fn take(driver: &mut dyn Driver, bytes: u64, what: impl Fn() -> String) -> Result<u64, DeviceError> {
    driver.alloc(bytes).map_err(|error| match error {
        DeviceError::OutOfMemory { .. } => DeviceError::OutOfMemory { wanted_bytes: bytes, what: what() },
        other => other,
    })
}

/// The three largest values that a step keeps: "64000000 of conv1 (conv)".
fn largest(plan: &Plan, layout: &Layout) -> String {
    let launches = plan.launches();
    let mut values: Vec<usize> = (0..plan.buffers.len())
        .filter(|&i| plan.buffers[i].space == Space::Transient && matches!(plan.buffers[i].size, Size::Elements(_)))
        .collect();
    values.sort_by_key(|&i| (std::cmp::Reverse(layout.sizes[i]), i));
    let text = |&i: &usize| {
        let from = launches.get(plan.buffers[i].first as usize);
        let from = from.map_or(String::new(), |l| format!(" of {} ({})", l.scope, l.ops));
        format!("{}{from}", layout.sizes[i])
    };
    values.iter().take(3).map(text).collect::<Vec<_>>().join(", ")
}
