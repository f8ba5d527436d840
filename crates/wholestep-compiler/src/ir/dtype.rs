//! Element types. Takes nothing, gives sizes and names. Never converts values.

use std::fmt;

/// The type of one element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 8 bytes; cpu and cuda compute with it, wgpu does not.
    F64,
    /// 4 bytes; layers' parameters, optimizers' state, and the sums of products of 16-bit floats.
    F32,
    /// 2 bytes: 11 bits of precision, at most 65504; in mixed precision the loss is scaled for it.
    F16,
    /// 2 bytes: 8 bits of precision and the range of f32.
    BF16,
    /// 8 bytes; wgpu passes such values on in 32 bits and computes with none.
    I64,
    /// 4 bytes; positions, and labels where one is negative.
    I32,
    /// 4 bytes; labels, tokens, counts and random bits.
    U32,
    /// 1 byte; pixels.
    U8,
    /// 1 byte, 0 or 1; what comparisons give.
    Bool,
}

impl DType {
    /// Size of one stored element. A `Bool` is stored as one byte, 0 or 1.
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether values are floating-point numbers: only these carry gradients.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether values are whole numbers (`Bool` is not one).
    pub fn is_int(self) -> bool {
        matches!(self, DType::I64 | DType::I32 | DType::U32 | DType::U8)
    }

    /// The name used in printed graphs, error messages and files.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
