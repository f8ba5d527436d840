//! Ops whose addresses are data. Index operands are i32, u32 or i64. An index out of range is clamped on the device, so that memory is
//! safe; what comes from the user (labels, tokens) is checked against its range when the batch is handed over.

use super::{RuleError, Type};
use crate::ir::{DType, Dim, Shape};

/// An indexing op.
#[derive(Clone, Debug, PartialEq)]
pub enum Index {
    /// Operands x, index (any shape): whole slices of `axis`. Result `x[..axis] ++ index ++ x[axis+1..]`. Embedding, `index_select`.
    Take { axis: usize },
    /// Operands d_y (shape of the `Take` result), index; result: zeros with extent `len` at `axis`, each slice added at its index in the
    /// order of the index. The adjoint of `Take`.
    TakeGrad { axis: usize, len: Dim },
    /// Operands x, index (rank of x, equal extents except at `axis`); result has the index's shape: PyTorch's `gather`.
    TakeAlong { axis: usize },
    /// Operands d_y (shape of the index), index; result: zeros with extent `len` at `axis`, each element added at its index. The adjoint
    /// of `TakeAlong`; PyTorch's `scatter_add` on zeros.
    TakeAlongGrad { axis: usize, len: Dim },
    /// Operand x; result i32 of its shape: the order that sorts `axis`, stable; NaN sorts last (first if descending). Not differentiable.
    ArgSort { axis: usize, descending: bool },
}

impl Index {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let x = &operands[0];
        let axis = match self {
            Index::Take { axis } | Index::TakeAlong { axis } | Index::ArgSort { axis, .. } => *axis,
            Index::TakeGrad { axis, .. } | Index::TakeAlongGrad { axis, .. } => *axis,
        };
        if axis >= x.shape.rank() {
            return Err(RuleError::new(format!("axis {axis} is not in {}", x.shape)));
        }
        if let Some(index) = operands.get(1) {
            if !matches!(index.dtype, DType::I32 | DType::U32 | DType::I64) {
                return Err(RuleError::new(format!("need an index of i32, u32 or i64, got {}", index.dtype)));
            }
        }
        match self {
            Index::Take { .. } => {
                let mut dims = x.shape.0[..axis].to_vec();
                dims.extend_from_slice(&operands[1].shape.0);
                dims.extend_from_slice(&x.shape.0[axis + 1..]);
                Ok(Type { dtype: x.dtype, shape: Shape(dims) })
            }
            Index::TakeGrad { len, .. } => {
                let n_index = operands[1].shape.rank();
                let fits = x.shape.rank() >= axis + n_index && x.shape.0[axis..axis + n_index] == operands[1].shape.0;
                if !fits {
                    return Err(RuleError::new(format!(
                        "index {} is not in {} at axis {axis}",
                        operands[1].shape, x.shape
                    )));
                }
                let mut dims = x.shape.0[..axis].to_vec();
                dims.push(*len);
                dims.extend_from_slice(&x.shape.0[axis + n_index..]);
                Ok(Type { dtype: x.dtype, shape: Shape(dims) })
            }
            Index::TakeAlong { .. } => {
                same_but(axis, &x.shape, &operands[1].shape)?;
                Ok(Type { dtype: x.dtype, shape: operands[1].shape.clone() })
            }
            Index::TakeAlongGrad { len, .. } => {
                if x.shape != operands[1].shape {
                    return Err(RuleError::new(format!(
                        "need values of the index's shape, got {} and {}",
                        x.shape, operands[1].shape
                    )));
                }
                let mut shape = x.shape.clone();
                shape.0[axis] = *len;
                Ok(Type { dtype: x.dtype, shape })
            }
            Index::ArgSort { .. } => Ok(Type { dtype: DType::I32, shape: x.shape.clone() }),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Index::Take { .. } => "take",
            Index::TakeGrad { .. } => "take_grad",
            Index::TakeAlong { .. } => "gather",
            Index::TakeAlongGrad { .. } => "scatter_add",
            Index::ArgSort { .. } => "argsort",
        }
    }
}

fn same_but(axis: usize, x: &Shape, index: &Shape) -> Result<(), RuleError> {
    let same = x.rank() == index.rank() && x.0.iter().zip(&index.0).enumerate().all(|(i, (a, b))| i == axis || a == b);
    if same {
        return Ok(());
    }
    Err(RuleError::new(format!("need equal extents except along axis {axis}, got {x} and index {index}")))
}
