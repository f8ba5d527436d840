//! Ops that compute each element from the elements at the same place. Operands have equal shapes (broadcasting is a movement that
//! `ops/` inserts); binary operands have equal dtypes (casts are explicit).

use super::{RuleError, Type};
use crate::ir::DType;

/// One operand, same dtype out unless said otherwise. Floats only, except `Neg`, `Abs`, `Sign` (any number) and `Not` (bool).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unary {
    Neg,
    Abs,
    /// -1, 0 or 1; NaN stays NaN.
    Sign,
    /// Logical not of a bool.
    Not,
    Exp,
    /// e^x - 1, exact for small x.
    Expm1,
    Log,
    /// ln(1 + x), exact for small x.
    Log1p,
    Sqrt,
    Rsqrt,
    Recip,
    Sin,
    Cos,
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// The Gauss error function.
    Erf,
    Floor,
    Ceil,
    /// To the nearest whole number, ties to even, as PyTorch and IEEE 754 do.
    Round,
    /// The value itself; no gradient flows through it.
    Detach,
}

/// Two operands of one dtype and shape. Comparisons give bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// Whole numbers: truncates toward zero; division by zero gives 0.
    Div,
    /// Remainder with the divisor's sign, as PyTorch's `remainder`.
    Rem,
    /// Floats only.
    Pow,
    /// NaN if either is.
    Max,
    /// NaN if either is.
    Min,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Bool or whole numbers (bitwise).
    And,
    /// Bool or whole numbers (bitwise).
    Or,
    /// Bool or whole numbers (bitwise).
    Xor,
    /// Whole numbers; a logical shift of the bits.
    Shl,
    /// Whole numbers; arithmetic for signed, logical for unsigned.
    Shr,
}

/// An elementwise op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elementwise {
    Unary(Unary),
    Binary(Binary),
    /// Operands: condition (bool), value where true, value where false.
    Select,
    /// Float to whole number truncates toward zero and saturates (NaN gives 0); to bool is `!= 0`; to a narrower float rounds to nearest even.
    Cast(DType),
}

impl Elementwise {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let first = &operands[operands.len() - 1]; // of `Select` a value, not the condition
        for operand in operands {
            if operand.shape != first.shape {
                return Err(RuleError::new(format!(
                    "need operands of one shape, got {} and {}",
                    operand.shape, first.shape
                )));
            }
        }
        let dtype = match self {
            Elementwise::Unary(op) => op.infer(first.dtype)?,
            Elementwise::Binary(op) => op.infer(operands[0].dtype, operands[1].dtype)?,
            Elementwise::Select => infer_select(operands)?,
            Elementwise::Cast(to) => *to,
        };
        Ok(Type { dtype, shape: first.shape.clone() })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Elementwise::Unary(op) => op.name(),
            Elementwise::Binary(op) => op.name(),
            Elementwise::Select => "where",
            Elementwise::Cast(_) => "cast",
        }
    }
}

fn infer_select(operands: &[Type]) -> Result<DType, RuleError> {
    let [cond, yes, no] = operands else { panic!("bug: where has 3 operands") };
    if cond.dtype != DType::Bool {
        return Err(RuleError::new(format!("need a bool condition, got {}", cond.dtype)));
    }
    if yes.dtype != no.dtype {
        return Err(RuleError::new(format!("need both values of one dtype, got {} and {}", yes.dtype, no.dtype)));
    }
    Ok(yes.dtype)
}

impl Unary {
    fn infer(self, dtype: DType) -> Result<DType, RuleError> {
        let (fits, need) = match self {
            Unary::Neg | Unary::Abs | Unary::Sign | Unary::Detach => (dtype != DType::Bool, "a number"),
            Unary::Not => (dtype == DType::Bool, "bool"),
            Unary::Exp
            | Unary::Expm1
            | Unary::Log
            | Unary::Log1p
            | Unary::Sqrt
            | Unary::Rsqrt
            | Unary::Recip
            | Unary::Sin
            | Unary::Cos
            | Unary::Tanh
            | Unary::Sigmoid
            | Unary::Erf
            | Unary::Floor
            | Unary::Ceil
            | Unary::Round => (dtype.is_float(), "a float"),
        };
        if fits {
            return Ok(dtype);
        }
        Err(RuleError::new(format!("need {need}, got {dtype}")).help("convert with .cast(F32)"))
    }

    pub fn name(self) -> &'static str {
        match self {
            Unary::Neg => "neg",
            Unary::Abs => "abs",
            Unary::Sign => "sign",
            Unary::Not => "not",
            Unary::Exp => "exp",
            Unary::Expm1 => "expm1",
            Unary::Log => "log",
            Unary::Log1p => "log1p",
            Unary::Sqrt => "sqrt",
            Unary::Rsqrt => "rsqrt",
            Unary::Recip => "recip",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::Erf => "erf",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Round => "round",
            Unary::Detach => "detach",
        }
    }
}

impl Binary {
    fn infer(self, lhs: DType, rhs: DType) -> Result<DType, RuleError> {
        if lhs != rhs {
            return Err(RuleError::new(format!("need operands of one dtype, got {lhs} and {rhs}"))
                .help("nothing is converted silently: use .cast(…) on one of them"));
        }
        let (fits, need) = match self {
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Rem | Binary::Max | Binary::Min => {
                (lhs != DType::Bool, "numbers")
            }
            Binary::Pow => (lhs.is_float(), "floats"),
            Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => (true, ""),
            Binary::And | Binary::Or | Binary::Xor => (!lhs.is_float(), "bool or whole numbers"),
            Binary::Shl | Binary::Shr => (lhs.is_int(), "whole numbers"),
        };
        if !fits {
            return Err(RuleError::new(format!("need {need}, got {lhs}")));
        }
        Ok(if self.is_comparison() { DType::Bool } else { lhs })
    }

    /// Whether the result is a bool.
    pub fn is_comparison(self) -> bool {
        matches!(self, Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)
    }

    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Rem => "rem",
            Binary::Pow => "pow",
            Binary::Max => "maximum",
            Binary::Min => "minimum",
            Binary::Eq => "eq",
            Binary::Ne => "ne",
            Binary::Lt => "lt",
            Binary::Le => "le",
            Binary::Gt => "gt",
            Binary::Ge => "ge",
            Binary::And => "and",
            Binary::Or => "or",
            Binary::Xor => "xor",
            Binary::Shl => "shl",
            Binary::Shr => "shr",
        }
    }
}
