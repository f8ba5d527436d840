//! The README and the book as doc tests. Takes their text, gives a test for each Rust snippet. Never compiled otherwise.

#[doc = include_str!("../../../README.md")]
pub struct Readme;
#[doc = include_str!("../../../docs/getting-started.md")]
pub struct GettingStarted;
#[doc = include_str!("../../../docs/tensors.md")]
pub struct Tensors;
#[doc = include_str!("../../../docs/models.md")]
pub struct Models;
#[doc = include_str!("../../../docs/training.md")]
pub struct TrainingGuide;
#[doc = include_str!("../../../docs/devices.md")]
pub struct Devices;
#[doc = include_str!("../../../docs/memory.md")]
pub struct MemoryPage;
#[doc = include_str!("../../../docs/adding.md")]
pub struct Adding;
#[doc = include_str!("../../../docs/debugging.md")]
pub struct Debugging;
#[doc = include_str!("../../../docs/benchmarks.md")]
pub struct Benchmarks;
