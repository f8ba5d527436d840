//! Normalizations. Takes activations, scales and shifts, gives activations of mean 0 and variance 1 over some axes, scaled and shifted.
//! Never updates running statistics: the layer does that with the statistics it asked for.

use super::{Traced, refuse, settle};
use crate::ir::{Dim, Shape, Tensor};

/// What batch normalization needs to know of a batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// `[C]`.
    pub mean: Tensor,
    /// `Σ (x - mean)² / n`, `[C]`: what the batch is normalized with.
    pub var: Tensor,
    /// `Σ (x - mean)² / (n - 1)`, `[C]`: what the running variance takes.
    pub var_unbiased: Tensor,
    /// The batch, counted from the first element of its channel instead of 0, so that `Σ x² - n·centre²` loses no digits where the mean is far from 0:
    /// the two sums of one pass are enough.
    x: Tensor,
    /// The mean of that.
    centre: Tensor,
}

impl BatchStatistics {
    /// The batch normalized with its own statistics: `(x - mean)/√(var + eps)·gamma + beta` per channel. Matches PyTorch `batch_norm` in training.
    /// Paper: Ioffe, Szegedy 2015, arXiv:1502.03167.
    #[track_caller]
    pub fn normalize(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Tensor {
        settle(self.normalize_of(gamma, beta, eps))
    }

    #[track_caller]
    fn normalize_of(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Traced {
        const WHAT: &str = "batch_norm";
        let x = &self.x;
        let mut scale = (x.per_channel(WHAT, &self.var)? + eps).rsqrt();
        if let Some(gamma) = gamma {
            scale = scale * x.per_channel(WHAT, gamma)?;
        }
        // What is added is one number per channel, so that an element costs a difference, a product and a sum.
        let mut shift = -(&self.centre * &scale);
        if let Some(beta) = beta {
            shift = x.per_channel(WHAT, beta)? + shift;
        }
        Ok(x * scale + shift)
    }

    fn failed(x: &Tensor) -> BatchStatistics {
        let [mean, var, var_unbiased, x, centre] = std::array::from_fn(|_| x.clone());
        BatchStatistics { mean, var, var_unbiased, x, centre }
    }
}

impl Tensor {
    /// `(x - mean)/√(var + eps)·gamma + beta` over the last `n_axes` axes, whose shape gamma and beta have. Matches PyTorch `layer_norm`.
    #[track_caller]
    pub fn layer_norm(&self, n_axes: usize, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Tensor {
        settle(self.layer_norm_of(n_axes, gamma, beta, eps))
    }

    #[track_caller]
    fn layer_norm_of(&self, n_axes: usize, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Traced {
        let axes = self.last_axes("layer_norm", n_axes, &[gamma, beta])?;
        Ok(scaled(self.normalized(&axes, eps), gamma, beta))
    }

    /// `x/√(mean(x²) + eps)·gamma` over the last `n_axes` axes, whose shape gamma has. Matches PyTorch `rms_norm`.
    /// Paper: Zhang, Sennrich 2019, arXiv:1910.07467.
    #[track_caller]
    pub fn rms_norm(&self, n_axes: usize, gamma: Option<&Tensor>, eps: f64) -> Tensor {
        settle(self.rms_norm_of(n_axes, gamma, eps))
    }

    #[track_caller]
    fn rms_norm_of(&self, n_axes: usize, gamma: Option<&Tensor>, eps: f64) -> Traced {
        let axes = self.last_axes("rms_norm", n_axes, &[gamma])?;
        let scale = (self.square().mean_keepdim(axes) + eps).rsqrt();
        Ok(scaled(self * scale, gamma, None))
    }

    /// x `[N, C, d..]` normalized over groups of `C/groups` channels, then `·gamma + beta` (`[C]`). Matches PyTorch `group_norm`.
    /// Paper: Wu, He 2018, arXiv:1803.08494.
    #[track_caller]
    pub fn group_norm(&self, groups: usize, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Tensor {
        settle(self.group_norm_of(groups, gamma, beta, eps))
    }

    #[track_caller]
    fn group_norm_of(&self, groups: usize, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Traced {
        let shape = self.shape();
        let per_group = shape.0.get(1).and_then(|c| c.divided_by(Dim::fixed(groups)));
        let Some(per_group) = per_group else {
            let message = format!("need [N, C, ..] whose C divides into {groups} groups, got {shape}");
            return Err(refuse("group_norm", &[self], message, None));
        };
        let mut split = shape.clone();
        split.0.splice(1..2, [Dim::fixed(groups), per_group]);
        let axes: Vec<i64> = (2..split.rank() as i64).collect();
        let y = self.reshaped(&split).normalized(&axes, eps).reshaped(&shape);
        self.channel_scaled("group_norm", y, gamma, beta)
    }

    /// x `[N, C, d..]`: each channel of each sample normalized over `d..`, then `·gamma + beta` (`[C]`). Matches PyTorch `instance_norm`.
    #[track_caller]
    pub fn instance_norm(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Tensor {
        settle(self.instance_norm_of(gamma, beta, eps))
    }

    #[track_caller]
    fn instance_norm_of(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Traced {
        if self.rank() < 3 {
            let message = format!("need [N, C, d..] with at least one axis d, got {}", self.shape());
            return Err(refuse("instance_norm", &[self], message, None));
        }
        let axes: Vec<i64> = (2..self.rank() as i64).collect();
        let y = self.normalized(&axes, eps);
        self.channel_scaled("instance_norm", y, gamma, beta)
    }

    /// `(x - mean)/√(var + eps)·gamma + beta` per channel of x `[N, C, d..]` with given statistics `[C]`. Matches PyTorch `batch_norm`; in training
    /// that is [`BatchStatistics::normalize`].
    #[track_caller]
    pub fn batch_norm(
        &self,
        mean: &Tensor,
        var: &Tensor,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f64,
    ) -> Tensor {
        settle(self.batch_norm_of(mean, var, gamma, beta, eps))
    }

    #[track_caller]
    fn batch_norm_of(
        &self,
        mean: &Tensor,
        var: &Tensor,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f64,
    ) -> Traced {
        const WHAT: &str = "batch_norm";
        let _ = self.per_channel(WHAT, var)?;
        let mut scale = (var + eps).rsqrt();
        if let Some(gamma) = gamma {
            let _ = self.per_channel(WHAT, gamma)?;
            scale = scale * gamma;
        }
        // The factors join per channel, so that an element costs one difference and one product.
        let y = (self - self.per_channel(WHAT, mean)?) * self.per_channel(WHAT, &scale)?;
        self.channel_scaled(WHAT, y, None, beta)
    }

    /// Mean and variance of each channel of x `[N, C, d..]` over all other axes.
    #[track_caller]
    pub fn batch_statistics(&self) -> BatchStatistics {
        let rank = self.rank() as i64;
        if rank < 2 {
            let message = format!("need [N, C, ..], got {}", self.shape());
            return BatchStatistics::failed(&refuse("batch_statistics", &[self], message, None));
        }
        let axes: Vec<usize> = (0..rank as usize).filter(|&axis| axis != 1).collect();
        let count = match self.count("batch_statistics", &axes) {
            Ok(count) => count,
            Err(x) => return BatchStatistics::failed(&x),
        };
        let mut origin = self.clone();
        for &axis in &axes {
            origin = origin.narrowed(axis, Dim::ZERO, Dim::ONE);
        }
        let origin = origin.detach();
        let x = self - &origin;
        let over: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let n = self.extent_beside(count);
        let centre = x.sum_keepdim(over.clone()) / &n;
        // Rounding must not leave less than nothing.
        let squares = (x.square().sum_keepdim(over) - centre.square() * &n).maximum(0.0).without(&axes);
        BatchStatistics {
            mean: (&centre + origin).without(&axes),
            var: &squares / n,
            var_unbiased: &squares / self.extent_beside(count - Dim::ONE),
            x,
            centre,
        }
    }

    /// `(x - mean)/√(var + eps)` over `axes`, with the biased variance.
    #[track_caller]
    fn normalized(&self, axes: &[i64], eps: f64) -> Tensor {
        let centered = self - self.mean_keepdim(axes);
        let rstd = (centered.square().mean_keepdim(axes) + eps).rsqrt();
        centered * rstd
    }

    /// The last `n` axes, whose shape each of `params` must have.
    #[track_caller]
    fn last_axes(&self, what: &str, n: usize, params: &[Option<&Tensor>]) -> Result<Vec<i64>, Tensor> {
        let shape = self.shape();
        let Some(first) = shape.rank().checked_sub(n).filter(|_| n > 0) else {
            let message = format!("need 1 to {} axes to normalize over, got {n} of {shape}", shape.rank());
            return Err(refuse(what, &[self], message, None));
        };
        let need = Shape(shape.0[first..].to_vec());
        for param in params.iter().flatten() {
            if param.shape() != need {
                let message = format!("need scale and shift {need} for x {shape}, got {}", param.shape());
                return Err(refuse(what, &[self, param], message, None));
            }
        }
        Ok((first as i64..shape.rank() as i64).collect())
    }

    /// `y·gamma + beta` per channel.
    #[track_caller]
    fn channel_scaled(&self, what: &str, y: Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>) -> Traced {
        let mut y = y;
        if let Some(gamma) = gamma {
            y = y * self.per_channel(what, gamma)?;
        }
        if let Some(beta) = beta {
            y = y + self.per_channel(what, beta)?;
        }
        Ok(y)
    }
}

#[track_caller]
fn scaled(x: Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>) -> Tensor {
    let mut y = x;
    if let Some(gamma) = gamma {
        y = y * gamma;
    }
    if let Some(beta) = beta {
        y = y + beta;
    }
    y
}
