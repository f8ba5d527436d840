//! Ops that join the elements along axes. A reduced axis stays, with extent 1; `ops/` drops it where the user asks.

use super::{RuleError, Type};
use crate::ir::{DType, Dim, Shape};

/// A reduction or a scan. One operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Reduce {
    /// Sum over `axes` (sorted).
    Sum { axes: Vec<usize> },
    /// Largest over `axes`; NaN if any is.
    Max { axes: Vec<usize> },
    /// Smallest over `axes`; NaN if any is.
    Min { axes: Vec<usize> },
    /// Position (i32) of the first largest element along `axis`; a NaN counts as largest. Not differentiable.
    ArgMax { axis: usize },
    /// Running sum along `axis`, from the end if `reverse`. The shape stays.
    CumSum { axis: usize, reverse: bool },
}

impl Reduce {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let x = &operands[0];
        let one = |axis: &usize| std::slice::from_ref(axis).to_vec();
        let axes = match self {
            Reduce::Sum { axes } | Reduce::Max { axes } | Reduce::Min { axes } => axes.clone(),
            Reduce::ArgMax { axis } | Reduce::CumSum { axis, .. } => one(axis),
        };
        if let Some(axis) = axes.iter().find(|&&a| a >= x.shape.rank()) {
            return Err(RuleError::new(format!("axis {axis} is not in {}", x.shape)));
        }
        if x.dtype == DType::Bool {
            return Err(RuleError::new("need numbers, got bool").help("convert with .cast(F32) or .cast(I32)"));
        }
        let mut shape: Shape = x.shape.clone();
        let has_identity = matches!(self, Reduce::Sum { .. } | Reduce::CumSum { .. });
        for &axis in &axes {
            if !has_identity && shape.0[axis] == Dim::ZERO {
                return Err(RuleError::new(format!("axis {axis} of {} has no elements", x.shape)));
            }
        }
        if !matches!(self, Reduce::CumSum { .. }) {
            axes.iter().for_each(|&axis| shape.0[axis] = Dim::ONE);
        }
        let dtype = if matches!(self, Reduce::ArgMax { .. }) { DType::I32 } else { x.dtype };
        Ok(Type { dtype, shape })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Reduce::Sum { .. } => "sum",
            Reduce::Max { .. } => "max",
            Reduce::Min { .. } => "min",
            Reduce::ArgMax { .. } => "argmax",
            Reduce::CumSum { .. } => "cumsum",
        }
    }
}
