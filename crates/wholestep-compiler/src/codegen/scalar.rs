//! Scalar operations as text. Takes an operation and the names of its operands, gives an expression in the language of the text being written:
//! languages differ most in what they call functions and in what they promise of NaN, infinity and 16 bits. Never reads or writes memory.

use super::Source;
use super::{cuda, wgsl};
use crate::caps::Language;
use crate::ir::DType;
use crate::ir::op::{Binary, Unary};

/// Whether elements are floats of 16 bits, which are f32 in registers.
pub fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// In what a reduction joins elements.
pub fn sums_in(dtype: DType) -> DType {
    if is_half(dtype) { DType::F32 } else { dtype }
}

/// A number of `dtype`.
pub fn constant(s: &mut Source, value: f64, dtype: DType) -> String {
    match s.language() {
        Language::Wgsl => wgsl::scalar::constant(s, value, dtype),
        Language::Cuda => cuda::scalar::constant(value, dtype),
    }
}

/// An address or extent, of type u32, as a number of `dtype`.
pub fn from_number(s: &mut Source, text: &str, dtype: DType) -> String {
    match s.language() {
        Language::Wgsl => wgsl::scalar::from_number(s, text, dtype),
        Language::Cuda => cuda::scalar::from_number(text, dtype),
    }
}

/// `op(x)`.
pub fn unary(s: &mut Source, op: Unary, x: &str, dtype: DType) -> String {
    match s.language() {
        Language::Wgsl => wgsl::scalar::unary(s, op, x, dtype),
        Language::Cuda => cuda::scalar::unary(op, x, dtype),
    }
}

/// `op(x, y)`, both of `dtype`.
pub fn binary(s: &mut Source, op: Binary, x: &str, y: &str, dtype: DType) -> String {
    match s.language() {
        Language::Wgsl => wgsl::scalar::binary(s, op, x, y, dtype),
        Language::Cuda => cuda::scalar::binary(op, x, y, dtype),
    }
}

/// `x` of dtype `from` converted to `to`.
pub fn cast(s: &mut Source, x: &str, from: DType, to: DType) -> String {
    match s.language() {
        Language::Wgsl => wgsl::scalar::cast(s, x, from, to),
        Language::Cuda => cuda::scalar::cast(x, from, to),
    }
}

/// Random bits of four neighbouring elements of a stream, of which `quarter` is a fourth of the first one's place: see
/// [`crate::ir::op::Random`].
pub fn random_of_four(s: &mut Source, quarter: &str, stream: u32, step: &str, key: [&str; 2]) -> String {
    if s.language() == Language::Wgsl {
        wgsl::scalar::random_functions(s);
    }
    format!("philox({quarter}, {stream}u, {step}, {}, {})", key[0], key[1])
}

/// The function that says whether a value at a place beats another for the place of the first largest.
pub fn beats(s: &mut Source, dtype: DType) -> &'static str {
    match s.language() {
        Language::Wgsl => wgsl::scalar::beats(s, dtype),
        Language::Cuda => "beats",
    }
}

/// The type of [`order_key`].
pub fn key_type(dtype: DType) -> &'static str {
    if matches!(dtype, DType::F64 | DType::I64) { "u64" } else { "u32" }
}

/// An unsigned number that orders as the value does: NaN is the largest, and both zeros are one.
pub fn order_key(s: &mut Source, dtype: DType, value: &str) -> String {
    match s.language() {
        Language::Wgsl => wgsl::scalar::order_key(s, dtype, value),
        Language::Cuda => format!("order_key({value})"),
    }
}
