//! A plan on a device. Takes batches, gives submissions: one for each call, however many steps and kernels it has. Never waits for the device
//! but to read what was asked for, and to keep the queue short.

use crate::adapter::Gpu;
use crate::dispatch::Dispatches;
use crate::memory::{self, Memory, Place};
use std::collections::VecDeque;
use std::sync::Arc;
use wholestep_compiler::backend::{Counters, DeviceError, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::{DType, InputId, SlotId};
use wholestep_compiler::plan::{Layout, Plan};

pub struct WgpuExecutable {
    gpu: Arc<Gpu>,
    plan: Plan,
    layout: Layout,
    memory: Memory,
    dispatches: Dispatches,
    /// Batches of several steps, from which each step's is copied on the device.
    upload: Option<wgpu::Buffer>,
    /// Where values that are read come through.
    readback: Option<wgpu::Buffer>,
    /// Elements as the device stores them, where that differs from the host.
    words: Vec<u32>,
    bound_batch: Option<usize>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    counters: Counters,
    /// Buffers taken beside memory and dispatches, and their bytes.
    extra: (u64, u64),
    profiler: Option<Profiler>,
    times: Vec<u64>,
    profiled_steps: u64,
}

/// Submissions that may wait in the queue: enough that the device never waits for the host.
const MAX_IN_FLIGHT: usize = 4;

/// A clock for each dispatch.
struct Profiler {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

impl WgpuExecutable {
    pub fn new(gpu: Arc<Gpu>, plan: &Plan, layout: &Layout) -> Result<WgpuExecutable, DeviceError> {
        let memory = Memory::new(&gpu, plan, layout)?;
        let dispatches = Dispatches::new(&gpu, plan, layout, &memory)?;
        let n_launches = plan.launches().len();
        let mut exe = WgpuExecutable {
            gpu,
            plan: plan.clone(),
            layout: layout.clone(),
            memory,
            dispatches,
            upload: None,
            readback: None,
            words: Vec::new(),
            bound_batch: None,
            in_flight: VecDeque::with_capacity(MAX_IN_FLIGHT + 1),
            counters: Counters::default(),
            extra: (0, 0),
            profiler: None,
            times: vec![0; n_launches],
            profiled_steps: 0,
        };
        exe.counters.compiles = exe.dispatches.pipelines.len() as u64;
        exe.counters.allocations = exe.memory.allocations + exe.dispatches.held().1;
        exe.count_bytes();
        Ok(exe)
    }

    fn count_bytes(&mut self) {
        self.counters.allocated_bytes = self.memory.bytes + self.dispatches.held().0 + self.extra.1;
    }

    fn take(
        &mut self,
        old: u64,
        bytes: u64,
        usage: wgpu::BufferUsages,
        what: &str,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let buffer = memory::buffer(&self.gpu, bytes, usage, what)?;
        self.extra = (self.extra.0 + 1, self.extra.1 - old + buffer.size());
        self.counters.allocations += 1;
        self.count_bytes();
        Ok(buffer)
    }

    fn check_inputs(&self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        if batch > self.layout.max_batch {
            let most = self.layout.max_batch;
            return Err(DeviceError::Unsupported(format!(
                "a batch of {batch}: it was laid out for {most}; grow it first"
            )));
        }
        for (i, input) in self.plan.inputs.iter().enumerate() {
            let expected_bytes = steps * input.shape.numel_at(batch) * input.dtype.size_bytes();
            let got_bytes = inputs.get(i).map_or(0, |b| b.len());
            if got_bytes != expected_bytes {
                return Err(DeviceError::InputLength { input: InputId(i as u32), expected_bytes, got_bytes });
            }
        }
        Ok(())
    }

    fn set_batch(&mut self, batch: usize) -> Result<(), DeviceError> {
        if self.bound_batch != Some(batch) {
            self.bound_batch = None;
            self.dispatches.set_batch(&self.gpu, batch)?;
            self.bound_batch = Some(batch);
        }
        Ok(())
    }

    /// Bytes of one batch of input `i` on the device.
    fn batch_bytes(&self, i: usize, batch: usize) -> u64 {
        let input = &self.plan.inputs[i];
        (input.shape.numel_at(batch) * self.gpu.caps.stored_bytes(input.dtype)) as u64
    }

    /// Sends the batches: one straight to where kernels read it, several to where each step copies its own from.
    fn send(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        let lens: Vec<u64> = (0..inputs.len()).map(|i| self.batch_bytes(i, batch)).collect();
        if steps > 1 {
            let all = lens.iter().sum::<u64>() * steps as u64;
            let old = self.upload.as_ref().map_or(0, wgpu::Buffer::size);
            if old < all {
                let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
                self.upload = Some(self.take(old, all, usage, "the batches of several steps")?);
            }
        }
        let mut at = 0;
        for (i, bytes) in inputs.iter().enumerate().filter(|(_, b)| !b.is_empty()) {
            let input = &self.plan.inputs[i];
            let bytes = stored(bytes, input.dtype, &self.gpu.caps, &mut self.words, &input.name)?;
            match &self.upload {
                Some(upload) if steps > 1 => self.gpu.queue.write_buffer(upload, at, bytes),
                _ => self.gpu.queue.write_buffer(&self.memory.inputs[i], 0, bytes),
            }
            at += bytes.len() as u64;
            self.counters.bytes_staged += bytes.len() as u64;
        }
        Ok(())
    }

    /// Encodes one step; `copy` says which of several batches it takes.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, batch: usize, steps: usize, step: usize) {
        if let (Some(upload), true) = (&self.upload, steps > 1) {
            let mut at = 0;
            for i in 0..self.plan.inputs.len() {
                let len = self.batch_bytes(i, batch);
                encoder.copy_buffer_to_buffer(upload, at + step as u64 * len, &self.memory.inputs[i], 0, len);
                at += steps as u64 * len;
            }
        }
        if let Some(profiler) = &self.profiler {
            for (i, _) in self.dispatches.list.iter().enumerate() {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set: &profiler.queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                };
                let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
                let mut pass = encoder.begin_compute_pass(&descriptor);
                self.dispatch(&mut pass, i..i + 1);
            }
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.dispatch(&mut pass, 0..self.dispatches.list.len());
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass, range: std::ops::Range<usize>) {
        let mut set = None;
        for d in &self.dispatches.list[range] {
            if d.grid.contains(&0) {
                continue;
            }
            if set != Some(d.pipeline) {
                pass.set_pipeline(&self.dispatches.pipelines[d.pipeline]);
                set = Some(d.pipeline);
            }
            pass.set_bind_group(0, &d.bind_group, &[]);
            pass.dispatch_workgroups(d.grid[0], d.grid[1], d.grid[2]);
        }
    }

    /// Reads the clocks of the step that was submitted last.
    fn read_clocks(&mut self) -> Result<(), DeviceError> {
        let (Some(profiler), Some(tick_ns)) = (&self.profiler, self.gpu.tick_ns) else { return Ok(()) };
        let n = 2 * self.dispatches.list.len() as u32;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(&profiler.queries, 0..n, &profiler.resolved, 0);
        self.gpu.queue.submit([encoder.finish()]);
        let from = profiler.resolved.clone();
        let mut bytes = vec![0; 8 * n as usize];
        self.copy_out(&from, 0, &mut bytes)?;
        let ticks: Vec<u64> = bytes.as_chunks().0.iter().map(|b| u64::from_ne_bytes(*b)).collect();
        for (d, t) in self.dispatches.list.iter().zip(ticks.as_chunks::<2>().0) {
            self.times[d.launch] += (t[1].saturating_sub(t[0]) as f64 * f64::from(tick_ns)) as u64;
        }
        self.profiled_steps += 1;
        Ok(())
    }

    /// Copies `bytes.len()` bytes of a buffer to the host, after all submitted work.
    fn copy_out(&mut self, from: &wgpu::Buffer, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = (bytes.len() as u64).next_multiple_of(4);
        let old = self.readback.as_ref().map_or(0, wgpu::Buffer::size);
        if old < len {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            self.readback = Some(self.take(old, len, usage, "reading a value")?);
        }
        let Some(to) = &self.readback else { return Ok(()) };
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from, offset, to, 0, len);
        self.gpu.queue.submit([encoder.finish()]);
        let slice = to.slice(0..len);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        self.gpu.wait(None)?;
        self.in_flight.clear();
        let mapped = slice.get_mapped_range().map_err(|e| DeviceError::Lost(e.to_string()))?;
        bytes.copy_from_slice(&mapped[..bytes.len()]);
        drop(mapped);
        to.unmap();
        Ok(())
    }

    /// Reads a value at `place` as elements of `dtype`.
    fn read(&mut self, place: Place, dtype: DType, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let from = self.memory.buffer(place.piece).clone();
        let stored = self.gpu.caps.stored_bytes(dtype);
        self.counters.bytes_read_back += bytes.len() as u64;
        if stored == dtype.size_bytes() {
            return self.copy_out(&from, place.offset, bytes);
        }
        let size = dtype.size_bytes();
        let mut words = vec![0; bytes.len() / size * stored];
        self.copy_out(&from, place.offset, &mut words)?;
        // Hosts that wgpu runs on are little-endian.
        for (element, word) in bytes.chunks_mut(size).zip(words.as_chunks::<4>().0) {
            let value = i64::from(i32::from_le_bytes(*word));
            element.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        Ok(())
    }

    fn check_slot(&self, slot: SlotId, len: usize) -> Result<DType, DeviceError> {
        let Some(s) = self.plan.slots.get(slot.0 as usize) else {
            return Err(DeviceError::Unsupported(format!("slot {}: the plan has {}", slot.0, self.plan.slots.len())));
        };
        let bytes = s.shape.numel_at(0) * s.dtype.size_bytes();
        if len != bytes {
            return Err(DeviceError::Unsupported(format!("{len} bytes for slot {}, which has {bytes}", s.name)));
        }
        Ok(s.dtype)
    }
}

/// Elements as the device stores them: bytes become words, and `i64` becomes `i32`.
/// Errors: an `i64` that does not fit.
fn stored<'a>(
    bytes: &'a [u8],
    dtype: DType,
    caps: &Caps,
    words: &'a mut Vec<u32>,
    name: &str,
) -> Result<&'a [u8], DeviceError> {
    if caps.stored_bytes(dtype) == dtype.size_bytes() {
        return Ok(bytes);
    }
    words.clear();
    if dtype == DType::I64 {
        for (i, b) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let value = i64::from_le_bytes(*b);
            let Ok(small) = i32::try_from(value) else {
                return Err(DeviceError::Unsupported(format!(
                    "{name}: element {i} is {value}, and {} keeps i64 in 32 bits",
                    caps.name
                )));
            };
            words.push(small as u32);
        }
    } else {
        words.extend(bytes.iter().map(|&b| u32::from(b)));
    }
    Ok(bytemuck::cast_slice(words))
}

impl Executable for WgpuExecutable {
    fn run(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        self.check_inputs(batch, steps, inputs)?;
        self.set_batch(batch)?;
        self.send(batch, steps, inputs)?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for step in 0..steps {
            self.encode(&mut encoder, batch, steps, step);
        }
        let submission = self.gpu.queue.submit([encoder.finish()]);
        self.counters.submissions += 1;
        self.counters.steps += steps as u64;
        self.in_flight.push_back(submission);
        if self.in_flight.len() > MAX_IN_FLIGHT {
            let oldest = self.in_flight.pop_front();
            self.gpu.wait(oldest)?;
        }
        if self.profiler.is_some() && steps > 0 {
            self.read_clocks()?;
        }
        self.gpu.check()
    }

    fn grow(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        self.gpu.wait(None)?;
        let before = self.memory.allocations;
        self.layout = layout.clone();
        self.bound_batch = None;
        self.memory.make_room(&self.gpu, &self.plan, layout)?;
        self.dispatches.rebind(&self.gpu, &self.plan, layout, &self.memory)?;
        self.counters.allocations += self.memory.allocations - before + self.dispatches.held().1;
        self.count_bytes();
        Ok(())
    }

    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError> {
        let dtype = self.check_slot(slot, bytes.len())?;
        let place = self.memory.slot(slot);
        let to = self.memory.buffer(place.piece);
        if bytes.is_empty() {
            return Ok(());
        }
        let name = &self.plan.slots[slot.0 as usize].name;
        let words = stored(bytes, dtype, &self.gpu.caps, &mut self.words, name)?;
        self.gpu.queue.write_buffer(to, place.offset, words);
        self.counters.bytes_staged += bytes.len() as u64;
        self.gpu.check()
    }

    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let dtype = self.check_slot(slot, bytes.len())?;
        self.read(self.memory.slot(slot), dtype, bytes)
    }

    fn read_output(&mut self, index: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (Some(output), Some(batch)) = (self.plan.outputs.get(index), self.bound_batch) else {
            return Err(DeviceError::Unsupported(format!("output {index}: no step ran or the plan has fewer outputs")));
        };
        let len = output.shape.numel_at(batch) * output.dtype.size_bytes();
        if bytes.len() != len {
            let got = bytes.len();
            return Err(DeviceError::Unsupported(format!("{got} bytes for output {}, which has {len}", output.name)));
        }
        let (dtype, place) = (output.dtype, self.memory.place(&self.plan, &self.layout, output.buffer));
        self.read(place, dtype, bytes)
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn set_profiling(&mut self, on: bool) {
        self.times.fill(0);
        self.profiled_steps = 0;
        self.profiler = None;
        let n = 2 * self.dispatches.list.len() as u32;
        if !on || n == 0 || n > wgpu::QUERY_SET_MAX_QUERIES || self.gpu.tick_ns.is_none() {
            return;
        }
        let queries = self.gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: n,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = memory::buffer(&self.gpu, 8 * u64::from(n), usage, "clocks");
        self.profiler = resolved.ok().map(|resolved| Profiler { queries, resolved });
    }

    fn profile(&self) -> (Vec<u64>, u64) {
        (self.times.clone(), self.profiled_steps)
    }
}
