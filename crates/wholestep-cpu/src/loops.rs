//! The loop machine: runs [`wholestep_compiler::kernel::Loop`]s as vector code over blocks that fit the first cache. Takes loops at load
//! time and extents at bind time, gives stores. Never lets the number of threads change a bit.

pub mod access;
pub mod blocks;
pub mod emit;
pub mod fused;
pub mod half;
pub mod joins;
pub mod level;
pub mod machine;
pub mod math;
pub mod program;
pub mod random;
pub mod schedule;
pub mod steps;
pub mod transpose;
