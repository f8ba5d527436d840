//! Dispatches: takes a plan's launches and where memory is, gives pipelines, bind groups and the numbers that depend on the batch size.
//! Never encodes: that is done anew each step.

use crate::adapter::Gpu;
use crate::memory::{Memory, Piece, Place};
use crate::schedule::{self, Member, Unit, with_axes};
use crate::tune::{self, Chosen};
use std::collections::BTreeMap;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::wgsl::{self, MAX_SEGMENT_VECTORS, whole};
use wholestep_compiler::codegen::{Grid, Shader, Word};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::plan::{Item, Launch, Layout, Plan, Segment};

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

/// What a dispatch works on: a number among the groups, or among the wholes.
#[derive(Clone, Copy, Debug)]
enum Work {
    Group(usize),
    Whole(usize),
}

/// Segments of a launch that run as one dispatch, and where their arguments are.
struct Group {
    launch: usize,
    segments: Vec<Segment>,
    /// By argument: the part of a piece that is bound.
    windows: Vec<Window>,
    /// By segment and argument: where the argument begins in its window, in elements.
    offsets: Vec<Vec<u32>>,
}

/// Small launches that one workgroup runs.
struct Whole {
    members: Vec<Member>,
    parts: Vec<WholePart>,
    /// By binding: what is bound. Those that no argument needs are not in the shader's list.
    pieces: Vec<Piece>,
}

/// A segment of one of them: which words are its own, and what they mean.
struct WholePart {
    words: std::ops::Range<usize>,
    axes: Vec<Dim>,
    /// By argument: where it begins in its piece, in elements.
    offsets: Vec<u32>,
}

/// A range of a piece.
#[derive(Clone, Copy, Debug)]
struct Window {
    piece: Piece,
    start: u64,
    end: u64,
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
    layouts: Vec<wgpu::BindGroupLayout>,
    /// The parameter blocks as they are on the device.
    params: Vec<u32>,
    pub params_buffer: Option<wgpu::Buffer>,
    pub scratch: Option<wgpu::Buffer>,
    pub chosen: Chosen,
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
            layouts: Vec::new(),
            params: Vec::new(),
            params_buffer: None,
            scratch: None,
            chosen: Chosen::default(),
        };
        let units = made.units(gpu, plan, layout, memory);
        let alone = units.iter().filter_map(|u| if let Unit::Launch(l) = u { Some(*l) } else { None });
        made.chosen = tune::choose(gpu, plan, &alone.collect::<Vec<usize>>(), layout.max_batch, choices)?;
        let parts = made.parts(gpu, plan, layout, memory)?;
        made.compile(gpu)?;
        made.make_buffers(gpu, layout.max_batch, &parts)?;
        made.bind_memory(gpu, memory, &parts)?;
        Ok(made)
    }

    /// Binds the same dispatches to memory that was laid out anew; gives how many pipelines that took.
    pub fn rebind(&mut self, gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory) -> Result<u64, DeviceError> {
        self.groups.clear();
        self.wholes.clear();
        self.params.clear();
        let before = (std::mem::take(&mut self.shaders), std::mem::take(&mut self.moving));
        let parts = self.parts(gpu, plan, layout, memory)?;
        let is_new = (&self.shaders, &self.moving) != (&before.0, &before.1);
        if is_new {
            // Segments in other groups than before, or launches that are no longer small.
            self.compile(gpu)?;
        }
        self.make_buffers(gpu, layout.max_batch, &parts)?;
        self.bind_memory(gpu, memory, &parts)?;
        Ok(if is_new { self.pipelines.len() as u64 } else { 0 })
    }

    fn units(&self, gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory) -> Vec<Unit> {
        match self.is_apart {
            true => (0..plan.launches().len()).map(Unit::Launch).collect(),
            false => schedule::units(gpu, plan, layout, memory),
        }
    }

    /// Fills groups, wholes and shaders; gives for each dispatch what it works on and its shader.
    fn parts(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
    ) -> Result<Vec<(Work, usize)>, DeviceError> {
        if plan.items.iter().any(|item| matches!(item, Item::Region(_))) {
            return Err(DeviceError::Unsupported("a loop on the device yet".to_string()));
        }
        let mut parts = Vec::new();
        self.is_fixed = false;
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let launches = plan.launches();
        for unit in self.units(gpu, plan, layout, memory) {
            let launch = match unit {
                Unit::Launch(launch) => launch,
                Unit::Whole(members) => {
                    let (whole, shader) = whole_of(gpu, plan, layout, memory, members);
                    let is_input = |arg: &&u32| whole.pieces[**arg as usize] == Piece::Inputs;
                    let moving = shader.args.iter().filter(is_input).copied().collect();
                    parts.push((Work::Whole(self.wholes.len()), self.shader(gpu, &mut known, shader, moving)));
                    self.wholes.push(whole);
                    continue;
                }
            };
            let kernel = &plan.kernels[launches[launch].kernel as usize];
            for group in groups(gpu, plan, layout, memory, launch, launches[launch])? {
                let kernel = with_axes(kernel, largest(&group.segments));
                let choice = self.chosen.of(launches[launch].kernel as usize);
                let shaders = wgsl::chosen_shaders(&kernel, group.segments.len(), &gpu.caps, choice)
                    .map_err(DeviceError::Unsupported)?;
                for shader in shaders {
                    let is_input = |arg: &&u32| group.windows[**arg as usize].piece == Piece::Inputs;
                    let moving: Vec<u32> = shader.args.iter().filter(is_input).copied().collect();
                    parts.push((Work::Group(self.groups.len()), self.shader(gpu, &mut known, shader, moving)));
                }
                self.groups.push(group);
            }
        }
        Ok(parts)
    }

    /// The number of a shader in which the bindings `moving` are inputs.
    fn shader(
        &mut self,
        gpu: &Gpu,
        known: &mut BTreeMap<String, usize>,
        shader: Shader,
        mut moving: Vec<u32>,
    ) -> usize {
        let most_moving = (gpu.limits.max_dynamic_storage_buffers_per_pipeline_layout as usize).min(MAX_MOVING);
        if moving.len() > most_moving {
            moving.clear();
            self.is_fixed = true;
        }
        let key = format!("{:?} {:?} {moving:?} {}", shader.params, shader.grid, shader.source);
        *known.entry(key).or_insert_with(|| {
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
                let n: u64 = group.segments.iter().map(|s| count.at(max_batch, &s.axes)).sum();
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
            Work::Group(group) => self.groups[group].segments.len(),
            Work::Whole(_) => 1,
        }
    }

    /// Binds the inputs anew, which have moved.
    pub fn rebind_inputs(&mut self, gpu: &Gpu, memory: &Memory) {
        for i in 0..self.list.len() {
            let Dispatch { work, shader, params_at, n_moving, .. } = self.list[i];
            if n_moving > 0 {
                self.list[i].bind_group = self.bind_group(gpu, memory, work, shader, params_at);
            }
        }
    }

    fn bind_memory(&mut self, gpu: &Gpu, memory: &Memory, parts: &[(Work, usize)]) -> Result<(), DeviceError> {
        self.list.clear();
        let mut params_at = 0;
        for &(work, shader) in parts {
            let bind_group = self.bind_group(gpu, memory, work, shader, params_at);
            let launches = match work {
                Work::Group(group) => vec![(self.groups[group].launch, 1.0)],
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
        gpu.check()
    }

    fn bind_group(&self, gpu: &Gpu, memory: &Memory, work: Work, shader: usize, params_at: usize) -> wgpu::BindGroup {
        let (of, n) = (&self.shaders[shader], self.n_segments(work));
        let mut entries = Vec::new();
        for &arg in &of.args {
            let window = match work {
                Work::Group(group) => self.groups[group].windows[arg as usize],
                Work::Whole(whole) => {
                    let piece = self.wholes[whole].pieces[arg as usize];
                    let end = if piece == Piece::Inputs { memory.block_bytes } else { memory.buffer(piece).size() };
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
    pub fn set_batch(&mut self, gpu: &Gpu, batch: usize) -> Result<(), DeviceError> {
        for d in &mut self.list {
            let shader = &self.shaders[d.shader];
            let group = match d.work {
                Work::Group(group) => &self.groups[group],
                Work::Whole(whole) => {
                    self.wholes[whole].set_batch(batch, shader, &mut self.params[d.params_at..]);
                    d.grid = [1; 3];
                    continue;
                }
            };
            let mut first = 0;
            let mut at = d.params_at;
            for (segment, offsets) in group.segments.iter().zip(&group.offsets) {
                for (i, word) in shader.params.iter().enumerate() {
                    self.params[at + i] = match *word {
                        Word::FirstGroup => first as u32,
                        Word::Offset(arg) => offsets[arg as usize],
                        other => other.at(batch, &segment.axes),
                    };
                }
                at += shader.params.len().next_multiple_of(4);
                if let Grid::Line(count) = &shader.grid {
                    first += count.at(batch, &segment.axes);
                }
            }
            let most = u64::from(gpu.limits.max_compute_workgroups_per_dimension);
            d.grid = match &shader.grid {
                Grid::Line(_) => fold(first, most)
                    .ok_or_else(|| DeviceError::Unsupported(format!("{first} workgroups in one launch")))?,
                Grid::Box(counts) => {
                    let n: [u64; 3] = std::array::from_fn(|i| counts[i].at(batch, &group.segments[0].axes));
                    if n.iter().any(|&n| n > most) {
                        return Err(DeviceError::Unsupported(format!("{n:?} workgroups in one launch")));
                    }
                    n.map(|n| n as u32)
                }
            };
        }
        if let Some(buffer) = &self.params_buffer {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&self.params));
        }
        Ok(())
    }

    /// Bytes that the dispatches hold, and in how many buffers.
    pub fn held(&self) -> (u64, u64) {
        let buffers = [&self.params_buffer, &self.scratch];
        buffers.into_iter().flatten().fold((0, 0), |(bytes, n), b| (bytes + b.size(), n + 1))
    }
}

/// `f(0)` to `f(n - 1)` by all of the host's threads, because drivers compile one pipeline on one thread; `None` if one panicked.
pub fn parallel<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync) -> Option<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(n);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if i >= n {
                return mine;
            }
            mine.push((i, f(i)));
        }
    };
    let mut made: Vec<(usize, T)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|h| h.join().unwrap_or_default()).collect()
    });
    made.sort_by_key(|(i, _)| *i);
    (made.len() == n).then(|| made.into_iter().map(|(_, t)| t).collect())
}

/// `n` workgroups as x·y, both at most `most`.
pub fn fold(n: u64, most: u64) -> Option<[u32; 3]> {
    let y = n.div_ceil(most).max(1);
    let x = n.div_ceil(y);
    (y <= most).then_some([x as u32, y as u32, 1])
}

pub fn entry(binding: u32, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BindGroupEntry<'_> {
    let size = std::num::NonZeroU64::new(bytes);
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
    }
}

/// Words of a dispatch's parameter block, rounded to what a binding's offset must be a multiple of.
fn block_words(shader: &Shader, n_segments: usize) -> usize {
    (shader.params.len().next_multiple_of(4) * n_segments).next_multiple_of(BLOCK_WORDS)
}

/// The segment with the most points: the text suits it.
fn largest(segments: &[Segment]) -> &Segment {
    let points = |s: &Segment| s.axes.iter().map(|d| d.at(1) as u64).product::<u64>();
    // Of equal ones the first, so that the text does not depend on how segments are joined.
    segments.iter().rev().max_by_key(|s| points(s)).expect("a launch has a segment")
}

impl Whole {
    /// Evaluates the words for a batch size.
    fn set_batch(&self, batch: usize, shader: &Shader, params: &mut [u32]) {
        for part in &self.parts {
            for i in part.words.clone() {
                params[i] = match shader.params[i] {
                    Word::Offset(arg) => part.offsets[arg as usize],
                    other => other.at(batch, &part.axes),
                };
            }
        }
    }
}

/// Small launches as one dispatch, and its shader.
fn whole_of(gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory, members: Vec<Member>) -> (Whole, Shader) {
    let slots = (0..memory.slots.len()).map(Piece::Slots);
    let arena = (0..memory.arena.len()).map(Piece::Arena);
    let pieces: Vec<Piece> = [Piece::Inputs].into_iter().chain(slots).chain(arena).collect();
    let launches = plan.launches();
    let (mut texts, mut parts) = (Vec::new(), Vec::new());
    for member in &members {
        let launch = launches[member.launch];
        for (i, segment) in launch.segments.iter().enumerate() {
            let kernel = with_axes(&plan.kernels[launch.kernel as usize], segment);
            let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
            let number = |p: &Place| pieces.iter().position(|q| *q == p.piece).expect("bug: a piece of this memory");
            let bytes = |arg: usize| gpu.caps.stored_bytes(kernel.args()[arg].dtype) as u64;
            let offsets = places.iter().enumerate().map(|(arg, p)| (p.offset / bytes(arg)) as u32).collect();
            parts.push(WholePart { words: 0..0, axes: segment.axes.clone(), offsets });
            let pieces = places.iter().map(|p| number(p) as u32).collect();
            texts.push(whole::Part { kernel, pieces, waits: i == 0 && member.waits });
        }
    }
    let workgroups = gpu.caps.workgroups.as_ref().expect("bug: a GPU has workgroups");
    let (shader, words) = whole::shader(&texts, workgroups);
    parts.iter_mut().zip(words).for_each(|(part, words)| part.words = words);
    (Whole { members, parts, pieces }, shader)
}

/// Segments that can run as one dispatch: argument i of all of them lies in one piece of memory, within what one binding may span.
fn groups(
    gpu: &Gpu,
    plan: &Plan,
    layout: &Layout,
    memory: &Memory,
    launch: usize,
    l: &Launch,
) -> Result<Vec<Group>, DeviceError> {
    let most = gpu.limits.max_storage_buffer_binding_size;
    let kernel = &plan.kernels[l.kernel as usize];
    let mut found: Vec<(Vec<Segment>, Vec<Vec<Place>>, Vec<Window>)> = Vec::new();
    for segment in &l.segments {
        let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
        if let Some(big) = places.iter().find(|p| p.bytes > most) {
            return Err(DeviceError::OutOfMemory {
                wanted_bytes: big.bytes,
                what: format!("one tensor of {} ({}), where the device binds at most {most} bytes", l.scope, l.ops),
            });
        }
        let alone: Vec<Window> =
            places.iter().map(|p| Window { piece: p.piece, start: p.offset, end: p.offset + p.bytes }).collect();
        // The words of a segment are its axes, an offset per argument and its first workgroup.
        let vectors = (segment.axes.len() + segment.args.len() + 8).div_ceil(4);
        let joined = found.last_mut().and_then(|(segments, all, windows)| {
            let room = (segments.len() + 1) * vectors <= MAX_SEGMENT_VECTORS as usize;
            let wide = windows.iter().zip(&alone).map(|(a, b)| join(a, b, most)).collect::<Option<Vec<_>>>();
            wide.filter(|_| room).map(|wide| (segments, all, windows, wide))
        });
        match joined {
            Some((segments, all, windows, wide)) => {
                *windows = wide;
                segments.push(segment.clone());
                all.push(places);
            }
            None => found.push((vec![segment.clone()], vec![places], alone)),
        }
    }
    let bytes = |arg: usize| gpu.caps.stored_bytes(kernel.args()[arg].dtype) as u64;
    let finish = |(segments, all, windows): (Vec<Segment>, Vec<Vec<Place>>, Vec<Window>)| {
        let offset = |places: &Vec<Place>| {
            let of = |(arg, p): (usize, &Place)| ((p.offset - windows[arg].start) / bytes(arg)) as u32;
            places.iter().enumerate().map(of).collect()
        };
        let offsets = all.iter().map(offset).collect();
        Group { launch, segments, windows, offsets }
    };
    Ok(found.into_iter().map(finish).collect())
}

/// The window over both, if one binding can span it.
fn join(a: &Window, b: &Window, most: u64) -> Option<Window> {
    let (start, end) = (a.start.min(b.start), a.end.max(b.end));
    (a.piece == b.piece && end - start <= most).then_some(Window { piece: a.piece, start, end })
}

pub fn bind_group_layout(gpu: &Gpu, shader: &Shader, moving: &[u32]) -> wgpu::BindGroupLayout {
    let of = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: moving.contains(&binding), min_binding_size: None },
        count: None,
    };
    let storage = wgpu::BufferBindingType::Storage { read_only: false };
    let mut entries: Vec<_> = shader.args.iter().map(|&arg| of(arg, storage)).collect();
    if !shader.params.is_empty() {
        entries.push(of(Shader::PARAMS, wgpu::BufferBindingType::Uniform));
    }
    if shader.scratch.is_some() {
        entries.push(of(Shader::SCRATCH, storage));
    }
    gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

pub fn pipeline(
    gpu: &Gpu,
    shader: &Shader,
    layout: &wgpu::BindGroupLayout,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(shader.source.as_str().into()) };
    // SAFETY: the plan's verification has shown that loops stay inside of their buffers, and the texts of the other kinds guard their edges.
    let module = unsafe { gpu.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(layout)],
        immediate_size: 0,
    });
    gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    })
}
