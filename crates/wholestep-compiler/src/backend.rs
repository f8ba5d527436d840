//! What a device must do to run plans. Takes a plan, gives an executable that owns all its memory. Never sees a graph or an op.

mod unrun;

pub use unrun::Unrun;

use crate::caps::Caps;
use crate::ir::{InputId, Slot, SlotId};
use crate::plan::{Layout, Output, Plan};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A device that can run plans.
pub trait Backend {
    /// What plans for it may hold; the same at each call.
    fn caps(&self) -> Caps;

    /// Renders, compiles and allocates everything that `plan` needs for batch sizes up to `layout.max_batch`. Slots are zero until written.
    fn load(&self, plan: &Plan, layout: &Layout) -> Result<Box<dyn Executable>, DeviceError>;

    /// The same with choices by name that an earlier executable made on this device. Those that mean nothing here are left out.
    fn load_as(
        &self,
        plan: &Plan,
        layout: &Layout,
        _choices: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        self.load(plan, layout)
    }

    /// At least `bytes` bytes of the host's memory, all zero, that the device copies from by itself while the host goes on (pinned memory); `None`
    /// where a batch that lies there would be handed over no faster.
    fn host_memory(&self, _bytes: usize) -> Result<Option<Arc<dyn HostMemory>>, DeviceError> {
        Ok(None)
    }
}

/// Memory of the host that a device copies from by itself. Whoever shares it may read it: it is written only by who holds it alone.
pub trait HostMemory: Send + Sync {
    /// The device's number, as in [`SlotAddress`].
    fn device(&self) -> u64;

    /// All of it, which may be more than was asked for.
    fn bytes(&self) -> &[u8];

    /// All of it, for whoever holds it alone.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// A loaded plan with its memory.
pub trait Executable: Send {
    /// Runs `steps` steps at batch size `batch`. Input i gives step s the bytes `[s·len, (s + 1)·len)` of `inputs[i]`, where
    /// `len` is the input's size at `batch`. Returns when the work is submitted; reading waits.
    fn run(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError>;

    /// Says that what the next [`run`](Executable::run) is given for an input lies at the beginning of `memory`: the device may copy it from there
    /// after `run` has returned. The memory is shared until it has.
    fn lend(&mut self, _input: InputId, _memory: &Arc<dyn HostMemory>) {}

    /// Makes room for batches up to `layout.max_batch`; slots keep their values.
    fn grow(&mut self, layout: &Layout) -> Result<(), DeviceError>;

    /// Copies a slot's stored bytes to the device.
    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies a slot's stored bytes to the host, after all submitted work.
    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies output `index` of the last step to the host, after all submitted work.
    fn read_output(&mut self, index: usize, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// The bytes of a slot as they are after all submitted work, if the host can reach them where they lie.
    fn slot_bytes(&mut self, _slot: SlotId) -> Option<&[u8]> {
        None
    }

    /// Where a slot lies, if other executables on its device can copy from there.
    fn slot_address(&self, _slot: SlotId) -> Option<SlotAddress> {
        None
    }

    /// Copies a slot from another executable on the same device to one of the same stored bytes, after all work that both were given.
    /// `false`: the device cannot reach it, and nothing was copied.
    fn copy_slot(&mut self, _slot: SlotId, _from: SlotAddress) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// What has happened since loading.
    fn counters(&self) -> Counters;

    /// How kernels are made of which the backend knows several ways.
    fn choices(&self) -> Choices {
        Choices::default()
    }

    /// Turns per-launch timing on or off.
    fn set_profiling(&mut self, on: bool);

    /// Nanoseconds each launch took in total since profiling was turned on, by position in [`Plan::launches`], and the number of steps.
    fn profile(&self) -> (Vec<u64>, u64);
}

/// Where a slot lies on its device, for copies that do not pass through the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotAddress {
    /// A number that no other device of this process has.
    pub device: u64,
    /// A number that no other executable of the device has.
    pub holder: u64,
    /// Its number among that executable's slots.
    pub slot: SlotId,
}

/// Whether a call of [`Executable::run`] has what the plan wants.
/// Errors: a batch above the layout's largest; the first input whose bytes are not those of `steps` batches.
pub fn check_inputs(
    plan: &Plan,
    layout: &Layout,
    batch: usize,
    steps: usize,
    inputs: &[&[u8]],
) -> Result<(), DeviceError> {
    if batch > layout.max_batch {
        let most = layout.max_batch;
        return Err(DeviceError::Unsupported(format!("a batch of {batch}: it was laid out for {most}; grow it first")));
    }
    for (i, input) in plan.inputs.iter().enumerate() {
        let expected_bytes = steps * input.shape.numel_at(batch) * input.dtype.size_bytes();
        let got_bytes = inputs.get(i).map_or(0, |b| b.len());
        if got_bytes != expected_bytes {
            return Err(DeviceError::InputLength { input: InputId(i as u32), expected_bytes, got_bytes });
        }
    }
    Ok(())
}

/// The slot with a number.
/// Errors: there is none; its value does not have `len` bytes.
pub fn check_slot(plan: &Plan, slot: SlotId, len: usize) -> Result<&Slot, DeviceError> {
    let Some(found) = plan.slots.get(slot.0 as usize) else {
        return Err(DeviceError::Unsupported(format!("slot {}: the plan has {}", slot.0, plan.slots.len())));
    };
    let bytes = found.shape.numel_at(0) * found.dtype.size_bytes();
    if len != bytes {
        return Err(DeviceError::Unsupported(format!("{len} bytes for slot {}, which has {bytes}", found.name)));
    }
    Ok(found)
}

/// The output with a number, after a step on `batch` rows.
/// Errors: no step ran; there is none; its value does not have `len` bytes.
pub fn check_output(plan: &Plan, index: usize, batch: Option<usize>, len: usize) -> Result<&Output, DeviceError> {
    let (Some(found), Some(batch)) = (plan.outputs.get(index), batch) else {
        return Err(DeviceError::Unsupported(format!("output {index}: no step ran or the plan has fewer outputs")));
    };
    let bytes = found.shape.numel_at(batch) * found.dtype.size_bytes();
    if len != bytes {
        return Err(DeviceError::Unsupported(format!("{len} bytes for output {}, which has {bytes}", found.name)));
    }
    Ok(found)
}

/// The choices of an executable. The same device, plan and choices give the same bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// One for each kernel of which several ways are known.
    pub made: Vec<MadeChoice>,
    /// What is worth knowing about how they were made.
    pub notes: Vec<String>,
    /// Kernels that are not made as an earlier run made them which goes on, and why: the bits may differ.
    pub unlike: Vec<String>,
}

/// How one kernel is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeChoice {
    /// Index into [`Plan::kernels`].
    pub kernel: usize,
    /// Equal for kernels, of any plan, that the same choice suits.
    pub name: String,
    /// The way, in the backend's words.
    pub choice: String,
    /// Who chose it.
    pub origin: Origin,
}

/// Who made a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The backend's table: nothing was measured.
    Table,
    /// It was the fastest of several that were timed just now.
    Timed,
    /// An earlier process on this machine.
    Cached,
    /// The run that goes on.
    Recorded,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Table => "table",
            Origin::Timed => "timed",
            Origin::Cached => "cache",
            Origin::Recorded => "checkpoint",
        })
    }
}

/// Counts that tests and users can hold a backend to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps that were submitted; several may be one submission.
    pub steps: u64,
    /// Calls by which work was handed to the device.
    pub submissions: u64,
    /// Pieces of work that the device is given for one step: a launch is one or more, and several small ones may be one.
    pub dispatches: u64,
    /// Calls that took memory from the device since loading.
    pub allocations: u64,
    /// Bytes of device memory held now, not since loading: slots, arena and what backends add.
    pub allocated_bytes: u64,
    /// Bytes of slots and outputs copied to the host.
    pub bytes_read_back: u64,
    /// Bytes of batches and slots copied to the device.
    pub bytes_staged: u64,
    /// Kernels that were compiled from text; a larger batch than any before may add some.
    pub compiles: u64,
    /// Kernels that were timed to choose how they are made.
    pub timings: u64,
}

/// Why a device could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// It gives no more memory.
    OutOfMemory {
        /// The size of the piece that it did not give; 0 where it does not say.
        wanted_bytes: u64,
        /// What it was for.
        what: String,
    },
    /// The plan holds something that the device cannot do, which `Caps` should have kept out.
    Unsupported(String),
    /// An input's length does not fit the batch size.
    InputLength {
        /// Which, in the order of the plan.
        input: InputId,
        /// What the batch size makes of its shape.
        expected_bytes: usize,
        /// What came.
        got_bytes: usize,
    },
    /// There is no such device on this machine.
    Absent(String),
    /// It does not answer any more, and why; all that lay on it is gone.
    Lost(String),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::OutOfMemory { wanted_bytes, what } => {
                write!(f, "out of memory: {wanted_bytes} bytes for {what}; a smaller batch needs less")
            }
            DeviceError::Unsupported(what) => write!(f, "the device cannot run {what}"),
            DeviceError::InputLength { input, expected_bytes, got_bytes } => {
                write!(f, "input {}: expected {expected_bytes} bytes, got {got_bytes}", input.0)
            }
            DeviceError::Absent(what) => f.write_str(what),
            DeviceError::Lost(why) => {
                write!(f, "the device was lost: {why}; open it anew and go on from the last checkpoint")
            }
        }
    }
}

impl std::error::Error for DeviceError {}
