//! Initial values: bounds and deviations that PyTorch hands to its generator, and the statistics of what is drawn.

use crate::case::{golden_json, run};
use serde_json::Value;
use wholestep::init::{bytes, fill};
use wholestep::nn::{Fan, Gain, Initializer};
use wholestep::{DType, Init, Scope, Shape};
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Loc, Slot, SlotKind};

fn slot(name: &str, shape: &[usize], dtype: DType, init: Init) -> Slot {
    let loc = Loc { file: "test", line: 1 };
    let order = (0..shape.len()).collect();
    Slot { name: name.into(), kind: SlotKind::Buffer, dtype, shape: Shape::from(shape), order, init, loc }
}

fn values(name: &str, shape: &[usize], init: Init, seed: u64) -> Vec<f64> {
    fill(&slot(name, shape, DType::F32, init), seed).into_iter().map(f64::from).collect()
}

/// Whether an `Init` is what PyTorch draws from.
fn agrees(init: &Init, draws: &Value) -> bool {
    let close = |got: f64, key: &str, i: usize| {
        draws[key][i].as_f64().is_some_and(|e| (got - e).abs() <= 1e-12 * (1.0 + e.abs()))
    };
    match init {
        Init::Uniform { lo, hi } => close(*lo, "uniform", 0) && close(*hi, "uniform", 1),
        Init::Normal { mean, std } => close(*mean, "normal", 0) && close(*std, "normal", 1),
        Init::Const(value) => draws["constant"] == *value,
        other => panic!("{other:?} is not in the golden file"),
    }
}

#[test]
fn scales_are_those_of_pytorch() {
    let golden = golden_json("init.json");
    let mut n = [0, 0];
    for case in golden["cases"].as_array().expect("cases") {
        if let Some(layer) = case["default"].as_str() {
            n[1] += 1;
            check_default(layer, case);
            continue;
        }
        n[0] += 1;
        let shape: Vec<usize> =
            case["shape"].as_array().expect("shape").iter().map(|d| d.as_u64().expect("extent") as usize).collect();
        let fan = if case["mode"] == "fan_out" { Fan::Out } else { Fan::In };
        let gain = match case["nonlinearity"].as_str() {
            Some("linear") => Gain::Linear,
            Some("relu") => Gain::Relu,
            Some("leaky_relu") => Gain::LeakyRelu(case["param"].as_f64().expect("a slope")),
            Some("tanh") => Gain::Tanh,
            Some("sigmoid") => Gain::Sigmoid,
            Some("selu") => Gain::Selu,
            Some(other) => panic!("no gain {other}"),
            None => Gain::Value(case["gain"].as_f64().expect("a gain")),
        };
        let rule = match case["init"].as_str() {
            Some("kaiming_uniform") => Initializer::KaimingUniform { fan, gain },
            Some("kaiming_normal") => Initializer::KaimingNormal { fan, gain },
            Some("xavier_uniform") => Initializer::XavierUniform { gain },
            Some("xavier_normal") => Initializer::XavierNormal { gain },
            other => panic!("no initializer {other:?}"),
        };
        let init = rule.resolve(&shape).expect("a rule for weights");
        assert!(agrees(&init, &case["draws"]), "{rule:?} on {shape:?} is {init:?}, PyTorch {}", case["draws"]);
    }
    assert_eq!(n, [340, 17]);
}

/// What a layer made without options starts with.
fn check_default(layer: &str, case: &Value) {
    let s = Scope::root(Mode::Train);
    let dtype = if layer == "Embedding" { DType::I64 } else { DType::F32 };
    let x = s.input("x", [1usize], dtype);
    // The input does not fit most layers; their parameters are there all the same.
    let _ = run(layer, &case["config"], &s, &x);
    let graph = s.graph().borrow();
    for (name, param) in case["params"].as_object().expect("params") {
        let slot =
            graph.slots.iter().find(|slot| slot.name == *name).unwrap_or_else(|| panic!("{layer} has no {name}"));
        let shape: Vec<usize> =
            param["shape"].as_array().expect("shape").iter().map(|d| d.as_u64().expect("extent") as usize).collect();
        assert_eq!(slot.shape, Shape::from(shape), "{layer} {name}");
        assert!(agrees(&slot.init, &param["draws"]), "{layer} {name}: {:?}, PyTorch {}", slot.init, param["draws"]);
    }
}

fn moments(v: &[f64]) -> (f64, f64) {
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    (mean, v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
}

/// The largest distance between the sample's distribution function and `cdf`, times √n. Above 1.95 has a probability of 0.001.
fn kolmogorov(v: &[f64], cdf: impl Fn(f64) -> f64) -> f64 {
    let mut sorted = v.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let gap = sorted.iter().enumerate().map(|(i, &x)| {
        let p = cdf(x);
        (p - i as f64 / n).abs().max(((i + 1) as f64 / n - p).abs())
    });
    gap.fold(0.0, f64::max) * n.sqrt()
}

/// The normal distribution function by Simpson's rule, which shares nothing with the code under test.
fn normal_cdf(z: f64) -> f64 {
    let (n, h) = (400, z.abs().min(9.0) / 400.0);
    let density = |i: usize| (-(i as f64 * h).powi(2) / 2.0).exp() * [2.0, 4.0][i % 2];
    let inner = (1..n).map(density).sum::<f64>() + 1.0 + (-(z.abs().min(9.0)).powi(2) / 2.0).exp();
    let half = inner * h / 3.0 / std::f64::consts::TAU.sqrt();
    if z < 0.0 { 0.5 - half } else { 0.5 + half }
}

#[test]
fn draws_have_their_distribution() {
    let shape = [50, 400];
    let v = values("u", &shape, Init::Uniform { lo: -0.3, hi: 0.7 }, 1);
    assert!(v.iter().all(|x| (f64::from(-0.3f32)..0.7).contains(x)));
    assert!(kolmogorov(&v, |x| (x + 0.3).clamp(0.0, 1.0)) < 1.95);
    let v = values("n", &shape, Init::Normal { mean: 2.0, std: 0.5 }, 1);
    let (mean, var) = moments(&v);
    assert!(
        (mean - 2.0).abs() < 4.0 * 0.5 / 20_000f64.sqrt() && (var / 0.25 - 1.0).abs() < 4.0 * (2.0 / 20_000f64).sqrt()
    );
    assert!(kolmogorov(&v, |x| normal_cdf((x - 2.0) / 0.5)) < 1.95);
    // Neighbours share a Philox block and must be independent all the same.
    let products: Vec<f64> = v.windows(2).map(|w| (w[0] - mean) * (w[1] - mean) / var).collect();
    assert!(moments(&products).0.abs() < 4.0 / 20_000f64.sqrt());
    // All three proposals of the truncated normal, and a mirrored tail.
    for (lo, hi) in [(-2.0, 2.0), (0.3, 0.9), (1.0, 8.0), (-9.0, -2.5), (-0.4, 3.0)] {
        let v =
            values("t", &shape, Init::TruncNormal { mean: 1.0, std: 2.0, lo: 1.0 + 2.0 * lo, hi: 1.0 + 2.0 * hi }, 5);
        let (below, mass) = (normal_cdf(lo), normal_cdf(hi) - normal_cdf(lo));
        let d = kolmogorov(&v, |x| ((normal_cdf((x - 1.0) / 2.0) - below) / mass).clamp(0.0, 1.0));
        assert!(d < 1.95, "[{lo}, {hi}]: {d}");
        assert!(v.iter().all(|x| *x >= f64::from((1.0 + 2.0 * lo) as f32) && *x <= f64::from((1.0 + 2.0 * hi) as f32)));
    }
}

#[test]
fn orthogonal_matrices_are_orthogonal() {
    for shape in [vec![6, 20], vec![20, 6], vec![7, 7], vec![4, 3, 2, 2], vec![1, 1]] {
        let v = values("q", &shape, Init::Orthogonal { gain: 1.5 }, 3);
        let (rows, cols) = (shape[0], v.len() / shape[0]);
        let at = |i: usize, j: usize| if rows <= cols { v[i * cols + j] } else { v[j * cols + i] };
        for a in 0..rows.min(cols) {
            for b in 0..rows.min(cols) {
                let dot: f64 = (0..rows.max(cols)).map(|j| at(a, j) * at(b, j)).sum();
                let expected = if a == b { 2.25 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-5, "{shape:?}: rows {a} and {b} give {dot}");
            }
        }
    }
}

#[test]
fn values_depend_on_name_and_seed_alone() {
    let init = || Init::Normal { mean: 0.0, std: 1.0 };
    let first = values("net/fc1/weight", &[8, 4], init(), 11);
    assert_eq!(first, values("net/fc1/weight", &[8, 4], init(), 11));
    assert_ne!(first, values("net/fc2/weight", &[8, 4], init(), 11));
    assert_ne!(first, values("net/fc1/weight", &[8, 4], init(), 12));
    // These numbers are a promise: a saved seed gives the same model in every version.
    let pinned = fill(&slot("w", &[4], DType::F32, Init::Uniform { lo: 0.0, hi: 1.0 }), 42);
    assert_eq!(pinned, PINNED);
}

/// Printed by `pinned.py` beside this file, which follows the rule in words.
const PINNED: [f32; 4] = [0.926894, 0.529696, 0.27264744, 0.9503049];

#[test]
fn stored_bytes_follow_dtype_and_order() {
    let list = Init::Values(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let mut transposed = slot("v", &[2, 3], DType::F32, list.clone());
    transposed.order = vec![1, 0];
    let floats: Vec<f32> = bytes(&transposed, 0).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(floats, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(*bytes(&slot("v", &[6], DType::U8, list.clone()), 0), [0, 1, 2, 3, 4, 5]);
    assert_eq!(*bytes(&slot("v", &[6], DType::Bool, list.clone()), 0), [0, 1, 1, 1, 1, 1]);
    assert_eq!(bytes(&slot("v", &[6], DType::BF16, list), 0)[2..4], [0x80, 0x3f]);
    let key = bytes(&slot("key", &[2], DType::U32, Init::Key), 9);
    assert_eq!(key.len(), 8);
    assert_ne!(*key, *bytes(&slot("key", &[2], DType::U32, Init::Key), 10));
}
