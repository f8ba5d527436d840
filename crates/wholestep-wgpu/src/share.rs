//! Slots that other programs on the same device copy from. Takes where a program's slots lie, gives them by number for as long as the program
//! lives. Never keeps memory that its program has given back.

use crate::adapter::Gpu;
use crate::memory::Memory;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use wholestep_compiler::backend::SlotAddress;
use wholestep_compiler::ir::SlotId;

/// A slot in a buffer of the device.
#[derive(Clone)]
pub struct Held {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
}

/// The slots of all programs on a device, by the programs' numbers.
pub struct Holders {
    /// The device's own number in this process.
    device: u64,
    slots: Mutex<BTreeMap<u64, Vec<Held>>>,
}

/// Numbers of devices and programs: no two are equal in a process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Holders {
    pub fn new() -> Holders {
        Holders { device: NEXT.fetch_add(1, Ordering::Relaxed), slots: Mutex::default() }
    }

    /// The slot at `address`, if it is on this device and its program still there.
    fn find(&self, address: SlotAddress) -> Option<Held> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let held = slots.get(&address.holder).filter(|_| address.device == self.device)?;
        held.get(address.slot.0 as usize).cloned()
    }
}

/// A program that others copy from.
pub struct Shared {
    gpu: Arc<Gpu>,
    number: u64,
}

impl Shared {
    /// Makes the first `n` slots of `memory` known.
    pub fn new(gpu: &Arc<Gpu>, memory: &Memory, n: usize) -> Shared {
        let held = |i: usize| {
            let place = memory.slot(SlotId(i as u32));
            Held { buffer: memory.buffer(place.piece).clone(), offset: place.offset, bytes: place.bytes }
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut slots = gpu.holders.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.insert(number, (0..n).map(held).collect());
        Shared { gpu: gpu.clone(), number }
    }

    pub fn address(&self, slot: SlotId) -> SlotAddress {
        SlotAddress { device: self.gpu.holders.device, holder: self.number, slot }
    }

    /// The slot at `address`, if a copy into a slot of `bytes` of this program can come from there.
    pub fn source(&self, address: SlotAddress, bytes: u64) -> Option<Held> {
        // No device copies from a buffer to itself.
        self.gpu.holders.find(address).filter(|held| address.holder != self.number && held.bytes == bytes)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gpu.holders.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
