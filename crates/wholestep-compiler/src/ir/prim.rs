//! One function per primitive application, without broadcasting or conversion: what gradients are written with. Takes tensors whose
//! shapes and dtypes fit already, gives the node. Never chooses an axis or a dtype for the caller: that is the maths of `ops/`.

use super::op::{Binary, Contract, Elementwise, Leaf, Movement, Op, Reduce, SliceAxis, Unary};
use super::{DType, Dim, Loc, Shape, Tensor};
use std::panic::Location;

macro_rules! unary_functions {
    ($($name:ident $op:ident),+ $(,)?) => {
        $(pub(crate) fn $name(x: &Tensor) -> Tensor {
            x.apply(Elementwise::Unary(Unary::$op), &[])
        })+
    };
}
unary_functions!(neg Neg, sign Sign, exp Exp, sin Sin, cos Cos, log Log, round Round, rsqrt Rsqrt);

macro_rules! binary_functions {
    ($($name:ident $op:ident),+ $(,)?) => {
        $(pub(crate) fn $name(x: &Tensor, y: &Tensor) -> Tensor {
            x.apply(Elementwise::Binary(Binary::$op), &[y])
        })+
    };
}
binary_functions!(add Add, sub Sub, mul Mul, div Div, pow Pow, eq Eq, lt Lt, gt Gt, ge Ge, and And);

pub(crate) fn select(cond: &Tensor, yes: &Tensor, no: &Tensor) -> Tensor {
    cond.apply(Elementwise::Select, &[yes, no])
}

pub(crate) fn cast(x: &Tensor, to: DType) -> Tensor {
    if x.dtype() == to { x.clone() } else { x.apply(Elementwise::Cast(to), &[]) }
}

/// A tensor of `shape` whose elements are all `value`, in the graph of `near`.
#[track_caller]
pub(crate) fn full(near: &Tensor, value: f64, dtype: DType, shape: &Shape) -> Tensor {
    let (scope, loc) = (near.scope_in(&near.graph().borrow()), Loc::from(Location::caller()));
    let op = Op::Leaf(Leaf::Const { value, dtype });
    let id = near.graph().borrow_mut().push(op, &[], scope, loc);
    let scalar = Tensor::from_node(near.graph().clone(), id);
    if shape.rank() == 0 {
        return scalar;
    }
    let ones = Shape(vec![Dim::ONE; shape.rank()]);
    broadcast(&reshape(&scalar, &ones), shape)
}

/// `value` in the dtype and shape of `x`.
pub(crate) fn fill(x: &Tensor, value: f64) -> Tensor {
    full(x, value, x.dtype(), &x.shape())
}

pub(crate) fn scale(x: &Tensor, by: f64) -> Tensor {
    mul(x, &fill(x, by))
}

#[track_caller]
pub(crate) fn reshape(x: &Tensor, shape: &Shape) -> Tensor {
    if x.shape() == *shape { x.clone() } else { x.apply(Movement::Reshape { shape: shape.clone() }, &[]) }
}

#[track_caller]
pub(crate) fn broadcast(x: &Tensor, shape: &Shape) -> Tensor {
    if x.shape() == *shape { x.clone() } else { x.apply(Movement::Broadcast { shape: shape.clone() }, &[]) }
}

pub(crate) fn permute(x: &Tensor, perm: Vec<usize>) -> Tensor {
    x.apply(Movement::Permute { perm }, &[])
}

/// The sum over `axes` (sorted), which stay with extent 1.
pub(crate) fn sum(x: &Tensor, axes: Vec<usize>) -> Tensor {
    if axes.is_empty() { x.clone() } else { x.apply(Reduce::Sum { axes }, &[]) }
}

pub(crate) fn slice(x: &Tensor, axes: Vec<SliceAxis>) -> Tensor {
    let whole = x.shape().0.iter().zip(&axes).all(|(&len, a)| *a == SliceAxis { start: Dim::ZERO, len, step: 1 });
    if whole { x.clone() } else { x.apply(Movement::Slice { axes }, &[]) }
}

/// Zeros before and after each axis. Where a count depends on the batch size the zeros are a tensor of their own, joined to `x`.
pub(crate) fn pad_zeros(x: &Tensor, lo: &[Dim], hi: &[Dim]) -> Tensor {
    let fixed = |n: &Dim| n.as_fixed().unwrap_or(0);
    let (pad_lo, pad_hi): (Vec<usize>, Vec<usize>) = (lo.iter().map(fixed).collect(), hi.iter().map(fixed).collect());
    let mut y = x.clone();
    if pad_lo.iter().chain(&pad_hi).any(|&n| n > 0) {
        y = y.apply(Movement::Pad { lo: pad_lo, hi: pad_hi, value: 0.0 }, &[]);
    }
    for axis in 0..lo.len() {
        let zeros = |y: &Tensor, n: Dim| {
            let mut shape = y.shape();
            shape.0[axis] = n;
            full(y, 0.0, y.dtype(), &shape)
        };
        if lo[axis].batch != 0 {
            y = zeros(&y, lo[axis]).apply(Movement::Concat { axis }, &[&y]);
        }
        if hi[axis].batch != 0 {
            y = y.apply(Movement::Concat { axis }, &[&zeros(&y, hi[axis])]);
        }
    }
    y
}

pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    a.apply(Contract::Matmul, &[b])
}

/// The last two axes swapped.
pub(crate) fn transpose(x: &Tensor) -> Tensor {
    let r = x.rank();
    let mut perm: Vec<usize> = (0..r).collect();
    perm.swap(r - 2, r - 1);
    permute(x, perm)
}
