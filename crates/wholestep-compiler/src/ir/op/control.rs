//! Loops on the device. A loop is said by two kinds of node between which its body lies as ordinary nodes: what a trip works on, and what is
//! left after the last trip. A node is in the body if it depends on a value of the loop, so what does not change runs once, before it.
//! See [`crate::ir::loops`] for the structure that follows from them.

use super::{RuleError, Type, Vjp};
use crate::ir::DType;

/// One end of a loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// Value `index` of a loop. Operand: what it is before the first trip; later it is what the trip before made of it. Value 0 is a bool
    /// scalar: whether there is another trip.
    Carry {
        /// Tells apart the loops of one program.
        of: u32,
        index: u32,
    },
    /// Value `index` after the last trip. Operands: all values of the loop, then what a trip makes of each.
    Result { index: u32, max_trips: u32 },
}

impl Control {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        match self {
            Control::Carry { index, .. } => {
                let [first] = operands else { panic!("bug: a value of a loop begins as one value") };
                let is_bool = first.dtype == DType::Bool && first.shape.rank() == 0;
                if *index == 0 && !is_bool {
                    let message = format!("need a bool scalar as condition, got {} {}", first.shape, first.dtype);
                    return Err(RuleError::new(message));
                }
                Ok(first.clone())
            }
            Control::Result { index, max_trips } => {
                let (carried, next) = operands.split_at(operands.len() / 2);
                if *max_trips == 0 {
                    return Err(RuleError::new("need at least one trip, got a bound of 0"));
                }
                if let Some(i) = (0..carried.len()).find(|&i| carried[i] != next[i]) {
                    let (before, after) = (&carried[i], &next[i]);
                    let what = if i == 0 { "the condition".to_string() } else { format!("value {}", i - 1) };
                    return Err(RuleError::new(format!(
                        "{what} is {} {} before a trip and {} {} after it",
                        before.shape, before.dtype, after.shape, after.dtype
                    ))
                    .help(
                        "the body gives each value back in its own shape and dtype; .cast() and .reshape() convert",
                    ));
                }
                Ok(carried[*index as usize].clone())
            }
        }
    }

    /// How often a trip runs is data, so that there is no list of trips to go back over. `Tensor::scan` has a fixed count and a gradient.
    pub fn vjp(&self) -> Vjp {
        Vjp::NotDifferentiable
    }

    pub fn name(&self) -> &'static str {
        match self {
            Control::Carry { .. } | Control::Result { .. } => "while_loop",
        }
    }
}
