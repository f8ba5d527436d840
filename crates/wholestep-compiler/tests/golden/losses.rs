//! Losses.

use super::set::{Set, Trace, report};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use wholestep_compiler::ir::{DType, Tensor};
use wholestep_compiler::ops::{
    Bce, BceWithLogits, CosineEmbedding, CrossEntropy, HingeEmbedding, Huber, KlDiv, MultiMargin, Nll, Reduction,
    SigmoidFocal, SmoothL1,
};

#[test]
fn losses_have_pytorchs_values_and_gradients() {
    let set = Set::load("losses");
    report(&set, |case| compare(&set, case, loss));
}

#[test]
fn losses_without_options_have_pytorchs_defaults() {
    let mut set = Set::load("losses");
    set.cases.retain(has_defaults);
    let names: BTreeSet<&str> = set.cases.iter().filter_map(|case| case["loss"].as_str()).collect();
    assert_eq!(names.len(), 14, "{names:?}");
    report(&set, |case| compare(&set, case, |case, x, t, _, _| plain_loss(case, x, t)));
}

type Loss = fn(&Json, &[Tensor], &Tensor, Option<Tensor>, Option<Tensor>) -> Tensor;

fn compare(set: &Set, case: &Json, loss: Loss) -> Result<(), String> {
    let batch = match case["batches"].is_string() {
        true => set.tensor(case["target"].as_str().unwrap_or("?")).shape.first().copied(),
        false => None,
    };
    let mut trace = Trace::new(set, batch);
    let mut inputs = Vec::new();
    let mut gradients = Vec::new();
    for (name, key) in case["inputs"].as_object().expect("named inputs") {
        let x = trace.input(key.as_str().unwrap_or("?"));
        gradients.push((x.clone(), case["d_inputs"][name].as_str().unwrap_or("?").to_string()));
        inputs.push(x);
    }
    let target = trace.input(case["target"].as_str().unwrap_or("?"));
    let mut weight = |name: &str| case["weights"][name].as_str().map(|key| trace.input(key));
    let (weight, pos_weight) = (weight("weight"), weight("pos_weight"));
    let y = loss(case, &inputs, &target, weight, pos_weight);
    let key = case["output"].as_str().unwrap_or("?").to_string();
    match case["d_output"].as_str() {
        Some(d_y) => trace.compare(&[(y, key)], &[Some(d_y.to_string())], &gradients, 1e-5),
        None => trace.compare_scalar((y, key), &gradients, 1e-5),
    }
}

/// Whether PyTorch's loss (torchvision's focal loss, but for its reduction) was called with what its arguments are by default.
fn has_defaults(case: &Json) -> bool {
    let margin = if case["loss"] == "CosineEmbedding" { 0.0 } else { 1.0 };
    let options = case["config"].as_object().expect("options by name");
    let is_default = |(name, value): (&String, &Json)| match name.as_str() {
        "label_smoothing" => *value == 0.0,
        "p" => *value == 1,
        "margin" => *value == margin,
        "alpha" => *value == 0.25,
        "gamma" => *value == 2.0,
        "delta" | "beta" => *value == 1.0,
        "log_target" => *value == false,
        // Ours ignores no label unless one is named.
        "ignore_index" => false,
        other => panic!("unknown option {other}"),
    };
    let has_weights = case["weights"].as_object().is_some_and(|weights| weights.values().any(Json::is_string));
    case["reduction"] == "mean" && !has_weights && options.iter().all(is_default)
}

fn plain_loss(case: &Json, x: &[Tensor], t: &Tensor) -> Tensor {
    match case["loss"].as_str().unwrap_or("?") {
        "CrossEntropy" => x[0].cross_entropy(t),
        "NLL" => x[0].nll_loss(t),
        "MultiMargin" => x[0].multi_margin_loss(t),
        "BCE" => x[0].bce_loss(t),
        "BCEWithLogits" => x[0].bce_with_logits(t),
        "HingeEmbedding" => x[0].hinge_embedding_loss(t),
        "Hinge" => x[0].hinge_loss(t),
        "CosineEmbedding" => x[0].cosine_embedding_loss(&x[1], t),
        "SigmoidFocal" => x[0].sigmoid_focal_loss(t),
        "MSE" => x[0].mse_loss(t),
        "L1" => x[0].l1_loss(t),
        "Huber" => x[0].huber_loss(t),
        "SmoothL1" => x[0].smooth_l1_loss(t),
        "KLDiv" => x[0].kl_div(t),
        other => panic!("unknown loss {other}"),
    }
}

fn loss(case: &Json, x: &[Tensor], t: &Tensor, weight: Option<Tensor>, pos_weight: Option<Tensor>) -> Tensor {
    let config = &case["config"];
    let number = |name: &str| config[name].as_f64().unwrap_or(f64::NAN);
    let reduction = match case["reduction"].as_str() {
        Some("mean") => Reduction::Mean,
        Some("sum") => Reduction::Sum,
        Some("none") => Reduction::None,
        Some("batchmean") => Reduction::BatchMean,
        other => panic!("unknown reduction {other:?}"),
    };
    let x0 = &x[0];
    match case["loss"].as_str().unwrap_or("?") {
        "CrossEntropy" => {
            let of_labels = t.dtype() == DType::I64;
            let ignore_index = of_labels.then(|| config["ignore_index"].as_i64().unwrap_or(-100));
            let label_smoothing = number("label_smoothing");
            x0.cross_entropy_with(t, &CrossEntropy { axis: 1, weight, ignore_index, label_smoothing, reduction })
        }
        "NLL" => {
            let ignore_index = config["ignore_index"].as_i64();
            x0.nll_loss_with(t, &Nll { axis: 1, weight, ignore_index, reduction })
        }
        "MultiMargin" => {
            let p = config["p"].as_u64().unwrap_or(0) as usize;
            x0.multi_margin_loss_with(t, &MultiMargin { p, margin: number("margin"), weight, reduction })
        }
        "BCE" => x0.bce_loss_with(t, &Bce { weight, reduction }),
        "BCEWithLogits" => x0.bce_with_logits_with(t, &BceWithLogits { weight, pos_weight, reduction }),
        "HingeEmbedding" => x0.hinge_embedding_loss_with(t, &HingeEmbedding { margin: number("margin"), reduction }),
        "Hinge" => x0.hinge_loss_with(t, reduction),
        "CosineEmbedding" => {
            x0.cosine_embedding_loss_with(&x[1], t, &CosineEmbedding { margin: number("margin"), reduction })
        }
        "SigmoidFocal" => {
            let alpha = Some(number("alpha")).filter(|a| *a >= 0.0);
            x0.sigmoid_focal_loss_with(t, &SigmoidFocal { alpha, gamma: number("gamma"), reduction })
        }
        "MSE" => x0.mse_loss_with(t, reduction),
        "L1" => x0.l1_loss_with(t, reduction),
        "Huber" => x0.huber_loss_with(t, &Huber { delta: number("delta"), reduction }),
        "SmoothL1" => x0.smooth_l1_loss_with(t, &SmoothL1 { beta: number("beta"), reduction }),
        "KLDiv" => x0.kl_div_with(t, &KlDiv { log_target: config["log_target"] == true, reduction }),
        other => panic!("unknown loss {other}"),
    }
}
