//! Mixed precision of a step: what is asked for, and the scale that keeps small f16 gradients from vanishing. Takes a loss and its gradients,
//! gives the scaled loss, the true gradients and whether they are finite. Never makes the host wait: a step is skipped by `select`.

use super::accumulate::Accumulation;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::{DType, Init, Scope, Shape, Tensor};

/// In what a step computes. Parameters and optimizer state are f32 in all; what runs in 16 bits is listed in the compiler's `precision` pass.
///
/// As PyTorch's `autocast`: operands of matrix products and convolutions are rounded to 16 bits and summed in f32, activations between them
/// are kept in 16 bits, and losses, norms, reductions and the update are f32. Activations then take half the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything is f32, operands of matrix products too; the default.
    #[default]
    F32,
    /// Everything is f32, but matrix products may round their operands to 11 bits, which the tensor cores of NVIDIA's GPUs multiply several times as
    /// fast (as PyTorch's `set_float32_matmul_precision("high")`). Where a device has no such units it is `F32`.
    Tf32,
    /// The range of f32 with 8 bits of precision: needs no scaling.
    Bf16,
    /// 11 bits of precision and a small range: the loss is scaled, dynamically, as by PyTorch's `GradScaler`.
    F16,
}

impl Precision {
    /// The type in which activations are kept, where that is not their own.
    pub(crate) fn storage(self) -> Option<DType> {
        match self {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => Some(DType::BF16),
            Precision::F16 => Some(DType::F16),
        }
    }

    /// Errors (`ErrorKind::Device`): the device does not hold the type.
    pub(crate) fn check(self, caps: &Caps) -> Result<()> {
        match self.storage().filter(|dtype| !caps.dtypes.contains(dtype)) {
            None => Ok(()),
            Some(dtype) => {
                let message = format!("precision: {} does not hold {dtype}; train in f32 there", caps.name);
                Err(Error::new(ErrorKind::Device, message))
            }
        }
    }
}

/// The slot that holds the factor of the loss, f32.
pub const LOSS_SCALE: &str = "loss_scale";
/// The slot that counts finite steps since the factor last changed, u32.
const GROWTH: &str = "loss_scale_growth";
/// The slot that counts steps that updated nothing because a gradient was not finite, u32.
pub const SKIPPED_STEPS: &str = "skipped_steps";

// The constants of PyTorch's `torch.amp.GradScaler`.
const INIT: f64 = 65536.0;
const GROWTH_FACTOR: f64 = 2.0;
const BACKOFF_FACTOR: f64 = 0.5;
const GROWTH_INTERVAL: f64 = 2000.0;

/// Dynamic loss scaling: doubles after 2000 finite steps in a row, halves where a gradient overflows.
///
/// Paper: Micikevicius et al. 2017, arXiv:1710.03740, section 3.2. Matches PyTorch `GradScaler`.
pub struct LossScale {
    scale: Tensor,
    growth: Tensor,
    skipped: Tensor,
}

/// The factor of the loss when the step began.
pub(crate) fn loss_scale(scope: &Scope) -> Tensor {
    scope.scalar(LOSS_SCALE, DType::F32, Shape::scalar(), Init::Const(INIT))
}

impl LossScale {
    pub fn new(scope: &Scope) -> LossScale {
        let slot = |name: &str, dtype: DType, init: f64| scope.scalar(name, dtype, Shape::scalar(), Init::Const(init));
        LossScale {
            scale: loss_scale(scope),
            growth: slot(GROWTH, DType::U32, 0.0),
            skipped: slot(SKIPPED_STEPS, DType::U32, 0.0),
        }
    }

    /// What is differentiated instead of the loss.
    pub fn scaled(&self, loss: &Tensor) -> Tensor {
        loss * &self.scale
    }

    /// Takes the scale out of the gradients again.
    pub fn unscale(&self, grads: &mut [Tensor]) {
        let inverse = self.scale.recip();
        grads.iter_mut().for_each(|g| *g = &*g * &inverse);
    }

    /// Lets only finite gradients update anything, and writes the scale of the next step.
    pub fn advance(&self, scope: &Scope, grads: &[Tensor], accumulation: &mut Accumulation) {
        // NaN is the largest of all and compares false. Side by side, one reduction goes over all of them, however many gradients there are.
        let largest: Vec<Tensor> = grads.iter().map(|g| g.abs().max(..)).collect();
        let Some((first, others)) = largest.split_first() else { return };
        let finite = first.stack(others, 0).max(..).less_equal(f64::from(f32::MAX));
        scope.output(LOSS_SCALE, &self.scale);
        let one = scope.constant(1.0, DType::U32);
        let n_finite = &self.growth + &one;
        let is_due = n_finite.equal(GROWTH_INTERVAL);
        let larger = &self.scale * GROWTH_FACTOR;
        // Not past what f32 holds.
        let larger = larger.less_equal(f64::from(f32::MAX)).select(&larger, &self.scale);
        let grown = is_due.select(&larger, &self.scale);
        let update = |slot: &Tensor, next: &Tensor| scope.update(slot, &accumulation.kept(next, slot));
        update(&self.scale, &finite.select(&grown, &(&self.scale * BACKOFF_FACTOR)));
        update(&self.growth, &finite.select(is_due.select(0.0, &n_finite), 0.0));
        update(&self.skipped, &finite.select(&self.skipped, &(&self.skipped + &one)));
        accumulation.only_if(&finite, &self.skipped);
    }
}
