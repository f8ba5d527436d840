//! A plan on a device. Takes batches, gives submissions: one for each call, however many steps and kernels it has. Never waits for the device
//! but to read what was asked for, and to keep the queue short.

use crate::adapter::Gpu;
use crate::copy::{At, copy};
use crate::dispatch::{Dispatches, MAX_MOVING};
use crate::gate::Call;
use crate::memory::{self, Memory, Place};
use crate::share::Shared;
use crate::staging::{Answers, InFlight, Ring, TURNS};
use crate::transfer::{self, ReadBack, stored, widen};
use std::collections::BTreeMap;
use std::sync::Arc;
use wholestep_compiler::backend::{
    Choices, Counters, DeviceError, Executable, SlotAddress, check_inputs, check_output, check_slot,
};
use wholestep_compiler::ir::{DType, SlotId};
use wholestep_compiler::plan::{Layout, Plan, verify};

pub struct WgpuExecutable {
    gpu: Arc<Gpu>,
    plan: Plan,
    layout: Layout,
    memory: Memory,
    shared: Shared,
    dispatches: Dispatches,
    ring: Ring,
    answers: Answers,
    /// Where values that are read come through.
    readback: ReadBack,
    /// Elements as the device stores them, where that differs from the host.
    words: Vec<u32>,
    bound_batch: Option<usize>,
    in_flight: InFlight<wgpu::SubmissionIndex>,
    /// The next submission, encoded while the device works on the last one, if it is what that was.
    ahead: Option<(Form, wgpu::CommandBuffer)>,
    counters: Counters,
    /// Bytes of buffers beside memory and dispatches.
    extra: u64,
    profiler: Option<Profiler>,
    times: Vec<u64>,
    profiled_steps: u64,
}

/// Steps of one dispatch: systems end those that take longer than a second or two.
const MOST_REPEATS: u64 = 1024;

/// What the commands of a submission depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    batch: usize,
    steps: usize,
    /// Whether the batches come through the ring.
    from_ring: bool,
    /// Outputs that are copied out, as bits.
    answers: u64,
}

/// Batches of more bytes go the way of the queue, which takes memory for each and gives it back.
const RING_BYTES: u64 = 16 << 20;
/// Batches that one submission may have on the device, in bytes; with more, it is several.
const BLOCKS_BYTES: u64 = 256 << 20;

/// A clock for each dispatch.
struct Profiler {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

impl WgpuExecutable {
    pub fn new(
        gpu: Arc<Gpu>,
        plan: &Plan,
        layout: &Layout,
        is_apart: bool,
        choices: &BTreeMap<String, String>,
    ) -> Result<WgpuExecutable, DeviceError> {
        // Shaders run without bounds checks, so a plan from wherever is not taken at its word.
        verify(plan).map_err(|fault| DeviceError::Unsupported(format!("a plan that is not sound: {fault}")))?;
        let memory = Memory::new(&gpu, plan, layout)?;
        let shared = Shared::new(&gpu, &memory, plan.slots.len());
        let dispatches = Dispatches::new(&gpu, plan, layout, &memory, is_apart, choices)?;
        let answers = Answers::new(&gpu, plan, layout)?;
        let n_launches = plan.launches().len();
        let mut exe = WgpuExecutable {
            gpu,
            plan: plan.clone(),
            layout: layout.clone(),
            memory,
            shared,
            dispatches,
            ring: Ring::empty(),
            answers,
            readback: ReadBack::default(),
            words: Vec::new(),
            bound_batch: None,
            in_flight: InFlight::empty(),
            ahead: None,
            counters: Counters::default(),
            extra: 0,
            profiler: None,
            times: vec![0; n_launches],
            profiled_steps: 0,
        };
        exe.counters.compiles = exe.dispatches.pipelines.len() as u64;
        exe.counters.dispatches = exe.dispatches.list.len() as u64;
        exe.counters.timings = exe.dispatches.chosen.timings;
        exe.extra = exe.answers.held_bytes();
        exe.counters.allocations = exe.memory.allocations + exe.dispatches.held().1 + u64::from(exe.extra > 0);
        exe.count_bytes();
        Ok(exe)
    }

    fn count_bytes(&mut self) {
        self.counters.allocated_bytes = self.memory.bytes + self.dispatches.held().0 + self.extra;
    }

    fn count_taken(&mut self, buffers: u64, old_bytes: u64, bytes: u64) {
        self.extra = self.extra - old_bytes + bytes;
        self.counters.allocations += buffers;
        self.count_bytes();
    }

    fn set_batch(&mut self, batch: usize) -> Result<(), DeviceError> {
        if self.bound_batch != Some(batch) {
            self.bound_batch = None;
            self.dispatches.set_batch(&self.gpu, &self.memory, batch)?;
            self.bound_batch = Some(batch);
        }
        Ok(())
    }

    /// Memory for batches up to the layout's largest, and dispatches that are bound to it.
    fn lay_out(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        self.layout = layout.clone();
        self.bound_batch = None;
        let before = self.memory.allocations;
        self.memory.make_room(&self.gpu, &self.plan, layout)?;
        self.counters.compiles += self.dispatches.rebind(&self.gpu, &self.plan, layout, &self.memory)?;
        self.counters.dispatches = self.dispatches.list.len() as u64;
        self.counters.allocations += self.memory.allocations - before + self.dispatches.held().1;
        let old = self.answers.held_bytes();
        self.answers = Answers::new(&self.gpu, &self.plan, layout)?;
        self.count_taken(u64::from(self.answers.held_bytes() > 0), old, self.answers.held_bytes());
        Ok(())
    }

    /// The most steps that one submission can have.
    fn most_steps(&self) -> usize {
        let block = self.memory.block_bytes.max(1);
        let mut bytes = BLOCKS_BYTES.min(self.gpu.limits.max_buffer_size).min(u64::from(u32::MAX));
        if self.dispatches.repeats() {
            bytes = bytes.min(self.gpu.limits.max_storage_buffer_binding_size).min(MOST_REPEATS * block);
        }
        if self.dispatches.is_fixed { 1 } else { ((bytes / block) as usize).max(1) }
    }

    /// Room on the device for the batches of so many steps.
    fn make_blocks(&mut self, steps: usize) -> Result<(), DeviceError> {
        if self.memory.has_blocks(steps) {
            return Ok(());
        }
        self.ahead = None;
        let before = self.memory.allocations;
        self.memory.make_blocks(&self.gpu, steps)?;
        self.dispatches.rebind_inputs(&self.gpu, &self.memory);
        self.counters.allocations += self.memory.allocations - before;
        self.count_bytes();
        self.gpu.check()
    }

    /// Sends the batches; gives whether they go through the ring.
    fn send(&mut self, steps: usize, inputs: &[&[u8]]) -> Result<bool, DeviceError> {
        let block = self.memory.block_bytes;
        let all = block * steps as u64;
        let from_ring = all > 0 && all <= RING_BYTES;
        if from_ring && self.ring.bytes() < all {
            let old = self.ring.bytes();
            self.ring = Ring::make(&self.gpu, all)?;
            self.ahead = None;
            self.count_taken(TURNS as u64, TURNS as u64 * old, TURNS as u64 * self.ring.bytes());
        }
        let mut view = if from_ring { Some(self.ring.view(all)?) } else { None };
        for (i, bytes) in inputs.iter().enumerate().filter(|(_, b)| !b.is_empty()) {
            let input = &self.plan.inputs[i];
            let bytes = stored(bytes, input.dtype, &self.gpu.caps, &mut self.words, &input.name)?;
            for (step, part) in bytes.chunks_exact(bytes.len() / steps).enumerate() {
                let at = step as u64 * block + self.memory.input_offset(i);
                match &mut view {
                    Some(view) => view.slice(at as usize..at as usize + part.len()).copy_from_slice(part),
                    None => transfer::write(&self.gpu, &self.memory.inputs, at, part)?,
                }
            }
            self.counters.bytes_staged += bytes.len() as u64;
        }
        drop(view);
        if from_ring {
            self.ring.hand_over();
        }
        Ok(from_ring)
    }

    /// One submission.
    fn submit(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        self.make_blocks(steps)?;
        self.in_flight.make_room(|oldest| self.gpu.wait(Some(oldest)))?;
        if self.dispatches.repeats() {
            self.dispatches.set_steps(&self.gpu, steps);
        }
        let from_ring = self.send(steps, inputs)?;
        let form = Form { batch, steps, from_ring, answers: self.answers.asked };
        self.answers.begin(form.answers);
        let submission = match self.ahead.take() {
            Some((encoded, commands)) if encoded == form => self.gpu.submit([commands]),
            _ if self.profiler.is_some() => self.submit_timed(form)?,
            _ => self.gpu.submit([self.encode(form)]),
        };
        if from_ring {
            self.ring.next();
        }
        self.in_flight.push(submission);
        self.counters.submissions += 1;
        self.counters.steps += steps as u64;
        if self.profiler.is_none() {
            self.ahead = Some((form, self.encode(form)));
        }
        self.gpu.check()
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// The commands of a submission.
    fn encode(&self, form: Form) -> wgpu::CommandBuffer {
        let mut encoder = self.encoder();
        self.take_inputs(&mut encoder, form);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for step in 0..self.rounds(form) {
            self.call(&mut pass, &self.dispatches.gates.calls, step as u64 * self.memory.block_bytes);
        }
        drop(pass);
        self.give_answers(&mut encoder, form);
        encoder.finish()
    }

    /// How often a submission goes through all calls.
    fn rounds(&self, form: Form) -> usize {
        if self.dispatches.repeats() { 1 } else { form.steps }
    }

    fn take_inputs(&self, encoder: &mut wgpu::CommandEncoder, form: Form) {
        if form.from_ring {
            let bytes = self.memory.block_bytes * form.steps as u64;
            encoder.copy_buffer_to_buffer(self.ring.buffer(), 0, &self.memory.inputs, 0, bytes);
        }
    }

    fn give_answers(&self, encoder: &mut wgpu::CommandEncoder, form: Form) {
        for (i, to, at) in self.answers.copies(form.answers) {
            let output = &self.plan.outputs[i];
            let place = self.memory.place(&self.plan, &self.layout, output.buffer);
            let bytes = output.shape.numel_at(form.batch) * self.gpu.caps.stored_bytes(output.dtype);
            let bytes = (bytes as u64).next_multiple_of(4);
            encoder.copy_buffer_to_buffer(self.memory.buffer(place.piece), place.offset, to, at, bytes);
        }
    }

    /// Encodes calls; the inputs of the step begin at `inputs_at`.
    fn call(&self, pass: &mut wgpu::ComputePass, calls: &[Call], inputs_at: u64) {
        let mut set = None;
        // What `most_steps` allows fits.
        let moved = [inputs_at as u32; MAX_MOVING];
        let gates = &self.dispatches.gates;
        for &call in calls {
            let (Call::Dispatch(number) | Call::Within(number)) = call else {
                if let Call::Gate(gate) = call {
                    gates.ask(pass, gate);
                }
                set = None;
                continue;
            };
            let d = &self.dispatches.list[number];
            if d.grid.contains(&0) {
                continue;
            }
            if set != Some(d.pipeline) {
                pass.set_pipeline(&self.dispatches.pipelines[d.pipeline]);
                set = Some(d.pipeline);
            }
            pass.set_bind_group(0, &d.bind_group, &moved[..d.n_moving]);
            match call {
                Call::Within(_) => gates.dispatch(pass, number),
                Call::Dispatch(_) | Call::Gate(_) => pass.dispatch_workgroups(d.grid[0], d.grid[1], d.grid[2]),
            }
        }
    }

    /// A submission in parts, each of as many calls as there are clocks for, and reads those after each.
    fn submit_timed(&mut self, form: Form) -> Result<wgpu::SubmissionIndex, DeviceError> {
        let mut encoder = self.encoder();
        self.take_inputs(&mut encoder, form);
        self.gpu.submit([encoder.finish()]);
        let rounds = self.rounds(form);
        let (calls, n) = (self.dispatches.gates.calls.clone(), self.dispatches.list.len());
        for step in 0..rounds {
            for part in calls.chunks(n) {
                self.time(part, step as u64 * self.memory.block_bytes)?;
            }
        }
        self.profiled_steps += form.steps as u64;
        let mut encoder = self.encoder();
        self.give_answers(&mut encoder, form);
        Ok(self.gpu.submit([encoder.finish()]))
    }

    /// Runs calls, in a pass each so that each has its clocks, and adds up what they took.
    fn time(&mut self, calls: &[Call], inputs_at: u64) -> Result<(), DeviceError> {
        let (Some(profiler), Some(tick_ns)) = (&self.profiler, self.gpu.tick_ns) else { return Ok(()) };
        let mut encoder = self.encoder();
        for (i, call) in calls.iter().enumerate() {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &profiler.queries,
                beginning_of_pass_write_index: Some(2 * i as u32),
                end_of_pass_write_index: Some(2 * i as u32 + 1),
            };
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            self.call(&mut pass, std::slice::from_ref(call), inputs_at);
        }
        let n = 2 * calls.len() as u32;
        encoder.resolve_query_set(&profiler.queries, 0..n, &profiler.resolved, 0);
        let from = profiler.resolved.clone();
        self.gpu.submit([encoder.finish()]);
        let mut bytes = vec![0; 8 * n as usize];
        self.copy_out(&from, 0, &mut bytes)?;
        let ticks: Vec<u64> = bytes.as_chunks().0.iter().map(|b| u64::from_ne_bytes(*b)).collect();
        for (call, t) in calls.iter().zip(ticks.as_chunks::<2>().0) {
            let (Call::Dispatch(number) | Call::Within(number)) = *call else { continue };
            let ns = t[1].saturating_sub(t[0]) as f64 * f64::from(tick_ns);
            let launches = &self.dispatches.list[number].launches;
            launches.iter().for_each(|&(launch, share)| self.times[launch] += (share * ns) as u64);
        }
        Ok(())
    }

    /// Copies `bytes.len()` bytes of a buffer to the host, after all submitted work.
    fn copy_out(&mut self, from: &wgpu::Buffer, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (buffers, old_bytes, now_bytes) = self.readback.make_room(&self.gpu, bytes.len())?;
        self.count_taken(buffers, old_bytes, now_bytes);
        self.readback.read(&self.gpu, from, offset, bytes)?;
        self.in_flight.clear();
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
        let mut words = vec![0; bytes.len() / dtype.size_bytes() * stored];
        self.copy_out(&from, place.offset, &mut words)?;
        widen(&words, dtype, bytes);
        Ok(())
    }
}

impl Executable for WgpuExecutable {
    fn run(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        check_inputs(&self.plan, &self.layout, batch, steps, inputs)?;
        self.set_batch(batch)?;
        let most = self.most_steps();
        if steps <= most {
            return if steps == 0 { Ok(()) } else { self.submit(batch, steps, inputs) };
        }
        for begin in (0..steps).step_by(most) {
            let end = steps.min(begin + most);
            let part = |all: &&[u8]| all.len() / steps * begin..all.len() / steps * end;
            let inputs: Vec<&[u8]> = inputs.iter().map(|all| &all[part(all)]).collect();
            self.submit(batch, end - begin, &inputs)?;
        }
        Ok(())
    }

    fn grow(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        self.gpu.wait(None)?;
        self.in_flight.clear();
        self.ahead = None;
        let before = self.layout.clone();
        let grown = self.lay_out(layout);
        if grown.is_err() {
            // What there was room for is there again: the device's memory was given back first.
            self.lay_out(&before)?;
        }
        grown
    }

    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError> {
        let dtype = check_slot(&self.plan, slot, bytes.len())?.dtype;
        let place = self.memory.slot(slot);
        let to = self.memory.buffer(place.piece);
        if bytes.is_empty() {
            return Ok(());
        }
        let name = &self.plan.slots[slot.0 as usize].name;
        let words = stored(bytes, dtype, &self.gpu.caps, &mut self.words, name)?;
        transfer::write(&self.gpu, to, place.offset, words)?;
        // An output may be what was written over.
        self.answers.copied = 0;
        self.counters.bytes_staged += bytes.len() as u64;
        self.gpu.check()
    }

    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let dtype = check_slot(&self.plan, slot, bytes.len())?.dtype;
        self.read(self.memory.slot(slot), dtype, bytes)
    }

    fn read_output(&mut self, index: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let output = check_output(&self.plan, index, self.bound_batch, bytes.len())?;
        let (dtype, place) = (output.dtype, self.memory.place(&self.plan, &self.layout, output.buffer));
        self.answers.ask(index);
        let in_words = self.gpu.caps.stored_bytes(dtype) != dtype.size_bytes();
        let stored_len = bytes.len() / dtype.size_bytes() * self.gpu.caps.stored_bytes(dtype);
        let last = self.in_flight.last().cloned();
        let Some(found) = self.answers.fetch(index, stored_len, || self.gpu.wait(last))? else {
            return self.read(place, dtype, bytes);
        };
        if in_words {
            widen(found, dtype, bytes);
        } else {
            bytes.copy_from_slice(found);
        }
        self.counters.bytes_read_back += bytes.len() as u64;
        self.in_flight.clear();
        Ok(())
    }

    fn slot_address(&self, slot: SlotId) -> Option<SlotAddress> {
        ((slot.0 as usize) < self.plan.slots.len()).then(|| self.shared.address(slot))
    }

    fn copy_slot(&mut self, slot: SlotId, from: SlotAddress) -> Result<bool, DeviceError> {
        if slot.0 as usize >= self.plan.slots.len() {
            return Err(DeviceError::Unsupported(format!("slot {}: the plan has {}", slot.0, self.plan.slots.len())));
        }
        let place = self.memory.slot(slot);
        let Some(held) = self.shared.source(from, place.bytes) else { return Ok(false) };
        let to = self.memory.buffer(place.piece);
        let places = [At { buffer: &held.buffer, offset: held.offset }, At { buffer: to, offset: place.offset }];
        self.gpu.submit([copy(&self.gpu, places, place.bytes)]);
        // An output may be what was written over.
        self.answers.copied = 0;
        self.gpu.check()?;
        Ok(true)
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn choices(&self) -> Choices {
        self.dispatches.chosen.choices.clone()
    }

    fn set_profiling(&mut self, on: bool) {
        self.times.fill(0);
        self.profiled_steps = 0;
        self.profiler = None;
        self.ahead = None;
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
