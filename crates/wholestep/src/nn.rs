//! Layers: plain structs that declare parameters in a [`Scope`](crate::Scope) and say their maths in `forward`. Takes sizes and tensors,
//! gives tensors, with PyTorch's parameter names, shapes and initial values. Never guesses a size and never adapts a shape silently.
//!
//! A layer with parameters or state is made with `new(&Scope, sizes)` (the usual options) or `with(&Scope, sizes, &XSpec)` (all of them);
//! one without is its own description. Your own layer is a struct with a `forward`, too; there is no trait to implement.
//!
//! Parameters load from a PyTorch `state_dict` by name once `/` is read as `.`: scope `features/0` holds `features.0.weight`. Nodes of a
//! [`Model`](crate::spec::Model) that got no name are called otherwise, `0_linear`: [`Node::named`](crate::spec::Node::named) gives them PyTorch's,
//! or [`Weights::renamed`](crate::checkpoint::Weights::renamed) the weights theirs.
//!
//! | layers | input | channel or feature axis |
//! |---|---|---|
//! | `Linear` | `[.., n_in]`, rank 1 up | last |
//! | `Conv1d`, `ConvTranspose1d`, `MaxPool1d`, `AvgPool1d`, `Adaptive..Pool1d`, `InstanceNorm1d` | `[N, C, L]`, `[C, L]` | C |
//! | `Conv2d`, `ConvTranspose2d`, `MaxPool2d`, `AvgPool2d`, `Adaptive..Pool2d`, `InstanceNorm2d` | `[N, C, H, W]`, `[C, H, W]` | C |
//! | `Conv3d`, `ConvTranspose3d`, `MaxPool3d`, `AvgPool3d`, `Adaptive..Pool3d`, `InstanceNorm3d` | `[N, C, D, H, W]`, `[C, D, H, W]` | C |
//! | `GlobalAvgPool`, `GlobalMaxPool` | `[N, C, spatial..]`, rank 3 up | 1 |
//! | `BatchNorm1d` | `[N, C]`, `[N, C, L]` | 1 |
//! | `BatchNorm2d` | `[N, C, H, W]` | 1 |
//! | `BatchNorm3d` | `[N, C, D, H, W]` | 1 |
//! | `GroupNorm`, `Normalize`, `Prelu` per channel | `[N, C, ..]`, rank 2 up | 1 |
//! | `LayerNorm`, `RmsNorm` | `[.., D..]` | last ones |
//! | `Embedding` | whole numbers of any rank | a new last one |
//! | `Flatten`, `Permute`, `Unsqueeze`, `Softmax`, `LogSoftmax` | any rank that has the axes named | |
//! | `Reshape` | `[N, ..]` | |
//! | `ZeroPad2d` | `[.., H, W]` | |
//! | `Dropout`, the other activations | any | |

mod activation;
mod batch_norm;
mod conv;
mod conv_transpose;
mod dropout;
mod extents;
mod initializer;
mod linear;
mod norm;
mod normalize;
mod place;
mod pool;
mod shape;

pub use activation::{
    Approximation, Elu, Gelu, Hardswish, LeakyRelu, LogSoftmax, Mish, Prelu, PreluSpec, Relu, Selu, Sigmoid, Silu,
    Softmax, Softplus, Tanh,
};
pub use batch_norm::{
    BatchNorm, BatchNorm1d, BatchNorm1dSpec, BatchNorm2d, BatchNorm2dSpec, BatchNorm3d, BatchNorm3dSpec, BatchNormSpec,
    Momentum,
};
pub use conv::{Conv, Conv1d, Conv1dSpec, Conv2d, Conv2dSpec, Conv3d, Conv3dSpec, ConvSpec};
pub use conv_transpose::{
    ConvTranspose, ConvTranspose1d, ConvTranspose1dSpec, ConvTranspose2d, ConvTranspose2dSpec, ConvTranspose3d,
    ConvTranspose3dSpec, ConvTransposeSpec,
};
pub use dropout::{Dropout, DropoutSpec};
pub use extents::{Extents, Padding};
pub use initializer::{Fan, Gain, Initializer};
pub use linear::{Embedding, EmbeddingSpec, Linear, LinearSpec};
pub use norm::{
    GroupNorm, GroupNormSpec, InstanceNorm, InstanceNorm1d, InstanceNorm1dSpec, InstanceNorm2d, InstanceNorm2dSpec,
    InstanceNorm3d, InstanceNorm3dSpec, InstanceNormSpec, LayerNorm, LayerNormSpec, RmsNorm, RmsNormSpec,
};
pub use normalize::{Normalize, NormalizeSpec};
pub use pool::{
    AdaptiveAvgPool, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool, AdaptiveMaxPool1d,
    AdaptiveMaxPool2d, AdaptiveMaxPool3d, AvgPool, AvgPool1d, AvgPool2d, AvgPool3d, GlobalAvgPool, GlobalMaxPool,
    MaxPool, MaxPool1d, MaxPool2d, MaxPool3d,
};
pub use shape::{Flatten, Permute, Reshape, Unsqueeze, ZeroPad2d};

pub(crate) use place::{Place, is_countable};

/// The default of options that are on.
fn yes() -> bool {
    true
}
