//! Update rules alone against PyTorch's, or their papers': each stored combination of options for 100 steps on given gradients. The loss
//! `Σ p·g` has the gradient g.

#[path = "support/golden.rs"]
mod golden;

use golden::{Tensors, cases, compare};
use serde_json::Value as Json;
use wholestep::train::OptimizerSpec;
use wholestep::{Array, DType, Device, Init, Step};

/// What the first ten steps may differ by, and 100, relative to the largest entry of a parameter.
const TOLERANCE: f64 = 1e-6;
const LATER: f64 = 1e-5;

/// Row `i` of a tensor, without the first axis.
fn row(all: &Array, i: usize) -> Array {
    let shape = all.shape()[1..].to_vec();
    all.slice_rows(i, i + 1).and_then(|row| row.reshape(shape)).expect("the row is there")
}

/// The case's options under our names, and whether it maximizes.
fn rule(case: &Json) -> (OptimizerSpec, bool) {
    let mut options = case["options"].as_object().expect("options").clone();
    let is_maximizing = options.remove("maximize").is_some_and(|m| m == true);
    let kind = case["optimizer"].as_str().expect("a name").to_lowercase();
    let kind = if kind == "schedulefreeadamw" { "schedule_free_adamw".to_string() } else { kind };
    options.insert("type".to_string(), Json::String(kind));
    if let Some(rate) = options.remove("adjust_lr_fn") {
        options.insert("rate".to_string(), rate);
    }
    let spec = serde_json::from_value(Json::Object(options)).unwrap_or_else(|e| panic!("{}: {e}", case["id"]));
    (spec, is_maximizing)
}

struct Case<'a> {
    json: &'a Json,
    id: &'a str,
    /// p0, p1 … that it updates.
    params: Vec<String>,
    problem: &'a Tensors,
}

impl<'a> Case<'a> {
    fn new(json: &'a Json, problem: &'a Tensors) -> Case<'a> {
        let keys = json["params"].as_array().expect("keys").iter().map(|k| k.as_str().expect("a key"));
        let params = keys.map(|k| k.rsplit('.').next().expect("a name").to_string()).collect();
        Case { json, id: json["id"].as_str().expect("an id"), params, problem }
    }

    fn gradient(param: &str) -> String {
        param.replace('p', "g")
    }

    fn compile(&self) -> Step {
        let (spec, is_maximizing) = rule(self.json);
        let built = Step::compile(&Device::cpu_with_threads(1), spec, |s| {
            let terms = self.params.iter().map(|name| {
                let shape = self.problem.get(name).shape().to_vec();
                let p = s.param(name, shape.clone(), Init::Const(f64::NAN));
                (p * s.input(&Case::gradient(name), shape, DType::F32)).sum(..)
            });
            let loss = terms.reduce(|a, b| a + b).expect("there are parameters");
            // PyTorch's `maximize` negates the gradient before anything else, which is the gradient of the negated loss.
            if is_maximizing { -loss } else { loss }
        });
        built.expect("the update compiles")
    }

    fn check(&self, faults: &mut Vec<String>) {
        let file = self.json["file"].as_str().and_then(|f| f.strip_suffix(".safetensors")).expect("a file");
        let wanted = Tensors::load(file);
        let mut step = self.compile();
        for name in &self.params {
            step.write(name, self.problem.get(name)).expect("the initial value fits");
        }
        for t in 1..=100 {
            let names: Vec<String> = self.params.iter().map(|p| Case::gradient(p)).collect();
            let grads: Vec<Array> = names.iter().map(|g| row(self.problem.get(g), t - 1)).collect();
            let inputs: Vec<(&str, &Array)> = names.iter().map(String::as_str).zip(&grads).collect();
            step.run(&inputs).expect("the step runs");
            let Some(kept) = [1, 2, 10, 100].iter().position(|&k| k == t) else { continue };
            for name in &self.params {
                let (got, want) = (step.read(name).unwrap(), row(wanted.get(&format!("{}.{name}", self.id)), kept));
                let what = format!("{} {name} after step {t}", self.id);
                faults.extend(compare(&what, &got, &want, if t > 10 { LATER } else { TOLERANCE }).err());
            }
        }
    }
}

/// What an optimizer remembers is what its formula says, step by step: sums of squares only grow, averages and momenta are those of the
/// gradients.
#[test]
fn what_is_remembered_moves_as_the_formula_says() {
    let problem = Tensors::load("optim_problem");
    let gradients: Vec<Vec<f64>> = (0..12)
        .map(|t| row(problem.get("g1"), t).slice::<f32>().unwrap().iter().map(|&g| f64::from(g)).collect())
        .collect();
    type Next = fn(f64, f64, usize) -> f64;
    let cases: [(&str, &str, Next); 6] = [
        ("adagrad", "sum", |sum, g, _| sum + g * g),
        ("rmsprop", "square_avg", |v, g, _| 0.99 * v + 0.01 * g * g),
        ("adadelta", "square_avg", |v, g, _| 0.9 * v + 0.1 * g * g),
        ("adam", "exp_avg", |m, g, _| 0.9 * m + 0.1 * g),
        ("adam", "exp_avg_sq", |v, g, _| 0.999 * v + 0.001 * g * g),
        ("sgd", "momentum_buffer", |b, g, t| if t == 0 { g } else { 0.9 * b + g }),
    ];
    for (kind, slot, next) in cases {
        let mut options = serde_json::json!({ "type": kind, "lr": 0.01 });
        if kind == "sgd" {
            options["momentum"] = 0.9.into();
        }
        let rule: OptimizerSpec = serde_json::from_value(options).unwrap();
        let built = Step::compile(&Device::cpu_with_threads(1), rule, |s| {
            (s.param("p", [5usize], Init::Const(1.0)) * s.input("g", [5usize], DType::F32)).sum(..)
        });
        let (mut step, mut want) = (built.unwrap(), vec![0.0; 5]);
        for (t, g) in gradients.iter().enumerate() {
            step.run(&[("g", &row(problem.get("g1"), t))]).unwrap();
            want.iter_mut().zip(g).for_each(|(w, g)| *w = next(*w, *g, t));
            let held = step.read(&format!("optimizer/p/{slot}")).unwrap();
            let as_f32 = Array::from_vec(want.iter().map(|&w| w as f32).collect::<Vec<f32>>());
            compare(&format!("{kind} {slot} after step {}", t + 1), &held, &as_f32, TOLERANCE).unwrap();
        }
        assert!(want.iter().all(|w| *w != 0.0), "{kind} {slot}: {want:?}");
    }
}

#[test]
fn updates_are_pytorchs_with_every_option_for_100_steps() {
    let (problem, all) = (Tensors::load("optim_problem"), cases("optim"));
    assert_eq!(all.len(), 218);
    let mut faults = Vec::new();
    all.iter().for_each(|case| Case::new(case, &problem).check(&mut faults));
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}
