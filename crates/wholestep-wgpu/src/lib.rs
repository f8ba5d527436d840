//! The wgpu backend: takes a plan, runs it on a GPU through Metal, Vulkan or DX12, one submission a call. Never sees a graph or an op, and
//! reads nothing back that was not asked for.

mod adapter;
mod cache;
mod copy;
mod dispatch;
mod executable;
mod gate;
mod group;
mod joint;
mod memory;
mod pipeline;
mod schedule;
mod share;
mod staging;
mod transfer;
#[cfg(feature = "translate")]
pub mod translate;
mod tune;

pub use adapter::{WgpuBackend, devices, has_gpu};
pub use tune::{Config, Tune};
