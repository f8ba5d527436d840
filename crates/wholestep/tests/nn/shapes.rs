//! 10 000 random pairs of layer and input shape: PyTorch's shape, or an error where PyTorch raises one; never a panic.

use crate::case::{golden_json, run};
use serde_json::Value;
use wholestep::spec::Layer;
use wholestep::{DType, Scope, Shape, Tensor};
use wholestep_compiler::ir::scope::Mode;

#[test]
fn shapes_and_errors_are_those_of_pytorch() {
    let golden = golden_json("shapes.json");
    let (mut n, mut wrong) = (0, Vec::new());
    for (layer, group) in golden["layers"].as_object().expect("layers") {
        let fields: Vec<&str> = group["fields"].as_array().expect("fields").iter().filter_map(Value::as_str).collect();
        for case in group["cases"].as_array().expect("cases") {
            n += 1;
            let values = case[0].as_array().expect("values");
            let config: Value = fields
                .iter()
                .map(|f| f.to_string())
                .zip(values.iter().cloned())
                .collect::<serde_json::Map<_, _>>()
                .into();
            let shape: Vec<usize> =
                case[1].as_array().expect("shape").iter().map(|d| d.as_u64().expect("extent") as usize).collect();
            let expected: Option<Vec<usize>> =
                case[2].as_array().map(|s| s.iter().map(|d| d.as_u64().expect("extent") as usize).collect());
            let got = traced(layer, &config, &shape);
            if got.as_ref().ok() != expected.as_ref() {
                wrong.push(format!("{layer} {config} on {shape:?}: expected {expected:?}, got {got:?}"));
            }
        }
    }
    assert_eq!(n, 10_000);
    assert!(wrong.is_empty(), "{} of {n} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

/// What PyTorch calls a layer; `None` for those that it has no layer or function for.
fn name_in_pytorch(layer: &Layer) -> Option<&'static str> {
    Some(match layer {
        Layer::Linear(_) => "Linear",
        Layer::Conv1d(_) => "Conv1d",
        Layer::Conv2d(_) => "Conv2d",
        Layer::Conv3d(_) => "Conv3d",
        Layer::ConvTranspose1d(_) => "ConvTranspose1d",
        Layer::ConvTranspose2d(_) => "ConvTranspose2d",
        Layer::ConvTranspose3d(_) => "ConvTranspose3d",
        Layer::MaxPool1d(_) => "MaxPool1d",
        Layer::MaxPool2d(_) => "MaxPool2d",
        Layer::MaxPool3d(_) => "MaxPool3d",
        Layer::AvgPool1d(_) => "AvgPool1d",
        Layer::AvgPool2d(_) => "AvgPool2d",
        Layer::AvgPool3d(_) => "AvgPool3d",
        Layer::GlobalAvgPool(_) => "GlobalAvgPool",
        Layer::GlobalMaxPool(_) => "GlobalMaxPool",
        Layer::AdaptiveAvgPool1d(_) => "AdaptiveAvgPool1d",
        Layer::AdaptiveAvgPool2d(_) => "AdaptiveAvgPool2d",
        Layer::AdaptiveAvgPool3d(_) => "AdaptiveAvgPool3d",
        Layer::AdaptiveMaxPool1d(_) => "AdaptiveMaxPool1d",
        Layer::AdaptiveMaxPool2d(_) => "AdaptiveMaxPool2d",
        Layer::AdaptiveMaxPool3d(_) => "AdaptiveMaxPool3d",
        Layer::BatchNorm1d(_) => "BatchNorm1d",
        Layer::BatchNorm2d(_) => "BatchNorm2d",
        Layer::BatchNorm3d(_) => "BatchNorm3d",
        Layer::LayerNorm(_) => "LayerNorm",
        Layer::GroupNorm(_) => "GroupNorm",
        Layer::InstanceNorm1d(_) => "InstanceNorm1d",
        Layer::InstanceNorm2d(_) => "InstanceNorm2d",
        Layer::InstanceNorm3d(_) => "InstanceNorm3d",
        Layer::RmsNorm(_) => "RMSNorm",
        Layer::Dropout(_) => "Dropout",
        Layer::Embedding(_) => "Embedding",
        Layer::Flatten(_) => "Flatten",
        Layer::Reshape(_) => "Reshape",
        Layer::Permute(_) => "Permute",
        Layer::Unsqueeze(_) => "Unsqueeze",
        Layer::ZeroPad2d(_) => "ZeroPad2d",
        Layer::Relu(_) => "ReLU",
        Layer::LeakyRelu(_) => "LeakyReLU",
        Layer::Prelu(_) => "PReLU",
        Layer::Elu(_) => "ELU",
        Layer::Selu(_) => "SELU",
        Layer::Gelu(_) => "GELU",
        Layer::Silu(_) => "SiLU",
        Layer::Mish(_) => "Mish",
        Layer::Hardswish(_) => "Hardswish",
        Layer::Softplus(_) => "Softplus",
        Layer::Sigmoid(_) => "Sigmoid",
        Layer::Tanh(_) => "Tanh",
        Layer::Softmax(_) => "Softmax",
        Layer::LogSoftmax(_) => "LogSoftmax",
        // Wiring, which `spec` tests, and constants.
        Layer::Normalize(_) | Layer::Sequential(_) | Layer::Residual(_) | Layer::Branches(_) => return None,
        Layer::Concat(_) | Layer::Add(_) | Layer::Mul(_) => return None,
    })
}

#[test]
fn no_layer_is_left_out_of_the_pairs() {
    let golden = golden_json("shapes.json");
    for layer in Layer::samples() {
        let Some(name) = name_in_pytorch(&layer) else { continue };
        let cases = golden["layers"][name]["cases"].as_array().unwrap_or_else(|| panic!("no pairs of {name}"));
        assert!(cases.len() >= 20, "{name}: {} pairs", cases.len());
    }
}

/// The result's shape, or the whole error.
fn traced(layer: &str, config: &Value, shape: &[usize]) -> Result<Vec<usize>, String> {
    let s = Scope::root(Mode::Train);
    let dtype = if layer == "Embedding" { DType::I64 } else { DType::F32 };
    let x: Tensor = s.input("x", Shape::from(shape), dtype);
    let y = run(layer, config, &s.sub("layer"), &x);
    let error = s.graph().borrow().error.clone();
    match error {
        None => Ok(y.shape().as_fixed().expect("no batch")),
        Some(error) => {
            // Bad input is taught, not just refused.
            assert!(error.at.is_some() && !error.message.is_empty(), "{error}");
            Err(error.to_string())
        }
    }
}
