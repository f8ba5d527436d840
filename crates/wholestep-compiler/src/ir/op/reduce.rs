//! Ops that join the elements along axes. A reduced axis stays, with extent 1; `ops/` drops it where the user asks.

use super::{RuleError, Type, Vjp};
use crate::ir::prim::{broadcast, cast, div, eq, mul, sum};
use crate::ir::value::{around, each_index, strides, wrap};
use crate::ir::{DType, Dim, EvalSite, Shape, Tensor, Value};

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

    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        let x = operands[0];
        match self {
            Reduce::Sum { axes } => fold(x, axes, site, 0.0, |a, b| sum_in(x.dtype, a, b)),
            Reduce::Max { axes } => fold(x, axes, site, f64::NEG_INFINITY, largest),
            Reduce::Min { axes } => fold(x, axes, site, f64::INFINITY, |a, b| -largest(-a, -b)),
            Reduce::ArgMax { axis } => lines(x, *axis, |line| vec![first_largest(line)]),
            Reduce::CumSum { axis, reverse } => lines(x, *axis, |line| running_sum(line, *reverse, x.dtype)),
        }
    }

    /// `Max` and `Min` share the gradient evenly among equal extremes, as PyTorch's `amax` and `amin`.
    pub fn vjp(&self, x: &[Tensor], y: &Tensor, d_y: &Tensor) -> Vjp {
        let shape = x[0].shape();
        Vjp::Grads(vec![Some(match self {
            Reduce::Sum { .. } => broadcast(d_y, &shape),
            Reduce::Max { axes } | Reduce::Min { axes } => {
                let chosen = cast(&eq(&x[0], &broadcast(y, &shape)), y.dtype());
                let share = div(d_y, &sum(&chosen, axes.clone()));
                mul(&chosen, &broadcast(&share, &shape))
            }
            Reduce::CumSum { axis, reverse } => d_y.apply(Reduce::CumSum { axis: *axis, reverse: !reverse }, &[]),
            Reduce::ArgMax { .. } => return Vjp::NotDifferentiable,
        })])
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

fn sum_in(dtype: DType, a: f64, b: f64) -> f64 {
    if dtype.is_float() { a + b } else { wrap(dtype, a as i128 + b as i128) }
}

/// The larger; NaN if either is.
pub(crate) fn largest(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The place of the first largest; a NaN is larger than all numbers.
pub(crate) fn first_largest(line: &[f64]) -> f64 {
    let mut best = 0;
    for (i, &v) in line.iter().enumerate() {
        if v > line[best] || (v.is_nan() && !line[best].is_nan()) {
            best = i;
        }
    }
    best as f64
}

fn running_sum(line: &[f64], reverse: bool, dtype: DType) -> Vec<f64> {
    let mut sums = line.to_vec();
    let n = line.len();
    for i in 1..n {
        let (to, from) = if reverse { (n - 1 - i, n - i) } else { (i, i - 1) };
        sums[to] = sum_in(dtype, sums[from], line[to]);
    }
    sums
}

/// Joins the elements over `axes` in row-major order.
fn fold(x: &Value, axes: &[usize], site: &EvalSite, start: f64, join: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mut out = vec![start; site.shape.iter().product()];
    let steps = strides(&site.shape);
    each_index(&x.shape, |place, index| {
        let to: usize = index.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(i, v)| v * steps[i]).sum();
        out[to] = join(out[to], x.data[place]);
    });
    out
}

/// Applies `f` to each line along `axis`; its results stand along that axis.
pub(crate) fn lines(x: &Value, axis: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let [outer, len, inner] = around(&x.shape, axis);
    let mut columns = Vec::new();
    for o in 0..outer {
        let results: Vec<Vec<f64>> =
            (0..inner).map(|i| f(&(0..len).map(|k| x.data[(o * len + k) * inner + i]).collect::<Vec<f64>>())).collect();
        let n = results.first().map_or(0, Vec::len);
        columns.extend((0..n).flat_map(|k| results.iter().map(move |r| r[k])));
    }
    columns
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{distinct, floats, flows, stops, ties, whole};
    use crate::ir::prim::mul;
    vec![
        flows("sum", "last axis", [floats((Batch, 5))], |_, x| sum(&mul(&x[0], &x[0]), vec![1])),
        flows("sum", "batch axis", [floats((Batch, 5))], |_, x| sum(&mul(&x[0], &x[0]), vec![0])),
        flows("sum", "outer and inner", [floats((3, Batch, 4))], |_, x| sum(&mul(&x[0], &x[0]), vec![0, 2])),
        flows("sum", "long row", [floats([2, 1000])], |_, x| sum(&x[0], vec![1])),
        stops("sum", "u32 wraps", [whole(DType::U32, [3, 4], 4_000_000_000, 4_294_967_295)], |_, x| {
            sum(&x[0], vec![1])
        }),
        stops("sum", "i32", [whole(DType::I32, (Batch, 4), -9, 9)], |_, x| sum(&x[0], vec![0])),
        flows("max", "last axis", [distinct((Batch, 7))], |_, x| x[0].apply(Reduce::Max { axes: vec![1] }, &[])),
        flows("max", "all axes", [distinct((Batch, 2, 3))], |_, x| {
            x[0].apply(Reduce::Max { axes: vec![0, 1, 2] }, &[])
        }),
        stops("max", "i32", [whole(DType::I32, [4, 5], -9, 9)], |_, x| x[0].apply(Reduce::Max { axes: vec![0] }, &[])),
        flows("min", "middle axis", [distinct((2, Batch, 3))], |_, x| x[0].apply(Reduce::Min { axes: vec![1] }, &[])),
        stops("argmax", "ties", [ties((Batch, 6))], |_, x| x[0].apply(Reduce::ArgMax { axis: 1 }, &[])),
        stops("argmax", "batch axis", [distinct((Batch, 6))], |_, x| x[0].apply(Reduce::ArgMax { axis: 0 }, &[])),
        flows("cumsum", "middle axis", [floats((2, Batch, 3))], |_, x| {
            let y = x[0].apply(Reduce::CumSum { axis: 1, reverse: false }, &[]);
            mul(&y, &y)
        }),
        flows("cumsum", "reverse", [floats((Batch, 9))], |_, x| {
            let y = x[0].apply(Reduce::CumSum { axis: 1, reverse: true }, &[]);
            mul(&y, &y)
        }),
    ]
}
