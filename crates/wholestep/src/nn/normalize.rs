//! Fixed scaling of inputs. Takes raw features or images, gives them with about mean 0 and deviation 1. Never learns: its numbers are set
//! when the model is made, live in buffers and are saved with it.

use super::batch_norm::along_channels;
use super::place::{Place, has_failed, is_extent};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Init, Scope, Tensor};

/// What a [`Normalize`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormalizeSpec {
    /// Per channel.
    pub mean: Vec<f64>,
    /// Per channel, above 0.
    pub std: Vec<f64>,
}

impl NormalizeSpec {
    /// One number per channel in each: ImageNet's are `[0.485, 0.456, 0.406]` and `[0.229, 0.224, 0.225]`, of pixels in \[0, 1\].
    pub fn new(mean: impl Into<Vec<f64>>, std: impl Into<Vec<f64>>) -> NormalizeSpec {
        NormalizeSpec { mean: mean.into(), std: std.into() }
    }
}

/// `(x - mean) / std` per channel, with given numbers: the first layer of a model whose inputs are raw.
///
/// Shapes: `x [N, C, ..]` -> the same; buffers `mean`, `std` `[C]`.
/// Errors: not C channels; lists of different lengths; a deviation that is not above 0; a number that is not finite.
/// Matches torchvision `transforms.Normalize`.
#[derive(Debug)]
pub struct Normalize {
    mean: Tensor,
    std: Tensor,
    channels: usize,
    place: Place,
}

impl Normalize {
    /// As `spec` says.
    #[track_caller]
    pub fn new(s: &Scope, spec: &NormalizeSpec) -> Normalize {
        let place = Place::new(s, "Normalize");
        let channels = spec.mean.len();
        if channels == 0 || spec.std.len() != channels {
            let message = format!("need a mean and a std per channel, got {channels} and {}", spec.std.len());
            place.reject(message, "NormalizeSpec::new([0.5], [0.25]) is for one channel");
        }
        if spec.mean.iter().any(|m| !m.is_finite()) || spec.std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            let message = format!("need finite numbers and std > 0, got {:?} and {:?}", spec.mean, spec.std);
            place.reject(message, "take both from the training data");
        }
        let values = |values: &[f64]| Init::Values(values.iter().map(|&v| v as f32).collect());
        let mean = s.buffer("mean", [spec.mean.len()], values(&spec.mean));
        let std = s.buffer("std", [spec.std.len()], values(&spec.std));
        Normalize { mean, std, channels, place }
    }

    /// `[N, C, ..]` -> the same shape. Errors: not C channels.
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
                format!("it was given {} means; the channel axis is 1", self.channels),
            );
        }
        (x - along_channels(&self.mean, shape.rank())) / along_channels(&self.std, shape.rank())
    }
}
