//! Normalization by statistics of the batch, with running statistics for inference. Takes `[N, C, ..]`, gives the same shape. Never lets
//! one sample's result depend on the others in inference.

use super::place::{Place, has_failed, is_extent};
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Dim, Init, Scope, Shape, Tensor};

/// What a batch or instance normalization is, without the number of channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNormSpec<const N: usize> {
    /// Added to the variance, in units of x².
    #[serde(default = "small")]
    pub eps: f64,
    /// The weight of a new batch in the running statistics.
    #[serde(default)]
    pub momentum: Momentum,
    /// Whether `weight` and `bias` are learned.
    #[serde(default = "yes")]
    pub affine: bool,
    /// Without running statistics inference uses those of its own batch.
    #[serde(default = "yes")]
    pub track_running_stats: bool,
}

pub(super) fn small() -> f64 {
    1e-5
}

/// How running statistics follow the batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Momentum {
    /// `running = (1 - m) · running + m · batch`.
    Exponential(f64),
    /// The mean over all batches; PyTorch's `momentum=None`.
    Cumulative,
}

impl Default for Momentum {
    fn default() -> Momentum {
        Momentum::Exponential(0.1)
    }
}

impl<const N: usize> BatchNormSpec<N> {
    /// PyTorch's defaults: eps 1e-5, momentum 0.1, affine, running statistics.
    pub fn new() -> BatchNormSpec<N> {
        BatchNormSpec { eps: 1e-5, momentum: Momentum::default(), affine: true, track_running_stats: true }
    }

    /// Added to the variance, under the root, in units of x²; finite and >= 0, 1e-5 by default.
    pub fn eps(self, eps: f64) -> Self {
        BatchNormSpec { eps, ..self }
    }

    /// The weight of a new batch in the running statistics; `Exponential(0.1)` by default.
    pub fn momentum(self, momentum: Momentum) -> Self {
        BatchNormSpec { momentum, ..self }
    }

    /// Whether `weight` (ones at first) and `bias` (zeros) are learned; they are by default.
    pub fn affine(self, affine: bool) -> Self {
        BatchNormSpec { affine, ..self }
    }

    /// Whether running statistics are kept and used in inference; they are by default. Without them inference uses its own batch's.
    pub fn track_running_stats(self, track: bool) -> Self {
        BatchNormSpec { track_running_stats: track, ..self }
    }
}

impl<const N: usize> Default for BatchNormSpec<N> {
    fn default() -> Self {
        BatchNormSpec::new()
    }
}

/// [`BatchNorm`] of `[N, C]` or `[N, C, L]`.
pub type BatchNorm1d = BatchNorm<1>;
/// [`BatchNorm`] of images `[N, C, H, W]`.
pub type BatchNorm2d = BatchNorm<2>;
/// [`BatchNorm`] of volumes `[N, C, D, H, W]`.
pub type BatchNorm3d = BatchNorm<3>;
/// What a [`BatchNorm1d`] is.
pub type BatchNorm1dSpec = BatchNormSpec<1>;
/// What a [`BatchNorm2d`] is.
pub type BatchNorm2dSpec = BatchNormSpec<2>;
/// What a [`BatchNorm3d`] is.
pub type BatchNorm3dSpec = BatchNormSpec<3>;

/// Batch normalization over all axes but the channels: `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// In training mean and (biased) variance are the batch's, and the step moves `running_mean` and `running_var` (unbiased variance)
/// towards them; in inference, and below [`Scope::eval`], the running ones are used. Statistics of one value are none: a batch of one row without places is refused
/// when it is run, as PyTorch does.
///
/// Shapes: `N = 1`: `[N, C]` or `[N, C, L]`; `N = 2`: `[N, C, H, W]`; `N = 3`: `[N, C, D, H, W]`; the result has the same. Parameters `weight`, `bias` `[C]`, buffers
/// `running_mean`, `running_var` `[C]` (and `num_batches_tracked` for [`Momentum::Cumulative`]).
/// Errors: another rank; not C channels; one value per channel where the batch's statistics are used; used twice in one training step.
/// Paper: Ioffe, Szegedy 2015, arXiv:1502.03167. Matches PyTorch `nn.BatchNorm1d`, `nn.BatchNorm2d`, `nn.BatchNorm3d`.
#[derive(Debug)]
pub struct BatchNorm<const N: usize> {
    affine: Option<Affine>,
    running: Option<Running>,
    channels: usize,
    eps: f64,
    place: Place,
}

impl<const N: usize> BatchNorm<N> {
    const NAME: &'static str = ["", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"][N];

    /// With PyTorch's defaults.
    #[track_caller]
    pub fn new(s: &Scope, channels: usize) -> BatchNorm<N> {
        BatchNorm::with(s, channels, &BatchNormSpec::new())
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, channels: usize, spec: &BatchNormSpec<N>) -> BatchNorm<N> {
        let place = Place::new(s, Self::NAME);
        place.need_sizes(1, &[("num_features", channels)]);
        place.need_eps(spec.eps);
        let affine = Affine::maybe(&place, spec.affine, &[channels], true);
        let running = Running::maybe(&place, spec.track_running_stats, channels, spec.momentum);
        BatchNorm { affine, running, channels, eps: spec.eps, place }
    }

    /// `x [N, C, ..]` -> the same shape, as the type says. Training also moves the running statistics when the step ends, so once in a step.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        let fits_rank = shape.rank() == N + 2 || N == 1 && shape.rank() == 2;
        let form = ["", "[N, C] or [N, C, L]", "[N, C, H, W]", "[N, C, D, H, W]"][N];
        if !fits_rank || !is_extent(shape.dims()[1], self.channels) {
            let message = format!("need x {form} with C = {}, got {shape}", self.channels);
            let help =
                format!("{}::new(s, channels): channels is {}, the channel axis is 1", Self::NAME, self.channels);
            return self.place.refuse(x, message, help);
        }
        let training = self.place.scope.is_training();
        let (weight, bias) = parts(&self.affine);
        match &self.running {
            Some(running) if !training => x.batch_norm(&running.mean, &running.var, weight, bias, self.eps),
            Some(_) | None => {
                let count = values_per_channel(&shape);
                if let Err(placeholder) = self.place.need_two_values(x, count, "channel") {
                    return placeholder;
                }
                let batch = x.batch_statistics();
                if let (Some(running), Some(count), true) = (&self.running, count, training) {
                    let s = &self.place.scope;
                    running.follow(s, &batch.mean, &(&batch.var * unbiasing(s, count)));
                }
                batch.normalize(weight, bias, self.eps)
            }
        }
    }
}

/// `weight` and maybe `bias`.
#[derive(Debug)]
pub(super) struct Affine {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Affine {
    #[track_caller]
    pub fn maybe(place: &Place, wanted: bool, shape: &[usize], has_bias: bool) -> Option<Affine> {
        if !wanted {
            return None;
        }
        let weight = place.param("weight", shape, &Initializer::Ones);
        let bias = match has_bias {
            true => Some(place.param("bias", shape, &Initializer::Zeros)),
            false => None,
        };
        Some(Affine { weight, bias })
    }
}

/// Both, as the ops take them.
pub(super) fn parts(affine: &Option<Affine>) -> (Option<&Tensor>, Option<&Tensor>) {
    (affine.as_ref().map(|a| &a.weight), affine.as_ref().and_then(|a| a.bias.as_ref()))
}

/// `[C]` as `[1, C, 1, ..]`.
#[track_caller]
pub(super) fn along_channels(v: &Tensor, rank: usize) -> Tensor {
    let mut dims = vec![Dim::ONE; rank];
    if let (Some(channel), Some(&c)) = (dims.get_mut(1), v.shape().dims().first()) {
        *channel = c;
    }
    v.reshape(Shape(dims))
}

/// The number of values over which a channel's statistics are taken.
fn values_per_channel(shape: &Shape) -> Option<Dim> {
    let mut dims = shape.clone();
    dims.0.remove(1);
    dims.numel()
}

/// n / (n - 1), where n may depend on the batch size and is at least 2.
#[track_caller]
fn unbiasing(s: &Scope, n: Dim) -> Tensor {
    let n = s.extent(n, wholestep_compiler::ir::DType::F32);
    &n / (&n - 1.0)
}

/// Running statistics.
#[derive(Debug)]
pub(super) struct Running {
    pub mean: Tensor,
    pub var: Tensor,
    momentum: Momentum,
    batches: Option<Tensor>,
}

impl Running {
    #[track_caller]
    pub fn maybe(place: &Place, wanted: bool, channels: usize, momentum: Momentum) -> Option<Running> {
        if !wanted {
            return None;
        }
        let s = &place.scope;
        if matches!(momentum, Momentum::Exponential(m) if !(0.0..=1.0).contains(&m)) {
            let message = format!("need a momentum in [0, 1], got {momentum:?}");
            place.reject(message, "it is the weight of the new batch, as in PyTorch");
        }
        let batches = match momentum {
            Momentum::Cumulative => Some(s.buffer("num_batches_tracked", Shape::scalar(), Init::Const(0.0))),
            Momentum::Exponential(_) => None,
        };
        let mean = s.buffer("running_mean", [channels], Init::Const(0.0));
        let var = s.buffer("running_var", [channels], Init::Const(1.0));
        Some(Running { mean, var, momentum, batches })
    }

    /// Moves the statistics towards those of a batch when the step ends.
    #[track_caller]
    pub fn follow(&self, s: &Scope, mean: &Tensor, var: &Tensor) {
        // What is kept between steps is no path for gradients.
        let (mean, var) = (mean.detach(), var.detach());
        let (new_mean, new_var) = match (self.momentum, &self.batches) {
            (Momentum::Exponential(m), _) => (&self.mean * (1.0 - m) + mean * m, &self.var * (1.0 - m) + var * m),
            (Momentum::Cumulative, Some(batches)) => {
                let count = batches + 1.0;
                s.update(batches, &count);
                let step = |old: &Tensor, new: Tensor| old + (new - old) / &count;
                (step(&self.mean, mean), step(&self.var, var))
            }
            (Momentum::Cumulative, None) => panic!("bug: a cumulative average without its count"),
        };
        s.update(&self.mean, &new_mean);
        s.update(&self.var, &new_var);
    }
}
