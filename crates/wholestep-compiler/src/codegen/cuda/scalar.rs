//! Scalar operations as CUDA C. Takes an operation and the names of its operands, gives an expression; what the language lacks or defines
//! otherwise is a function of the prelude. Never uses approximations of fast math.

use crate::codegen::scalar::is_half;
use crate::ir::DType;
use crate::ir::op::{Binary, Unary};

/// A number of `dtype`.
pub fn constant(value: f64, dtype: DType) -> String {
    let signed = |text: String, is_negative: bool| if is_negative { format!("({text})") } else { text };
    match dtype {
        // Debug prints the shortest text that reads back as the same number, with a point or an exponent.
        DType::F32 if (value as f32).is_finite() => {
            signed(format!("{:?}f", value as f32), (value as f32).is_sign_negative())
        }
        DType::F32 => format!("bitcast<f32>({:#x}u)", (value as f32).to_bits()),
        DType::F64 if value.is_finite() => signed(format!("{value:?}"), value.is_sign_negative()),
        DType::F64 => format!("bitcast<f64>({:#x}ull)", value.to_bits()),
        DType::F16 | DType::BF16 => rounded(&constant(value, DType::F32), dtype),
        DType::I64 => format!("i64({:#x}ull)", value as i64),
        DType::I32 => format!("i32({}u)", value as i64 as i32 as u32),
        DType::U32 | DType::U8 => format!("{}u", value as i64 as u32),
        DType::Bool => (value != 0.0).to_string(),
    }
}

/// The nearest number of a 16-bit type, as f32.
fn rounded(value: &str, dtype: DType) -> String {
    format!("{dtype}_rounded({value})")
}

/// An address or extent, of type u32, as a number of `dtype`.
pub fn from_number(text: &str, dtype: DType) -> String {
    match dtype {
        // Extents can be negative in two's complement only where they are whole numbers of a signed type.
        DType::F64 | DType::F32 | DType::I64 => format!("{dtype}(i32({text}))"),
        DType::F16 | DType::BF16 => rounded(&format!("f32(i32({text}))"), dtype),
        DType::I32 => format!("i32({text})"),
        DType::U32 => format!("({text})"),
        DType::U8 => format!("(({text}) & 255u)"),
        DType::Bool => format!("(({text}) != 0u)"),
    }
}

/// `op(x)`.
pub fn unary(op: Unary, x: &str, dtype: DType) -> String {
    if is_half(dtype) {
        return rounded(&unary(op, x, DType::F32), dtype);
    }
    let is_unsigned = matches!(dtype, DType::U32 | DType::U8);
    let name = match op {
        Unary::Neg if dtype == DType::U8 => return format!("((0u - {x}) & 255u)"),
        Unary::Neg if dtype.is_float() => return format!("(-{x})"),
        Unary::Neg => "negated",
        Unary::Abs | Unary::Detach if is_unsigned || op == Unary::Detach => return x.to_string(),
        Unary::Abs | Unary::Detach => "abs",
        Unary::Sign => "sign",
        Unary::Not => return format!("(!{x})"),
        Unary::Exp => "exp",
        Unary::Expm1 => "expm1",
        Unary::Log => "log",
        Unary::Log1p => "log1p",
        Unary::Sqrt => "sqrt",
        Unary::Rsqrt => "rsqrt",
        Unary::Recip => return format!("({} / {x})", constant(1.0, dtype)),
        Unary::Sin => "sin",
        Unary::Cos => "cos",
        Unary::Tanh => "tanh",
        Unary::Sigmoid => "sigmoid",
        Unary::Erf => "erf",
        Unary::Asin => "asin",
        Unary::Acos => "acos",
        Unary::Atan => "atan",
        Unary::Asinh => "asinh",
        Unary::Floor => "floor",
        Unary::Ceil => "ceil",
        // To even; `round` goes away from zero.
        Unary::Round => "rint",
    };
    format!("{name}({x})")
}

/// `op(x, y)`, both of `dtype`.
pub fn binary(op: Binary, x: &str, y: &str, dtype: DType) -> String {
    let value = match dtype {
        _ if op.is_comparison() => return infix(op, x, y),
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => float(op, x, y),
        DType::Bool => match op {
            Binary::And => format!("({x} && {y})"),
            Binary::Or => format!("({x} || {y})"),
            Binary::Xor => format!("({x} != {y})"),
            _ => panic!("bug: {} of bools", op.name()),
        },
        DType::I64 | DType::I32 | DType::U32 | DType::U8 => whole(op, x, y, dtype),
    };
    match dtype {
        DType::F16 | DType::BF16 => rounded(&value, dtype),
        DType::U8 => format!("({value} & 255u)"),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::Bool => value,
    }
}

/// An operation that is an operator of the language.
fn infix(op: Binary, x: &str, y: &str) -> String {
    let sign = match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::Eq => "==",
        Binary::Ne => "!=",
        Binary::Lt => "<",
        Binary::Le => "<=",
        Binary::Gt => ">",
        Binary::Ge => ">=",
        Binary::And => "&",
        Binary::Or => "|",
        Binary::Xor => "^",
        Binary::Shr => ">>",
        Binary::Shl => "<<",
        Binary::Rem | Binary::Pow | Binary::Atan2 | Binary::Max | Binary::Min => {
            panic!("bug: {} is a function", op.name())
        }
    };
    format!("({x} {sign} {y})")
}

fn float(op: Binary, x: &str, y: &str) -> String {
    let name = match op {
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div => return infix(op, x, y),
        Binary::Rem => "remainder_of",
        Binary::Pow => "pow",
        Binary::Atan2 => "atan2",
        Binary::Max => "largest",
        Binary::Min => "smallest",
        _ => panic!("bug: {} of floats", op.name()),
    };
    format!("{name}({x}, {y})")
}

fn whole(op: Binary, x: &str, y: &str, dtype: DType) -> String {
    // What may pass the end of a signed type goes round in the unsigned one, where the language says what happens.
    let (signed, unsigned) = match dtype {
        DType::I64 => (true, "u64"),
        DType::I32 => (true, "u32"),
        _ => (false, "u32"),
    };
    let count = match dtype {
        DType::I64 => format!("(u32({y}) & 63u)"),
        DType::U8 => format!("({y} & 7u)"),
        _ => format!("(u32({y}) & 31u)"),
    };
    match op {
        Binary::Add | Binary::Sub | Binary::Mul if signed => {
            format!("{dtype}{}", infix(op, &format!("{unsigned}({x})"), &format!("{unsigned}({y})")))
        }
        Binary::Shl if signed => format!("{dtype}{}", infix(op, &format!("{unsigned}({x})"), &count)),
        Binary::Shl | Binary::Shr => infix(op, x, &count),
        Binary::Add | Binary::Sub | Binary::Mul | Binary::And | Binary::Or | Binary::Xor => infix(op, x, y),
        Binary::Div => format!("quotient({x}, {y})"),
        Binary::Rem => format!("remainder_of({x}, {y})"),
        Binary::Max => format!("max({x}, {y})"),
        Binary::Min => format!("min({x}, {y})"),
        _ => panic!("bug: {} of whole numbers", op.name()),
    }
}

/// `x` of dtype `from` converted to `to`: floats to whole numbers by clamping, with 0 for NaN; whole numbers by their low bits.
pub fn cast(x: &str, from: DType, to: DType) -> String {
    if from == to {
        return x.to_string();
    }
    if is_half(from) {
        return cast(x, DType::F32, to);
    }
    match to {
        DType::F16 | DType::BF16 => rounded(&cast(x, from, DType::F32), to),
        DType::Bool => format!("({x} != {})", constant(0.0, from)),
        DType::I64 | DType::I32 | DType::U32 | DType::U8 if from.is_float() => format!("to_{to}({x})"),
        DType::U8 => format!("(u32({x}) & 255u)"),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 => format!("{to}({x})"),
    }
}
