//! Binds a plan to one batch size: every launch's addresses, extents and code. Takes a plan and the executable's memory, gives
//! [`Launches`]. Never allocates again once it has seen a batch size as large.

use crate::contract;
use crate::loops::emit::{Desk, Part as PartOf, Request, bind as bind_loop};
use crate::loops::level::Level;
use crate::loops::machine::PARTIAL_WORDS;
use crate::loops::program::Program;
use crate::loops::steps::{ArgAt, Code, NO_INPUT, Segment};
use crate::scatter;
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{BufferId, Item, Launch, Layout, Plan, Space};

/// Programs of a plan's kernels, made at load time; `None` for kernels without a loop.
pub type Programs = Vec<Option<Program>>;

/// A launch ready to run.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Range of `Code::args`; for loops those of the first segment.
    pub args: (u32, u32),
    pub work: Work,
}

/// What a launch does. A list of a few dozen of them is read in order; boxing the large ones would allocate at each new batch size.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug)]
pub enum Work {
    Loop {
        segments: (u32, u32),
        units: usize,
        tasks: usize,
        is_split: bool,
    },
    /// The epilogue is there twice: for whole rows and for rectangles of the result.
    Contract {
        bound: contract::Bound,
        /// How operands of 16 bits become f32 first.
        widenings: [Option<contract::Widening>; 2],
        epilogue: Option<[Segment; 2]>,
    },
    Window {
        n: usize,
    },
    Scatter(scatter::Sizes),
    Sort {
        outer: usize,
        len: usize,
        inner: usize,
    },
    Scan {
        outer: usize,
        len: usize,
        inner: usize,
    },
}

/// The schedule of a plan, regions flattened: a region is followed by its `n` nodes.
#[derive(Clone, Copy, Debug)]
pub enum Node {
    Launch(u32),
    Region { max_trips: u32, predicate: BufferId, n: usize },
}

/// Bound launches with their code; see [`Launches::bind`].
#[derive(Default)]
pub struct Launches {
    pub code: Code,
    pub bound: Vec<Bound>,
    /// Longest line that a sort has.
    pub max_line: usize,
    desk: Desk,
}

/// Where buffers are.
pub struct Spaces<'a> {
    pub arena: *mut u8,
    pub slots: *mut u8,
    pub slot_offsets: &'a [usize],
    pub layout: &'a Layout,
}

/// Work below this is not worth waking a thread.
const ONE_TASK_NS: u64 = 20_000;
const TASK_NS: u64 = 8_000;

impl Spaces<'_> {
    /// The memory of a buffer.
    pub fn find(&self, plan: &Plan, id: BufferId) -> ArgAt {
        let i = id.0 as usize;
        let bytes = self.layout.sizes[i];
        match plan.buffers[i].space {
            Space::Transient => ArgAt { input: NO_INPUT, ptr: self.arena.wrapping_add(self.layout.offsets[i]), bytes },
            Space::Slot(slot) => {
                let ptr = self.slots.wrapping_add(self.slot_offsets[slot.0 as usize]);
                ArgAt { input: NO_INPUT, ptr, bytes }
            }
            Space::Input(input) => ArgAt { input: input.0, ptr: std::ptr::null_mut(), bytes },
        }
    }
}

/// The plan's schedule as a flat list.
pub fn flatten(items: &[Item], next: &mut u32, out: &mut Vec<Node>) {
    for item in items {
        match item {
            Item::Launch(_) => {
                out.push(Node::Launch(*next));
                *next += 1;
            }
            Item::Region(r) => {
                let at = out.len();
                out.push(Node::Region { max_trips: r.max_trips, predicate: r.predicate, n: 0 });
                flatten(&r.items, next, out);
                let inside = out.len() - at - 1;
                out[at] = Node::Region { max_trips: r.max_trips, predicate: r.predicate, n: inside };
            }
        }
    }
}

impl Launches {
    /// Binds all launches for `batch`; the lists are filled anew.
    pub fn bind(
        &mut self,
        plan: &Plan,
        programs: &Programs,
        spaces: &Spaces,
        batch: usize,
        level: Level,
        force_plain: bool,
    ) -> Result<(), String> {
        loop {
            self.code.clear();
            self.bound.clear();
            for_each_launch(&plan.items, &mut |launch| {
                let bound = self.bind_launch(plan, programs, spaces, launch, batch, level, force_plain)?;
                self.bound.push(bound);
                Ok(())
            })?;
            // Where the system gives no executable memory, once more without.
            if self.code.chains.seal() {
                return Ok(());
            }
        }
    }

    /// Room for codes of other batch sizes, whose length differs a little.
    pub fn reserve(&mut self) {
        let code = &mut self.code;
        code.steps.reserve(code.steps.len() + 64);
        code.passes.reserve(code.passes.len() + 16);
        code.bases.reserve(code.bases.len() + 64);
        code.partials.reserve(code.partials.len() + 64);
        code.fused_args.reserve(code.fused_args.len() + 64);
        self.desk.reserve();
    }

    fn push_args(&mut self, plan: &Plan, spaces: &Spaces, buffers: &[BufferId]) -> (u32, u32) {
        let from = self.code.args.len() as u32;
        self.code.args.extend(buffers.iter().map(|&b| spaces.find(plan, b)));
        (from, self.code.args.len() as u32)
    }

    fn bind_launch(
        &mut self,
        plan: &Plan,
        programs: &Programs,
        spaces: &Spaces,
        launch: &Launch,
        batch: usize,
        level: Level,
        force_plain: bool,
    ) -> Result<Bound, String> {
        let at = |d: Dim| d.at(batch);
        if let Kernel::Loop(_) = &plan.kernels[launch.kernel as usize] {
            return Ok(self.bind_segments(plan, programs, spaces, launch, batch, level));
        }
        let program = programs[launch.kernel as usize].as_ref();
        let args = self.push_args(plan, spaces, &launch.segments[0].args);
        let work = match &plan.kernels[launch.kernel as usize] {
            Kernel::Loop(_) => panic!("bug: loops are bound by their segments"),
            Kernel::Contract(k) => {
                let bound = contract::bind(&k.contraction, k.dtype, batch, force_plain)?;
                let range = (args.0 as usize, args.1 as usize);
                if !k.keeps_sums() {
                    let sums = &mut self.code.args[range.0 + 2];
                    sums.ptr = sums.ptr.wrapping_add(contract::sums_at_bytes(k, batch));
                    sums.bytes = contract::sums_bytes(k, batch);
                }
                let (rows, cols) = bound.result();
                let epilogue = program.map(|program| {
                    [PartOf::Rows { cols }, PartOf::Rectangles { rows, cols }].map(|part| {
                        let request = Request { program, axes: &[], args: range, batch, level, result: Some(part) };
                        bind_loop(&request, &mut self.desk, &mut self.code, 0).0
                    })
                });
                let own_bytes = contract::own_scratch_bytes(&k.contraction, batch);
                let widenings = contract::Widening::of(k, batch, own_bytes, level)?;
                Work::Contract { bound, widenings, epilogue }
            }
            Kernel::Window(k) => Work::Window { n: at(k.n) },
            Kernel::Scatter(k) => Work::Scatter(scatter::Sizes {
                outer: at(k.outer),
                n_index: at(k.n_index),
                len: at(k.len),
                inner: at(k.inner),
                along: k.along,
                replaces: k.replaces,
                index_dtype: k.index_dtype,
            }),
            Kernel::Sort(k) => {
                self.max_line = self.max_line.max(at(k.len));
                Work::Sort { outer: at(k.outer), len: at(k.len), inner: at(k.inner) }
            }
            Kernel::Scan(k) => Work::Scan { outer: at(k.outer), len: at(k.len), inner: at(k.inner) },
        };
        Ok(Bound { args, work })
    }

    fn bind_segments(
        &mut self,
        plan: &Plan,
        programs: &Programs,
        spaces: &Spaces,
        launch: &Launch,
        batch: usize,
        level: Level,
    ) -> Bound {
        let first = self.code.segments.len() as u32;
        let (mut units, mut cost_ns, mut is_split, mut words) = (0, 0, false, 0);
        let mut first_args = None;
        for segment in &launch.segments {
            let args = self.push_args(plan, spaces, &segment.args);
            first_args.get_or_insert(args);
            let range = (args.0 as usize, args.1 as usize);
            let program = programs[segment.kernel as usize].as_ref().expect("bug: a loop without a program");
            let request = Request { program, axes: &segment.axes, args: range, batch, level, result: None };
            let (bound, schedule) = bind_loop(&request, &mut self.desk, &mut self.code, words);
            if bound.splits > 1 {
                is_split = true;
                words += bound.splits * bound.rows * bound.partials.1 as usize;
                assert!(words <= PARTIAL_WORDS * launch.segments.len(), "bug: partial sums exceed their memory");
            }
            units += bound.units;
            cost_ns += schedule.cost_ns;
            self.code.segments.push(bound);
        }
        let tasks = if cost_ns < ONE_TASK_NS { 1 } else { (cost_ns / TASK_NS).clamp(2, 64) as usize };
        let segments = (first, self.code.segments.len() as u32);
        let work = Work::Loop { segments, units, tasks: tasks.min(units.max(1)), is_split };
        Bound { args: first_args.unwrap_or((0, 0)), work }
    }
}

fn for_each_launch(items: &[Item], f: &mut impl FnMut(&Launch) -> Result<(), String>) -> Result<(), String> {
    for item in items {
        match item {
            Item::Launch(launch) => f(launch)?,
            Item::Region(region) => for_each_launch(&region.items, f)?,
        }
    }
    Ok(())
}

/// The programs of all loops and epilogues of a plan.
pub fn programs(plan: &Plan, level: Level) -> Result<Programs, String> {
    plan.kernels
        .iter()
        .map(|kernel| match kernel {
            Kernel::Loop(k) => Program::new(k, level).map(Some),
            Kernel::Contract(k) => k.epilogue.as_ref().map(|e| Program::new(e, level)).transpose(),
            Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => Ok(None),
        })
        .collect()
}
