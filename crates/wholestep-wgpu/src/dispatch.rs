//! Dispatches: takes a plan's launches and where memory is, gives pipelines, bind groups and the numbers that depend on the batch size.
//! Never encodes: that is done anew each step.

use crate::adapter::Gpu;
use crate::memory::{Memory, Piece, Place};
use std::collections::BTreeMap;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::wgsl::{self, MAX_SEGMENT_VECTORS};
use wholestep_compiler::codegen::{Grid, Shader, Word};
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{Item, Launch, Layout, Plan, Segment};

/// One dispatch of the step.
pub struct Dispatch {
    pub pipeline: usize,
    pub bind_group: wgpu::BindGroup,
    /// Workgroups at the bound batch size.
    pub grid: [u32; 3],
    /// The launch that it is a part of.
    pub launch: usize,
    /// How many of its bindings move from the inputs of one step to those of the next.
    pub n_moving: usize,
    shader: usize,
    group: usize,
    params_at: usize,
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

/// A range of a piece.
#[derive(Clone, Copy, Debug)]
struct Window {
    piece: Piece,
    start: u64,
    end: u64,
}

/// All dispatches of a plan.
pub struct Dispatches {
    pub list: Vec<Dispatch>,
    pub pipelines: Vec<wgpu::ComputePipeline>,
    shaders: Vec<Shader>,
    /// By shader: the arguments that are inputs, where the device can move so many bindings.
    moving: Vec<Vec<u32>>,
    /// Whether some inputs cannot be moved, so that a submission has room for one step only.
    pub is_fixed: bool,
    groups: Vec<Group>,
    layouts: Vec<wgpu::BindGroupLayout>,
    /// The parameter blocks as they are on the device.
    params: Vec<u32>,
    pub params_buffer: Option<wgpu::Buffer>,
    pub scratch: Option<wgpu::Buffer>,
}

/// Parameter blocks begin at multiples of this many words: 256 bytes.
const BLOCK_WORDS: usize = 64;

/// The most bindings of one dispatch that move with the step.
pub const MAX_MOVING: usize = 8;

impl Dispatches {
    /// Makes shaders and pipelines.
    pub fn new(gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory) -> Result<Dispatches, DeviceError> {
        let mut made = Dispatches {
            list: Vec::new(),
            pipelines: Vec::new(),
            shaders: Vec::new(),
            moving: Vec::new(),
            is_fixed: false,
            groups: Vec::new(),
            layouts: Vec::new(),
            params: Vec::new(),
            params_buffer: None,
            scratch: None,
        };
        let parts = made.parts(gpu, plan, layout, memory)?;
        made.compile(gpu)?;
        made.make_buffers(gpu, layout.max_batch, &parts)?;
        made.bind_memory(gpu, memory, &parts)?;
        Ok(made)
    }

    /// Binds the same dispatches to memory that was laid out anew.
    pub fn rebind(&mut self, gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory) -> Result<(), DeviceError> {
        self.groups.clear();
        self.shaders.clear();
        self.moving.clear();
        self.params.clear();
        let pipelines = std::mem::take(&mut self.pipelines);
        let parts = self.parts(gpu, plan, layout, memory)?;
        if self.shaders.len() == pipelines.len() {
            self.pipelines = pipelines;
        } else {
            // Other groups of segments than before: their windows no longer fit as they did.
            self.compile(gpu)?;
        }
        self.make_buffers(gpu, layout.max_batch, &parts)?;
        self.bind_memory(gpu, memory, &parts)
    }

    /// Fills groups and shaders; gives for each dispatch its group and its shader.
    fn parts(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
    ) -> Result<Vec<(usize, usize)>, DeviceError> {
        if plan.items.iter().any(|item| matches!(item, Item::Region(_))) {
            return Err(DeviceError::Unsupported("a loop on the device yet".to_string()));
        }
        let mut parts = Vec::new();
        let most_moving = (gpu.limits.max_dynamic_storage_buffers_per_pipeline_layout as usize).min(MAX_MOVING);
        self.is_fixed = false;
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for (launch, l) in plan.launches().into_iter().enumerate() {
            let kernel = &plan.kernels[l.kernel as usize];
            for group in groups(gpu, plan, layout, memory, launch, l)? {
                let kernel = with_axes(kernel, &group.segments[0]);
                let shaders =
                    wgsl::shaders(&kernel, group.segments.len(), &gpu.caps).map_err(DeviceError::Unsupported)?;
                for shader in shaders {
                    let is_input = |arg: &&u32| group.windows[**arg as usize].piece == Piece::Inputs;
                    let mut moving: Vec<u32> = shader.args.iter().filter(is_input).copied().collect();
                    if moving.len() > most_moving {
                        moving.clear();
                        self.is_fixed = true;
                    }
                    let key = format!("{:?} {:?} {moving:?} {}", shader.params, shader.grid, shader.source);
                    let at = *known.entry(key).or_insert_with(|| {
                        self.shaders.push(shader);
                        self.moving.push(moving);
                        self.shaders.len() - 1
                    });
                    parts.push((self.groups.len(), at));
                }
                self.groups.push(group);
            }
        }
        Ok(parts)
    }

    fn compile(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        let both = self.shaders.iter().zip(&self.moving);
        self.layouts = both.map(|(s, moving)| bind_group_layout(gpu, s, moving)).collect();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(self.shaders.len().max(1));
        let next = std::sync::atomic::AtomicUsize::new(0);
        let (shaders, layouts) = (&self.shaders, &self.layouts);
        // Drivers compile one pipeline on one thread, so several are made at once.
        let mut made: Vec<(usize, wgpu::ComputePipeline)> = std::thread::scope(|scope| {
            let work = || {
                let mut mine = Vec::new();
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if i >= shaders.len() {
                        return mine;
                    }
                    mine.push((i, pipeline(gpu, &shaders[i], &layouts[i])));
                }
            };
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            handles.into_iter().flat_map(|h| h.join().unwrap_or_default()).collect()
        });
        gpu.check()?;
        made.sort_by_key(|(i, _)| *i);
        self.pipelines = made.into_iter().map(|(_, p)| p).collect();
        if self.pipelines.len() != self.shaders.len() {
            return Err(DeviceError::Unsupported("a kernel: its compiler panicked".to_string()));
        }
        Ok(())
    }

    fn make_buffers(&mut self, gpu: &Gpu, max_batch: usize, parts: &[(usize, usize)]) -> Result<(), DeviceError> {
        let mut scratch_words = 0;
        let mut words = 0;
        for &(group, shader) in parts {
            let (group, shader) = (&self.groups[group], &self.shaders[shader]);
            words += block_words(shader, group.segments.len());
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

    /// Binds the inputs anew, which have moved.
    pub fn rebind_inputs(&mut self, gpu: &Gpu, memory: &Memory) {
        for i in 0..self.list.len() {
            let Dispatch { group, shader, params_at, n_moving, .. } = self.list[i];
            if n_moving > 0 {
                self.list[i].bind_group = self.bind_group(gpu, memory, group, shader, params_at);
            }
        }
    }

    fn bind_memory(&mut self, gpu: &Gpu, memory: &Memory, parts: &[(usize, usize)]) -> Result<(), DeviceError> {
        self.list.clear();
        let mut params_at = 0;
        for &(group, shader) in parts {
            let bind_group = self.bind_group(gpu, memory, group, shader, params_at);
            let launch = self.groups[group].launch;
            let n_moving = self.moving[shader].len();
            self.list.push(Dispatch {
                pipeline: shader,
                bind_group,
                grid: [0; 3],
                launch,
                n_moving,
                shader,
                group,
                params_at,
            });
            params_at += block_words(&self.shaders[shader], self.groups[group].segments.len());
        }
        gpu.check()
    }

    fn bind_group(&self, gpu: &Gpu, memory: &Memory, group: usize, shader: usize, params_at: usize) -> wgpu::BindGroup {
        let (windows, of, n) = (&self.groups[group].windows, &self.shaders[shader], self.groups[group].segments.len());
        let mut entries = Vec::new();
        for &arg in &of.args {
            let window = windows[arg as usize];
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
            let (shader, group) = (&self.shaders[d.shader], &self.groups[d.group]);
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

/// `n` workgroups as x·y, both at most `most`.
fn fold(n: u64, most: u64) -> Option<[u32; 3]> {
    let y = n.div_ceil(most).max(1);
    let x = n.div_ceil(y);
    (y <= most).then_some([x as u32, y as u32, 1])
}

fn entry(binding: u32, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BindGroupEntry<'_> {
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

/// The kernel with a segment's own axes.
fn with_axes(kernel: &Kernel, segment: &Segment) -> Kernel {
    match kernel {
        Kernel::Loop(k) if !segment.axes.is_empty() => {
            let mut k = k.clone();
            k.axes = segment.axes.clone();
            Kernel::Loop(k)
        }
        Kernel::Loop(_)
        | Kernel::Contract(_)
        | Kernel::Window(_)
        | Kernel::Scatter(_)
        | Kernel::Sort(_)
        | Kernel::Scan(_) => kernel.clone(),
    }
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

fn bind_group_layout(gpu: &Gpu, shader: &Shader, moving: &[u32]) -> wgpu::BindGroupLayout {
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

fn pipeline(gpu: &Gpu, shader: &Shader, layout: &wgpu::BindGroupLayout) -> wgpu::ComputePipeline {
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
        cache: None,
    })
}
