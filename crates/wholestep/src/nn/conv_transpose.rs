//! Transposed convolution, which makes images larger. Takes images `[N, C, H, W]`, gives images. Never inverts a convolution: it is the
//! gradient of one with respect to its input.

use super::conv::{add_bias, channels_first, channels_last, kernel_first, one, refuse_image};
use super::extents::Extents;
use super::place::{Place, has_failed, is_countable, is_extent};
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::op::{Contract, ConvGeometry};
use wholestep_compiler::ir::{Dim, Scope, Shape, Tensor};

/// What a [`ConvTranspose2d`] is, without the channels of its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTranspose2dSpec {
    pub out_channels: usize,
    pub kernel: Extents<2>,
    #[serde(default = "Extents::ones")]
    pub stride: Extents<2>,
    /// How much is cut off each side of the result.
    #[serde(default = "Extents::zeros")]
    pub padding: Extents<2>,
    /// How much is added at the end of each axis of the result.
    #[serde(default = "Extents::zeros")]
    pub output_padding: Extents<2>,
    #[serde(default = "Extents::ones")]
    pub dilation: Extents<2>,
    #[serde(default = "one")]
    pub groups: usize,
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

    pub fn stride(self, stride: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { stride: stride.into(), ..self }
    }

    pub fn padding(self, padding: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { padding: padding.into(), ..self }
    }

    pub fn output_padding(self, output_padding: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { output_padding: output_padding.into(), ..self }
    }

    pub fn dilation(self, dilation: impl Into<Extents<2>>) -> Self {
        ConvTranspose2dSpec { dilation: dilation.into(), ..self }
    }

    pub fn groups(self, groups: usize) -> Self {
        ConvTranspose2dSpec { groups, ..self }
    }

    pub fn bias(self, bias: bool) -> Self {
        ConvTranspose2dSpec { bias, ..self }
    }

    pub fn weight_init(self, init: Initializer) -> Self {
        ConvTranspose2dSpec { weight_init: Some(init), ..self }
    }

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
            let message = format!("need groups to divide both channel counts, got {groups} groups of {c_in} and {c_out}");
            place.reject(message, "check groups where the layer is made");
        }
        let fits = |i: usize| spec.output_padding.0[i] < spec.stride.0[i].max(spec.dilation.0[i]);
        if is_sized && !(fits(0) && fits(1)) {
            let message = format!("need output_padding below stride or dilation, got {}", spec.output_padding);
            place.reject(message, "it picks one of the sizes that the stride makes alike, so it is smaller than the stride");
        }
        let shape = [c_in, c_out / groups.max(1), spec.kernel.0[0], spec.kernel.0[1]];
        let (weight, bias) = place.weight_and_bias(&shape, c_out, spec.bias, &spec.weight_init, &spec.bias_init);
        ConvTranspose2d { weight, bias, channels: c_in, spec: spec.clone(), place }
    }

    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        if shape.rank() != 4 && shape.rank() != 3 || !is_extent(shape.dims()[shape.rank() - 3], self.channels) {
            return refuse_image::<2>(&self.place, x, self.channels);
        }
        if shape.rank() == 3 {
            let y = self.forward(&x.unsqueeze(0));
            return if has_failed(&y) { y } else { y.squeeze(0) };
        }
        let Some(input) = Shape(shape.dims()[2..].to_vec()).as_fixed() else {
            let message = format!("need fixed spatial extents, got {shape}");
            return self.place.refuse(x, message, "only the first axis may depend on the batch size");
        };
        let spec = &self.spec;
        // Before anything is cut off or added.
        let full: Vec<usize> = (0..2)
            .map(|i| (input[i] - 1) * spec.stride.0[i] + spec.dilation.0[i] * (spec.kernel.0[i] - 1) + 1)
            .collect();
        let out = |i: usize| (full[i] + spec.output_padding.0[i]).checked_sub(2 * spec.padding.0[i]).filter(|&n| n > 0);
        let (Some(height), Some(width)) = (out(0), out(1)) else {
            let message = format!("nothing is left of {}x{} after padding {} at each side", full[0], full[1], spec.padding);
            return self.place.refuse(x, message, "padding is what a transposed convolution cuts off; use less");
        };
        let dims = [shape.dims()[0], Dim::fixed(spec.out_channels), Dim::fixed(height), Dim::fixed(width)];
        if !is_countable(&dims) {
            return self.place.refuse(x, format!("the result {} is too large", Shape(dims.to_vec())), "check stride and kernel");
        }
        let y = self.adjoint(&x.permute(channels_last(2)), &full, [height, width]);
        add_bias(y, &self.bias).permute(channels_first(2))
    }

    /// Channels last, `[N, height, width, C_out]`.
    #[track_caller]
    fn adjoint(&self, x: &Tensor, full: &[usize], out: [usize; 2]) -> Tensor {
        let spec = &self.spec;
        let w = self.weight.permute(kernel_first(2));
        let is_inside = (0..2).all(|i| spec.output_padding.0[i] <= spec.padding.0[i]);
        // What output_padding adds is mostly what padding would have cut off at the end, so the geometry says both at once.
        let cut = |i: usize| if is_inside { (spec.padding.0[i], spec.padding.0[i] - spec.output_padding.0[i]) } else { (0, 0) };
        let geometry = ConvGeometry {
            stride: spec.stride.0.to_vec(),
            pad_lo: vec![cut(0).0, cut(1).0],
            pad_hi: vec![cut(0).1, cut(1).1],
            dilation: spec.dilation.0.to_vec(),
            groups: spec.groups,
        };
        if is_inside {
            return x.apply(Contract::ConvInputGrad { geometry, input: out.to_vec() }, &[&w]);
        }
        let y = x.apply(Contract::ConvInputGrad { geometry, input: full.to_vec() }, &[&w]);
        let extra = spec.output_padding.0;
        let y = y.pad(&[(0, 0), (0, extra[0]), (0, extra[1]), (0, 0)], 0.0);
        let y = y.narrow(1, spec.padding.0[0], out[0]);
        y.narrow(2, spec.padding.0[1], out[1])
    }
}
