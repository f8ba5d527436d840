//! Elements of a tensor in another arrangement: windows, diagonals, axes in another order, padding by the tensor's own elements. Takes a
//! tensor and axes, gives a tensor made of the same elements. Never computes a new number, except the zeros beside a diagonal.

use super::{Traced, refuse, settle};
use crate::ir::{DType, Dim, Tensor};

/// What stands beyond the ends of a padded axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadMode {
    /// The elements next to the end, in reverse, the last one left out: `c b | a b c | b a`.
    Reflect,
    /// The last element: `a a | a b c | c c`.
    Replicate,
    /// The other end: `b c | a b c | a b`.
    Circular,
}

impl Tensor {
    /// The axis `from` moved to index `to`; the others keep their order. Matches PyTorch `movedim`.
    #[track_caller]
    pub fn movedim(&self, from: i64, to: i64) -> Tensor {
        let (from, to) = match (self.axis_of("movedim", from), self.axis_of("movedim", to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(placeholder), _) | (_, Err(placeholder)) => return placeholder,
        };
        let mut order: Vec<i64> = (0..self.rank() as i64).filter(|&axis| axis != from as i64).collect();
        order.insert(to, from as i64);
        self.permute(order)
    }

    /// The elements of two fixed axes whose positions are equal, as a new last axis. Matches PyTorch `diagonal(0, first, second)`.
    #[track_caller]
    pub fn diagonal(&self, first: i64, second: i64) -> Tensor {
        settle(diagonal(self, first, second))
    }

    /// The sum of the diagonal of a matrix. Matches PyTorch `trace`.
    #[track_caller]
    pub fn trace(&self) -> Tensor {
        if self.rank() != 2 {
            return refuse("trace", &[self], format!("need a matrix, got {}", self.shape()), None);
        }
        self.diagonal(0, 1).sum(0)
    }

    /// The last axis as the diagonal of a new matrix: `[.., n]` -> `[.., n, n]`, 0 elsewhere. Matches PyTorch `diag_embed` (and `diag` of a
    /// vector).
    #[track_caller]
    pub fn diag_embed(&self) -> Tensor {
        settle(diag_embed(self))
    }

    /// Windows of `size` elements, one every `step`, along a fixed axis, as a new last axis: `[.., L, ..]` -> `[.., n, .., size]` with
    /// n = ⌊(L - size) / step⌋ + 1. Matches PyTorch `Tensor.unfold`.
    #[track_caller]
    pub fn unfold(&self, axis: i64, size: usize, step: usize) -> Tensor {
        settle(unfold(self, axis, size, step))
    }

    /// The tensor's own elements at both ends: one pair (before, after) for each of the last axes, which are fixed where they are padded.
    /// Errors: a pair that is longer than the axis has elements to give. Matches PyTorch `pad` with a mode (whose list is reversed).
    #[track_caller]
    pub fn pad_with(&self, before_after: &[(usize, usize)], mode: PadMode) -> Tensor {
        let Some(skipped) = self.rank().checked_sub(before_after.len()) else {
            let message = format!("{} pairs for the {} axes of {}", before_after.len(), self.rank(), self.shape());
            return refuse("pad_with", &[self], message, None);
        };
        let mut x = self.clone();
        for (i, &(before, after)) in before_after.iter().enumerate().filter(|(_, pair)| **pair != (0, 0)) {
            x = match padded_axis(&x, skipped + i, before, after, mode) {
                Ok(x) => x,
                Err(placeholder) => return placeholder,
            };
        }
        x
    }
}

#[track_caller]
fn diagonal(x: &Tensor, first: i64, second: i64) -> Traced {
    let (first, second) = (x.axis_of("diagonal", first)?, x.axis_of("diagonal", second)?);
    if first == second {
        return Err(refuse("diagonal", &[x], format!("need two axes, got {first} twice"), None));
    }
    let n = x.fixed_extent("diagonal", first)?.min(x.fixed_extent("diagonal", second)?);
    let square = x.narrowed(first, Dim::ZERO, Dim::fixed(n)).narrowed(second, Dim::ZERO, Dim::fixed(n));
    // What is left of the first axis moves to the end.
    let kept = super::index::diagonal(&square, first, second);
    Ok(kept.movedim(first as i64 - i64::from(second < first), -1))
}

#[track_caller]
fn diag_embed(x: &Tensor) -> Traced {
    let axis = x.axis_of("diag_embed", -1)?;
    x.fixed_extent("diag_embed", axis)?;
    let place = x.positions(-1, DType::I32);
    Ok(place.unsqueeze(-1).equal(place.unsqueeze(-2)).select(x.unsqueeze(-1), 0.0))
}

#[track_caller]
fn unfold(x: &Tensor, axis: i64, size: usize, step: usize) -> Traced {
    let axis = x.axis_of("unfold", axis)?;
    let len = x.fixed_extent("unfold", axis)?;
    if size == 0 || step == 0 || size > len {
        let message = format!("windows of {size} every {step} do not fit axis {axis} of {}", x.shape());
        return Err(refuse("unfold", &[x], message, None));
    }
    let n = (len - size) / step + 1;
    let starts = x.iota_beside(Dim::fixed(n), 0, 2, DType::I32) * step as f64;
    let places = starts + x.iota_beside(Dim::fixed(size), 1, 2, DType::I32);
    Ok(x.take(axis as i64, &places).movedim(axis as i64 + 1, -1))
}

#[track_caller]
fn padded_axis(x: &Tensor, axis: usize, before: usize, after: usize, mode: PadMode) -> Traced {
    let len = x.fixed_extent("pad_with", axis)?;
    let most = match mode {
        PadMode::Reflect => len.saturating_sub(1),
        PadMode::Replicate if len > 0 => usize::MAX,
        PadMode::Replicate => 0,
        PadMode::Circular => len,
    };
    if before.max(after) > most {
        let message =
            format!("axis {axis} of {} has {most} elements for an end, ({before}, {after}) are wanted", x.shape());
        return Err(refuse("pad_with", &[x], message, Some("pad less, or with a constant: .pad(…)".to_string())));
    }
    let (low, high) = match mode {
        PadMode::Reflect => (1, len.saturating_sub(1 + after)),
        PadMode::Replicate => (0, len - 1),
        PadMode::Circular => (len - before.min(len), 0),
    };
    let mut parts = Vec::with_capacity(3);
    if before > 0 {
        parts.push(end_of(x, axis, low, before, mode));
    }
    parts.push(x.clone());
    if after > 0 {
        parts.push(end_of(x, axis, high, after, mode));
    }
    let first = parts.remove(0);
    Ok(first.joined(&parts, axis))
}

/// `n` elements for an end of `axis`, made of those from `start` on.
#[track_caller]
fn end_of(x: &Tensor, axis: usize, start: usize, n: usize, mode: PadMode) -> Tensor {
    match mode {
        PadMode::Reflect => x.narrowed(axis, Dim::fixed(start), Dim::fixed(n)).flip(axis as i64),
        PadMode::Circular => x.narrowed(axis, Dim::fixed(start), Dim::fixed(n)),
        PadMode::Replicate => {
            let mut shape = x.shape();
            shape.0[axis] = Dim::fixed(n);
            x.narrowed(axis, Dim::fixed(start), Dim::ONE).expanded(&shape)
        }
    }
}
