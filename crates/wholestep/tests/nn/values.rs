//! Each layer's output, gradients and running statistics, in f64 by the oracle, against PyTorch's f32 numbers.

use crate::case::{golden, golden_json, run};
use serde_json::Value;
use wholestep::{Batch, DType, Scope, Shape, Tensor};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::SlotId;
use wholestep_compiler::ir::scope::{Mode, slot_node};

/// Relative to 1 + |expected|.
const TOLERANCE: f64 = 1e-5;
/// The golden numbers are f32, and normalizing two rows cancels all but the last digits of the gradient.
const TOLERANCE_OF_TWO_ROWS: f64 = 2e-5;

struct Tensors<'a>(safetensors::SafeTensors<'a>);

impl Tensors<'_> {
    fn get(&self, key: &Value) -> (Vec<usize>, Vec<f64>) {
        let view = self.0.tensor(key.as_str().expect("a key")).expect("a golden tensor");
        let data = match view.dtype() {
            safetensors::Dtype::F32 => {
                let words = view.data().as_chunks::<4>().0;
                words.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
            }
            safetensors::Dtype::I64 => {
                let words = view.data().as_chunks::<8>().0;
                words.iter().map(|&b| i64::from_le_bytes(b) as f64).collect()
            }
            other => panic!("golden dtype {other:?}"),
        };
        (view.shape().to_vec(), data)
    }
}

#[test]
fn values_gradients_and_running_statistics_are_those_of_pytorch() {
    let cases = golden_json("layers.json");
    let bytes = std::fs::read(golden("layers.safetensors")).expect("golden tensors");
    let tensors = Tensors(safetensors::SafeTensors::deserialize(&bytes).expect("golden tensors"));
    let (mut n_fixed, mut n_dynamic, mut wrong) = (0, 0, Vec::new());
    for case in cases["cases"].as_array().expect("cases") {
        for is_dynamic in [false, true] {
            match check(case, &tensors, is_dynamic) {
                Ok(()) if is_dynamic => n_dynamic += 1,
                Ok(()) => n_fixed += 1,
                // Not every layer can have B as its first extent (unbatched images, a norm over the first axis).
                Err(Fault::Refused(_)) if is_dynamic => {}
                Err(Fault::Refused(why) | Fault::Differs(why)) => {
                    wrong.push(format!("{} {is_dynamic}: {why}", case["id"]))
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(n_fixed, 293);
    assert!(n_dynamic >= 200, "only {n_dynamic} cases ran with a symbolic batch");
}

enum Fault {
    Refused(String),
    Differs(String),
}

fn check(case: &Value, tensors: &Tensors, is_dynamic: bool) -> Result<(), Fault> {
    let layer = case["layer"].as_str().expect("layer");
    let train = case["train"].as_bool().expect("train");
    let (x_shape, x_data) = tensors.get(&case["input"]);
    let s = Scope::root(if train { Mode::Train } else { Mode::Infer });
    let mut shape = Shape::from(x_shape.as_slice());
    if is_dynamic {
        match shape.0.first_mut() {
            Some(first) => *first = Batch,
            None => return Err(Fault::Refused("a scalar".into())),
        }
    }
    let x = s.input("x", shape, if layer == "Embedding" { DType::I64 } else { DType::F32 });
    let y = run(layer, &case["config"], &s.sub("layer"), &x);
    let (y_shape, y_data) = tensors.get(&case["output"]);
    let d_y = s.input("d_y", y.shape(), DType::F32);
    let names: Vec<String> =
        s.graph().borrow().slots.iter().map(|slot| slot.name["layer/".len()..].to_string()).collect();
    let params: Vec<usize> = (0..names.len()).filter(|&i| case["params"].get(&names[i]).is_some()).collect();
    let handle = |i: usize| {
        let id = slot_node(&s.graph().borrow(), SlotId(i as u32)).expect("a parameter");
        Tensor::from_node(s.graph().clone(), id)
    };
    let mut wrt: Vec<Tensor> = params.iter().map(|&i| handle(i)).collect();
    let d_x = case["d_input"].is_string();
    if d_x {
        wrt.push(x.clone());
    }
    let grads = gradients(&(&y * &d_y).sum(..), &wrt);
    let graph = s.graph().borrow().clone();
    if let Some(error) = &graph.error {
        return Err(Fault::Refused(error.to_string()));
    }
    let batch = if is_dynamic { x_shape[0] } else { 1 };
    if y.shape().at(batch) != y_shape {
        return Err(Fault::Differs(format!("shape {} instead of {y_shape:?}", y.shape())));
    }
    let slots: Vec<Vec<f64>> = names
        .iter()
        .enumerate()
        .map(|(i, name)| match (case["params"].get(name), case["buffers_before"].get(name)) {
            (Some(key), _) | (None, Some(key)) => {
                let (golden_shape, data) = tensors.get(key);
                assert_eq!(Shape::from(golden_shape.as_slice()), graph.slots[i].shape, "{} {name}", case["id"]);
                data
            }
            (None, None) if name == "num_batches_tracked" => vec![0.0],
            (None, None) => panic!("{}: PyTorch has no {name}", case["id"]),
        })
        .collect();
    let n_golden = case["params"].as_object().map_or(0, |p| p.len());
    assert_eq!(params.len(), n_golden, "{}: parameters {names:?}", case["id"]);
    let tolerance = if case["id"] == "batchnorm1d_02" { TOLERANCE_OF_TWO_ROWS } else { TOLERANCE };
    let close = |what: &str, got: &[f64], expected: &[f64]| close(what, got, expected, tolerance);
    let done = eval(&graph, batch, &[x_data, tensors.get(&case["d_output"]).1], &slots);
    close("output", &done.value(y.id()).data, &y_data)?;
    for (&i, grad) in params.iter().zip(&grads) {
        close(&format!("d_{}", names[i]), &done.value(grad.id()).data, &tensors.get(&case["d_params"][&names[i]]).1)?;
    }
    if d_x {
        close("d_input", &done.value(grads[params.len()].id()).data, &tensors.get(&case["d_input"]).1)?;
    }
    for (name, key) in case["buffers_after"].as_object().into_iter().flatten() {
        let Some(i) = names.iter().position(|n| n == name) else { panic!("{}: no buffer {name}", case["id"]) };
        close(name, &done.slots[i], &tensors.get(key).1)?;
    }
    Ok(())
}

fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) -> Result<(), Fault> {
    if got.len() != expected.len() {
        return Err(Fault::Differs(format!("{what}: {} elements instead of {}", got.len(), expected.len())));
    }
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let is_same = g == e || g.is_nan() && e.is_nan() || (g - e).abs() <= tolerance * (1.0 + e.abs());
        if !is_same {
            return Err(Fault::Differs(format!("{what}[{i}] is {g} instead of {e}")));
        }
    }
    Ok(())
}

/// Dropout against its definition: what is kept, how much, and that each step and seed draws anew.
#[test]
fn dropout_keeps_the_mean_and_draws_anew() {
    let n = 40_000;
    for p in [0.0, 0.1, 0.5, 0.9, 1.0] {
        let s = Scope::root(Mode::Train);
        let x = s.input("x", (Batch, n), DType::F32);
        let y = wholestep::nn::Dropout::new(&s.sub("drop"), p).forward(&x);
        let graph = s.graph().borrow().clone();
        assert_eq!(graph.error, None);
        let ones = vec![1.0; n];
        let run = |key: f64, step: f64| {
            let slots: Vec<Vec<f64>> =
                graph.slots.iter().map(|slot| if slot.name == "key" { vec![key, 7.0] } else { vec![step] }).collect();
            eval(&graph, 1, std::slice::from_ref(&ones), &slots).value(y.id()).data.clone()
        };
        let (first, again) = (run(1.0, 0.0), run(1.0, 0.0));
        assert_eq!(first, again);
        let dropped = first.iter().filter(|v| **v == 0.0).count() as f64;
        let sigma = (n as f64 * p * (1.0 - p)).sqrt();
        assert!((dropped - n as f64 * p).abs() <= 4.0 * sigma, "p {p}: {dropped} of {n} dropped");
        assert!(first.iter().all(|v| *v == 0.0 || (v - 1.0 / (1.0 - p)).abs() < 1e-6), "p {p}");
        if sigma > 0.0 {
            assert_ne!(first, run(1.0, 1.0), "another step");
            assert_ne!(first, run(2.0, 0.0), "another seed");
        }
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, n), DType::F32);
        assert_eq!(wholestep::nn::Dropout::new(&s, p).forward(&x).id(), x.id(), "inference is the identity");
    }
}
