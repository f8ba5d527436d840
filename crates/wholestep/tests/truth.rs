//! Whole training runs against PyTorch's: an MLP, a CNN with batch normalization and a residual network, from PyTorch's initial parameters,
//! with every stored optimizer for 100 steps.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/poisoned.rs"]
mod poisoned;

use golden::{Tensors, cases, compare};
use serde_json::Value as Json;
use wholestep::optim::{Optimizer, Sgd};
use wholestep::train::OptimizerSpec;
use wholestep::{Array, Batch, Clip, DType, Dim, Init, Scope, Step, Tensor};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::ir::scope::slot_node;
use wholestep_compiler::ir::{SlotId, SlotKind};
use wholestep_compiler::ops::{ConvOptions, Padding, PoolOptions};

/// One step: rounding only.
const FIRST_STEP: f64 = 1e-6;
/// A hundred steps. The golden runs were chosen so that f64, or noise of 1e-6 in each gradient, moves no tensor further than this.
const ALL_STEPS: f64 = 2e-5;

// Every initial value is overwritten with PyTorch's, so NaN shows what was forgotten.
const UNSET: Init = Init::Const(f64::NAN);

fn linear(s: &Scope, x: &Tensor, n_in: usize, n_out: usize) -> Tensor {
    x.linear(&s.param("weight", [n_out, n_in], UNSET), Some(&s.param("bias", [n_out], UNSET)))
}

fn conv(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Tensor {
    let w = s.param("weight", [c_out, c_in, kernel, kernel], UNSET);
    let options =
        ConvOptions { stride: [stride; 2], padding: Padding::all((kernel - 1) / 2), ..ConvOptions::default() };
    x.conv2d(&w, None, &options)
}

fn batch_norm(s: &Scope, x: &Tensor, c: usize) -> Tensor {
    let (gamma, beta) = (s.param("weight", [c], UNSET), s.param("bias", [c], UNSET));
    let now = x.batch_statistics();
    for (name, value) in [("running_mean", &now.mean), ("running_var", &now.var_unbiased)] {
        let running = s.buffer(name, [c], UNSET);
        s.update(&running, &(&running * 0.9 + value.reshape([c]) * 0.1));
    }
    now.normalize(Some(&gamma), Some(&beta), 1e-5)
}

fn mlp(s: &Scope, x: &Tensor) -> Tensor {
    let x = linear(&s.sub("0"), x, 10, 16).relu();
    let x = linear(&s.sub("2"), &x, 16, 12).relu();
    linear(&s.sub("4"), &x, 12, 4)
}

fn cnn(s: &Scope, x: &Tensor) -> Tensor {
    let x = conv(&s.sub("0"), x, 1, 6, 3, 1);
    let x = batch_norm(&s.sub("1"), &x, 6).relu();
    let x = conv(&s.sub("3"), &x, 6, 8, 3, 2);
    let x = batch_norm(&s.sub("4"), &x, 8).relu();
    let x = x.max_pool2d(&PoolOptions::new([2, 2])).flatten(1, -1);
    linear(&s.sub("8"), &x, 72, 4)
}

fn block(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, stride: usize) -> Tensor {
    let y = conv(&s.sub("conv1"), x, c_in, c_out, 3, stride);
    let y = batch_norm(&s.sub("bn1"), &y, c_out).relu();
    let y = conv(&s.sub("conv2"), &y, c_out, c_out, 3, 1);
    let y = batch_norm(&s.sub("bn2"), &y, c_out);
    let short = if c_in == c_out {
        x.clone()
    } else {
        let down = s.sub("down");
        batch_norm(&down.sub("1"), &conv(&down.sub("0"), x, c_in, c_out, 1, stride), c_out)
    };
    (y + short).relu()
}

fn resnet(s: &Scope, x: &Tensor) -> Tensor {
    let x = conv(&s.sub("conv"), x, 3, 6, 3, 2);
    let x = batch_norm(&s.sub("bn"), &x, 6).relu();
    let x = block(&s.sub("block1"), &x, 6, 6, 1);
    let x = block(&s.sub("block2"), &x, 6, 10, 2);
    linear(&s.sub("fc"), &x.mean([2, 3]), 10, 4)
}

/// Makes the gradient of each parameter P readable as `grad/P`.
fn output_gradients(s: &Scope, loss: &Tensor) {
    let params: Vec<(String, Tensor)> = {
        let graph = s.graph().borrow();
        let slots = graph.slots.iter().enumerate().filter(|(_, slot)| slot.kind == SlotKind::Param { trainable: true });
        let node = |i: usize| slot_node(&graph, SlotId(i as u32)).expect("a slot has a node");
        slots.map(|(i, slot)| (slot.name.clone(), Tensor::from_node(s.graph().clone(), node(i)))).collect()
    };
    let tensors: Vec<Tensor> = params.iter().map(|(_, p)| p.clone()).collect();
    for ((name, _), g) in params.iter().zip(gradients(loss, &tensors)) {
        s.output(&format!("grad/{name}"), &g);
    }
}

/// Row `i` of a tensor, without the first axis.
fn row(all: &Array, i: usize) -> Array {
    let shape = all.shape()[1..].to_vec();
    all.slice_rows(i, i + 1).and_then(|row| row.reshape(shape)).expect("the row is there")
}

/// The optimizer of a golden run.
fn rule(options: &Json) -> OptimizerSpec {
    let mut options = options.as_object().expect("options").clone();
    let kind = options.remove("kind").expect("a kind").as_str().expect("a name").to_lowercase();
    options.insert("type".to_string(), Json::String(kind));
    serde_json::from_value(Json::Object(options)).expect("our names are PyTorch's")
}

/// The model of a golden case on a poisoned device, with PyTorch's initial parameters.
struct Truth {
    tensors: Tensors,
    case: Json,
    model: fn(&Scope, &Tensor) -> Tensor,
}

impl Truth {
    fn new(id: &str, model: fn(&Scope, &Tensor) -> Tensor) -> Truth {
        let case = cases("truth").into_iter().find(|c| c["id"] == id).expect("the case is there");
        Truth { tensors: Tensors::load(id), case, model }
    }

    fn compile(&self, optimizer: impl Optimizer, clip: Option<f64>, is_showing_gradients: bool) -> Step {
        let x = row(self.tensors.get("x"), 0);
        let mut shape = vec![Batch];
        shape.extend(x.shape()[1..].iter().map(|&d| Dim::from(d)));
        let options = Step::options().max_batch(x.shape()[0]);
        let options = if let Some(max) = clip { options.clip(Clip::GlobalNorm(max)) } else { options };
        let built = options.compile(&poisoned::poisoned(), optimizer, |s| {
            let x = s.input("x", shape, DType::F32);
            let y = s.labels("y", (Batch,), DType::I64, 4, None);
            let logits = (self.model)(s, &x);
            s.output("logits", &logits);
            let loss = logits.cross_entropy(&y);
            if is_showing_gradients {
                output_gradients(s, &loss);
            }
            loss
        });
        let mut step = built.unwrap_or_else(|e| panic!("{}: {e}", self.case["id"]));
        for (slot, value) in self.tensors.floats_below("init.") {
            step.write(&slot, value).expect("PyTorch's value fits the slot");
        }
        step
    }

    fn run(&self, step: &mut Step, i: usize) {
        let (x, y) = (row(self.tensors.get("x"), i % 5), row(self.tensors.get("y"), i % 5));
        step.run(&[("x", &x), ("y", &y)]).expect("the step runs");
    }

    /// Logits, loss and gradients before the first update.
    fn check_first(&self, faults: &mut Vec<String>) {
        let mut step = self.compile(Sgd::new(0.0), None, true);
        self.run(&mut step, 0);
        let mut check = |name: String, got: &Array, want: &Array, relative: f64| {
            faults.extend(compare(&format!("{} {name}", self.case["id"]), got, want, relative).err());
        };
        check("logits".into(), &step.output("logits").unwrap(), self.tensors.get("logits"), FIRST_STEP);
        check("loss".into(), &step.output("loss").unwrap(), self.tensors.get("loss"), FIRST_STEP);
        for (name, want) in self.tensors.floats_below("grad.") {
            // A gradient is a sum over the batch and the image whose terms cancel: its rounding is that of its largest terms.
            let got = step.output(&format!("grad/{name}")).unwrap();
            check(format!("gradient of {name}"), &got, want, 3.0 * FIRST_STEP);
        }
    }

    fn check_slots(&self, step: &mut Step, run: &str, after: usize, relative: f64, faults: &mut Vec<String>) {
        for (slot, want) in self.tensors.floats_below(&format!("{run}.step{after}.")) {
            let what = format!("{} {run}: {slot} after step {after}", self.case["id"]);
            faults.extend(compare(&what, &step.read(&slot).unwrap(), want, relative).err());
        }
    }

    /// 100 steps of one stored run.
    fn check_run(&self, run: &str, options: &Json, faults: &mut Vec<String>) {
        let clip = options["clip_grad_norm"].as_f64();
        let mut step = self.compile(rule(&options["optimizer"]), clip, false);
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for i in 0..100 {
            self.run(&mut step, i);
            losses.push(step.loss().unwrap());
            if clip.is_some() {
                norms.push(step.output("grad_norm").unwrap().slice::<f32>().unwrap()[0]);
            }
            if i == 0 {
                self.check_slots(&mut step, run, 1, FIRST_STEP, faults);
            }
        }
        self.check_slots(&mut step, run, 100, ALL_STEPS, faults);
        let mut check = |name: &str, got: Vec<f32>| {
            let want = self.tensors.get(&format!("{run}.{name}"));
            let what = format!("{} {run}: {name}", self.case["id"]);
            faults.extend(compare(&what, &Array::from_vec(got), want, ALL_STEPS).err());
        };
        check("losses", losses);
        if clip.is_some() {
            check("grad_norms", norms);
        }
    }

    fn check(&self) {
        let mut faults = Vec::new();
        self.check_first(&mut faults);
        let runs = self.case["runs"].as_object().expect("runs");
        assert_eq!(runs.keys().collect::<Vec<_>>(), ["adam", "adamw", "sgd", "sgd_clip"]);
        for (run, options) in runs {
            self.check_run(run, options, &mut faults);
        }
        assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    }
}

/// Single steps of runs from a seed that nobody chose, each from PyTorch's parameters, statistics and optimizer state at that step: what a
/// hundred steps add up cannot be compared for most seeds, because a ReLU at its edge sends two correct programs different ways.
#[test]
fn single_steps_anywhere_in_a_run_are_pytorchs() {
    let steps = Tensors::load("truth_steps");
    let mut faults = Vec::new();
    let mut n = 0;
    let nets: [(&str, fn(&Scope, &Tensor) -> Tensor); 3] = [("mlp", mlp), ("cnn", cnn), ("resnet", resnet)];
    for (net, model) in nets {
        let truth = Truth::new(&format!("truth_{net}"), model);
        for run in ["sgd", "adamw"] {
            let mut step = truth.compile(rule(&truth.case["runs"][run]["optimizer"]), None, false);
            for at in [0, 30, 99] {
                let key = format!("{net}.{run}.{at}");
                for (slot, value) in steps.floats_below(&format!("{key}.before.")) {
                    step.write(&slot, value).expect("PyTorch's value fits the slot");
                }
                // Before the first step there is none.
                let state = if at == 0 { Vec::new() } else { steps.floats_below(&format!("{key}.state.")) };
                for (slot, value) in state {
                    step.write(&format!("optimizer/{slot}"), value).expect("PyTorch's state fits the slot");
                }
                step.write("step", &Array::scalar(at as u32)).expect("the step number");
                let (x, y) = (steps.get(&format!("{net}.x")), steps.get(&format!("{net}.y")));
                step.run(&[("x", &row(x, at % 5)), ("y", &row(y, at % 5))]).expect("the step runs");
                let loss = Array::scalar(step.loss().unwrap());
                faults.extend(
                    compare(&format!("{key} loss"), &loss, steps.get(&format!("{key}.loss")), FIRST_STEP).err(),
                );
                for (slot, want) in steps.floats_below(&format!("{key}.after.")) {
                    n += 1;
                    faults
                        .extend(compare(&format!("{key} {slot}"), &step.read(&slot).unwrap(), want, FIRST_STEP).err());
                }
            }
        }
    }
    assert_eq!(n, 2 * 3 * (6 + 12 + 32), "tensors compared");
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn an_mlp_trains_as_in_pytorch() {
    Truth::new("truth_mlp", mlp).check();
}

#[test]
fn a_cnn_with_batch_normalization_trains_as_in_pytorch() {
    Truth::new("truth_cnn", cnn).check();
}

#[test]
fn a_residual_network_trains_as_in_pytorch() {
    Truth::new("truth_resnet", resnet).check();
}
