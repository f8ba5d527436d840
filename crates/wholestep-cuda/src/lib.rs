//! The CUDA backend: takes a plan, runs it on an NVIDIA GPU, one graph launch for the steps of a call. Never sees a graph of ops, and reads
//! nothing back that was not asked for.

mod backend;
mod batches;
mod cache;
mod check;
mod choose;
mod convolution;
mod dnn;
mod driver;
mod executable;
mod follow;
mod gpu;
mod library;
mod lt;
mod memory;
mod nvrtc;
mod parts;
mod product;
mod program;
#[cfg(test)]
mod recorder;
mod rows;
mod task;
#[cfg(test)]
mod tests;
mod texts;
#[cfg(feature = "translate")]
pub mod translate;
mod trials;
mod units;
mod whole;

pub use backend::{Config, CudaBackend, devices, has_driver};
pub use cache::Cache;
pub use choose::Products;
pub use library::Library;
pub use nvrtc::Nvrtc;
