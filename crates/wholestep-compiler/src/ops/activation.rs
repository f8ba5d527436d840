//! Activations and the softmax family. Takes floats of any shape, gives the same shape. Never lets an overflow of the branch that is
//! not taken into a gradient, and at kinks has the slope that PyTorch has.

use super::{Traced, settle};
use crate::ir::Tensor;
use crate::ir::op::Reduce;

impl Tensor {
    /// `max(x, 0)`, with slope 0 at 0. Matches PyTorch `relu`.
    #[track_caller]
    pub fn relu(&self) -> Tensor {
        // A select, since the slope of a maximum at a tie would be a half. NaN is not ≤ 0, so it passes.
        self.less_equal(0.0).select(0.0, self)
    }

    /// `e^x / Σ e^x` along an axis; the shape stays. Matches PyTorch `softmax`.
    #[track_caller]
    pub fn softmax(&self, axis: i64) -> Tensor {
        settle(self.softmax_of(axis))
    }

    #[track_caller]
    fn softmax_of(&self, axis: i64) -> Traced {
        let (shifted, axis) = self.less_peak("softmax", axis)?;
        let e = shifted.exp();
        let total = e.apply(Reduce::Sum { axes: vec![axis] }, &[]);
        Ok(e / total)
    }

    /// `x - ln Σ e^x` along an axis; the shape stays. Matches PyTorch `log_softmax`.
    #[track_caller]
    pub fn log_softmax(&self, axis: i64) -> Tensor {
        settle(self.log_softmax_of(axis))
    }

    #[track_caller]
    fn log_softmax_of(&self, axis: i64) -> Traced {
        let (shifted, axis) = self.less_peak("log_softmax", axis)?;
        let total = shifted.exp().apply(Reduce::Sum { axes: vec![axis] }, &[]);
        Ok(shifted - total.log())
    }

    /// x less its largest element along an axis, so that no exponential overflows. The peak cancels, so it carries no gradient.
    #[track_caller]
    fn less_peak(&self, what: &str, axis: i64) -> Result<(Tensor, usize), Tensor> {
        self.float_or(what)?;
        let axis = self.axis_of(what, axis)?;
        let peak = self.apply(Reduce::Max { axes: vec![axis] }, &[]).detach();
        Ok((self - peak, axis))
    }
}
