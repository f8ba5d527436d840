//! Ops that compute each element from the elements at the same place. Operands have equal shapes (broadcasting is a movement that
//! `ops/` inserts); binary operands have equal dtypes (casts are explicit).

use super::reduce::largest;
use super::{RuleError, Type, Vjp};
use crate::ir::prim::{
    add, and, cast, cos, div, eq, exp, fill, ge, gt, log, lt, mul, neg, pow, round, rsqrt, scale, select, sign, sin,
    sub,
};
use crate::ir::value::{bits, wrap};
use crate::ir::{DType, EvalSite, Tensor, Value};

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
    Asin,
    Acos,
    Atan,
    Asinh,
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
    /// Remainder with the divisor's sign, as PyTorch's `remainder`; of whole numbers by zero it is 0.
    Rem,
    /// Floats only.
    Pow,
    /// The angle of the point (rhs, lhs) against the first axis, from -π to π. Floats only.
    Atan2,
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
    /// Whole numbers; a logical shift of the bits. The count is taken modulo the width.
    Shl,
    /// Whole numbers; arithmetic for signed, logical for unsigned. The count is taken modulo the width.
    Shr,
}

/// An elementwise op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elementwise {
    Unary(Unary),
    Binary(Binary),
    /// Operands: condition (bool), value where true, value where false.
    Select,
    /// Float to whole number truncates toward zero and saturates (NaN gives 0); between whole numbers the low bits stay (-1 as u8 is 255);
    /// to bool is `!= 0`; to a narrower float rounds to nearest even.
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

    pub fn eval(&self, x: &[&Value], site: &EvalSite) -> Vec<f64> {
        match self {
            Elementwise::Unary(op) => x[0].data.iter().map(|&v| op.eval(v, site.dtype)).collect(),
            Elementwise::Binary(op) => {
                x[0].data.iter().zip(&x[1].data).map(|(&a, &b)| op.eval(a, b, x[0].dtype)).collect()
            }
            Elementwise::Select => {
                let pairs = x[1].data.iter().zip(&x[2].data);
                x[0].data.iter().zip(pairs).map(|(&cond, (&yes, &no))| if cond != 0.0 { yes } else { no }).collect()
            }
            Elementwise::Cast(to) => x[0].data.iter().map(|&v| eval_cast(v, x[0].dtype, *to)).collect(),
        }
    }

    pub fn vjp(&self, x: &[Tensor], y: &Tensor, d_y: &Tensor, wanted: &[bool]) -> Vjp {
        match self {
            Elementwise::Unary(op) => op.vjp(&x[0], y, d_y),
            Elementwise::Binary(op) => op.vjp(&x[0], &x[1], y, d_y, wanted),
            Elementwise::Select => {
                let zero = fill(d_y, 0.0);
                let (yes, no) = (|| select(&x[0], d_y, &zero), || select(&x[0], &zero, d_y));
                Vjp::Grads(vec![None, wanted[1].then(yes), wanted[2].then(no)])
            }
            Elementwise::Cast(to) if to.is_float() => Vjp::Grads(vec![Some(cast(d_y, x[0].dtype()))]),
            Elementwise::Cast(_) => Vjp::NotDifferentiable,
        }
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
            | Unary::Asin
            | Unary::Acos
            | Unary::Atan
            | Unary::Asinh
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

    fn eval(self, x: f64, dtype: DType) -> f64 {
        match self {
            Unary::Neg if dtype.is_int() => wrap(dtype, -(x as i128)),
            Unary::Abs if dtype.is_int() => wrap(dtype, (x as i128).abs()),
            Unary::Neg => -x,
            Unary::Abs => x.abs(),
            Unary::Sign => {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    x.signum()
                }
            }
            Unary::Not => 1.0 - x,
            Unary::Exp => x.exp(),
            Unary::Expm1 => x.exp_m1(),
            Unary::Log => x.ln(),
            Unary::Log1p => x.ln_1p(),
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Recip => 1.0 / x,
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Tanh => x.tanh(),
            Unary::Asin => x.asin(),
            Unary::Acos => x.acos(),
            Unary::Atan => x.atan(),
            Unary::Asinh => x.asinh(),
            // e^x of a large negative number is 0; e^-x of it would be infinite and lose the small results.
            Unary::Sigmoid => {
                if x >= 0.0 {
                    1.0 / (1.0 + (-x).exp())
                } else {
                    x.exp() / (1.0 + x.exp())
                }
            }
            Unary::Erf => libm::erf(x),
            Unary::Floor => x.floor(),
            Unary::Ceil => x.ceil(),
            Unary::Round => x.round_ties_even(),
            Unary::Detach => x,
        }
    }

    /// Derivatives as PyTorch defines them where there are several choices: `abs` has 0 at 0; `sign` and the roundings have 0 everywhere.
    fn vjp(self, x: &Tensor, y: &Tensor, d_y: &Tensor) -> Vjp {
        let one_minus = |t: &Tensor| sub(&fill(t, 1.0), t);
        let one_plus = |t: &Tensor| add(t, &fill(t, 1.0));
        Vjp::Grads(vec![Some(match self {
            Unary::Neg => neg(d_y),
            Unary::Abs => mul(d_y, &sign(x)),
            Unary::Exp => mul(d_y, y),
            Unary::Expm1 => mul(d_y, &one_plus(y)),
            Unary::Log => div(d_y, x),
            Unary::Log1p => div(d_y, &one_plus(x)),
            Unary::Sqrt => div(d_y, &scale(y, 2.0)),
            Unary::Rsqrt => mul(&scale(d_y, -0.5), &mul(y, &mul(y, y))),
            Unary::Recip => neg(&mul(d_y, &mul(y, y))),
            Unary::Sin => mul(d_y, &cos(x)),
            Unary::Cos => neg(&mul(d_y, &sin(x))),
            Unary::Tanh => mul(d_y, &one_minus(&mul(y, y))),
            Unary::Asin => mul(d_y, &rsqrt(&one_minus(&mul(x, x)))),
            Unary::Acos => neg(&mul(d_y, &rsqrt(&one_minus(&mul(x, x))))),
            Unary::Atan => div(d_y, &one_plus(&mul(x, x))),
            Unary::Asinh => mul(d_y, &rsqrt(&one_plus(&mul(x, x)))),
            Unary::Sigmoid => mul(d_y, &mul(y, &one_minus(y))),
            Unary::Erf => mul(d_y, &scale(&exp(&neg(&mul(x, x))), std::f64::consts::FRAC_2_SQRT_PI)),
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Detach => return Vjp::nothing(1),
            Unary::Not => return Vjp::NotDifferentiable,
        })])
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
            Unary::Asin => "asin",
            Unary::Acos => "acos",
            Unary::Atan => "atan",
            Unary::Asinh => "asinh",
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
            Binary::Pow | Binary::Atan2 => (lhs.is_float(), "floats"),
            Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => (true, ""),
            Binary::And | Binary::Or | Binary::Xor => (!lhs.is_float(), "bool or whole numbers"),
            Binary::Shl | Binary::Shr => (lhs.is_int(), "whole numbers"),
        };
        if !fits {
            return Err(RuleError::new(format!("need {need}, got {lhs}")));
        }
        Ok(if self.is_comparison() { DType::Bool } else { lhs })
    }

    fn eval(self, a: f64, b: f64, dtype: DType) -> f64 {
        let truth = |t: bool| f64::from(u8::from(t));
        match self {
            Binary::Eq => truth(a == b),
            Binary::Ne => truth(a != b),
            Binary::Lt => truth(a < b),
            Binary::Le => truth(a <= b),
            Binary::Gt => truth(a > b),
            Binary::Ge => truth(a >= b),
            Binary::Max => largest(a, b),
            Binary::Min => -largest(-a, -b),
            Binary::Pow => a.powf(b),
            Binary::Atan2 => a.atan2(b),
            Binary::Rem if dtype.is_float() => {
                let r = a % b;
                if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
            }
            Binary::Add if dtype.is_float() => a + b,
            Binary::Sub if dtype.is_float() => a - b,
            Binary::Mul if dtype.is_float() => a * b,
            Binary::Div if dtype.is_float() => a / b,
            Binary::Add
            | Binary::Sub
            | Binary::Mul
            | Binary::Div
            | Binary::Rem
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr => wrap(dtype, self.eval_whole(a as i128, b as i128, dtype)),
        }
    }

    /// The result before it wraps. A logical shift to the right is an arithmetic one of a number that is not negative.
    fn eval_whole(self, a: i128, b: i128, dtype: DType) -> i128 {
        let count = || b.rem_euclid(i128::from(bits(dtype)));
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a.checked_div(b).unwrap_or(0),
            Binary::Rem => {
                let r = a.checked_rem(b).unwrap_or(0);
                if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
            }
            Binary::And => a & b,
            Binary::Or => a | b,
            Binary::Xor => a ^ b,
            Binary::Shl => a << count(),
            Binary::Shr => a >> count(),
            Binary::Pow
            | Binary::Atan2
            | Binary::Max
            | Binary::Min
            | Binary::Eq
            | Binary::Ne
            | Binary::Lt
            | Binary::Le
            | Binary::Gt
            | Binary::Ge => panic!("bug: {} has no whole-number form", self.name()),
        }
    }

    fn vjp(self, a: &Tensor, b: &Tensor, y: &Tensor, d_y: &Tensor, wanted: &[bool]) -> Vjp {
        let (d_a, d_b): (&dyn Fn() -> Tensor, &dyn Fn() -> Tensor) = match self {
            Binary::Add => (&|| d_y.clone(), &|| d_y.clone()),
            Binary::Sub => (&|| d_y.clone(), &|| neg(d_y)),
            Binary::Mul => (&|| mul(d_y, b), &|| mul(d_y, a)),
            Binary::Div => (&|| div(d_y, b), &|| neg(&div(&mul(d_y, y), b))),
            // a = q·b + y with a whole q, which (a - y) / b rounds to exactly.
            Binary::Rem => (&|| d_y.clone(), &|| neg(&mul(d_y, &round(&div(&sub(a, y), b))))),
            Binary::Pow => (&|| pow_base_grad(a, b, d_y), &|| pow_exponent_grad(a, b, y, d_y)),
            Binary::Atan2 => (&|| mul(d_y, &div(b, &length2(a, b))), &|| neg(&mul(d_y, &div(a, &length2(a, b))))),
            Binary::Max => (&|| extreme_grad(a, b, d_y, &lt(a, b)), &|| extreme_grad(a, b, d_y, &gt(a, b))),
            Binary::Min => (&|| extreme_grad(a, b, d_y, &gt(a, b)), &|| extreme_grad(a, b, d_y, &lt(a, b))),
            Binary::Eq
            | Binary::Ne
            | Binary::Lt
            | Binary::Le
            | Binary::Gt
            | Binary::Ge
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr => return Vjp::NotDifferentiable,
        };
        Vjp::Grads(vec![wanted[0].then(d_a), wanted[1].then(d_b)])
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
            Binary::Atan2 => "atan2",
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

fn eval_cast(x: f64, from: DType, to: DType) -> f64 {
    match to {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => x,
        DType::Bool => f64::from(u8::from(x != 0.0)),
        DType::I64 | DType::I32 | DType::U32 | DType::U8 if !from.is_float() => wrap(to, x as i128),
        DType::I64 => x as i64 as f64,
        DType::I32 => f64::from(x as i32),
        DType::U32 => f64::from(x as u32),
        DType::U8 => f64::from(x as u8),
    }
}

/// `b·a^(b-1)`, and 0 for `0^0`. The exponent is made harmless where the power would be infinite, before and not after the power is
/// taken: an infinity that is only masked would make the gradient of this gradient NaN.
fn pow_base_grad(a: &Tensor, b: &Tensor, d_y: &Tensor) -> Tensor {
    let zero = fill(a, 0.0);
    let both_zero = and(&eq(a, &zero), &eq(b, &zero));
    let one = fill(b, 1.0);
    let exponent = select(&both_zero, &one, b);
    mul(d_y, &mul(b, &pow(a, &sub(&exponent, &one))))
}

/// `a^b·ln a`, and 0 for `0^b` with b >= 0, as PyTorch. The base is made harmless before the logarithm, for the same reason.
fn pow_exponent_grad(a: &Tensor, b: &Tensor, y: &Tensor, d_y: &Tensor) -> Tensor {
    let zero = fill(a, 0.0);
    let vanishes = and(&eq(a, &zero), &ge(b, &zero));
    mul(d_y, &mul(y, &log(&select(&vanishes, &fill(a, 1.0), a))))
}

/// a² + b².
fn length2(a: &Tensor, b: &Tensor) -> Tensor {
    add(&mul(a, a), &mul(b, b))
}

/// The share of an operand in a maximum or minimum: nothing where it has `lost`, half where both are equal, as PyTorch.
fn extreme_grad(a: &Tensor, b: &Tensor, d_y: &Tensor, lost: &Tensor) -> Tensor {
    let kept = select(&eq(a, b), &scale(d_y, 0.5), d_y);
    select(lost, &fill(d_y, 0.0), &kept)
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    [unary_cases(), binary_cases(), select_and_cast_cases()].concat()
}

#[cfg(any(test, feature = "cases"))]
fn unary_cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{away_from_zero, bools, distinct, floats, floats_in, flows, stops, ties, whole};
    use DType::{I32, U32};
    fn unary(op: Unary, x: &[Tensor]) -> Tensor {
        x[0].apply(Elementwise::Unary(op), &[])
    }
    vec![
        flows("neg", "", [floats((Batch, 5))], |_, x| unary(Unary::Neg, x)),
        flows("abs", "", [away_from_zero((Batch, 5))], |_, x| unary(Unary::Abs, x)),
        flows("exp", "", [floats((Batch, 5))], |_, x| unary(Unary::Exp, x)),
        flows("expm1", "", [floats((Batch, 5))], |_, x| unary(Unary::Expm1, x)),
        flows("log", "", [floats_in((Batch, 5), 0.25, 3.0)], |_, x| unary(Unary::Log, x)),
        flows("log1p", "", [floats_in((Batch, 5), 0.25, 3.0)], |_, x| unary(Unary::Log1p, x)),
        flows("sqrt", "", [floats_in((Batch, 5), 0.25, 3.0)], |_, x| unary(Unary::Sqrt, x)),
        flows("rsqrt", "", [floats_in((Batch, 5), 0.25, 3.0)], |_, x| unary(Unary::Rsqrt, x)),
        flows("recip", "", [away_from_zero((Batch, 5))], |_, x| unary(Unary::Recip, x)),
        flows("sin", "", [floats((Batch, 5))], |_, x| unary(Unary::Sin, x)),
        flows("cos", "", [floats((Batch, 5))], |_, x| unary(Unary::Cos, x)),
        flows("tanh", "", [floats((Batch, 5))], |_, x| unary(Unary::Tanh, x)),
        flows("asin", "", [floats_in((Batch, 5), -0.9, 0.9)], |_, x| unary(Unary::Asin, x)),
        flows("acos", "", [floats_in((Batch, 5), -0.9, 0.9)], |_, x| unary(Unary::Acos, x)),
        flows("atan", "", [floats_in((Batch, 9), -6.0, 6.0)], |_, x| unary(Unary::Atan, x)),
        flows("asinh", "", [floats_in((Batch, 9), -6.0, 6.0)], |_, x| unary(Unary::Asinh, x)),
        flows("sigmoid", "", [floats((Batch, 5))], |_, x| unary(Unary::Sigmoid, x)),
        flows("erf", "", [floats((Batch, 5))], |_, x| unary(Unary::Erf, x)),
        stops("sign", "", [floats_in((Batch, 9), -4.0, 4.0)], |_, x| unary(Unary::Sign, x)),
        stops("floor", "", [floats_in((Batch, 9), -4.0, 4.0)], |_, x| unary(Unary::Floor, x)),
        stops("ceil", "", [floats_in((Batch, 9), -4.0, 4.0)], |_, x| unary(Unary::Ceil, x)),
        stops("round", "", [floats_in((Batch, 9), -4.0, 4.0)], |_, x| unary(Unary::Round, x)),
        stops("detach", "", [floats_in((Batch, 9), -4.0, 4.0)], |_, x| unary(Unary::Detach, x)),
        stops("round", "halves to even", [ties((Batch, 9))], |_, x| unary(Unary::Round, x)),
        stops("not", "", [bools((Batch, 5))], |_, x| unary(Unary::Not, x)),
        stops("neg", "i32", [whole(I32, (Batch, 5), -9, 9)], |_, x| unary(Unary::Neg, x)),
        stops("neg", "u32 wraps", [whole(U32, (Batch, 5), 0, 9)], |_, x| unary(Unary::Neg, x)),
        stops("abs", "i32", [whole(I32, (Batch, 5), -9, 9)], |_, x| unary(Unary::Abs, x)),
        stops("sign", "i32", [whole(I32, (Batch, 5), -2, 2)], |_, x| unary(Unary::Sign, x)),
        flows("sigmoid", "far out", [floats_in((Batch, 9), -40.0, 40.0)], |_, x| unary(Unary::Sigmoid, x)),
        flows("tanh", "far out", [floats_in((Batch, 9), -15.0, 15.0)], |_, x| unary(Unary::Tanh, x)),
        // Results that are small are made large, as the error that is allowed is that of a 1.
        flows("expm1", "near zero", [floats_in((Batch, 9), -1e-4, 1e-4)], |_, x| scale(&unary(Unary::Expm1, x), 1e4)),
        flows("log1p", "near zero", [floats_in((Batch, 9), -1e-4, 1e-4)], |_, x| scale(&unary(Unary::Log1p, x), 1e4)),
        // Multiples of 1/8, so that 1 + x/1024 is no rounded number.
        flows("log", "near one", [distinct((Batch, 9))], |_, x| {
            scale(&unary(Unary::Log, &[add(&fill(&x[0], 1.0), &scale(&x[0], 1.0 / 1024.0))]), 128.0)
        }),
        flows("erf", "tails", [floats_in((Batch, 9), -5.0, 5.0)], |_, x| unary(Unary::Erf, x)),
    ]
}

#[cfg(any(test, feature = "cases"))]
fn binary_cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{away_from_zero, bools, floats, floats_in, flows, stops, ties, whole};
    use DType::{I32, U32};
    fn binary(op: Binary, x: &[Tensor]) -> Tensor {
        x[0].apply(Elementwise::Binary(op), &[&x[1]])
    }
    vec![
        flows("add", "", [floats((Batch, 5)), floats((Batch, 5))], |_, x| binary(Binary::Add, x)),
        flows("sub", "", [floats((Batch, 5)), floats((Batch, 5))], |_, x| binary(Binary::Sub, x)),
        flows("mul", "", [floats((Batch, 5)), floats((Batch, 5))], |_, x| binary(Binary::Mul, x)),
        flows("div", "", [floats((Batch, 5)), away_from_zero((Batch, 5))], |_, x| binary(Binary::Div, x)),
        flows("maximum", "", [floats((Batch, 5)), floats((Batch, 5))], |_, x| binary(Binary::Max, x)),
        flows("minimum", "", [floats((Batch, 5)), floats((Batch, 5))], |_, x| binary(Binary::Min, x)),
        flows("rem", "divisors of both signs", [floats((Batch, 9)), away_from_zero((Batch, 9))], |_, x| {
            binary(Binary::Rem, x)
        }),
        flows("pow", "", [floats_in((Batch, 5), 0.25, 2.0), floats((Batch, 5))], |_, x| binary(Binary::Pow, x)),
        flows("atan2", "all quadrants", [away_from_zero((Batch, 9)), away_from_zero((Batch, 9))], |_, x| {
            binary(Binary::Atan2, x)
        }),
        flows("pow", "square of both signs", [away_from_zero((Batch, 5))], |_, x| pow(&x[0], &fill(&x[0], 2.0))),
        flows("mul", "with itself", [floats((Batch, 5))], |_, x| mul(&x[0], &x[0])),
        stops("eq", "", [ties((Batch, 9)), ties((Batch, 9))], |_, x| binary(Binary::Eq, x)),
        stops("ne", "", [ties((Batch, 9)), ties((Batch, 9))], |_, x| binary(Binary::Ne, x)),
        stops("lt", "", [ties((Batch, 9)), ties((Batch, 9))], |_, x| binary(Binary::Lt, x)),
        stops("le", "", [ties((Batch, 9)), ties((Batch, 9))], |_, x| binary(Binary::Le, x)),
        stops("gt", "", [ties((Batch, 9)), ties((Batch, 9))], |_, x| binary(Binary::Gt, x)),
        stops("ge", "", [ties((Batch, 9)), ties((Batch, 9))], |_, x| binary(Binary::Ge, x)),
        stops("eq", "i32", [whole(I32, (Batch, 9), -2, 2), whole(I32, (Batch, 9), -2, 2)], |_, x| {
            binary(Binary::Eq, x)
        }),
        stops("lt", "i32", [whole(I32, (Batch, 9), -2, 2), whole(I32, (Batch, 9), -2, 2)], |_, x| {
            binary(Binary::Lt, x)
        }),
        stops("and", "bool", [bools((Batch, 5)), bools((Batch, 5))], |_, x| binary(Binary::And, x)),
        stops(
            "and",
            "u32",
            [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 4_294_967_295)],
            |_, x| binary(Binary::And, x),
        ),
        stops("or", "bool", [bools((Batch, 5)), bools((Batch, 5))], |_, x| binary(Binary::Or, x)),
        stops(
            "or",
            "u32",
            [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 4_294_967_295)],
            |_, x| binary(Binary::Or, x),
        ),
        stops("xor", "bool", [bools((Batch, 5)), bools((Batch, 5))], |_, x| binary(Binary::Xor, x)),
        stops(
            "xor",
            "u32",
            [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 4_294_967_295)],
            |_, x| binary(Binary::Xor, x),
        ),
        stops("shl", "u32", [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 31)], |_, x| {
            binary(Binary::Shl, x)
        }),
        stops(
            "shl",
            "i32",
            [whole(I32, (Batch, 5), -2_000_000_000, 2_000_000_000), whole(I32, (Batch, 5), 0, 31)],
            |_, x| binary(Binary::Shl, x),
        ),
        stops("shr", "u32", [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 31)], |_, x| {
            binary(Binary::Shr, x)
        }),
        stops(
            "shr",
            "i32",
            [whole(I32, (Batch, 5), -2_000_000_000, 2_000_000_000), whole(I32, (Batch, 5), 0, 31)],
            |_, x| binary(Binary::Shr, x),
        ),
        stops(
            "add",
            "u32 wraps",
            [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 4_294_967_295)],
            |_, x| binary(Binary::Add, x),
        ),
        stops(
            "sub",
            "u32 wraps",
            [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 4_294_967_295)],
            |_, x| binary(Binary::Sub, x),
        ),
        stops(
            "mul",
            "u32 wraps",
            [whole(U32, (Batch, 5), 0, 4_294_967_295), whole(U32, (Batch, 5), 0, 4_294_967_295)],
            |_, x| binary(Binary::Mul, x),
        ),
        stops("mul", "i32", [whole(I32, (Batch, 9), -9, 9), whole(I32, (Batch, 9), -3, 3)], |_, x| {
            binary(Binary::Mul, x)
        }),
        stops("div", "i32", [whole(I32, (Batch, 9), -9, 9), whole(I32, (Batch, 9), -3, 3)], |_, x| {
            binary(Binary::Div, x)
        }),
        stops("rem", "i32", [whole(I32, (Batch, 9), -9, 9), whole(I32, (Batch, 9), -3, 3)], |_, x| {
            binary(Binary::Rem, x)
        }),
        stops("maximum", "i32", [whole(I32, (Batch, 9), -9, 9), whole(I32, (Batch, 9), -3, 3)], |_, x| {
            binary(Binary::Max, x)
        }),
        stops("minimum", "i32", [whole(I32, (Batch, 9), -9, 9), whole(I32, (Batch, 9), -3, 3)], |_, x| {
            binary(Binary::Min, x)
        }),
    ]
}

#[cfg(any(test, feature = "cases"))]
fn select_and_cast_cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{bools, floats, floats_in, flows, stops, ties, whole};
    use DType::{I32, U32};
    vec![
        flows("where", "", [bools((Batch, 5)), floats((Batch, 5)), floats((Batch, 5))], |_, x| {
            select(&x[0], &x[1], &x[2])
        }),
        stops(
            "where",
            "i32",
            [bools((Batch, 5)), whole(I32, (Batch, 5), -9, 9), whole(I32, (Batch, 5), -9, 9)],
            |_, x| select(&x[0], &x[1], &x[2]),
        ),
        flows("cast", "to f64 and back", [floats((Batch, 5))], |_, x| {
            let wide = x[0].apply(Elementwise::Cast(DType::F64), &[]);
            mul(&wide, &wide).apply(Elementwise::Cast(x[0].dtype()), &[])
        }),
        stops("cast", "float to i32 truncates", [floats_in((Batch, 9), -4.0, 4.0)], |_, x| cast(&x[0], I32)),
        stops("cast", "float to u8 saturates", [floats_in((Batch, 9), -400.0, 400.0)], |_, x| cast(&x[0], DType::U8)),
        stops("cast", "float to bool", [ties((Batch, 9))], |_, x| cast(&x[0], DType::Bool)),
        stops("cast", "i32 to u8 wraps", [whole(I32, (Batch, 9), -400, 400)], |_, x| cast(&x[0], DType::U8)),
        stops("cast", "u32 to i32 wraps", [whole(U32, (Batch, 9), 0, 4_294_967_295)], |_, x| cast(&x[0], I32)),
        stops("cast", "u32 to f32", [whole(U32, (Batch, 9), 0, 16_777_216)], |_, x| cast(&x[0], DType::F32)),
        stops("cast", "bool to f32", [bools((Batch, 9))], |_, x| cast(&x[0], DType::F32)),
    ]
}
