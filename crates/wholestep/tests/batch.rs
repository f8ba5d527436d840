//! Changing batch sizes: one compiled step in poisoned memory against PyTorch's losses and weights, nothing compiled or allocated for a
//! batch within the maximum, and batches that add up to their parts.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/poisoned.rs"]
mod poisoned;

use golden::{Tensors, cases, compare};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use wholestep::ops::{Bce, BceWithLogits, CrossEntropy, Huber, Nll, Reduction, SmoothL1};
use wholestep::optim::{Adam, Optimizer, Sgd};
use wholestep::{Array, Batch, DType, Dim, Infer, Init, Scope, Step, Tensor};
use wholestep_compiler::autodiff::gradients;

const UNSET: Init = Init::Const(f64::NAN);

/// The stored models: Linear(6,8), for `bn` without bias and with BatchNorm1d(8), then ReLU and Linear(8,3).
fn logits(s: &Scope, model: &str, x: &Tensor) -> Tensor {
    let w = s.sub("0").param("weight", [8usize, 6], UNSET);
    let (h, last) = match model {
        "bn" => {
            let s = s.sub("1");
            let h = x.linear(&w, None);
            let now = h.batch_statistics();
            for (name, value) in [("running_mean", &now.mean), ("running_var", &now.var_unbiased)] {
                let running = s.buffer(name, [8usize], UNSET);
                s.update(&running, &(&running * 0.9 + value * 0.1));
            }
            let (gamma, beta) = (s.param("weight", [8usize], UNSET), s.param("bias", [8usize], UNSET));
            (now.normalize(Some(&gamma), Some(&beta), 1e-5), "3")
        }
        "plain" => (x.linear(&w, Some(&s.sub("0").param("bias", [8usize], UNSET))), "2"),
        other => panic!("no model {other}"),
    };
    let s = s.sub(last);
    h.relu().linear(&s.param("weight", [3usize, 8], UNSET), Some(&s.param("bias", [3usize], UNSET)))
}

fn loss(s: &Scope, model: &str, reduction: Reduction) -> Tensor {
    let x = s.input("x", (Batch, 6), DType::F32);
    let y = s.labels("y", (Batch,), DType::I64, 3, None);
    logits(s, model, &x).cross_entropy_with(&y, &CrossEntropy { reduction, ..CrossEntropy::default() })
}

fn reduction(name: &str) -> Reduction {
    match name {
        "mean" => Reduction::Mean,
        "sum" => Reduction::Sum,
        other => panic!("no reduction {other}"),
    }
}

fn compile(case: &Json, max_batch: usize, tensors: &Tensors) -> Step {
    let text = |name: &str| case[name].as_str().expect("a string");
    let lr = case["optimizer"]["lr"].as_f64().expect("a rate");
    match case["optimizer"]["kind"].as_str() {
        Some("SGD") => with(Sgd::new(lr), text("model"), text("reduction"), max_batch, tensors),
        Some("Adam") => with(Adam::new(lr), text("model"), text("reduction"), max_batch, tensors),
        other => panic!("no optimizer {other:?}"),
    }
}

fn with(rule: impl Optimizer, model: &str, of: &str, max_batch: usize, tensors: &Tensors) -> Step {
    let options = Step::options().max_batch(max_batch);
    let built = options.compile(&poisoned::poisoned(), rule, |s| loss(s, model, reduction(of)));
    let mut step = built.expect("the model compiles");
    for (slot, value) in tensors.floats_below(&format!("{model}.init.")) {
        step.write(&slot, value).expect("PyTorch's value fits the slot");
    }
    step
}

/// Runs `rows` rows and forgets them: whatever a device takes for its first step is there then.
fn warm_up(case: &Json, step: &mut Step, rows: usize, tensors: &Tensors) {
    let part = |name: &str| {
        let key = format!("{}.{name}", case["model"].as_str().expect("a model"));
        tensors.get(&key).slice_rows(0, rows).unwrap()
    };
    let fresh = step.snapshot().unwrap();
    step.run(&[("x", &part("x")), ("y", &part("y"))]).unwrap();
    step.loss().unwrap();
    step.restore(&fresh).unwrap();
}

/// Runs the stored batches in order; differences from PyTorch, and what each step did to the counters.
fn train(case: &Json, step: &mut Step, tensors: &Tensors, mut after: impl FnMut(usize, &Step)) -> Vec<String> {
    let (id, model) = (case["id"].as_str().expect("an id"), case["model"].as_str().expect("a model"));
    let (x, y) = (tensors.get(&format!("{model}.x")), tensors.get(&format!("{model}.y")));
    let (mut row, mut losses) = (0, Vec::new());
    for n in case["batches"].as_array().expect("batches") {
        let n = n.as_u64().expect("a size") as usize;
        let (x, y) = (x.slice_rows(row, row + n).unwrap(), y.slice_rows(row, row + n).unwrap());
        step.run(&[("x", &x), ("y", &y)]).expect("the step runs");
        after(n, step);
        losses.push(step.loss().unwrap());
        row += n;
    }
    assert_eq!(row, x.rows(), "{id}: all rows are used");
    let mut faults = Vec::new();
    // Each loss by itself: one of a batch of 32 would hide one of a batch of 1 behind its size.
    for (i, (got, want)) in losses.iter().zip(tensors.get(&format!("{id}.losses")).slice::<f32>().unwrap()).enumerate()
    {
        let what = format!("{id}: loss of step {i}");
        faults.extend(compare(&what, &Array::scalar(*got), &Array::scalar(*want), 2e-5).err());
    }
    for (slot, want) in tensors.floats_below(&format!("{id}.final.")) {
        faults.extend(compare(&format!("{id}: {slot}"), &step.read(&slot).unwrap(), want, 2e-5).err());
    }
    faults
}

#[test]
fn mixed_batches_train_as_in_pytorch_without_compiling_or_allocating() {
    let tensors = Tensors::load("dynamic_batch");
    let mut faults = Vec::new();
    let all = cases("dynamic_batch");
    assert_eq!(all.len(), 8);
    for case in &all {
        let mut step = compile(case, 32, &tensors);
        warm_up(case, &mut step, 32, &tensors);
        let loaded = step.counters();
        faults.extend(train(case, &mut step, &tensors, |_, step| {
            let now = step.counters();
            assert_eq!((now.allocations, now.allocated_bytes), (loaded.allocations, loaded.allocated_bytes));
            assert_eq!(now.compiles, loaded.compiles);
        }));
    }
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_batch_above_the_maximum_grows_the_arena_once_and_changes_no_number() {
    let tensors = Tensors::load("dynamic_batch");
    // A GPU has apart from the arena: batches, the four turns of memory through which they come, parameters and what is read back.
    let is_cpu = poisoned::poisoned().name() == "cpu";
    let most = if is_cpu { 1 } else { 8 };
    for case in &cases("dynamic_batch") {
        let mut step = compile(case, 8, &tensors);
        warm_up(case, &mut step, 8, &tensors);
        let (mut largest, mut counters) = (8, step.counters());
        let mut grown = 0;
        let faults = train(case, &mut step, &tensors, |n, step| {
            let now = step.counters();
            // Which launches share a dispatch of a GPU follows where their values lie, which a larger batch moves.
            if is_cpu || n <= largest {
                assert_eq!(now.compiles, counters.compiles, "nothing is compiled");
            }
            if n > largest {
                let taken = now.allocations - counters.allocations;
                assert!((1..=most).contains(&taken), "batch {n} after {largest}: {taken} new pieces of memory");
                assert!(now.allocated_bytes > counters.allocated_bytes);
                grown += 1;
            } else {
                assert_eq!(now.allocations, counters.allocations, "batch {n} fits into {largest}");
                assert_eq!(now.allocated_bytes, counters.allocated_bytes);
            }
            (largest, counters) = (largest.max(n), now);
        });
        assert_eq!(grown, 3, "16, 24 and 32 rows are more than all before them");
        assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    }
}

/// A loss of the golden file on what a model gave and a target.
fn loss_of(name: &str, x: &Tensor, t: &Tensor, reduction: Reduction) -> Tensor {
    match name {
        "CrossEntropy" => x.cross_entropy_with(t, &CrossEntropy { reduction, ..CrossEntropy::default() }),
        "NLL" => x.nll_loss_with(t, &Nll { reduction, ..Nll::default() }),
        "BCE" => x.bce_loss_with(t, &Bce { reduction, ..Bce::default() }),
        "BCEWithLogits" => x.bce_with_logits_with(t, &BceWithLogits { reduction, ..BceWithLogits::default() }),
        "MSE" => x.mse_loss_with(t, reduction),
        "L1" => x.l1_loss_with(t, reduction),
        "Huber" => x.huber_loss_with(t, &Huber { reduction, ..Huber::default() }),
        "SmoothL1" => x.smooth_l1_loss_with(t, &SmoothL1 { reduction, ..SmoothL1::default() }),
        "Hinge" => x.hinge_loss_with(t, reduction),
        other => panic!("no loss {other}"),
    }
}

/// A program that has a loss and its gradient by what a model gave, for batches of any size.
fn program_of(case: &Json, x: &Array, t: &Array) -> Infer {
    let batched = |of: &Array| {
        let rest = of.shape()[1..].iter().map(|&d| Dim::from(d));
        [Batch].into_iter().chain(rest).collect::<Vec<Dim>>()
    };
    let text = |name: &str| case[name].as_str().expect("a string");
    let built = Infer::compile(&poisoned::poisoned(), 32, |s| {
        let dtype = if t.as_slice::<i64>().is_some() { DType::I64 } else { DType::F32 };
        let (x, t) = (s.input("x", batched(x), DType::F32), s.input("t", batched(t), dtype));
        let loss = loss_of(text("loss"), &x, &t, reduction(text("reduction")));
        s.output("d_x", &gradients(&loss, &[x])[0]);
        loss
    });
    built.unwrap_or_else(|e| panic!("{}: {e}", case["id"]))
}

/// One program for each loss and reduction, in poisoned memory, over batches of 4, 8, 16, 24, 32, then 8, 16, 12, 20, then 1 and a prime.
#[test]
fn every_loss_is_pytorchs_in_one_program_for_batches_of_every_size() {
    let (tensors, mut programs, mut sizes) = (Tensors::load("losses"), BTreeMap::new(), BTreeMap::new());
    let mut faults = Vec::new();
    for case in cases("losses").iter().filter(|c| c["batches"] == "dynamic") {
        let tensor = |key: &Json| tensors.get(key.as_str().expect("a key"));
        let (x, t) = (tensor(&case["inputs"]["input"]), tensor(&case["target"]));
        // Labels and probabilities are two programs.
        let key = format!("{} {} {}", case["loss"], case["reduction"], t.shape().len());
        let program = programs.entry(key.clone()).or_insert_with(|| program_of(case, x, t));
        let got = program.run(&[("x", x), ("t", t)]).unwrap();
        let what = format!("{} of {} rows", case["id"], x.rows());
        faults.extend(compare(&what, &got, tensor(&case["output"]), 1e-6).err());
        let (d_x, want) = (program.output("d_x").unwrap(), tensor(&case["d_inputs"]["input"]));
        faults.extend(compare(&format!("{what}, gradient"), &d_x, want, 2e-6).err());
        sizes.entry(key).or_insert_with(Vec::new).push(x.rows());
    }
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(
        sizes.len(),
        20,
        "nine losses, one of them with two sorts of targets, and two reductions: {:?}",
        sizes.keys()
    );
    assert!(sizes.values().all(|rows| rows[..] == [4, 8, 16, 24, 32, 8, 16, 12, 20, 1, 13]), "{sizes:?}");
}

const PARAMS: [(&str, &str); 4] = [("0", "weight"), ("0", "bias"), ("2", "weight"), ("2", "bias")];

/// Loss and gradients of `rows` of the data in one batch, parameters as at the start.
fn parts_of(step: &mut Step, tensors: &Tensors, rows: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    let cut = |key: &str| tensors.get(key).slice_rows(rows.start, rows.end).unwrap();
    step.run(&[("x", &cut("plain.x")), ("y", &cut("plain.y"))]).unwrap();
    let mut values = vec![vec![step.loss().unwrap()]];
    for (layer, name) in PARAMS {
        values.push(step.output(&format!("grad/{layer}/{name}")).unwrap().slice::<f32>().unwrap().to_vec());
    }
    values
}

#[test]
fn loss_and_gradient_of_a_batch_are_those_of_its_parts() {
    let tensors = Tensors::load("dynamic_batch");
    for (name, is_mean) in [("mean", true), ("sum", false)] {
        let options = Step::options().max_batch(20);
        let built = options.compile(&poisoned::poisoned(), Sgd::new(0.0), |s| {
            let loss = loss(s, "plain", reduction(name));
            let params = PARAMS.map(|(layer, name)| {
                let graph = s.graph().borrow();
                let at = graph.slots.iter().position(|slot| slot.name == format!("{layer}/{name}")).unwrap();
                let id = wholestep_compiler::ir::SlotId(at as u32);
                let node = wholestep_compiler::ir::scope::slot_node(&graph, id).unwrap();
                Tensor::from_node(s.graph().clone(), node)
            });
            for ((layer, name), g) in PARAMS.iter().zip(gradients(&loss, &params)) {
                s.output(&format!("grad/{layer}/{name}"), &g);
            }
            loss
        });
        let mut step = built.unwrap();
        for (slot, value) in tensors.floats_below("plain.init.") {
            step.write(&slot, value).unwrap();
        }
        let whole = parts_of(&mut step, &tensors, 0..20);
        let parts = [0..13, 13..14, 14..20].map(|rows| (rows.len() as f64, parts_of(&mut step, &tensors, rows)));
        for (i, whole) in whole.iter().enumerate() {
            let weight = |n: f64| if is_mean { n / 20.0 } else { 1.0 };
            let sum = |j: usize| parts.iter().map(|(n, part)| weight(*n) * f64::from(part[i][j])).sum::<f64>() as f32;
            let want = Array::from_vec((0..whole.len()).map(sum).collect());
            compare(&format!("{name}, value {i}"), &Array::from_vec(whole.clone()), &want, 1e-6).unwrap();
        }
    }
}
