//! Train neural networks in Rust: the whole step compiled ahead of time and replayed on the device.
mod error;
mod env;
pub mod data;
pub mod init;
pub mod nn;
pub mod spec;
pub mod device;
pub mod optim;
pub mod schedule;
pub mod step;
pub mod metrics;
pub mod train;
pub mod checkpoint;

pub use data::Array;
pub use device::Device;
pub use env::{VARIABLES, env};
pub use error::{Error, ErrorKind, Result};
pub use step::{Average, Clip, Infer, ParamGroup, Precision, Step, eval};
pub use train::{Trainer, Training};
pub use wholestep_compiler::autodiff::{Fitted, LeastSquares, gradients, gradients_or_none, levenberg_marquardt, scan};
pub use wholestep_compiler::ir::DType::{BF16, Bool, F16, F32, F64, I32, I64, U8, U32};
pub use wholestep_compiler::ir::{Batch, DType, Dim, Init, Scope, Shape, Tensor};
pub use wholestep_compiler::ops::control::{run_if, while_loop};
pub use wholestep_compiler::ops::solve::conjugate_gradient;

#[cfg(doctest)]
mod book;
