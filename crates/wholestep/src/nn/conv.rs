//! Convolutions. Takes images `[N, C, spatial..]` in PyTorch's order, gives images. Never pads or crops unless asked.

use super::extents::{Extents, Padding};
use super::place::{Place, has_failed, is_countable, is_extent};
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::op::{Contract, ConvGeometry};
use wholestep_compiler::ir::{Dim, Scope, Shape, Tensor};

/// What a convolution over N spatial axes is, without the channels of its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvSpec<const N: usize> {
    pub out_channels: usize,
    pub kernel: Extents<N>,
    #[serde(default = "Extents::ones")]
    pub stride: Extents<N>,
    #[serde(default = "Padding::none")]
    pub padding: Padding<N>,
    #[serde(default = "Extents::ones")]
    pub dilation: Extents<N>,
    /// Channels are split into this many groups that do not see each other; as many as channels is a depthwise convolution.
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

    pub fn stride(self, stride: impl Into<Extents<N>>) -> Self {
        ConvSpec { stride: stride.into(), ..self }
    }

    pub fn padding(self, padding: impl Into<Padding<N>>) -> Self {
        ConvSpec { padding: padding.into(), ..self }
    }

    /// The padding that keeps the image's size.
    pub fn same(self) -> Self {
        ConvSpec { padding: Padding::Same, ..self }
    }

    pub fn dilation(self, dilation: impl Into<Extents<N>>) -> Self {
        ConvSpec { dilation: dilation.into(), ..self }
    }

    pub fn groups(self, groups: usize) -> Self {
        ConvSpec { groups, ..self }
    }

    pub fn bias(self, bias: bool) -> Self {
        ConvSpec { bias, ..self }
    }

    pub fn weight_init(self, init: Initializer) -> Self {
        ConvSpec { weight_init: Some(init), ..self }
    }

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
            let message = format!("need groups to divide both channel counts, got {groups} groups of {c_in} and {c_out}");
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

    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        if shape.rank() != N + 2 && shape.rank() != N + 1 || !is_extent(shape.dims()[shape.rank() - N - 1], self.channels) {
            return refuse_image::<N>(&self.place, x, self.channels);
        }
        if shape.rank() == N + 1 {
            let y = self.forward(&x.unsqueeze(0));
            return if has_failed(&y) { y } else { y.squeeze(0) };
        }
        let pads = self.spec.padding.resolve(&self.spec.kernel.0, &self.spec.dilation.0);
        let geometry = ConvGeometry {
            stride: self.spec.stride.0.to_vec(),
            pad_lo: pads.iter().map(|p| p.0).collect(),
            pad_hi: pads.iter().map(|p| p.1).collect(),
            dilation: self.spec.dilation.0.to_vec(),
            groups: self.spec.groups,
        };
        let mut out = vec![shape.dims()[0], Dim::fixed(self.spec.out_channels)];
        for (i, dim) in shape.dims()[2..].iter().enumerate() {
            let Some(input) = dim.as_fixed() else {
                let message = format!("need fixed spatial extents, got {shape}");
                return self.place.refuse(x, message, "only the first axis may depend on the batch size");
            };
            match geometry.out_extent(i, input, self.spec.kernel.0[i]) {
                Some(extent) => out.push(Dim::fixed(extent)),
                None => {
                    let (k, d, p) = (self.spec.kernel.0[i], self.spec.dilation.0[i], pads[i].0 + pads[i].1);
                    let message = format!("a window of {k} with dilation {d} does not fit spatial axis {i}: {input} elements and {p} of padding");
                    return self.place.refuse(x, message, "use a smaller kernel, more padding or fewer strides and pools before it");
                }
            }
        }
        if !is_countable(&out) {
            return self.place.refuse(x, format!("the result {} is too large", Shape(out)), "check kernel and padding");
        }
        // Channels last is how convolutions run; the permutations between two layers cancel.
        let w = self.weight.permute(kernel_first(N));
        let y = x.permute(channels_last(N)).apply(Contract::Conv(geometry), &[&w]);
        add_bias(y, &self.bias).permute(channels_first(N))
    }
}

/// [N, C, spatial..] -> [N, spatial.., C].
pub(super) fn channels_last(n: usize) -> Vec<i64> {
    let mut order = vec![0];
    order.extend(2..n as i64 + 2);
    order.push(1);
    order
}

/// [N, spatial.., C] -> [N, C, spatial..].
pub(super) fn channels_first(n: usize) -> Vec<i64> {
    let mut order = vec![0, n as i64 + 1];
    order.extend(1..n as i64 + 1);
    order
}

/// [out, in, kernel..] -> [kernel.., in, out].
pub(super) fn kernel_first(n: usize) -> Vec<i64> {
    let mut order: Vec<i64> = (2..n as i64 + 2).collect();
    order.extend([1, 0]);
    order
}

#[track_caller]
pub(super) fn add_bias(y: Tensor, bias: &Option<Tensor>) -> Tensor {
    match bias {
        Some(bias) => y + bias,
        None => y,
    }
}

/// The error of an image with the wrong rank or channels.
#[track_caller]
pub(super) fn refuse_image<const N: usize>(place: &Place, x: &Tensor, channels: usize) -> Tensor {
    let spatial = ["", "L", "H, W", "D, H, W"][N];
    let shape = x.shape();
    let message = format!("need x [N, {channels}, {spatial}], got {shape}");
    let help = if shape.rank() == N + 2 {
        format!("{}::new(s, c_in, ..): c_in is {channels}, x has {} channels", place.layer, shape.dims()[1])
    } else {
        "images are channels first; Unsqueeze adds an axis, Permute moves one".to_string()
    };
    place.refuse(x, message, help)
}
