//! Activations as layers, for models said as lists. Takes any float tensor, gives one of the same shape. Never keeps anything but the
//! one weight of [`Prelu`]; in code the methods of `Tensor` (`x.relu()`) say the same.

use super::Initializer;
use super::place::{Place, has_failed, is_extent, refuse};
use super::shape::axis;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Scope, Shape, Tensor};

macro_rules! activations {
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

            /// `x` of any shape -> the same shape; nothing differs between training and inference.
            #[track_caller]
            pub fn forward(&self, x: &Tensor) -> Tensor {
                x.$method()
            }
        }
    )+};
}
activations! {
    /// `max(x, 0)`. Matches PyTorch `nn.ReLU`: the gradient at 0 is 0.
    #[doc(alias = "ReLU")]
    Relu relu;
    /// `scale · (max(x, 0) + min(α · (e^x - 1), 0))` with the constants of the paper. Paper: Klambauer et al. 2017, arXiv:1706.02515.
    /// Matches PyTorch `nn.SELU`.
    #[doc(alias = "SELU")]
    Selu selu;
    /// `x · sigmoid(x)`, also called Swish. Paper: Elfwing et al. 2017, arXiv:1702.03118. Matches PyTorch `nn.SiLU`.
    #[doc(alias = "SiLU")]
    #[doc(alias = "Swish")]
    Silu silu;
    /// `x · tanh(ln(1 + e^x))`. Paper: Misra 2019, arXiv:1908.08681. Matches PyTorch `nn.Mish`.
    Mish mish;
    /// `x · clamp(x + 3, 0, 6) / 6`. Paper: Howard et al. 2019, arXiv:1905.02244. Matches PyTorch `nn.Hardswish`.
    Hardswish hardswish;
    /// `1 / (1 + e^-x)`. Matches PyTorch `nn.Sigmoid`.
    Sigmoid sigmoid;
    /// The hyperbolic tangent. Matches PyTorch `nn.Tanh`.
    Tanh tanh;
}

/// `x` where positive, `slope · x` elsewhere. Matches PyTorch `nn.LeakyReLU`.
#[doc(alias = "LeakyReLU")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakyRelu {
    /// The slope below 0; 0.01 where a file leaves it out, as in PyTorch.
    #[serde(default = "hundredth")]
    pub negative_slope: f64,
}

fn hundredth() -> f64 {
    0.01
}

impl LeakyRelu {
    /// PyTorch's default slope is 0.01.
    pub fn new(negative_slope: f64) -> LeakyRelu {
        LeakyRelu { negative_slope }
    }

    /// `x` of any shape -> the same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.leaky_relu(self.negative_slope)
    }
}

/// `x` where positive, `alpha · (e^x - 1)` elsewhere. Paper: Clevert, Unterthiner, Hochreiter 2015, arXiv:1511.07289.
/// Matches PyTorch `nn.ELU`.
#[doc(alias = "ELU")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elu {
    /// Minus the limit for small x; 1 where a file leaves it out, as in PyTorch.
    #[serde(default = "unit")]
    pub alpha: f64,
}

fn unit() -> f64 {
    1.0
}

impl Elu {
    /// PyTorch's default alpha is 1.
    pub fn new(alpha: f64) -> Elu {
        Elu { alpha }
    }

    /// `x` of any shape -> the same shape. Errors: `x` is no float.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.elu(self.alpha)
    }
}

/// `x · Φ(x)`, with the normal distribution function exactly or by its tanh approximation. Paper: Hendrycks, Gimpel 2016,
/// arXiv:1606.08415. Matches PyTorch `nn.GELU`.
#[doc(alias = "GELU")]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gelu {
    /// The exact form where a file leaves it out, as in PyTorch.
    #[serde(default)]
    pub approximate: Approximation,
}

/// How [`Gelu`] computes Φ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approximation {
    /// By the error function.
    #[default]
    None,
    /// `0.5 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    Tanh,
}

impl Gelu {
    /// The exact form.
    pub fn new() -> Gelu {
        Gelu { approximate: Approximation::None }
    }

    /// The tanh form.
    pub fn tanh() -> Gelu {
        Gelu { approximate: Approximation::Tanh }
    }

    /// `x` of any shape -> the same shape. Errors: `x` is no float.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self.approximate {
            Approximation::None => x.gelu(),
            Approximation::Tanh => x.gelu_tanh(),
        }
    }
}

/// `ln(1 + e^(beta x)) / beta`, and `x` itself where `beta x > threshold`. Matches PyTorch `nn.Softplus`.
/// Errors: `beta` is 0 or not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Softplus {
    /// How sharp the bend at 0 is, not 0; 1 by default.
    #[serde(default = "unit")]
    pub beta: f64,
    /// In units of `beta x`; 20 by default.
    #[serde(default = "twenty")]
    pub threshold: f64,
}

fn twenty() -> f64 {
    20.0
}

impl Softplus {
    /// PyTorch's defaults: beta 1, threshold 20.
    pub fn new() -> Softplus {
        Softplus { beta: 1.0, threshold: 20.0 }
    }

    /// How sharp the bend at 0 is: the larger, the more like a ReLU; 1 by default.
    pub fn beta(self, beta: f64) -> Softplus {
        Softplus { beta, ..self }
    }

    /// The `beta x` above which the result is `x` itself, so that no exponential overflows; 20 by default.
    pub fn threshold(self, threshold: f64) -> Softplus {
        Softplus { threshold, ..self }
    }

    /// `x` of any shape -> the same shape. Errors: as the type says; `x` is no float.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        if self.beta == 0.0 || !self.beta.is_finite() {
            return refuse("Softplus", x, format!("need a finite beta that is not 0, got {}", self.beta), "1 is usual");
        }
        x.softplus(self.beta, self.threshold)
    }
}

impl Default for Softplus {
    fn default() -> Softplus {
        Softplus::new()
    }
}

macro_rules! softmaxes {
    ($($(#[$doc:meta])* $name:ident $method:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Negative axes count from the end.
            pub axis: i64,
        }

        impl $name {
            /// Along `axis`, from 0 with the batch axis or from -1 at the end; PyTorch's `dim`, which has no default here.
            pub fn new(axis: i64) -> $name {
                $name { axis }
            }

            /// `x` of any shape -> the same shape. Errors: the axis is not there; `x` is no float.
            #[track_caller]
            pub fn forward(&self, x: &Tensor) -> Tensor {
                match checked_axis(stringify!($name), self.axis, x) {
                    // A scalar counts as one axis of one element, as in PyTorch.
                    Ok(_) if x.rank() == 0 => x.reshape([1usize]).$method(0).reshape(Shape::scalar()),
                    Ok(axis) => x.$method(axis),
                    Err(placeholder) => placeholder,
                }
            }
        }
    )+};
}
softmaxes! {
    /// `e^x / Σ e^x` along `axis`. Errors: the axis is not there. Matches PyTorch `nn.Softmax`.
    Softmax softmax;
    /// `x - ln Σ e^x` along `axis`. Errors: the axis is not there. Matches PyTorch `nn.LogSoftmax`.
    LogSoftmax log_softmax;
}

/// The axis from the front, or the placeholder of the error that was recorded.
#[track_caller]
fn checked_axis(layer: &'static str, wanted: i64, x: &Tensor) -> Result<i64, Tensor> {
    if has_failed(x) {
        return Err(x.clone());
    }
    let rank = x.rank().max(1);
    match axis(wanted, rank) {
        Some(axis) => Ok(axis as i64),
        None => {
            let message = format!("need an axis of {}, got {wanted}", x.shape());
            Err(refuse(layer, x, message, format!("axes are -{rank} to {}", rank - 1)))
        }
    }
}

/// What a [`Prelu`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreluSpec {
    /// One slope for each channel (axis 1), or one for all.
    #[serde(default)]
    pub per_channel: bool,
    /// The slope before training.
    #[serde(default = "quarter")]
    pub init: f64,
}

fn quarter() -> f64 {
    0.25
}

impl PreluSpec {
    /// One slope for all channels, 0.25 before training.
    pub fn new() -> PreluSpec {
        PreluSpec { per_channel: false, init: 0.25 }
    }

    /// Whether each channel (axis 1) has a slope of its own; not by default, as in PyTorch.
    pub fn per_channel(self, per_channel: bool) -> PreluSpec {
        PreluSpec { per_channel, ..self }
    }

    /// The slope before training, of all channels; 0.25 by default.
    pub fn init(self, init: f64) -> PreluSpec {
        PreluSpec { init, ..self }
    }
}

impl Default for PreluSpec {
    fn default() -> PreluSpec {
        PreluSpec::new()
    }
}

/// `x` where positive, `weight · x` elsewhere, with learned slopes.
///
/// Shapes: `x` any with one slope, `[N, n, ..]` with n -> the same; parameter `weight [n]`.
/// Errors: n slopes for another number of channels.
/// Paper: He, Zhang, Ren, Sun 2015, arXiv:1502.01852. Matches PyTorch `nn.PReLU`.
#[doc(alias = "PReLU")]
#[derive(Debug)]
pub struct Prelu {
    weight: Tensor,
    n: usize,
    place: Place,
}

impl Prelu {
    /// `n` slopes, 0.25 before training.
    #[track_caller]
    pub fn new(s: &Scope, n: usize) -> Prelu {
        Prelu::with(s, n, &PreluSpec::new())
    }

    /// `n` slopes that start as `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, n: usize, spec: &PreluSpec) -> Prelu {
        let place = Place::new(s, "Prelu");
        place.need_sizes(1, &[("num_parameters", n)]);
        Prelu { weight: place.param("weight", &[n], &Initializer::Const { value: spec.init }), n, place }
    }

    /// One slope: `x` of any shape; n slopes: `x [N, n, ..]` -> the same shape. Errors: n slopes for another number of channels.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        let shape = x.shape();
        if self.n > 1 && !(shape.rank() >= 2 && is_extent(shape.dims()[1], self.n)) {
            let message = format!("need x [N, {}, ..], got {shape}", self.n);
            return self.place.refuse(x, message, format!("Prelu::new(s, n): n is {}, the channel axis is 1", self.n));
        }
        x.prelu(&self.weight)
    }
}
