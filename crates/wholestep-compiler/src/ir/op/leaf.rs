//! Nodes without operands: what a step reads and what it knows beforehand.

use super::{RuleError, Type, Vjp};
use crate::ir::{DType, Dim, EvalSite, InputId, Shape, SlotId};

/// A value that no other node computes. No operands.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A batch tensor handed to each step.
    Input { id: InputId, dtype: DType, shape: Shape },
    /// The value that a slot had when the step began.
    Slot { id: SlotId, dtype: DType, shape: Shape },
    /// A scalar known at compile time (whole numbers up to 2^53 are exact).
    Const { value: f64, dtype: DType },
    /// The scalar `a·B + b` as a float: what a mean divides by.
    Extent { dim: Dim, dtype: DType },
    /// A vector 0, 1, 2 …
    Iota { len: Dim, dtype: DType },
}

impl Leaf {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        assert!(operands.is_empty(), "bug: a leaf has no operands");
        Ok(match self {
            Leaf::Input { dtype, shape, .. } | Leaf::Slot { dtype, shape, .. } => {
                Type { dtype: *dtype, shape: shape.clone() }
            }
            Leaf::Const { dtype, .. } | Leaf::Extent { dtype, .. } => Type { dtype: *dtype, shape: Shape::scalar() },
            Leaf::Iota { len, dtype } => Type { dtype: *dtype, shape: Shape(vec![*len]) },
        })
    }

    pub fn eval(&self, site: &EvalSite) -> Vec<f64> {
        match self {
            Leaf::Input { id, .. } => site.inputs[id.0 as usize].clone(),
            Leaf::Slot { id, .. } => site.slots[id.0 as usize].clone(),
            Leaf::Const { value, .. } => vec![*value],
            Leaf::Extent { dim, .. } => vec![dim.at_signed(site.batch) as f64],
            Leaf::Iota { .. } => (0..site.shape[0]).map(|i| i as f64).collect(),
        }
    }

    /// A leaf has no operands to carry a gradient to.
    pub fn vjp(&self) -> Vjp {
        match self {
            Leaf::Input { .. } | Leaf::Slot { .. } | Leaf::Const { .. } | Leaf::Extent { .. } | Leaf::Iota { .. } => {
                Vjp::nothing(0)
            }
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Leaf::Input { .. } => "input",
            Leaf::Slot { .. } => "slot",
            Leaf::Const { .. } => "const",
            Leaf::Extent { .. } => "extent",
            Leaf::Iota { .. } => "iota",
        }
    }
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::case::{floats, flows, stops};
    use crate::ir::prim::{mul, sub};
    use crate::ir::{Batch, Init, SlotKind};
    vec![
        flows("input", "batch", [floats((Batch, 3))], |_, x| mul(&x[0], &x[0])),
        flows("slot", "kept across steps", [floats([2, 3])], |s, x| {
            let kept = s.slot("kept", SlotKind::Buffer, x[0].dtype(), Shape::from([2, 3]), Init::Const(1.5));
            s.update(&kept, &sub(&kept, &x[0]));
            mul(&kept, &x[0])
        }),
        stops("const", "scalar", [], |s, _| s.constant(0.25, DType::F32)),
        stops("extent", "batch", [], |s, _| s.extent(Dim { batch: 6, fixed: 2 }, DType::F32)),
        stops("iota", "batch, i32", [], |s, _| s.iota(Dim { batch: 2, fixed: 1 }, DType::I32)),
        stops("iota", "float", [], |s, _| s.iota(5, DType::F32)),
    ]
}
