//! What stays on the device: nothing is read back unless asked, one submission per call, memory as planned and flat, and as many launches
//! for many parameter tensors as for few.

#[path = "support/planner.rs"]
mod planner;
#[path = "support/process.rs"]
mod process;

use planner::planner;
use process::resident_bytes;
use std::time::Instant;
use wholestep::optim::{Adam, AdamW, Lbfgs, Optimizer, Sgd};
use wholestep::{Array, Batch, Clip, DType, Device, Infer, Init, Scope, Step, Tensor};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::ir::scope::slot_node;
use wholestep_compiler::ir::{SlotId, SlotKind};
use wholestep_cpu::loops::level::Level;
use wholestep_cpu::loops::machine::{PARTIAL_WORDS, REGISTER_BYTES};

const WIDTH: usize = 24;

/// `n_layers` square layers and a head.
fn mlp(s: &Scope, n_layers: usize) -> Tensor {
    let mut x = s.input("x", (Batch, WIDTH), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 4, None);
    let init = Init::Uniform { lo: -0.2, hi: 0.2 };
    for i in 0..n_layers {
        let s = s.sub(format!("fc{i}"));
        let (w, b) = (s.param("weight", [WIDTH, WIDTH], init.clone()), s.param("bias", [WIDTH], init.clone()));
        x = x.linear(&w, Some(&b)).relu();
    }
    let s = s.sub("head");
    let (w, b) = (s.param("weight", [4, WIDTH], init.clone()), s.param("bias", [4usize], init));
    x.linear(&w, Some(&b)).cross_entropy(&y)
}

fn batch(n: usize) -> (Array, Array) {
    let x = (0..n * WIDTH).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let y = (0..n).map(|i| (i % 4) as i32).collect();
    (Array::new::<f32>(x, vec![n, WIDTH]).unwrap(), Array::new::<i32>(y, vec![n]).unwrap())
}

fn device() -> Device {
    Device::cpu_with_threads(2)
}

#[test]
fn nothing_is_read_back_unless_asked_and_each_call_is_one_submission() {
    let mut step = Step::options().max_batch(8).compile(&device(), Adam::new(1e-3), |s| mlp(s, 2)).unwrap();
    let loaded = step.counters();
    assert_eq!((loaded.steps, loaded.submissions, loaded.bytes_read_back), (0, 0, 0));
    let (one, three) = (batch(8), batch(24));
    for _ in 0..50 {
        step.run(&[("x", &one.0), ("y", &one.1)]).unwrap();
        step.run_many(3, &[("x", &three.0), ("y", &three.1)]).unwrap();
    }
    let now = step.counters();
    assert_eq!((now.submissions, now.steps), (100, 200));
    assert_eq!(now.bytes_read_back, 0);
    assert_eq!(now.bytes_staged, loaded.bytes_staged, "arrays are read where they lie");
    assert_eq!((now.allocations, now.allocated_bytes), (loaded.allocations, loaded.allocated_bytes));
    assert_eq!(now.compiles, loaded.compiles);
    step.loss().unwrap();
    assert_eq!(step.counters().bytes_read_back, 4, "the loss is one f32");
    step.read("fc0/weight").unwrap();
    assert_eq!(step.counters().bytes_read_back, 4 + 4 * (WIDTH * WIDTH) as u64);
}

/// More steps than ten thousand, by `cargo xtask soak`, where the process does nothing else.
const STEPS: &str = "TEST_STEPS";

#[test]
fn ten_thousand_steps_take_no_more_memory_than_one() {
    let wanted = std::env::var(STEPS).ok();
    let n: u64 = wanted.as_ref().map_or(10_000, |n| n.parse().unwrap());
    let mut step =
        Step::options().max_batch(4).compile(&device(), Sgd::new(1e-3).momentum(0.9), |s| mlp(s, 1)).unwrap();
    let (x, y) = batch(4);
    step.run(&[("x", &x), ("y", &y)]).unwrap();
    let first = step.counters();
    let mut early = None;
    for done in 1..n {
        step.run(&[("x", &x), ("y", &y)]).unwrap();
        if done == n / 10 {
            early = resident_bytes();
        }
    }
    let last = step.counters();
    assert_eq!((last.allocations, last.allocated_bytes), (first.allocations, first.allocated_bytes));
    assert_eq!((last.steps, last.submissions), (n, n));
    assert_eq!(u64::from(step.steps().unwrap()), n);
    // Among other tests the process grows for their sake.
    if let (Some(_), Some(early), Some(late)) = (wanted, early, resident_bytes()) {
        println!("{n} steps: {early} bytes in memory after a tenth of them, {late} at the end");
        assert!(late as f64 <= 1.01 * early as f64, "{early} bytes in memory became {late}");
    }
}

#[test]
fn what_is_allocated_is_what_was_planned() {
    let fixed = [8, 32, 256].map(|max_batch| {
        let step = Step::options().max_batch(max_batch).compile(&device(), AdamW::new(1e-3), |s| mlp(s, 3)).unwrap();
        let (planned, held) = (step.memory_bytes(), step.counters().allocated_bytes as usize);
        held - planned.persistent_bytes - planned.transient_bytes
    });
    assert_eq!(fixed[0], fixed[1], "what is not planned does not depend on the batch");
    assert_eq!(fixed[0], fixed[2]);
    // Registers of two threads and the partial sums of split rows, one piece per segment of the widest launch: 8 parameter tensors.
    let partials = fixed[0] - 2 * REGISTER_BYTES;
    assert_eq!(partials % (8 * PARTIAL_WORDS), 0);
    assert!(partials <= 8 * 8 * PARTIAL_WORDS, "{} pieces of partial sums", partials / (8 * PARTIAL_WORDS));
}

#[test]
fn parameters_and_state_take_their_size_and_no_more() {
    let of = |rule: Box<dyn Fn(&Device) -> Step>| rule(&device()).memory_bytes().persistent_bytes;
    let sgd = of(Box::new(|d| Step::compile(d, Sgd::new(0.1), |s| mlp(s, 2)).unwrap()));
    let adam = of(Box::new(|d| Step::compile(d, Adam::new(0.1), |s| mlp(s, 2)).unwrap()));
    let rounded = |elems: usize| (4 * elems).next_multiple_of(64);
    let params = 2 * (rounded(WIDTH * WIDTH) + rounded(WIDTH)) + rounded(4 * WIDTH) + rounded(4);
    let scalars = 2 * 64; // step number and learning rate
    assert_eq!((sgd, adam), (params + scalars, 3 * params + scalars));
}

/// A forward pass without a step around it holds its weights and what two layers pass on: no gradients, no state of an optimizer.
#[test]
fn inference_takes_its_weights_and_two_activations() {
    // So many that what the cpu packs its operands into is small beside them.
    const ROWS: usize = 4096;
    let widths = [WIDTH, 200, 350, 120, 10];
    let infer = Infer::compile(&device(), ROWS, |s| {
        let mut x = s.input("x", (Batch, WIDTH), DType::F32);
        for (i, pair) in widths.windows(2).enumerate() {
            let s = s.sub(format!("fc{i}"));
            let w = s.param("weight", [pair[1], pair[0]], Init::Uniform { lo: -0.2, hi: 0.2 });
            x = x.linear(&w, Some(&s.param("bias", [pair[1]], Init::Const(0.0)))).relu();
        }
        x
    })
    .unwrap();
    let rounded = |elems: usize| (4 * elems).next_multiple_of(64);
    let weights: usize = widths.windows(2).map(|p| rounded(p[0] * p[1]) + rounded(p[1])).sum();
    let (memory, largest) = (infer.memory_bytes(), 4 * ROWS * 350);
    assert_eq!(memory.persistent_bytes, weights);
    assert!(memory.transient_bytes <= 2 * largest, "{} bytes beside {largest}", memory.transient_bytes);
}

/// Launches of a program that computes the loss and every gradient, and does not learn.
fn launches_of_gradients(n_layers: usize) -> usize {
    let built = Infer::compile(&device(), 8, |s| {
        let loss = mlp(s, n_layers);
        let params: Vec<Tensor> = {
            let graph = s.graph().borrow();
            let slots = graph.slots.iter().enumerate();
            let learned = slots.filter(|(_, slot)| slot.kind == SlotKind::Param { trainable: true });
            let node = |i: usize| slot_node(&graph, SlotId(i as u32)).expect("a slot has a node");
            learned.map(|(i, _)| Tensor::from_node(s.graph().clone(), node(i))).collect()
        };
        for (i, g) in gradients(&loss, &params).iter().enumerate() {
            s.output(&format!("grad{i}"), g);
        }
        loss
    });
    let text = built.unwrap().explain();
    let before = &text[..text.find(" launches").expect("the number of launches")];
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("the number of launches")
}

fn launches_of_step(n_layers: usize, rule: impl Optimizer, clip: Option<Clip>) -> usize {
    let options = Step::options().max_batch(8);
    let options = if let Some(clip) = clip { options.clip(clip) } else { options };
    options.compile(&device(), rule, |s| mlp(s, n_layers)).unwrap().costs().len()
}

#[test]
fn the_optimizer_takes_as_many_launches_for_many_parameters_as_for_few() {
    let norm = Some(Clip::GlobalNorm(1.0));
    let added = [2, 4, 8].map(|n| {
        let without = launches_of_gradients(n) as i64;
        let adam = launches_of_step(n, Adam::new(1e-3), None) as i64;
        let clipped = launches_of_step(n, AdamW::new(1e-3), norm) as i64;
        let sgd = launches_of_step(n, Sgd::new(0.1).momentum(0.9), norm) as i64;
        [adam - without, clipped - without, sgd - without]
    });
    println!("launches beside the gradients' for 2, 4, 8 layers: {added:?}");
    for (name, which) in [("clipped AdamW", 1), ("clipped SGD", 2)] {
        let [two, four, eight] = [0, 1, 2].map(|i| added[i][which]);
        assert!(two == four && four == eight, "{name} takes {two}, {four}, {eight} launches for 2, 4, 8 layers");
        assert!(eight <= 6, "{name} takes {eight} launches");
    }
    // Without a norm between them, updates are the ends of the kernels that make the gradients: fewer launches than to store those.
    let [two, four, eight] = [0, 1, 2].map(|i| added[i][0]);
    assert!(two <= 2 && four <= two && eight <= four, "Adam takes {two}, {four}, {eight} launches for 2, 4, 8 layers");
}

/// The least of what `first` and what `second` takes, in nanoseconds, measured in turn: other tests run beside this one.
fn least_of_both(mut first: impl FnMut() -> f64, mut second: impl FnMut() -> f64) -> (f64, f64) {
    let rounds = (0..30).map(|_| (first(), second()));
    rounds.fold((f64::INFINITY, f64::INFINITY), |least, now| (least.0.min(now.0), least.1.min(now.1)))
}

/// Adam reads four arrays and writes three, as many bytes as a copy of half of them moves. `cargo bench -p wholestep --bench update` measures it
/// on a quiet machine (1.06 of plain loops); here it takes 0.75 of a copy, and without machine code 2.3; the bar is between.
#[test]
fn an_update_takes_about_what_its_bytes_take() {
    const TENSORS: usize = 8;
    const EACH: usize = 250_000;
    if Level::detect() != Level::Avx512 {
        return println!("skipped: updates become machine code where there is AVX-512");
    }
    // Clipping by norm makes the gradient a value of its own: the update is a launch of its own then.
    let options = Step::options().clip(Clip::GlobalNorm(1.0));
    let built = options.compile(&Device::cpu_with_threads(1), Adam::new(1e-3), |s| {
        let term = |i: usize| {
            let p = s.param(&format!("p{i}"), [EACH], Init::Const(0.5));
            (p * s.input(&format!("g{i}"), [EACH], DType::F32)).sum(..)
        };
        (0..TENSORS).map(term).reduce(|a, b| a + b).unwrap()
    });
    let mut step = built.unwrap();
    let grads: Vec<(String, Array)> =
        (0..TENSORS).map(|i| (format!("g{i}"), Array::from_vec(vec![0.01f32; EACH]))).collect();
    let inputs: Vec<(&str, &Array)> = grads.iter().map(|(name, g)| (name.as_str(), g)).collect();
    step.run(&inputs).unwrap();
    let from = vec![1u8; 14 * TENSORS * EACH];
    let mut to = from.clone();
    let copy = || {
        let began = Instant::now();
        to.copy_from_slice(&from);
        began.elapsed().as_nanos() as f64
    };
    let update = || {
        step.set_profiling(true);
        step.run(&inputs).unwrap();
        let costs = step.costs();
        costs.iter().max_by(|a, b| a.bytes.total_cmp(&b.bytes)).unwrap().ns_per_step
    };
    let (copied, updated) = least_of_both(copy, update);
    let ratio = updated / copied;
    println!("{updated:.0} ns for the update, {copied:.0} ns for its bytes: {ratio:.2}");
    assert!(ratio <= 1.5, "the update takes {ratio} of what its bytes take");
}

/// An iteration of L-BFGS with ten pairs, of a loss that costs little.
fn search(device: &Device, n: usize) -> Step {
    let rule = Lbfgs::new().max_iter(25).history_size(PAIRS).tolerance_grad(0.0).tolerance_change(0.0);
    let built = Step::compile(device, rule, |s| {
        let x = s.param("x", [n], Init::Uniform { lo: -1.0, hi: 1.0 });
        // Far enough from a quadratic that there is an iteration after each.
        let slope = x.positions(0, DType::F32) * (1.0 / n as f64) + 0.1;
        (x.square().square() * slope + x.square() * 0.5).sum(..)
    });
    built.unwrap()
}

const PAIRS: usize = 10;

/// The two loops of L-BFGS read each of the pairs' vectors twice; with a third pass over either list it would be 1.4 times as much and more.
#[test]
fn an_iteration_of_lbfgs_reads_its_history_about_as_often_as_two_loops() {
    const N: usize = 1 << 20;
    let list = (PAIRS * N * 4) as f64;
    for device in [Device::cpu_with_threads(1), planner("cuda", wholestep_cuda::translate::usual_caps())] {
        // Who puts a new pair into its place touches one row of a list.
        let costs = search(&device, N).costs();
        let passes: Vec<f64> = costs.iter().filter(|c| c.kind == "loop" && c.bytes >= list).map(|c| c.bytes).collect();
        let ratio = passes.iter().sum::<f64>() / (4.0 * list);
        println!(
            "{}: {ratio:.3} of what two loops read, in {} launches of {}",
            device.name(),
            passes.len(),
            costs.len()
        );
        assert!((0.5..=1.25).contains(&ratio), "{}: {ratio} of what two loops read", device.name());
    }
}
