//! Programs that do not learn. Takes a closure, gives a compiled forward pass without gradients or optimizer, or one number now. Never
//! changes the training step that its parameters come from.

use super::loaded::Loaded;
use super::{MOST_ROWS, Memory, Precision};
use crate::Result;
use crate::data::Array;
use crate::device::Device;
use std::collections::BTreeMap;
use std::time::Instant;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Scope, Tensor};

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

    /// Runs the program on a batch given by name and returns "output".
    /// Errors: as [`Step::run`](crate::Step::run).
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
        self.loaded.learned()
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

    /// Bytes on the device: see [`Step::memory_bytes`](crate::Step::memory_bytes).
    pub fn memory_bytes(&self) -> Memory {
        self.loaded.memory()
    }

    /// What was compiled: see [`Step::explain`](crate::Step::explain).
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
