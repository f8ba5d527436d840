//! A line up and the inverse square root down.

use super::{Clock, Schedule};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::Tensor;

/// With `t = step + 1`: `base·t/warmup` until `t = warmup`, then `base·sqrt(warmup/t)`.
///
/// Paper: Vaswani and others 2017, arXiv:1706.03762, section 5.3, scaled so that the base rate is the highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InverseSqrt {
    /// In steps, at least 1.
    pub warmup: u64,
}

impl InverseSqrt {
    /// Up for `warmup` updates, at least 1; the last of them has the base rate.
    pub fn new(warmup: u64) -> InverseSqrt {
        InverseSqrt { warmup }
    }
}

impl Schedule for InverseSqrt {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        let warmup = self.warmup.max(1) as f64;
        let t = &clock.step + 1.0;
        base * &(&t / warmup).minimum(&t.rsqrt() * warmup.sqrt())
    }
}
