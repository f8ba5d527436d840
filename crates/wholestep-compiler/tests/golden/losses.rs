//! Losses.

use super::set::{Set, Trace, report};
use serde_json::Value as Json;
use wholestep_compiler::ir::{DType, Tensor};
use wholestep_compiler::ops::{Bce, BceWithLogits, CrossEntropy, Margin, MultiMargin, Nll, Reduction, SigmoidFocal};

#[test]
fn losses_have_pytorchs_values_and_gradients() {
    let set = Set::load("losses");
    report(&set, |case| {
        let batch = match case["batches"].is_string() {
            true => set.tensor(case["target"].as_str().unwrap_or("?")).shape.first().copied(),
            false => None,
        };
        let mut trace = Trace::new(&set, batch);
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
    });
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
            x0.multi_margin_loss(t, &MultiMargin { p, margin: number("margin"), weight, reduction })
        }
        "BCE" => x0.bce_loss_with(t, &Bce { weight, reduction }),
        "BCEWithLogits" => x0.bce_with_logits_with(t, &BceWithLogits { weight, pos_weight, reduction }),
        "HingeEmbedding" => x0.hinge_embedding_loss(t, &Margin { margin: number("margin"), reduction }),
        "Hinge" => x0.hinge_loss(t, reduction),
        "CosineEmbedding" => x0.cosine_embedding_loss(&x[1], t, &Margin { margin: number("margin"), reduction }),
        "SigmoidFocal" => {
            let alpha = Some(number("alpha")).filter(|a| *a >= 0.0);
            x0.sigmoid_focal_loss(t, &SigmoidFocal { alpha, gamma: number("gamma"), reduction })
        }
        "MSE" => x0.mse_loss(t, reduction),
        "L1" => x0.l1_loss(t, reduction),
        "Huber" => x0.huber_loss(t, number("delta"), reduction),
        "SmoothL1" => x0.smooth_l1_loss(t, number("beta"), reduction),
        "KLDiv" => x0.kl_div(t, config["log_target"] == true, reduction),
        other => panic!("unknown loss {other}"),
    }
}
