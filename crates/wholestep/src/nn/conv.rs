//! Convolutions. Takes images `[N, C, spatial..]` in PyTorch's order, gives images. Never pads or crops unless asked.

use super::extents::{Extents, Padding};
use super::place::{Place, has_failed, is_countable, is_extent};
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Dim, Scope, Tensor};
use wholestep_compiler::ops::conv::{self as ops, ConvOptions};

/// What a convolution over N spatial axes is, without the channels of its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvSpec<const N: usize> {
    /// C_out, at least 1.
    pub out_channels: usize,
    /// The extents of the window, each at least 1: `3` or `[3, 5]`.
    pub kernel: Extents<N>,
    /// How far the window moves, each at least 1; 1 by default.
    #[serde(default = "Extents::ones")]
    pub stride: Extents<N>,
    /// Zeros around the input; none by default. Other ways to pad are methods of tensors.
    #[serde(default = "Padding::none")]
    pub padding: Padding<N>,
    /// The distance between taps of the kernel, each at least 1; 1 by default: taps side by side.
    #[serde(default = "Extents::ones")]
    pub dilation: Extents<N>,
    /// Channels are split into this many groups that do not see each other; as many as channels is a depthwise convolution.
    #[serde(default = "one")]
    pub groups: usize,
    /// Whether `bias [C_out]` is added; by default it is.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Absent: PyTorch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_init: Option<Initializer>,
    /// Absent: PyTorch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_init: Option<Initializer>,
}

pub(super) fn one() -> usize {
    1
}

impl<const N: usize> ConvSpec<N> {
    /// Stride 1, no padding, one group, a bias.
    pub fn new(out_channels: usize, kernel: impl Into<Extents<N>>) -> ConvSpec<N> {
        ConvSpec {
            out_channels,
            kernel: kernel.into(),
            stride: Extents::ones(),
            padding: Padding::none(),
            dilation: Extents::ones(),
            groups: 1,
            bias: true,
            weight_init: None,
            bias_init: None,
        }
    }

    /// How far the window moves, one number or one per axis, at least 1; 1 by default.
    pub fn stride(self, stride: impl Into<Extents<N>>) -> Self {
        ConvSpec { stride: stride.into(), ..self }
    }

    /// Zeros around the input: one number, one per axis, or a pair (before, after) per axis; none by default.
    pub fn padding(self, padding: impl Into<Padding<N>>) -> Self {
        ConvSpec { padding: padding.into(), ..self }
    }

    /// The padding that keeps the image's size.
    pub fn same(self) -> Self {
        ConvSpec { padding: Padding::Same, ..self }
    }

    /// The distance between taps of the kernel, one number or one per axis, at least 1; 1 by default.
    pub fn dilation(self, dilation: impl Into<Extents<N>>) -> Self {
        ConvSpec { dilation: dilation.into(), ..self }
    }

    /// Groups of channels that do not see each other; divides both channel counts, 1 by default.
    pub fn groups(self, groups: usize) -> Self {
        ConvSpec { groups, ..self }
    }

    /// Whether `bias [C_out]` is added; by default it is.
    pub fn bias(self, bias: bool) -> Self {
        ConvSpec { bias, ..self }
    }

    /// How `weight` starts instead of U(±1/√fan_in), fan_in being `C_in/groups · Πkernel`.
    pub fn weight_init(self, init: Initializer) -> Self {
        ConvSpec { weight_init: Some(init), ..self }
    }

    /// How `bias` starts instead of U(±1/√fan_in) with the fan_in of the weight.
    pub fn bias_init(self, init: Initializer) -> Self {
        ConvSpec { bias_init: Some(init), ..self }
    }
}

/// [`Conv`] of sequences `[N, C, L]`.
pub type Conv1d = Conv<1>;
/// [`Conv`] of images `[N, C, H, W]`.
pub type Conv2d = Conv<2>;
/// [`Conv`] of volumes `[N, C, D, H, W]`.
pub type Conv3d = Conv<3>;
/// What a [`Conv1d`] is.
pub type Conv1dSpec = ConvSpec<1>;
/// What a [`Conv2d`] is.
pub type Conv2dSpec = ConvSpec<2>;
/// What a [`Conv3d`] is.
pub type Conv3dSpec = ConvSpec<3>;

/// Convolution (cross-correlation, as in PyTorch) over N spatial axes, with stride, padding, dilation and groups.
///
/// Shapes: `x [N, C_in, in..]` or `[C_in, in..]` -> `[N, C_out, out..]`, out = ⌊(in + before + after - dilation·(kernel - 1) - 1) / stride⌋ + 1;
/// parameters `weight [C_out, C_in/groups, kernel..]`, `bias [C_out]`.
/// Errors: another rank; not C_in channels; the window does not fit; `groups` does not divide the channels; a size of 0;
/// `Padding::Same` with a stride.
/// Matches PyTorch `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` (zero padding), default values included.
#[derive(Debug)]
pub struct Conv<const N: usize> {
    weight: Tensor,
    bias: Option<Tensor>,
    channels: usize,
    spec: ConvSpec<N>,
    place: Place,
}

impl<const N: usize> Conv<N> {
    const NAME: &'static str = ["Conv", "Conv1d", "Conv2d", "Conv3d"][N];

    /// Stride 1, no padding, with PyTorch's initial values.
    #[track_caller]
    pub fn new(s: &Scope, c_in: usize, c_out: usize, kernel: impl Into<Extents<N>>) -> Conv<N> {
        Conv::with(s, c_in, &ConvSpec::new(c_out, kernel))
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, c_in: usize, spec: &ConvSpec<N>) -> Conv<N> {
        let place = Place::new(s, Self::NAME);
        let (c_out, groups) = (spec.out_channels, spec.groups);
        let mut is_sized = place.need_sizes(1, &[("in_channels", c_in), ("out_channels", c_out), ("groups", groups)]);
        is_sized &= place.need_window(&spec.kernel.0, &spec.stride.0, &spec.dilation.0);
        if is_sized && !(c_in.is_multiple_of(groups) && c_out.is_multiple_of(groups)) {
            let message =
                format!("need groups to divide both channel counts, got {groups} groups of {c_in} and {c_out}");
            place.reject(message, "a depthwise convolution has groups = in_channels and out_channels a multiple of it");
        }
        if matches!(spec.padding, Padding::Same) && spec.stride != Extents::ones() {
            let message = format!("need stride 1 for padding \"same\", got {}", spec.stride);
            place.reject(message, "give the padding as numbers");
        }
        if let Padding::Explicit(pads) = &spec.padding {
            let sides: Vec<(&str, usize)> = pads.iter().flat_map(|p| [("padding", p.0), ("padding", p.1)]).collect();
            place.need_sizes(0, &sides);
        }
        let mut shape = vec![c_out, c_in / groups.max(1)];
        shape.extend(spec.kernel.0);
        let (weight, bias) = place.weight_and_bias(&shape, c_out, spec.bias, &spec.weight_init, &spec.bias_init);
        Conv { weight, bias, channels: c_in, spec: spec.clone(), place }
    }
}

/// `forward` of a layer that is generic over the number of its axes, by the operation for each number.
macro_rules! forward {
    ($layer:ident: $($n:literal $method:ident;)+) => {$(
        impl $layer<$n> {
            /// `[N, C_in, in..]` or `[C_in, in..]` -> `[N, C_out, out..]` or `[C_out, out..]`. Errors: as the type says.
            #[track_caller]
            pub fn forward(&self, x: &Tensor) -> Tensor {
                let (image, is_single) = match batched::<$n>(&self.place, x, self.channels) {
                    Ok(found) => found,
                    Err(placeholder) => return placeholder,
                };
                let y = image.$method(&self.weight, self.bias.as_ref(), &self.options());
                unbatched(&self.place, x, y, is_single)
            }
        }
    )+};
}
pub(super) use forward;
forward! {
    Conv:
    1 conv1d;
    2 conv2d;
    3 conv3d;
}

impl<const N: usize> Conv<N> {
    fn options(&self) -> ConvOptions<N> {
        let padding = match self.spec.padding {
            Padding::Same => ops::Padding::Same,
            Padding::Explicit(pads) => ops::Padding::Explicit(pads),
        };
        let (stride, dilation) = (self.spec.stride.0, self.spec.dilation.0);
        ConvOptions { stride, padding, dilation, groups: self.spec.groups }
    }
}

/// `x` with a batch axis, and whether that had to be added; or the placeholder of the error that was recorded.
#[track_caller]
pub(super) fn batched<const N: usize>(place: &Place, x: &Tensor, channels: usize) -> Result<(Tensor, bool), Tensor> {
    if has_failed(x) {
        return Err(x.clone());
    }
    let shape = x.shape();
    let is_image = shape.rank() == N + 2 || shape.rank() == N + 1;
    if !is_image || !is_extent(shape.dims()[shape.rank() - N - 1], channels) {
        return Err(refuse_image::<N>(place, x, channels));
    }
    let is_single = shape.rank() == N + 1;
    Ok((if is_single { x.unsqueeze(0) } else { x.clone() }, is_single))
}

/// The result as it came: without the batch axis that was added.
#[track_caller]
pub(super) fn unbatched(place: &Place, x: &Tensor, y: Tensor, is_single: bool) -> Tensor {
    if has_failed(&y) {
        return y;
    }
    if !is_countable(y.shape().dims()) {
        return place.refuse(x, format!("the result {} is too large", y.shape()), "check kernel, stride and padding");
    }
    if is_single { y.squeeze(0) } else { y }
}

/// The order of axes that puts the channels first, if they are last: as many as wanted there, and unlike the extent before, which would be one of pixels.
fn channels_first<const N: usize>(dims: &[Dim], channels: usize) -> Option<Vec<usize>> {
    let n_before = dims.len().checked_sub(N + 1).filter(|&n| n <= 1)?;
    let [.., pixels, last] = dims else { return None };
    let order = (0..n_before).chain([dims.len() - 1]).chain(n_before..dims.len() - 1);
    (is_extent(*last, channels) && pixels != last).then(|| order.collect())
}

/// The error of an image with the wrong rank or channels.
#[track_caller]
fn refuse_image<const N: usize>(place: &Place, x: &Tensor, channels: usize) -> Tensor {
    let spatial = ["", "L", "H, W", "D, H, W"][N];
    let shape = x.shape();
    let message = format!("need x [N, {channels}, {spatial}], got {shape}");
    let help = if let Some(order) = channels_first::<N>(shape.dims(), channels) {
        format!("x has its channels last; x.permute({order:?}) puts them first")
    } else if shape.rank() == N + 2 {
        format!("{}::new(s, c_in, ..): c_in is {channels}, x has {} channels", place.layer, shape.dims()[1])
    } else {
        "images are channels first; Unsqueeze adds an axis, Permute moves one".to_string()
    };
    place.refuse(x, message, help)
}
