//! Dispatches: takes a plan's launches and where memory is, gives pipelines, bind groups and the numbers that depend on the batch size.
//! Never encodes: that is done anew each step.

use crate::adapter::Gpu;
use crate::gate::{Gates, Guarded};
use crate::group::{Group, Window, groups};
use crate::joint::{Beside, Whole, beside_of, whole_of};
use crate::memory::{Memory, Piece};
use crate::pipeline::{bind_group_layout, entry, fold, parallel, pipeline};
use crate::schedule::{self, Step, Unit};
use crate::tune::{self, Chosen};
use std::collections::BTreeMap;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::choice::Choice;
use wholestep_compiler::codegen::wgsl::whole;
use wholestep_compiler::codegen::{self, Grid, Shader};
use wholestep_compiler::plan::{Layout, Plan};

/// One dispatch of the step.
pub struct Dispatch {
    pub pipeline: usize,
    pub bind_group: wgpu::BindGroup,
    /// Workgroups at the bound batch size.
    pub grid: [u32; 3],
    /// The launches of which it does all or a part, and the share of its time that is theirs.
    pub launches: Vec<(usize, f64)>,
    /// How many of its bindings move from the inputs of one step to those of the next.
    pub n_moving: usize,
    shader: usize,
    work: Work,
    params_at: usize,
}

/// What a dispatch works on: a number among the groups, the wholes, or those side by side.
#[derive(Clone, Copy, Debug)]
enum Work {
    Group(usize),
    Whole(usize),
    Beside(usize),
}

/// All dispatches of a plan.
pub struct Dispatches {
    is_apart: bool,
    pub list: Vec<Dispatch>,
    pub pipelines: Vec<wgpu::ComputePipeline>,
    shaders: Vec<Shader>,
    /// By shader: the arguments that are inputs, where the device can move so many bindings.
    moving: Vec<Vec<u32>>,
    /// Whether some inputs cannot be moved, so that a submission has room for one step only.
    pub is_fixed: bool,
    groups: Vec<Group>,
    wholes: Vec<Whole>,
    besides: Vec<Beside>,
    layouts: Vec<wgpu::BindGroupLayout>,
    /// The parameter blocks as they are on the device.
    params: Vec<u32>,
    /// The steps that the device was told of, where one dispatch takes several.
    steps: usize,
    /// Dispatches in order and the loops around them.
    guarded: Vec<Guarded>,
    /// What is called in order, and what ends loops.
    pub gates: Gates,
    pub params_buffer: Option<wgpu::Buffer>,
    pub scratch: Option<wgpu::Buffer>,
    pub chosen: Chosen,
}

/// What there is while dispatches are made.
struct Made<'a> {
    gpu: &'a Gpu,
    plan: &'a Plan,
    layout: &'a Layout,
    memory: &'a Memory,
    /// Numbers of shaders by all that makes them differ.
    known: BTreeMap<String, usize>,
    parts: Vec<(Work, usize)>,
}

/// Threads of a workgroup where launches stand side by side: what all but the largest tiles have.
const BESIDE_THREADS: u32 = 128;

/// Bindings of one dispatch that can move with the step.
fn most_moving(gpu: &Gpu) -> usize {
    (gpu.limits.max_dynamic_storage_buffers_per_pipeline_layout as usize).min(MAX_MOVING)
}

/// The texts of a group of segments, with a choice for a contraction.
fn texts(group: &Group, caps: &Caps, choice: Option<Choice>) -> Result<Vec<Shader>, DeviceError> {
    codegen::chosen_shaders(&group.kernel, group.numbers.len(), caps, choice).map_err(DeviceError::Unsupported)
}

/// Parameter blocks begin at multiples of this many words: 256 bytes.
const BLOCK_WORDS: usize = 64;

/// The most bindings of one dispatch that move with the step.
pub const MAX_MOVING: usize = 8;

impl Dispatches {
    /// Makes shaders and pipelines, of contractions as `choices` or what is found out says. Small launches share a dispatch unless they are
    /// to be `apart`.
    pub fn new(
        gpu: &Gpu,
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
        is_apart: bool,
        choices: &BTreeMap<String, String>,
    ) -> Result<Dispatches, DeviceError> {
        let mut made = Dispatches {
            is_apart,
            list: Vec::new(),
            pipelines: Vec::new(),
            shaders: Vec::new(),
            moving: Vec::new(),
            is_fixed: false,
            groups: Vec::new(),
            wholes: Vec::new(),
            besides: Vec::new(),
            layouts: Vec::new(),
            params: Vec::new(),
            steps: 0,
            guarded: Vec::new(),
            gates: Gates::default(),
            params_buffer: None,
            scratch: None,
            chosen: Chosen::default(),
        };
        let steps = schedule::steps(gpu, plan, layout, memory, is_apart);
        // Those that share a dispatch are made as the table says for it.
        let alone = |unit: &Unit| match unit {
            Unit::Beside(launches) if launches.len() == 1 => Some(launches[0]),
            Unit::Beside(_) | Unit::Whole(_) => None,
        };
        let alone: Vec<usize> = schedule::units_of(&steps).into_iter().filter_map(alone).collect();
        made.chosen = tune::choose(gpu, plan, &alone, layout.max_batch, choices)?;
        let parts = made.parts(gpu, plan, layout, memory)?;
        made.compile(gpu)?;
        made.make_buffers(gpu, layout.max_batch, &parts)?;
        made.bind_memory(gpu, plan, layout, memory, &parts)?;
        Ok(made)
    }

    /// Binds the same dispatches to memory that was laid out anew; gives how many pipelines that took.
    pub fn rebind(&mut self, gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory) -> Result<u64, DeviceError> {
        self.groups.clear();
        self.wholes.clear();
        self.besides.clear();
        self.params.clear();
        let before = (std::mem::take(&mut self.shaders), std::mem::take(&mut self.moving));
        let parts = self.parts(gpu, plan, layout, memory)?;
        let is_new = (&self.shaders, &self.moving) != (&before.0, &before.1);
        if is_new {
            // Segments in other groups than before, or launches that are no longer small.
            self.compile(gpu)?;
        }
        self.make_buffers(gpu, layout.max_batch, &parts)?;
        self.bind_memory(gpu, plan, layout, memory, &parts)?;
        Ok(if is_new { self.pipelines.len() as u64 } else { 0 })
    }

    /// Fills groups, wholes and shaders; gives for each dispatch what it works on and its shader.
    fn parts(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
    ) -> Result<Vec<(Work, usize)>, DeviceError> {
        self.is_fixed = false;
        let mut made = Made { gpu, plan, layout, memory, known: BTreeMap::new(), parts: Vec::new() };
        let steps = schedule::steps(gpu, plan, layout, memory, self.is_apart);
        self.guarded = self.guarded(&mut made, steps)?;
        Ok(made.parts)
    }

    /// The parts of steps, as numbers of dispatches and the loops around them.
    fn guarded(&mut self, made: &mut Made, steps: Vec<Step>) -> Result<Vec<Guarded>, DeviceError> {
        let mut all = Vec::new();
        for step in steps {
            let first = made.parts.len();
            match step {
                Step::Unit(unit) => {
                    self.unit(made, unit)?;
                    all.extend((first..made.parts.len()).map(Guarded::Dispatch));
                }
                Step::Loop { max_trips, predicate, body } => {
                    let body = self.guarded(made, body)?;
                    all.push(Guarded::Loop { max_trips, predicate, dispatches: first..made.parts.len(), body });
                }
            }
        }
        Ok(all)
    }

    fn unit(&mut self, made: &mut Made, unit: Unit) -> Result<(), DeviceError> {
        match unit {
            Unit::Whole(members) => {
                let (whole, shader) = whole_of(made.gpu, made.plan, made.layout, made.memory, members);
                let is_input = |arg: &&u32| whole.pieces[**arg as usize] == Piece::Inputs;
                // One that repeats finds the inputs of all steps by itself.
                let moves = shader.args.iter().filter(is_input).filter(|_| !whole.repeats);
                let moving = moves.copied().collect();
                let shader = self.shader(made, shader, moving);
                made.parts.push((Work::Whole(self.wholes.len()), shader));
                self.wholes.push(whole);
                Ok(())
            }
            Unit::Beside(launches) => {
                let left = if launches.len() > 1 { self.beside(made, launches)? } else { launches };
                left.into_iter().try_for_each(|launch| self.alone(made, launch))
            }
        }
    }

    /// A launch by itself.
    fn alone(&mut self, made: &mut Made, launch: usize) -> Result<(), DeviceError> {
        let l = made.plan.launches()[launch];
        for group in groups(made.gpu, made.plan, made.layout, made.memory, launch, l)? {
            let choice = self.chosen.of(l.kernel as usize);
            for shader in texts(&group, &made.gpu.caps, choice)? {
                let is_input = |arg: &&u32| group.windows[**arg as usize].piece == Piece::Inputs;
                let moving: Vec<u32> = shader.args.iter().filter(is_input).copied().collect();
                let shader = self.shader(made, shader, moving);
                made.parts.push((Work::Group(self.groups.len()), shader));
            }
            self.groups.push(group);
        }
        Ok(())
    }

    /// Independent launches side by side; gives those that must be by themselves.
    fn beside(&mut self, made: &mut Made, launches: Vec<usize>) -> Result<Vec<usize>, DeviceError> {
        let mut caps = made.gpu.caps.clone();
        if let Some(workgroups) = &mut caps.workgroups {
            workgroups.threads = workgroups.threads.min(BESIDE_THREADS);
        }
        let mut alone = Vec::new();
        let mut fit: Vec<Vec<(usize, Group, Shader)>> = Vec::new();
        for launch in launches {
            let l = made.plan.launches()[launch];
            let mut found = groups(made.gpu, made.plan, made.layout, made.memory, launch, l)?;
            let mut shaders = if found.len() == 1 { texts(&found[0], &caps, None)? } else { Vec::new() };
            let (Some(group), Some(shader), true) = (found.pop(), shaders.pop(), shaders.is_empty()) else {
                alone.push(launch);
                continue;
            };
            let goes_with = |others: &&mut Vec<(usize, Group, Shader)>| {
                let all: Vec<_> =
                    others.iter().map(|(l, g, s)| (*l, g, s)).chain([(launch, &group, &shader)]).collect();
                beside_of(made.gpu, &all).is_some_and(|(b, _)| {
                    b.windows.iter().filter(|w| w.piece == Piece::Inputs).count() <= most_moving(made.gpu)
                })
            };
            match fit.iter_mut().find(goes_with) {
                Some(others) => others.push((launch, group, shader)),
                None => fit.push(vec![(launch, group, shader)]),
            }
        }
        for mut together in fit {
            if together.len() == 1 {
                alone.extend(together.pop().map(|(launch, _, _)| launch));
                continue;
            }
            let first = self.groups.len();
            let all: Vec<_> = together.iter().enumerate().map(|(i, (_, g, s))| (first + i, g, s)).collect();
            let (mut beside, shader) = beside_of(made.gpu, &all).expect("bug: they were seen to fit");
            let is_input = |arg: &&u32| beside.windows[**arg as usize].piece == Piece::Inputs;
            let moving = shader.args.iter().filter(is_input).copied().collect();
            let shader = self.shader(made, shader, moving);
            made.parts.push((Work::Beside(self.besides.len()), shader));
            self.groups.extend(together.into_iter().map(|(_, group, _)| group));
            beside.share(&self.groups);
            self.besides.push(beside);
        }
        alone.sort_unstable();
        Ok(alone)
    }

    /// The number of a shader in which the bindings `moving` are inputs.
    fn shader(&mut self, made: &mut Made, shader: Shader, mut moving: Vec<u32>) -> usize {
        if moving.len() > most_moving(made.gpu) {
            moving.clear();
            self.is_fixed = true;
        }
        let key = format!("{:?} {:?} {moving:?} {}", shader.params, shader.grid, shader.source);
        *made.known.entry(key).or_insert_with(|| {
            self.shaders.push(shader);
            self.moving.push(moving);
            self.shaders.len() - 1
        })
    }

    fn compile(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        let both = self.shaders.iter().zip(&self.moving);
        self.layouts = both.map(|(s, moving)| bind_group_layout(gpu, s, moving)).collect();
        let (shaders, layouts) = (&self.shaders, &self.layouts);
        let made = parallel(shaders.len(), |i| pipeline(gpu, &shaders[i], &layouts[i], gpu.pipelines.as_ref()));
        gpu.check()?;
        self.pipelines = made.ok_or(DeviceError::Unsupported("a kernel: its compiler panicked".to_string()))?;
        if let (Some(cache), Some(data)) = (&gpu.cache, gpu.pipelines.as_ref().and_then(|p| p.get_data())) {
            self.chosen.choices.notes.extend(cache.keep_pipelines(&data).err());
        }
        Ok(())
    }

    fn make_buffers(&mut self, gpu: &Gpu, max_batch: usize, parts: &[(Work, usize)]) -> Result<(), DeviceError> {
        let mut scratch_words = 0;
        let mut words = 0;
        for &(work, shader) in parts {
            let shader = &self.shaders[shader];
            words += block_words(shader, self.n_segments(work));
            let Work::Group(group) = work else { continue };
            let group = &self.groups[group];
            if let Some(count) = &shader.scratch {
                let n: u64 = group.numbers.iter().map(|n| count.at(max_batch, n)).sum();
                scratch_words = scratch_words.max(n);
            }
        }
        self.params = vec![0; words];
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        self.params_buffer = Some(crate::memory::buffer(gpu, 4 * words as u64, usage, "parameters of kernels")?);
        let usage = wgpu::BufferUsages::STORAGE;
        self.scratch = match scratch_words {
            0 => None,
            n => Some(crate::memory::buffer(gpu, 4 * n, usage, "partial results")?),
        };
        Ok(())
    }

    /// Parameter blocks of a dispatch: a whole has one, in which its parts have theirs.
    fn n_segments(&self, work: Work) -> usize {
        match work {
            Work::Group(group) => self.groups[group].numbers.len(),
            Work::Whole(_) | Work::Beside(_) => 1,
        }
    }

    /// Binds the inputs anew, which have moved.
    pub fn rebind_inputs(&mut self, gpu: &Gpu, memory: &Memory) {
        for i in 0..self.list.len() {
            let Dispatch { work, shader, params_at, n_moving, .. } = self.list[i];
            if n_moving > 0 || matches!(work, Work::Whole(_)) {
                self.list[i].bind_group = self.bind_group(gpu, memory, work, shader, params_at);
            }
        }
    }

    fn bind_memory(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
        parts: &[(Work, usize)],
    ) -> Result<(), DeviceError> {
        self.list.clear();
        let mut params_at = 0;
        for &(work, shader) in parts {
            let bind_group = self.bind_group(gpu, memory, work, shader, params_at);
            let launches = match work {
                Work::Group(group) => vec![(self.groups[group].launch, 1.0)],
                Work::Beside(beside) => self.besides[beside].launches.clone(),
                Work::Whole(whole) => {
                    let members = &self.wholes[whole].members;
                    let all: u64 = members.iter().map(|m| m.work.max(1)).sum();
                    members.iter().map(|m| (m.launch, m.work.max(1) as f64 / all as f64)).collect()
                }
            };
            let n_moving = self.moving[shader].len();
            self.list.push(Dispatch {
                pipeline: shader,
                bind_group,
                grid: [0; 3],
                launches,
                n_moving,
                shader,
                work,
                params_at,
            });
            params_at += block_words(&self.shaders[shader], self.n_segments(work));
        }
        let place = |id| memory.place(plan, layout, id);
        self.gates = Gates::new(gpu, memory, &place, &self.guarded, parts.len())?;
        gpu.check()
    }

    fn bind_group(&self, gpu: &Gpu, memory: &Memory, work: Work, shader: usize, params_at: usize) -> wgpu::BindGroup {
        let (of, n) = (&self.shaders[shader], self.n_segments(work));
        let mut entries = Vec::new();
        for &arg in &of.args {
            let window = match work {
                Work::Group(group) => self.groups[group].windows[arg as usize],
                Work::Beside(beside) => self.besides[beside].windows[arg as usize],
                Work::Whole(whole) => {
                    let Whole { pieces, repeats, .. } = &self.wholes[whole];
                    let piece = pieces[arg as usize];
                    let is_moved = piece == Piece::Inputs && !repeats;
                    let end = if is_moved { memory.block_bytes } else { memory.buffer(piece).size() };
                    Window { piece, start: 0, end }
                }
            };
            let buffer = memory.buffer(window.piece);
            let size = (window.end - window.start).max(1).next_multiple_of(16).min(buffer.size() - window.start);
            entries.push(entry(arg, buffer, window.start, size));
        }
        if let (Some(buffer), true) = (&self.params_buffer, !of.params.is_empty()) {
            let bytes = 16 * (of.params.len().div_ceil(4) * n) as u64;
            entries.push(entry(Shader::PARAMS, buffer, 4 * params_at as u64, bytes));
        }
        if let (Some(buffer), Some(_)) = (&self.scratch, &of.scratch) {
            entries.push(entry(Shader::SCRATCH, buffer, 0, buffer.size()));
        }
        let layout = &self.layouts[shader];
        gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    }

    /// Evaluates everything that depends on the batch size and sends it.
    pub fn set_batch(&mut self, gpu: &Gpu, memory: &Memory, batch: usize) -> Result<(), DeviceError> {
        let most = u64::from(gpu.limits.max_compute_workgroups_per_dimension);
        let too_many = |n: String| DeviceError::Unsupported(format!("{n} workgroups in one launch"));
        let line = |n: u64| fold(n, most).ok_or_else(|| too_many(n.to_string()));
        for d in &mut self.list {
            let (shader, params) = (&self.shaders[d.shader], &mut self.params[d.params_at..]);
            d.grid = match d.work {
                Work::Whole(whole) => {
                    self.wholes[whole].set_batch(batch, shader, memory, params);
                    [1; 3]
                }
                Work::Beside(beside) => line(self.besides[beside].set_batch(batch, &self.groups, params))?,
                Work::Group(group) => {
                    let group = &self.groups[group];
                    let n = group.set_batch(batch, shader, params);
                    match &shader.grid {
                        Grid::Line(_) => line(n)?,
                        Grid::Box(counts) => {
                            let n: [u64; 3] = std::array::from_fn(|i| counts[i].at(batch, &group.numbers[0]));
                            if n.iter().any(|&n| n > most) {
                                return Err(too_many(format!("{n:?}")));
                            }
                            n.map(|n| n as u32)
                        }
                    }
                }
            };
        }
        self.steps = 0;
        self.gates.set_grids(gpu, self.list.iter().map(|d| d.grid));
        if let Some(buffer) = &self.params_buffer {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&self.params));
        }
        Ok(())
    }

    /// Whether one dispatch takes several steps.
    pub fn repeats(&self) -> bool {
        matches!(self.list[..], [Dispatch { work: Work::Whole(whole), .. }] if self.wholes[whole].repeats)
    }

    /// Says how many steps that dispatch takes.
    pub fn set_steps(&mut self, gpu: &Gpu, steps: usize) {
        if self.steps != steps
            && let Some(buffer) = &self.params_buffer
        {
            self.steps = steps;
            gpu.queue.write_buffer(buffer, 4 * whole::STEPS as u64, &(steps as u32).to_le_bytes());
        }
    }

    /// Bytes that the dispatches hold, and in how many buffers.
    pub fn held(&self) -> (u64, u64) {
        let buffers = [&self.params_buffer, &self.scratch];
        let buffers = buffers.into_iter().flatten().chain(self.gates.buffers());
        buffers.fold((0, 0), |(bytes, n), b| (bytes + b.size(), n + 1))
    }
}

/// Words of a dispatch's parameter block, rounded to what a binding's offset must be a multiple of.
fn block_words(shader: &Shader, n_segments: usize) -> usize {
    (shader.params.len().next_multiple_of(4) * n_segments).next_multiple_of(BLOCK_WORDS)
}
