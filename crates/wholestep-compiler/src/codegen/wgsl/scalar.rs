//! Scalar operations as WGSL expressions. Takes an operation and the names of its operands, gives text; adds to the shader the functions that
//! the language lacks or promises too little of. Never reads or writes memory.
//!
//! WGSL promises nothing of NaN and infinity, so tests for them look at bits. Polynomials are those of the cpu's loops.

use super::half;
use crate::codegen::scalar::is_half;
use crate::codegen::{Source, Word};
use crate::ir::DType;
use crate::ir::op::{Binary, Unary};

/// A finite f32 with all its digits.
fn float_literal(value: f32) -> String {
    // Debug prints the shortest text that reads back as the same number, with a point or an exponent.
    let text = format!("{value:?}f");
    if value.is_sign_negative() { format!("({text})") } else { text }
}

/// A number of `dtype`. What the language cannot write as a literal comes as a parameter.
pub fn constant(s: &mut Source, value: f64, dtype: DType) -> String {
    match dtype {
        DType::F32 if (value as f32).is_finite() => float_literal(value as f32),
        DType::F32 => format!("bitcast<f32>({})", s.word(Word::Bits((value as f32).to_bits()))),
        DType::F16 | DType::BF16 => {
            let value = constant(s, value, DType::F32);
            half::rounded(s, dtype, &value)
        }
        DType::I32 => format!("bitcast<i32>({}u)", value as i64 as i32 as u32),
        DType::U32 | DType::U8 => format!("{}u", value as i64 as u32),
        DType::Bool => (value != 0.0).to_string(),
        DType::F64 | DType::I64 => panic!("bug: {dtype} is kept out before text is made"),
    }
}

/// An address or extent, of type u32, as a number of `dtype`.
pub fn from_number(s: &mut Source, text: &str, dtype: DType) -> String {
    match dtype {
        // Extents can be negative in two's complement only where they are whole numbers of a signed type.
        DType::F32 => format!("f32(i32({text}))"),
        DType::F16 | DType::BF16 => half::rounded(s, dtype, &format!("f32(i32({text}))")),
        DType::I32 => format!("i32({text})"),
        DType::U32 => format!("({text})"),
        DType::U8 => format!("(({text}) & 255u)"),
        DType::Bool => format!("(({text}) != 0u)"),
        DType::F64 | DType::I64 => panic!("bug: {dtype} is kept out before text is made"),
    }
}

/// `op(x)`.
pub fn unary(s: &mut Source, op: Unary, x: &str, dtype: DType) -> String {
    if is_half(dtype) {
        let value = unary(s, op, x, DType::F32);
        return half::rounded(s, dtype, &value);
    }
    let mut call = |name: &'static str, text: &'static str| {
        s.function(name, text);
        format!("{name}({x})")
    };
    match op {
        Unary::Neg => match dtype {
            DType::U32 => format!("(0u - {x})"),
            DType::U8 => format!("((0u - {x}) & 255u)"),
            _ => format!("(-{x})"),
        },
        Unary::Abs if matches!(dtype, DType::U32 | DType::U8) => x.to_string(),
        Unary::Abs => format!("abs({x})"),
        Unary::Sign => match dtype {
            DType::U32 | DType::U8 => format!("min({x}, 1u)"),
            DType::I32 => format!("sign({x})"),
            _ => {
                let text = call("sign_of", SIGN);
                s.function("is_nan", IS_NAN);
                text
            }
        },
        Unary::Not => format!("(!{x})"),
        Unary::Exp => format!("exp({x})"),
        Unary::Expm1 => call("expm1", EXPM1),
        Unary::Log => {
            let text = call("log_of", LOG);
            s.function("log1p_small", LOG1P_SMALL);
            text
        }
        Unary::Log1p => {
            let text = call("log1p", LOG1P);
            s.function("log1p_small", LOG1P_SMALL);
            text
        }
        Unary::Sqrt => format!("sqrt({x})"),
        Unary::Rsqrt => format!("inverseSqrt({x})"),
        Unary::Recip => format!("(1.0f / {x})"),
        Unary::Sin => {
            s.function("sin_cos", SIN_COS);
            format!("sin_cos({x}, 0)")
        }
        Unary::Cos => {
            s.function("sin_cos", SIN_COS);
            format!("sin_cos({x}, 1)")
        }
        Unary::Tanh => call("tanh_of", TANH),
        Unary::Sigmoid => call("sigmoid", SIGMOID),
        Unary::Erf => call("erf", ERF),
        Unary::Asin => {
            s.function("atan2_of", ATAN2);
            format!("atan2_of({x}, sqrt((1.0f - {x}) * (1.0f + {x})))")
        }
        Unary::Acos => {
            s.function("atan2_of", ATAN2);
            format!("atan2_of(sqrt((1.0f - {x}) * (1.0f + {x})), {x})")
        }
        Unary::Atan => {
            s.function("atan2_of", ATAN2);
            format!("atan2_of({x}, 1.0f)")
        }
        Unary::Asinh => {
            let text = call("asinh_of", ASINH);
            s.function("log1p_small", LOG1P_SMALL);
            s.function("log1p", LOG1P);
            text
        }
        Unary::Floor => format!("floor({x})"),
        Unary::Ceil => format!("ceil({x})"),
        Unary::Round => format!("round({x})"),
        Unary::Detach => x.to_string(),
    }
}

/// `op(x, y)`, both of `dtype`.
pub fn binary(s: &mut Source, op: Binary, x: &str, y: &str, dtype: DType) -> String {
    if op.is_comparison() {
        return comparison(op, x, y, dtype);
    }
    match dtype {
        DType::F32 => float(s, op, x, y),
        DType::F16 | DType::BF16 => {
            let value = float(s, op, x, y);
            half::rounded(s, dtype, &value)
        }
        DType::Bool => match op {
            Binary::And => format!("({x} && {y})"),
            Binary::Or => format!("({x} || {y})"),
            Binary::Xor => format!("({x} != {y})"),
            _ => panic!("bug: {} of bools", op.name()),
        },
        DType::I32 | DType::U32 => whole(s, op, x, y, dtype),
        DType::U8 => format!("({} & 255u)", whole(s, op, x, y, dtype)),
        DType::F64 | DType::I64 => panic!("bug: {dtype} is kept out before text is made"),
    }
}

fn comparison(op: Binary, x: &str, y: &str, dtype: DType) -> String {
    let (x, y) = match dtype {
        DType::Bool => (format!("u32({x})"), format!("u32({y})")),
        _ => (x.to_string(), y.to_string()),
    };
    match op {
        Binary::Eq => format!("({x} == {y})"),
        // True for NaN, which `!=` does not promise.
        Binary::Ne => format!("(!({x} == {y}))"),
        Binary::Lt => format!("({x} < {y})"),
        Binary::Le => format!("({x} <= {y})"),
        Binary::Gt => format!("({x} > {y})"),
        Binary::Ge => format!("({x} >= {y})"),
        _ => panic!("bug: {} compares nothing", op.name()),
    }
}

fn float(s: &mut Source, op: Binary, x: &str, y: &str) -> String {
    let mut call = |name: &'static str, text: &'static str| {
        s.function(name, text);
        s.function("is_nan", IS_NAN);
        format!("{name}({x}, {y})")
    };
    match op {
        Binary::Add => format!("({x} + {y})"),
        Binary::Sub => format!("({x} - {y})"),
        Binary::Mul => format!("({x} * {y})"),
        Binary::Div => format!("({x} / {y})"),
        Binary::Rem => call("remainder", REMAINDER),
        Binary::Pow => call("pow_of", POW),
        Binary::Atan2 => {
            s.function("atan2_of", ATAN2);
            format!("atan2_of({x}, {y})")
        }
        Binary::Max => call("largest", LARGEST),
        Binary::Min => call("smallest", SMALLEST),
        _ => panic!("bug: {} of floats", op.name()),
    }
}

fn whole(s: &mut Source, op: Binary, x: &str, y: &str, dtype: DType) -> String {
    let signed = dtype == DType::I32;
    let count = match dtype {
        DType::I32 => format!("(u32({y}) & 31u)"),
        DType::U8 => format!("({y} & 7u)"),
        _ => format!("({y} & 31u)"),
    };
    match op {
        Binary::Add => format!("({x} + {y})"),
        Binary::Sub => format!("({x} - {y})"),
        Binary::Mul => format!("({x} * {y})"),
        Binary::Div if signed => format!("select({x} / {y}, 0, {y} == 0)"),
        Binary::Div => format!("select({x} / {y}, 0u, {y} == 0u)"),
        Binary::Rem if signed => {
            s.function("remainder_whole", REMAINDER_WHOLE);
            format!("remainder_whole({x}, {y})")
        }
        Binary::Rem => format!("select({x} % {y}, 0u, {y} == 0u)"),
        Binary::Max => format!("max({x}, {y})"),
        Binary::Min => format!("min({x}, {y})"),
        Binary::And => format!("({x} & {y})"),
        Binary::Or => format!("({x} | {y})"),
        Binary::Xor => format!("({x} ^ {y})"),
        Binary::Shl => format!("({x} << {count})"),
        Binary::Shr => format!("({x} >> {count})"),
        _ => panic!("bug: {} of whole numbers", op.name()),
    }
}

/// `x` of dtype `from` converted to `to`.
pub fn cast(s: &mut Source, x: &str, from: DType, to: DType) -> String {
    if from == to {
        return x.to_string();
    }
    if is_half(from) {
        return cast(s, x, DType::F32, to);
    }
    if is_half(to) {
        let value = cast(s, x, from, DType::F32);
        return half::rounded(s, to, &value);
    }
    match (from, to) {
        (_, DType::F32) => format!("f32({x})"),
        (DType::F32, DType::Bool) => format!("(!({x} == 0.0f))"),
        (DType::I32, DType::Bool) => format!("({x} != 0)"),
        (_, DType::Bool) => format!("({x} != 0u)"),
        (DType::F32, DType::I32) => {
            s.function("is_nan", IS_NAN);
            s.function("to_i32", TO_I32);
            format!("to_i32({x})")
        }
        (DType::F32, DType::U32) => {
            s.function("is_nan", IS_NAN);
            s.function("to_u32", TO_U32);
            format!("to_u32({x})")
        }
        (DType::F32, DType::U8) => {
            s.function("is_nan", IS_NAN);
            format!("select(u32(clamp({x}, 0.0f, 255.0f)), 0u, is_nan({x}))")
        }
        (DType::Bool, DType::I32) => format!("select(0, 1, {x})"),
        (DType::Bool, DType::U32 | DType::U8) => format!("select(0u, 1u, {x})"),
        (_, DType::I32) => format!("i32({x})"),
        (_, DType::U32) => format!("u32({x})"),
        (_, DType::U8) => format!("(u32({x}) & 255u)"),
        (_, DType::F64 | DType::F16 | DType::BF16 | DType::I64) => panic!("bug: {to} is kept out before text is made"),
    }
}

/// The function that says whether a value at a place beats another for the place of the first largest; adds it.
pub fn beats(s: &mut Source, dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            s.function("is_nan", IS_NAN);
            s.function("beats_f32", BEATS_F32);
            "beats_f32"
        }
        DType::I32 => {
            s.function("beats_i32", BEATS_I32);
            "beats_i32"
        }
        DType::U32 | DType::U8 => {
            s.function("beats_u32", BEATS_U32);
            "beats_u32"
        }
        DType::F64 | DType::I64 | DType::Bool => panic!("bug: the largest of {dtype}"),
    }
}

/// An unsigned number that orders as the value does.
pub fn order_key(s: &mut Source, dtype: DType, value: &str) -> String {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            s.function("order_key", ORDER_KEY);
            format!("order_key({value})")
        }
        DType::I32 => format!("(bitcast<u32>({value}) ^ 0x80000000u)"),
        DType::U32 | DType::U8 => value.to_string(),
        DType::Bool => format!("select(0u, 1u, {value})"),
        DType::F64 | DType::I64 => panic!("bug: {dtype} is kept out before text is made"),
    }
}

/// Adds what random bits are made with.
pub fn random_functions(s: &mut Source) {
    s.function("mul_high", if s.workgroups.long { MUL_HIGH_LONG } else { MUL_HIGH });
    s.function("philox", PHILOX);
}

const ORDER_KEY: &str = "fn order_key(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) { return 0xffffffffu; }
  if (size == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
";

/// Places are u32, the largest of which says that there is none yet.
const BEATS_F32: &str = "fn beats_f32(v: f32, n: u32, w: f32, m: u32) -> bool {
  if (n == 4294967295u) { return false; }
  if (m == 4294967295u) { return true; }
  let v_nan = is_nan(v);
  let w_nan = is_nan(w);
  if (v_nan || w_nan) { return v_nan && (!w_nan || n < m); }
  return v > w || (v == w && n < m);
}
";

const BEATS_I32: &str = "fn beats_i32(v: i32, n: u32, w: i32, m: u32) -> bool {
  return n != 4294967295u && (m == 4294967295u || v > w || (v == w && n < m));
}
";

const BEATS_U32: &str = "fn beats_u32(v: u32, n: u32, w: u32, m: u32) -> bool {
  return n != 4294967295u && (m == 4294967295u || v > w || (v == w && n < m));
}
";

const IS_NAN: &str = "fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }\n";

/// The larger of two numbers; NaN if either is. Needs [`IS_NAN`].
const LARGEST: &str =
    "fn largest(x: f32, y: f32) -> f32 { return select(select(max(x, y), y, is_nan(y)), x, is_nan(x)); }\n";

/// The smaller of two numbers; NaN if either is. Needs [`IS_NAN`].
const SMALLEST: &str =
    "fn smallest(x: f32, y: f32) -> f32 { return select(select(min(x, y), y, is_nan(y)), x, is_nan(x)); }\n";

const SIGN: &str = "fn sign_of(x: f32) -> f32 {
  return select(select(-1.0f, 1.0f, x > 0.0f), x, x == 0.0f || is_nan(x));
}
";

const REMAINDER: &str = "fn remainder(x: f32, y: f32) -> f32 {
  let r = x % y;
  return select(r, r + y, r != 0.0f && (r < 0.0f) != (y < 0.0f));
}
";

const REMAINDER_WHOLE: &str = "fn remainder_whole(x: i32, y: i32) -> i32 {
  let r = x % y;
  return select(select(r, r + y, r != 0 && (r < 0) != (y < 0)), 0, y == 0);
}
";

const TO_I32: &str = "fn to_i32(x: f32) -> i32 {
  let near = i32(clamp(x, -2147483648.0f, 2147483520.0f));
  return select(select(near, 2147483647, x >= 2147483648.0f), 0, is_nan(x));
}
";

const TO_U32: &str = "fn to_u32(x: f32) -> u32 {
  let near = u32(clamp(x, 0.0f, 4294967040.0f));
  return select(select(near, 4294967295u, x >= 4294967296.0f), 0u, is_nan(x));
}
";

const EXPM1: &str = "fn expm1(x: f32) -> f32 {
  let p = fma(fma(fma(fma(1.3944784e-3f, x, 8.333498e-3f), x, 4.166629e-2f), x, 0.16666666f), x, 0.5f);
  return select(exp(x) - 1.0f, fma(p, x * x, x), abs(x) < 0.35f);
}
";

/// ln(1 + x) for |x| < 1/4.
const LOG1P_SMALL: &str = "fn log1p_small(x: f32) -> f32 {
  var p = fma(6.7466386e-2f, x, -0.11675651f);
  p = fma(p, x, 0.11888163f);
  p = fma(p, x, -0.12405589f);
  p = fma(p, x, 0.14219552f);
  p = fma(p, x, -0.16667998f);
  p = fma(p, x, 0.20002122f);
  p = fma(p, x, -0.2500001f);
  p = fma(p, x, 0.33333313f);
  let z = x * x;
  return x + fma(-0.5f, z, p * x * z);
}
";

/// Needs [`LOG1P_SMALL`].
const LOG1P: &str = "fn log1p(x: f32) -> f32 {
  return select(log(1.0f + x), log1p_small(x), abs(x) < 0.25f);
}
";

/// The languages under WGSL promise an absolute error of 2^-21 near 1, where results are small: all of what a loss is that has nearly vanished.
/// Needs [`LOG1P_SMALL`].
const LOG: &str = "fn log_of(x: f32) -> f32 {
  let d = x - 1.0f;
  return select(log(x), log1p_small(d), abs(d) < 0.25f);
}
";

const TANH: &str = "fn tanh_of(x: f32) -> f32 {
  let t = abs(x);
  let z = x * x;
  var p = fma(-5.60274e-3f, z, 2.0539938e-2f);
  p = fma(p, z, -5.370532e-2f);
  p = fma(p, z, 0.13330932f);
  p = fma(p, z, -0.3333325f);
  let small = fma(p * z, x, x);
  let large = 1.0f - 2.0f / (exp(2.0f * min(t, 10.0f)) + 1.0f);
  let y = select(select(large, -large, x < 0.0f), small, t < 0.625f);
  return select(y, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
";

const SIGMOID: &str = "fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(1.0f, e, x < 0.0f) / (1.0f + e);
}
";

const ERF: &str = "fn erf(x: f32) -> f32 {
  let z = x * x;
  var p = fma(8.19378e-5f, z, -8.099878e-4f);
  p = fma(p, z, 5.197155e-3f);
  p = fma(p, z, -2.6857791e-2f);
  p = fma(p, z, 0.11283666f);
  p = fma(p, z, -0.37612632f);
  p = fma(p, z, 0.12837917f);
  let small = fma(p, x, x);
  let t = min(abs(x), 3.95f);
  var q = fma(4.593879e-6f, t, -4.136065e-5f);
  q = fma(q, t, -7.123641e-5f);
  q = fma(q, t, 2.9904174e-3f);
  q = fma(q, t, -2.2772465e-2f);
  q = fma(q, t, 0.1053568f);
  q = fma(q, t, 0.63557637f);
  q = fma(q, t, 1.1285625f);
  let large = 1.0f - exp(-t * q);
  let y = select(select(large, -large, x < 0.0f), small, abs(x) < 0.94f);
  return select(y, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
";

/// Sine, or cosine for `turn` 1: the languages under WGSL promise an absolute error of 2^-11 only. The quarter turns are taken off in three
/// parts, which holds for |x| up to about 10^5.
const SIN_COS: &str = "fn sin_cos(x: f32, turn: i32) -> f32 {
  let q = round(x * 0.63661975f);
  let r = fma(q, -7.5497899e-8f, fma(q, -4.837513e-4f, fma(q, -1.5703125f, x)));
  let n = i32(q) + turn;
  let z = r * r;
  let s = fma(fma(fma(-1.9515658e-4f, z, 8.332167e-3f), z, -0.16666655f) * z, r, r);
  let c = fma(fma(fma(2.4436611e-5f, z, -1.3887353e-3f), z, 4.1666646e-2f), z * z, fma(-0.5f, z, 1.0f));
  let y = select(c, s, (n & 1) == 0);
  return select(y, -y, (n & 2) != 0);
}
";

/// Needs [`LOG1P`].
const ASINH: &str = "fn asinh_of(x: f32) -> f32 {
  let t = abs(x);
  let y = log1p(t + t * t / (1.0f + sqrt(1.0f + t * t)));
  return select(y, -y, x < 0.0f);
}
";

/// The angle of the point (x, y). The languages under WGSL promise 4096 units in the last place only. The quotient of the shorter side by the
/// longer is brought below tan(π/8); the polynomial is a near-minimax fit there.
const ATAN2: &str = "fn atan2_of(y: f32, x: f32) -> f32 {
  let ax = abs(x);
  let ay = abs(y);
  let long = max(ax, ay);
  let t = select(min(ax, ay) / long, 0.0f, long == 0.0f);
  let far = t > 0.41421357f;
  let z = select(t, (t - 1.0f) / (t + 1.0f), far);
  let u = z * z;
  let p = fma(fma(fma(fma(-0.060834241f, u, 0.10595975f), u, -0.14243841f), u, 0.19998489f), u, -0.33333316f);
  var r = fma(p * u, z, z) + select(0.0f, 0.78539816f, far);
  r = select(r, 1.5707964f - r, ay > ax);
  r = select(r, 3.1415927f - r, (bitcast<u32>(x) >> 31u) != 0u);
  r = select(r, -r, (bitcast<u32>(y) >> 31u) != 0u);
  return select(r, x + y, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u || (bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u);
}
";

/// x^y with the special cases of C's `pow`. Needs [`IS_NAN`].
const POW: &str = "fn pow_of(x: f32, y: f32) -> f32 {
  let a = abs(x);
  let whole = floor(y) == y;
  let half = y * 0.5f;
  let odd = whole && !(floor(half) == half);
  var r = exp2(y * log2(a));
  r = select(r, select(0.0f, 1.0f / a, y < 0.0f), a == 0.0f);
  r = select(r, -r, odd && (bitcast<u32>(x) >> 31u) != 0u);
  r = select(r, (x - x) / (x - x), x < 0.0f && !whole);
  r = select(r, x + y, is_nan(x) || is_nan(y));
  return select(r, 1.0f, x == 1.0f || y == 0.0f);
}
";

/// The upper half of a product.
const MUL_HIGH: &str = "fn mul_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let m = ah * bl + ((al * bl) >> 16u);
  let n = al * bh + (m & 0xffffu);
  return ah * bh + (m >> 16u) + (n >> 16u);
}
";

/// The same where there are 64 bits: one instruction in place of a dozen.
const MUL_HIGH_LONG: &str = "fn mul_high(a: u32, b: u32) -> u32 { return u32((u64(a) * u64(b)) >> 32u); }\n";

/// Four neighbouring elements of a stream of random bits: see [`crate::ir::op::Random`]. Needs `mul_high`.
const PHILOX: &str = "fn philox(quarter: u32, stream: u32, step: u32, key0: u32, key1: u32) -> vec4<u32> {
  var c = vec4<u32>(quarter, stream, step, 0u);
  var k = vec2<u32>(key0, key1);
  for (var i = 0u; i < 10u; i++) {
    let high0 = mul_high(0xD2511F53u, c.x);
    let high1 = mul_high(0xCD9E8D57u, c.z);
    c = vec4<u32>(high1 ^ c.y ^ k.x, 0xCD9E8D57u * c.z, high0 ^ c.w ^ k.y, 0xD2511F53u * c.x);
    k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}
";
