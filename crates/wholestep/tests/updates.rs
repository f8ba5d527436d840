//! What stands around an update rule, against PyTorch's numbers on a small network: every optimizer for 100 steps, parameter groups, averages
//! of the weights, gradient norms, the noise scale; and accumulation against the large batch.

#[path = "support/golden.rs"]
mod golden;

use golden::{Tensors, cases, compare};
use serde_json::Value as Json;
use wholestep::checkpoint::Weights;
use wholestep::nn::Linear;
use wholestep::optim::{Adam, Optimizer, ScheduleFreeAdamW, Sgd};
use wholestep::schedule::Exponential;
use wholestep::step::{GRAD_NORM, NOISE_SCALE, StepOptions};
use wholestep::train::OptimizerSpec;
use wholestep::{Array, Average, Batch, Clip, DType, Device, Infer, ParamGroup, Precision, Scope, Step, Tensor};
use wholestep_compiler::ir::SlotKind;

const EARLY: f64 = 1e-6;
const LATER: f64 = 1e-4;
const PARAMS: [&str; 4] = ["0/weight", "0/bias", "2/weight", "2/bias"];

fn device() -> Device {
    Device::cpu_with_threads(1)
}

fn logits(s: &Scope) -> Tensor {
    let x = s.input("x", (Batch, 5), DType::F32);
    let hidden = Linear::new(&s.sub("0"), 5, 8).forward(&x).tanh();
    Linear::new(&s.sub("2"), 8, 3).forward(&hidden)
}

struct Net {
    tensors: Tensors,
}

impl Net {
    fn new() -> Net {
        Net { tensors: Tensors::load("training") }
    }

    /// The network with PyTorch's initial weights.
    fn compile(&self, options: StepOptions, rule: impl Optimizer) -> Step {
        let built = options.max_batch(12).compile(&device(), rule, |s| {
            let y = s.labels("y", (Batch,), DType::I64, 3, None);
            logits(s).cross_entropy(&y)
        });
        let mut step = built.unwrap_or_else(|e| panic!("{e}"));
        for (name, value) in self.tensors.floats_below("init.") {
            step.write(&name, value).expect("PyTorch's value fits");
        }
        step
    }

    /// Rows `from..to` of batch `t`.
    fn rows(&self, t: usize, from: usize, to: usize) -> (Array, Array) {
        let part = |key: &str| {
            let batch = self.tensors.get(key).slice_rows(t % 3, t % 3 + 1).unwrap();
            let shape = batch.shape()[1..].to_vec();
            batch.reshape(shape).unwrap().slice_rows(from, to).unwrap()
        };
        (part("x"), part("y"))
    }

    fn run(&self, step: &mut Step, t: usize, from: usize, to: usize) {
        let (x, y) = self.rows(t, from, to);
        step.run(&[("x", &x), ("y", &y)]).expect("the step runs");
    }

    fn check(&self, step: &mut Step, key: &str, relative: f64, faults: &mut Vec<String>) {
        for (name, want) in self.tensors.floats_below(key) {
            faults.extend(compare(&format!("{key}{name}"), &step.read(&name).unwrap(), want, relative).err());
        }
    }
}

fn one(value: f32) -> Array {
    Array::from_vec(vec![value])
}

fn case(id: &str) -> Json {
    cases("training").into_iter().find(|c| c["id"] == id).unwrap_or_else(|| panic!("no case {id}"))
}

fn settled(faults: &[String]) {
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_network_learns_as_pytorchs_with_every_optimizer() {
    let (net, mut faults, mut n) = (Net::new(), Vec::new(), 0);
    for case in cases("training").iter().filter(|c| !c["rule"].is_null()) {
        let id = case["id"].as_str().unwrap();
        let rule: OptimizerSpec = serde_json::from_value(case["rule"].clone()).unwrap_or_else(|e| panic!("{id}: {e}"));
        let mut step = net.compile(Step::options().grad_norm(), rule);
        let [losses, norms] =
            ["losses", "norms"].map(|k| net.tensors.get(&format!("{id}.{k}")).slice::<f32>().unwrap().to_vec());
        for t in 0..100 {
            net.run(&mut step, t, 0, 12);
            let allowed = if t < 10 { EARLY } else { LATER };
            let got = [one(step.loss().unwrap()), step.output(GRAD_NORM).unwrap().reshape([1usize]).unwrap()];
            for (what, got, want) in [("loss", &got[0], losses[t]), ("norm", &got[1], norms[t])] {
                // A loss or norm is a sum of rounded parts: its floor is that of numbers near 1.
                let floor = allowed * f64::from(want.abs().max(0.3)) / f64::from(want.abs());
                faults.extend(compare(&format!("{id} {what} {t}"), got, &one(want), floor).err());
            }
        }
        net.check(&mut step, &format!("{id}.end."), LATER, &mut faults);
        n += 1;
    }
    assert_eq!(n, 14, "every optimizer");
    settled(&faults);
}

#[test]
fn groups_have_rates_decays_and_frozen_parts_of_their_own() {
    let (net, mut faults) = (Net::new(), Vec::new());
    for id in ["groups_rates", "groups_frozen"] {
        let groups: Vec<ParamGroup> = serde_json::from_value(case(id)["groups"].clone()).unwrap();
        let schedule = Exponential::new(0.95);
        let rule = Sgd::new(0.1).momentum(0.9).weight_decay(0.01);
        let mut step = net.compile(Step::options().groups(groups).schedule(&schedule), rule);
        (0..20).for_each(|t| net.run(&mut step, t, 0, 12));
        net.check(&mut step, &format!("{id}.end."), 2e-6, &mut faults);
    }
    settled(&faults);
}

#[test]
fn frozen_parameters_cost_no_gradient_no_state_and_no_update() {
    let wide = |groups: Vec<ParamGroup>| {
        let built = Step::options().max_batch(4).groups(groups).compile(&device(), Adam::new(0.1), |s| {
            let x = s.input("x", (Batch, 256), DType::F32);
            let hidden = Linear::new(&s.sub("backbone"), 256, 256).forward(&x).tanh();
            Linear::new(&s.sub("head"), 256, 1).forward(&hidden).square().mean(..)
        });
        built.unwrap()
    };
    let mut all = wide(vec![]);
    let mut frozen = wide(vec![ParamGroup::new("backbone/*").frozen()]);
    let saved = all.memory_bytes().persistent_bytes - frozen.memory_bytes().persistent_bytes;
    assert_eq!(saved, 2 * 4 * (256 * 256 + 256), "two moments of each frozen element");
    assert!(frozen.costs().len() < all.costs().len(), "no launch makes a gradient of the backbone");
    assert!(!frozen.costs().iter().any(|c| c.scope.contains("optimizer/backbone")), "{:?}", frozen.costs());
    let kinds: Vec<_> = frozen.slots().map(|(name, kind)| (name.to_string(), kind)).collect();
    assert!(kinds.contains(&("backbone/weight".to_string(), SlotKind::Param { trainable: false })));
    assert!(!kinds.iter().any(|(name, _)| name.starts_with("optimizer/backbone")), "{kinds:?}");
    let x = Array::new((0..1024).map(|i| (i % 7) as f32 / 7.0).collect::<Vec<f32>>(), [4usize, 256]).unwrap();
    for step in [&mut all, &mut frozen] {
        let [before, head] = ["backbone/weight", "head/weight"].map(|n| step.read(n).unwrap());
        (0..3).for_each(|_| step.run(&[("x", &x)]).unwrap());
        let is_frozen = step.slots().any(|(n, k)| n == "backbone/weight" && k == SlotKind::Param { trainable: false });
        assert_eq!(step.read("backbone/weight").unwrap() == before, is_frozen);
        assert_ne!(step.read("head/weight").unwrap(), head);
    }
}

#[test]
fn group_patterns_that_do_nothing_are_errors() {
    let error = |groups: Vec<ParamGroup>, rule: &dyn Fn(StepOptions) -> wholestep::Result<Step>| {
        rule(Step::options().groups(groups)).expect_err("refused").to_string()
    };
    let model = |s: &Scope| {
        let y = s.labels("y", (Batch,), DType::I64, 3, None);
        logits(s).cross_entropy(&y)
    };
    let sgd = |o: StepOptions| o.compile(&device(), Sgd::new(0.1), model);
    assert_eq!(
        error(vec![ParamGroup::new("encoder/*").lr(0.1)], &sgd),
        "the group encoder/*: it matches no parameter; there are 0/weight, 0/bias, 2/weight, 2/bias"
    );
    assert_eq!(
        error(vec![ParamGroup::new("*").lr(0.1), ParamGroup::new("2/*").frozen()], &sgd),
        "the group 2/*: what it matches belongs to earlier groups"
    );
    assert_eq!(
        error(vec![ParamGroup::new("*").frozen()], &sgd),
        "all parameters are frozen; there is nothing to train"
    );
    assert_eq!(
        error(vec![ParamGroup::new("0/*").frozen().lr(0.1)], &sgd),
        "the group 0/*: frozen: need no other setting with it, got true"
    );
    let undecayed = |o: StepOptions| o.compile(&device(), NoDecay, model);
    assert_eq!(
        error(vec![ParamGroup::new("*/bias").weight_decay(0.0)], &undecayed),
        "the group */bias: the optimizer has no weight decay to set"
    );
}

struct NoDecay;

impl Optimizer for NoDecay {
    fn lr(&self) -> f64 {
        0.1
    }

    fn state(&self, _: &wholestep::Shape) -> Vec<wholestep::optim::StateSpec> {
        vec![]
    }

    fn update(&self, p: &Tensor, g: &Tensor, _: &[Tensor], s: &wholestep::optim::StepScalars) -> (Tensor, Vec<Tensor>) {
        (p - &(g * &s.lr), vec![])
    }
}

#[test]
fn averages_of_the_weights_are_pytorchs_and_what_is_saved() {
    let (net, mut faults) = (Net::new(), Vec::new());
    for id in ["ema", "swa"] {
        let average: Average = serde_json::from_value(case(id)["average"].clone()).unwrap();
        let mut step = net.compile(Step::options().average(average), Adam::new(0.02));
        for t in 1..=50 {
            net.run(&mut step, t - 1, 0, 12);
            if ![1, 13, 14, 18, 50].contains(&t) {
                continue;
            }
            let mut infer = Infer::compile(&device(), 12, logits).unwrap();
            infer.copy_from(&mut step).unwrap();
            let saved = Weights::of(&mut step).unwrap();
            for (name, want) in net.tensors.floats_below(&format!("{id}.{t}.")) {
                let got = infer.read(&name).unwrap();
                faults.extend(compare(&format!("{id} {name} after {t}"), &got, want, 1e-5).err());
                let (_, of_file) = saved.tensors().find(|(n, _)| *n == name.replace('/', ".")).unwrap();
                assert_eq!(*of_file, got, "what is saved is what is evaluated");
                if t > 14 {
                    assert_ne!(step.read(&name).unwrap(), got, "training goes on from its own weights");
                }
            }
        }
        // Loading sets both, so that evaluation sees at once what was loaded.
        let other = net.compile(Step::options(), Adam::new(0.02));
        let mut other = other;
        let fresh = Weights::of(&mut other).unwrap();
        fresh.load_into(&mut step).unwrap();
        assert_eq!(Weights::of(&mut step).unwrap(), fresh);
        assert_eq!(step.read("0/weight").unwrap(), other.read("0/weight").unwrap());
    }
    settled(&faults);
}

/// What evaluation reads and what files hold: both ways out of a step give the same.
fn evaluated(step: &mut Step) -> Vec<(String, Array)> {
    let mut infer = Infer::compile(&device(), 12, logits).unwrap();
    infer.copy_from(step).unwrap();
    let read: Vec<(String, Array)> = PARAMS.iter().map(|p| (p.to_string(), infer.read(p).unwrap())).collect();
    let saved = Weights::of(step).unwrap();
    let saved: Vec<(String, Array)> = saved.tensors().map(|(n, value)| (n.replace('.', "/"), value.clone())).collect();
    assert_eq!(saved, read);
    read
}

fn raw(step: &mut Step) -> Vec<(String, Array)> {
    PARAMS.iter().map(|p| (p.to_string(), step.read(p).unwrap())).collect()
}

/// Until an update was made the weights themselves are the average, whatever they were set to: while micro-batches are collected, and while
/// gradients overflow.
#[test]
fn before_the_first_update_the_weights_themselves_are_evaluated() {
    let net = Net::new();
    let averages = [None, Some(Average::Ema { decay: 0.5 }), Some(Average::Swa { start: 1, every: 2 })];
    for average in averages {
        let with = |options: StepOptions<'static>| match average {
            Some(average) => net.compile(options.average(average), OptimizerSpec::adam(0.05)),
            None => net.compile(options, OptimizerSpec::from(ScheduleFreeAdamW::new(0.05))),
        };
        // (options, calls without an update, calls of one update): of three calls, of an epoch's two, and in f16.
        let whole = Step::options().accumulate(3);
        let early = Step::options().accumulate(9).calls_per_epoch(2);
        let narrow = Step::options().precision(Precision::F16);
        for (options, n_before, n_update) in [(whole, 2, 3), (early, 1, 2), (narrow, 2, 1)] {
            let what = format!("{average:?} {options:?}");
            let is_scaled = n_update == 1;
            let mut step = with(options);
            let first = |p: &str| net.tensors.get(&format!("init.{}", p.replace('/', "."))).clone();
            let weights: Vec<(String, Array)> = PARAMS.iter().map(|p| (p.to_string(), first(p))).collect();
            assert_eq!(evaluated(&mut step), weights, "PyTorch's first weights, {what}");
            if is_scaled {
                step.write("loss_scale", &Array::scalar(1e30_f32)).unwrap();
            }
            (0..n_before).for_each(|t| net.run(&mut step, t, 0, 12));
            assert_eq!(evaluated(&mut step), weights, "no update so far, {what}");
            // What is written by hand is what counts, and so is what is loaded.
            let other = Array::new(vec![0.25_f32; 40], [8, 5]).unwrap();
            step.write(PARAMS[0], &other).unwrap();
            assert_eq!(evaluated(&mut step)[0].1, other, "{what}");
            let saved = Weights::of(&mut step).unwrap();
            step.write(PARAMS[0], &weights[0].1).unwrap();
            saved.load_fitting(&mut step, |name| name == "0.weight").unwrap();
            assert_eq!(evaluated(&mut step)[0].1, other, "{what}");
            if is_scaled {
                step.write("loss_scale", &Array::scalar(1024_f32)).unwrap();
            }
            let n_first = if is_scaled { 1 } else { n_update - n_before };
            (0..n_first).for_each(|t| net.run(&mut step, t, 0, 12));
            assert_ne!(raw(&mut step), weights, "an update, {what}");
            // From then on the average is evaluated, which the next updates leave behind.
            (0..3 * n_update).for_each(|t| net.run(&mut step, t, 0, 12));
            let slot = if average.is_some() { "average/0/weight" } else { "optimizer/0/weight/x" };
            assert_eq!(evaluated(&mut step)[0].1, step.read(slot).unwrap(), "{what}");
            assert_ne!(evaluated(&mut step), raw(&mut step), "{what}");
            // A part that is loaded is evaluated at once, and nothing else changes.
            let before = evaluated(&mut step);
            saved.load_fitting(&mut step, |name| name == "0.weight").unwrap();
            let after = evaluated(&mut step);
            assert_eq!((&after[0].1, &after[1..]), (&other, &before[1..]), "{what}");
        }
    }
}

#[test]
fn accumulated_micro_batches_are_the_large_batch() {
    let (net, mut faults) = (Net::new(), Vec::new());
    let clip = Clip::GlobalNorm(0.5);
    // Equal and unequal parts of the same rows.
    for parts in [vec![0, 3, 6, 9, 12], vec![0, 5, 6, 12]] {
        let k = parts.len() as u32 - 1;
        let schedule = Exponential::new(0.9);
        let average = Average::Ema { decay: 0.5 };
        let options = || Step::options().schedule(&schedule).clip(clip).average(average);
        let mut large = net.compile(options(), Adam::new(0.05));
        let mut small = net.compile(options().accumulate(k), Adam::new(0.05));
        for t in 0..10 {
            net.run(&mut large, t, 0, 12);
            for (i, part) in parts.windows(2).enumerate() {
                let before: Vec<Array> = PARAMS.iter().map(|p| small.read(p).unwrap()).collect();
                net.run(&mut small, t, part[0], part[1]);
                let is_last = i + 2 == parts.len();
                let now: Vec<Array> = PARAMS.iter().map(|p| small.read(p).unwrap()).collect();
                assert_eq!(now != before, is_last, "update {t} after part {i}");
            }
            let names: Vec<String> = large.slots().map(|(n, _)| n.to_string()).filter(|n| n != "step").collect();
            for name in names {
                let (got, want) = (small.read(&name).unwrap(), large.read(&name).unwrap());
                if want.as_slice::<f32>().is_some() {
                    faults.extend(compare(&format!("{k} parts, {name}, update {t}"), &got, &want, 1e-5).err());
                }
            }
        }
        let loaded = small.counters();
        assert_eq!((loaded.submissions, loaded.bytes_read_back > 0), (10 * u64::from(k), true));
        assert_eq!(small.steps().unwrap(), 10 * k);
    }
    settled(&faults);
}

/// By value each element alone, by norm all parameters together, in both cases the mean of all micro-batches.
#[test]
fn gradients_are_clipped_by_value_or_by_the_norm_of_all() {
    // The gradient of `mean(x·a + z·b)` is the mean of the rows: (2, -0.25) and 2, over two runs.
    let runs = [([3.0f32, -0.5], 8.0f32), ([1.0, 0.0], -4.0)];
    let moved = |clip: Option<Clip>| {
        let options = clip.into_iter().fold(Step::options().accumulate(2), |options, clip| options.clip(clip));
        let built = options.compile(&device(), Sgd::new(1.0), |s| {
            let zero = wholestep::Init::Const(0.0);
            let (x, z) = (s.input("x", (Batch, 2), DType::F32), s.input("z", (Batch, 1), DType::F32));
            ((x * s.param("a", [2usize], zero.clone())).sum(1) + (z * s.param("b", [1usize], zero)).sum(1)).mean(..)
        });
        let mut step = built.unwrap();
        for (x, z) in runs {
            let (x, z) = (Array::new(x.to_vec(), [1, 2]).unwrap(), Array::new(vec![z], [1, 1]).unwrap());
            step.run(&[("x", &x), ("z", &z)]).unwrap();
        }
        let read = |step: &mut Step, name: &str| step.read(name).unwrap().slice::<f32>().unwrap().to_vec();
        [read(&mut step, "a"), read(&mut step, "b")].concat()
    };
    assert_eq!(moved(None), [-2.0, 0.25, -2.0]);
    assert_eq!(moved(Some(Clip::Value(0.5))), [-0.5, 0.25, -0.5]);
    assert_eq!(moved(Some(Clip::Value(2.0))), [-2.0, 0.25, -2.0]);
    let norm = (4.0f64 + 0.0625 + 4.0).sqrt();
    let scaled = |max: f64| [-2.0, 0.25, -2.0].map(|g| (g * (max / (norm + 1e-6)).min(1.0)) as f32).to_vec();
    for max in [1.0, 2.5, 3.0] {
        let (got, want) = (Array::from_vec(moved(Some(Clip::GlobalNorm(max)))), Array::from_vec(scaled(max)));
        compare(&format!("norm {max}"), &got, &want, EARLY).unwrap();
    }
}

/// Five micro-batches an epoch and two an update: the fifth makes one of its own. So an epoch is three updates, for the schedule, the average
/// and Adam alike, each of the rows that came since the last.
#[test]
fn what_is_left_at_the_end_of_an_epoch_makes_an_update() {
    let (net, mut faults) = (Net::new(), Vec::new());
    let schedule = Exponential::new(0.9);
    let options =
        || Step::options().schedule(&schedule).clip(Clip::GlobalNorm(0.5)).average(Average::Ema { decay: 0.5 });
    let mut large = net.compile(options(), Adam::new(0.05));
    let mut small = net.compile(options().accumulate(2).calls_per_epoch(5).noise_scale(), Adam::new(0.05));
    let read = |step: &mut Step, names: &[&str]| names.iter().map(|n| step.read(n).unwrap()).collect::<Vec<Array>>();
    for epoch in 0..4 {
        for (from, to) in [(0, 2), (2, 4), (4, 5)] {
            net.run(&mut large, epoch, 2 * from, 2 * to);
            let noise = read(&mut small, &["noise/signal", "noise/noise"]);
            for call in from..to {
                let before = read(&mut small, &PARAMS);
                net.run(&mut small, epoch, 2 * call, 2 * call + 2);
                assert_eq!(read(&mut small, &PARAMS) != before, call + 1 == to, "epoch {epoch}, call {call}");
            }
            let is_full = to - from == 2;
            assert_eq!(
                read(&mut small, &["noise/signal", "noise/noise"]) != noise,
                is_full,
                "one has no mean to differ from"
            );
            let names: Vec<String> = large.slots().map(|(n, _)| n.to_string()).filter(|n| n != "step").collect();
            for name in names {
                let (got, want) = (small.read(&name).unwrap(), large.read(&name).unwrap());
                if want.as_slice::<f32>().is_some() {
                    faults.extend(compare(&format!("{name}, epoch {epoch}, rows to {to}"), &got, &want, 1e-5).err());
                }
            }
        }
    }
    settled(&faults);
    // An epoch that is shorter than an update is one.
    let mut whole = net.compile(Step::options().accumulate(2), Adam::new(0.05));
    let mut short = net.compile(Step::options().accumulate(7).calls_per_epoch(2), Adam::new(0.05));
    for t in 0..6 {
        [&mut whole, &mut short].into_iter().for_each(|step| net.run(step, t, 0, 6));
        let [want, got] = [&mut whole, &mut short].map(|step| step.read("0/weight").unwrap());
        compare(&format!("call {t}"), &got, &want, 1e-6).unwrap();
    }
    let refused = Step::options().accumulate(2).calls_per_epoch(0).compile(&device(), Sgd::new(0.1), |s| {
        (s.param("p", (), wholestep::Init::Const(1.0)) * s.input("x", (Batch,), DType::F32)).mean(..)
    });
    assert_eq!(refused.expect_err("refused").to_string(), "calls_per_epoch: need at least 1 call, got 0");
}

#[test]
fn the_noise_scale_is_that_of_the_paper() {
    let (net, mut faults) = (Net::new(), Vec::new());
    let want = net.tensors.get("noise_scale").slice::<f32>().unwrap().to_vec();
    let mut step = net.compile(Step::options().accumulate(4).noise_scale(), Sgd::new(0.1));
    for (t, &want) in want.iter().enumerate() {
        for i in 0..4 {
            net.run(&mut step, t, 3 * i, 3 * i + 3);
        }
        let got = step.output(NOISE_SCALE).unwrap().reshape([1usize]).unwrap();
        faults.extend(compare(&format!("noise scale after update {t}"), &got, &one(want), 2e-5).err());
    }
    settled(&faults);
    let refused = Step::options().noise_scale().compile(&device(), Sgd::new(0.1), |s| {
        (s.param("p", (), wholestep::Init::Const(1.0)) * s.input("x", (Batch,), DType::F32)).mean(..)
    });
    let error = refused.expect_err("refused").to_string();
    assert_eq!(error, "gradient noise scale: need accumulate >= 2, for it compares micro-batches with their mean");
}
