//! Train neural networks in Rust: the whole step compiled ahead of time and replayed on the device.
//!
//! A closure describes the training step with [`Tensor`]s, which hold no numbers yet. [`Step::compile`] makes one static program of its forward
//! pass, loss, gradients and optimizer, with all memory planned; [`Step::run`] hands a batch to it. [`Infer`] is the same for a forward pass, and
//! [`Trainer`] is the whole loop: data, evaluation, early stopping, checkpoints.
//!
//! ```
//! use wholestep::nn::Linear;
//! use wholestep::optim::AdamW;
//! use wholestep::{Array, Batch, Device, F32, Infer, Scope, Step, Tensor, U32};
//!
//! fn model(s: &Scope) -> Tensor {
//!     let x = s.input("x", (Batch, 4), F32);
//!     let hidden = Linear::new(&s.sub("hidden"), 4, 16).forward(&x).relu();
//!     Linear::new(&s.sub("head"), 16, 3).forward(&hidden)
//! }
//!
//! let device = Device::best()?;
//! let mut step = Step::compile(&device, AdamW::new(1e-2), |s| {
//!     let y = s.labels("y", (Batch,), U32, 3, None);
//!     model(s).cross_entropy(&y)
//! })?;
//! let x = Array::new(vec![0.1_f32, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.6], [2, 4])?;
//! let y = Array::from_vec(vec![0_u32, 2]);
//! for _ in 0..100 {
//!     step.run(&[("x", &x), ("y", &y)])?;
//! }
//! assert!(step.loss()? < 0.5);
//!
//! let mut infer = Infer::compile(&device, 2, model)?;
//! infer.copy_from(&mut step)?;
//! assert_eq!(infer.run(&[("x", &x)])?.shape(), [2, 3]);
//! # Ok::<(), wholestep::Error>(())
//! ```
//!
//! | to | look at |
//! | --- | --- |
//! | write a model | [`nn`], [`Scope`], [`Tensor`]; from a file or by a builder: [`spec`] |
//! | train | [`Step`], [`optim`], [`schedule`]; with the loop: [`Trainer`] |
//! | read data | [`data`] |
//! | measure | [`metrics`] |
//! | save and resume | [`checkpoint`] |
//!
//! The book in the repository's `docs` explains each, and has a table for those who come from PyTorch.
#![warn(missing_debug_implementations, missing_docs)]

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
pub use env::{Env, VARIABLES, env};
pub use error::{Error, ErrorKind, Result};
pub use step::{Average, Clip, Infer, ParamGroup, Precision, Step, eval};
pub use train::{Trainer, Training};
pub use wholestep_compiler::autodiff::{Fitted, LeastSquares, gradients, gradients_or_none, levenberg_marquardt, scan};
pub use wholestep_compiler::ir::DType::{BF16, Bool, F16, F32, F64, I32, I64, U8, U32};
pub use wholestep_compiler::ir::{Batch, DType, Dim, Init, Scope, Shape, Tensor};
pub use wholestep_compiler::ops::Reduction;
pub use wholestep_compiler::ops::control::{run_if, while_loop};
pub use wholestep_compiler::ops::solve::conjugate_gradient;

/// Options of operations on tensors: how losses are reduced, where windows lie, how padding continues.
pub mod ops {
    pub use wholestep_compiler::ops::{
        Axes, BatchStatistics, Bce, BceWithLogits, ConvOptions, ConvTransposeOptions, CosineEmbedding, CrossEntropy,
        HingeEmbedding, Huber, KlDiv, MultiMargin, Nll, Operand, PadMode, Padding, PoolOptions, Reduction, Rest,
        SigmoidFocal, SmoothL1,
    };
}

// What a program holds can go to another thread, and be printed.
const _: fn() = || {
    fn is_held<T: Send + std::fmt::Debug>() {}
    is_held::<(Step, Infer, Trainer, Device)>();
    is_held::<(data::Loader, data::Dataset, Array, checkpoint::Checkpoint, Error)>();
};

#[cfg(doctest)]
mod book;
