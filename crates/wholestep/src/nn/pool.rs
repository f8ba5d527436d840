//! Pooling over windows, whole images, or a grid of a given size. Takes images `[N, C, spatial..]` or `[C, spatial..]`, gives images.
//! Never holds parameters and never mixes channels.

use super::extents::Extents;
use super::place::{has_failed, refuse};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;
use wholestep_compiler::ops::pool::PoolOptions;

/// The largest element of each window, over N spatial axes.
///
/// Shapes: `x [N, C, in..]` or `[C, in..]` -> out = ⌊(in + 2·padding - dilation·(kernel - 1) - 1) / stride⌋ + 1, with `ceil_mode` ⌈·⌉ + 1
/// unless the last window would start beyond input and left padding. Padding is never chosen; ties go to the first in row-major order.
/// Errors: another rank; the window does not fit; padding above half the window; a size of 0.
/// Matches PyTorch `nn.MaxPool1d`, `nn.MaxPool2d`, `nn.MaxPool3d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPool<const N: usize> {
    /// The extents of the window, each at least 1.
    pub kernel: Extents<N>,
    /// Absent: as large as the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Extents<N>>,
    /// Elements on both sides that are never chosen, at most half of the kernel; 0 by default.
    #[serde(default = "Extents::zeros")]
    pub padding: Extents<N>,
    /// The distance between elements of a window, each at least 1; 1 by default.
    #[serde(default = "Extents::ones")]
    pub dilation: Extents<N>,
    /// Whether a last window may hang over the end.
    #[serde(default)]
    pub ceil_mode: bool,
}

/// [`MaxPool`] of sequences.
pub type MaxPool1d = MaxPool<1>;
/// [`MaxPool`] of images.
pub type MaxPool2d = MaxPool<2>;
/// [`MaxPool`] of volumes.
pub type MaxPool3d = MaxPool<3>;

impl<const N: usize> MaxPool<N> {
    const NAME: &'static str = ["", "MaxPool1d", "MaxPool2d", "MaxPool3d"][N];

    /// Windows side by side, no padding.
    pub fn new(kernel: impl Into<Extents<N>>) -> MaxPool<N> {
        let (padding, dilation) = (Extents::zeros(), Extents::ones());
        MaxPool { kernel: kernel.into(), stride: None, padding, dilation, ceil_mode: false }
    }

    /// How far the window moves, one number or one per axis, at least 1; as large as the kernel by default.
    pub fn stride(self, stride: impl Into<Extents<N>>) -> Self {
        MaxPool { stride: Some(stride.into()), ..self }
    }

    /// Elements on both sides that are never chosen, one number or one per axis, at most half of the kernel; 0 by default.
    pub fn padding(self, padding: impl Into<Extents<N>>) -> Self {
        MaxPool { padding: padding.into(), ..self }
    }

    /// The distance between elements of a window, one number or one per axis, at least 1; 1 by default.
    pub fn dilation(self, dilation: impl Into<Extents<N>>) -> Self {
        MaxPool { dilation: dilation.into(), ..self }
    }

    /// Whether a last window may hang over the end, so that no element is left out; not by default.
    pub fn ceil_mode(self, ceil_mode: bool) -> Self {
        MaxPool { ceil_mode, ..self }
    }

    fn options(&self) -> PoolOptions<N> {
        let mut options = PoolOptions::new(self.kernel.0);
        options.stride = self.stride.unwrap_or(self.kernel).0;
        options.padding = self.padding.0.map(|p| (p, p));
        options.dilation = self.dilation.0;
        options.ceil_mode = self.ceil_mode;
        options
    }
}

/// The mean of each window, over N spatial axes.
///
/// Shapes: as [`MaxPool`] with dilation 1. With `count_include_pad` (PyTorch's default) padding counts as zeros; what hangs over the end
/// in `ceil_mode` never counts.
/// Errors: another rank; the window does not fit; padding above half the window; a size of 0; `x` is no float; for N = 3, as in PyTorch,
/// an image smaller than the window, whatever the padding.
/// Matches PyTorch `nn.AvgPool1d`, `nn.AvgPool2d`, `nn.AvgPool3d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvgPool<const N: usize> {
    /// The extents of the window, each at least 1.
    pub kernel: Extents<N>,
    /// Absent: as large as the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Extents<N>>,
    /// Elements on both sides, at most half of the kernel; 0 by default.
    #[serde(default = "Extents::zeros")]
    pub padding: Extents<N>,
    /// Whether a last window may hang over the end.
    #[serde(default)]
    pub ceil_mode: bool,
    /// Whether padding counts as zeros in the mean; by default it does, as in PyTorch.
    #[serde(default = "super::yes")]
    pub count_include_pad: bool,
}

/// [`AvgPool`] of sequences.
pub type AvgPool1d = AvgPool<1>;
/// [`AvgPool`] of images.
pub type AvgPool2d = AvgPool<2>;
/// [`AvgPool`] of volumes.
pub type AvgPool3d = AvgPool<3>;

impl<const N: usize> AvgPool<N> {
    const NAME: &'static str = ["", "AvgPool1d", "AvgPool2d", "AvgPool3d"][N];

    /// Windows side by side, no padding.
    pub fn new(kernel: impl Into<Extents<N>>) -> AvgPool<N> {
        AvgPool {
            kernel: kernel.into(),
            stride: None,
            padding: Extents::zeros(),
            ceil_mode: false,
            count_include_pad: true,
        }
    }

    /// How far the window moves, one number or one per axis, at least 1; as large as the kernel by default.
    pub fn stride(self, stride: impl Into<Extents<N>>) -> Self {
        AvgPool { stride: Some(stride.into()), ..self }
    }

    /// Elements on both sides, one number or one per axis, at most half of the kernel; 0 by default.
    pub fn padding(self, padding: impl Into<Extents<N>>) -> Self {
        AvgPool { padding: padding.into(), ..self }
    }

    /// Whether a last window may hang over the end, so that no element is left out; not by default.
    pub fn ceil_mode(self, ceil_mode: bool) -> Self {
        AvgPool { ceil_mode, ..self }
    }

    /// Whether padding counts as zeros in the mean; by default it does. If not, a mean is over the elements that are there.
    pub fn count_include_pad(self, count_include_pad: bool) -> Self {
        AvgPool { count_include_pad, ..self }
    }

    fn options(&self) -> PoolOptions<N> {
        let mut options = PoolOptions::new(self.kernel.0);
        options.stride = self.stride.unwrap_or(self.kernel).0;
        options.padding = self.padding.0.map(|p| (p, p));
        options.ceil_mode = self.ceil_mode;
        options.count_include_pad = self.count_include_pad;
        options
    }
}

macro_rules! pool_forward {
    ($($pool:ident $n:literal $method:ident;)+) => {$(
        impl $pool<$n> {
            /// `[N, C, in..]` or `[C, in..]` -> `[N, C, out..]` or `[C, out..]`. Errors: as the type says.
            #[track_caller]
            pub fn forward(&self, x: &Tensor) -> Tensor {
                let options = self.options();
                match windowed(Self::NAME, x, &options) {
                    Ok((image, is_single)) => leave(image.$method(&options), is_single),
                    Err(placeholder) => placeholder,
                }
            }
        }
    )+};
}
pool_forward! {
    MaxPool 1 max_pool1d;
    MaxPool 2 max_pool2d;
    MaxPool 3 max_pool3d;
    AvgPool 1 avg_pool1d;
    AvgPool 2 avg_pool2d;
    AvgPool 3 avg_pool3d;
}

/// `x` with a batch axis, and whether that had to be added; or the placeholder of the error that was recorded.
#[track_caller]
fn image<const N: usize>(layer: &'static str, x: &Tensor) -> Result<(Tensor, bool), Tensor> {
    if has_failed(x) {
        return Err(x.clone());
    }
    let shape = x.shape();
    match shape.rank().checked_sub(N) {
        Some(1) => Ok((x.unsqueeze(0), true)),
        Some(2) => Ok((x.clone(), false)),
        _ => {
            let form = ["", "L", "H, W", "D, H, W"][N];
            let message = format!("need x [N, C, {form}] or [C, {form}], got {shape}");
            Err(refuse(layer, x, message, "images are channels first; Unsqueeze adds an axis, Permute moves one"))
        }
    }
}

/// As [`image`], for windows that some image may have: sizes that are none, and PyTorch's limit on padding, are refused.
#[track_caller]
fn windowed<const N: usize>(layer: &'static str, x: &Tensor, o: &PoolOptions<N>) -> Result<(Tensor, bool), Tensor> {
    let sizes = o.size.iter().chain(&o.stride).chain(&o.dilation);
    if let Some(n) = sizes.chain(&o.padding.map(|p| p.0.max(1))).find(|&&n| n == 0 || n > 1 << 31) {
        let message = format!("need kernel, stride and dilation from 1 to 2^31, got {n}");
        return Err(refuse(layer, x, message, "check the layer's sizes"));
    }
    match (0..N).find(|&i| o.padding[i].0 > o.size[i] / 2) {
        None => image::<N>(layer, x),
        Some(i) => {
            let message =
                format!("need a padding of at most half the kernel, got {} for {}", o.padding[i].0, o.size[i]);
            Err(refuse(layer, x, message, "a layer of its own (ZeroPad2d) pads more, with zeros that count"))
        }
    }
}

/// The result as it came: without the batch axis that was added.
#[track_caller]
fn leave(y: Tensor, is_single: bool) -> Tensor {
    if is_single && !has_failed(&y) { y.squeeze(0) } else { y }
}

macro_rules! global_pools {
    ($($(#[$doc:meta])* $name:ident $method:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {}

        impl $name {
            /// There are no options to set and no parameters to declare.
            pub fn new() -> $name {
                $name {}
            }

            /// `[N, C, spatial..]`, rank 3 up -> `[N, C]`. Errors: fewer than 3 axes.
            #[track_caller]
            pub fn forward(&self, x: &Tensor) -> Tensor {
                if has_failed(x) || x.rank() >= 3 {
                    return x.$method();
                }
                let message = format!("need x [N, C, spatial..], got {}", x.shape());
                refuse(stringify!($name), x, message, "it reduces every axis after the channels")
            }
        }
    )+};
}
global_pools! {
    /// The mean over all places: `[N, C, spatial..]` -> `[N, C]`. Errors: fewer than 3 axes.
    /// Matches PyTorch `nn.AdaptiveAvgPool2d(1)` and a flatten.
    GlobalAvgPool global_avg_pool;
    /// The largest element over all places: `[N, C, spatial..]` -> `[N, C]`; at ties the first gets the gradient. Errors: fewer than 3 axes.
    /// Matches PyTorch `nn.AdaptiveMaxPool2d(1)` and a flatten.
    GlobalMaxPool global_max_pool;
}

macro_rules! adaptive_pools {
    ($($(#[$doc:meta])* $name:ident $method:ident $names:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name<const N: usize> {
            /// The spatial extents of the result.
            pub output: Extents<N>,
        }

        impl<const N: usize> $name<N> {
            const NAME: &'static str = $names[N];

            /// `output` is one extent for all spatial axes or one per axis, 1 to 32768; unlike PyTorch's, none can be left as it is.
            pub fn new(output: impl Into<Extents<N>>) -> $name<N> {
                $name { output: output.into() }
            }

            /// `[N, C, in..]` or `[C, in..]` -> `[N, C, output..]` or `[C, output..]`. Errors: as the type says.
            #[track_caller]
            pub fn forward(&self, x: &Tensor) -> Tensor {
                match gridded(Self::NAME, x, self.output) {
                    Ok((image, is_single)) => leave(image.$method(&self.output.0), is_single),
                    Err(placeholder) => placeholder,
                }
            }
        }
    )+};
}
adaptive_pools! {
    /// The means over a grid of `output` windows: window i of an axis of L elements goes from ⌊i·L/out⌋ to ⌈(i+1)·L/out⌉.
    ///
    /// Shapes: `x [N, C, in..]` or `[C, in..]` -> `[.., out..]`. Errors: another rank; an output of 0.
    /// Matches PyTorch `nn.AdaptiveAvgPool1d`, `nn.AdaptiveAvgPool2d`, `nn.AdaptiveAvgPool3d`.
    AdaptiveAvgPool adaptive_avg_pool ["", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"];
    /// The largest elements over a grid of `output` windows: window i of an axis of L elements goes from ⌊i·L/out⌋ to ⌈(i+1)·L/out⌉.
    ///
    /// Shapes: `x [N, C, in..]` or `[C, in..]` -> `[.., out..]`. Errors: another rank; an output of 0.
    /// Matches PyTorch `nn.AdaptiveMaxPool1d`, `nn.AdaptiveMaxPool2d`, `nn.AdaptiveMaxPool3d`.
    AdaptiveMaxPool adaptive_max_pool ["", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"];
}

/// [`AdaptiveAvgPool`] of sequences.
pub type AdaptiveAvgPool1d = AdaptiveAvgPool<1>;
/// [`AdaptiveAvgPool`] of images.
pub type AdaptiveAvgPool2d = AdaptiveAvgPool<2>;
/// [`AdaptiveAvgPool`] of volumes.
pub type AdaptiveAvgPool3d = AdaptiveAvgPool<3>;
/// [`AdaptiveMaxPool`] of sequences.
pub type AdaptiveMaxPool1d = AdaptiveMaxPool<1>;
/// [`AdaptiveMaxPool`] of images.
pub type AdaptiveMaxPool2d = AdaptiveMaxPool<2>;
/// [`AdaptiveMaxPool`] of volumes.
pub type AdaptiveMaxPool3d = AdaptiveMaxPool<3>;

/// As [`image`], for a grid that is neither empty nor so fine that it is a mistake.
#[track_caller]
fn gridded<const N: usize>(layer: &'static str, x: &Tensor, output: Extents<N>) -> Result<(Tensor, bool), Tensor> {
    if output.0.iter().all(|n| (1..=1 << 15).contains(n)) {
        return image::<N>(layer, x);
    }
    let message = format!("need an output from 1 to 32768, got {output}");
    Err(refuse(layer, x, message, "give the spatial extents of the result"))
}
