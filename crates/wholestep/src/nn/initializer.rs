//! How a parameter starts, in the words of the papers. Takes a rule and the parameter's shape, gives the compiler's `Init`, in which fans
//! and gains have become numbers. Never draws a number itself: `init.rs` does.

use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Init;

/// A rule for a parameter's first values. Shapes are PyTorch's: `[out, in, k..]`, so fan_in is `in · Πk` and fan_out `out · Πk`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Initializer {
    /// U(-a, a), a = gain · √(3 / fan). Paper: He, Zhang, Ren, Sun 2015, arXiv:1502.01852.
    KaimingUniform {
        /// Which connections are counted; those into an output by default.
        #[serde(default)]
        fan: Fan,
        /// By default 1. PyTorch's default is √2, that of a ReLU.
        #[serde(default)]
        gain: Gain,
    },
    /// N(0, gain² / fan). Paper: He, Zhang, Ren, Sun 2015, arXiv:1502.01852.
    KaimingNormal {
        /// Which connections are counted; those into an output by default.
        #[serde(default)]
        fan: Fan,
        /// By default 1. PyTorch's default is √2, that of a ReLU.
        #[serde(default)]
        gain: Gain,
    },
    /// U(-a, a), a = gain · √(6 / (fan_in + fan_out)). Paper: Glorot, Bengio 2010.
    XavierUniform {
        /// By default 1, as in PyTorch.
        #[serde(default)]
        gain: Gain,
    },
    /// N(0, gain² · 2 / (fan_in + fan_out)). Paper: Glorot, Bengio 2010.
    XavierNormal {
        /// By default 1, as in PyTorch.
        #[serde(default)]
        gain: Gain,
    },
    /// N(mean, std²).
    Normal {
        /// Finite.
        mean: f64,
        /// The standard deviation, >= 0.
        std: f64,
    },
    /// U(lo, hi).
    Uniform {
        /// The least value.
        lo: f64,
        /// The upper end, which is not drawn; at least `lo`.
        hi: f64,
    },
    /// N(mean, std²) given that the value lies in [lo, hi].
    TruncNormal {
        /// Of the normal distribution before it is cut; it need not lie in \[lo, hi\].
        mean: f64,
        /// Of the normal distribution before it is cut, > 0.
        std: f64,
        /// An absolute number, not one in deviations; PyTorch's default is -2.
        lo: f64,
        /// An absolute number above `lo`; PyTorch's default is 2.
        hi: f64,
    },
    /// Orthonormal rows or columns times `gain`. Paper: Saxe, McClelland, Ganguli 2013, arXiv:1312.6120.
    Orthogonal {
        /// By default 1, as in PyTorch.
        #[serde(default)]
        gain: Gain,
    },
    /// Every element 0: PyTorch's biases of norms.
    Zeros,
    /// Every element 1: the weights of norms.
    Ones,
    /// Every element `value`.
    Const {
        /// Finite.
        value: f64,
    },
}

/// Which count of connections sets the scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fan {
    /// Keeps the variance in the forward pass.
    #[default]
    In,
    /// Keeps the variance in the backward pass.
    Out,
}

/// The factor that makes up for what the following activation takes away; PyTorch's `calculate_gain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gain {
    /// 1.
    #[default]
    Linear,
    /// 1.
    Sigmoid,
    /// 5/3.
    Tanh,
    /// √2.
    Relu,
    /// √(2 / (1 + slope²)).
    LeakyRelu(f64),
    /// 3/4.
    Selu,
    /// The number itself.
    Value(f64),
}

impl Gain {
    /// The factor.
    pub fn value(self) -> f64 {
        match self {
            Gain::Linear | Gain::Sigmoid => 1.0,
            Gain::Tanh => 5.0 / 3.0,
            Gain::Relu => 2f64.sqrt(),
            Gain::LeakyRelu(slope) => (2.0 / (1.0 + slope * slope)).sqrt(),
            Gain::Selu => 0.75,
            Gain::Value(gain) => gain,
        }
    }
}

impl Initializer {
    /// What PyTorch gives the weights of linear and convolution layers: `kaiming_uniform_(a=√5)`, which is U(±1/√fan_in).
    pub const TORCH_WEIGHT: Initializer =
        Initializer::KaimingUniform { fan: Fan::In, gain: Gain::LeakyRelu(2.236_067_977_499_79) };

    /// What PyTorch gives the biases of those layers: U(±1/√fan_in) of the weight; zeros where the fan is 0.
    pub fn torch_bias(fan_in: usize) -> Initializer {
        match fan_in {
            0 => Initializer::Zeros,
            n => {
                let bound = 1.0 / (n as f64).sqrt();
                Initializer::Uniform { lo: -bound, hi: bound }
            }
        }
    }

    /// The rule as numbers for a parameter of `shape`.
    /// Errors (as text): a rule with fans on a shape with fewer than 2 axes; a negative spread; an empty interval; a number that is not finite.
    pub fn resolve(&self, shape: &[usize]) -> Result<Init, String> {
        let init = match *self {
            Initializer::KaimingUniform { fan, gain } => symmetric(gain.value() * (3.0 / one_fan(shape, fan)?).sqrt()),
            Initializer::KaimingNormal { fan, gain } => centred(gain.value() * (1.0 / one_fan(shape, fan)?).sqrt()),
            Initializer::XavierUniform { gain } => symmetric(gain.value() * (6.0 / both_fans(shape)?).sqrt()),
            Initializer::XavierNormal { gain } => centred(gain.value() * (2.0 / both_fans(shape)?).sqrt()),
            Initializer::Normal { mean, std } => Init::Normal { mean, std },
            Initializer::Uniform { lo, hi } => Init::Uniform { lo, hi },
            Initializer::TruncNormal { mean, std, lo, hi } => Init::TruncNormal { mean, std, lo, hi },
            Initializer::Orthogonal { gain } if shape.len() >= 2 => Init::Orthogonal { gain: gain.value() },
            Initializer::Orthogonal { .. } => return Err(too_flat(shape)),
            Initializer::Zeros => Init::Const(0.0),
            Initializer::Ones => Init::Const(1.0),
            Initializer::Const { value } => Init::Const(value),
        };
        check(&init, shape).map(|()| init)
    }
}

fn symmetric(bound: f64) -> Init {
    Init::Uniform { lo: -bound, hi: bound }
}

fn centred(std: f64) -> Init {
    Init::Normal { mean: 0.0, std }
}

fn check(init: &Init, shape: &[usize]) -> Result<(), String> {
    if let Init::Const(value) = init
        && !value.is_finite()
    {
        return Err(format!("need finite numbers, got {init:?}"));
    }
    init.fault(shape.iter().fold(1, |n: usize, &d| n.saturating_mul(d))).map_or(Ok(()), Err)
}

/// (fan_in, fan_out).
fn fans(shape: &[usize]) -> Result<(f64, f64), String> {
    let [out, input, kernel @ ..] = shape else { return Err(too_flat(shape)) };
    let taps: f64 = kernel.iter().map(|&k| k as f64).product();
    // A parameter without elements has no fan; any scale fills it.
    Ok(((*input as f64 * taps).max(1.0), (*out as f64 * taps).max(1.0)))
}

fn one_fan(shape: &[usize], fan: Fan) -> Result<f64, String> {
    let (fan_in, fan_out) = fans(shape)?;
    Ok(match fan {
        Fan::In => fan_in,
        Fan::Out => fan_out,
    })
}

fn both_fans(shape: &[usize]) -> Result<f64, String> {
    fans(shape).map(|(fan_in, fan_out)| fan_in + fan_out)
}

fn too_flat(shape: &[usize]) -> String {
    format!("need at least 2 axes to count connections, got {shape:?}")
}
