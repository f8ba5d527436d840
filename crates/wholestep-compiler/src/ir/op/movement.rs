//! Ops that only move elements. Most become strides of whoever reads the result and never run.

use super::{RuleError, Type};
use crate::ir::{Dim, Shape};

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
        if s.step == 0 || (!empty && (left.batch < 0 || left.at_signed(1) < 0 || s.start.at_signed(1) < 0)) {
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
