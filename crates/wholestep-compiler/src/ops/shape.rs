//! Movements: reshape, permute, slice, join, repeat. Takes a tensor and extents that may depend on the batch size, gives a tensor with
//! the same elements in other places. Never copies by itself: most of these become strides of whoever reads the result.

use super::{Axes, Traced, refuse, settle};
use crate::ir::op::{Movement, SliceAxis};
use crate::ir::{DType, Dim, Shape, Tensor};
use std::borrow::Borrow;
use std::ops::{Bound, RangeBounds};

/// In a new shape, the one extent that follows from the others: `x.reshape((Rest, 10))`, PyTorch's -1.
#[allow(non_upper_case_globals)]
pub const Rest: Dim = Dim { batch: 0, fixed: -1 };

impl Tensor {
    /// The extent of an axis; negative axes count from the end. Matches PyTorch `size`.
    #[track_caller]
    pub fn dim(&self, axis: i64) -> Dim {
        self.axis_of("dim", axis).map_or(Dim::ONE, |axis| self.shape().0[axis])
    }

    /// The same elements in row-major order as `shape`, of which one extent may be [`Rest`]. Matches PyTorch `reshape`.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let mut shape = shape.into();
        let own = self.shape();
        let unknown: Vec<usize> = (0..shape.rank()).filter(|&i| shape.0[i] == Rest).collect();
        match unknown[..] {
            [] => {}
            [axis] => {
                let mut others = shape.clone();
                others.0.remove(axis);
                let found = own.numel().zip(others.numel()).and_then(|(n, m)| n.divided_by(m));
                let Some(found) = found else {
                    let message = format!("the elements of {own} do not divide by the other extents {others}");
                    return refuse("reshape", &[self], message, None);
                };
                shape.0[axis] = found;
            }
            _ => return refuse("reshape", &[self], "only one extent can be Rest", None),
        }
        self.reshaped(&shape)
    }

    /// Axes `start` to `end`, both included, joined into one. Matches PyTorch `flatten`.
    #[track_caller]
    pub fn flatten(&self, start: i64, end: i64) -> Tensor {
        settle(self.flattened(start, end))
    }

    #[track_caller]
    fn flattened(&self, start: i64, end: i64) -> Traced {
        if self.rank() == 0 {
            return Ok(self.reshaped(&Shape(vec![Dim::ONE])));
        }
        let (start, end) = (self.axis_of("flatten", start)?, self.axis_of("flatten", end)?);
        let shape = self.shape();
        if start > end {
            let message = format!("need a first axis not after the last, got {start} and {end} of {shape}");
            return Err(refuse("flatten", &[self], message, None));
        }
        let axes: Vec<usize> = (start..=end).collect();
        let joined = self.count("flatten", &axes)?;
        let mut dims = shape.0[..start].to_vec();
        dims.push(joined);
        dims.extend_from_slice(&shape.0[end + 1..]);
        Ok(self.reshaped(&Shape(dims)))
    }

    /// Axis i of the result is axis `order[i]`. Matches PyTorch `permute`.
    #[track_caller]
    pub fn permute(&self, order: impl Into<Axes>) -> Tensor {
        match self.axes_in_order("permute", order.into()) {
            Ok(perm) => self.permuted(perm),
            Err(placeholder) => placeholder,
        }
    }

    /// Two axes exchanged. Matches PyTorch `transpose`.
    #[track_caller]
    pub fn transpose(&self, a: i64, b: i64) -> Tensor {
        settle(self.transposed(a, b))
    }

    #[track_caller]
    fn transposed(&self, a: i64, b: i64) -> Traced {
        let (a, b) = (self.axis_of("transpose", a)?, self.axis_of("transpose", b)?);
        let mut perm: Vec<usize> = (0..self.rank()).collect();
        perm.swap(a, b);
        Ok(self.permuted(perm))
    }

    /// The transposed matrix; errors unless the rank is 2. Matches PyTorch `t`.
    #[track_caller]
    pub fn t(&self) -> Tensor {
        if self.rank() != 2 {
            let help = "use .transpose(-1, -2)".to_string();
            return refuse("t", &[self], format!("need a matrix, got {}", self.shape()), Some(help));
        }
        self.permuted(vec![1, 0])
    }

    #[track_caller]
    pub(crate) fn permuted(&self, perm: Vec<usize>) -> Tensor {
        if perm.iter().copied().eq(0..self.rank()) {
            return self.clone();
        }
        self.apply(Movement::Permute { perm }, &[])
    }

    /// Without `axes`, each of which must have extent 1. Matches PyTorch `squeeze`, which leaves others alone silently.
    #[track_caller]
    pub fn squeeze(&self, axes: impl Into<Axes>) -> Tensor {
        let axes = match self.axes_of("squeeze", axes.into()) {
            Ok(axes) => axes,
            Err(placeholder) => return placeholder,
        };
        let shape = self.shape();
        match axes.iter().find(|&&axis| shape.0[axis] != Dim::ONE) {
            None => self.without(&axes),
            Some(axis) => {
                let message = format!("need extent 1 at axis {axis}, got {shape}");
                refuse("squeeze", &[self], message, None)
            }
        }
    }

    /// A new axis of extent 1 that has index `axis` in the result. Matches PyTorch `unsqueeze`.
    #[track_caller]
    pub fn unsqueeze(&self, axis: i64) -> Tensor {
        let rank = self.rank() as i64 + 1;
        let index = if axis < 0 { axis + rank } else { axis };
        if !(0..rank).contains(&index) {
            let help = format!("a new axis can be 0 to {}, or -{rank} to -1", rank - 1);
            let message = format!("axis {axis} is not in a tensor of {rank} axes");
            return refuse("unsqueeze", &[self], message, Some(help));
        }
        let mut shape = self.shape();
        shape.0.insert(index as usize, Dim::ONE);
        self.reshaped(&shape)
    }

    /// Repeated along axes of extent 1 and new leading axes until it has `shape`. Matches PyTorch `broadcast_to`.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Tensor {
        let (own, shape) = (self.shape(), shape.into());
        if super::broadcast_shape(&own, &shape).as_ref() != Some(&shape) {
            let help = "aligned from the right, extents must be equal or 1".to_string();
            return refuse("broadcast_to", &[self], format!("cannot broadcast {own} to {shape}"), Some(help));
        }
        self.expanded(&shape)
    }

    /// Elements `range` of an axis; negative positions count from the end: `x.slice(1, ..-1)`. Matches PyTorch `x[:, :-1]`.
    ///
    /// Clippy takes a literal `1..-1` for a reversed range: write `.slice(1, 1..).slice(1, ..-1)`.
    #[track_caller]
    pub fn slice(&self, axis: i64, range: impl RangeBounds<i64>) -> Tensor {
        settle(self.sliced(axis, (range.start_bound().cloned(), range.end_bound().cloned()), 1))
    }

    /// Every `step`-th element of `range` of an axis. Matches PyTorch `x[:, start:stop:step]`.
    #[track_caller]
    pub fn slice_step(&self, axis: i64, range: impl RangeBounds<i64>, step: usize) -> Tensor {
        settle(self.sliced(axis, (range.start_bound().cloned(), range.end_bound().cloned()), step))
    }

    #[track_caller]
    fn sliced(&self, axis: i64, (start, end): (Bound<i64>, Bound<i64>), step: usize) -> Traced {
        let axis = self.axis_of("slice", axis)?;
        let extent = self.shape().0[axis];
        let place = |n: i64| if n < 0 { extent + Dim { batch: 0, fixed: n } } else { Dim { batch: 0, fixed: n } };
        let start = match start {
            Bound::Unbounded => Dim::ZERO,
            Bound::Included(n) => place(n),
            Bound::Excluded(n) => place(n) + Dim::ONE,
        };
        let end = match end {
            Bound::Unbounded => extent,
            Bound::Included(n) => place(n) + Dim::ONE,
            Bound::Excluded(n) => place(n),
        };
        let span = end - start;
        if step == 0 || span.batch < 0 || span.at_signed(1) < 0 {
            let message = format!("{start}..{end} in steps of {step} is no range of axis {axis} of {}", self.shape());
            let help = "the step is at least 1, and the end does not precede the start; to go backwards use .flip";
            return Err(refuse("slice", &[self], message, Some(help.to_string())));
        }
        let len = match step {
            1 => Some(span),
            _ => {
                (span + Dim::fixed(step - 1)).as_fixed().map(|n| Dim::fixed(n / step)).or(span.divided_by(step.into()))
            }
        };
        let Some(len) = len else {
            let message = format!("{start}..{end} in steps of {step} has no extent of the form a·B + b");
            return Err(refuse("slice", &[self], message, Some("ask for a fixed batch size".to_string())));
        };
        Ok(self.slice_node(axis, SliceAxis { start, len, step }))
    }

    /// `len` elements of an axis from `start`; both may depend on the batch size. Matches PyTorch `narrow`.
    #[track_caller]
    pub fn narrow(&self, axis: i64, start: impl Into<Dim>, len: impl Into<Dim>) -> Tensor {
        match self.axis_of("narrow", axis) {
            Ok(axis) => self.narrowed(axis, start.into(), len.into()),
            Err(placeholder) => placeholder,
        }
    }

    #[track_caller]
    pub(crate) fn narrowed(&self, axis: usize, start: Dim, len: Dim) -> Tensor {
        self.slice_node(axis, SliceAxis { start, len, step: 1 })
    }

    #[track_caller]
    fn slice_node(&self, axis: usize, part: SliceAxis) -> Tensor {
        let whole = |len: &Dim| SliceAxis { start: Dim::ZERO, len: *len, step: 1 };
        let mut axes: Vec<SliceAxis> = self.shape().0.iter().map(whole).collect();
        // An earlier error leaves a scalar here; the slice of it is another placeholder.
        match axes.get_mut(axis) {
            Some(slot) if *slot == part => return self.clone(),
            Some(slot) => *slot = part,
            None => return self.clone(),
        }
        self.apply(Movement::Slice { axes }, &[])
    }

    /// Element `position` of an axis, which is dropped; negative positions count from the end. Matches PyTorch `select`.
    #[track_caller]
    pub fn index(&self, axis: i64, position: i64) -> Tensor {
        let axis = match self.axis_of("index", axis) {
            Ok(axis) => axis,
            Err(placeholder) => return placeholder,
        };
        let extent = self.shape().0[axis];
        let offset = if position < 0 { extent } else { Dim::ZERO };
        let start = offset + Dim { batch: 0, fixed: position };
        if start.at_signed(1) < 0 || (extent - start).at_signed(1) < 1 || extent.batch < start.batch {
            let message = format!("position {position} is not in axis {axis} of {}", self.shape());
            return refuse("index", &[self], message, None);
        }
        self.narrowed(axis, start, Dim::ONE).without(&[axis])
    }

    /// Consecutive parts of an axis, as long as `sizes` say; they add up to its extent. Matches PyTorch `split`.
    #[track_caller]
    pub fn split<D: Into<Dim> + Copy>(&self, sizes: &[D], axis: i64) -> Vec<Tensor> {
        let axis = match self.axis_of("split", axis) {
            Ok(axis) => axis,
            Err(placeholder) => return vec![placeholder; sizes.len()],
        };
        let extent = self.shape().0[axis];
        let total = sizes.iter().fold(Dim::ZERO, |sum, &n| sum + n.into());
        if total != extent {
            let message = format!("the sizes add up to {total}, axis {axis} of {} has {extent}", self.shape());
            return vec![refuse("split", &[self], message, None); sizes.len()];
        }
        let (mut parts, mut start) = (Vec::with_capacity(sizes.len()), Dim::ZERO);
        for &size in sizes {
            parts.push(self.narrowed(axis, start, size.into()));
            start = start + size.into();
        }
        parts
    }

    /// `n` parts of an axis, equal except that the last may be shorter (or missing). Matches PyTorch `chunk`.
    #[track_caller]
    pub fn chunk(&self, n: usize, axis: i64) -> Vec<Tensor> {
        let axis_idx = match self.axis_of("chunk", axis) {
            Ok(axis) => axis,
            Err(placeholder) => return vec![placeholder; n],
        };
        let extent = self.shape().0[axis_idx];
        let equal = extent.divided_by(Dim::fixed(n));
        let sizes: Vec<Dim> = match (equal, extent.as_fixed()) {
            (Some(size), _) => vec![size; n],
            (None, Some(extent)) if n > 0 => {
                let size = extent.div_ceil(n);
                (0..extent.div_ceil(size)).map(|i| Dim::fixed(size.min(extent - i * size))).collect()
            }
            (None, _) => {
                let message = format!("cannot cut axis {axis} of {} into {n} parts", self.shape());
                return vec![refuse("chunk", &[self], message, None); n];
            }
        };
        self.split(&sizes, axis_idx as i64)
    }

    /// This tensor and `others` joined along an axis; their other axes are equal. Matches PyTorch `cat`.
    #[track_caller]
    pub fn concat<T: Borrow<Tensor>>(&self, others: &[T], axis: i64) -> Tensor {
        match self.axis_of("concat", axis) {
            Ok(axis) => self.joined(others, axis),
            Err(placeholder) => placeholder,
        }
    }

    #[track_caller]
    pub(crate) fn joined<T: Borrow<Tensor>>(&self, others: &[T], axis: usize) -> Tensor {
        if others.is_empty() {
            return self.clone();
        }
        let others: Vec<&Tensor> = others.iter().map(|t| t.borrow()).collect();
        self.apply(Movement::Concat { axis }, &others)
    }

    /// This tensor and `others`, all of one shape, joined along a new axis that has index `axis` in the result. Matches PyTorch `stack`.
    #[track_caller]
    pub fn stack<T: Borrow<Tensor>>(&self, others: &[T], axis: i64) -> Tensor {
        let mut columns = Vec::with_capacity(others.len());
        for other in others {
            if other.borrow().shape() != self.shape() {
                let message = format!("need tensors of one shape, got {} and {}", self.shape(), other.borrow().shape());
                return refuse("stack", &[self, other.borrow()], message, None);
            }
            columns.push(other.borrow().unsqueeze(axis));
        }
        let first = self.unsqueeze(axis);
        first.concat(&columns, axis)
    }

    /// Each of `axes` in reverse order. Matches PyTorch `flip`.
    #[track_caller]
    pub fn flip(&self, axes: impl Into<Axes>) -> Tensor {
        match self.axes_of("flip", axes.into()) {
            Ok(axes) if axes.is_empty() => self.clone(),
            Ok(axes) => self.apply(Movement::Flip { axes }, &[]),
            Err(placeholder) => placeholder,
        }
    }

    /// Elements of an axis moved `shift` places on, those that leave come back at the other end. Matches PyTorch `roll`.
    #[track_caller]
    pub fn roll(&self, shift: i64, axis: i64) -> Tensor {
        settle(self.rolled(shift, axis))
    }

    #[track_caller]
    fn rolled(&self, shift: i64, axis: i64) -> Traced {
        let axis = self.axis_of("roll", axis)?;
        let Some(len) = self.shape().0[axis].as_fixed() else {
            // How far `shift` goes around depends on the batch, so each place is computed.
            let places = self.positions(axis as i64, DType::I32).flatten(0, -1);
            let from = (&places - shift as f64).remainder(places.extent_beside(self.shape().0[axis]));
            return Ok(self.take(axis as i64, &from));
        };
        let shift = if len == 0 { 0 } else { shift.rem_euclid(len as i64) as usize };
        if shift == 0 {
            return Ok(self.clone());
        }
        let tail = self.narrowed(axis, Dim::fixed(len - shift), Dim::fixed(shift));
        let head = self.narrowed(axis, Dim::ZERO, Dim::fixed(len - shift));
        Ok(tail.joined(&[head], axis))
    }

    /// New elements `value` at both ends: one pair (before, after) for each of the last axes. Matches PyTorch `pad` (whose list is reversed).
    #[track_caller]
    pub fn pad(&self, before_after: &[(usize, usize)], value: f64) -> Tensor {
        let Some(skipped) = self.rank().checked_sub(before_after.len()) else {
            let message = format!("{} pairs for the {} axes of {}", before_after.len(), self.rank(), self.shape());
            return refuse("pad", &[self], message, None);
        };
        let mut pairs = vec![(0, 0); skipped];
        pairs.extend_from_slice(before_after);
        if pairs.iter().all(|&pair| pair == (0, 0)) {
            return self.clone();
        }
        let (lo, hi) = pairs.into_iter().unzip();
        self.apply(Movement::Pad { lo, hi, value }, &[])
    }

    /// One axis padded.
    #[track_caller]
    pub(crate) fn padded(&self, axis: usize, before: usize, after: usize, value: f64) -> Tensor {
        let mut pairs = vec![(0, 0); self.rank()];
        if let Some(pair) = pairs.get_mut(axis) {
            *pair = (before, after);
        }
        self.pad(&pairs, value)
    }

    /// Copies of the whole tensor side by side, `times[i]` along axis i of the result. Matches PyTorch `repeat` and `tile`.
    #[track_caller]
    pub fn repeat(&self, times: &[usize]) -> Tensor {
        let rank = times.len().max(self.rank());
        let mut own = vec![Dim::ONE; rank - self.rank()];
        own.extend_from_slice(self.shape().dims());
        let mut all = vec![1; rank - times.len()];
        all.extend_from_slice(times);
        let mut x = self.reshaped(&Shape(own.clone()));
        for (axis, &n) in all.iter().enumerate() {
            if n != 1 {
                x = x.repeated(axis, axis, n);
            }
        }
        x
    }

    /// Each element `n` times in a row along an axis. Matches PyTorch `repeat_interleave`.
    #[track_caller]
    pub fn repeat_interleave(&self, n: usize, axis: i64) -> Tensor {
        match self.axis_of("repeat_interleave", axis) {
            Ok(axis) => self.repeated(axis, axis + 1, n),
            Err(placeholder) => placeholder,
        }
    }

    /// A new axis at `at`, which is `axis` (copies side by side) or the one after it (each element in a row), joined with `axis`.
    #[track_caller]
    fn repeated(&self, axis: usize, at: usize, n: usize) -> Tensor {
        let mut shape = self.shape();
        if axis >= shape.rank() {
            return self.clone(); // the placeholder of an earlier error
        }
        let mut wide = shape.clone();
        wide.0.insert(at, Dim::ONE);
        let x = self.reshaped(&wide);
        wide.0[at] = Dim::fixed(n);
        shape.0[axis] = shape.0[axis] * n as i64;
        x.expanded(&wide).reshaped(&shape)
    }

    /// A tensor of this shape and dtype filled with `value`. Matches PyTorch `full_like`.
    #[track_caller]
    pub fn full_like(&self, value: f64) -> Tensor {
        self.constant_beside("full_like", value).expanded(&self.shape())
    }

    /// Positions 0, 1, 2 … along `axis`; the other axes have extent 1, so that it broadcasts with this tensor. Matches PyTorch `arange`.
    #[track_caller]
    pub fn positions(&self, axis: i64, dtype: DType) -> Tensor {
        match self.axis_of("positions", axis) {
            Ok(axis) => self.iota_beside(self.shape().0[axis], axis, self.rank(), dtype),
            Err(placeholder) => placeholder,
        }
    }

    /// 0 above diagonal `k` of the last two axes (`j > i + k`). Matches PyTorch `tril`.
    #[track_caller]
    pub fn tril(&self, k: i64) -> Tensor {
        let (rows, columns) = (self.positions(-2, DType::I32), self.positions(-1, DType::I32));
        columns.greater(rows + k as f64).select(0.0, self)
    }

    /// 0 below diagonal `k` of the last two axes (`j < i + k`). Matches PyTorch `triu`.
    #[track_caller]
    pub fn triu(&self, k: i64) -> Tensor {
        let (rows, columns) = (self.positions(-2, DType::I32), self.positions(-1, DType::I32));
        columns.less(rows + k as f64).select(0.0, self)
    }
}
