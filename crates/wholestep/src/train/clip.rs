//! Clipping as data. Takes a limit, gives what a step is compiled with. Never clips by itself.

use crate::{Clip, Result};
use serde::{Deserialize, Serialize};

/// [`Clip`] as data: `clip = { norm = 1.0 }` or `clip = { value = 0.5 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipSpec {
    /// The largest 2-norm of all gradients together; > 0.
    Norm(f64),
    /// The largest absolute value of an element; > 0.
    Value(f64),
}

impl ClipSpec {
    /// Errors (`ErrorKind::Config`): a limit that is not a finite number > 0.
    pub fn check(self) -> Result<()> {
        self.clip().check()
    }

    pub(crate) fn clip(self) -> Clip {
        match self {
            ClipSpec::Norm(norm) => Clip::GlobalNorm(norm),
            ClipSpec::Value(limit) => Clip::Value(limit),
        }
    }
}
