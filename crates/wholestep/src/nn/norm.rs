//! Normalization of each sample by itself. Takes activations, gives the same shape. Never mixes samples and never keeps anything between
//! steps, except the running statistics that an [`InstanceNorm`] may be asked for.

use super::batch_norm::{Affine, Momentum, Running, parts, small};
use super::place::{Place, has_failed, is_extent};
use super::yes;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Dim, Scope, Shape, Tensor};

/// What a [`LayerNorm`] is, without its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNormSpec {
    /// How many of the last axes are normalized together.
    #[serde(default = "one")]
    pub axes: usize,
    /// Added to the variance, in units of x².
    #[serde(default = "small")]
    pub eps: f64,
    /// Whether `weight` is learned (and `bias`, if asked for).
    #[serde(default = "yes")]
    pub affine: bool,
    /// Whether `bias` is learned beside `weight`; by default it is.
    #[serde(default = "yes")]
    pub bias: bool,
}

fn one() -> usize {
    1
}

impl LayerNormSpec {
    /// PyTorch's defaults: over the last axis, eps 1e-5, weight and bias.
    pub fn new() -> LayerNormSpec {
        LayerNormSpec { axes: 1, eps: 1e-5, affine: true, bias: true }
    }

    /// How many of the last axes are normalized together, 1 by default. For models in files: in code the layer's `dims` say it.
    pub fn axes(self, axes: usize) -> Self {
        LayerNormSpec { axes, ..self }
    }

    /// Added to the variance, under the root, in units of x²; finite and >= 0, 1e-5 by default.
    pub fn eps(self, eps: f64) -> Self {
        LayerNormSpec { eps, ..self }
    }

    /// Whether `weight` (ones at first) and `bias` (zeros) are learned; they are by default.
    pub fn affine(self, affine: bool) -> Self {
        LayerNormSpec { affine, ..self }
    }

    /// Whether `bias` is learned beside `weight`; by default it is, and never without `weight`.
    pub fn bias(self, bias: bool) -> Self {
        LayerNormSpec { bias, ..self }
    }
}

impl Default for LayerNormSpec {
    fn default() -> Self {
        LayerNormSpec::new()
    }
}

/// Layer normalization over the last axes: `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// Shapes: `x [.., D..]` -> `[.., D..]`; parameters `weight`, `bias` `[D..]`. `eps` is in units of x².
/// Errors: the last axes of `x` are not `D..`.
/// Paper: Ba, Kiros, Hinton 2016, arXiv:1607.06450, section 3. Matches PyTorch `nn.LayerNorm` (biased variance).
#[derive(Debug)]
pub struct LayerNorm {
    affine: Option<Affine>,
    over: Trailing,
}

impl LayerNorm {
    /// Over the last axes, of extents `dims` (`[c]` for the last one), with PyTorch's defaults.
    #[track_caller]
    pub fn new(s: &Scope, dims: impl Into<Vec<usize>>) -> LayerNorm {
        LayerNorm::with(s, dims, &LayerNormSpec::new())
    }

    /// As `spec` says; its number of axes is that of `dims`.
    #[track_caller]
    pub fn with(s: &Scope, dims: impl Into<Vec<usize>>, spec: &LayerNormSpec) -> LayerNorm {
        let over = Trailing::new(s, "LayerNorm", dims.into(), spec.eps);
        let affine = Affine::maybe(&over.place, spec.affine, &over.dims, spec.bias);
        LayerNorm { affine, over }
    }

    /// `[.., D..]` -> the same shape, any number of axes before. Errors: the last axes of `x` are not `D..`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if let Err(placeholder) = self.over.check(x) {
            return placeholder;
        }
        let (weight, bias) = parts(&self.affine);
        x.layer_norm(self.over.dims.len(), weight, bias, self.over.eps)
    }
}

/// The last axes of a tensor, over which a norm goes.
#[derive(Debug)]
struct Trailing {
    dims: Vec<usize>,
    eps: f64,
    place: Place,
}

impl Trailing {
    #[track_caller]
    fn new(s: &Scope, layer: &'static str, dims: Vec<usize>, eps: f64) -> Trailing {
        let place = Place::new(s, layer);
        place.need_dims(&dims);
        place.need_eps(eps);
        Trailing { dims, eps, place }
    }

    /// A placeholder, where tracing has failed or the last extents of `x` are not `dims`.
    #[track_caller]
    fn check(&self, x: &Tensor) -> Result<(), Tensor> {
        if has_failed(x) {
            return Err(x.clone());
        }
        let shape = x.shape();
        let last = shape.rank().checked_sub(self.dims.len()).map(|start| &shape.dims()[start..]);
        if last.is_some_and(|last| last.iter().zip(&self.dims).all(|(&d, &n)| is_extent(d, n))) {
            return Ok(());
        }
        let each: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        let message = format!("need x [.., {}], got {shape}", each.join(", "));
        let help = format!("{}::new(s, dims): dims are the last extents of x", self.place.layer);
        Err(self.place.refuse(x, message, help))
    }
}

/// What an [`RmsNorm`] is, without its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmsNormSpec {
    /// How many of the last axes are normalized together.
    #[serde(default = "one")]
    pub axes: usize,
    /// Added to the mean square, in units of x². PyTorch's default is the dtype's epsilon, 2⁻²³ in f32.
    #[serde(default = "epsilon")]
    pub eps: f64,
    /// Whether `weight` is learned.
    #[serde(default = "yes")]
    pub affine: bool,
}

fn epsilon() -> f64 {
    f64::from(f32::EPSILON)
}

impl RmsNormSpec {
    /// PyTorch's defaults: over the last axis, eps 2⁻²³, a weight.
    pub fn new() -> RmsNormSpec {
        RmsNormSpec { axes: 1, eps: epsilon(), affine: true }
    }

    /// How many of the last axes are normalized together, 1 by default. For models in files: in code the layer's `dims` say it.
    pub fn axes(self, axes: usize) -> Self {
        RmsNormSpec { axes, ..self }
    }

    /// Added to the mean square, under the root, in units of x²; finite and >= 0, 2⁻²³ by default. Large language models often use 1e-6 or 1e-5.
    pub fn eps(self, eps: f64) -> Self {
        RmsNormSpec { eps, ..self }
    }

    /// Whether `weight` (ones at first) is learned; by default it is.
    pub fn affine(self, affine: bool) -> Self {
        RmsNormSpec { affine, ..self }
    }
}

impl Default for RmsNormSpec {
    fn default() -> Self {
        RmsNormSpec::new()
    }
}

/// Root-mean-square normalization over the last axes: `x / sqrt(mean(x²) + eps) * weight`.
///
/// Shapes: `x [.., D..]` -> `[.., D..]`; parameter `weight [D..]`. `eps` is in units of x².
/// Errors: the last axes of `x` are not `D..`.
/// Paper: Zhang, Sennrich 2019, arXiv:1910.07467. Matches PyTorch `nn.RMSNorm`.
#[doc(alias = "RMSNorm")]
#[derive(Debug)]
pub struct RmsNorm {
    weight: Option<Tensor>,
    over: Trailing,
}

impl RmsNorm {
    /// Over the last axes, of extents `dims`, with PyTorch's defaults.
    #[track_caller]
    pub fn new(s: &Scope, dims: impl Into<Vec<usize>>) -> RmsNorm {
        RmsNorm::with(s, dims, &RmsNormSpec::new())
    }

    /// As `spec` says; its number of axes is that of `dims`.
    #[track_caller]
    pub fn with(s: &Scope, dims: impl Into<Vec<usize>>, spec: &RmsNormSpec) -> RmsNorm {
        let over = Trailing::new(s, "RmsNorm", dims.into(), spec.eps);
        let weight = Affine::maybe(&over.place, spec.affine, &over.dims, false).map(|a| a.weight);
        RmsNorm { weight, over }
    }

    /// `[.., D..]` -> the same shape, any number of axes before. Errors: the last axes of `x` are not `D..`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if let Err(placeholder) = self.over.check(x) {
            return placeholder;
        }
        x.rms_norm(self.over.dims.len(), self.weight.as_ref(), self.over.eps)
    }
}

/// What a [`GroupNorm`] is, without the number of channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNormSpec {
    /// Divides C; 1 normalizes a whole sample, C each channel by itself.
    pub groups: usize,
    /// Added to the variance, in units of x².
    #[serde(default = "small")]
    pub eps: f64,
    /// Whether `weight` and `bias` are learned.
    #[serde(default = "yes")]
    pub affine: bool,
}

impl GroupNormSpec {
    /// PyTorch's defaults: eps 1e-5, weight and bias for each channel.
    pub fn new(groups: usize) -> GroupNormSpec {
        GroupNormSpec { groups, eps: 1e-5, affine: true }
    }

    /// Added to the variance, under the root, in units of x²; finite and >= 0, 1e-5 by default.
    pub fn eps(self, eps: f64) -> Self {
        GroupNormSpec { eps, ..self }
    }

    /// Whether `weight` (ones at first) and `bias` (zeros), one per channel, are learned; they are by default.
    pub fn affine(self, affine: bool) -> Self {
        GroupNormSpec { affine, ..self }
    }
}

/// Normalization over groups of channels and all places: `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// Shapes: `x [N, C, ..]` -> `[N, C, ..]`; parameters `weight`, `bias` `[C]`.
/// Errors: fewer than 2 axes; not C channels; `groups` does not divide C; in training, one value per group in a batch of 1.
/// Paper: Wu, He 2018, arXiv:1803.08494. Matches PyTorch `nn.GroupNorm` (biased variance).
#[derive(Debug)]
pub struct GroupNorm {
    affine: Option<Affine>,
    groups: usize,
    channels: usize,
    eps: f64,
    place: Place,
}

impl GroupNorm {
    /// With PyTorch's defaults.
    #[track_caller]
    pub fn new(s: &Scope, groups: usize, channels: usize) -> GroupNorm {
        GroupNorm::with(s, channels, &GroupNormSpec::new(groups))
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, channels: usize, spec: &GroupNormSpec) -> GroupNorm {
        let place = Place::new(s, "GroupNorm");
        let is_sized = place.need_sizes(1, &[("groups", spec.groups), ("channels", channels)]);
        place.need_eps(spec.eps);
        if is_sized && !channels.is_multiple_of(spec.groups) {
            let message = format!("need groups to divide the channels, got {} groups of {channels}", spec.groups);
            place.reject(message, "GroupNorm::new(s, groups, channels)");
        }
        let affine = Affine::maybe(&place, spec.affine, &[channels], true);
        GroupNorm { affine, groups: spec.groups, channels, eps: spec.eps, place }
    }

    /// `[N, C, ..]` -> the same shape. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        if shape.rank() < 2 || !is_extent(shape.dims()[1], self.channels) {
            let message = format!("need x [N, {}, ..], got {shape}", self.channels);
            return self.place.refuse(
                x,
                message,
                format!("GroupNorm::new(s, groups, channels): channels is {}", self.channels),
            );
        }
        if self.place.scope.is_training() {
            // PyTorch's check, which counts the batch too.
            let values = shape.numel().and_then(|n| n.divided_by(Dim::fixed(self.groups)));
            if let Err(placeholder) = self.place.need_two_values(x, values, "group") {
                return placeholder;
            }
        }
        let (weight, bias) = parts(&self.affine);
        x.group_norm(self.groups, weight, bias, self.eps)
    }
}

/// What an instance normalization over N spatial axes is, without the number of channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceNormSpec<const N: usize> {
    /// Added to the variance, in units of x².
    #[serde(default = "small")]
    pub eps: f64,
    /// The weight of a new batch in the running statistics, where they are kept.
    #[serde(default)]
    pub momentum: Momentum,
    /// Whether `weight` and `bias` are learned; PyTorch's default is not.
    #[serde(default)]
    pub affine: bool,
    /// Whether inference uses running statistics; PyTorch's default is not.
    #[serde(default)]
    pub track_running_stats: bool,
}

impl<const N: usize> InstanceNormSpec<N> {
    /// PyTorch's defaults: eps 1e-5, nothing learned, no running statistics.
    pub fn new() -> InstanceNormSpec<N> {
        InstanceNormSpec { eps: 1e-5, momentum: Momentum::default(), affine: false, track_running_stats: false }
    }

    /// Added to the variance, under the root, in units of x²; finite and >= 0, 1e-5 by default.
    pub fn eps(self, eps: f64) -> Self {
        InstanceNormSpec { eps, ..self }
    }

    /// Whether `weight` (ones at first) and `bias` (zeros), one per channel, are learned; not by default, as in PyTorch.
    pub fn affine(self, affine: bool) -> Self {
        InstanceNormSpec { affine, ..self }
    }

    /// The weight of a new batch in the running statistics, where they are kept; `Exponential(0.1)` by default.
    pub fn momentum(self, momentum: Momentum) -> Self {
        InstanceNormSpec { momentum, ..self }
    }

    /// Whether running statistics are kept and used in inference; not by default, as in PyTorch.
    pub fn track_running_stats(self, track: bool) -> Self {
        InstanceNormSpec { track_running_stats: track, ..self }
    }
}

impl<const N: usize> Default for InstanceNormSpec<N> {
    fn default() -> Self {
        InstanceNormSpec::new()
    }
}

/// [`InstanceNorm`] of sequences `[N, C, L]`.
pub type InstanceNorm1d = InstanceNorm<1>;
/// [`InstanceNorm`] of images `[N, C, H, W]`.
pub type InstanceNorm2d = InstanceNorm<2>;
/// [`InstanceNorm`] of volumes `[N, C, D, H, W]`.
pub type InstanceNorm3d = InstanceNorm<3>;
/// What an [`InstanceNorm1d`] is.
pub type InstanceNorm1dSpec = InstanceNormSpec<1>;
/// What an [`InstanceNorm2d`] is.
pub type InstanceNorm2dSpec = InstanceNormSpec<2>;
/// What an [`InstanceNorm3d`] is.
pub type InstanceNorm3dSpec = InstanceNormSpec<3>;

/// Normalization of each channel of each sample over its N spatial axes: `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// Shapes: `x [N, C, spatial..]` or `[C, spatial..]` -> the same; parameters `weight`, `bias` `[C]`; buffers `running_mean`, `running_var` `[C]`
/// where asked for (means over the batch of each sample's statistics, the variance unbiased).
/// Errors: another rank; not C channels; one place per channel where the sample's own statistics are used.
/// Paper: Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022. Matches PyTorch `nn.InstanceNorm1d`, `nn.InstanceNorm2d`,
/// `nn.InstanceNorm3d`.
#[derive(Debug)]
pub struct InstanceNorm<const N: usize> {
    affine: Option<Affine>,
    running: Option<Running>,
    channels: usize,
    eps: f64,
    place: Place,
}

impl<const N: usize> InstanceNorm<N> {
    const NAME: &'static str = ["", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"][N];

    /// With PyTorch's defaults: nothing learned, nothing kept.
    #[track_caller]
    pub fn new(s: &Scope, channels: usize) -> InstanceNorm<N> {
        InstanceNorm::with(s, channels, &InstanceNormSpec::new())
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, channels: usize, spec: &InstanceNormSpec<N>) -> InstanceNorm<N> {
        let place = Place::new(s, Self::NAME);
        place.need_sizes(1, &[("num_features", channels)]);
        place.need_eps(spec.eps);
        let affine = Affine::maybe(&place, spec.affine, &[channels], true);
        let running = Running::maybe(&place, spec.track_running_stats, channels, spec.momentum);
        InstanceNorm { affine, running, channels, eps: spec.eps, place }
    }

    /// `[N, C, in..]` or `[C, in..]` -> the same shape. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        let is_image = shape.rank() == N + 2 || shape.rank() == N + 1;
        if !is_image || !is_extent(shape.dims()[shape.rank() - N - 1], self.channels) {
            let spatial = ["", "L", "H, W", "D, H, W"][N];
            let message = format!("need x [N, {0}, {spatial}] or [{0}, {spatial}], got {shape}", self.channels);
            let help = format!("{}::new(s, channels): channels is {}", Self::NAME, self.channels);
            return self.place.refuse(x, message, help);
        }
        if shape.rank() == N + 1 {
            return self.normalize(&x.unsqueeze(0)).reshape(&shape);
        }
        self.normalize(x)
    }

    #[track_caller]
    fn normalize(&self, x: &Tensor) -> Tensor {
        let training = self.place.scope.is_training();
        let (weight, bias) = parts(&self.affine);
        if let Some(running) = self.running.as_ref().filter(|_| !training) {
            return x.batch_norm(&running.mean, &running.var, weight, bias, self.eps);
        }
        let shape = x.shape();
        let Some(places) = Shape(shape.dims()[2..].to_vec()).numel().and_then(Dim::as_fixed) else {
            let message = format!("need samples of a fixed size, got {shape}");
            return self.place.refuse(x, message, "only the first axis may depend on the batch size");
        };
        if places == 1 {
            let message = format!("need more than one place per channel, got {shape}");
            return self.place.refuse(x, message, "the normalized value of a single place is always 0");
        }
        if let Some(running) = &self.running {
            let places: Vec<i64> = (2..2 + N as i64).collect();
            let mean = x.mean([&[0], &places[..]].concat());
            running.follow(&self.place.scope, &mean, &x.var(places, 1).mean(0));
        }
        x.instance_norm(weight, bias, self.eps)
    }
}
