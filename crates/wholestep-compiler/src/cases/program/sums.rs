//! Steps that join elements: reductions, contractions, windows, indexing. Takes the values there are, gives a new one. Never fails: a choice
//! that does not fit gives nothing.

use super::{Builder, Known, MAX_BATCH};
use crate::ir::{DType, Dim, Shape, Tensor};
use crate::ops::conv::{ConvOptions, Padding};
use crate::ops::pool::PoolOptions;

/// Elements along some axes, at the largest batch.
fn extent_of(shape: &Shape, axes: &[i64]) -> f64 {
    axes.iter().map(|&a| shape.0[a as usize].at(MAX_BATCH) as f64).product()
}

pub fn reduce(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let rank = x.t.rank();
    let chosen = b.pick(1 << rank);
    let mut axes: Vec<i64> = (0..rank as i64).filter(|i| chosen >> i & 1 == 1).collect();
    if axes.is_empty() {
        axes = (0..rank as i64).collect();
    }
    let n = extent_of(&x.t.shape(), &axes);
    let keep = b.pick(2) == 0;
    let (t, exact, bound) = match b.pick(6) {
        0 if keep => (x.t.sum_keepdim(axes), false, x.bound * n),
        0 | 1 => (x.t.sum(axes), false, x.bound * n),
        2 if keep => (x.t.mean_keepdim(axes), false, x.bound),
        2 => (x.t.mean(axes), false, x.bound),
        3 if keep => (x.t.max_keepdim(axes), x.exact, x.bound),
        3 => (x.t.max(axes), x.exact, x.bound),
        4 => (x.t.min(axes), x.exact, x.bound),
        _ if x.exact && rank > 0 => (x.t.argmax(axes[0]).cast(b.float) * 0.125, true, n),
        _ => return None,
    };
    Some(Known { t, exact, bound })
}

/// What layers do with rows and channels.
pub fn normalize(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let axis = b.axis(&x.t)? as i64;
    let centred = &x.t - x.t.mean_keepdim(axis);
    let (t, bound) = match b.pick(4) {
        0 => ((&x.t * (1.0 / x.bound)).softmax(axis), 1.0),
        1 => ((&x.t * (1.0 / x.bound)).log_softmax(axis), 10.0),
        2 => (&centred * (centred.square().mean_keepdim(axis) + 0.25).rsqrt(), 10.0),
        _ => (centred, 2.0 * x.bound),
    };
    Some(Known { t, exact: false, bound })
}

pub fn scan_or_sort(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let axis = b.axis(&x.t)? as i64;
    let n = extent_of(&x.t.shape(), &[axis]);
    match b.pick(3) {
        0 => Some(Known { t: x.t.cumsum(axis), exact: false, bound: x.bound * n }),
        1 if x.exact => Some(Known { t: x.t.sort(axis, false).0, ..x }),
        _ if x.exact => Some(Known { t: x.t.argsort(axis, true).cast(b.float) * 0.125, exact: true, bound: n }),
        _ => None,
    }
}

pub fn matmul(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let rank = x.t.rank();
    if rank == 0 {
        return None;
    }
    let k = x.t.shape().0[rank - 1];
    let (y, bound) = match b.pick(3) {
        0 => {
            let n = b.extent().as_fixed().unwrap_or(3);
            (b.param(Shape(vec![Dim::fixed(k.as_fixed()?), Dim::fixed(n)]))?, 1.0)
        }
        1 => {
            let y = b.any_float()?;
            (if y.t.rank() > 1 { y.t.transpose(-1, -2) } else { y.t }, y.bound)
        }
        _ => {
            let y = b.any_float()?;
            (y.t, y.bound)
        }
    };
    let n = k.at(MAX_BATCH) as f64;
    Some(Known { t: x.t.matmul(&y), exact: false, bound: x.bound * bound * n })
}

pub fn conv(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let shape = x.t.shape();
    if !(3..=4).contains(&shape.rank()) || shape.0[1..].iter().any(|d| d.batch != 0) {
        return None;
    }
    let c_in = shape.0[1].as_fixed()?;
    let groups = if b.pick(3) == 0 { c_in } else { 1 };
    let c_out = groups * (1 + b.pick(3));
    let (size, stride, pad) = (1 + b.pick(3), 1 + b.pick(2), b.pick(2));
    let bound = x.bound * (c_in / groups * size * size) as f64;
    let t = if shape.rank() == 4 {
        let w = b.param(Shape::from(vec![c_out, c_in / groups, size, size]))?;
        let options = ConvOptions { stride: [stride; 2], padding: Padding::all(pad), groups, ..Default::default() };
        x.t.conv2d(&w, None, &options)
    } else {
        let w = b.param(Shape::from(vec![c_out, c_in / groups, size]))?;
        let options = ConvOptions { stride: [stride], padding: Padding::all(pad), groups, ..Default::default() };
        x.t.conv1d(&w, None, &options)
    };
    Some(Known { t, exact: false, bound })
}

pub fn pool(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    if x.t.rank() != 4 {
        return None;
    }
    let options = PoolOptions { stride: [1 + b.pick(2); 2], ..PoolOptions::new([1 + b.pick(2), 2]) };
    let t = match b.pick(2) {
        0 if x.exact => x.t.max_pool2d(&options),
        _ => x.t.avg_pool2d(&options),
    };
    Some(Known { t, exact: false, bound: x.bound })
}

/// A whole-number index of `shape` into `len`: given, or random bits.
fn index(b: &mut Builder, shape: &Shape, len: Dim) -> Tensor {
    // Every index must exist at the smallest batch.
    let n = len.at(1);
    let name = b.name();
    match b.pick(2) {
        0 => b.scope.labels(&name, shape, DType::I32, n, None),
        _ => b.scope.random_bits(shape).remainder(n as f64),
    }
}

pub fn take(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let axis = b.axis(&x.t)?;
    let shape = Shape(b.shape().0.into_iter().take(2).collect());
    let index = index(b, &shape, x.t.shape().0[axis]);
    Some(Known { t: x.t.take(axis as i64, &index), ..x })
}

pub fn gather(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let axis = b.axis(&x.t)?;
    let mut shape = x.t.shape();
    let len = shape.0[axis];
    if b.pick(2) == 0 {
        shape.0[axis] = Dim::fixed(1 + b.pick(3));
    }
    let index = index(b, &shape, len);
    if b.pick(3) == 0 {
        let source = b.any_float()?;
        let bound = x.bound + source.bound * extent_of(&shape, &[axis as i64]);
        let t = x.t.scatter_add(axis as i64, &index, &source.t.broadcast_to(&shape));
        return Some(Known { t, exact: false, bound });
    }
    Some(Known { t: x.t.gather(axis as i64, &index), ..x })
}
