//! Programs that do not learn. Takes a closure, gives a compiled forward pass without gradients or optimizer, or one number now. Never
//! changes the training step that its parameters come from.

use super::loaded::Loaded;
use super::{MOST_ROWS, Memory, Precision};
use crate::data::Array;
use crate::device::Device;
use crate::{Error, ErrorKind, Result, Step};
use std::collections::BTreeMap;
use std::time::Instant;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Scope, SlotKind, Tensor};

/// A compiled forward pass. Dropout is off and batch normalization uses its running statistics.
#[derive(Debug)]
pub struct Infer {
    loaded: Loaded,
}

impl Infer {
    /// Compiles `model`, whose result is the output "output"; more are made with [`Scope::output`].
    ///
    /// Memory: parameters and the activations alive at once; no gradients, no optimizer state.
    /// Errors: the model's first fault; not enough memory.
    #[track_caller]
    pub fn compile(device: &Device, max_batch: usize, model: impl FnOnce(&Scope) -> Tensor) -> Result<Infer> {
        Infer::compile_with(device, max_batch, Precision::F32, model)
    }

    /// The same with activations and operands of products as [`Precision`] says, for devices that multiply 16 bits faster. Parameters stay f32,
    /// and no memory is saved: little of a forward pass waits for anything.
    ///
    /// Errors: as [`Infer::compile`]; the device does not hold the type.
    #[track_caller]
    pub fn compile_with(
        device: &Device,
        max_batch: usize,
        precision: Precision,
        model: impl FnOnce(&Scope) -> Tensor,
    ) -> Result<Infer> {
        Infer::made(device, max_batch, precision, &BTreeMap::new(), model)
    }

    /// The same in f32 with kernels made as `choices` says.
    #[track_caller]
    pub(crate) fn compile_as(
        device: &Device,
        max_batch: usize,
        choices: &BTreeMap<String, String>,
        model: impl FnOnce(&Scope) -> Tensor,
    ) -> Result<Infer> {
        Infer::made(device, max_batch, Precision::F32, choices, model)
    }

    #[track_caller]
    fn made(
        device: &Device,
        max_batch: usize,
        precision: Precision,
        choices: &BTreeMap<String, String>,
        model: impl FnOnce(&Scope) -> Tensor,
    ) -> Result<Infer> {
        let started = Instant::now();
        precision.check(&device.backend().caps())?;
        let scope = Scope::root(Mode::Infer);
        let output = model(&scope);
        scope.output("output", &output);
        let mut graph = scope.graph().borrow().clone();
        graph.storage = precision.storage();
        graph.tf32 = precision == Precision::Tf32;
        Ok(Infer { loaded: Loaded::new(device, &graph, max_batch.clamp(1, MOST_ROWS), 0, choices, started)? })
    }

    /// Takes over the parameters and running statistics of a training step, on this device or another, by name; of parameters whose average
    /// is kept, the average. Between programs of one GPU no value passes through the host, but for a weight that both store in another order.
    /// Errors: the step has none of a name that this program needs, or another shape or dtype. Nothing is copied then.
    pub fn copy_from(&mut self, step: &mut Step) -> Result<()> {
        let names: Vec<String> = self.learned().map(str::to_string).collect();
        for name in &names {
            let (ours, theirs) = (self.loaded.slot(name)?.1, step.loaded.slot(step.evaluated(name))?.1);
            if (ours.shape.at(0), ours.dtype) != (theirs.shape.at(0), theirs.dtype) {
                let message = format!(
                    "{name}: expected {} {}, the step has {} {}",
                    ours.shape, ours.dtype, theirs.shape, theirs.dtype
                );
                return Err(Error::new(ErrorKind::Input, message));
            }
        }
        for name in names {
            let slot = step.evaluated(&name).to_string();
            self.loaded.copy(&name, &mut step.loaded, &slot)?;
        }
        Ok(())
    }

    /// Runs the program on a batch given by name and returns "output".
    /// Errors: as [`Step::run`].
    pub fn run(&mut self, inputs: &[(&str, &Array)]) -> Result<Array> {
        self.loaded.run(1, inputs)?;
        self.loaded.output("output")
    }

    /// Another output of the last run.
    pub fn output(&mut self, name: &str) -> Result<Array> {
        self.loaded.output(name)
    }

    /// Names of parameters and running statistics, in order.
    pub fn learned(&self) -> impl Iterator<Item = &str> {
        let learned = |kind: SlotKind| matches!(kind, SlotKind::Param { .. } | SlotKind::Buffer);
        self.loaded.slots().iter().filter(move |s| learned(s.kind)).map(|s| s.name.as_str())
    }

    /// A parameter or statistic.
    pub fn read(&mut self, name: &str) -> Result<Array> {
        self.loaded.read(name)
    }

    /// Overwrites a parameter or statistic.
    pub fn write(&mut self, name: &str, value: &Array) -> Result<()> {
        self.loaded.write(name, value)
    }

    pub(crate) fn loaded(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// Bytes on the device: see [`Step::memory_bytes`].
    pub fn memory_bytes(&self) -> Memory {
        self.loaded.memory()
    }

    /// What was compiled: see [`Step::explain`].
    pub fn explain(&self) -> String {
        super::explain::explain(&self.loaded)
    }
}

/// Compiles and runs a closure for its value: `eval(&device, |s| (s.constant(1.0, F32) + 2.0).exp())`.
/// Errors: the closure's first fault.
#[track_caller]
pub fn eval(device: &Device, maths: impl FnOnce(&Scope) -> Tensor) -> Result<Array> {
    Infer::compile(device, 1, maths)?.run(&[])
}
