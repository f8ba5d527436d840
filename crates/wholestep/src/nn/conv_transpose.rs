//! Transposed convolution, which makes images larger. Takes images `[N, C, H, W]`, gives images. Never inverts a convolution: it is the
//! gradient of one with respect to its input.

use super::conv::{batched, one, unbatched};
use super::extents::Extents;
use super::place::Place;
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Scope, Tensor};
use wholestep_compiler::ops::conv::ConvTransposeOptions;

/// What a [`ConvTranspose2d`] is, without the channels of its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTranspose2dSpec {
    /// C_out, at least 1.
    pub out_channels: usize,
    /// The extents of the window, each at least 1: `3` or `[3, 5]`.
    pub kernel: Extents<2>,
    /// How far apart the input's elements land in the result, each at least 1; 1 by default.
    #[serde(default = "Extents::ones")]
    pub stride: Extents<2>,
    /// How much is cut off each side of the result.
    #[serde(default = "Extents::zeros")]
    pub padding: Extents<2>,
    /// How much is added at the end of each axis of the result.
    #[serde(default = "Extents::zeros")]
    pub output_padding: Extents<2>,
    /// The distance between taps of the kernel, each at least 1; 1 by default.
    #[serde(default = "Extents::ones")]
    pub dilation: Extents<2>,
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

impl ConvTranspose2dSpec {
    /// Stride 1, nothing cut off or added, one group, a bias.
    pub fn new(out_channels: usize, kernel: impl Into<Extents<2>>) -> ConvTranspose2dSpec {
        ConvTranspose2dSpec {
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
    pub fn stride(self, stride: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { stride: stride.into(), ..self }
    }

    /// How much is cut off each side of the result, one number or one per axis; 0 by default.
    pub fn padding(self, padding: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { padding: padding.into(), ..self }
    }

    /// How much is added at the end of each axis of the result, below stride or dilation; 0 by default.
    pub fn output_padding(self, output_padding: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { output_padding: output_padding.into(), ..self }
    }

    /// The distance between taps of the kernel, one number or one per axis, at least 1; 1 by default.
    pub fn dilation(self, dilation: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { dilation: dilation.into(), ..self }
    }

    /// Groups of channels that do not see each other; divides both channel counts, 1 by default.
    pub fn groups(self, groups: usize) -> Self {
        ConvTranspose2dSpec { groups, ..self }
    }

    /// Whether `bias [C_out]` is added; by default it is.
    pub fn bias(self, bias: bool) -> Self {
        ConvTranspose2dSpec { bias, ..self }
    }

    /// How `weight` starts instead of U(±1/√fan_in), fan_in being `C_out/groups · kH · kW`, as PyTorch counts it.
    pub fn weight_init(self, init: Initializer) -> Self {
        ConvTranspose2dSpec { weight_init: Some(init), ..self }
    }

    /// How `bias` starts instead of U(±1/√fan_in) with the fan_in of the weight.
    pub fn bias_init(self, init: Initializer) -> Self {
        ConvTranspose2dSpec { bias_init: Some(init), ..self }
    }
}

/// The adjoint of a convolution in its input, with a bias.
///
/// Shapes: `x [N, C_in, H, W]` or `[C_in, H, W]` -> `[N, C_out, H', W']`, H' = (H - 1)·stride - 2·padding + dilation·(kernel - 1) +
/// output_padding + 1; parameters `weight [C_in, C_out/groups, kH, kW]`, `bias [C_out]`.
/// Errors: another rank; not C_in channels; an empty result; `output_padding` not below stride or dilation; `groups` does not divide the
/// channels; a size of 0.
/// Matches PyTorch `nn.ConvTranspose2d`, default values included.
#[derive(Debug)]
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Option<Tensor>,
    channels: usize,
    spec: ConvTranspose2dSpec,
    place: Place,
}

impl ConvTranspose2d {
    /// Stride 1, with PyTorch's initial values.
    #[track_caller]
    pub fn new(s: &Scope, c_in: usize, c_out: usize, kernel: impl Into<Extents<2>>) -> ConvTranspose2d {
        ConvTranspose2d::with(s, c_in, &ConvTranspose2dSpec::new(c_out, kernel))
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, c_in: usize, spec: &ConvTranspose2dSpec) -> ConvTranspose2d {
        let place = Place::new(s, "ConvTranspose2d");
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
        if is_sized && !(fits(0) && fits(1)) {
            let message = format!("need output_padding below stride or dilation, got {}", spec.output_padding);
            place.reject(
                message,
                "it picks one of the sizes that the stride makes alike, so it is smaller than the stride",
            );
        }
        let shape = [c_in, c_out / groups.max(1), spec.kernel.0[0], spec.kernel.0[1]];
        let (weight, bias) = place.weight_and_bias(&shape, c_out, spec.bias, &spec.weight_init, &spec.bias_init);
        ConvTranspose2d { weight, bias, channels: c_in, spec: spec.clone(), place }
    }

    /// `[N, C_in, H, W]` or `[C_in, H, W]` -> `[N, C_out, H', W']` or `[C_out, H', W']`. Errors: as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (image, is_single) = match batched::<2>(&self.place, x, self.channels) {
            Ok(found) => found,
            Err(placeholder) => return placeholder,
        };
        let spec = &self.spec;
        let options = ConvTransposeOptions {
            stride: spec.stride.0,
            padding: spec.padding.0.map(|p| (p, p)),
            output_padding: spec.output_padding.0,
            dilation: spec.dilation.0,
            groups: spec.groups,
        };
        let y = image.conv_transpose2d(&self.weight, self.bias.as_ref(), &options);
        unbatched(&self.place, x, y, is_single)
    }
}
