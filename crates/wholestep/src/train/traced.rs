//! The training program: model, loss, and sums over an epoch that stay on the device. Takes a network and its loss, gives a compiled step.
//! Never reads a sum back by itself.

use super::{Network, Task, Training, output_of};
use crate::device::Device;
use crate::step::{Precision, StepOptions, loss_scale};
use crate::{Array, Result, Step};
use wholestep_compiler::ir::{Batch, DType, Init, Scope, Shape, SlotKind, Tensor};

/// Σ loss · rows of the epoch.
const LOSS_SUM: &str = "epoch/loss_sum";
/// Rows in that sum, or what they weigh, where those are not all rows of the epoch.
const ROWS: &str = "epoch/rows";
/// Targets that were right.
const RIGHT: &str = "epoch/right";
/// Targets that could be right, where some do not count.
const COUNTED: &str = "epoch/counted";
/// The first step of the run whose loss was not finite, for which no scale of the loss was to blame.
const FIRST_BAD: &str = "epoch/first_bad";

/// Compiles the step of `network` with its sums.
pub fn compile(options: StepOptions, device: &Device, network: &dyn Network, training: &Training) -> Result<Step> {
    let mut fault = None;
    let compiled = options.compile(device, training.optimizer.clone(), |s| match trace(s, device, network, training) {
        Ok(loss) => loss,
        Err(e) => {
            fault = Some(e);
            s.constant(0.0, DType::F32)
        }
    });
    match fault {
        Some(e) => Err(e),
        None => compiled,
    }
}

fn trace(s: &Scope, device: &Device, network: &dyn Network, training: &Training) -> Result<Tensor> {
    let output = output_of(network, s)?;
    let traced = training.loss.trace(s, &training.target, &output)?;
    let wide = device.backend().caps().dtypes.contains(&DType::F64);
    let dtype = if wide { DType::F64 } else { DType::F32 };
    let sums = s.sub("epoch");
    let add = |name: &str, value: &Tensor| {
        let slot = sums.slot(name, SlotKind::State, dtype, Shape::scalar(), Init::Const(0.0));
        sums.update(&slot, &(&slot + &value.cast(dtype)));
    };
    // NaN compares false, so this holds for finite numbers only.
    let is_finite = traced.loss.abs().less_equal(f64::from(f32::MAX));
    let rows = traced.weight.as_ref().map_or_else(|| sums.extent(Batch, dtype), |weight| weight.cast(dtype));
    let sum = traced.loss.cast(dtype) * &rows;
    if training.precision == Precision::F16 {
        // Steps whose loss overflows are skipped, so they are no part of the mean.
        add("loss_sum", &is_finite.select(&sum, 0.0));
        add("rows", &is_finite.select(&rows, 0.0));
    } else {
        add("loss_sum", &sum);
        traced.weight.iter().for_each(|_| add("rows", &rows));
    }
    if let Some(right) = right(&output, &traced.target, training) {
        let right = traced.counts.as_ref().map_or(right.clone(), |counts| right & counts);
        add("right", &right.cast(DType::F32).sum(..));
        traced.counts.iter().for_each(|counts| add("counted", &counts.cast(DType::F32).sum(..)));
    }
    let never = Init::Const(f64::from(u32::MAX));
    let first = sums.slot("first_bad", SlotKind::State, DType::U32, Shape::scalar(), never);
    // In f16 a smaller scale may be all that a skipped step needs, until it has come down to 1.
    let is_good = match training.precision {
        Precision::F16 => is_finite | loss_scale(s).greater(1.0),
        Precision::F32 | Precision::Tf32 | Precision::Bf16 => is_finite,
    };
    sums.update(&first, &is_good.select(&first, first.minimum(s.step())));
    Ok(traced.loss)
}

/// Which rows of the batch are right, where that means anything.
fn right(output: &Tensor, target: &Tensor, training: &Training) -> Option<Tensor> {
    match training.loss.task() {
        Task::Classes => Some(output.argmax(1).cast(target.dtype()).equal(target)),
        Task::Binary => Some(output.greater(0.0).equal(target.greater(0.5))),
        Task::Values => None,
    }
}

/// What the device has summed up.
pub struct Sums {
    pub loss: f64,
    /// Rows in `loss`, or what they weigh, where those are not all rows.
    pub rows: Option<f64>,
    pub right: Option<f64>,
    /// Targets that could be right, where those are not all.
    pub counted: Option<f64>,
}

/// Sums since [`reset`]. Waits for the device.
pub fn sums(step: &mut Step) -> Result<Sums> {
    let mut read = |name: &str| -> Result<Option<f64>> {
        let is_there = step.slots().any(|(slot, _)| slot == name);
        if is_there { number(&step.read(name)?).map(Some) } else { Ok(None) }
    };
    let loss = read(LOSS_SUM)?.expect("bug: a trainer's step sums its loss");
    Ok(Sums { loss, rows: read(ROWS)?, right: read(RIGHT)?, counted: read(COUNTED)? })
}

/// The only element of a scalar.
pub fn number(scalar: &Array) -> Result<f64> {
    Ok(scalar.cast::<f64>()?.slice::<f64>()?[0])
}

/// Begins an epoch's sums at 0.
pub fn reset(step: &mut Step) -> Result<()> {
    for name in [LOSS_SUM, ROWS, RIGHT, COUNTED] {
        if step.slots().any(|(slot, _)| slot == name) {
            let zero =
                if step.read(name)?.as_slice::<f64>().is_some() { Array::scalar(0f64) } else { Array::scalar(0f32) };
            step.write(name, &zero)?;
        }
    }
    Ok(())
}

/// The first step (from 0) whose loss was not finite, if there was one.
pub fn first_bad(step: &mut Step) -> Result<Option<u32>> {
    let value = step.read(FIRST_BAD)?.slice::<u32>()?[0];
    Ok((value != u32::MAX).then_some(value))
}
