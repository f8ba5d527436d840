//! A compiled training step. Takes a model as a closure, an optimizer and options, gives a step that is replayed with one call: loss,
//! gradients, clipping, schedule and update in one program. Never reads anything back from the device unless asked.

mod accumulate;
mod average;
mod clip;
mod copy;
mod explain;
mod find_lr;
mod group;
mod infer;
mod loaded;
mod normalization;
mod precision;
mod same_batch;
mod snapshot;
mod update;
mod values;
mod verify;
mod watch;

pub use average::Average;
pub use clip::{Clip, GRAD_NORM, NOISE_SCALE};
pub use find_lr::{LrCurve, LrPoint, LrSearch};
pub use group::ParamGroup;
pub use infer::{Infer, eval};
pub use normalization::{Normalization, Statistics};
pub(crate) use precision::loss_scale;
pub use precision::{LOSS_SCALE, Precision, SKIPPED_STEPS};
pub use snapshot::{Part, Saved, Snapshot};
pub use wholestep_compiler::backend::Counters;
pub use wholestep_compiler::ir::SlotKind;

use crate::checkpoint::Record;
use crate::data::Array;
use crate::device::Device;
use crate::env::env;
use crate::optim::Optimizer;
use crate::schedule::{Constant, REPORTED, Schedule};
use crate::{Error, ErrorKind, Result};
use accumulate::Pace;
pub(crate) use loaded::{Loaded, device_failed};
use same_batch::SameBatch;
use std::collections::BTreeMap;
use update::{Averaged, LR};
pub(crate) use values::{array_bytes, array_from_bytes};
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Fit, Scope, Tensor};

/// More rows than any batch has: what is laid out for so many is refused as too large for the device.
const MOST_ROWS: usize = 1 << 32;

/// Options of a step; see [`Step::options`].
#[derive(Debug)]
#[must_use = "options do nothing until `compile` is called"]
pub struct StepOptions<'a> {
    seed: u64,
    max_batch: usize,
    clip: Option<Clip>,
    schedule: &'a dyn Schedule,
    accumulate: u32,
    calls_per_epoch: Option<u32>,
    groups: Vec<ParamGroup>,
    average: Option<Average>,
    grad_norm: bool,
    noise_scale: bool,
    precision: Precision,
    choices: Option<(String, BTreeMap<String, String>)>,
    fit_in: Option<u64>,
}

/// A training step, compiled for a device and loaded with its memory.
#[derive(Debug)]
pub struct Step {
    loaded: Loaded,
    averaged: Averaged,
    pace: Pace,
    /// There where the optimizer was promised it.
    same_batch: Option<SameBatch>,
}

impl Step {
    /// Compiles the step that minimizes the scalar which `model` returns, with default options.
    ///
    /// Errors: the model's first fault; a loss that is no scalar; a parameter that the loss does not depend on, by name; not enough
    /// memory.
    #[track_caller]
    pub fn compile(device: &Device, optimizer: impl Optimizer, model: impl FnOnce(&Scope) -> Tensor) -> Result<Step> {
        Step::options().compile(device, optimizer, model)
    }

    /// Options, to be followed by [`StepOptions::compile`].
    pub fn options() -> StepOptions<'static> {
        // A fault in the environment is told by `compile`, which reads it again.
        let seed = env().ok().and_then(|env| env.seed).unwrap_or(0);
        StepOptions {
            seed,
            max_batch: 32,
            clip: None,
            schedule: &Constant,
            accumulate: 1,
            calls_per_epoch: None,
            groups: Vec::new(),
            average: None,
            grad_norm: false,
            noise_scale: false,
            precision: Precision::F32,
            choices: None,
            fit_in: None,
        }
    }

    /// Runs one step on a batch given by name. The batch size is what the extents of the inputs say, and the same for all of them.
    ///
    /// Returns when the work is submitted. Errors: a missing or unknown name, a wrong dtype or shape, a label out of range.
    pub fn run(&mut self, inputs: &[(&str, &Array)]) -> Result<()> {
        self.run_many(1, inputs)
    }

    /// Runs `steps` steps in one submission: each input holds the batches of all steps one after the other.
    ///
    /// Errors: as [`Step::run`]; the rows of an input are not a multiple of `steps`.
    pub fn run_many(&mut self, steps: usize, inputs: &[(&str, &Array)]) -> Result<()> {
        self.same_batch.as_ref().map_or(Ok(()), |batch| batch.check(steps, inputs))?;
        self.loaded.run(steps, inputs)?;
        self.same_batch.as_mut().map_or(Ok(()), |batch| batch.remember(steps, inputs))
    }

    /// The loss of the last step. Waits for it.
    pub fn loss(&mut self) -> Result<f32> {
        self.loaded.output("loss")?.item()
    }

    /// A named output of the last step, made with [`Scope::output`]. Waits for it.
    /// Errors: there is no such output.
    pub fn output(&mut self, name: &str) -> Result<Array> {
        self.loaded.output(name)
    }

    /// Names of everything that survives a step, in order.
    pub fn slots(&self) -> impl Iterator<Item = (&str, SlotKind)> {
        self.loaded.slots().iter().map(|s| (s.name.as_str(), s.kind))
    }

    /// The value of a slot (a parameter, a running statistic, optimizer state) in the shape in which it was declared.
    /// Errors: there is none of that name.
    pub fn read(&mut self, name: &str) -> Result<Array> {
        self.loaded.read(name)
    }

    /// Overwrites a slot, and no other: the average of a parameter, where one is kept, has a slot of its own, which the first update fills.
    /// Errors: there is none of that name; another shape or dtype. Nothing is written then.
    pub fn write(&mut self, name: &str, value: &Array) -> Result<()> {
        self.loaded.write(name, value)
    }

    /// All slots as they are now, off the device. Waits for submitted work.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        self.loaded.snapshot(Vec::new())
    }

    /// Puts all slots back, so that the next step is the one that would have followed the snapshot, to the bit.
    /// Errors (`ErrorKind::Checkpoint`): another optimizer; every slot that is missing, extra or of another shape or dtype; nothing is written
    /// then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.loaded.restore(snapshot)
    }

    /// The base learning rate, which the schedule scales. What the last step used is the output `lr`: `step.output("lr")`.
    pub fn lr(&mut self) -> Result<f32> {
        self.loaded.read(LR)?.item()
    }

    /// Sets the base learning rate. Nothing is recompiled.
    pub fn set_lr(&mut self, lr: f32) -> Result<()> {
        self.loaded.write(LR, &Array::scalar(lr))
    }

    /// Sets the base rate of the parameter group with a rate of its own that was given the pattern `params`.
    /// Errors: there is no such group.
    pub fn set_group_lr(&mut self, params: &str, lr: f32) -> Result<()> {
        self.loaded.write(&format!("{LR}/{params}"), &Array::scalar(lr))
    }

    /// Hands the newest value of what [`crate::schedule::Plateau`] watches to the next step; a second report before it replaces the first.
    /// Errors: the schedule watches nothing.
    pub fn report(&mut self, value: f64) -> Result<()> {
        self.loaded.write(REPORTED[0], &Array::scalar(value as f32))?;
        self.loaded.write(REPORTED[1], &Array::scalar(1f32))
    }

    /// For each parameter whose average is kept, the slot to evaluate instead. None before the first update: until then the weights
    /// themselves are the average, whatever they were set to, and its slots hold nothing yet.
    pub(crate) fn averages(&mut self) -> Result<Averaged> {
        let is_there = !self.averaged.is_empty() && self.updates()? > 0;
        Ok(if is_there { self.averaged.clone() } else { Averaged::new() })
    }

    /// How many updates were made, over all resumptions.
    fn updates(&mut self) -> Result<u32> {
        let is_scaled = self.loaded.slots().iter().any(|s| s.name == SKIPPED_STEPS);
        let skipped = if is_scaled { self.loaded.read(SKIPPED_STEPS)?.item()? } else { 0 };
        Ok(self.pace.updates(self.steps()?).saturating_sub(skipped))
    }

    /// How many steps have run, over all resumptions.
    pub fn steps(&mut self) -> Result<u32> {
        self.loaded.read(wholestep_compiler::ir::scope::STEP)?.item()
    }

    /// What was compiled: nodes per stage, launches, memory, refused fusions; after [`Step::set_profiling`] also the costliest launches.
    pub fn explain(&self) -> String {
        explain::explain(&self.loaded)
    }

    /// Turns timing of every launch on or off.
    pub fn set_profiling(&mut self, on: bool) {
        self.loaded.executable.set_profiling(on);
    }

    /// Counts of submissions, allocations and copies since compilation.
    pub fn counters(&self) -> Counters {
        self.loaded.executable.counters()
    }

    /// Memory in bytes: parameters and state, and the arena that all intermediate values share.
    pub fn memory_bytes(&self) -> Memory {
        self.loaded.memory()
    }

    pub(crate) fn loaded(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// What was compiled, for tables and reports.
    pub fn costs(&self) -> Vec<Cost> {
        explain::costs(&self.loaded)
    }
}

/// Planned memory, known before the first allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, optimizer state and all other slots; the same for every batch size.
    pub persistent_bytes: usize,
    /// The arena of intermediate values, for the largest batch that it is laid out for.
    pub transient_bytes: usize,
}

/// What one launch of a step costs, measured while profiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// "loop", "contract", "window", "scatter", "sort" or "scan".
    pub kind: &'static str,
    /// The layer of the first op in it: "block3/up".
    pub scope: String,
    /// The ops in it: "matmul add maximum".
    pub ops: String,
    /// Nanoseconds, the mean over the profiled steps; 0 where none was profiled.
    pub ns_per_step: f64,
    /// Floating-point operations of a contraction at the last batch size; 0 for others.
    pub flops: f64,
    /// Bytes read and written at the last batch size.
    pub bytes: f64,
}

impl<'a> StepOptions<'a> {
    /// The seed of initial values and of everything random in the step; `WHOLESTEP_SEED`, else 0, where none is given.
    pub fn seed(self, seed: u64) -> StepOptions<'a> {
        StepOptions { seed, ..self }
    }

    /// The largest batch that memory is laid out for; a larger one grows the arena once.
    pub fn max_batch(self, max_batch: usize) -> StepOptions<'a> {
        StepOptions { max_batch: max_batch.clamp(1, MOST_ROWS), ..self }
    }

    /// Bounds the gradient before the optimizer sees it.
    pub fn clip(self, clip: Clip) -> StepOptions<'a> {
        StepOptions { clip: Some(clip), ..self }
    }

    /// How the rate changes from update to update; constant where none is given.
    pub fn schedule<'b>(self, schedule: &'b dyn Schedule) -> StepOptions<'b>
    where
        'a: 'b,
    {
        StepOptions { schedule, ..self }
    }

    /// One update for every `calls` runs, by the gradient over all their rows: the mean of the runs' gradients weighted by their batch sizes,
    /// so that the loss should be a mean over the batch. The sums are slots.
    pub fn accumulate(self, calls: u32) -> StepOptions<'a> {
        StepOptions { accumulate: calls, ..self }
    }

    /// Runs that make an epoch, from the first run on: the last of them ends with an update from what was collected by then, so that no
    /// gradient goes over into the next epoch. Without it every update takes as many runs as [`StepOptions::accumulate`] says.
    pub fn calls_per_epoch(self, calls: u32) -> StepOptions<'a> {
        StepOptions { calls_per_epoch: Some(calls), ..self }
    }

    fn pace(&self) -> Pace {
        Pace { every: self.accumulate, epoch: self.calls_per_epoch }
    }

    /// Parameters with settings of their own, by name.
    pub fn groups(self, groups: impl Into<Vec<ParamGroup>>) -> StepOptions<'a> {
        StepOptions { groups: groups.into(), ..self }
    }

    /// Keeps an average of the weights, which [`Infer::copy_from`] and [`Weights::of`](crate::checkpoint::Weights::of) read, and so evaluation,
    /// prediction and files of weights. A checkpoint has both: the weights that are trained, to go on from, in its `weights.safetensors`.
    pub fn average(self, average: Average) -> StepOptions<'a> {
        StepOptions { average: Some(average), ..self }
    }

    /// Makes the output [`GRAD_NORM`], which clipping by norm makes anyway.
    pub fn grad_norm(self) -> StepOptions<'a> {
        StepOptions { grad_norm: true, ..self }
    }

    /// Makes the output [`NOISE_SCALE`] from micro-batches; it needs [`StepOptions::accumulate`].
    pub fn noise_scale(self) -> StepOptions<'a> {
        StepOptions { noise_scale: true, ..self }
    }

    /// In what the step computes; f32 unless said otherwise.
    pub fn precision(self, precision: Precision) -> StepOptions<'a> {
        StepOptions { precision, ..self }
    }

    /// Makes kernels as the run did that wrote a checkpoint with `record`, if it was on this device: the same choices give the same bits.
    pub fn choices_of(self, record: &Record) -> StepOptions<'a> {
        StepOptions { choices: Some((record.device.clone(), record.choices.clone())), ..self }
    }

    /// The most bytes that parameters, state and arena ([`Step::memory_bytes`]) may take together, at the largest batch. Where the step needs
    /// more, the backward pass computes values again instead of keeping them: as few as make it fit, those first that spare the most
    /// memory for the least work. Weights come out as without it; [`Step::explain`] says what is computed again.
    ///
    /// Compiling fails where nothing fits, with the least that was reached and what takes it. [`Scope::recompute`] says by hand what to
    /// compute again.
    pub fn fit_in(self, bytes: u64) -> StepOptions<'a> {
        StepOptions { fit_in: Some(bytes), ..self }
    }

    /// As [`Step::compile`], with these options.
    #[track_caller]
    pub fn compile(
        self,
        device: &Device,
        optimizer: impl Optimizer,
        model: impl FnOnce(&Scope) -> Tensor,
    ) -> Result<Step> {
        let started = std::time::Instant::now();
        self.precision.check(&device.backend().caps())?;
        let pace = self.pace();
        let scope = Scope::root(Mode::Train);
        let loss = model(&scope);
        let averaged = update::trace(&scope, &loss, &optimizer, &self)?;
        let mut graph = scope.graph().borrow().clone();
        graph.storage = self.precision.storage();
        graph.tf32 = self.precision == Precision::Tf32;
        let is_same = |(of, _): &(String, _)| *of == device.backend().caps().name;
        let choices = self.choices.filter(is_same).map(|(_, choices)| choices).unwrap_or_default();
        graph.fit = self.fit_in.map(|bytes| Fit { bytes, max_batch: self.max_batch });
        let mut loaded = Loaded::new(device, &graph, self.max_batch, self.seed, &choices, started)?;
        loaded.rule = Some(optimizer.name());
        let known = update::known(&optimizer);
        loaded.known = known.as_ref().map(|name| loaded.slot(name).map(|(id, _)| id)).transpose()?;
        Ok(Step { loaded, averaged, pace, same_batch: known.map(|_| SameBatch::default()) })
    }
}

/// Why a graph did not compile, as the library's error.
pub(crate) fn build_failed(error: &wholestep_compiler::ir::BuildError) -> Error {
    Error::new(ErrorKind::Build, error.to_string())
}
