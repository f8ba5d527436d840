//! Ops that only move elements. Most become strides of whoever reads the result and never run.

use super::{RuleError, Type, Vjp};
use crate::ir::prim::{full, pad_zeros, permute, reshape, slice, sum};
use crate::ir::value::{around, each_index, strides};
use crate::ir::{Dim, EvalSite, Shape, Tensor, Value};

/// One axis of a slice: elements `start, start + step, …`, `len` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SliceAxis {
    pub start: Dim,
    pub len: Dim,
    /// At least 1; backwards is `Flip`.
    pub step: usize,
}

/// A movement op. One operand, except `Concat`.
#[derive(Clone, Debug, PartialEq)]
pub enum Movement {
    /// The same elements in row-major order under another shape.
    Reshape { shape: Shape },
    /// Axis i of the result is axis `perm[i]` of the operand.
    Permute { perm: Vec<usize> },
    /// Axes of extent 1 repeated to the extents of `shape`, which has the operand's rank.
    Broadcast { shape: Shape },
    /// A regular sub-range of each axis.
    Slice { axes: Vec<SliceAxis> },
    /// `lo` and `hi` new elements of `value` at both ends of each axis.
    Pad { lo: Vec<usize>, hi: Vec<usize>, value: f64 },
    /// Each axis of the list reversed.
    Flip { axes: Vec<usize> },
    /// Any number of operands joined along `axis`; their other axes are equal.
    Concat { axis: usize },
}

impl Movement {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let x = &operands[0];
        let shape = match self {
            Movement::Reshape { shape } => infer_reshape(&x.shape, shape)?,
            Movement::Permute { perm } => infer_permute(&x.shape, perm)?,
            Movement::Broadcast { shape } => infer_broadcast(&x.shape, shape)?,
            Movement::Slice { axes } => infer_slice(&x.shape, axes)?,
            Movement::Pad { lo, hi, .. } => infer_pad(&x.shape, lo, hi)?,
            Movement::Flip { axes } => match axes.iter().find(|&&a| a >= x.shape.rank()) {
                Some(axis) => return Err(RuleError::new(format!("axis {axis} is not in {}", x.shape))),
                None => x.shape.clone(),
            },
            Movement::Concat { axis } => infer_concat(operands, *axis)?,
        };
        Ok(Type { dtype: x.dtype, shape })
    }

    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        let x = operands[0];
        let steps = strides(&x.shape);
        let at = |axis: usize, i: usize| i * steps[axis];
        match self {
            Movement::Reshape { .. } => x.data.clone(),
            Movement::Permute { perm } => gather(x, site, |axis, i| Some(at(perm[axis], i))),
            Movement::Broadcast { .. } => {
                gather(x, site, |axis, i| Some(if x.shape[axis] == 1 { 0 } else { at(axis, i) }))
            }
            Movement::Slice { axes } => {
                gather(x, site, |axis, i| Some(at(axis, axes[axis].start.at(site.batch) + i * axes[axis].step)))
            }
            Movement::Flip { axes } => {
                gather(x, site, |axis, i| Some(at(axis, if axes.contains(&axis) { x.shape[axis] - 1 - i } else { i })))
            }
            Movement::Pad { lo, value, .. } => gather_or(x, site, *value, |axis, i| {
                let from = i.checked_sub(lo[axis])?;
                (from < x.shape[axis]).then(|| at(axis, from))
            }),
            Movement::Concat { axis } => concat(operands, *axis),
        }
    }

    pub fn vjp(&self, x: &[Tensor], d_y: &Tensor, wanted: &[bool]) -> Vjp {
        let from = x[0].shape();
        Vjp::Grads(vec![Some(match self {
            Movement::Reshape { .. } => reshape(d_y, &from),
            Movement::Permute { perm } => {
                let mut inverse = vec![0; perm.len()];
                perm.iter().enumerate().for_each(|(to, &axis)| inverse[axis] = to);
                permute(d_y, inverse)
            }
            Movement::Broadcast { shape } => {
                let repeated = from.0.iter().zip(&shape.0).enumerate().filter(|(_, (a, b))| a != b);
                sum(d_y, repeated.map(|(axis, _)| axis).collect())
            }
            Movement::Slice { axes } => slice_adjoint(d_y, &from, axes),
            Movement::Pad { lo, .. } => {
                let inside = from.0.iter().zip(lo).map(|(&len, &l)| SliceAxis { start: l.into(), len, step: 1 });
                slice(d_y, inside.collect())
            }
            Movement::Flip { axes } => d_y.apply(Movement::Flip { axes: axes.clone() }, &[]),
            Movement::Concat { axis } => return Vjp::Grads(concat_parts(x, d_y, wanted, *axis)),
        })])
    }

    pub fn name(&self) -> &'static str {
        match self {
            Movement::Reshape { .. } => "reshape",
            Movement::Permute { .. } => "permute",
            Movement::Broadcast { .. } => "broadcast",
            Movement::Slice { .. } => "slice",
            Movement::Pad { .. } => "pad",
            Movement::Flip { .. } => "flip",
            Movement::Concat { .. } => "concat",
        }
    }
}

fn infer_reshape(x: &Shape, to: &Shape) -> Result<Shape, RuleError> {
    let too_big = |shape: &Shape| {
        RuleError::new(format!("{shape} holds B² elements, and an extent can only be a·B + b"))
            .help("keep the batch axis apart, or ask for a fixed batch size")
    };
    if let Some(fault) = to.fault() {
        return Err(RuleError::new(fault));
    }
    let (from_n, to_n) = (x.numel().ok_or_else(|| too_big(x))?, to.numel().ok_or_else(|| too_big(to))?);
    if from_n != to_n {
        return Err(RuleError::new(format!("cannot view {x} ({from_n} elements) as {to} ({to_n} elements)")));
    }
    Ok(to.clone())
}

fn infer_permute(x: &Shape, perm: &[usize]) -> Result<Shape, RuleError> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if sorted.iter().copied().ne(0..x.rank()) {
        return Err(RuleError::new(format!("need each axis of {x} once, got {perm:?}")));
    }
    Ok(Shape(perm.iter().map(|&axis| x.0[axis]).collect()))
}

fn infer_broadcast(x: &Shape, to: &Shape) -> Result<Shape, RuleError> {
    let fits = x.rank() == to.rank() && x.0.iter().zip(&to.0).all(|(a, b)| a == b || *a == Dim::ONE);
    if !fits {
        return Err(RuleError::new(format!("cannot broadcast {x} to {to}"))
            .help("aligned from the right, extents must be equal or 1"));
    }
    Ok(to.clone())
}

fn infer_slice(x: &Shape, axes: &[SliceAxis]) -> Result<Shape, RuleError> {
    assert_eq!(axes.len(), x.rank(), "bug: a slice names each axis");
    for (axis, (extent, s)) in x.0.iter().zip(axes).enumerate() {
        // The last element taken must exist for every B >= 1: both coefficients of what is left are checked.
        let end = s.start + (s.len - Dim::ONE) * s.step as i64 + Dim::ONE;
        let left = *extent - end;
        let empty = s.len == Dim::ZERO;
        let is_negative = |d: Dim| d.batch < 0 || d.at_signed(1) < 0;
        if s.step == 0 || (!empty && (is_negative(left) || is_negative(s.start))) {
            return Err(RuleError::new(format!(
                "axis {axis} of {x}: {} elements from {} in steps of {} leave the axis",
                s.len, s.start, s.step
            )));
        }
    }
    Ok(Shape(axes.iter().map(|s| s.len).collect()))
}

fn infer_pad(x: &Shape, lo: &[usize], hi: &[usize]) -> Result<Shape, RuleError> {
    assert!(lo.len() == x.rank() && hi.len() == x.rank(), "bug: a pad names each axis");
    Ok(Shape(x.0.iter().zip(lo).zip(hi).map(|((d, l), h)| *d + Dim::fixed(l + h)).collect()))
}

fn infer_concat(operands: &[Type], axis: usize) -> Result<Shape, RuleError> {
    let first = &operands[0];
    if axis >= first.shape.rank() {
        return Err(RuleError::new(format!("axis {axis} is not in {}", first.shape)));
    }
    let mut joined = Dim::ZERO;
    for x in operands {
        let same = x.shape.rank() == first.shape.rank()
            && x.shape.0.iter().zip(&first.shape.0).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if !same || x.dtype != first.dtype {
            return Err(RuleError::new(format!(
                "need equal extents except along axis {axis} and one dtype, got {} {} and {} {}",
                first.shape, first.dtype, x.shape, x.dtype
            )));
        }
        joined = joined + x.shape.0[axis];
    }
    let mut shape = first.shape.clone();
    shape.0[axis] = joined;
    Ok(shape)
}

/// Puts the elements of `d_y` back where a slice of `from` took them, zeros elsewhere.
fn slice_adjoint(d_y: &Tensor, from: &Shape, axes: &[SliceAxis]) -> Tensor {
    if axes.iter().any(|a| a.len == Dim::ZERO) {
        return full(d_y, 0.0, d_y.dtype(), from);
    }
    let rank = axes.len();
    let lo: Vec<Dim> = axes.iter().map(|a| a.start).collect();
    if axes.iter().all(|a| a.step == 1) {
        let hi: Vec<Dim> = from.0.iter().zip(axes).map(|(&d, a)| d - a.start - a.len).collect();
        return pad_zeros(d_y, &lo, &hi);
    }
    // Each element becomes a block of `step`: itself, then zeros. The last block may hang over the end of the axis, by `step - 1` at
    // most, so that much is added beyond the end before the axis is cut to its length.
    let blocks = |block: fn(&SliceAxis) -> Dim| Shape(axes.iter().flat_map(|a| [a.len, block(a)]).collect());
    let tails: Vec<Dim> = axes.iter().flat_map(|a| [Dim::ZERO, Dim::fixed(a.step - 1)]).collect();
    let spaced = pad_zeros(&reshape(d_y, &blocks(|_| Dim::ONE)), &vec![Dim::ZERO; 2 * rank], &tails);
    let joined = reshape(&spaced, &Shape(axes.iter().map(|a| a.len * a.step as i64).collect()));
    let hi = from.0.iter().zip(axes).map(|(&d, a)| d - a.start - a.len * a.step as i64 + Dim::fixed(a.step - 1));
    let padded = pad_zeros(&joined, &lo, &hi.collect::<Vec<Dim>>());
    slice(&padded, from.0.iter().map(|&len| SliceAxis { start: Dim::ZERO, len, step: 1 }).collect())
}

fn concat_parts(x: &[Tensor], d_y: &Tensor, wanted: &[bool], axis: usize) -> Vec<Option<Tensor>> {
    let mut start = Dim::ZERO;
    let parts = x.iter().zip(wanted).map(|(x, &wanted)| {
        let shape = x.shape();
        let mut axes: Vec<SliceAxis> =
            shape.0.iter().map(|&len| SliceAxis { start: Dim::ZERO, len, step: 1 }).collect();
        axes[axis].start = start;
        start = start + shape.0[axis];
        wanted.then(|| slice(d_y, axes))
    });
    parts.collect()
}

/// Element `index` of the result is the element of `x` at the sum of `offset(axis, index[axis])`.
fn gather(x: &Value, site: &EvalSite, offset: impl Fn(usize, usize) -> Option<usize>) -> Vec<f64> {
    gather_or(x, site, 0.0, offset)
}

/// As `gather`, or `fill` where an axis has no offset.
fn gather_or(x: &Value, site: &EvalSite, fill: f64, offset: impl Fn(usize, usize) -> Option<usize>) -> Vec<f64> {
    let mut out = vec![fill; site.shape.iter().product()];
    each_index(&site.shape, |place, index| {
        let from: Option<usize> = index.iter().enumerate().map(|(axis, &i)| offset(axis, i)).sum();
        if let Some(from) = from {
            out[place] = x.data[from];
        }
    });
    out
}

fn concat(operands: &[&Value], axis: usize) -> Vec<f64> {
    let outer = around(&operands[0].shape, axis)[0];
    let mut out = Vec::new();
    for o in 0..outer {
        for x in operands {
            let [_, len, inner] = around(&x.shape, axis);
            out.extend_from_slice(&x.data[o * len * inner..(o + 1) * len * inner]);
        }
    }
    out
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::case::{Case, floats, flows, stops, whole};
    use crate::ir::prim::{broadcast, mul};
    use crate::ir::{Batch, DType};
    // Squared, so that the gradient depends on x and has a gradient of its own.
    fn square(x: &Tensor) -> Tensor {
        mul(x, x)
    }
    let mut rows: Vec<Case> = vec![
        flows("reshape", "batch joined", [floats((Batch, 2, 3))], |_, x| {
            square(&reshape(&x[0], &Shape(vec![Batch * 2, 3.into()])))
        }),
        flows("permute", "three axes", [floats((Batch, 2, 3))], |_, x| square(&permute(&x[0], vec![2, 0, 1]))),
        flows("permute", "matrix", [floats([17, 19])], |_, x| square(&permute(&x[0], vec![1, 0]))),
        flows("broadcast", "row", [floats([1, 4])], |_, x| square(&broadcast(&x[0], &(Batch, 4).into()))),
        flows("broadcast", "column and scalar", [floats((Batch, 1, 1))], |_, x| {
            square(&broadcast(&x[0], &(Batch, 3, 2).into()))
        }),
        flows("pad", "both ends", [floats((Batch, 3))], |_, x| {
            square(&x[0].apply(Movement::Pad { lo: vec![1, 0], hi: vec![2, 3], value: 0.5 }, &[]))
        }),
        flows("flip", "two axes", [floats((Batch, 3, 2))], |_, x| {
            square(&x[0].apply(Movement::Flip { axes: vec![0, 2] }, &[]))
        }),
        flows("concat", "three parts", [floats((Batch, 2)), floats((Batch, 1)), floats((Batch, 3))], |_, x| {
            square(&x[0].apply(Movement::Concat { axis: 1 }, &[&x[1], &x[2]]))
        }),
        flows("concat", "batch axis", [floats((Batch, 2)), floats((Batch * 2, Dim::fixed(2)))], |_, x| {
            square(&x[0].apply(Movement::Concat { axis: 0 }, &[&x[1]]))
        }),
        flows("concat", "one twice", [floats((Batch, 2))], |_, x| {
            square(&x[0].apply(Movement::Concat { axis: 1 }, &[&x[0]]))
        }),
        stops("flip", "u8", [whole(DType::U8, (Batch, 5), 0, 255)], |_, x| {
            x[0].apply(Movement::Flip { axes: vec![1] }, &[])
        }),
    ];
    rows.extend(slice_cases());
    rows
}

#[cfg(any(test, feature = "cases"))]
fn slice_cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{floats, flows};
    use crate::ir::prim::mul;
    fn part(x: &Tensor, axes: &[(Dim, Dim, usize)]) -> Tensor {
        let y = slice(x, axes.iter().map(|&(start, len, step)| SliceAxis { start, len, step }).collect());
        mul(&y, &y)
    }
    const fn n(n: usize) -> Dim {
        Dim::fixed(n)
    }
    vec![
        flows("slice", "inside", [floats((Batch, 7))], |_, x| part(&x[0], &[(n(0), Batch, 1), (n(2), n(4), 1)])),
        flows("slice", "step 3", [floats((Batch, 8))], |_, x| part(&x[0], &[(n(0), Batch, 1), (n(1), n(3), 3)])),
        flows("slice", "step 2 to the end", [floats([5, 6])], |_, x| part(&x[0], &[(n(0), n(3), 2), (n(1), n(3), 2)])),
        flows("slice", "first half of 2B", [floats([Batch * 2])], |_, x| part(&x[0], &[(n(0), Batch, 1)])),
        flows("slice", "second half of 2B", [floats([Batch * 2])], |_, x| part(&x[0], &[(Batch, Batch, 1)])),
        flows("slice", "every second of 2B", [floats([Batch * 2])], |_, x| part(&x[0], &[(n(1), Batch, 2)])),
        flows("slice", "all but the first row", [floats([Batch + n(2)])], |_, x| {
            part(&x[0], &[(n(1), Batch + n(1), 1)])
        }),
        flows("slice", "one row of the batch", [floats((Batch, 3))], |_, x| {
            part(&x[0], &[(n(0), n(1), 1), (n(0), n(3), 1)])
        }),
        flows("slice", "the last row of the batch", [floats((Batch, 3))], |_, x| {
            part(&x[0], &[(Batch - n(1), n(1), 1), (n(0), n(3), 1)])
        }),
    ]
}
