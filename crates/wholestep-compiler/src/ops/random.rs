//! Random tensors. Takes the scope (whose key and step make the bits) and a shape, gives values that depend on seed, step, place in the
//! program and position only. Never draws on the host.

use super::refuse;
use crate::ir::{DType, Scope, Shape, Tensor};

impl Scope {
    /// Uniform f32 in [0, 1): multiples of 2^-24. Matches PyTorch `rand` in distribution.
    #[track_caller]
    pub fn uniform(&self, shape: impl Into<Shape>) -> Tensor {
        let bits = self.random_bits(shape);
        bits.shift_right(8.0).cast(DType::F32) * 2f64.powi(-24)
    }

    /// Normal f32 of mean 0 and variance 1, by Box and Muller's transform: `√(-2 ln(1 - u))·cos(2π v)`. Matches PyTorch `randn` in
    /// distribution.
    #[track_caller]
    pub fn normal(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let (u, v) = (self.uniform(&shape), self.uniform(&shape));
        // 1 - u is at least 2^-24, so the logarithm is finite.
        let radius = ((1.0 - u).log() * -2.0).sqrt();
        radius * (v * std::f64::consts::TAU).cos()
    }

    /// Bool, true with probability `p` (to within 2^-32). Errors: `p` is not in [0, 1]. Matches PyTorch `bernoulli` in distribution.
    #[track_caller]
    pub fn bernoulli(&self, shape: impl Into<Shape>, p: f64) -> Tensor {
        let bits = self.random_bits(shape);
        if !(0.0..=1.0).contains(&p) {
            return refuse("bernoulli", &[&bits], format!("need a probability in [0, 1], got {p}"), None);
        }
        let threshold = (p * 2f64.powi(32)).round();
        if threshold >= 2f64.powi(32) {
            return bits.greater_equal(0.0); // certain: 2^32 does not fit the comparison
        }
        bits.less(threshold)
    }
}

impl Tensor {
    /// In training each element is 0 with probability `p`, else `x/(1 - p)`; in inference x. Matches PyTorch `dropout`.
    /// Paper: Srivastava et al. 2014.
    #[track_caller]
    pub fn dropout(&self, s: &Scope, p: f64) -> Tensor {
        self.dropped("dropout", s, self.shape(), p)
    }

    /// In training each channel of x `[N, C, d..]` is 0 with probability `p`, else `x/(1 - p)`; in inference x. Matches PyTorch `dropout1d`
    /// to `dropout3d`.
    #[track_caller]
    pub fn dropout_channels(&self, s: &Scope, p: f64) -> Tensor {
        let mut shape = self.shape();
        if shape.rank() < 2 {
            return refuse("dropout_channels", &[self], format!("need [N, C, ..], got {shape}"), None);
        }
        shape.0[2..].fill(crate::ir::Dim::ONE);
        self.dropped("dropout_channels", s, shape, p)
    }

    #[track_caller]
    fn dropped(&self, what: &str, s: &Scope, mask: Shape, p: f64) -> Tensor {
        if !(0.0..=1.0).contains(&p) {
            return refuse(what, &[self], format!("need a probability in [0, 1], got {p}"), None);
        }
        if !s.is_training() || p == 0.0 {
            return self.clone();
        }
        if p == 1.0 {
            return self * 0.0;
        }
        let keep = s.bernoulli(mask, 1.0 - p);
        keep.select(self * (1.0 / (1.0 - p)), 0.0)
    }
}
