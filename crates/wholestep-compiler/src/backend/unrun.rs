//! A plan that is never run, for devices that only look at kernels. Takes a plan, keeps what is written to slots, gives zeros for outputs. Never
//! computes.

use super::{Counters, DeviceError, Executable};
use crate::ir::SlotId;
use crate::plan::{Layout, Plan};

/// A plan that is never run: slots keep what is written to them, outputs are zero.
pub struct Unrun {
    slots: Vec<Vec<u8>>,
    n_launches: usize,
    counters: Counters,
}

impl Unrun {
    /// With zeros in all slots.
    pub fn new(plan: &Plan) -> Unrun {
        let slots = plan.slots.iter().map(|slot| vec![0; slot.shape.numel_at(0) * slot.dtype.size_bytes()]).collect();
        Unrun { slots, n_launches: plan.launches().len(), counters: Counters::default() }
    }
}

impl Executable for Unrun {
    fn run(&mut self, _batch: usize, steps: usize, _inputs: &[&[u8]]) -> Result<(), DeviceError> {
        self.counters.steps += steps as u64;
        self.counters.submissions += 1;
        Ok(())
    }

    fn grow(&mut self, _layout: &Layout) -> Result<(), DeviceError> {
        Ok(())
    }

    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.slots[slot.0 as usize].copy_from_slice(bytes);
        Ok(())
    }

    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.copy_from_slice(&self.slots[slot.0 as usize]);
        Ok(())
    }

    fn read_output(&mut self, _index: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.fill(0);
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn set_profiling(&mut self, _on: bool) {}

    fn profile(&self) -> (Vec<u64>, u64) {
        (vec![0; self.n_launches], 0)
    }
}
