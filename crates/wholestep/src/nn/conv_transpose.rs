//! Transposed convolutions, which make images larger. Takes images `[N, C, spatial..]`, gives images. Never inverts a convolution: it is the
//! gradient of one with respect to its input.

use super::conv::{batched, forward, one, unbatched};
use super::extents::Extents;
use super::place::Place;
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Scope, Tensor};
use wholestep_compiler::ops::conv::ConvTransposeOptions;

/// What a transposed convolution over N spatial axes is, without the channels of its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTransposeSpec<const N: usize> {
    /// C_out, at least 1.
    pub out_channels: usize,
    /// The extents of the window, each at least 1: `3` or `[3, 5]`.
    pub kernel: Extents<N>,
    /// How far apart the input's elements land in the result, each at least 1; 1 by default.
    #[serde(default = "Extents::ones")]
    pub stride: Extents<N>,
    /// How much is cut off each side of the result.
    #[serde(default = "Extents::zeros")]
    pub padding: Extents<N>,
    /// How much is added at the end of each axis of the result.
    #[serde(default = "Extents::zeros")]
    pub output_padding: Extents<N>,
    /// The distance between taps of the kernel, each at least 1; 1 by default.
    #[serde(default = "Extents::ones")]
    pub dilation: Extents<N>,
    /// Groups of channels that do not see each other; divides both channel counts, 1 by default.
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

impl<const N: usize> ConvTransposeSpec<N> {
    /// Stride 1, nothing cut off or added, one group, a bias.
    pub fn new(out_channels: usize, kernel: impl Into<Extents<N>>) -> ConvTransposeSpec<N> {
        ConvTransposeSpec {
            out_channels,
            kernel: kernel.into(),
            stride: Extents::ones(),
            padding: Extents::zeros(),
            output_padding: Extents::zeros(),
            dilation: Extents::ones(),
            groups: 1,
            bias: true,
            weight_init: None,
            bias_init: None,
        }
    }

    /// How far apart the input's elements land in the result: about how much larger it gets; 1 by default.
    pub fn stride(self, stride: impl Into<Extents<N>>) -> Self {
        ConvTransposeSpec { stride: stride.into(), ..self }
    }

    /// How much is cut off each side of the result, one number or one per axis; 0 by default.
    pub fn padding(self, padding: impl Into<Extents<N>>) -> Self {
        ConvTransposeSpec { padding: padding.into(), ..self }
    }

    /// How much is added at the end of each axis of the result, below stride or dilation; 0 by default.
    pub fn output_padding(self, output_padding: impl Into<Extents<N>>) -> Self {
        ConvTransposeSpec { output_padding: output_padding.into(), ..self }
    }

    /// The distance between taps of the kernel, one number or one per axis, at least 1; 1 by default.
    pub fn dilation(self, dilation: impl Into<Extents<N>>) -> Self {
        ConvTransposeSpec { dilation: dilation.into(), ..self }
    }

    /// Groups of channels that do not see each other; divides both channel counts, 1 by default.
    pub fn groups(self, groups: usize) -> Self {
        ConvTransposeSpec { groups, ..self }
    }

    /// Whether `bias [C_out]` is added; by default it is.
    pub fn bias(self, bias: bool) -> Self {
        ConvTransposeSpec { bias, ..self }
    }

    /// How `weight` starts instead of U(±1/√fan_in), fan_in being `C_out/groups` times the kernel's size, as PyTorch counts it.
    pub fn weight_init(self, init: Initializer) -> Self {
        ConvTransposeSpec { weight_init: Some(init), ..self }
    }

    /// How `bias` starts instead of U(±1/√fan_in) with the fan_in of the weight.
    pub fn bias_init(self, init: Initializer) -> Self {
        ConvTransposeSpec { bias_init: Some(init), ..self }
    }
}

/// [`ConvTranspose`] of sequences `[N, C, L]`.
pub type ConvTranspose1d = ConvTranspose<1>;
/// [`ConvTranspose`] of images `[N, C, H, W]`.
pub type ConvTranspose2d = ConvTranspose<2>;
/// [`ConvTranspose`] of volumes `[N, C, D, H, W]`.
pub type ConvTranspose3d = ConvTranspose<3>;
/// What a [`ConvTranspose1d`] is.
pub type ConvTranspose1dSpec = ConvTransposeSpec<1>;
/// What a [`ConvTranspose2d`] is.
pub type ConvTranspose2dSpec = ConvTransposeSpec<2>;
/// What a [`ConvTranspose3d`] is.
pub type ConvTranspose3dSpec = ConvTransposeSpec<3>;

/// The adjoint of a convolution over N spatial axes in its input, with a bias.
///
/// Shapes: `x [N, C_in, in..]` or `[C_in, in..]` -> `[N, C_out, out..]`, out = (in - 1)·stride - 2·padding + dilation·(kernel - 1) +
/// output_padding + 1; parameters `weight [C_in, C_out/groups, kernel..]`, `bias [C_out]`.
/// Errors: another rank; not C_in channels; an empty result; `output_padding` not below stride or dilation; `groups` does not divide the
/// channels; a size of 0.
/// Matches PyTorch `nn.ConvTranspose1d`, `nn.ConvTranspose2d`, `nn.ConvTranspose3d`, default values included.
#[derive(Debug)]
pub struct ConvTranspose<const N: usize> {
    weight: Tensor,
    bias: Option<Tensor>,
    channels: usize,
    spec: ConvTransposeSpec<N>,
    place: Place,
}

impl<const N: usize> ConvTranspose<N> {
    const NAME: &'static str = ["", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"][N];

    /// Stride 1, with PyTorch's initial values.
    #[track_caller]
    pub fn new(s: &Scope, c_in: usize, c_out: usize, kernel: impl Into<Extents<N>>) -> ConvTranspose<N> {
        ConvTranspose::with(s, c_in, &ConvTransposeSpec::new(c_out, kernel))
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, c_in: usize, spec: &ConvTransposeSpec<N>) -> ConvTranspose<N> {
        let place = Place::new(s, Self::NAME);
        let (c_out, groups) = (spec.out_channels, spec.groups);
        let mut is_sized = place.need_sizes(1, &[("in_channels", c_in), ("out_channels", c_out), ("groups", groups)]);
        is_sized &= place.need_window(&spec.kernel.0, &spec.stride.0, &spec.dilation.0);
        place.need_sizes(0, &spec.padding.0.map(|p| ("padding", p)));
        if is_sized && !(c_in.is_multiple_of(groups) && c_out.is_multiple_of(groups)) {
            let message =
                format!("need groups to divide both channel counts, got {groups} groups of {c_in} and {c_out}");
            place.reject(message, "check groups where the layer is made");
        }
        let fits = |i: usize| spec.output_padding.0[i] < spec.stride.0[i].max(spec.dilation.0[i]);
        if is_sized && !(0..N).all(fits) {
            let message = format!("need output_padding below stride or dilation, got {}", spec.output_padding);
            place.reject(
                message,
                "it picks one of the sizes that the stride makes alike, so it is smaller than the stride",
            );
        }
        let mut shape = vec![c_in, c_out / groups.max(1)];
        shape.extend(spec.kernel.0);
        let (weight, bias) = place.weight_and_bias(&shape, c_out, spec.bias, &spec.weight_init, &spec.bias_init);
        ConvTranspose { weight, bias, channels: c_in, spec: spec.clone(), place }
    }

    fn options(&self) -> ConvTransposeOptions<N> {
        let spec = &self.spec;
        ConvTransposeOptions {
            stride: spec.stride.0,
            padding: spec.padding.0.map(|p| (p, p)),
            output_padding: spec.output_padding.0,
            dilation: spec.dilation.0,
            groups: spec.groups,
        }
    }
}

forward! {
    ConvTranspose:
    1 conv_transpose1d;
    2 conv_transpose2d;
    3 conv_transpose3d;
}
