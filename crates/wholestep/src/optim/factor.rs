//! A factor of moving averages. Takes a number, or a scalar of the step where a schedule cycles it, gives the maths that both share. Never
//! rounds a number before it meets a tensor.

use super::{StepScalars, bias_correction};
use wholestep_compiler::ir::Tensor;

/// A momentum or β1: known when the step is compiled, or one of its scalars.
#[derive(Clone, Debug)]
pub enum Factor {
    /// Of the optimizer's options, known while compiling.
    Number(f64),
    /// Of the schedule: an f32 scalar that changes from step to step.
    Scalar(Tensor),
}

impl Factor {
    /// The schedule's momentum where it cycles it, else `number`.
    pub fn new(number: f64, step: &StepScalars) -> Factor {
        step.momentum.as_ref().map_or(Factor::Number(number), |m| Factor::Scalar(m.clone()))
    }

    /// `f·x`.
    pub fn times(&self, x: &Tensor) -> Tensor {
        match self {
            Factor::Number(f) => x * *f,
            Factor::Scalar(f) => f * x,
        }
    }

    /// `(1 - f)·x`.
    pub fn rest_times(&self, x: &Tensor) -> Tensor {
        match self {
            Factor::Number(f) => x * (1.0 - f),
            Factor::Scalar(f) => &(1.0 - f) * x,
        }
    }

    /// `f·average + (1 - f)·x`.
    pub fn mix(&self, average: &Tensor, x: &Tensor) -> Tensor {
        &self.times(average) + &self.rest_times(x)
    }

    /// `1 - f^t`.
    pub fn bias_correction(&self, t: &Tensor) -> Tensor {
        match self {
            Factor::Number(f) => bias_correction(*f, t),
            Factor::Scalar(f) => -((t * &f.log()).expm1()),
        }
    }
}
