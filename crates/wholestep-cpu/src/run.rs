//! Runs bound launches. Takes an executable's memory and its bound code, gives the step's stores. Never allocates.

use crate::bind::{Bound, Launches, Node, Spaces, Work};
use crate::loops::level::Level;
use crate::loops::machine::{Memory, Part, REGISTER_BYTES};
use crate::loops::steps::{ArgAt, NO_INPUT, Segment};
use crate::matmul::Rect;
use crate::memory::Block;
use crate::pool::Pool;
use crate::simd::Isa;
use crate::{scan, scatter, sort, window};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use wholestep_compiler::ir::DType;
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{BufferId, Plan};

/// Register files, one for each thread that may run loops at once.
pub struct Registers {
    memory: Block,
    busy: Vec<AtomicBool>,
}

impl Registers {
    pub fn new(n_threads: usize) -> Result<Registers, wholestep_compiler::backend::DeviceError> {
        let memory = Block::new(n_threads * REGISTER_BYTES, "loop registers")?;
        Ok(Registers { memory, busy: (0..n_threads).map(|_| AtomicBool::new(false)).collect() })
    }

    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The file of worker `i`.
    pub fn of(&self, i: usize) -> *mut u8 {
        self.memory.ptr().wrapping_add(i * REGISTER_BYTES)
    }

    /// Calls `f` with a file that nobody else uses. There are as many files as threads, so one is always free.
    fn with_free<R>(&self, f: impl FnOnce(*mut u8) -> R) -> R {
        loop {
            for (i, busy) in self.busy.iter().enumerate() {
                if !busy.swap(true, Ordering::Acquire) {
                    let result = f(self.of(i));
                    busy.store(false, Ordering::Release);
                    return result;
                }
            }
            std::hint::spin_loop();
        }
    }
}

/// What one step runs with.
pub struct Runner<'a> {
    pub plan: &'a Plan,
    pub launches: &'a Launches,
    pub spaces: &'a Spaces<'a>,
    pub memory: Memory<'a>,
    pub registers: &'a Registers,
    pub pool: &'a Pool,
    pub isa: Isa,
    pub level: Level,
    /// Kernel of each launch.
    pub kernel_of: &'a [u32],
    /// Room for the longest line, for each thread.
    pub line: &'a mut [i32],
    /// Nanoseconds by launch, where they are wanted.
    pub times: Option<&'a mut [u64]>,
}

/// What tasks share; the addresses in it are used for disjoint parts.
struct Tasks<'a> {
    launches: &'a Launches,
    memory: Memory<'a>,
    registers: &'a Registers,
}
// SAFETY: workers use register files of their own, read shared operands and write disjoint units.
unsafe impl Sync for Tasks<'_> {}

/// Operands of the largest kernel kind that is no loop.
const MAX_ARGS: usize = 4;

impl Runner<'_> {
    /// Runs the nodes once.
    ///
    /// # Safety
    /// The launches were bound to this memory for the batch size whose inputs are in `memory`.
    pub unsafe fn run(&mut self, nodes: &[Node]) {
        let mut i = 0;
        while i < nodes.len() {
            // SAFETY: the caller's contract.
            unsafe {
                match nodes[i] {
                    Node::Launch(launch) => {
                        match self.times.is_some() {
                            false => self.run_launch(launch as usize),
                            true => {
                                let begin = Instant::now();
                                self.run_launch(launch as usize);
                                if let Some(times) = &mut self.times {
                                    times[launch as usize] += begin.elapsed().as_nanos() as u64;
                                }
                            }
                        }
                        i += 1;
                    }
                    Node::Region { max_trips, predicate, n } => {
                        let body = &nodes[i + 1..i + 1 + n];
                        for _ in 0..max_trips {
                            if *self.address(predicate) == 0 {
                                break;
                            }
                            self.run(body);
                        }
                        i += 1 + n;
                    }
                }
            }
        }
    }

    fn address(&self, buffer: BufferId) -> *mut u8 {
        self.address_of(&self.spaces.find(self.plan, buffer))
    }

    fn address_of(&self, arg: &ArgAt) -> *mut u8 {
        if arg.input == NO_INPUT { arg.ptr } else { self.memory.inputs[arg.input as usize].cast_mut() }
    }

    /// # Safety
    /// As [`Runner::run`].
    unsafe fn run_launch(&mut self, i: usize) {
        let bound = &self.launches.bound[i];
        // SAFETY: the caller's contract.
        unsafe {
            match &bound.work {
                Work::Loop { segments, units, tasks, is_split } => self.run_loop(*segments, *units, *tasks, *is_split),
                _ => self.run_other(bound, self.kernel_of[i]),
            }
        }
    }

    /// # Safety
    /// As [`Runner::run`].
    unsafe fn run_loop(&self, segments: (u32, u32), units: usize, n_tasks: usize, is_split: bool) {
        let code = &self.launches.code;
        let list = &code.segments[segments.0 as usize..segments.1 as usize];
        if n_tasks <= 1 {
            for s in list {
                // SAFETY: the caller's contract; nothing else runs now.
                unsafe { s.run_units(code, &self.memory, self.registers.of(0), 0, s.units) };
            }
        } else {
            let tasks = Tasks { launches: self.launches, memory: self.memory, registers: self.registers };
            self.pool.run_indexed(n_tasks, &|t, worker| {
                let tasks = &tasks;
                let (from, to) = (units * t / n_tasks, units * (t + 1) / n_tasks);
                let mut first = 0;
                for s in &tasks.launches.code.segments[segments.0 as usize..segments.1 as usize] {
                    let (begin, end) = (from.max(first), to.min(first + s.units));
                    if begin < end {
                        let registers = tasks.registers.of(worker);
                        let code = &tasks.launches.code;
                        // SAFETY: the caller's contract; tasks have disjoint units and workers their own registers.
                        unsafe { s.run_units(code, &tasks.memory, registers, begin - first, end - first) };
                    }
                    first += s.units;
                }
            });
        }
        if is_split {
            for s in list.iter().filter(|s| s.splits > 1) {
                // SAFETY: the caller's contract; all units are done.
                unsafe { s.finish_split(code, &self.memory, self.registers.of(0)) };
            }
        }
    }

    /// # Safety
    /// As [`Runner::run`].
    unsafe fn run_other(&mut self, bound: &Bound, kernel: u32) {
        let range = bound.args.0 as usize..bound.args.1 as usize;
        let mut addresses = [std::ptr::null_mut(); MAX_ARGS];
        for (a, arg) in addresses.iter_mut().zip(&self.launches.code.args[range]) {
            *a = self.address_of(arg);
        }
        let pool = self.pool;
        if let Work::Contract { widenings, .. } = &bound.work {
            for (k, widening) in widenings.iter().enumerate() {
                // SAFETY: operands and scratch memory are those that the widening was bound to.
                widening.iter().for_each(|w| addresses[k] = unsafe { w.run(pool, addresses[k], addresses[3]) });
            }
        }
        let args = &addresses[..];
        // SAFETY: the plan gives each kernel the buffers that it says, of the sizes that it was bound to.
        unsafe {
            match (&self.plan.kernels[kernel as usize], &bound.work) {
                (Kernel::Contract(k), Work::Contract { bound, epilogue, .. }) => {
                    let Some(segments) = epilogue else {
                        return bound.run(pool, self.isa, k.dtype, args, None);
                    };
                    let tasks = Tasks { launches: self.launches, memory: self.memory, registers: self.registers };
                    let epilogue = |rect: Rect| run_rect(&tasks, segments, rect);
                    bound.run(pool, self.isa, k.dtype, args, Some(&epilogue));
                }
                (Kernel::Window(k), Work::Window { n }) => match k.dtype {
                    DType::F64 => window::run::<f64>(pool, self.level, k, *n, args),
                    DType::F16 => window::run::<window::F16>(pool, self.level, k, *n, args),
                    DType::BF16 => window::run::<window::Bf16>(pool, self.level, k, *n, args),
                    _ => window::run::<f32>(pool, self.level, k, *n, args),
                },
                (Kernel::Scatter(k), Work::Scatter(s)) => match k.dtype {
                    DType::F64 => scatter::run::<f64>(pool, s, args),
                    DType::I64 => scatter::run::<i64>(pool, s, args),
                    DType::I32 => scatter::run::<i32>(pool, s, args),
                    DType::U32 => scatter::run::<u32>(pool, s, args),
                    DType::U8 | DType::Bool => scatter::run::<u8>(pool, s, args),
                    DType::F32 => scatter::run::<f32>(pool, s, args),
                    DType::F16 | DType::BF16 => panic!("bug: a scatter of 16 bits was loaded"),
                },
                (Kernel::Sort(k), Work::Sort { outer, len, inner }) => {
                    let (extents, d) = ([*outer, *len, *inner], k.descending);
                    match k.dtype {
                        DType::F64 => sort::run::<f64>(pool, extents, d, args, self.line),
                        DType::I64 => sort::run::<i64>(pool, extents, d, args, self.line),
                        DType::I32 => sort::run::<i32>(pool, extents, d, args, self.line),
                        DType::U32 => sort::run::<u32>(pool, extents, d, args, self.line),
                        DType::U8 | DType::Bool => sort::run::<u8>(pool, extents, d, args, self.line),
                        DType::F32 => sort::run::<f32>(pool, extents, d, args, self.line),
                        DType::F16 | DType::BF16 => panic!("bug: a sort of 16 bits was loaded"),
                    }
                }
                (Kernel::Scan(k), Work::Scan { outer, len, inner }) => {
                    let (extents, r) = ([*outer, *len, *inner], k.reverse);
                    match k.dtype {
                        DType::F64 => scan::run::<f64>(pool, extents, r, args),
                        DType::I64 => scan::run::<i64>(pool, extents, r, args),
                        DType::I32 => scan::run::<i32>(pool, extents, r, args),
                        DType::U32 => scan::run::<u32>(pool, extents, r, args),
                        DType::U8 | DType::Bool => scan::run::<u8>(pool, extents, r, args),
                        DType::F32 => scan::run::<f32>(pool, extents, r, args),
                        DType::F16 | DType::BF16 => panic!("bug: a scan of 16 bits was loaded"),
                    }
                }
                (kernel, work) => panic!("bug: {} was bound as {work:?}", kernel.kind()),
            }
        }
    }
}

/// Runs the epilogue on a finished part of a contraction's result.
fn run_rect(tasks: &Tasks, [whole, cut]: &[Segment; 2], rect: Rect) {
    let code = &tasks.launches.code;
    tasks.registers.with_free(|registers| {
        if rect.cols == cut.len {
            let (from, to) = (rect.row0 * rect.cols, (rect.row0 + rect.rows) * rect.cols);
            // SAFETY: parts of the result are disjoint and this thread alone has the registers.
            return unsafe { whole.run_part(code, &tasks.memory, registers, Part { row: 0, rows: 1, from, to }) };
        }
        if cut.rows_alike {
            let part = Part { row: rect.row0, rows: rect.rows, from: rect.col0, to: rect.col0 + rect.cols };
            // SAFETY: as above; epilogues on rectangles are bound with tiles one row high.
            return unsafe { cut.run_alike_rows(code, &tasks.memory, registers, part) };
        }
        for row in rect.row0..rect.row0 + rect.rows {
            let part = Part { row, rows: 1, from: rect.col0, to: rect.col0 + rect.cols };
            // SAFETY: as above.
            unsafe { cut.run_part(code, &tasks.memory, registers, part) };
        }
    });
}
