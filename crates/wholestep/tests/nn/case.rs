//! A layer of the golden files: PyTorch's name and options, on a tensor.

use serde_json::Value;
use std::path::PathBuf;
use wholestep::nn::*;
use wholestep::{Scope, Tensor};

/// A file under `golden/`.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A JSON file under `golden/`.
pub fn golden_json(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(name)).expect("golden file");
    serde_json::from_str(&text).expect("golden JSON")
}

fn number(c: &Value, key: &str) -> usize {
    c[key].as_u64().unwrap_or_else(|| panic!("{key} in {c}")) as usize
}

fn real(c: &Value, key: &str, default: f64) -> f64 {
    c.get(key).map_or(default, |v| v.as_f64().expect("a number"))
}

fn flag(c: &Value, key: &str, default: bool) -> bool {
    c.get(key).map_or(default, |v| v.as_bool().expect("a bool"))
}

fn list(v: &Value) -> Vec<usize> {
    v.as_array()
        .unwrap_or_else(|| panic!("no list: {v}"))
        .iter()
        .map(|n| n.as_u64().expect("a number") as usize)
        .collect()
}

fn each<const N: usize>(c: &Value, key: &str, default: usize) -> [usize; N] {
    c.get(key).map_or([default; N], |v| list(v).try_into().expect("one per axis"))
}

fn padding<const N: usize>(v: &Value) -> Padding<N> {
    match v {
        Value::String(_) => Padding::Same,
        Value::Array(_) => Padding::from(<[usize; N]>::try_from(list(v)).expect("one per axis")),
        v => Padding::Explicit(std::array::from_fn(|i| {
            let pair = list(&v["explicit"][i]);
            (pair[0], pair[1])
        })),
    }
}

fn conv<const N: usize>(c: &Value) -> ConvSpec<N> {
    ConvSpec::new(number(c, "out_channels"), each::<N>(c, "kernel_size", 1))
        .stride(each::<N>(c, "stride", 1))
        .padding(c.get("padding").map_or(Padding::none(), padding::<N>))
        .dilation(each::<N>(c, "dilation", 1))
        .groups(number(c, "groups"))
        .bias(flag(c, "bias", true))
}

fn max_pool<const N: usize>(c: &Value) -> MaxPool<N> {
    MaxPool::new(each::<N>(c, "kernel_size", 1))
        .stride(each::<N>(c, "stride", 1))
        .padding(each::<N>(c, "padding", 0))
        .dilation(each::<N>(c, "dilation", 1))
        .ceil_mode(flag(c, "ceil_mode", false))
}

fn avg_pool<const N: usize>(c: &Value) -> AvgPool<N> {
    AvgPool::new(each::<N>(c, "kernel_size", 1))
        .stride(each::<N>(c, "stride", 1))
        .padding(each::<N>(c, "padding", 0))
        .ceil_mode(flag(c, "ceil_mode", false))
        .count_include_pad(flag(c, "count_include_pad", true))
}

fn momentum(c: &Value) -> Momentum {
    match c.get("momentum") {
        Some(Value::Null) => Momentum::Cumulative,
        Some(m) => Momentum::Exponential(m.as_f64().expect("a number")),
        None => Momentum::default(),
    }
}

fn batch_norm<const N: usize>(s: &Scope, c: &Value, x: &Tensor) -> Tensor {
    let spec = BatchNormSpec::new()
        .eps(real(c, "eps", 1e-5))
        .momentum(momentum(c))
        .affine(flag(c, "affine", true))
        .track_running_stats(flag(c, "track_running_stats", true));
    BatchNorm::<N>::with(s, number(c, "num_features"), &spec).forward(x)
}

fn conv_transpose<const N: usize>(c: &Value) -> ConvTransposeSpec<N> {
    ConvTransposeSpec::new(number(c, "out_channels"), each::<N>(c, "kernel_size", 1))
        .stride(each::<N>(c, "stride", 1))
        .padding(each::<N>(c, "padding", 0))
        .output_padding(each::<N>(c, "output_padding", 0))
        .dilation(each::<N>(c, "dilation", 1))
        .groups(number(c, "groups"))
        .bias(flag(c, "bias", true))
}

fn instance_norm<const N: usize>(s: &Scope, c: &Value, x: &Tensor) -> Tensor {
    let spec = InstanceNormSpec::new()
        .eps(real(c, "eps", 1e-5))
        .momentum(momentum(c))
        .affine(flag(c, "affine", true))
        .track_running_stats(flag(c, "track_running_stats", false));
    InstanceNorm::<N>::with(s, number(c, "num_features"), &spec).forward(x)
}

fn axis(c: &Value, key: &str) -> i64 {
    c[key].as_i64().expect("an axis")
}

/// The layer that PyTorch calls `layer`, made with the options `c` below `s`, on `x`.
pub fn run(layer: &str, c: &Value, s: &Scope, x: &Tensor) -> Tensor {
    match layer {
        "Linear" => {
            let spec = LinearSpec::new(number(c, "out_features")).bias(flag(c, "bias", true));
            Linear::with(s, number(c, "in_features"), &spec).forward(x)
        }
        "Conv1d" => Conv1d::with(s, number(c, "in_channels"), &conv(c)).forward(x),
        "Conv2d" => Conv2d::with(s, number(c, "in_channels"), &conv(c)).forward(x),
        "Conv3d" => Conv3d::with(s, number(c, "in_channels"), &conv(c)).forward(x),
        "ConvTranspose1d" => ConvTranspose1d::with(s, number(c, "in_channels"), &conv_transpose(c)).forward(x),
        "ConvTranspose2d" => ConvTranspose2d::with(s, number(c, "in_channels"), &conv_transpose(c)).forward(x),
        "ConvTranspose3d" => ConvTranspose3d::with(s, number(c, "in_channels"), &conv_transpose(c)).forward(x),
        "MaxPool1d" => max_pool::<1>(c).forward(x),
        "MaxPool2d" => max_pool::<2>(c).forward(x),
        "MaxPool3d" => max_pool::<3>(c).forward(x),
        "AvgPool1d" => avg_pool::<1>(c).forward(x),
        "AvgPool2d" => avg_pool::<2>(c).forward(x),
        "AvgPool3d" => avg_pool::<3>(c).forward(x),
        "GlobalAvgPool" | "GlobalAvgPool2d" => GlobalAvgPool::new().forward(x),
        "GlobalMaxPool" | "GlobalMaxPool2d" => GlobalMaxPool::new().forward(x),
        "AdaptiveAvgPool1d" => AdaptiveAvgPool1d::new(each::<1>(c, "output_size", 1)).forward(x),
        "AdaptiveAvgPool2d" => AdaptiveAvgPool2d::new(each::<2>(c, "output_size", 1)).forward(x),
        "AdaptiveAvgPool3d" => AdaptiveAvgPool3d::new(each::<3>(c, "output_size", 1)).forward(x),
        "AdaptiveMaxPool1d" => AdaptiveMaxPool1d::new(each::<1>(c, "output_size", 1)).forward(x),
        "AdaptiveMaxPool2d" => AdaptiveMaxPool2d::new(each::<2>(c, "output_size", 1)).forward(x),
        "AdaptiveMaxPool3d" => AdaptiveMaxPool3d::new(each::<3>(c, "output_size", 1)).forward(x),
        "BatchNorm1d" => batch_norm::<1>(s, c, x),
        "BatchNorm2d" => batch_norm::<2>(s, c, x),
        "BatchNorm3d" => batch_norm::<3>(s, c, x),
        "InstanceNorm1d" => instance_norm::<1>(s, c, x),
        "InstanceNorm2d" => instance_norm::<2>(s, c, x),
        "InstanceNorm3d" => instance_norm::<3>(s, c, x),
        "LayerNorm" => {
            let spec = LayerNormSpec::new()
                .eps(real(c, "eps", 1e-5))
                .affine(flag(c, "elementwise_affine", true))
                .bias(flag(c, "bias", true));
            LayerNorm::with(s, list(&c["normalized_shape"]), &spec).forward(x)
        }
        "RMSNorm" => {
            let spec = RmsNormSpec::new().eps(real(c, "eps", 1e-6)).affine(flag(c, "elementwise_affine", true));
            RmsNorm::with(s, list(&c["normalized_shape"]), &spec).forward(x)
        }
        "GroupNorm" => {
            let spec =
                GroupNormSpec::new(number(c, "num_groups")).eps(real(c, "eps", 1e-5)).affine(flag(c, "affine", true));
            GroupNorm::with(s, number(c, "num_channels"), &spec).forward(x)
        }
        "Embedding" => Embedding::new(s, number(c, "num_embeddings"), number(c, "embedding_dim")).forward(x),
        "ReLU" => Relu::new().forward(x),
        "LeakyReLU" => LeakyRelu::new(real(c, "negative_slope", 0.01)).forward(x),
        "PReLU" => Prelu::new(s, number(c, "num_parameters")).forward(x),
        "ELU" => Elu::new(real(c, "alpha", 1.0)).forward(x),
        "SELU" => Selu::new().forward(x),
        "GELU" if c["approximate"] == "tanh" => Gelu::tanh().forward(x),
        "GELU" => Gelu::new().forward(x),
        "SiLU" => Silu::new().forward(x),
        "Mish" => Mish::new().forward(x),
        "Hardswish" => Hardswish::new().forward(x),
        "Softplus" => Softplus::new().beta(real(c, "beta", 1.0)).threshold(real(c, "threshold", 20.0)).forward(x),
        "Sigmoid" => Sigmoid::new().forward(x),
        "Tanh" => Tanh::new().forward(x),
        "Softmax" => Softmax::new(axis(c, "dim")).forward(x),
        "LogSoftmax" => LogSoftmax::new(axis(c, "dim")).forward(x),
        "Dropout" => Dropout::new(s, real(c, "p", 0.5)).forward(x),
        "Permute" => Permute::new(list(&c["axes"])).forward(x),
        "Unsqueeze" => Unsqueeze::new(axis(c, "axis")).forward(x),
        "Reshape" => {
            let shape = c["shape"].as_array().expect("a shape").iter();
            Reshape::new(shape.map(|n| n.as_i64().expect("an extent")).collect::<Vec<i64>>()).forward(x)
        }
        "Flatten" => Flatten::axes(axis(c, "start_dim"), axis(c, "end_dim")).forward(x),
        "ZeroPad2d" => {
            let sides = |i: usize| list(&c["before_after"][i]).try_into().expect("a pair");
            ZeroPad2d::new([sides(0), sides(1)]).forward(x)
        }
        other => panic!("no layer {other}: add it here"),
    }
}
