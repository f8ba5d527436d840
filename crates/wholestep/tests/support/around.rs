//! A device that is the cpu but for what happens around its calls. Takes what to do before each, gives an executable that forwards them. Never changes what
//! a call does.

use std::sync::Arc;
use wholestep_compiler::backend::{Counters, DeviceError, Executable, HostMemory};
use wholestep_compiler::ir::{InputId, SlotId};
use wholestep_compiler::plan::Layout;

pub trait Around: Send {
    /// Before whatever reads or changes what is on the device, but for a run.
    fn before(&mut self, cpu: &mut dyn Executable) -> Result<(), DeviceError>;

    fn run(
        &mut self,
        cpu: &mut dyn Executable,
        batch: usize,
        steps: usize,
        inputs: &[&[u8]],
    ) -> Result<(), DeviceError> {
        self.before(cpu)?;
        cpu.run(batch, steps, inputs)
    }

    fn lend(&mut self, _input: InputId, _memory: &Arc<dyn HostMemory>) {}
}

pub struct Wrapped<A> {
    pub cpu: Box<dyn Executable>,
    pub around: A,
}

impl<A: Around> Executable for Wrapped<A> {
    fn run(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        self.around.run(&mut *self.cpu, batch, steps, inputs)
    }

    fn lend(&mut self, input: InputId, memory: &Arc<dyn HostMemory>) {
        self.around.lend(input, memory);
    }

    fn grow(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        self.around.before(&mut *self.cpu)?;
        self.cpu.grow(layout)
    }

    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.around.before(&mut *self.cpu)?;
        self.cpu.write_slot(slot, bytes)
    }

    /// What a copy that fails leaves is anything.
    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.fill(0xA5);
        self.around.before(&mut *self.cpu)?;
        self.cpu.read_slot(slot, bytes)
    }

    fn read_output(&mut self, index: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.fill(0xA5);
        self.around.before(&mut *self.cpu)?;
        self.cpu.read_output(index, bytes)
    }

    fn counters(&self) -> Counters {
        self.cpu.counters()
    }

    fn set_profiling(&mut self, on: bool) {
        self.cpu.set_profiling(on);
    }

    fn profile(&self) -> (Vec<u64>, u64) {
        self.cpu.profile()
    }
}
