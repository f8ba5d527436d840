//! Indexing by data and order. Takes tensors of whole numbers as indices, gives the elements found there. Never checks an index on the
//! device: out of range it is clamped, and what users hand over is checked on the host.

use super::{Traced, refuse, settle};
use crate::ir::op::{Index, Movement};
use crate::ir::{DType, Dim, Tensor};

impl Tensor {
    /// Slices of an axis at each element of `index` (any shape): `x[..axis] ++ index ++ x[axis+1..]`. Matches PyTorch `x[:, index]`.
    ///
    /// An index out of range is clamped, without an error; -1 does not count from the end.
    #[track_caller]
    pub fn take(&self, axis: i64, index: &Tensor) -> Tensor {
        match self.axis_of("take", axis) {
            Ok(axis) => self.apply(Index::Take { axis }, &[index]),
            Err(placeholder) => placeholder,
        }
    }

    /// Slices of an axis at the elements of a vector `index`. Matches PyTorch `index_select`.
    ///
    /// An index out of range is clamped, without an error; -1 does not count from the end.
    #[track_caller]
    pub fn index_select(&self, axis: i64, index: &Tensor) -> Tensor {
        if index.rank() != 1 {
            let message = format!("need a vector of indices, got {}", index.shape());
            let help = "x.take(axis, &index) takes indices of any shape".to_string();
            return refuse("index_select", &[self, index], message, Some(help));
        }
        self.take(axis, index)
    }

    /// Rows of a table `[V, D]` at `ids` (any shape) -> `ids ++ [D]`. Matches PyTorch `embedding`.
    ///
    /// An index out of range is clamped, without an error; -1 does not count from the end.
    #[track_caller]
    pub fn embedding(&self, ids: &Tensor) -> Tensor {
        if self.rank() != 2 {
            let message = format!("need a table [V, D], got {}", self.shape());
            return refuse("embedding", &[self, ids], message, None);
        }
        self.take(0, ids)
    }

    /// Along an axis, the element of x at each element of `index`, which has the rank of x and is nowhere longer. Matches PyTorch `gather`.
    ///
    /// An index out of range is clamped, without an error; -1 does not count from the end.
    #[track_caller]
    pub fn gather(&self, axis: i64, index: &Tensor) -> Tensor {
        settle(gather(self, axis, index))
    }

    /// x with each element of `source` added along an axis at the place that `index` (same shape) says. Matches PyTorch `scatter_add`.
    ///
    /// An index out of range is clamped, without an error; -1 does not count from the end.
    #[track_caller]
    pub fn scatter_add(&self, axis: i64, index: &Tensor, source: &Tensor) -> Tensor {
        settle(scatter_add(self, axis, index, source))
    }

    /// x with `slice` (x without the axis) in place of the one at `index`, a scalar. A slot, or a value of a loop, that is updated with this has
    /// only that slice written. Matches PyTorch `x.index_copy(axis, index, slice)` for one index.
    ///
    /// An index out of range is clamped, without an error; -1 does not count from the end.
    #[track_caller]
    pub fn put(&self, axis: i64, index: &Tensor, slice: &Tensor) -> Tensor {
        match self.axis_of("put", axis) {
            Ok(axis) => self.apply(Index::Put { axis }, &[index, slice]),
            Err(placeholder) => placeholder,
        }
    }

    /// 1 where a class is the label, else 0: labels of any shape -> `labels ++ [n_classes]`. Matches PyTorch `one_hot`.
    #[track_caller]
    pub fn one_hot(&self, n_classes: usize, dtype: DType) -> Tensor {
        let labels = self.unsqueeze(-1);
        if !self.dtype().is_int() {
            let message = format!("need labels of whole numbers, got {}", self.dtype());
            return refuse("one_hot", &[self], message, None);
        }
        let rank = labels.rank();
        let classes = self.iota_beside(Dim::fixed(n_classes), rank.saturating_sub(1), rank.max(1), self.dtype());
        labels.equal(classes).cast(dtype)
    }

    /// The i32 order that sorts an axis, stable; NaN counts as largest. Matches PyTorch `argsort(stable=True)`.
    #[track_caller]
    pub fn argsort(&self, axis: i64, descending: bool) -> Tensor {
        match self.axis_of("argsort", axis) {
            Ok(axis) => self.apply(Index::ArgSort { axis, descending }, &[]),
            Err(placeholder) => placeholder,
        }
    }

    /// The elements of an axis in order, and where each was (i32). Matches PyTorch `sort(stable=True)`.
    #[track_caller]
    pub fn sort(&self, axis: i64, descending: bool) -> (Tensor, Tensor) {
        let order = self.argsort(axis, descending);
        (self.gather(axis, &order), order)
    }

    /// The `k` largest (or smallest) elements of an axis in order, and where each was (i32). Matches PyTorch `topk`.
    #[track_caller]
    pub fn topk(&self, k: usize, axis: i64, largest: bool) -> (Tensor, Tensor) {
        let order = self.argsort(axis, largest).narrow(axis, 0, k);
        (self.gather(axis, &order), order)
    }
}

#[track_caller]
fn gather(x: &Tensor, axis: i64, index: &Tensor) -> Traced {
    let axis = x.axis_of("gather", axis)?;
    let (own, at) = (x.shape(), index.shape());
    if own.rank() != at.rank() {
        let message = format!("need an index of rank {}, got {own} and index {at}", own.rank());
        let help = "x.take(axis, &index) takes whole slices".to_string();
        return Err(refuse("gather", &[x, index], message, Some(help)));
    }
    let mut x = x.clone();
    for i in (0..own.rank()).filter(|&i| i != axis && own.0[i] != at.0[i]) {
        x = x.narrowed(i, Dim::ZERO, at.0[i]);
    }
    Ok(x.apply(Index::TakeAlong { axis }, &[index]))
}

#[track_caller]
fn scatter_add(x: &Tensor, axis: i64, index: &Tensor, source: &Tensor) -> Traced {
    let axis = x.axis_of("scatter_add", axis)?;
    let (own, at, from) = (x.shape(), index.shape(), source.shape());
    let longer = (0..own.rank()).any(|i| i != axis && i < at.rank() && (own.0[i] - at.0[i]).at_signed(1) < 0);
    if own.rank() != at.rank() || at != from || longer {
        let message = format!("need index and source of one shape that fits {own}, got {at} and {from}");
        return Err(refuse("scatter_add", &[x, index, source], message, None));
    }
    let added = source.apply(Index::TakeAlongGrad { axis, len: own.0[axis] }, &[index]);
    let missing: Option<Vec<usize>> =
        (0..own.rank()).map(|i| if i == axis { Some(0) } else { (own.0[i] - at.0[i]).as_fixed() }).collect();
    let Some(hi) = missing else {
        let message = format!("the index {at} covers a part of {own} that depends on the batch size");
        return Err(refuse("scatter_add", &[x, index, source], message, None));
    };
    let added = if hi.iter().all(|&n| n == 0) {
        added
    } else {
        added.apply(Movement::Pad { lo: vec![0; hi.len()], hi, value: 0.0 }, &[])
    };
    Ok(x + added)
}

/// Picks the diagonal of two axes: the result keeps the first.
#[track_caller]
pub(crate) fn diagonal(x: &Tensor, first: usize, second: usize) -> Tensor {
    let (rows, columns) = (x.positions(first as i64, DType::I32), x.positions(second as i64, DType::I32));
    rows.equal(columns).select(x, 0.0).sum(second as i64)
}
