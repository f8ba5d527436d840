//! Train neural networks in Rust: the whole step compiled ahead of time and replayed on the device.
pub mod data;
mod error;
pub mod metrics;

pub use error::{Error, ErrorKind, Result};
