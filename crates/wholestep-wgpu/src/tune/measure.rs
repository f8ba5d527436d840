//! Runs contractions on scratch memory. Takes their shaders, gives times and how far two results are apart. Never touches memory of a plan.

use crate::adapter::Gpu;
use crate::memory;
use crate::pipeline::{bind_group_layout, entry, fold, parallel, pipeline};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::choice::{self, Choice};
use wholestep_compiler::codegen::{Count, Grid, Shader, Word};
use wholestep_compiler::ir::DType;
use wholestep_compiler::kernel::Contract;

/// Operands, two results, partial sums and what epilogues take, for the largest contraction there is.
pub struct Measure<'a> {
    gpu: &'a Gpu,
    operands: [wgpu::Buffer; 2],
    /// Twice, so that two ways find the same.
    others: [wgpu::Buffer; 2],
    result: wgpu::Buffer,
    expected: wgpu::Buffer,
    scratch: wgpu::Buffer,
    /// The two numbers of a [`Difference`], and whether any bit differs.
    verdict: wgpu::Buffer,
    readback: wgpu::Buffer,
    fill: Compiled,
    compare: Compiled,
}

/// Shaders with their pipelines.
pub struct Compiled(Vec<(Shader, wgpu::BindGroupLayout, wgpu::ComputePipeline)>);

/// Dispatches that are ready to run.
struct Job(Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>);

/// A part of a buffer.
type Range<'a> = (&'a wgpu::Buffer, u64, u64);

/// Contractions with a larger operand or result are not timed.
const MAX_BYTES: u64 = 1 << 30;
/// Partial sums take at most so much.
const SCRATCH_BYTES: u64 = 256 << 20;
/// Each candidate is timed so often, one after the other; the first time is not counted.
const ROUNDS: usize = 4;
/// Microseconds that one time should take at least, by the estimate, and the most runs of a candidate for it.
const REGION_US: f64 = 60.0;
const MAX_RUNS: f64 = 10.0;
/// Multiplications that a comparison may take: the generic kernel is slow. Batches are halved down to that.
const CHECK_PRODUCTS: f64 = 2e9;
/// Three words.
const VERDICT_BYTES: u64 = 12;
/// Threads of the kernels of this file, in workgroups of 256.
const WORKGROUPS: u32 = 512;

impl Compiled {
    pub fn new(gpu: &Gpu, shaders: Vec<Shader>) -> Compiled {
        let one = |shader: Shader| {
            let layout = bind_group_layout(gpu, &shader, &[]);
            // Most of these are never used again, so the cache of pipelines is none of theirs.
            let pipeline = pipeline(gpu, &shader, &layout, None);
            (shader, layout, pipeline)
        };
        Compiled(shaders.into_iter().map(one).collect())
    }
}

impl<'a> Measure<'a> {
    /// Memory for `kernels` at a batch size, filled with random numbers, and which of them it is large enough for.
    pub fn new(
        gpu: &'a Gpu,
        kernels: &[(&Contract, &[u64])],
        batch: usize,
    ) -> Result<(Measure<'a>, Vec<bool>), DeviceError> {
        let most = gpu.limits.max_storage_buffer_binding_size.min(gpu.limits.max_buffer_size);
        let sizes = kernels.iter().map(|(k, others)| {
            let [a, b, result] = choice::reach(k, batch).map(|n| 4 * n as u64);
            [a, b, result, others.iter().map(|n| room(*n)).sum()]
        });
        let sizes: Vec<[u64; 4]> = sizes.collect();
        // Random bits are no numbers of 16 bits.
        let is_f32 = |k: &Contract| k.args[..3].iter().all(|a| a.dtype == DType::F32);
        let fits =
            kernels.iter().zip(&sizes).map(|((k, _), s)| is_f32(k) && s.iter().all(|&n| n <= most.min(MAX_BYTES)));
        let fits: Vec<bool> = fits.collect();
        let largest = |arg: usize| sizes.iter().zip(&fits).filter(|(_, f)| **f).map(|(s, _)| s[arg]).max().unwrap_or(0);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let take = |bytes: u64| memory::buffer(gpu, bytes, usage, "timing kernels");
        let host = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let own = parallel(2, |i| Compiled::new(gpu, vec![[fill_shader, compare_shader][i]()]));
        let Some([fill, compare]) = own.and_then(|own| <[Compiled; 2]>::try_from(own).ok()) else {
            return Err(DeviceError::Unsupported("a kernel that times others: its compiler panicked".to_string()));
        };
        let measure = Measure {
            gpu,
            operands: [take(largest(0))?, take(largest(1))?],
            others: [take(largest(3))?, take(largest(3))?],
            result: take(largest(2))?,
            expected: take(largest(2))?,
            scratch: take((256 * largest(2)).min(SCRATCH_BYTES).min(most))?,
            verdict: take(VERDICT_BYTES)?,
            readback: memory::buffer(gpu, 4096, host, "timing kernels")?,
            fill,
            compare,
        };
        for (i, buffer) in measure.operands.iter().chain([&measure.others[0]]).enumerate() {
            measure.fill(buffer, i as u32 + 1);
        }
        gpu.check()?;
        Ok((measure, fits))
    }

    fn fill(&self, buffer: &wgpu::Buffer, seed: u32) {
        let job = self.bind(&self.fill, &[(buffer.size() / 4) as u32, seed], &[whole(buffer)]);
        self.gpu.submit([self.encode(|pass| job.run(pass, 1))]);
    }

    /// Whether partial sums fit, and the launch does.
    pub fn has_room(&self, shaders: &[Shader], batch: usize) -> bool {
        let words = shaders.iter().filter_map(|s| s.scratch.as_ref()).map(|c| c.at(batch, &[]));
        words.max().unwrap_or(0) * 4 <= self.scratch.size() && shaders.iter().all(|s| self.grid(s, batch).is_some())
    }

    fn grid(&self, shader: &Shader, batch: usize) -> Option<[u32; 3]> {
        let most = u64::from(self.gpu.limits.max_compute_workgroups_per_dimension);
        match &shader.grid {
            Grid::Line(count) => fold(count.at(batch, &[]), most),
            Grid::Box(counts) => {
                let n = [0, 1, 2].map(|i: usize| counts[i].at(batch, &[]));
                n.iter().all(|&n| n <= most).then_some(n.map(|n| n as u32))
            }
        }
    }

    /// Arguments of a contraction, with those of its epilogue after its result.
    fn args<'b>(&'b self, result: &'b wgpu::Buffer, others: &'b wgpu::Buffer, sizes: &[u64]) -> Vec<Range<'b>> {
        let [a, b] = &self.operands;
        let mut args = vec![whole(a), whole(b), whole(result)];
        let mut at = 0;
        for &bytes in sizes {
            args.push((others, at, room(bytes)));
            at += room(bytes);
        }
        args
    }

    fn bind_at(&self, compiled: &Compiled, batch: usize, args: &[Range]) -> Job {
        let of = |s: &Shader| s.params.iter().map(|w| w.at(batch, &[])).collect::<Vec<u32>>();
        let step = |step: &(Shader, _, _)| self.bind_one(step, &of(&step.0), batch, args);
        Job(compiled.0.iter().map(step).collect())
    }

    /// Of a kernel of this file.
    fn bind(&self, compiled: &Compiled, words: &[u32], args: &[Range]) -> Job {
        Job(compiled.0.iter().map(|step| self.bind_one(step, words, 1, args)).collect())
    }

    fn bind_one(
        &self,
        (shader, layout, pipeline): &(Shader, wgpu::BindGroupLayout, wgpu::ComputePipeline),
        words: &[u32],
        batch: usize,
        args: &[Range],
    ) -> (wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3]) {
        let device = &self.gpu.device;
        let mut words = words.to_vec();
        words.resize(words.len().next_multiple_of(4).max(4), 0);
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4 * words.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.gpu.queue.write_buffer(&params, 0, bytemuck::cast_slice(&words));
        let mut bound: Vec<(u32, Range)> = shader.args.iter().map(|&a| (a, args[a as usize])).collect();
        bound.extend((!shader.params.is_empty()).then_some((Shader::PARAMS, whole(&params))));
        bound.extend(shader.scratch.is_some().then_some((Shader::SCRATCH, whole(&self.scratch))));
        let entries: Vec<_> = bound.into_iter().map(|(binding, (b, at, n))| entry(binding, b, at, n)).collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
        let grid = self.grid(shader, batch).expect("bug: there was room");
        (pipeline.clone(), group, grid)
    }

    fn encode(&self, fill: impl FnOnce(&mut wgpu::ComputePass)) -> wgpu::CommandBuffer {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        fill(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        encoder.finish()
    }

    /// Nanoseconds of a run of each candidate, without epilogues: the least of several.
    pub fn time(
        &self,
        kernel: &Contract,
        ways: &[(Choice, Arc<Compiled>)],
        batch: usize,
    ) -> Result<Vec<f64>, DeviceError> {
        let args = self.args(&self.result, &self.others[0], &[]);
        let jobs: Vec<Job> = ways.iter().map(|(_, compiled)| self.bind_at(compiled, batch, &args)).collect();
        let runs = |c: &Choice| (REGION_US / choice::estimated_us(kernel, *c, batch)).clamp(1.0, MAX_RUNS) as u32;
        let runs: Vec<u32> = ways.iter().map(|(c, _)| runs(c)).collect();
        let times = match self.gpu.tick_ns {
            Some(tick_ns) => self.clock(&jobs, &runs, f64::from(tick_ns))?,
            None => self.watch(&jobs, &runs)?,
        };
        let least = |i: usize| times[1..].iter().map(|round| round[i]).fold(f64::INFINITY, f64::min);
        Ok((0..jobs.len()).map(|i| least(i) / f64::from(runs[i])).collect())
    }

    /// Nanoseconds by round and job, from the device's clock.
    fn clock(&self, jobs: &[Job], runs: &[u32], tick_ns: f64) -> Result<Vec<Vec<f64>>, DeviceError> {
        let device = &self.gpu.device;
        let n = (2 * ROUNDS * jobs.len()) as u32;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: n.max(1),
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = memory::buffer(self.gpu, 8 * u64::from(n), usage, "timing kernels")?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for i in 0..ROUNDS * jobs.len() {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * i as u32),
                end_of_pass_write_index: Some(2 * i as u32 + 1),
            };
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
            jobs[i % jobs.len()].run(&mut encoder.begin_compute_pass(&descriptor), runs[i % jobs.len()]);
        }
        encoder.resolve_query_set(&queries, 0..n, &resolved, 0);
        let bytes = self.read(encoder, &resolved, 8 * u64::from(n))?;
        let ticks: Vec<u64> = bytes.as_chunks().0.iter().map(|b| u64::from_ne_bytes(*b)).collect();
        let ns: Vec<f64> =
            ticks.as_chunks::<2>().0.iter().map(|t| t[1].saturating_sub(t[0]) as f64 * tick_ns).collect();
        Ok(ns.chunks(jobs.len().max(1)).map(<[f64]>::to_vec).collect())
    }

    /// The same by the host's clock, where the device's cannot be read.
    fn watch(&self, jobs: &[Job], runs: &[u32]) -> Result<Vec<Vec<f64>>, DeviceError> {
        let one = |(job, &n): (&Job, &u32)| {
            let commands = self.encode(|pass| job.run(pass, n));
            let begun = Instant::now();
            let submission = self.gpu.submit([commands]);
            self.gpu.wait(Some(submission))?;
            Ok(begun.elapsed().as_secs_f64() * 1e9)
        };
        (0..ROUNDS).map(|_| jobs.iter().zip(runs).map(one).collect()).collect()
    }

    /// How far a candidate's result is from the generic kernel's.
    pub fn difference(
        &self,
        kernel: &Contract,
        candidate: &Compiled,
        generic: &Compiled,
        max_batch: usize,
    ) -> Result<Difference, DeviceError> {
        let mut batch = max_batch;
        while batch > 2 && choice::multiplications(kernel, batch) > CHECK_PRODUCTS {
            batch /= 2;
        }
        let words = [choice::reach(kernel, batch)[2] as u32];
        let jobs = [
            self.bind_at(generic, batch, &self.args(&self.expected, &self.others[0], &[])),
            self.bind_at(candidate, batch, &self.args(&self.result, &self.others[0], &[])),
            self.bind(&self.compare, &words, &[&self.result, &self.expected, &self.verdict].map(whole)),
        ];
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        // What is not written is then 0, which a sum of random products is not.
        for buffer in [&self.result, &self.expected, &self.verdict] {
            encoder.clear_buffer(buffer, 0, None);
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        jobs.iter().for_each(|job| job.run(&mut pass, 1));
        drop(pass);
        let [most, largest, _] = self.verdict(encoder)?.map(f32::from_bits);
        let elements = choice::reach(kernel, batch)[2] as f64;
        Ok(Difference { most, largest, depth: choice::multiplications(kernel, batch) / elements })
    }

    /// Whether two ways leave the same bits in the result and in what the epilogue writes.
    pub fn is_equal(&self, others: &[u64], ways: [&Compiled; 2], batch: usize) -> Result<bool, DeviceError> {
        let results = [&self.result, &self.expected];
        self.others.iter().for_each(|buffer| self.fill(buffer, 3));
        let of = |i: usize| self.bind_at(ways[i], batch, &self.args(results[i], &self.others[i], others));
        let compare = |of: [&wgpu::Buffer; 2]| {
            let words = [(of[0].size() / 4) as u32];
            self.bind(&self.compare, &words, &[of[0], of[1], &self.verdict].map(whole))
        };
        let jobs = [of(0), of(1), compare(results), compare(self.others.each_ref())];
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for buffer in [&self.result, &self.expected, &self.verdict] {
            encoder.clear_buffer(buffer, 0, None);
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        jobs.iter().for_each(|job| job.run(&mut pass, 1));
        drop(pass);
        let [_, _, differs] = self.verdict(encoder)?;
        Ok(differs == 0)
    }

    /// Submits, and reads what was compared.
    fn verdict(&self, encoder: wgpu::CommandEncoder) -> Result<[u32; 3], DeviceError> {
        let bytes = self.read(encoder, &self.verdict, VERDICT_BYTES)?;
        Ok(std::array::from_fn(|i| u32::from_ne_bytes(bytes.as_chunks().0[i])))
    }

    /// Submits, and reads the first `len` bytes of a buffer afterwards.
    fn read(&self, mut encoder: wgpu::CommandEncoder, from: &wgpu::Buffer, len: u64) -> Result<Vec<u8>, DeviceError> {
        encoder.copy_buffer_to_buffer(from, 0, &self.readback, 0, len);
        self.gpu.submit([encoder.finish()]);
        let slice = self.readback.slice(0..len);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        self.gpu.wait(None)?;
        let bytes = slice.get_mapped_range().map_err(|e| DeviceError::Lost(e.to_string()))?.to_vec();
        self.readback.unmap();
        Ok(bytes)
    }
}

fn whole(buffer: &wgpu::Buffer) -> Range<'_> {
    (buffer, 0, buffer.size())
}

/// What an argument of so many bytes takes among others: bindings begin at multiples of 256.
fn room(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(256)
}

impl Job {
    fn run(&self, pass: &mut wgpu::ComputePass, times: u32) {
        for _ in 0..times {
            for (pipeline, group, [x, y, z]) in &self.0 {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
        }
    }
}

/// How far two results are apart.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The largest of all elements' differences, and the largest element.
    most: f32,
    largest: f32,
    /// Products in each sum.
    depth: f64,
}

impl Difference {
    /// Whether another order of adding explains it: roundings grow with the root of how many there are. A product that is missing or
    /// wrong is off by more, and NaN by whatever it is.
    pub fn is_small(&self) -> bool {
        let bar = 5e-7 * self.depth.max(16.0).sqrt() * f64::from(self.largest);
        self.largest > 0.0 && self.largest.is_finite() && f64::from(self.most) <= bar
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is off by {:e} where the largest sum is {:e}", self.most, self.largest)
    }
}

fn shader(source: String, args: Vec<u32>, params: usize) -> Shader {
    let grid = Grid::Line(Count { of: vec![Word::Bits(WORKGROUPS)], per: 1 });
    Shader {
        source,
        parts: None,
        args,
        workgroup: [256, 1, 1],
        params: vec![Word::Bits(0); params],
        grid,
        shared_bytes: 0,
        wants_registers: false,
        scratch: None,
    }
}

/// Numbers from -0.5 to 0.5 by a hash of their place (PCG; O'Neill 2014).
fn fill_shader() -> Shader {
    let source = "
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params[0].x; i += groups.x * 256u) {
        let state = (i + params[0].y * 977u) * 747796405u + 2891336453u;
        let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
        x[i] = f32(((word >> 22u) ^ word) >> 8u) / 16777216.0 - 0.5;
    }
}";
    shader(source.to_string(), vec![0], 2)
}

/// The largest difference and the largest expected number, as bits: those of positive floats are ordered as they are, with NaN at the end. And 1
/// where two numbers differ in a bit.
fn compare_shader() -> Shader {
    let source = "
@group(0) @binding(0) var<storage, read_write> got: array<f32>;
@group(0) @binding(1) var<storage, read_write> expected: array<f32>;
@group(0) @binding(2) var<storage, read_write> verdict: array<atomic<u32>, 3>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var most = 0u;
    var largest = 0u;
    var differs = 0u;
    for (var i = id.x; i < params[0].x; i += groups.x * 256u) {
        most = max(most, bitcast<u32>(abs(got[i] - expected[i])));
        largest = max(largest, bitcast<u32>(abs(expected[i])));
        differs |= select(0u, 1u, bitcast<u32>(got[i]) != bitcast<u32>(expected[i]));
    }
    atomicMax(&verdict[0], most);
    atomicMax(&verdict[1], largest);
    atomicMax(&verdict[2], differs);
}";
    shader(source.to_string(), vec![0, 1, 2], 1)
}
