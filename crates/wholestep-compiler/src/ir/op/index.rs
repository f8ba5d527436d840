//! Ops whose addresses are data. Index operands are i32, u32 or i64. An index out of range is clamped on the device, so that memory is
//! safe; what comes from the user (labels, tokens) is checked against its range when the batch is handed over.

use super::reduce::lines;
use super::{RuleError, Type, Vjp};
use crate::ir::prim::fill;
use crate::ir::value::{around, each_index, strides, wrap_all};
use crate::ir::{DType, Dim, EvalSite, Shape, Tensor, Value};

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
    /// Operands x, index (a scalar), slice (x without the axis); result: x with the slice in place of the one at the index. Where x is a slot or a
    /// value of a loop and the result its next value, only the slice is written.
    Put { axis: usize },
    /// Operand x; result i32 of its shape: the order that sorts `axis`, stable; NaN sorts last (first if descending). Not differentiable.
    ArgSort { axis: usize, descending: bool },
}

impl Index {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let x = &operands[0];
        let axis = match self {
            Index::Take { axis } | Index::TakeAlong { axis } | Index::Put { axis } | Index::ArgSort { axis, .. } => {
                *axis
            }
            Index::TakeGrad { axis, .. } | Index::TakeAlongGrad { axis, .. } => *axis,
        };
        // The result of `Take` with a scalar index has lost the axis, which may have been the last.
        let n_axes = x.shape.rank() + usize::from(matches!(self, Index::TakeGrad { .. }));
        if axis >= n_axes {
            return Err(RuleError::new(format!("axis {axis} is not in {}", x.shape)));
        }
        if let Some(index) = operands.get(1)
            && !matches!(index.dtype, DType::I32 | DType::U32 | DType::I64)
        {
            return Err(RuleError::new(format!("need an index of i32, u32 or i64, got {}", index.dtype)));
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
            Index::Put { .. } => {
                let (index, slice) = (&operands[1], &operands[2]);
                let mut without = x.shape.0.clone();
                without.remove(axis);
                if index.shape.rank() != 0 || slice.dtype != x.dtype || slice.shape.0 != without {
                    let (slice, at) = (format!("{} {}", slice.shape, slice.dtype), &index.shape);
                    let wanted = format!("{} {}", Shape(without), x.dtype);
                    return Err(RuleError::new(format!(
                        "need a slice {wanted} and a scalar index, got {slice} and {at}"
                    )));
                }
                Ok(x.clone())
            }
            Index::ArgSort { .. } => Ok(Type { dtype: DType::I32, shape: x.shape.clone() }),
        }
    }

    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        let x = operands[0];
        let mut out = vec![0.0; site.shape.iter().product()];
        match self {
            Index::Take { axis } => {
                each_taken(&x.shape, *axis, operands[1], |from, to| out[to] = x.data[from]);
            }
            Index::TakeGrad { axis, .. } => {
                each_taken(&site.shape, *axis, operands[1], |to, from| out[to] += x.data[from]);
            }
            Index::TakeAlong { axis } => {
                each_taken_along(&x.shape, *axis, operands[1], |from, to| out[to] = x.data[from]);
            }
            Index::TakeAlongGrad { axis, .. } => {
                each_taken_along(&site.shape, *axis, operands[1], |to, from| out[to] += x.data[from]);
            }
            Index::Put { axis } => {
                let [outer, len, inner] = around(&x.shape, *axis);
                let at = clamped(operands[1].data[0], len);
                out.copy_from_slice(&x.data);
                for (o, slice) in operands[2].data.chunks(inner.max(1)).take(outer).enumerate() {
                    out[(o * len + at) * inner..][..inner].copy_from_slice(slice);
                }
            }
            Index::ArgSort { axis, descending } => return lines(x, *axis, |line| sorting_order(line, *descending)),
        }
        wrap_all(site.dtype, out)
    }

    pub fn vjp(&self, x: &[Tensor], d_y: &Tensor) -> Vjp {
        let len = |axis: usize| x[0].shape().0[axis];
        let op = match self {
            Index::Take { axis } => Index::TakeGrad { axis: *axis, len: len(*axis) },
            Index::TakeGrad { axis, .. } => Index::Take { axis: *axis },
            Index::TakeAlong { axis } => Index::TakeAlongGrad { axis: *axis, len: len(*axis) },
            Index::TakeAlongGrad { axis, .. } => Index::TakeAlong { axis: *axis },
            Index::Put { axis } => {
                let d_x = d_y.apply(self.clone(), &[&x[1], &fill(&x[2], 0.0)]);
                return Vjp::Grads(vec![Some(d_x), None, Some(d_y.apply(Index::Take { axis: *axis }, &[&x[1]]))]);
            }
            Index::ArgSort { .. } => return Vjp::NotDifferentiable,
        };
        Vjp::Grads(vec![Some(d_y.apply(op, &[&x[1]])), None])
    }

    pub fn name(&self) -> &'static str {
        match self {
            Index::Take { .. } => "take",
            Index::TakeGrad { .. } => "take_grad",
            Index::TakeAlong { .. } => "gather",
            Index::TakeAlongGrad { .. } => "scatter_add",
            Index::Put { .. } => "put",
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

/// The place that an index stands for on an axis of `len`: out of range is clamped, as on the devices.
fn clamped(index: f64, len: usize) -> usize {
    index.clamp(0.0, len.saturating_sub(1) as f64) as usize
}

/// Calls `visit` with the places in x and in the result of `Take` that hold the same element.
fn each_taken(x: &[usize], axis: usize, index: &Value, mut visit: impl FnMut(usize, usize)) {
    let [outer, len, inner] = around(x, axis);
    let n = index.data.len();
    for o in 0..outer {
        for (k, &at) in index.data.iter().enumerate() {
            for i in 0..inner {
                visit((o * len + clamped(at, len)) * inner + i, (o * n + k) * inner + i);
            }
        }
    }
}

/// As `each_taken` for `TakeAlong`, where each element has an index of its own.
fn each_taken_along(x: &[usize], axis: usize, index: &Value, mut visit: impl FnMut(usize, usize)) {
    let steps = strides(x);
    each_index(&index.shape, |place, at| {
        let others: usize = at.iter().enumerate().filter(|(i, _)| *i != axis).map(|(i, v)| v * steps[i]).sum();
        visit(others + clamped(index.data[place], x[axis]) * steps[axis], place);
    });
}

/// The stable order of a line; NaN counts as largest.
fn sorting_order(line: &[f64], descending: bool) -> Vec<f64> {
    let compare = |a: f64, b: f64| match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b).expect("bug: two numbers do not compare"),
        (a, b) => a.cmp(&b),
    };
    let mut order: Vec<usize> = (0..line.len()).collect();
    order.sort_by(|&i, &j| if descending { compare(line[j], line[i]) } else { compare(line[i], line[j]) });
    order.into_iter().map(|i| i as f64).collect()
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{distinct, floats, flows, stops, ties, whole};
    use crate::ir::prim::mul;
    use DType::{I32, I64, U32};
    fn square(x: &Tensor) -> Tensor {
        mul(x, x)
    }
    vec![
        flows("take", "embedding", [floats([5, 3]), whole(U32, (Batch, 4), 0, 4)], |_, x| {
            square(&x[0].apply(Index::Take { axis: 0 }, &[&x[1]]))
        }),
        flows(
            "take",
            "inner axis, out of range is clamped",
            [floats((Batch, 5, 2)), whole(I32, [6], -2, 7)],
            |_, x| square(&x[0].apply(Index::Take { axis: 1 }, &[&x[1]])),
        ),
        flows("take", "scalar index", [floats([5]), whole(I64, Shape::scalar(), 0, 4)], |_, x| {
            square(&x[0].apply(Index::Take { axis: 0 }, &[&x[1]]))
        }),
        flows("take_grad", "embedding", [floats((Batch, 4, 3)), whole(U32, (Batch, 4), 0, 4)], |_, x| {
            square(&x[0].apply(Index::TakeGrad { axis: 0, len: 5.into() }, &[&x[1]]))
        }),
        flows("take_grad", "rows of fours", [floats((Batch, 3, 8)), whole(U32, (Batch, 3), 0, 4)], |_, x| {
            square(&x[0].apply(Index::TakeGrad { axis: 0, len: 5.into() }, &[&x[1]]))
        }),
        flows("take_grad", "rows of the batch", [floats([3, 2]), whole(I32, [3], 0, 0)], |_, x| {
            square(&x[0].apply(Index::TakeGrad { axis: 0, len: Batch }, &[&x[1]]))
        }),
        flows("gather", "labels", [floats((Batch, 5)), whole(I32, (Batch, 1), 0, 4)], |_, x| {
            square(&x[0].apply(Index::TakeAlong { axis: 1 }, &[&x[1]]))
        }),
        flows("gather", "middle axis", [floats((2, 5, 3)), whole(I64, [2, 4, 3], 0, 4)], |_, x| {
            square(&x[0].apply(Index::TakeAlong { axis: 1 }, &[&x[1]]))
        }),
        flows("scatter_add", "labels", [floats((Batch, 3)), whole(I32, (Batch, 3), 0, 4)], |_, x| {
            square(&x[0].apply(Index::TakeAlongGrad { axis: 1, len: 5.into() }, &[&x[1]]))
        }),
        flows("put", "a row", [floats([3, 4]), whole(I32, Shape::scalar(), 0, 2), floats([4])], |_, x| {
            square(&x[0].apply(Index::Put { axis: 0 }, &[&x[1], &x[2]]))
        }),
        flows(
            "put",
            "inner axis, out of range is clamped",
            [floats((Batch, 3, 2)), whole(U32, Shape::scalar(), 7, 9), floats((Batch, 2))],
            |_, x| square(&x[0].apply(Index::Put { axis: 1 }, &[&x[1], &x[2]])),
        ),
        stops("scatter_add", "counts", [whole(I32, [1, 9], 1, 1), whole(I32, [1, 9], 0, 3)], |_, x| {
            x[0].apply(Index::TakeAlongGrad { axis: 1, len: 4.into() }, &[&x[1]])
        }),
        stops("argsort", "up, stable", [ties((Batch, 9))], |_, x| {
            x[0].apply(Index::ArgSort { axis: 1, descending: false }, &[])
        }),
        stops("argsort", "down, middle axis", [distinct((2, 7, 3))], |_, x| {
            x[0].apply(Index::ArgSort { axis: 1, descending: true }, &[])
        }),
        stops("argsort", "down, stable, i32", [whole(I32, (Batch, 9), -2, 2)], |_, x| {
            x[0].apply(Index::ArgSort { axis: 1, descending: true }, &[])
        }),
    ]
}
