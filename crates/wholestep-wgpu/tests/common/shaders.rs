//! Runs shaders on buffers of their own, beside the executable. Takes the dispatches of a kernel and the contents of its arguments, gives the
//! contents afterwards. Never shares code with the backend.
#![allow(dead_code)]

use std::time::Instant;
use wgpu::util::DeviceExt;
use wholestep_compiler::caps::{Language, Workgroups};
use wholestep_compiler::codegen::{Grid, Shader};

pub struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pub name: String,
    pub is_cpu: bool,
    pub workgroups: Workgroups,
}

/// The dispatches of one kernel, ready to run.
pub struct Job {
    steps: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
}

impl Device {
    /// A real GPU if there is one, else what there is. Where there is nothing it says so and gives nothing, unless `REQUIRE_WGPU` is set.
    pub fn open() -> Option<Device> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        let is_gpu = |a: &wgpu::Adapter| a.get_info().device_type == wgpu::DeviceType::DiscreteGpu;
        let Some(adapter) = adapters.into_iter().max_by_key(is_gpu) else {
            assert!(std::env::var_os("REQUIRE_WGPU").is_none(), "REQUIRE_WGPU is set and there is no adapter");
            println!("skipped: no wgpu adapter");
            return None;
        };
        let (limits, info) = (adapter.limits(), adapter.get_info());
        let optional = wgpu::Features::SHADER_F16 | wgpu::Features::SHADER_INT64 | wgpu::Features::SUBGROUP;
        let features = adapter.features() & (optional | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let tiles = adapter.cooperative_matrix_properties();
        let adds_in_f32 = |t: &wgpu::CooperativeMatrixProperties| {
            (t.ab_type, t.cr_type) == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
        };
        let workgroups = Workgroups {
            language: Language::Wgsl,
            threads: limits.max_compute_invocations_per_workgroup,
            shared_bytes: limits.max_compute_workgroup_storage_size,
            per_axis: limits.max_compute_workgroups_per_dimension,
            subgroup: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            f16: features.contains(wgpu::Features::SHADER_F16),
            long: features.contains(wgpu::Features::SHADER_INT64),
            tiles: tiles.iter().filter(|t| adds_in_f32(t)).map(|t| [t.m_size, t.n_size, t.k_size]).collect(),
        };
        let wanted = wgpu::DeviceDescriptor {
            required_limits: limits,
            required_features: features,
            // SAFETY: only cooperative matrices are experimental here, and a shader that uses them wrongly fails the comparison that follows.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wanted)).expect("the device opens");
        let is_cpu = info.device_type == wgpu::DeviceType::Cpu;
        Some(Device { device, queue, name: format!("{}, {}", info.name, info.driver_info), is_cpu, workgroups })
    }

    /// A buffer with these contents; what fills up its last 16 bytes is NaN.
    pub fn buffer(&self, contents: &[u8]) -> wgpu::Buffer {
        let mut contents = contents.to_vec();
        contents.resize(contents.len().next_multiple_of(16).max(16), 0xff);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage })
    }

    /// Compiles the dispatches for their buffers. Scratch begins as NaN. `check_bounds` keeps what a shader does inside of its buffers.
    pub fn prepare(&self, shaders: &[Shader], args: &[wgpu::Buffer], batch: usize, check_bounds: bool) -> Job {
        let words = shaders.iter().filter_map(|s| s.scratch.as_ref()).map(|c| c.at(batch, &[])).max().unwrap_or(0);
        let scratch = self.buffer(&vec![0xff; 4 * words as usize]);
        let step = |s: &Shader| {
            let pipeline = self.pipeline(s, check_bounds);
            let group = self.group(s, &pipeline, args, &scratch, batch);
            (pipeline, group, grid(s, batch, self.is_cpu))
        };
        Job { steps: shaders.iter().map(step).collect() }
    }

    fn pipeline(&self, shader: &Shader, check_bounds: bool) -> wgpu::ComputePipeline {
        let source = wgpu::ShaderSource::Wgsl(shader.source.as_str().into());
        let text = wgpu::ShaderModuleDescriptor { label: None, source };
        let module = match check_bounds {
            true => self.device.create_shader_module(text),
            // SAFETY: the tests run the same text with checks and compare what it computes.
            false => unsafe { self.device.create_shader_module_trusted(text, wgpu::ShaderRuntimeChecks::unchecked()) },
        };
        let options =
            wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: false, ..Default::default() };
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: options,
            cache: None,
        })
    }

    fn group(
        &self,
        shader: &Shader,
        pipeline: &wgpu::ComputePipeline,
        args: &[wgpu::Buffer],
        scratch: &wgpu::Buffer,
        batch: usize,
    ) -> wgpu::BindGroup {
        let mut words: Vec<u32> = shader.params.iter().map(|w| w.at(batch, &[])).collect();
        words.resize(words.len().next_multiple_of(4).max(4), 0);
        let params = self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&words),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let mut bound: Vec<(u32, &wgpu::Buffer)> = shader.args.iter().map(|&a| (a, &args[a as usize])).collect();
        bound.extend((!shader.params.is_empty()).then_some((Shader::PARAMS, &params)));
        bound.extend(shader.scratch.is_some().then_some((Shader::SCRATCH, scratch)));
        let entries: Vec<wgpu::BindGroupEntry> = bound
            .iter()
            .map(|(binding, b)| wgpu::BindGroupEntry { binding: *binding, resource: b.as_entire_binding() })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
    }

    /// Runs a job `times` times in one submission and waits.
    pub fn submit(&self, job: &Job, times: usize) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for _ in 0..times {
                for (pipeline, group, [x, y, z]) in &job.steps {
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
        }
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
    }

    /// Seconds a run takes, the median of three regions of 40 ms after the clocks have risen; one run on a software driver.
    pub fn seconds(&self, job: &Job) -> f64 {
        let time = |times: usize| {
            let start = Instant::now();
            self.submit(job, times);
            start.elapsed().as_secs_f64() / times as f64
        };
        time(1);
        let mut one = time(1);
        if self.is_cpu {
            return one;
        }
        let warm = Instant::now();
        while warm.elapsed().as_secs_f64() < 0.1 {
            one = time(((0.02 / one) as usize).clamp(1, 2000));
        }
        let mut regions = [0; 3].map(|_| time(((0.04 / one) as usize).clamp(2, 4000)));
        regions.sort_by(f64::total_cmp);
        regions[1]
    }

    /// Seconds that the device's own copy command takes for so many bytes.
    pub fn copy_seconds(&self, bytes: usize) -> f64 {
        let [from, to] = [wgpu::BufferUsages::COPY_SRC, wgpu::BufferUsages::COPY_DST].map(|usage| {
            let (label, size) = (None, bytes as u64);
            self.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
        });
        let copy = |times: usize| {
            let start = Instant::now();
            let mut encoder = self.device.create_command_encoder(&Default::default());
            (0..times).for_each(|_| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes as u64));
            self.queue.submit([encoder.finish()]);
            self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
            start.elapsed().as_secs_f64() / times as f64
        };
        copy(1);
        let times = if self.is_cpu { 1 } else { 200 };
        [0; 3].map(|_| copy(times)).into_iter().fold(f64::INFINITY, f64::min)
    }

    /// Runs the dispatches of one kernel in order; `args` are replaced by what is in them afterwards.
    pub fn run(&self, shaders: &[Shader], args: &mut [Vec<u8>], batch: usize) {
        let buffers: Vec<wgpu::Buffer> = args.iter().map(|a| self.buffer(a)).collect();
        self.submit(&self.prepare(shaders, &buffers, batch, true), 1);
        for (arg, buffer) in args.iter_mut().zip(&buffers) {
            *arg = self.read(buffer, arg.len());
        }
    }

    /// The first `len` bytes of a buffer.
    pub fn read(&self, buffer: &wgpu::Buffer, len: usize) -> Vec<u8> {
        let size = buffer.size();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let host =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &host, 0, size);
        self.queue.submit([encoder.finish()]);
        host.slice(..).map_async(wgpu::MapMode::Read, |r| r.expect("the buffer maps"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
        host.slice(..).get_mapped_range().expect("the buffer is mapped")[..len].to_vec()
    }
}

/// Numbers between -0.5 and 0.5, the same for the same seed.
pub fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2654435761) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as f32 / u32::MAX as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn grid(shader: &Shader, batch: usize, fold_early: bool) -> [u32; 3] {
    match &shader.grid {
        Grid::Line(n) => {
            let n = n.at(batch, &[]) as u32;
            // Folded early, a few workgroups are over and have to see that.
            let x = if fold_early { n.min(7) } else { n.div_ceil(n.div_ceil(65535).max(1)) };
            [x, n.div_ceil(x.max(1)), 1]
        }
        Grid::Box(counts) => [0, 1, 2].map(|i: usize| counts[i].at(batch, &[]) as u32),
    }
}
