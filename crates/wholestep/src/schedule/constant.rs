//! The rate that does not change.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// Always the base rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Constant;

impl Schedule for Constant {
    fn rate(&self, base: &Tensor, _: &Clock) -> Tensor {
        base.clone()
    }
}
