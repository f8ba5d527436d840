//! A compiled training step. Takes a model as a closure, an optimizer and options, gives a step that is replayed with one call: loss,
//! gradients, clipping, schedule and update in one program. Never reads anything back from the device unless asked.

mod explain;
mod infer;
mod loaded;
mod values;
mod verify;

pub use infer::{Infer, eval};

use crate::data::Array;
use crate::device::Device;
use crate::env::env;
use crate::optim::{Optimizer, StateSpec, StepScalars};
use crate::schedule::{Constant, Schedule};
use crate::{Error, ErrorKind, Result};
pub(crate) use loaded::Loaded;
use std::panic::Location;
pub(crate) use values::{array_bytes, array_from_bytes};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::ir::graph::Loc;
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{BuildError, DType, Graph, Init, Scope, Shape, SlotId, SlotKind, Tensor};

/// The slot that holds the base learning rate.
const LR: &str = "lr";
/// Where the optimizer's state lies: "optimizer/fc1/weight/exp_avg".
const OPTIMIZER: &str = "optimizer";

/// What bounds the gradient before the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Scales all gradients by `max_norm / (norm + 1e-6)` where their joint 2-norm is larger. Matches PyTorch `clip_grad_norm_`.
    GlobalNorm(f64),
    /// Clamps each element to `[-limit, limit]`. Matches PyTorch `clip_grad_value_`.
    Value(f64),
}

/// Options of a step; see [`Step::options`].
pub struct StepOptions<'a> {
    seed: u64,
    max_batch: usize,
    clip: Option<Clip>,
    schedule: &'a dyn Schedule,
}

/// A training step, compiled for a device and loaded with its memory.
pub struct Step {
    loaded: Loaded,
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
        StepOptions { seed, max_batch: 32, clip: None, schedule: &Constant }
    }

    /// Runs one step on a batch given by name. All inputs whose first axis is the batch have equal first extents.
    ///
    /// Returns when the work is submitted. Errors: a missing or unknown name, a wrong dtype or shape, a label out of range.
    pub fn run(&mut self, inputs: &[(&str, &Array)]) -> Result<()> {
        self.loaded.run(1, inputs)
    }

    /// Runs `steps` steps in one submission: each input holds the batches of all steps one after the other.
    ///
    /// Errors: as [`Step::run`]; the rows of an input are not a multiple of `steps`.
    pub fn run_many(&mut self, steps: usize, inputs: &[(&str, &Array)]) -> Result<()> {
        self.loaded.run(steps, inputs)
    }

    /// The loss of the last step. Waits for it.
    pub fn loss(&mut self) -> Result<f32> {
        let loss = self.loaded.output("loss")?;
        Ok(loss.slice::<f32>()?[0])
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

    /// Overwrites a slot.
    /// Errors: there is none of that name; another shape or dtype. Nothing is written then.
    pub fn write(&mut self, name: &str, value: &Array) -> Result<()> {
        self.loaded.write(name, value)
    }

    /// The base learning rate, which the schedule scales.
    pub fn lr(&mut self) -> Result<f32> {
        Ok(self.loaded.read(LR)?.slice::<f32>()?[0])
    }

    /// Sets the base learning rate. Nothing is recompiled.
    pub fn set_lr(&mut self, lr: f32) -> Result<()> {
        self.loaded.write(LR, &Array::scalar(lr))
    }

    /// How many steps have run, over all resumptions.
    pub fn steps(&mut self) -> Result<u32> {
        Ok(self.loaded.read(wholestep_compiler::ir::scope::STEP)?.slice::<u32>()?[0])
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
    pub fn counters(&self) -> wholestep_compiler::backend::Counters {
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
    pub persistent_bytes: usize,
    pub transient_bytes: usize,
}

/// What one launch of a step costs, measured while profiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub kind: &'static str,
    pub scope: String,
    pub ops: String,
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
        StepOptions { max_batch: max_batch.max(1), ..self }
    }

    pub fn clip(self, clip: Clip) -> StepOptions<'a> {
        StepOptions { clip: Some(clip), ..self }
    }

    pub fn schedule<'b>(self, schedule: &'b dyn Schedule) -> StepOptions<'b> {
        StepOptions { seed: self.seed, max_batch: self.max_batch, clip: self.clip, schedule }
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
        let scope = Scope::root(Mode::Train);
        let loss = model(&scope);
        scope.output("loss", &loss);
        trace_update(&scope, &loss, &optimizer, self.clip, self.schedule);
        let graph = scope.graph().borrow().clone();
        let loaded = Loaded::new(device, &graph, self.max_batch, self.seed, started)?;
        Ok(Step { loaded })
    }
}

/// Appends gradients, clipping, schedule and optimizer to a traced loss.
#[track_caller]
fn trace_update(scope: &Scope, loss: &Tensor, optimizer: &dyn Optimizer, clip: Option<Clip>, schedule: &dyn Schedule) {
    // After an error a parameter is a placeholder, and there is nothing to differentiate.
    if scope.graph().borrow().error.is_some() {
        return;
    }
    let params = trainable(scope);
    if params.is_empty() {
        return;
    }
    let tensors: Vec<Tensor> = params.iter().map(|(_, p)| p.clone()).collect();
    let mut grads = gradients(loss, &tensors);
    if scope.graph().borrow().error.is_some() {
        return;
    }
    clip_gradients(scope, &mut grads, clip);
    let steps = scope.step();
    let done = steps.cast(DType::F32);
    let base = scope.scalar(LR, DType::F32, Shape::scalar(), Init::Const(optimizer.lr()));
    let lr = schedule.rate(&base, &done);
    scope.output("lr", &lr);
    let scalars = StepScalars { scope, lr, t: &done + 1.0 };
    let specs = optimizer.state();
    let home = scope.sub(OPTIMIZER);
    for ((name, p), g) in params.iter().zip(&grads) {
        let place = home.sub(name);
        let mut state = Vec::with_capacity(specs.len());
        for spec in &specs {
            state.push(place.slot(spec.name, SlotKind::State, DType::F32, p.shape(), Init::Const(spec.init)));
        }
        let (new_p, new_state) = optimizer.update(p, g, &state, &scalars);
        check_update(&place, p, &specs, &new_p, &new_state);
        place.update(p, &new_p);
        for (old, new) in state.iter().zip(&new_state) {
            place.update(old, new);
        }
    }
    scope.update(&steps, &(&steps + &scope.constant(1.0, DType::U32)));
}

/// Records what an optimizer's `update` may not return: another number of tensors than its state has, or another type than the
/// parameter's. `place` is where the parameter's state lies.
#[track_caller]
fn check_update(place: &Scope, p: &Tensor, specs: &[StateSpec], new_p: &Tensor, new_state: &[Tensor]) {
    let names: Vec<&str> = specs.iter().map(|s| s.name).collect();
    let mut graph = place.graph().borrow_mut();
    let fault = |message: String, at: String| {
        BuildError::new("optimizer", message).at(at).help(format!(
            "update() returns the next parameter and a Vec with the next of each of state(): {}; all of the parameter's shape",
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        ))
    };
    let scope = graph.scope_index(place.path());
    if new_state.len() != names.len() {
        let message = format!("update() returned {} tensors of state, state() names {}", new_state.len(), names.len());
        let at = graph.position(scope, Loc::from(Location::caller()));
        return graph.fail(fault(message, at));
    }
    let wanted = graph.type_of(p.id());
    for (what, value) in std::iter::once(("the parameter", new_p)).chain(names.iter().copied().zip(new_state)) {
        let got = graph.type_of(value.id());
        let due = if what == "the parameter" { wanted.dtype } else { DType::F32 };
        if (got.dtype, &got.shape) != (due, &wanted.shape) {
            let message = format!(
                "update() returned {} {} as the next of {what}, need {} {due}",
                got.shape, got.dtype, wanted.shape
            );
            // The line that made the value is in the optimizer, which is where the fault is.
            let at = graph.position(scope, graph.node(value.id()).loc);
            return graph.fail(fault(message, at));
        }
    }
}

/// The parameters that learn, with their names, in the order in which the model made them.
fn trainable(scope: &Scope) -> Vec<(String, Tensor)> {
    let graph = scope.graph().borrow();
    let slots = graph.slots.iter().enumerate().filter(|(_, s)| s.kind == SlotKind::Param { trainable: true });
    let node = |graph: &Graph, i: usize| slot_node(graph, SlotId(i as u32)).expect("bug: a slot has a node");
    slots.map(|(i, s)| (s.name.clone(), Tensor::from_node(scope.graph().clone(), node(&graph, i)))).collect()
}

fn clip_gradients(scope: &Scope, grads: &mut [Tensor], clip: Option<Clip>) {
    match clip {
        None => {}
        Some(Clip::Value(limit)) => grads.iter_mut().for_each(|g| *g = g.clamp(-limit, limit)),
        Some(Clip::GlobalNorm(max_norm)) => {
            let squares = grads.iter().map(|g| g.square().sum(..)).reduce(|a, b| &a + &b);
            let Some(squares) = squares else { return };
            let norm = squares.sqrt();
            scope.output("grad_norm", &norm);
            let one = scope.constant(1.0, DType::F32);
            let scale = (scope.constant(max_norm, DType::F32) / (&norm + 1e-6)).minimum(&one);
            grads.iter_mut().for_each(|g| *g = &*g * &scale);
        }
    }
}

/// Why a graph did not compile, as the library's error.
pub(crate) fn build_failed(error: &wholestep_compiler::ir::BuildError) -> Error {
    Error::new(ErrorKind::Build, error.to_string())
}
