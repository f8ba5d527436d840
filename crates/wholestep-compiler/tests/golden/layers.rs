//! The maths of layers: linear, convolutions, pooling, norms, activations.

use super::set::{Set, Trace, report, sizes};
use serde_json::Value as Json;
use wholestep_compiler::ir::Tensor;
use wholestep_compiler::ops::{ConvOptions, ConvTransposeOptions, Padding, PoolOptions};

#[test]
fn layer_maths_has_pytorchs_values_and_gradients() {
    let set = Set::load("layers");
    report(&set, |case| {
        let mut trace = Trace::new(&set, None);
        let key = |json: &Json| json.as_str().map(str::to_string);
        let mut gradients = Vec::new();
        let x = trace.input(&key(&case["input"]).expect("an input"));
        if let Some(d_x) = key(&case["d_input"]) {
            gradients.push((x.clone(), d_x));
        }
        let mut named = |group: &str, name: &str| -> Option<Tensor> {
            let found = trace.input(&key(&case[group][name])?);
            if let Some(d) = key(&case["d_params"][name]).filter(|_| group == "params") {
                gradients.push((found.clone(), d));
            }
            Some(found)
        };
        let params = [named("params", "weight"), named("params", "bias")];
        let buffers = [named("buffers_before", "running_mean"), named("buffers_before", "running_var")];
        let y = layer(case, &x, params.each_ref().map(Option::as_ref), buffers.each_ref().map(Option::as_ref));
        let output = (y, key(&case["output"]).expect("an output"));
        trace.compare(&[output], &[key(&case["d_output"])], &gradients, 2e-5)
    });
}

fn layer(case: &Json, x: &Tensor, [w, b]: [Option<&Tensor>; 2], [mean, var]: [Option<&Tensor>; 2]) -> Tensor {
    let c = &case["config"];
    let eps = c["eps"].as_f64().unwrap_or(f64::NAN);
    let name = case["layer"].as_str().unwrap_or("?");
    if let Some(y) = activation(name, c, x, w).or_else(|| pooling(name, c, x)) {
        return y;
    }
    let normalized = || sizes(&c["normalized_shape"]).len();
    match name {
        "Linear" => x.linear(w.expect("a weight"), b),
        "Conv1d" => x.conv1d(w.expect("a weight"), b, &conv(c)),
        "Conv2d" => x.conv2d(w.expect("a weight"), b, &conv(c)),
        "Conv3d" => x.conv3d(w.expect("a weight"), b, &conv(c)),
        "ConvTranspose1d" => x.conv_transpose1d(w.expect("a weight"), b, &conv_transpose(c)),
        "ConvTranspose2d" => x.conv_transpose2d(w.expect("a weight"), b, &conv_transpose(c)),
        "ConvTranspose3d" => x.conv_transpose3d(w.expect("a weight"), b, &conv_transpose(c)),
        "BatchNorm1d" | "BatchNorm2d" | "BatchNorm3d" => match (case["train"] == true, mean, var) {
            (false, Some(mean), Some(var)) => x.batch_norm(mean, var, w, b, eps),
            (_, _, _) => {
                let now = x.batch_statistics();
                now.normalize(w, b, eps)
            }
        },
        "InstanceNorm1d" | "InstanceNorm2d" | "InstanceNorm3d" => match (case["train"] == true, mean, var) {
            (false, Some(mean), Some(var)) => x.batch_norm(mean, var, w, b, eps),
            (_, _, _) => x.instance_norm(w, b, eps),
        },
        "LayerNorm" => x.layer_norm(normalized(), w, b, eps),
        "RMSNorm" => x.rms_norm(normalized(), w, eps),
        "GroupNorm" => x.group_norm(c["num_groups"].as_u64().unwrap_or(0) as usize, w, b, eps),
        "Embedding" => w.expect("a weight").embedding(x),
        other => panic!("unknown layer {other}"),
    }
}

fn conv_transpose<const N: usize>(c: &Json) -> ConvTransposeOptions<N> {
    ConvTransposeOptions {
        stride: array(&c["stride"]),
        padding: array(&c["padding"]).map(|n| (n, n)),
        output_padding: array(&c["output_padding"]),
        dilation: array(&c["dilation"]),
        groups: groups(c),
    }
}

fn activation(name: &str, c: &Json, x: &Tensor, w: Option<&Tensor>) -> Option<Tensor> {
    let number = |key: &str| c[key].as_f64().unwrap_or(f64::NAN);
    let dim = c["dim"].as_i64().unwrap_or(0);
    Some(match name {
        "ReLU" => x.relu(),
        "LeakyReLU" => x.leaky_relu(number("negative_slope")),
        "ELU" => x.elu(number("alpha")),
        "SELU" => x.selu(),
        "GELU" if c["approximate"] == "tanh" => x.gelu_tanh(),
        "GELU" => x.gelu(),
        "SiLU" => x.silu(),
        "Mish" => x.mish(),
        "Hardswish" => x.hardswish(),
        "Softplus" => x.softplus(number("beta"), number("threshold")),
        "Sigmoid" => x.sigmoid(),
        "Tanh" => x.tanh(),
        "PReLU" => x.prelu(w?),
        "Softmax" => x.softmax(dim),
        "LogSoftmax" => x.log_softmax(dim),
        _ => return None,
    })
}

fn pooling(name: &str, c: &Json, x: &Tensor) -> Option<Tensor> {
    Some(match name {
        "MaxPool1d" => x.max_pool1d(&pool(c)),
        "MaxPool2d" => x.max_pool2d(&pool(c)),
        "MaxPool3d" => x.max_pool3d(&pool(c)),
        "AvgPool1d" => x.avg_pool1d(&pool(c)),
        "AvgPool2d" => x.avg_pool2d(&pool(c)),
        "AvgPool3d" => x.avg_pool3d(&pool(c)),
        "AdaptiveAvgPool1d" | "AdaptiveAvgPool2d" | "AdaptiveAvgPool3d" => {
            x.adaptive_avg_pool(&sizes(&c["output_size"]))
        }
        "AdaptiveMaxPool1d" | "AdaptiveMaxPool2d" | "AdaptiveMaxPool3d" => {
            x.adaptive_max_pool(&sizes(&c["output_size"]))
        }
        "GlobalAvgPool2d" => x.global_avg_pool(),
        "GlobalMaxPool2d" => x.global_max_pool(),
        _ => return None,
    })
}

fn array<const N: usize>(json: &Json) -> [usize; N] {
    sizes(json).try_into().expect("one number per axis")
}

fn groups(c: &Json) -> usize {
    c["groups"].as_u64().unwrap_or(0) as usize
}

fn conv<const N: usize>(c: &Json) -> ConvOptions<N> {
    let padding = match &c["padding"] {
        Json::String(_) => Padding::Same,
        explicit => {
            let pairs = explicit["explicit"].as_array().expect("pairs");
            Padding::Explicit(std::array::from_fn(|i| (sizes(&pairs[i])[0], sizes(&pairs[i])[1])))
        }
    };
    ConvOptions { stride: array(&c["stride"]), padding, dilation: array(&c["dilation"]), groups: groups(c) }
}

fn pool<const N: usize>(c: &Json) -> PoolOptions<N> {
    PoolOptions {
        size: array(&c["kernel_size"]),
        stride: array(&c["stride"]),
        padding: array(&c["padding"]).map(|n| (n, n)),
        dilation: if c["dilation"].is_null() { [1; N] } else { array(&c["dilation"]) },
        ceil_mode: c["ceil_mode"] == true,
        count_include_pad: c["count_include_pad"] != false,
    }
}
