//! Loops whose end is decided on the device. Takes dispatches and the loops around them, gives calls in order: a loop is written out to its bound, and
//! before each trip a gate reads the predicate and says how many workgroups the dispatches of the trip have, which is none once it is over. Never
//! waits for the host, and never ends a loop that goes on.

use crate::adapter::Gpu;
use crate::memory::{self, Memory, Place};
use crate::pipeline::{bind_group_layout, entry, pipeline};
use std::ops::Range;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::{Count, Grid, Shader, Word};
use wholestep_compiler::plan::BufferId;

/// Dispatches in order, by number, and the loops around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guarded {
    Dispatch(usize),
    Loop { max_trips: u32, predicate: BufferId, dispatches: Range<usize>, body: Vec<Guarded> },
}

/// One call of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A dispatch by its number.
    Dispatch(usize),
    /// One in a loop, whose number of workgroups a gate has written.
    Within(usize),
    /// A gate by its number.
    Gate(usize),
}

/// The gates of a step.
#[derive(Default)]
pub struct Gates {
    pub calls: Vec<Call>,
    device: Option<OnDevice>,
}

struct OnDevice {
    pipeline: wgpu::ComputePipeline,
    /// By gate.
    bind_groups: Vec<wgpu::BindGroup>,
    /// Whether each loop goes on, then the workgroups of each dispatch in this trip.
    counts: wgpu::Buffer,
    /// The same words, with the workgroups of a trip that there is.
    grids: wgpu::Buffer,
    params: wgpu::Buffer,
}

/// A loop and what its gate has to know.
struct Gate {
    predicate: BufferId,
    parent: Option<usize>,
    dispatches: Range<usize>,
}

/// The most calls of a step: more take longer to write down than anyone waits.
const MOST_CALLS: usize = 1 << 18;
/// Words of a gate's parameters, in as many as the offset of a binding is a multiple of.
const PARAMS: usize = 64;
/// In place of a parent that there is not.
const NONE: u32 = u32::MAX;

const TEXT: &str = "\
@group(0) @binding(0) var<storage, read_write> predicate: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> grids: array<u32>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) local: u32) {
  let own = params[0].x;
  let parent = params[0].y;
  var goes_on = predicate[0] != 0u;
  if (parent != 0xffffffffu) { goes_on = goes_on && counts[parent] != 0u; }
  if (local == 0u) { counts[own] = select(0u, 1u, goes_on); }
  for (var i = params[0].z + local; i < params[0].w; i += 64u) { counts[i] = select(0u, grids[i], goes_on); }
}
";

impl Gates {
    /// Errors: loops with more trips than can be written out.
    pub fn new(
        gpu: &Gpu,
        memory: &Memory,
        place: &dyn Fn(BufferId) -> Place,
        steps: &[Guarded],
        n_dispatches: usize,
    ) -> Result<Gates, DeviceError> {
        let (mut calls, mut gates) = (Vec::new(), Vec::new());
        let fits = write_out(steps, None, &mut gates, &mut calls);
        if !fits {
            let what = format!("a step of more than {MOST_CALLS} dispatches, to which its loops are written out");
            return Err(DeviceError::Unsupported(what));
        }
        if gates.is_empty() {
            return Ok(Gates { calls, device: None });
        }
        let shader = shader();
        let layout = bind_group_layout(gpu, &shader, &[]);
        let bytes = 4 * count_at(gates.len(), n_dispatches) as u64;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::INDIRECT;
        let counts = memory::buffer(gpu, bytes, usage, "workgroups of dispatches in loops")?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let grids = memory::buffer(gpu, bytes, usage, "workgroups of dispatches in loops")?;
        let mut words = vec![0u32; PARAMS * gates.len()];
        for (own, (gate, words)) in gates.iter().zip(words.chunks_mut(PARAMS)).enumerate() {
            let at = |i| count_at(gates.len(), i) as u32;
            let parent = gate.parent.map_or(NONE, |parent| parent as u32);
            words[..4].copy_from_slice(&[own as u32, parent, at(gate.dispatches.start), at(gate.dispatches.end)]);
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = memory::buffer(gpu, 4 * words.len() as u64, usage, "parameters of loops")?;
        gpu.queue.write_buffer(&params, 0, bytemuck::cast_slice(&words));
        let bind = |(i, gate): (usize, &Gate)| {
            let at = place(gate.predicate);
            let entries = [
                entry(0, memory.buffer(at.piece), at.offset, 16),
                entry(1, &counts, 0, counts.size()),
                entry(2, &grids, 0, grids.size()),
                entry(Shader::PARAMS, &params, (4 * PARAMS * i) as u64, 16),
            ];
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        };
        let bind_groups = gates.iter().enumerate().map(bind).collect();
        let pipeline = pipeline(gpu, &shader, &layout, gpu.pipelines.as_ref());
        Ok(Gates { calls, device: Some(OnDevice { pipeline, bind_groups, counts, grids, params }) })
    }

    /// Tells the gates how many workgroups each dispatch has.
    pub fn set_grids(&self, gpu: &Gpu, grids: impl Iterator<Item = [u32; 3]>) {
        if let Some(d) = &self.device {
            let words: Vec<u32> = grids.flatten().collect();
            gpu.queue.write_buffer(&d.grids, 4 * count_at(d.bind_groups.len(), 0) as u64, bytemuck::cast_slice(&words));
        }
    }

    /// Puts a gate into a pass.
    pub fn ask(&self, pass: &mut wgpu::ComputePass, gate: usize) {
        let d = self.device.as_ref().expect("bug: a gate without a loop");
        pass.set_pipeline(&d.pipeline);
        pass.set_bind_group(0, &d.bind_groups[gate], &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }

    /// Puts a dispatch, which is bound, into a pass with as many workgroups as its gate has said.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass, number: usize) {
        let d = self.device.as_ref().expect("bug: a loop without a gate");
        pass.dispatch_workgroups_indirect(&d.counts, 4 * count_at(d.bind_groups.len(), number) as u64);
    }

    /// What it holds.
    pub fn buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.device.iter().flat_map(|d| [&d.counts, &d.grids, &d.params])
    }
}

/// The word at which the workgroups of a dispatch begin.
fn count_at(n_gates: usize, dispatch: usize) -> usize {
    n_gates + 3 * dispatch
}

fn shader() -> Shader {
    Shader {
        source: TEXT.to_string(),
        parts: None,
        args: vec![0, 1, 2],
        workgroup: [64, 1, 1],
        params: vec![Word::Bits(0); 4],
        grid: Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }),
        shared_bytes: 0,
        wants_registers: false,
        scratch: None,
    }
}

/// Writes calls out; whether they are few enough.
fn write_out(steps: &[Guarded], parent: Option<usize>, gates: &mut Vec<Gate>, calls: &mut Vec<Call>) -> bool {
    steps.iter().all(|step| match step {
        Guarded::Dispatch(i) => {
            calls.push(if parent.is_some() { Call::Within(*i) } else { Call::Dispatch(*i) });
            calls.len() <= MOST_CALLS
        }
        Guarded::Loop { max_trips, predicate, dispatches, body } => {
            let own = gates.len();
            gates.push(Gate { predicate: *predicate, parent, dispatches: dispatches.clone() });
            let begin = calls.len();
            calls.push(Call::Gate(own));
            if !write_out(body, Some(own), gates, calls) {
                return false;
            }
            let trip = begin..calls.len();
            let all = trip.len().saturating_mul(*max_trips as usize);
            if begin.saturating_add(all) > MOST_CALLS {
                return false;
            }
            (1..*max_trips).for_each(|_| calls.extend_from_within(trip.clone()));
            true
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Call, Guarded, write_out};
    use wholestep_compiler::plan::BufferId;

    fn looped(max_trips: u32, dispatches: std::ops::Range<usize>, body: Vec<Guarded>) -> Guarded {
        Guarded::Loop { max_trips, predicate: BufferId(0), dispatches, body }
    }

    #[test]
    fn loops_are_written_out_with_a_gate_before_each_trip() {
        let inner = looped(2, 2..3, vec![Guarded::Dispatch(2)]);
        let outer = looped(2, 1..4, vec![Guarded::Dispatch(1), inner, Guarded::Dispatch(3)]);
        let (mut gates, mut calls) = (Vec::new(), Vec::new());
        assert!(write_out(&[Guarded::Dispatch(0), outer, Guarded::Dispatch(4)], None, &mut gates, &mut calls));
        use Call::{Dispatch, Gate, Within};
        let trip = [Gate(0), Within(1), Gate(1), Within(2), Gate(1), Within(2), Within(3)];
        assert_eq!(calls, [&[Dispatch(0)][..], &trip, &trip, &[Dispatch(4)]].concat());
        assert_eq!(gates.iter().map(|g| g.parent).collect::<Vec<_>>(), [None, Some(0)]);
        assert_eq!(gates[0].dispatches, 1..4);
    }

    #[test]
    fn a_loop_that_cannot_be_written_out_is_refused_before_it_is() {
        let (mut gates, mut calls) = (Vec::new(), Vec::new());
        let endless = looped(u32::MAX, 0..1, vec![looped(u32::MAX, 0..1, vec![Guarded::Dispatch(0)])]);
        assert!(!write_out(&[endless], None, &mut gates, &mut calls));
        assert!(calls.len() < 10);
    }
}
