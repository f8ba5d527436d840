//! Movement as arithmetic on addresses. Takes the view of an operand and a movement op, gives the view of the result, or nothing where an affine
//! map cannot say it (then the operand is copied first). Never moves an element.

use super::{Guard, Map};
use crate::ir::op::{Movement, SliceAxis};
use crate::ir::{Dim, NodeId, Shape};

/// Where the elements of a node lie: in the row-major memory of `source`, by `map` over the node's own axes.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub source: NodeId,
    pub map: Map,
    /// What a failing guard reads as.
    pub fill: f64,
}

impl View {
    /// The node itself, row-major. `None` where a stride would hold B².
    pub fn identity(source: NodeId, shape: &Shape) -> Option<View> {
        let mut strides = shape.strides()?;
        for (stride, dim) in strides.iter_mut().zip(shape.dims()) {
            if *dim == Dim::ONE {
                *stride = Dim::ZERO;
            }
        }
        Some(View { source, map: Map { strides, offset: Dim::ZERO, guards: Vec::new() }, fill: 0.0 })
    }

    /// The view of `op(x)`, given this view of x with shape `from`.
    pub fn through(&self, op: &Movement, from: &Shape, to: &Shape) -> Option<View> {
        match op {
            Movement::Reshape { .. } => self.reshaped(from, to),
            Movement::Permute { perm } => Some(self.with_axes(|v| perm.iter().map(|&axis| v[axis]).collect())),
            Movement::Broadcast { .. } => Some(self.broadcast(from, to)),
            Movement::Slice { axes } => self.sliced(axes),
            Movement::Pad { lo, hi, value } => self.padded(from, lo, hi, *value),
            Movement::Flip { axes } => self.flipped(axes, from),
            Movement::Concat { .. } => None,
        }
    }

    /// The same view with the per-axis numbers of map and guards rearranged by `f`.
    fn with_axes(&self, f: impl Fn(&[Dim]) -> Vec<Dim>) -> View {
        let mut view = self.clone();
        view.map.strides = f(&self.map.strides);
        for guard in &mut view.map.guards {
            let strides: Vec<Dim> = guard.strides.iter().map(|&s| Dim { batch: 0, fixed: s }).collect();
            guard.strides = f(&strides).into_iter().map(|d| d.fixed).collect();
        }
        view
    }

    fn reshaped(&self, from: &Shape, to: &Shape) -> Option<View> {
        let mut view = self.clone();
        view.map.strides = reshape_strides(from.dims(), &self.map.strides, to.dims())?;
        for guard in &mut view.map.guards {
            let strides: Vec<Dim> = guard.strides.iter().map(|&s| Dim { batch: 0, fixed: s }).collect();
            let new = reshape_strides(from.dims(), &strides, to.dims())?;
            guard.strides = new.into_iter().map(|d| (d.batch == 0).then_some(d.fixed)).collect::<Option<_>>()?;
        }
        Some(view)
    }

    fn broadcast(&self, from: &Shape, to: &Shape) -> View {
        let repeated: Vec<bool> = from.dims().iter().zip(to.dims()).map(|(a, b)| a != b).collect();
        self.with_axes(|v| v.iter().zip(&repeated).map(|(&s, &r)| if r { Dim::ZERO } else { s }).collect())
    }

    fn sliced(&self, axes: &[SliceAxis]) -> Option<View> {
        let mut view = self.clone();
        for (i, axis) in axes.iter().enumerate() {
            view.map.offset = view.map.offset + axis.start.times(self.map.strides[i])?;
            view.map.strides[i] = self.map.strides[i] * axis.step as i64;
            for guard in &mut view.map.guards {
                guard.offset = guard.offset + axis.start * guard.strides[i];
                guard.strides[i] *= axis.step as i64;
            }
        }
        Some(view)
    }

    fn padded(&self, from: &Shape, lo: &[usize], hi: &[usize], value: f64) -> Option<View> {
        if !self.map.guards.is_empty() && self.fill.to_bits() != value.to_bits() {
            return None;
        }
        let mut view = self.clone();
        view.fill = value;
        for i in 0..lo.len() {
            if lo[i] == 0 && hi[i] == 0 {
                continue;
            }
            let shift = -(lo[i] as i64);
            view.map.offset = view.map.offset + self.map.strides[i] * shift;
            for guard in &mut view.map.guards {
                guard.offset = guard.offset + Dim { batch: 0, fixed: guard.strides[i] * shift };
            }
            let mut strides = vec![0; lo.len()];
            strides[i] = 1;
            view.map.guards.push(Guard { strides, offset: Dim { batch: 0, fixed: shift }, extent: from.0[i] });
        }
        Some(view)
    }

    fn flipped(&self, axes: &[usize], from: &Shape) -> Option<View> {
        let mut view = self.clone();
        for &i in axes {
            let last = from.0[i] - Dim::ONE;
            view.map.offset = view.map.offset + last.times(self.map.strides[i])?;
            view.map.strides[i] = self.map.strides[i] * -1;
            for guard in &mut view.map.guards {
                guard.offset = guard.offset + last * guard.strides[i];
                guard.strides[i] = -guard.strides[i];
            }
        }
        Some(view)
    }
}

/// Strides over `new` extents of the affine function that has `strides` over `old` extents, where there is one.
fn reshape_strides(old: &[Dim], strides: &[Dim], new: &[Dim]) -> Option<Vec<Dim>> {
    let old: Vec<(Dim, Dim)> =
        old.iter().zip(strides).filter(|(d, _)| **d != Dim::ONE).map(|(d, s)| (*d, *s)).collect();
    let mut out = vec![Dim::ZERO; new.len()];
    let (mut i, mut j) = (old.len(), new.len());
    while j > 0 {
        if new[j - 1] == Dim::ONE {
            j -= 1;
            continue;
        }
        // A group: the fewest old and new axes from the right with equal products.
        let (i_end, j_end) = (i, j);
        i = i.checked_sub(1)?;
        j -= 1;
        let (mut n_old, mut n_new) = (old[i].0, new[j]);
        while n_old != n_new {
            if j > 0 && n_old.divided_by(n_new).is_some() {
                j -= 1;
                n_new = n_new.times(new[j])?;
            } else {
                i = i.checked_sub(1)?;
                n_old = n_old.times(old[i].0)?;
            }
        }
        for k in i..i_end - 1 {
            if old[k].1 != old[k + 1].1.times(old[k + 1].0)? {
                return None;
            }
        }
        let mut stride = old[i_end - 1].1;
        for k in (j..j_end).rev() {
            if new[k] != Dim::ONE {
                out[k] = stride;
                stride = stride.times(new[k])?;
            }
        }
    }
    (i == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Batch;

    fn d(n: i64) -> Dim {
        Dim { batch: 0, fixed: n }
    }

    #[test]
    fn a_reshape_splits_and_joins_contiguous_axes_only() {
        let (b, bt) = (Batch, Batch * 6);
        // [B, 6, 4] contiguous as [6B, 2, 2]
        assert_eq!(
            reshape_strides(&[b, d(6), d(4)], &[d(24), d(4), d(1)], &[bt, d(2), d(2)]),
            Some(vec![d(4), d(2), d(1)])
        );
        // transposed [4, 6] cannot be joined, but its axes can be split
        assert_eq!(reshape_strides(&[d(4), d(6)], &[d(1), d(4)], &[d(24)]), None);
        assert_eq!(reshape_strides(&[d(4), d(6)], &[d(1), d(4)], &[d(2), d(2), d(6)]), Some(vec![d(2), d(1), d(4)]));
        // 6x4 to 4x6 regroups everything
        assert_eq!(reshape_strides(&[d(6), d(4)], &[d(4), d(1)], &[d(4), d(6)]), Some(vec![d(6), d(1)]));
        // ones come and go
        assert_eq!(reshape_strides(&[d(1), b], &[d(0), d(1)], &[b, d(1)]), Some(vec![d(1), d(0)]));
    }

    #[test]
    fn a_padded_slice_knows_its_bounds() {
        let x = Shape::from([5usize]);
        let view = View::identity(NodeId(0), &x).unwrap();
        let padded = view.padded(&x, &[2], &[1], 0.0).unwrap();
        let slice = padded.sliced(&[SliceAxis { start: d(1), len: d(3), step: 2 }]).unwrap();
        assert_eq!(slice.map.offset, d(-1));
        assert_eq!(slice.map.strides, vec![d(2)]);
        assert_eq!(slice.map.guards, vec![Guard { strides: vec![2], offset: d(-1), extent: d(5) }]);
    }
}
