//! Averages of the weights over the run. Takes parameters after an update, gives what a slot beside each holds next. Never changes how the
//! parameters themselves are trained.

use crate::Result;
use crate::error::need;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{DType, Tensor};

/// Which average of the weights is kept beside them, to evaluate, predict and save with. Before the first update that is the weights themselves.
/// In files `type` names the variant.
///
/// Running statistics (batch normalization) are those of the training weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Average {
    /// Exponential: `a ← decay·a + (1 - decay)·p` after each update, from the weights after the first. Matches PyTorch
    /// `swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`.
    Ema {
        /// From 0 to below 1; 0.999 and 0.9999 are usual.
        decay: f64,
    },
    /// Equal parts: the mean of the weights after updates `start + every`, `start + 2·every` …; before the first of them the weights
    /// themselves. Matches PyTorch `swa_utils.AveragedModel`. Paper: Izmailov and others 2018, arXiv:1803.05407.
    Swa {
        /// Updates before the averaging begins; 0 where a file leaves it out.
        #[serde(default)]
        start: u32,
        /// Updates from one that counts to the next, at least 1; mostly those of an epoch.
        every: u32,
    },
}

impl Average {
    /// Errors (`ErrorKind::Config`): a number outside of its range.
    pub fn check(self) -> Result<()> {
        match self {
            Average::Ema { decay } => need((0.0..1.0).contains(&decay), "average.decay", "from 0 to below 1", &decay),
            Average::Swa { every, .. } => need(every > 0, "average.every", "at least 1 update", &every),
        }
    }

    /// What `a` becomes when `done` (u32) updates came before the one that made `p`.
    pub(super) fn next(self, a: &Tensor, p: &Tensor, done: &Tensor) -> Tensor {
        match self {
            Average::Ema { decay } => done.equal(0.0).select(p, a + &(&(p - a) * (1.0 - decay))),
            Average::Swa { start, every } => {
                let since = (done + 1.0).maximum(f64::from(start)) - f64::from(start);
                let n = (&since / f64::from(every)).cast(DType::F32);
                let takes = since.remainder(f64::from(every)).equal(0.0);
                let mean = a + &(&(p - a) / &n.maximum(1.0));
                since.less(f64::from(every)).select(p, takes.select(&mean, a))
            }
        }
    }
}
