//! Statistics of normalization layers as data. Takes a program, gives mean and variance by layer, and takes other ones. Never writes numbers
//! that a formula cannot use.

use super::loaded::Loaded;
use super::{Infer, Step};
use crate::data::Array;
use crate::{Error, ErrorKind, Result};

/// With which numbers a layer normalizes in inference.
#[derive(Clone, Debug, PartialEq)]
pub enum Statistics {
    /// Of a batch or instance normalization: `(x - mean) / sqrt(var + eps)`. New layers have mean 0 and variance 1.
    Running {
        /// One number per channel, finite.
        mean: Vec<f32>,
        /// One number per channel, finite and >= 0; the unbiased variance where a layer follows its batches.
        var: Vec<f32>,
    },
    /// Of a `Normalize` layer, which scales the inputs of a model: `(x - mean) / std`.
    Input {
        /// One number per channel, finite.
        mean: Vec<f32>,
        /// One number per channel, finite and > 0.
        std: Vec<f32>,
    },
}

/// The statistics of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// "block1/bn".
    pub layer: String,
    /// Of which kind, with their numbers: one per channel.
    pub statistics: Statistics,
}

impl Statistics {
    /// Names of the two slots, what they may hold, and their values.
    fn parts(&self) -> [(&'static str, &'static str, &[f32]); 2] {
        match self {
            Statistics::Running { mean, var } => {
                [("running_mean", "a finite number", mean), ("running_var", "a finite number >= 0", var)]
            }
            Statistics::Input { mean, std } => [("mean", "a finite number", mean), ("std", "a finite number > 0", std)],
        }
    }
}

fn fits(slot: &str, x: f32) -> bool {
    x.is_finite()
        && match slot {
            "running_var" => x >= 0.0,
            "std" => x > 0.0,
            _ => true,
        }
}

fn fault(message: String) -> Error {
    Error::new(ErrorKind::Input, message)
}

impl Loaded {
    /// Layers that have statistics, in the order in which the model declares them.
    fn normalized_layers(&self) -> Vec<(String, bool)> {
        let has = |name: String| self.slots().iter().any(|s| s.name == name);
        let layer = |name: &str, end: &str, pair: &str| {
            let layer = name.strip_suffix(end)?;
            has(format!("{layer}{pair}")).then(|| layer.to_string())
        };
        let layers = self.slots().iter().filter_map(|slot| {
            let running = layer(&slot.name, "/running_mean", "/running_var").map(|layer| (layer, true));
            running.or_else(|| layer(&slot.name, "/mean", "/std").map(|layer| (layer, false)))
        });
        layers.collect()
    }

    pub fn normalizations(&mut self) -> Result<Vec<Normalization>> {
        let mut found = Vec::new();
        for (layer, is_running) in self.normalized_layers() {
            let mut read = |slot: &str| Ok(self.read(&format!("{layer}/{slot}"))?.slice::<f32>()?.to_vec());
            let statistics = match is_running {
                true => Statistics::Running { mean: read("running_mean")?, var: read("running_var")? },
                false => Statistics::Input { mean: read("mean")?, std: read("std")? },
            };
            found.push(Normalization { layer, statistics });
        }
        Ok(found)
    }

    pub fn set_normalization(&mut self, layer: &str, statistics: &Statistics) -> Result<()> {
        self.check_layer(layer)?;
        let parts = statistics.parts();
        for (slot, need, values) in parts {
            let name = format!("{layer}/{slot}");
            let Some(decl) = self.slots().iter().find(|s| s.name == name) else {
                return Err(fault(format!("{layer}: it has no {slot}; the layer takes the other kind of statistics")));
            };
            let n = decl.shape.numel_at(0);
            if values.len() != n {
                return Err(fault(format!("{name}: expected {n} numbers, one per channel, got {}", values.len())));
            }
            if let Some(at) = values.iter().position(|x| !fits(slot, *x)) {
                return Err(fault(format!("{name}: number {at} is {}, expected {need}", values[at])));
            }
        }
        for (slot, _, values) in parts {
            self.write(&format!("{layer}/{slot}"), &Array::from_vec(values.to_vec()))?;
        }
        Ok(())
    }

    pub fn reset_normalization(&mut self, layer: &str) -> Result<()> {
        let is_running = self.check_layer(layer)?;
        let first = if is_running { "running_mean" } else { "mean" };
        let n = self.read(&format!("{layer}/{first}"))?.len();
        let (mean, ones) = (vec![0.0; n], vec![1.0; n]);
        let statistics = match is_running {
            true => Statistics::Running { mean, var: ones },
            false => Statistics::Input { mean, std: ones },
        };
        self.set_normalization(layer, &statistics)
    }

    /// Whether the layer's statistics are running ones. Errors: there is no such layer.
    fn check_layer(&self, layer: &str) -> Result<bool> {
        let layers = self.normalized_layers();
        let found = layers.iter().find(|(name, _)| name == layer).map(|(_, is_running)| *is_running);
        found.ok_or_else(|| {
            let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
            fault(format!("no normalization layer is called {layer:?}; there are {names:?}"))
        })
    }
}

macro_rules! on_programs {
    ($($program:ty),*) => {$(
        impl $program {
            /// The statistics of all normalization layers, in the order in which the model declares them.
            pub fn normalizations(&mut self) -> Result<Vec<Normalization>> {
                self.loaded().normalizations()
            }

            /// Replaces the statistics of a layer.
            /// Errors: no such layer; not one number per channel; a negative variance, a deviation of 0, a number that is not finite.
            /// Nothing changes then.
            pub fn set_normalization(&mut self, layer: &str, statistics: &Statistics) -> Result<()> {
                self.loaded().set_normalization(layer, statistics)
            }

            /// Puts back mean 0 and variance (or deviation) 1. Errors: no such layer.
            pub fn reset_normalization(&mut self, layer: &str) -> Result<()> {
                self.loaded().reset_normalization(layer)
            }
        }
    )*};
}
on_programs!(Step, Infer);
