//! The whole-step compiler: takes a traced [`ir::Graph`], gives a [`plan::Plan`] in which every launch and every byte offset
//! is known. Pure: it does no I/O, reads no environment and sees no device.
//!
//! The modules stand in the order in which data flows through them; each may use only itself and those above it.
#![forbid(unsafe_code)]

#[warn(missing_docs)]
pub mod ir;
#[warn(missing_docs)]
pub mod ops;
pub mod eval;
#[warn(missing_docs)]
pub mod autodiff;
/// One row per primitive op, for the tests of this crate and of backends.
#[cfg(any(test, feature = "cases"))]
#[doc(hidden)]
pub mod cases;
pub mod passes;
pub mod kernel;
#[warn(missing_docs)]
pub mod caps;
pub mod codegen;
pub mod plan;
pub mod compile;
#[warn(missing_docs)]
pub mod backend;
/// The table of [`cases`] run on a device.
#[cfg(any(test, feature = "cases"))]
#[doc(hidden)]
pub mod conformance;

pub use compile::{Compiled, Stage, compile};
