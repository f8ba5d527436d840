//! Steps that move elements. Takes the values there are, gives a moved one. Never computes.

use super::{Builder, Known};
use crate::ir::{Dim, Shape};

pub fn reshape(b: &mut Builder) -> Option<Known> {
    let x = b.any();
    let axis = b.axis(&x.t)?;
    let mut dims = x.t.shape().0;
    match b.pick(4) {
        // Joined with the axis before it.
        0 if axis > 0 => {
            let joined = dims[axis - 1].times(dims[axis])?;
            dims.splice(axis - 1..=axis, [joined]);
        }
        // Split.
        1 => {
            let by = Dim::fixed(2 + b.pick(3));
            let rest = dims[axis].divided_by(by)?;
            let halves = if b.pick(2) == 0 { [by, rest] } else { [rest, by] };
            dims.splice(axis..=axis, halves);
        }
        // Regrouped: one factor moves over to a neighbour.
        2 if axis > 0 => {
            let by = Dim::fixed(2);
            let rest = dims[axis].divided_by(by)?;
            (dims[axis - 1], dims[axis]) = (dims[axis - 1].times(by)?, rest);
        }
        _ => dims.insert(axis, Dim::ONE),
    }
    Some(Known { t: x.t.reshape(Shape(dims)), ..x })
}

pub fn permute(b: &mut Builder) -> Option<Known> {
    let x = b.any();
    let (i, j) = (b.axis(&x.t)?, b.axis(&x.t)?);
    Some(Known { t: x.t.transpose(i as i64, j as i64), ..x })
}

pub fn slice(b: &mut Builder) -> Option<Known> {
    let x = b.any();
    let axis = b.axis(&x.t)?;
    let len = x.t.shape().0[axis];
    let (start, step) = (b.pick(3), 1 + b.pick(3));
    let axis = axis as i64;
    let t = match b.pick(3) {
        0 => x.t.slice_step(axis, start as i64.., step),
        1 => x.t.slice(axis, ..len.as_fixed()? as i64 - start as i64),
        _ => x.t.index(axis, start as i64),
    };
    Some(Known { t, ..x })
}

pub fn flip(b: &mut Builder) -> Option<Known> {
    let x = b.any();
    let axis = b.axis(&x.t)?;
    Some(Known { t: x.t.flip(axis as i64), ..x })
}

pub fn pad(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let axis = b.axis(&x.t)?;
    let mut widths = vec![(0, 0); x.t.rank()];
    widths[axis] = (b.pick(3), b.pick(2));
    let value = [0.0, -0.5][b.pick(2)];
    Some(Known { t: x.t.pad(&widths, value), ..x })
}

pub fn concat(b: &mut Builder) -> Option<Known> {
    let (x, y) = (b.any(), b.any());
    let axis = b.axis(&x.t)?;
    let t = x.t.concat(&[&y.t], axis as i64);
    Some(Known { t, exact: x.exact && y.exact, bound: x.bound.max(y.bound) })
}

pub fn broadcast(b: &mut Builder) -> Option<Known> {
    let x = b.any();
    let axis = b.pick(x.t.rank() + 1);
    let mut shape = x.t.shape();
    shape.0.insert(axis, b.extent());
    Some(Known { t: x.t.unsqueeze(axis as i64).broadcast_to(shape), ..x })
}
