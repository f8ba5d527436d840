//! The cpu backend.

pub mod matmul;
pub mod pool;
pub mod simd;
