//! A small step as one kernel: one block does all launches one after the other, for several steps, with all that they work on in the memory that
//! a block shares. Takes a plan and where memory is, gives the text and its launch. Never for steps that would keep more than one block busy.

use crate::driver::{Function, KernelCall, Node, Param, Work};
use crate::memory::{Memory, Piece, Place};
use crate::rows::conflicts;
use crate::texts::{Text, device_function};
use std::collections::BTreeMap;
use std::ops::Range;
use wholestep_compiler::caps::{Caps, Workgroups};
use wholestep_compiler::codegen::{Shader, Word, small};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::{Access, Kernel};
use wholestep_compiler::plan::{Layout, Plan};

pub struct Whole {
    bodies: Vec<Body>,
    /// Outer ones first.
    loops: Vec<Repeat>,
    /// Each text once.
    shaders: Vec<Shader>,
    /// What a step leaves behind beside slots.
    outputs: Vec<Place>,
    threads: u32,
    slots_bytes: u64,
    arena_bytes: u64,
    block_bytes: u64,
    /// Batches that are on their way or worked on, at most.
    turns: u64,
    max_batch: usize,
}

/// Which batches a kernel is for.
#[derive(Clone, Copy)]
enum Form {
    Largest,
    Any,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Form::Largest => "largest",
            Form::Any => "any",
        })
    }
}

/// A segment of a launch.
struct Body {
    launch: usize,
    work: u64,
    /// Bodies of a round do not depend on each other; there is a barrier between two rounds.
    round: usize,
    /// The threads that do it, each by itself; all of them together if there are none of its own.
    own: Option<Range<u32>>,
    shader: usize,
    axes: Vec<Dim>,
    args: Vec<Place>,
}

/// A body without its text.
struct Task {
    launch: usize,
    work: u64,
    round: usize,
    kernel: Kernel,
    axes: Vec<Dim>,
    args: Vec<Place>,
}

/// Bodies that run again and again while a truth value holds.
struct Repeat {
    bodies: Range<usize>,
    predicate: Place,
    max_trips: u32,
}

/// Multiply-adds of a step for each of its launches: a block does so many about as fast as another launch begins.
const WORK_PER_LAUNCH: u64 = 16_000;
/// Bytes that are moved into shared memory and back by each launch.
const MOST_BYTES: u64 = 128 << 10;
/// Vectors of parameters that a launch brings with it.
const MOST_VECTORS: usize = 200;
/// Words of a vector.
const VECTOR: usize = 4;
/// Batches on their way and worked on: a read of the host's memory takes longer than a step.
const TURNS: u64 = 4;
/// A thread adds up so many elements by itself; more are shared by several.
const MOST_DEPTH: u64 = 32;
/// Threads of one body's own begin and end with a warp.
const WARP: u64 = 32;

/// What the kernel is made with beside the texts of its launches.
const HEAD: &str = include_str!("whole.cuh");

impl Whole {
    /// The step as one kernel, if it is small enough.
    pub fn new(plan: &Plan, layout: &Layout, memory: &Memory, caps: &Caps) -> Option<Whole> {
        let workgroups = caps.workgroups.as_ref()?;
        let mut whole = Whole {
            bodies: Vec::new(),
            loops: Vec::new(),
            shaders: Vec::new(),
            outputs: Vec::new(),
            threads: 0,
            slots_bytes: memory.slots_bytes(),
            arena_bytes: layout.transient_bytes as u64,
            block_bytes: memory.block_bytes,
            turns: TURNS,
            max_batch: layout.max_batch,
        };
        if whole.moved_bytes() > MOST_BYTES {
            whole.turns = 2;
        }
        if whole.moved_bytes() > MOST_BYTES || !whole.fill(plan, layout, memory, workgroups) {
            return None;
        }
        let places = plan.outputs.iter().map(|o| memory.place(plan, layout, o.buffer));
        whole.outputs = places.filter(|p| p.piece == Piece::Arena).collect();
        let fits = whole.shared_bytes() <= u64::from(workgroups.shared_bytes) && whole.vectors() <= MOST_VECTORS;
        fits.then_some(whole)
    }

    /// The bodies of all launches; whether they are small.
    fn fill(&mut self, plan: &Plan, layout: &Layout, memory: &Memory, workgroups: &Workgroups) -> bool {
        let Some(mut tasks) = tasks(plan, layout, memory) else { return false };
        tasks.sort_by_key(|task| task.round);
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for round in tasks.chunk_by(|a, b| a.round == b.round) {
            for (task, own) in round.iter().zip(own_threads(round, small::threads(workgroups), layout.max_batch)) {
                let shader = match &own {
                    Some(own) => small::shader_each(&task.kernel, workgroups, own.end - own.start),
                    None => small::shader(&task.kernel, workgroups),
                };
                if shader.scratch.is_some() {
                    return false;
                }
                let end = own.as_ref().map_or(shader.workgroup.iter().product(), |own| own.end);
                self.threads = self.threads.max(end);
                let key = format!("{:?} {:?} {}", shader.params, shader.args, shader.source);
                let shader = *known.entry(key).or_insert_with(|| {
                    self.shaders.push(shader);
                    self.shaders.len() - 1
                });
                let Task { launch, work, round, axes, args, .. } = task;
                let (axes, args) = (axes.clone(), args.clone());
                self.bodies.push(Body { launch: *launch, work: *work, round: *round, own, shader, axes, args });
            }
        }
        for (launches, region) in plan.regions().into_iter().filter(|(launches, _)| !launches.is_empty()) {
            let predicate = memory.place(plan, layout, region.predicate);
            // Bodies of a loop stay together, as rounds do not go over its ends.
            let begin = |launch| self.bodies.iter().filter(|b| b.launch < launch).count();
            let bodies = begin(launches.start)..begin(launches.end);
            self.loops.push(Repeat { bodies, predicate, max_trips: region.max_trips });
        }
        !self.bodies.is_empty()
    }

    fn moved_bytes(&self) -> u64 {
        self.slots_bytes + self.arena_bytes + self.turns * self.block_bytes
    }

    /// What the launches themselves share, the most of all.
    fn room(&self) -> u64 {
        self.shaders.iter().map(|s| u64::from(s.shared_bytes).next_multiple_of(16)).max().unwrap_or(0)
    }

    fn shared_bytes(&self) -> u64 {
        self.room() + self.moved_bytes()
    }

    fn vectors(&self) -> usize {
        self.bodies.iter().map(|b| self.shaders[b.shader].params.len().div_ceil(VECTOR)).sum()
    }

    /// Launches with the share of the time that is theirs.
    pub fn launches(&self) -> Vec<(usize, f64)> {
        let all: u64 = self.bodies.iter().map(|b| b.work.max(1)).sum();
        self.bodies.iter().map(|b| (b.launch, b.work.max(1) as f64 / all as f64)).collect()
    }

    /// The kernel for the largest batch, whose numbers the compiler sees, and that for any other where there is a difference.
    pub fn texts(&self) -> Vec<Text> {
        let of = |form| {
            let mut source = HEAD.to_string();
            for (i, shader) in self.shaders.iter().enumerate() {
                source += &format!("#undef BODY\n#define BODY {form}_step{i}\n{}", device_function(shader));
            }
            source += &self.kernel(form);
            Text { source, shared_bytes: self.shared_bytes() as u32, joins: false }
        };
        let forms = [Form::Largest, Form::Any];
        forms.into_iter().take(if self.vectors() > 0 { 2 } else { 1 }).map(of).collect()
    }

    /// The text of the kernel around the bodies.
    fn kernel(&self, form: Form) -> String {
        let Whole { threads, slots_bytes, arena_bytes, block_bytes, turns, .. } = self;
        let words = self.words(self.max_batch);
        let (declared, known) = match form {
            Form::Any => (format!(", const __grid_constant__ Params<{}> params", self.vectors()), String::new()),
            Form::Largest if words.is_empty() => (String::new(), String::new()),
            Form::Largest => {
                let vector = |v: &[u32]| format!("{{{}u, {}u, {}u, {}u}}", v[0], v[1], v[2], v[3]);
                let vectors: Vec<String> = words.chunks(VECTOR).map(vector).collect();
                (String::new(), format!("const Params<{}> params = {{{{{}}}}};\n", vectors.len(), vectors.join(", ")))
            }
        };
        let mut text = format!(
            "extern \"C\" __global__ void __launch_bounds__({threads}) KERNEL(u8* slots, u8* arena, const u8* inputs, u32 steps{declared}) {{\n\
             next_may_begin();\n{known}extern __shared__ uint4 shared[];\nu8* const room = (u8*)shared;\nu8* const batches = room + {}u;\n\
             u8* const s = batches + {}u;\nu8* const t = s + {slots_bytes}u;\n\
             for (u32 step = 0; step < {ahead}u && step < steps; ++step) {{ fetch(batches + step * {block_bytes}u, inputs + step * {block_bytes}u, \
             {block_bytes}u); }}\nlast_is_done();\nfetch(s, slots, {slots_bytes}u);\nend_group();\nfetched<0>();\n\
             for (u32 step = 0; step < steps; ++step) {{\nif (step > 0) fetched<{}>();\n\
             u8* const in = batches + step % {turns}u * {block_bytes}u;\nconst u32 next = step + {ahead}u;\n\
             if (next < steps) fetch(batches + next % {turns}u * {block_bytes}u, inputs + next * {block_bytes}u, {block_bytes}u);\nend_group();\n",
            self.room(),
            turns * block_bytes,
            turns - 2,
            ahead = turns - 1,
        );
        let mut vector = 0;
        for (i, body) in self.bodies.iter().enumerate() {
            for repeat in self.loops.iter().filter(|l| l.bodies.start == i) {
                let (most, predicate) = (repeat.max_trips, address(repeat.predicate));
                text += &format!("for (u32 trip = 0; trip < {most}u && goes_on({predicate}); ++trip) {{\n");
            }
            let shader = &self.shaders[body.shader];
            let args: String =
                shader.args.iter().map(|&arg| format!(", At{{{}}}", address(body.args[arg as usize]))).collect();
            let n = shader.params.len().div_ceil(VECTOR);
            let params = if n > 0 { format!(", params.w + {vector}") } else { String::new() };
            vector += n;
            let (when, local) = match &body.own {
                Some(Range { start, end }) => (
                    format!("if (threadIdx.x >= {start}u && threadIdx.x < {end}u) "),
                    format!("threadIdx.x - {start}u"),
                ),
                None => (String::new(), "threadIdx.x".to_string()),
            };
            text += &format!("{when}{form}_step{}(FIRST, ONLY, {local}, room{args}{params});\n", body.shader);
            let n_ends = self.loops.iter().filter(|l| l.bodies.end == i + 1).count();
            // The last round of a step ends where the next begins.
            let ends_round = self.bodies.get(i + 1).map_or(n_ends > 0, |next| next.round != body.round);
            text += if ends_round { "__syncthreads();\n" } else { "" };
            text += &"}\n".repeat(n_ends);
        }
        text += &format!("}}\n__syncthreads();\nkeep(slots, s, {slots_bytes}u);\n");
        for p in &self.outputs {
            let bytes = p.bytes.next_multiple_of(16).min(arena_bytes - p.offset);
            text += &format!("keep(arena + {}u, t + {}u, {bytes}u);\n", p.offset, p.offset);
        }
        text + "}\n"
    }

    /// The parameters of all bodies for a batch size.
    fn words(&self, batch: usize) -> Vec<u32> {
        let mut words = Vec::new();
        for body in &self.bodies {
            let shader = &self.shaders[body.shader];
            words.extend(shader.params.iter().map(|word: &Word| word.at(batch, &body.axes)));
            words.resize(words.len().next_multiple_of(VECTOR), 0);
        }
        words
    }

    /// The launch of `steps` steps whose inputs begin at an address, on a batch size.
    pub fn node(&self, memory: &Memory, functions: &[Function], batch: usize, inputs_at: u64, steps: usize) -> Node {
        let at = |piece| Param::Address(memory.address(piece, 0, inputs_at));
        let mut args = vec![at(Piece::Slots), at(Piece::Arena), at(Piece::Inputs), Param::Words(vec![steps as u32])];
        let mut function = functions[0];
        if let (Some(&any), true) = (functions.get(1), batch != self.max_batch) {
            function = any;
            args.push(Param::Words(self.words(batch)));
        }
        let shared_bytes = self.shared_bytes() as u32;
        let name = "the whole step, in one kernel".into();
        let call = KernelCall { function, grid: [1; 3], threads: self.threads, shared_bytes, args };
        Node { work: Work::Kernel(call), name }
    }
}

/// Where a value lies, in the kernel's words.
fn address(place: Place) -> String {
    let base = match place.piece {
        Piece::Slots => "s",
        Piece::Arena => "t",
        Piece::Inputs => "in",
        Piece::Scratch => panic!("bug: an argument in memory for partial results"),
    };
    format!("{base} + {}u", place.offset)
}

/// The segments of all launches in their order, each in the first round in which it need not wait; `None` if they are more work than one block
/// should do.
fn tasks(plan: &Plan, layout: &Layout, memory: &Memory) -> Option<Vec<Task>> {
    let launches = plan.launches();
    let ends_of_loops: Vec<usize> = plan.regions().into_iter().flat_map(|(l, _)| [l.start, l.end]).collect();
    let mut left = WORK_PER_LAUNCH * launches.len() as u64;
    let mut tasks: Vec<Task> = Vec::new();
    // Where the launches begin that may stand in one round, and the first of their rounds.
    let (mut first, mut first_round) = (0, 0);
    for (launch, l) in launches.iter().enumerate() {
        if ends_of_loops.contains(&launch) {
            first_round = tasks.iter().map(|task| task.round + 1).max().unwrap_or(0);
            first = tasks.len();
        }
        for segment in &l.segments {
            let kernel = plan.kernel_of(segment);
            let work = small::work(&kernel, layout.max_batch).filter(|&w| w <= left)?;
            left -= work;
            let args = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
            let mut task = Task { launch, work, round: first_round, kernel, axes: segment.axes.clone(), args };
            let before = tasks[first..].iter().filter(|earlier| conflict(earlier, &task));
            task.round = before.map(|earlier| earlier.round + 1).max().unwrap_or(first_round);
            tasks.push(task);
        }
    }
    Some(tasks)
}

/// Whether one writes what the other reads or writes.
fn conflict(a: &Task, b: &Task) -> bool {
    let touches = |task: &Task| -> Vec<(Place, Access)> {
        let access = task.kernel.args().iter().map(|arg| arg.access);
        task.args.iter().copied().zip(access).collect()
    };
    conflicts(&touches(a), &touches(b))
}

/// The threads of their own that the tasks of a round have: those whose threads need not share a result, while there are threads left.
fn own_threads(round: &[Task], threads: u32, batch: usize) -> Vec<Option<Range<u32>>> {
    let mut end = 0;
    let mut own = |task: &Task| {
        let (n, _) = small::results(&task.kernel, batch).filter(|(_, depth)| *depth <= MOST_DEPTH)?;
        // What all threads together would do in several turns is done by them.
        let n = u32::try_from(n.max(1).next_multiple_of(WARP)).ok().filter(|n| end + n <= threads)?;
        end += n;
        Some(end - n..end)
    };
    round.iter().map(&mut own).collect()
}
