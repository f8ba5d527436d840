//! The cpu backend: takes a plan, runs it on host threads. Gives the same bits for every number of threads. Never sees a graph or an op's
//! name.

pub mod backend;
mod bind;
pub mod contract;
pub mod conv;
pub mod loops;
pub mod matmul;
mod memory;
pub mod pool;
mod run;
mod scan;
mod scatter;
pub mod simd;
mod sort;
mod window;

pub use backend::{Config, CpuBackend};
