//! Activations and the softmax family. Takes floats of any shape, gives the same shape. Never lets an overflow of the branch that is
//! not taken into a gradient, and at kinks has the slope that PyTorch has.

use super::{Traced, refuse, settle};
use crate::ir::op::Reduce;
use crate::ir::vjp::Marked;
use crate::ir::{Dim, Shape, Tensor};
use std::f64::consts;

impl Tensor {
    /// `max(x, 0)`, with slope 0 at 0. Matches PyTorch `relu`.
    #[track_caller]
    pub fn relu(&self) -> Tensor {
        // A select, since the slope of a maximum at a tie would be a half. NaN is not ≤ 0, so it passes.
        self.less_equal(0.0).select(0.0, self)
    }

    /// `min(max(x, 0), 6)`, with slope 0 at 0 and 6. Matches PyTorch `relu6`.
    #[track_caller]
    pub fn relu6(&self) -> Tensor {
        self.clamp(0.0, 6.0)
    }

    /// x where `x > 0`, else `slope·x`. Matches PyTorch `leaky_relu`.
    #[track_caller]
    pub fn leaky_relu(&self, slope: f64) -> Tensor {
        self.greater(0.0).select(self, self * slope)
    }

    /// x where `x > 0`, else `slope·x`, with one learned slope `[1]` or one per channel: x `[N, C, d..]`, slope `[C]`. Matches PyTorch
    /// `prelu`.
    #[track_caller]
    pub fn prelu(&self, slope: &Tensor) -> Tensor {
        let slope = match slope.shape().numel() {
            Some(Dim::ONE) => slope.reshape([1usize]),
            _ => match self.per_channel("prelu", slope) {
                Ok(slope) => slope,
                Err(placeholder) => return placeholder,
            },
        };
        self.greater(0.0).select(self, self * slope)
    }

    /// x where `x > 0`, else `alpha·(e^x - 1)`. Matches PyTorch `elu`.
    #[track_caller]
    pub fn elu(&self, alpha: f64) -> Tensor {
        let positive = self.greater(0.0);
        // The exponential of a large x would be infinite, and infinity times the 0 of the branch not taken is NaN.
        let low = positive.select(0.0, self).expm1();
        positive.select(self, low * alpha)
    }

    /// `scale·elu(x, alpha)` with the constants that keep activations at mean 0 and variance 1. Matches PyTorch `selu`.
    /// Paper: Klambauer et al. 2017, arXiv:1706.02515.
    #[track_caller]
    pub fn selu(&self) -> Tensor {
        self.elu(1.673_263_242_354_377_2) * 1.050_700_987_355_480_5
    }

    /// `max(x, 0) + min(0, alpha·(e^(x/alpha) - 1))`. Matches PyTorch `celu`.
    #[track_caller]
    pub fn celu(&self, alpha: f64) -> Tensor {
        let positive = self.greater(0.0);
        let low = (positive.select(0.0, self) / alpha).expm1();
        positive.select(self, low * alpha)
    }

    /// `x·Φ(x) = x·(1 + erf(x/√2))/2`. Matches PyTorch `gelu`.
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        self * 0.5 * ((self * consts::FRAC_1_SQRT_2).erf() + 1.0)
    }

    /// `x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2`. Matches PyTorch `gelu(approximate="tanh")`.
    #[track_caller]
    pub fn gelu_tanh(&self) -> Tensor {
        let inner = (self + self * self * self * 0.044715) * (consts::FRAC_2_SQRT_PI * consts::FRAC_1_SQRT_2);
        self * 0.5 * (inner.tanh() + 1.0)
    }

    /// `x·sigmoid(x)`. Matches PyTorch `silu`.
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self * self.sigmoid()
    }

    /// `x·tanh(ln(1 + e^x))`. Matches PyTorch `mish`.
    #[track_caller]
    pub fn mish(&self) -> Tensor {
        self * self.softplus(1.0, 20.0).tanh()
    }

    /// `min(max(x + 3, 0), 6) / 6`. Matches PyTorch `hardsigmoid`.
    #[track_caller]
    pub fn hardsigmoid(&self) -> Tensor {
        let middle = (self + 3.0) / 6.0;
        self.less_equal(-3.0).select(0.0, self.greater_equal(3.0).select(1.0, middle))
    }

    /// `x·min(max(x + 3, 0), 6) / 6`. Matches PyTorch `hardswish`.
    #[track_caller]
    pub fn hardswish(&self) -> Tensor {
        let middle = self * (self + 3.0) / 6.0;
        self.less_equal(-3.0).select(0.0, self.greater_equal(3.0).select(self, middle))
    }

    /// `ln(1 + e^(beta·x)) / beta`, and x itself where `beta·x > threshold`. Matches PyTorch `softplus` (defaults 1 and 20).
    #[track_caller]
    pub fn softplus(&self, beta: f64, threshold: f64) -> Tensor {
        let scaled = self * beta;
        let linear = scaled.greater(threshold);
        linear.select(self, linear.select(0.0, &scaled).exp().log1p() / beta)
    }

    /// `ln sigmoid(x)`, exact at both ends. Matches PyTorch `logsigmoid`.
    #[track_caller]
    pub fn log_sigmoid(&self) -> Tensor {
        // min(x, 0) - ln(1 + e^-|x|), with both kinks written as the same select so that their slopes cancel at 0.
        let negative = self.less(0.0);
        negative.select(self, 0.0) - negative.select(self, -self).exp().log1p()
    }

    /// `a·sigmoid(b)` where a and b are the halves of an axis. Matches PyTorch `glu`.
    #[track_caller]
    pub fn glu(&self, axis: i64) -> Tensor {
        if self.axis_of("glu", axis).is_ok() && self.dim(axis).divided_by(Dim::fixed(2)).is_none() {
            let message = format!("need an even extent at axis {axis}, got {}", self.shape());
            return refuse("glu", &[self], message, None);
        }
        let halves = self.chunk(2, axis);
        &halves[0] * halves[1].sigmoid()
    }

    /// A vector `[C]` in a shape that broadcasts along axis 1 of this tensor `[N, C, d..]`.
    #[track_caller]
    pub(crate) fn per_channel(&self, what: &str, v: &Tensor) -> Traced {
        let (x, own) = (self.shape(), v.shape());
        if x.rank() < 2 || own.rank() != 1 || own.0[0] != x.0[1] {
            let message = format!("need a vector with one element per channel of [N, C, ..], got {own} for {x}");
            return Err(refuse(what, &[self, v], message, None));
        }
        let mut dims = vec![Dim::ONE; x.rank() - 1];
        dims[0] = own.0[0];
        Ok(v.reshaped(&Shape(dims)))
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
        let marked = Marked::new(&[e / total]);
        let (y, d_y) = (&marked.outputs[0], &marked.d_outputs[0]);
        // From the output alone, so that neither the input nor the exponentials wait in memory for the backward pass.
        let d_x = y * (d_y - (y * d_y).apply(Reduce::Sum { axes: vec![axis] }, &[]));
        Ok(marked.close(std::slice::from_ref(self), &[Some(d_x)]).remove(0))
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
