//! Values and gradients of composite ops against numbers that PyTorch made (`crates/wholestep/tests/golden`, whose README says how),
//! evaluated by the oracle in f64. Each test reports all failing cases.

#[path = "golden/layers.rs"]
mod layers;
#[path = "golden/losses.rs"]
mod losses;
#[path = "golden/ops.rs"]
mod ops;
#[path = "golden/set.rs"]
mod set;
