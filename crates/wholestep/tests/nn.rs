//! Layers against PyTorch: values and gradients, shapes, initial values. The numbers are in `golden/`, with the scripts that made them.
#[path = "nn/case.rs"]
mod case;
#[path = "nn/device.rs"]
mod device;
#[path = "nn/errors.rs"]
mod errors;
#[path = "nn/init.rs"]
mod init;
#[path = "nn/labels.rs"]
mod labels;
#[path = "support/golden.rs"]
mod numbers;
#[path = "nn/parts.rs"]
mod parts;
#[path = "support/poisoned.rs"]
mod poisoned;
#[path = "nn/shapes.rs"]
mod shapes;
#[path = "nn/values.rs"]
mod values;
