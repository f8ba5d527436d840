//! The cpu as a device. Takes plans, gives executables that own their memory. Never reads the environment: thread count and instruction
//! set are arguments.

use crate::bind::{Launches, Node, Programs, Spaces, flatten, programs};
use crate::contract;
use crate::loops::access::{MAX_AXES, MAX_GUARDS};
use crate::loops::level::Level;
use crate::loops::machine::{Memory, PARTIAL_WORDS};
use crate::memory::{ALIGN_BYTES, Block};
use crate::pool::Pool;
use crate::run::{Registers, Runner};
use crate::simd::Isa;
use std::sync::Arc;
use wholestep_compiler::backend::{Backend, Counters, DeviceError, Executable, check_inputs, check_output, check_slot};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::{DType, SlotId};
use wholestep_compiler::kernel::{Instr, Kernel, Loop, Map, Scan, Scatter, Sort, WindowKernel, WindowOp};
use wholestep_compiler::plan::{Layout, Plan, Space};

/// How a [`CpuBackend`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Threads that take part, the caller included. More than [`contract::max_threads`] count as that many.
    pub n_threads: usize,
    pub level: Level,
    pub isa: Isa,
    /// Fills the arena with NaN before each run: for tests that look for reads of what was never written.
    pub poison: bool,
    /// Contractions are summed plainly, without the fast kernels: for tests that compare both.
    pub plain_contractions: bool,
    /// Elementwise steps run one by one, none of them fused to machine code: for tests that compare both ways.
    pub plain_loops: bool,
}

impl Config {
    /// The best instruction set of this machine and a thread per core.
    pub fn detect() -> Config {
        Config {
            n_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            level: Level::detect(),
            isa: Isa::detect(),
            poison: false,
            plain_contractions: false,
            plain_loops: false,
        }
    }
}

/// The host's processor.
pub struct CpuBackend {
    config: Config,
    pool: Arc<Pool>,
}

impl CpuBackend {
    /// A backend with a pool of its own; plans loaded by it share the pool.
    pub fn new(config: Config) -> CpuBackend {
        let pool = Arc::new(Pool::new(config.n_threads.min(contract::max_threads())));
        CpuBackend { config, pool }
    }
}

/// The longest row that a loop passes over more than once.
const MAX_ROW_ELEMS: usize = 16_384;

impl Backend for CpuBackend {
    fn caps(&self) -> Caps {
        let level = match self.config.level {
            Level::Baseline => "baseline",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        };
        let threads = if self.pool.n_threads() == 1 { "thread" } else { "threads" };
        use DType::{BF16, Bool, F16, F32, F64, I32, I64, U8, U32};
        Caps {
            name: format!("cpu, {} {threads}, {level}", self.pool.n_threads()),
            dtypes: vec![F32, F64, F16, BF16, I32, U32, I64, U8, Bool],
            memory_bytes: None,
            align_bytes: ALIGN_BYTES,
            max_row_elems: MAX_ROW_ELEMS,
            contract_scratch_bytes: contract::scratch_bytes,
            max_args: usize::MAX,
            byte_bytes: 1,
            long_bytes: 8,
            max_buffer_bytes: usize::MAX,
            loops: true,
            workgroups: None,
        }
    }

    fn load(&self, plan: &Plan, layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(CpuExecutable::new(self, plan, layout)?))
    }
}

/// A plan bound to host memory.
struct CpuExecutable {
    config: Config,
    pool: Arc<Pool>,
    plan: Plan,
    layout: Layout,
    programs: Programs,
    kernel_of: Vec<u32>,
    nodes: Vec<Node>,
    launches: Launches,
    arena: Block,
    slots: Block,
    slot_offsets: Vec<usize>,
    registers: Registers,
    partials: Block,
    line: Vec<i32>,
    /// Copies of inputs that came misaligned, by input.
    staging: Vec<Option<Block>>,
    /// Outputs that are inputs, kept because the caller's memory is gone after the step.
    kept: Vec<Option<Block>>,
    inputs: Vec<*const u8>,
    bound_batch: Option<usize>,
    counters: Counters,
    is_profiling: bool,
    times: Vec<u64>,
    profiled_steps: u64,
}

// SAFETY: the addresses in it are into memory that it owns, or into inputs that are only followed during `run`.
unsafe impl Send for CpuExecutable {}

impl CpuExecutable {
    fn new(backend: &CpuBackend, plan: &Plan, layout: &Layout) -> Result<CpuExecutable, DeviceError> {
        check(plan).map_err(DeviceError::Unsupported)?;
        let config = backend.config;
        let mut slot_offsets = Vec::with_capacity(plan.slots.len());
        let mut slot_bytes = 0;
        for slot in &plan.slots {
            slot_offsets.push(slot_bytes);
            slot_bytes += (slot.shape.numel_at(0) * slot.dtype.size_bytes()).next_multiple_of(ALIGN_BYTES);
        }
        let launches = plan.launches();
        let mut nodes = Vec::new();
        flatten(&plan.items, &mut 0, &mut nodes);
        let words = launches.iter().map(|l| l.segments.len()).max().unwrap_or(1) * PARTIAL_WORDS;
        let mut exe = CpuExecutable {
            config,
            pool: backend.pool.clone(),
            programs: programs(plan, config.level).map_err(DeviceError::Unsupported)?,
            kernel_of: launches.iter().map(|l| l.kernel).collect(),
            nodes,
            launches: Launches::default(),
            arena: Block::new(layout.transient_bytes, "values of a step")?,
            slots: Block::new(slot_bytes, "parameters and state")?,
            slot_offsets,
            registers: Registers::new(backend.pool.n_threads())?,
            partials: Block::new(words * 8, "partial sums")?,
            line: Vec::new(),
            staging: plan.inputs.iter().map(|_| None).collect(),
            kept: plan.outputs.iter().map(|_| None).collect(),
            inputs: vec![std::ptr::null(); plan.inputs.len()],
            bound_batch: None,
            counters: Counters {
                allocations: 4,
                compiles: 1,
                dispatches: plan.launches().len() as u64,
                ..Counters::default()
            },
            is_profiling: false,
            times: vec![0; launches.len()],
            profiled_steps: 0,
            plan: plan.clone(),
            layout: layout.clone(),
        };
        exe.count_bytes();
        exe.launches.code.chains.switch(!config.plain_loops, config.level);
        exe.make_room()?;
        Ok(exe)
    }

    fn count_bytes(&mut self) {
        let blocks = [&self.arena, &self.slots, &self.partials];
        let extra = self.staging.iter().chain(&self.kept).flatten();
        let bytes: usize = blocks.into_iter().chain(extra).map(Block::bytes).sum();
        self.counters.allocated_bytes = (bytes + self.registers.bytes()) as u64;
    }

    /// Binds the largest batch, so that the lists have their size and smaller batches allocate nothing; before it the smallest, whose
    /// loops may be others.
    fn make_room(&mut self) -> Result<(), DeviceError> {
        self.launches.code.chains.close(false);
        self.bind(1.min(self.layout.max_batch))?;
        self.bind(self.layout.max_batch)?;
        self.launches.code.chains.close(true);
        self.launches.reserve();
        self.line.resize(self.launches.max_line * self.pool.n_threads(), 0);
        for (i, output) in self.plan.outputs.iter().enumerate() {
            let buffer = &self.plan.buffers[output.buffer.0 as usize];
            if matches!(buffer.space, Space::Input(_)) {
                self.kept[i] =
                    Some(Block::new(self.layout.sizes[output.buffer.0 as usize], "an output that is an input")?);
                self.counters.allocations += 1;
            }
        }
        self.count_bytes();
        Ok(())
    }

    fn bind(&mut self, batch: usize) -> Result<(), DeviceError> {
        if self.bound_batch == Some(batch) {
            return Ok(());
        }
        self.bound_batch = None;
        let spaces = Spaces {
            arena: self.arena.ptr(),
            slots: self.slots.ptr(),
            slot_offsets: &self.slot_offsets,
            layout: &self.layout,
        };
        let (level, plain) = (self.config.level, self.config.plain_contractions);
        self.launches
            .bind(&self.plan, &self.programs, &spaces, batch, level, plain)
            .map_err(DeviceError::Unsupported)?;
        self.bound_batch = Some(batch);
        Ok(())
    }

    /// Notes where each input of step `step` lies; misaligned ones are copied.
    fn place_inputs(&mut self, batch: usize, step: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        for (i, input) in self.plan.inputs.iter().enumerate() {
            let len = input.shape.numel_at(batch) * input.dtype.size_bytes();
            let bytes = &inputs[i][step * len..(step + 1) * len];
            self.inputs[i] = bytes.as_ptr();
            if !bytes.as_ptr().addr().is_multiple_of(input.dtype.size_bytes()) {
                let most = input.shape.numel_at(self.layout.max_batch) * input.dtype.size_bytes();
                if self.staging[i].as_ref().is_none_or(|b| b.bytes() < most) {
                    let held = self.staging[i].as_ref().map_or(0, Block::bytes);
                    self.staging[i] = Some(Block::new(most, "a misaligned input")?);
                    self.counters.allocations += 1;
                    self.counters.allocated_bytes += (most - held) as u64;
                }
                if let Some(block) = &self.staging[i] {
                    // SAFETY: the block has room for the largest batch.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), block.ptr(), len) };
                    self.inputs[i] = block.ptr();
                    self.counters.bytes_staged += len as u64;
                }
            }
        }
        Ok(())
    }

    fn run_step(&mut self) {
        if self.config.poison {
            // SAFETY: the arena is ours and nothing runs now.
            unsafe { std::ptr::write_bytes(self.arena.ptr(), 0xff, self.arena.bytes()) };
        }
        let spaces = Spaces {
            arena: self.arena.ptr(),
            slots: self.slots.ptr(),
            slot_offsets: &self.slot_offsets,
            layout: &self.layout,
        };
        let mut runner = Runner {
            plan: &self.plan,
            launches: &self.launches,
            spaces: &spaces,
            memory: Memory { inputs: &self.inputs, partials: self.partials.ptr() },
            registers: &self.registers,
            pool: &self.pool,
            isa: self.config.isa,
            level: self.config.level,
            kernel_of: &self.kernel_of,
            line: &mut self.line,
            times: self.is_profiling.then_some(&mut self.times[..]),
        };
        // SAFETY: `bind` bound the launches to this memory, and `place_inputs` noted inputs of the bound batch's lengths.
        unsafe { runner.run(&self.nodes) };
        self.profiled_steps += u64::from(self.is_profiling);
        self.counters.steps += 1;
    }

    /// Copies outputs that are inputs, before the caller takes the memory back.
    fn keep_outputs(&mut self, batch: usize) {
        for (kept, output) in self.kept.iter().zip(&self.plan.outputs) {
            let buffer = &self.plan.buffers[output.buffer.0 as usize];
            if let (Some(block), Space::Input(input)) = (kept, buffer.space) {
                let len = output.shape.numel_at(batch) * output.dtype.size_bytes();
                // SAFETY: the input has the output's length, the block room for the largest batch.
                unsafe { std::ptr::copy_nonoverlapping(self.inputs[input.0 as usize], block.ptr(), len) };
            }
        }
    }

    fn slot_range(&self, slot: SlotId, len: usize) -> Result<usize, DeviceError> {
        check_slot(&self.plan, slot, len)?;
        Ok(self.slot_offsets[slot.0 as usize])
    }
}

impl Executable for CpuExecutable {
    fn run(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        check_inputs(&self.plan, &self.layout, batch, steps, inputs)?;
        self.bind(batch)?;
        for step in 0..steps {
            self.place_inputs(batch, step, inputs)?;
            self.run_step();
        }
        if steps > 0 {
            self.keep_outputs(batch);
        }
        self.counters.submissions += 1;
        Ok(())
    }

    fn grow(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        if layout.transient_bytes > self.arena.bytes() {
            self.arena = Block::new(layout.transient_bytes, "values of a step")?;
            self.counters.allocations += 1;
        }
        self.layout = layout.clone();
        self.bound_batch = None;
        self.make_room()
    }

    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError> {
        let at = self.slot_range(slot, bytes.len())?;
        // SAFETY: the range is the slot's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.slots.ptr().add(at), bytes.len()) };
        self.counters.bytes_staged += bytes.len() as u64;
        Ok(())
    }

    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let at = self.slot_range(slot, bytes.len())?;
        // SAFETY: the range is the slot's.
        unsafe { std::ptr::copy_nonoverlapping(self.slots.ptr().add(at), bytes.as_mut_ptr(), bytes.len()) };
        self.counters.bytes_read_back += bytes.len() as u64;
        Ok(())
    }

    fn slot_bytes(&mut self, slot: SlotId) -> Option<&[u8]> {
        let place = self.plan.slots.get(slot.0 as usize)?;
        let len = place.shape.numel_at(0) * place.dtype.size_bytes();
        let at = self.slot_range(slot, len).ok()?;
        // SAFETY: the range is the slot's, and nothing runs while it is borrowed.
        Some(unsafe { std::slice::from_raw_parts(self.slots.ptr().add(at), len) })
    }

    fn read_output(&mut self, index: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let output = check_output(&self.plan, index, self.bound_batch, bytes.len())?;
        let id = output.buffer.0 as usize;
        let from = match (self.plan.buffers[id].space, &self.kept[index]) {
            (Space::Transient, _) => self.arena.ptr().wrapping_add(self.layout.offsets[id]),
            (Space::Slot(slot), _) => self.slots.ptr().wrapping_add(self.slot_offsets[slot.0 as usize]),
            (Space::Input(_), Some(block)) => block.ptr(),
            (Space::Input(_), None) => panic!("bug: an output that is an input was not kept"),
        };
        // SAFETY: the buffer has the output's length at the batch that ran last.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        self.counters.bytes_read_back += bytes.len() as u64;
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn set_profiling(&mut self, on: bool) {
        self.is_profiling = on;
        self.times.fill(0);
        self.profiled_steps = 0;
    }

    fn profile(&self) -> (Vec<u64>, u64) {
        (self.times.clone(), self.profiled_steps)
    }
}

/// Refuses what the machine's fixed-size lists cannot hold, and kernels over types that have none here.
fn check(plan: &Plan) -> Result<(), String> {
    for kernel in &plan.kernels {
        match kernel {
            Kernel::Loop(k) => check_loop(k)?,
            Kernel::Contract(k) => k.epilogue.iter().try_for_each(check_loop)?,
            Kernel::Window(WindowKernel { op, dtype, .. }) => match (dtype, op) {
                (DType::F32 | DType::F64, _)
                | (DType::F16 | DType::BF16, WindowOp::ArgMax | WindowOp::Take | WindowOp::Put) => {}
                _ => return Err(no_kernel(kernel, *dtype)),
            },
            Kernel::Scatter(Scatter { dtype, .. })
            | Kernel::Sort(Sort { dtype, .. })
            | Kernel::Scan(Scan { dtype, .. })
                if matches!(dtype, DType::F16 | DType::BF16) =>
            {
                return Err(no_kernel(kernel, *dtype));
            }
            Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => {}
        }
    }
    Ok(())
}

fn no_kernel(kernel: &Kernel, dtype: DType) -> String {
    format!("a {} of {dtype} values; cast to f32 before it and back after it", kernel.kind())
}

fn check_loop(k: &Loop) -> Result<(), String> {
    let map_of = |i: &Instr| -> Option<Map> {
        match i {
            Instr::Load { map, .. }
            | Instr::Gather { map, .. }
            | Instr::Index { map, .. }
            | Instr::Random { map, .. } => Some(map.clone()),
            Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. }
            | Instr::Reduce { .. } => None,
        }
    };
    let maps = k.instrs.iter().filter_map(map_of).chain(k.stores.iter().map(|s| s.map.clone()));
    let most_guards = maps.map(|m| m.guards.len()).max().unwrap_or(0);
    if k.axes.len() > MAX_AXES || most_guards > MAX_GUARDS {
        return Err(format!("a loop of {} axes and {most_guards} guards on one load", k.axes.len()));
    }
    Ok(())
}
