//! A small step as one kernel: one block does all launches one after the other, for several steps, with all that they work on in the memory that
//! a block shares. Takes a plan and where memory is, gives the text and its launch. Never for steps that would keep more than one block busy.

use crate::driver::{Function, KernelCall, Node, Param, Work};
use crate::memory::{Memory, Piece, Place};
use crate::parts::with_axes;
use crate::texts::Text;
use std::collections::BTreeMap;
use std::ops::Range;
use wholestep_compiler::caps::{Caps, Workgroups};
use wholestep_compiler::codegen::{Shader, Word, small};
use wholestep_compiler::ir::Dim;
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
    shader: usize,
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
            max_batch: layout.max_batch,
        };
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
        let launches = plan.launches();
        let mut left = WORK_PER_LAUNCH * launches.len() as u64;
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        // Where the bodies of each launch begin.
        let mut begins = Vec::with_capacity(launches.len() + 1);
        for (launch, l) in launches.iter().enumerate() {
            begins.push(self.bodies.len());
            for segment in &l.segments {
                let kernel = with_axes(&plan.kernels[l.kernel as usize], segment);
                let Some(work) = small::work(&kernel, layout.max_batch).filter(|&w| w <= left) else { return false };
                left -= work;
                let shader = small::shader(&kernel, workgroups);
                if shader.scratch.is_some() {
                    return false;
                }
                self.threads = self.threads.max(shader.workgroup.iter().product());
                let args = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
                let key = format!("{:?} {:?} {}", shader.params, shader.args, shader.source);
                let shader = *known.entry(key).or_insert_with(|| {
                    self.shaders.push(shader);
                    self.shaders.len() - 1
                });
                self.bodies.push(Body { launch, work, shader, axes: segment.axes.clone(), args });
            }
        }
        begins.push(self.bodies.len());
        for (launches, region) in plan.regions().into_iter().filter(|(launches, _)| !launches.is_empty()) {
            let predicate = memory.place(plan, layout, region.predicate);
            let bodies = begins[launches.start]..begins[launches.end];
            self.loops.push(Repeat { bodies, predicate, max_trips: region.max_trips });
        }
        !self.bodies.is_empty()
    }

    fn moved_bytes(&self) -> u64 {
        self.slots_bytes + self.arena_bytes + 2 * self.block_bytes
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
            Text { source, shared_bytes: self.shared_bytes() as u32 }
        };
        let forms = [Form::Largest, Form::Any];
        forms.into_iter().take(if self.vectors() > 0 { 2 } else { 1 }).map(of).collect()
    }

    /// The text of the kernel around the bodies.
    fn kernel(&self, form: Form) -> String {
        let Whole { threads, slots_bytes, arena_bytes, block_bytes, .. } = self;
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
             fetch(batches, inputs, {block_bytes}u);\nlast_is_done();\nfetch(s, slots, {slots_bytes}u);\n\
             for (u32 step = 0; step < steps; ++step) {{\nfetched();\nu8* const in = batches + (step & 1) * {block_bytes}u;\n\
             if (step + 1 < steps) fetch(batches + (~step & 1) * {block_bytes}u, inputs + (step + 1) * {block_bytes}u, {block_bytes}u);\n",
            self.room(),
            2 * block_bytes
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
            text += &format!(
                "{form}_step{}(FIRST, ONLY, threadIdx.x, room{args}{params});\n__syncthreads();\n",
                body.shader
            );
            let n_ends = self.loops.iter().filter(|l| l.bodies.end == i + 1).count();
            text += &"}\n".repeat(n_ends);
        }
        text += &format!("}}\nkeep(slots, s, {slots_bytes}u);\n");
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

/// The part of a text before its own kernel.
fn device_function(shader: &Shader) -> &str {
    shader.source.split("extern \"C\" __global__").next().unwrap_or_default()
}
