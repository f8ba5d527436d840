//! Train neural networks in Rust: the whole step compiled ahead of time and replayed on the device.
pub mod data;
mod error;
pub mod init;
pub mod nn;
pub mod spec;
pub mod metrics;

pub use error::{Error, ErrorKind, Result};
pub use wholestep_compiler::ir::DType::{BF16, Bool, F16, F32, F64, I32, I64, U8, U32};
pub use wholestep_compiler::ir::{Batch, DType, Dim, Init, Scope, Shape, Tensor};
