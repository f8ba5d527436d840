//! The CUDA backend. So far it finds NVIDIA's libraries where they are and makes machine code of kernel texts, which takes no GPU. Never sees a
//! graph or an op.

mod cache;
mod library;
mod nvrtc;

pub use cache::Cache;
pub use nvrtc::Nvrtc;
