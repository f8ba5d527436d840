//! Update rules alone against PyTorch's: each stored combination of options for 100 steps on given gradients. The loss `Σ p·g` has the
//! gradient g.

#[path = "support/golden.rs"]
mod golden;

use golden::{Tensors, cases, compare};
use serde_json::Value as Json;
use wholestep::optim::{Adam, AdamW, Optimizer, Sgd};
use wholestep::{Array, DType, Device, Init, Step};

/// What 100 steps may differ by, relative to the largest entry of a parameter.
const TOLERANCE: f64 = 1e-6;
const SHAPES: [(&str, &[usize]); 3] = [("p0", &[3, 4]), ("p1", &[5]), ("p2", &[1])];

/// Row `i` of a tensor, without the first axis.
fn row(all: &Array, i: usize) -> Array {
    let shape = all.shape()[1..].to_vec();
    all.slice_rows(i, i + 1).and_then(|row| row.reshape(shape)).expect("the row is there")
}

fn compile(optimizer: impl Optimizer, is_maximizing: bool) -> Step {
    let built = Step::compile(&Device::cpu_with_threads(1), optimizer, |s| {
        let terms = SHAPES.map(|(name, shape)| {
            let p = s.param(name, shape.to_vec(), Init::Const(f64::NAN));
            (p * s.input(&name.replace('p', "g"), shape.to_vec(), DType::F32)).sum(..)
        });
        let loss = terms.into_iter().reduce(|a, b| a + b).expect("three terms");
        // PyTorch's `maximize` negates the gradient before anything else, which is the gradient of the negated loss.
        if is_maximizing { -loss } else { loss }
    });
    built.expect("the update compiles")
}

fn step_of(case: &Json) -> Step {
    let o = &case["options"];
    let f = |name: &str| o[name].as_f64().unwrap_or_else(|| panic!("no {name} in {o}"));
    let beta = |i: usize| o["betas"][i].as_f64().expect("β");
    let is = |name: &str| o[name].as_bool().unwrap_or_else(|| panic!("no {name} in {o}"));
    match case["optimizer"].as_str() {
        Some("SGD") => {
            let sgd = Sgd::new(f("lr")).momentum(f("momentum")).dampening(f("dampening"));
            let sgd = sgd.weight_decay(f("weight_decay"));
            compile(if is("nesterov") { sgd.nesterov() } else { sgd }, is("maximize"))
        }
        Some("Adam") => {
            let adam = Adam::new(f("lr")).betas(beta(0), beta(1)).eps(f("eps"));
            compile(adam.weight_decay(f("weight_decay")), is("maximize"))
        }
        Some("AdamW") => {
            let adamw = AdamW::new(f("lr")).betas(beta(0), beta(1)).eps(f("eps"));
            compile(adamw.weight_decay(f("weight_decay")), is("maximize"))
        }
        other => panic!("no optimizer {other:?}"),
    }
}

fn check(case: &Json, problem: &Tensors, faults: &mut Vec<String>) {
    let wanted = Tensors::load(case["file"].as_str().and_then(|f| f.strip_suffix(".safetensors")).expect("a file"));
    let id = case["id"].as_str().expect("an id");
    let mut step = step_of(case);
    for (name, value) in problem.floats_below("p") {
        step.write(&format!("p{name}"), value).expect("the initial value fits");
    }
    for t in 1..=100 {
        let [g0, g1, g2] = ["g0", "g1", "g2"].map(|name| row(problem.get(name), t - 1));
        step.run(&[("g0", &g0), ("g1", &g1), ("g2", &g2)]).expect("the step runs");
        if let Some(kept) = [1, 2, 10, 100].iter().position(|&k| k == t) {
            for (name, _) in SHAPES {
                let (got, want) = (step.read(name).unwrap(), row(wanted.get(&format!("{id}.{name}")), kept));
                faults.extend(compare(&format!("{id} {name} after step {t}"), &got, &want, TOLERANCE).err());
            }
        }
    }
}

#[test]
fn updates_are_pytorchs_with_every_option_for_100_steps() {
    let problem = Tensors::load("optim_problem");
    let mut faults = Vec::new();
    // AMSGrad is no option of ours.
    let (amsgrad, ours): (Vec<Json>, Vec<Json>) =
        cases("optim").into_iter().partition(|c| c["options"]["amsgrad"] == true);
    assert_eq!((ours.len(), amsgrad.len()), (34, 20));
    for case in &ours {
        check(case, &problem, &mut faults);
    }
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}
