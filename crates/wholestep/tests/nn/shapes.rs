//! 10 000 random pairs of layer and input shape: PyTorch's shape, or an error where PyTorch raises one; never a panic.

use crate::case::{golden_json, run};
use serde_json::Value;
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
