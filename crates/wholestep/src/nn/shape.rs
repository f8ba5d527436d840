//! Layers that only move elements: explicit adapters between layers of different rank. Takes tensors, gives the same elements under
//! another shape (or with zeros around). Never touches the batch axis unless asked by number.

use super::place::{has_failed, refuse};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Dim, Shape, Tensor};

/// Joins axes `start..=end` into one; negative axes count from the end. The default joins all but the batch axis.
///
/// Shapes: `[N, C, H, W]` -> `[N, C·H·W]`; a scalar becomes `[1]`.
/// Errors: an axis is not there; `start` comes after `end`.
/// Matches PyTorch `nn.Flatten`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flatten {
    /// The first axis that is joined; 1 by default: all but the batch axis.
    #[serde(default = "one")]
    pub start: i64,
    /// The last axis that is joined, itself included; -1 by default.
    #[serde(default = "last")]
    pub end: i64,
}

fn one() -> i64 {
    1
}

fn last() -> i64 {
    -1
}

impl Flatten {
    /// All but the batch axis: `start` 1, `end` -1.
    pub fn new() -> Flatten {
        Flatten { start: 1, end: -1 }
    }

    /// Joins axes `start..=end`.
    pub fn axes(start: i64, end: i64) -> Flatten {
        Flatten { start, end }
    }

    /// `x` of any rank -> axes `start..=end` as one. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        let rank = shape.rank().max(1);
        let (Some(start), Some(end)) = (axis(self.start, rank), axis(self.end, rank)) else {
            let message = format!("need axes of {shape}, got start {} and end {}", self.start, self.end);
            return refuse("Flatten", x, message, format!("axes are -{rank} to {}", rank - 1));
        };
        if start > end {
            let message = format!("start {} comes after end {} in {shape}", self.start, self.end);
            return refuse("Flatten", x, message, "Flatten::axes(start, end) joins start, .., end");
        }
        if shape.rank() == 0 {
            return x.reshape([1usize]);
        }
        x.flatten(start as i64, end as i64)
    }
}

impl Default for Flatten {
    fn default() -> Flatten {
        Flatten::new()
    }
}

/// The axis from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let index = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    (0..rank as i64).contains(&index).then_some(index as usize)
}

/// Gives each sample another shape; the batch axis stays. One extent may be -1: what is left.
///
/// Shapes: `[N, ..]` -> `[N, shape..]`.
/// Errors: the elements do not fit; two extents are -1; an extent is 0 or below -1; a scalar.
/// Matches PyTorch `nn.Unflatten(1, shape)` after `nn.Flatten()`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reshape {
    /// Of a sample, without the batch axis; one extent may be -1.
    pub shape: Vec<i64>,
}

impl Reshape {
    /// `shape` is that of a sample, without the batch axis; one extent may be -1.
    pub fn new(shape: impl Into<Vec<i64>>) -> Reshape {
        Reshape { shape: shape.into() }
    }

    /// `[N, ..]` -> `[N, shape..]`. Errors: as the type says; a sample whose own shape depends on the batch size.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let from = x.shape();
        let Some((&batch, sample)) = from.dims().split_first() else {
            return refuse("Reshape", x, "need a batch axis, got a scalar", "Reshape keeps the first axis");
        };
        let Some(extents) = Shape(sample.to_vec()).as_fixed() else {
            let message = format!("need samples of a fixed shape, got {from}");
            return refuse("Reshape", x, message, "only the first axis may depend on the batch size");
        };
        match fit(&extents, &self.shape) {
            Some(to) => {
                let mut dims = vec![batch];
                dims.extend(to.into_iter().map(Dim::fixed));
                x.reshape(Shape(dims))
            }
            None => {
                let n: usize = extents.iter().product();
                let message = format!("cannot give samples {extents:?} ({n} elements) the shape {:?}", self.shape);
                refuse("Reshape", x, message, "leave out the batch axis; at most one extent may be -1")
            }
        }
    }
}

/// `shape` with its -1 replaced, if it has as many elements as `from`.
fn fit(from: &[usize], shape: &[i64]) -> Option<Vec<usize>> {
    let n = from.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let known = shape.iter().filter(|&&d| d != -1).try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))?;
    let holes = shape.iter().filter(|&&d| d == -1).count();
    let fits = match holes {
        0 => known == n,
        1 => known != 0 && n.is_multiple_of(known),
        _ => false,
    };
    fits.then(|| shape.iter().map(|&d| if d == -1 { n / known } else { d as usize }).collect())
}

/// Axis i of the result is axis `axes[i]` of `x`; the batch axis counts: `[0, 3, 1, 2]` makes NHWC images NCHW.
///
/// Errors: `axes` does not name each axis once.
/// Matches PyTorch `Tensor.permute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permute {
    /// For each axis of the result its place in `x`, from 0 at the batch axis.
    pub axes: Vec<usize>,
}

impl Permute {
    /// For each axis of the result its place in `x`: each of `0..rank` once, the batch axis too.
    pub fn new(axes: impl Into<Vec<usize>>) -> Permute {
        Permute { axes: axes.into() }
    }

    /// `x` with `axes.len()` axes -> the same elements in another order of axes. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let mut sorted = self.axes.clone();
        sorted.sort_unstable();
        if sorted.iter().copied().ne(0..x.rank()) {
            let message = format!("need each axis of {} once, got {:?}", x.shape(), self.axes);
            return refuse(
                "Permute",
                x,
                message,
                "the batch axis is 0 and counts: Permute::new([0, 3, 1, 2]) makes NHWC NCHW",
            );
        }
        let axes: Vec<i64> = self.axes.iter().map(|&a| a as i64).collect();
        x.permute(axes)
    }
}

/// A new axis of extent 1 at `axis`; the batch axis counts, negative axes count from the end.
///
/// Shapes: `[N, T]` with axis 1 -> `[N, 1, T]`.
/// Errors: the axis is not in `-(rank + 1)..=rank`.
/// Matches PyTorch `Tensor.unsqueeze`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsqueeze {
    /// Where the new axis stands in the result.
    pub axis: i64,
}

impl Unsqueeze {
    /// Where the new axis stands in the result: 0 is before the batch axis, -1 the end.
    pub fn new(axis: i64) -> Unsqueeze {
        Unsqueeze { axis }
    }

    /// `x` of any rank -> one axis more, of extent 1. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        match axis(self.axis, x.rank() + 1) {
            Some(_) => x.unsqueeze(self.axis),
            None => {
                let message = format!("need a place among the axes of {}, got {}", x.shape(), self.axis);
                refuse("Unsqueeze", x, message, format!("places are -{} to {}", x.rank() + 1, x.rank()))
            }
        }
    }
}

/// Zeros around the last two axes, `[[top, bottom], [left, right]]`.
///
/// Shapes: `[N, C, H, W]` or `[C, H, W]` (any rank from 2) -> H + top + bottom, W + left + right.
/// Errors: fewer than 2 axes; a side above 2^31.
/// Matches PyTorch `nn.ZeroPad2d((left, right, top, bottom))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroPad2d {
    /// `[[top, bottom], [left, right]]`; PyTorch's order is left, right, top, bottom.
    pub padding: [[usize; 2]; 2],
}

impl ZeroPad2d {
    /// The same on all sides: `ZeroPad2d::new([[n, n], [n, n]])`.
    pub fn new(padding: [[usize; 2]; 2]) -> ZeroPad2d {
        ZeroPad2d { padding }
    }

    /// `[.., H, W]` -> `[.., H + top + bottom, W + left + right]`. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let rank = x.rank();
        if rank < 2 {
            return refuse(
                "ZeroPad2d",
                x,
                format!("need x [.., H, W], got {}", x.shape()),
                "its last two axes are padded",
            );
        }
        if self.padding.iter().flatten().any(|&n| n > 1 << 31) {
            return refuse(
                "ZeroPad2d",
                x,
                format!("need sides of at most 2^31, got {:?}", self.padding),
                "check the padding",
            );
        }
        let (mut lo, mut hi) = (vec![0; rank], vec![0; rank]);
        for (i, [before, after]) in self.padding.into_iter().enumerate() {
            (lo[rank - 2 + i], hi[rank - 2 + i]) = (before, after);
        }
        x.apply(wholestep_compiler::ir::op::Movement::Pad { lo, hi, value: 0.0 }, &[])
    }
}
