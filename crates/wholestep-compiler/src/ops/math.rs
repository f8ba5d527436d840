//! Elementwise maths: operators, comparisons, logic and scalar functions, with NumPy's broadcasting. Takes tensors of one dtype and
//! numbers, gives tensors of the common shape. Never converts a dtype that the user did not ask to convert.

use super::{Traced, broadcast_pair, broadcast_shape, refuse, settle};
use crate::ir::op::{Binary, Elementwise, Unary};
use crate::ir::{DType, Tensor};
use std::f64::consts;
use std::ops;

/// A tensor or a number, which takes the other operand's dtype.
#[derive(Clone, Debug)]
pub enum Operand {
    /// Of the other operand's dtype; shapes broadcast.
    Tensor(Tensor),
    /// For every element, in the other operand's dtype; an error where that cannot hold it: 0.5 beside whole numbers.
    Number(f64),
}

impl From<Tensor> for Operand {
    fn from(x: Tensor) -> Operand {
        Operand::Tensor(x)
    }
}

impl From<&Tensor> for Operand {
    fn from(x: &Tensor) -> Operand {
        Operand::Tensor(x.clone())
    }
}

impl From<f64> for Operand {
    fn from(x: f64) -> Operand {
        Operand::Number(x)
    }
}

impl Operand {
    /// The operand as a tensor of the dtype of `beside`.
    #[track_caller]
    fn beside(self, what: &str, beside: &Tensor) -> Tensor {
        match self {
            Operand::Tensor(x) => x,
            Operand::Number(value) => beside.constant_beside(what, value),
        }
    }
}

#[track_caller]
fn binary(op: Binary, a: &Tensor, b: Operand) -> Tensor {
    let b = b.beside(op.name(), a);
    match broadcast_pair(op.name(), a, &b) {
        Ok((a, b)) => a.apply(Elementwise::Binary(op), &[&b]),
        Err(placeholder) => placeholder,
    }
}

// `a + b` for tensors by value or reference and numbers on either side.
macro_rules! operator {
    ($trait:ident, $method:ident, $op:ident) => {
        operator!(@ $trait, $method, $op, Tensor, Tensor | Tensor, &Tensor | &Tensor, Tensor | &Tensor, &Tensor | Tensor, f64 | &Tensor, f64);
        impl ops::$trait<Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, x: Tensor) -> Tensor {
                binary(Binary::$op, &x.constant_beside(Binary::$op.name(), self), (&x).into())
            }
        }
        impl ops::$trait<&Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, x: &Tensor) -> Tensor {
                binary(Binary::$op, &x.constant_beside(Binary::$op.name(), self), x.into())
            }
        }
    };
    (@ $trait:ident, $method:ident, $op:ident, $($lhs:ty, $rhs:ty)|+) => {
        $(impl ops::$trait<$rhs> for $lhs {
            type Output = Tensor;
            #[track_caller]
            #[allow(clippy::needless_borrow)]
            fn $method(self, rhs: $rhs) -> Tensor {
                binary(Binary::$op, &self, rhs.into())
            }
        })+
    };
}
operator!(Add, add, Add);
operator!(Sub, sub, Sub);
operator!(Mul, mul, Mul);
operator!(Div, div, Div);
operator!(Rem, rem, Rem);
operator!(BitAnd, bitand, And);
operator!(BitOr, bitor, Or);
operator!(BitXor, bitxor, Xor);

impl ops::Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        self.unary(Unary::Neg)
    }
}

impl ops::Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        self.unary(Unary::Neg)
    }
}

impl ops::Not for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn not(self) -> Tensor {
        self.unary(Unary::Not)
    }
}

impl ops::Not for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn not(self) -> Tensor {
        self.unary(Unary::Not)
    }
}

// A method that is one primitive of one operand.
macro_rules! unary_methods {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)+) => {
        impl Tensor {
            $($(#[$doc])*
            #[track_caller]
            pub fn $name(&self) -> Tensor {
                self.unary(Unary::$op)
            })+
        }
    };
}
unary_methods! {
    /// `|x|`, any shape; its gradient at 0 is 0. Matches PyTorch `abs`.
    abs = Abs;
    /// -1, 0 or 1 by the sign of x, NaN for NaN; no gradient. Matches PyTorch `sign`.
    sign = Sign;
    /// `e^x`. Matches PyTorch `exp`.
    exp = Exp;
    /// `e^x - 1`, exact for small x. Matches PyTorch `expm1`.
    expm1 = Expm1;
    /// `ln x`. Matches PyTorch `log`.
    log = Log;
    /// `ln(1 + x)`, exact for small x. Matches PyTorch `log1p`.
    log1p = Log1p;
    /// `√x`. Matches PyTorch `sqrt`.
    sqrt = Sqrt;
    /// `1 / √x`. Matches PyTorch `rsqrt`.
    rsqrt = Rsqrt;
    /// `1 / x`. Matches PyTorch `reciprocal`.
    recip = Recip;
    /// Sine of radians. Matches PyTorch `sin`.
    sin = Sin;
    /// Cosine of radians. Matches PyTorch `cos`.
    cos = Cos;
    /// Hyperbolic tangent. Matches PyTorch `tanh`.
    tanh = Tanh;
    /// The angle in radians whose sine x is, from -π/2 to π/2; NaN outside of [-1, 1]. Matches PyTorch `asin`.
    asin = Asin;
    /// The angle in radians whose cosine x is, from 0 to π; NaN outside of [-1, 1]. Matches PyTorch `acos`.
    acos = Acos;
    /// The angle in radians whose tangent x is, from -π/2 to π/2. Matches PyTorch `atan`.
    atan = Atan;
    /// Inverse hyperbolic sine. Matches PyTorch `asinh`.
    asinh = Asinh;
    /// `1 / (1 + e^-x)`. Matches PyTorch `sigmoid`.
    sigmoid = Sigmoid;
    /// The Gauss error function. Matches PyTorch `erf`.
    erf = Erf;
    /// Largest whole number not above x; no gradient. Matches PyTorch `floor`.
    floor = Floor;
    /// Smallest whole number not below x; no gradient. Matches PyTorch `ceil`.
    ceil = Ceil;
    /// Nearest whole number, ties to even; no gradient. Matches PyTorch `round`.
    round = Round;
    /// The same value, through which no gradient flows. Matches PyTorch `detach`.
    detach = Detach;
    /// True where a bool is false. Matches PyTorch `logical_not`.
    logical_not = Not;
}

// A method that is one primitive of two operands.
macro_rules! binary_methods {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)+) => {
        impl Tensor {
            $($(#[$doc])*
            #[track_caller]
            pub fn $name(&self, other: impl Into<Operand>) -> Tensor {
                binary(Binary::$op, self, other.into())
            })+
        }
    };
}
binary_methods! {
    /// Bool: `x = y`, shapes broadcast. Matches PyTorch `eq`.
    equal = Eq;
    /// Bool: `x ≠ y`, shapes broadcast. Matches PyTorch `ne`.
    not_equal = Ne;
    /// Bool: `x < y`, shapes broadcast. Matches PyTorch `lt`.
    less = Lt;
    /// Bool: `x ≤ y`, shapes broadcast. Matches PyTorch `le`.
    less_equal = Le;
    /// Bool: `x > y`, shapes broadcast. Matches PyTorch `gt`.
    greater = Gt;
    /// Bool: `x ≥ y`, shapes broadcast. Matches PyTorch `ge`.
    greater_equal = Ge;
    /// The larger of x and y, NaN if either is; at ties each gets half of the gradient. Matches PyTorch `maximum`.
    maximum = Max;
    /// The smaller of x and y, NaN if either is; at ties each gets half of the gradient. Matches PyTorch `minimum`.
    minimum = Min;
    /// True where both bools are; bitwise on whole numbers. Matches PyTorch `bitwise_and`.
    and = And;
    /// True where either bool is; bitwise on whole numbers. Matches PyTorch `bitwise_or`.
    or = Or;
    /// True where the bools differ; bitwise on whole numbers. Matches PyTorch `bitwise_xor`.
    xor = Xor;
    /// Bits moved up, whole numbers. Matches PyTorch `bitwise_left_shift`.
    shift_left = Shl;
    /// Bits moved down, arithmetic for signed numbers. Matches PyTorch `bitwise_right_shift`.
    shift_right = Shr;
    /// The angle of the point (other, self) against the first axis, from -π to π; shapes broadcast; no gradient at (0, 0), where it is
    /// NaN. Matches PyTorch `atan2`.
    atan2 = Atan2;
    /// `x - y·⌊x / y⌋`, the sign of y. Matches PyTorch `remainder`.
    remainder = Rem;
}

impl Tensor {
    #[track_caller]
    pub(crate) fn unary(&self, op: Unary) -> Tensor {
        self.apply(Elementwise::Unary(op), &[])
    }

    /// The elements converted to `dtype` (float to whole number truncates and saturates; to bool is `≠ 0`). Matches PyTorch `to`.
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Tensor {
        if self.dtype() == dtype {
            return self.clone();
        }
        self.apply(Elementwise::Cast(dtype), &[])
    }

    /// `x²`. Matches PyTorch `square`.
    #[track_caller]
    pub fn square(&self) -> Tensor {
        self * self
    }

    /// `x^y`, shapes broadcast; whole exponents up to 3 and ±½ become products and roots. Matches PyTorch `pow`.
    #[track_caller]
    pub fn pow(&self, exponent: impl Into<Operand>) -> Tensor {
        let exponent = exponent.into();
        match exponent {
            Operand::Number(1.0) => self.clone(),
            Operand::Number(2.0) => self.square(),
            Operand::Number(3.0) => self * self * self,
            Operand::Number(0.5) => self.sqrt(),
            Operand::Number(-0.5) => self.rsqrt(),
            Operand::Number(-1.0) => self.recip(),
            Operand::Number(_) | Operand::Tensor(_) => binary(Binary::Pow, self, exponent),
        }
    }

    /// `min(max(x, lo), hi)`; the gradient is 1 between the bounds, 0 on and outside them. Bounds out of order are an error, where
    /// PyTorch gives `hi`. Else matches PyTorch `clamp` (2.15).
    #[track_caller]
    pub fn clamp(&self, lo: f64, hi: f64) -> Tensor {
        if lo.partial_cmp(&hi).is_none_or(|order| order.is_gt()) {
            let help = "clamp(lo, hi) takes the lower bound first".to_string();
            return refuse("clamp", &[self], format!("need lo <= hi, got {lo} and {hi}"), Some(help));
        }
        self.less_equal(lo).select(lo, self.clamp_max(hi))
    }

    /// x where `x > lo`, else `lo`; the gradient at `lo` is 0. Matches PyTorch `clamp_min` (2.15).
    #[track_caller]
    pub fn clamp_min(&self, lo: f64) -> Tensor {
        self.less_equal(lo).select(lo, self)
    }

    /// x where `x < hi`, else `hi`; the gradient at `hi` is 0. Matches PyTorch `clamp_max` (2.15).
    #[track_caller]
    pub fn clamp_max(&self, hi: f64) -> Tensor {
        self.greater_equal(hi).select(hi, self)
    }

    /// Of a bool tensor: `yes` where it is true, `no` elsewhere; shapes broadcast. Matches PyTorch `where`.
    #[track_caller]
    pub fn select(&self, yes: impl Into<Operand>, no: impl Into<Operand>) -> Tensor {
        settle(select(self, yes.into(), no.into()))
    }

    /// `a` where `cond` (bool) is true, `b` elsewhere; shapes broadcast. Matches PyTorch `where`.
    #[track_caller]
    pub fn where_(cond: &Tensor, a: impl Into<Operand>, b: impl Into<Operand>) -> Tensor {
        cond.select(a, b)
    }

    /// `value` where `mask` (bool, broadcasts) is true, x elsewhere. Matches PyTorch `masked_fill`.
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Tensor {
        mask.select(value, self)
    }

    /// Binary logarithm. Matches PyTorch `log2`.
    #[track_caller]
    pub fn log2(&self) -> Tensor {
        self.log() * consts::LOG2_E
    }

    /// Decimal logarithm. Matches PyTorch `log10`.
    #[track_caller]
    pub fn log10(&self) -> Tensor {
        self.log() * consts::LOG10_E
    }

    /// `sin x / cos x`. Matches PyTorch `tan`.
    #[track_caller]
    pub fn tan(&self) -> Tensor {
        self.sin() / self.cos()
    }

    /// Hyperbolic sine, exact for small x: `((e^x - 1) - (e^-x - 1)) / 2`. Matches PyTorch `sinh`.
    #[track_caller]
    pub fn sinh(&self) -> Tensor {
        (self.expm1() - (-self).expm1()) * 0.5
    }

    /// Hyperbolic cosine, `(e^x + e^-x) / 2`. Matches PyTorch `cosh`.
    #[track_caller]
    pub fn cosh(&self) -> Tensor {
        (self.exp() + (-self).exp()) * 0.5
    }

    /// Inverse hyperbolic tangent, `(ln(1 + x) - ln(1 - x)) / 2`. Matches PyTorch `atanh`.
    #[track_caller]
    pub fn atanh(&self) -> Tensor {
        (self.log1p() - (-self).log1p()) * 0.5
    }

    /// Inverse hyperbolic cosine, `2·asinh √((x - 1) / 2)`, which is exact next to 1 and never overflows. Matches PyTorch `acosh`.
    #[track_caller]
    pub fn acosh(&self) -> Tensor {
        ((self - 1.0) * 0.5).sqrt().asinh() * 2.0
    }

    /// `√(x² + y²)`, shapes broadcast; the gradient at (0, 0) is 0. Matches PyTorch `hypot`, except that PyTorch's gradient there is NaN.
    #[track_caller]
    pub fn hypot(&self, other: &Tensor) -> Tensor {
        let squares = self.square() + other.square();
        let zero = squares.equal(0.0);
        zero.select(0.0, zero.select(1.0, squares).sqrt())
    }

    /// `ln(e^x + e^y)` without overflow, shapes broadcast. Matches PyTorch `logaddexp`.
    #[track_caller]
    pub fn logaddexp(&self, other: &Tensor) -> Tensor {
        // Equal operands have a difference of 0, also where both are the same infinity.
        let distance = self.equal(other).select(0.0, self - other).abs();
        self.maximum(other) + (-distance).exp().log1p()
    }

    /// `x + weight·(end - x)`, shapes broadcast. Matches PyTorch `lerp`.
    #[track_caller]
    pub fn lerp(&self, end: &Tensor, weight: impl Into<Operand>) -> Tensor {
        self + binary(Binary::Mul, &(end - self), weight.into())
    }

    /// Bool: whether x is NaN. Matches PyTorch `isnan`.
    #[track_caller]
    pub fn is_nan(&self) -> Tensor {
        self.not_equal(self)
    }

    /// Bool: whether x is neither infinite nor NaN. Matches PyTorch `isfinite`.
    #[track_caller]
    pub fn is_finite(&self) -> Tensor {
        self.abs().less(f64::INFINITY)
    }

    /// x where it is finite; `nan`, `hi` and `lo` in place of NaN, infinity and minus infinity; no gradient at these. Matches PyTorch
    /// `nan_to_num`.
    #[track_caller]
    pub fn nan_to_num(&self, nan: f64, hi: f64, lo: f64) -> Tensor {
        let not_finite = self.is_nan().select(nan, self.greater(0.0).select(self.full_like(hi), lo));
        self.is_finite().select(self, not_finite)
    }

    /// x without its fraction; no gradient. Matches PyTorch `trunc`.
    #[track_caller]
    pub fn trunc(&self) -> Tensor {
        self.less(0.0).select(self.ceil(), self.floor())
    }

    /// `x - y·trunc(x / y)`, the sign of x. Matches PyTorch `fmod`.
    #[track_caller]
    pub fn fmod(&self, divisor: &Tensor) -> Tensor {
        self.sign() * self.abs().remainder(divisor.abs())
    }
}

#[track_caller]
fn select(cond: &Tensor, yes: Operand, no: Operand) -> Traced {
    let (yes, no) = match (yes, no) {
        (Operand::Tensor(yes), no) => {
            let no = no.beside("where", &yes);
            (yes, no)
        }
        (yes, Operand::Tensor(no)) => (yes.beside("where", &no), no),
        (Operand::Number(_), Operand::Number(_)) => {
            let help = "give one of them as a tensor, or cast the condition: cond.cast(DType::F32)".to_string();
            return Err(refuse("where", &[cond], "two numbers have no dtype", Some(help)));
        }
    };
    let (a, b) = broadcast_pair("where", &yes, &no)?;
    let Some(shape) = broadcast_shape(&cond.shape(), &a.shape()) else {
        let message = format!("cannot broadcast the condition {} with {}", cond.shape(), a.shape());
        let help = "aligned from the right, extents must be equal or 1".to_string();
        return Err(refuse("where", &[cond, &yes, &no], message, Some(help)));
    };
    let cond = cond.expanded(&shape);
    Ok(cond.apply(Elementwise::Select, &[&a.expanded(&shape), &b.expanded(&shape)]))
}
