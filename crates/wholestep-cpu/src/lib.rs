//! The cpu backend.

pub mod conv;
pub mod matmul;
pub mod pool;
pub mod simd;
