//! Every layer that a model description can hold. Takes the layers' own option structs, gives one closed enum with a sample of each
//! variant. Never holds a layer that cannot be built, trained, saved and printed: one test walks the samples.

use super::Node;
use crate::nn::*;
use serde::{Deserialize, Serialize};

/// Layers in order, as one layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequential {
    /// They run in order, wired among themselves; an empty list gives its input.
    pub layers: Vec<Node>,
}

impl Sequential {
    /// Of [`Node`]s; `.into()` makes one of a layer.
    pub fn new(layers: impl IntoIterator<Item = Node>) -> Sequential {
        Sequential { layers: layers.into_iter().collect() }
    }
}

/// `body(x) + shortcut(x)`; an empty shortcut is the identity. Paper: He, Zhang, Ren, Sun 2015, arXiv:1512.03385.
/// Errors: the two results have different shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Residual {
    /// Its result has the shape of the shortcut's. Empty, it is the identity and the whole is `2·x`, unless the shortcut does something.
    pub body: Vec<Node>,
    /// Empty, the default: the identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortcut: Vec<Node>,
}

impl Residual {
    /// With the identity as shortcut.
    pub fn new(body: impl IntoIterator<Item = Node>) -> Residual {
        Residual { body: body.into_iter().collect(), shortcut: Vec::new() }
    }

    /// Layers on the way around the body, such as a 1x1 convolution where the body changes the shape.
    pub fn shortcut(self, shortcut: impl IntoIterator<Item = Node>) -> Residual {
        Residual { shortcut: shortcut.into_iter().collect(), ..self }
    }
}

/// Several lists of layers on the same input, joined. An empty list is the identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branches {
    /// How the results become one.
    pub join: Join,
    /// Each is wired by itself and reads the same input; an empty one is the identity.
    pub branches: Vec<Vec<Node>>,
}

impl Branches {
    /// Branches on the same input, at least one; an empty list is the identity.
    pub fn new(join: Join, branches: impl IntoIterator<Item = Vec<Node>>) -> Branches {
        Branches { join, branches: branches.into_iter().collect() }
    }
}

/// How branches become one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// One after the other along this axis; the batch axis counts, so channels are 1.
    Concat {
        /// From 0 at the batch axis, or from -1 at the end.
        axis: i64,
    },
    /// The sum; shapes are equal.
    Add,
}

/// Several tensors one after the other along `axis`; the batch axis counts, so channels are 1. Matches PyTorch `torch.cat`.
/// Errors: the other axes differ; the axis is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concat {
    /// From 0 at the batch axis, or from -1 at the end; channels are 1.
    pub axis: i64,
}

impl Concat {
    /// Along `axis`, from 0 at the batch axis or from -1 at the end; the node's `from` names the tensors.
    pub fn new(axis: i64) -> Concat {
        Concat { axis }
    }
}

/// The sum of several tensors of one shape. Errors: the shapes differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {}

/// The product of several tensors of one shape, element by element: a gate. Errors: the shapes differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mul {}

// The one list of layers: enum, conversions, names and samples cannot disagree.
macro_rules! layers {
    ($($variant:ident($spec:ty) $kind:literal = $sample:expr;)+) => {
        /// A layer as data. In files `type` names the variant in snake case, and the fields of its struct stand beside it.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type")]
        pub enum Layer {$(
            #[doc = concat!("`type = \"", $kind, "\"` in files.")]
            #[serde(rename = $kind)]
            $variant($spec),
        )+}
        $(impl From<$spec> for Layer {
            fn from(spec: $spec) -> Layer { Layer::$variant(spec) }
        })+
        impl Layer {
            /// The layer's `type` in files: "conv2d".
            pub fn kind(&self) -> &'static str {
                match self {$(Layer::$variant(_) => $kind),+}
            }
            /// One small layer of each kind, for tests that must not forget one.
            pub fn samples() -> Vec<Layer> { vec![$(Layer::$variant($sample)),+] }
        }
    };
}
layers! {
    Linear(LinearSpec) "linear" = LinearSpec::new(3);
    Conv1d(Conv1dSpec) "conv1d" = Conv1dSpec::new(4, 3).padding(1);
    Conv2d(Conv2dSpec) "conv2d" = Conv2dSpec::new(4, [3, 2]).padding([(0, 1), (1, 1)]).groups(2);
    Conv3d(Conv3dSpec) "conv3d" = Conv3dSpec::new(3, 2).same();
    ConvTranspose1d(ConvTranspose1dSpec) "conv_transpose1d" = ConvTranspose1dSpec::new(3, 4).stride(2).padding(1);
    ConvTranspose2d(ConvTranspose2dSpec) "conv_transpose2d" = ConvTranspose2dSpec::new(3, 3).stride(2).padding(1).output_padding(1);
    ConvTranspose3d(ConvTranspose3dSpec) "conv_transpose3d" = ConvTranspose3dSpec::new(2, 2).stride([1, 2, 2]);
    MaxPool1d(MaxPool1d) "max_pool1d" = MaxPool1d::new(2);
    MaxPool2d(MaxPool2d) "max_pool2d" = MaxPool2d::new(2).stride(1).padding(1);
    MaxPool3d(MaxPool3d) "max_pool3d" = MaxPool3d::new([1, 2, 2]).padding([0, 1, 1]);
    AvgPool1d(AvgPool1d) "avg_pool1d" = AvgPool1d::new(2);
    AvgPool2d(AvgPool2d) "avg_pool2d" = AvgPool2d::new([2, 1]).count_include_pad(false);
    AvgPool3d(AvgPool3d) "avg_pool3d" = AvgPool3d::new(2).stride(1);
    GlobalAvgPool(GlobalAvgPool) "global_avg_pool" = GlobalAvgPool::new();
    GlobalMaxPool(GlobalMaxPool) "global_max_pool" = GlobalMaxPool::new();
    AdaptiveAvgPool1d(AdaptiveAvgPool1d) "adaptive_avg_pool1d" = AdaptiveAvgPool1d::new(4);
    AdaptiveAvgPool2d(AdaptiveAvgPool2d) "adaptive_avg_pool2d" = AdaptiveAvgPool2d::new([2, 3]);
    AdaptiveAvgPool3d(AdaptiveAvgPool3d) "adaptive_avg_pool3d" = AdaptiveAvgPool3d::new([1, 3, 2]);
    AdaptiveMaxPool1d(AdaptiveMaxPool1d) "adaptive_max_pool1d" = AdaptiveMaxPool1d::new(3);
    AdaptiveMaxPool2d(AdaptiveMaxPool2d) "adaptive_max_pool2d" = AdaptiveMaxPool2d::new(3);
    AdaptiveMaxPool3d(AdaptiveMaxPool3d) "adaptive_max_pool3d" = AdaptiveMaxPool3d::new(2);
    BatchNorm1d(BatchNorm1dSpec) "batch_norm1d" = BatchNorm1dSpec::new().momentum(Momentum::Exponential(0.2));
    BatchNorm2d(BatchNorm2dSpec) "batch_norm2d" = BatchNorm2dSpec::new().eps(1e-3).momentum(Momentum::Cumulative);
    BatchNorm3d(BatchNorm3dSpec) "batch_norm3d" = BatchNorm3dSpec::new();
    LayerNorm(LayerNormSpec) "layer_norm" = LayerNormSpec::new().axes(2);
    GroupNorm(GroupNormSpec) "group_norm" = GroupNormSpec::new(2);
    InstanceNorm1d(InstanceNorm1dSpec) "instance_norm1d" = InstanceNorm1dSpec::new().track_running_stats(true);
    InstanceNorm2d(InstanceNorm2dSpec) "instance_norm2d" = InstanceNorm2dSpec::new().affine(true);
    InstanceNorm3d(InstanceNorm3dSpec) "instance_norm3d" = InstanceNorm3dSpec::new();
    RmsNorm(RmsNormSpec) "rms_norm" = RmsNormSpec::new();
    Normalize(NormalizeSpec) "normalize" = NormalizeSpec::new([0.5, 0.25, 0.0, 1.0], [0.25, 2.0, 1.0, 0.5]);
    Dropout(DropoutSpec) "dropout" = DropoutSpec::new(0.25);
    Embedding(EmbeddingSpec) "embedding" = EmbeddingSpec::new(7, 3);
    Flatten(Flatten) "flatten" = Flatten::new();
    Reshape(Reshape) "reshape" = Reshape::new([2, -1]);
    Permute(Permute) "permute" = Permute::new([0, 2, 1]);
    Unsqueeze(Unsqueeze) "unsqueeze" = Unsqueeze::new(1);
    ZeroPad2d(ZeroPad2d) "zero_pad2d" = ZeroPad2d::new([[1, 0], [0, 2]]);
    Relu(Relu) "relu" = Relu::new();
    LeakyRelu(LeakyRelu) "leaky_relu" = LeakyRelu::new(0.1);
    Prelu(PreluSpec) "prelu" = PreluSpec::new().per_channel(true);
    Elu(Elu) "elu" = Elu::new(0.5);
    Selu(Selu) "selu" = Selu::new();
    Gelu(Gelu) "gelu" = Gelu::tanh();
    Silu(Silu) "silu" = Silu::new();
    Mish(Mish) "mish" = Mish::new();
    Hardswish(Hardswish) "hardswish" = Hardswish::new();
    Softplus(Softplus) "softplus" = Softplus::new().beta(2.0);
    Sigmoid(Sigmoid) "sigmoid" = Sigmoid::new();
    Tanh(Tanh) "tanh" = Tanh::new();
    Softmax(Softmax) "softmax" = Softmax::new(-1);
    LogSoftmax(LogSoftmax) "log_softmax" = LogSoftmax::new(1);
    Sequential(Sequential) "sequential" = Sequential::new([LinearSpec::new(3).into(), Tanh::new().into()]);
    Residual(Residual) "residual" = Residual::new([LinearSpec::new(3).into()]).shortcut([LinearSpec::new(3).bias(false).into()]);
    Branches(Branches) "branches" = Branches::new(Join::Concat { axis: 1 }, [vec![Tanh::new().into()], vec![]]);
    Concat(Concat) "concat" = Concat::new(1);
    Add(Add) "add" = Add {};
    Mul(Mul) "mul" = Mul {};
}
