//! Schedules against PyTorch's: the rate of each of 50 updates and the weights that come of it, with SGD and with Adam. And what setting a
//! rate by hand may and may not do.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/optimizers.rs"]
mod optimizers;

use golden::{Tensors, cases, compare, head};
use optimizers::{OPTIMIZERS, of_kind};
use serde_json::Value as Json;
use wholestep::optim::{Adam, Lbfgs, NAdam, Optimizer, RmsProp, Sgd};
use wholestep::schedule::{
    Constant, CosineAnnealing, Lambda, OneCycle, Plateau, RunLength, Schedule, ScheduleSpec, StepDecay, Warmup,
};
use wholestep::train::OptimizerSpec;
use wholestep::{Array, Batch, DType, Device, Init, ParamGroup, Step};

/// Rates and the first ten updates; later ones, where rounding has added up.
const TOLERANCE: f64 = 1e-6;
const LATER: f64 = 3e-5;
const KEPT: [usize; 8] = [1, 2, 5, 10, 20, 30, 40, 50];

fn device() -> Device {
    Device::cpu_with_threads(1)
}

fn row(all: &Array, i: usize) -> Array {
    let shape = all.shape()[1..].to_vec();
    all.slice_rows(i, i + 1).and_then(|row| row.reshape(shape)).expect("the row is there")
}

/// A step whose one parameter `p` has the gradient `g`.
fn step_on_gradients(rule: impl Optimizer, schedule: &dyn Schedule) -> Step {
    let built = Step::options().schedule(schedule).compile(&device(), rule, |s| {
        (s.param("p", [5usize], Init::Const(1.0)) * s.input("g", [5usize], DType::F32)).sum(..)
    });
    built.expect("the step compiles")
}

fn check(case: &Json, metrics: &[f64], problem: &Tensors, tensors: &Tensors, faults: &mut Vec<String>) {
    let id = case["id"].as_str().expect("an id");
    let run = RunLength { steps: 50, steps_per_epoch: 5 };
    let spec = (!case["schedule"].is_null()).then(|| {
        serde_json::from_value::<ScheduleSpec>(case["schedule"].clone()).unwrap_or_else(|e| panic!("{id}: {e}"))
    });
    let schedule: Box<dyn Schedule> = match &spec {
        Some(spec) => spec.schedule(run),
        None => Box::new(Lambda(|step: &wholestep::Tensor| (&(step * 0.1) + 1.0).recip())),
    };
    if let Some(spec) = &spec {
        spec.check().unwrap_or_else(|e| panic!("{id}: {e}"));
        assert_eq!(&serde_json::from_value::<ScheduleSpec>(serde_json::to_value(spec).unwrap()).unwrap(), spec);
    }
    let watches = spec.as_ref().is_some_and(|s| s.reports().is_some());
    let mut step = match case["optimizer"].as_str() {
        Some("SGD") => step_on_gradients(Sgd::new(0.1).momentum(0.9), &*schedule),
        Some("Adam") => step_on_gradients(Adam::new(0.01), &*schedule),
        other => panic!("no optimizer {other:?}"),
    };
    step.write("p", problem.get("p1")).expect("the initial value fits");
    let rates = tensors.get(&format!("{id}.lr")).slice::<f32>().unwrap().to_vec();
    for t in 0..50 {
        step.run(&[("g", &row(problem.get("g1"), t))]).expect("the step runs");
        let got = step.output("lr").unwrap().reshape([1usize]).unwrap();
        let want = Array::from_vec(vec![rates[t]]);
        faults.extend(compare(&format!("{id} rate of step {t}"), &got, &want, TOLERANCE).err());
        if watches && t % 2 == 1 {
            step.report(metrics[t / 2]).unwrap();
        }
        if let Some(kept) = KEPT.iter().position(|&k| k == t + 1) {
            let want = row(tensors.get(&format!("{id}.p")), kept);
            let allowed = if t < 10 { TOLERANCE } else { LATER };
            let what = format!("{id} weights after step {}", t + 1);
            faults.extend(compare(&what, &step.read("p").unwrap(), &want, allowed).err());
        }
    }
}

#[test]
fn rates_and_weights_are_pytorchs_for_50_steps() {
    let (problem, tensors) = (Tensors::load("optim_problem"), Tensors::load("schedules"));
    let metrics: Vec<f64> = serde_json::from_value(head("schedules")["metrics"].clone()).expect("numbers");
    let (all, mut faults) = (cases("schedules"), Vec::new());
    assert_eq!(all.len(), 58);
    all.iter().for_each(|case| check(case, &metrics, &problem, &tensors, &mut faults));
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}

/// `p` after a step with gradient 1 minus `p` before.
fn moved(step: &mut Step) -> f32 {
    let p = |step: &mut Step| step.read("p").unwrap().slice::<f32>().unwrap()[0];
    let before = p(step);
    step.run(&[("g", &Array::from_vec(vec![1f32; 5]))]).unwrap();
    p(step) - before
}

#[test]
fn a_rate_set_by_hand_acts_at_once_costs_nothing_and_leaves_the_base_rate() {
    let schedule = StepDecay { size: 2, gamma: 0.5 };
    let mut step = step_on_gradients(Sgd::new(0.25), &schedule);
    assert_eq!(moved(&mut step), -0.25);
    let before = step.counters();
    step.set_lr(0.5).unwrap();
    assert_eq!(moved(&mut step), -0.5, "the very next update");
    assert_eq!([0; 2].map(|_| moved(&mut step)), [-0.25; 2], "the schedule goes on from the new base");
    assert_eq!(step.lr().unwrap(), 0.5, "the base rate is what was set, not what the schedule made of it");
    step.set_lr(0.25).unwrap();
    assert_eq!(moved(&mut step), -0.0625, "and back: 0.25 after four steps");
    let after = step.counters();
    assert_eq!(
        (after.compiles, after.allocations, after.allocated_bytes),
        (before.compiles, before.allocations, before.allocated_bytes)
    );
}

/// PyTorch's trajectories are of two optimizers. The others take the rates of a schedule as they take those that are set by hand.
#[test]
fn every_optimizer_takes_the_rates_of_its_schedule() {
    let problem = Tensors::load("optim_problem");
    let compile = |rule: &OptimizerSpec, schedule: &dyn Schedule| {
        let built = Step::options().schedule(schedule).compile(&device(), rule.clone(), |s| {
            let term = |name: &str, shape: &[usize]| {
                let p = s.param(&format!("p{name}"), shape.to_vec(), Init::Uniform { lo: -1.0, hi: 1.0 });
                (p * s.input(&format!("g{name}"), shape.to_vec(), DType::F32)).sum(..)
            };
            term("0", &[3, 4]) + term("1", &[5])
        });
        built.unwrap_or_else(|e| panic!("{rule:?}: {e}"))
    };
    for name in OPTIMIZERS.iter().chain(&["lbfgs"]) {
        let rule = match *name {
            "lbfgs" => OptimizerSpec::from(Lbfgs::new().fixed(0.1).max_iter(1)),
            name => of_kind(name, 0.05),
        };
        let schedule = Warmup::new(5, CosineAnnealing::new(25));
        let (mut scheduled, mut by_hand) = (compile(&rule, &schedule), compile(&rule, &Constant));
        let mut rates = Vec::new();
        for t in 0..40 {
            let grads = ["g0", "g1"].map(|g| row(problem.get(g), t));
            let inputs = [("g0", &grads[0]), ("g1", &grads[1])];
            scheduled.run(&inputs).unwrap();
            let rate = scheduled.output("lr").unwrap().item::<f32>().unwrap();
            by_hand.set_lr(rate).unwrap();
            by_hand.run(&inputs).unwrap();
            for p in ["p0", "p1"] {
                let [got, want] = [&mut scheduled, &mut by_hand].map(|step| step.read(p).unwrap());
                compare(&format!("{name} {p} after step {}", t + 1), &got, &want, TOLERANCE).unwrap();
            }
            rates.push(rate.to_bits());
        }
        rates.sort_unstable();
        rates.dedup();
        assert!(rates.len() > 25, "{name}: {} rates in 40 steps", rates.len());
        let mut constant = compile(&rule, &Constant);
        for t in 0..40 {
            let grads = ["g0", "g1"].map(|g| row(problem.get(g), t));
            constant.run(&[("g0", &grads[0]), ("g1", &grads[1])]).unwrap();
        }
        let [got, other] = [&mut scheduled, &mut constant].map(|step| step.read("p1").unwrap());
        assert!(compare(name, &got, &other, 100.0 * TOLERANCE).is_err(), "{name}: the rate does nothing");
    }
}

#[test]
fn the_rate_of_a_group_is_set_apart() {
    let groups = [ParamGroup::new("b").lr(0.5), ParamGroup::new("c").lr_scale(2.0)];
    let schedule = StepDecay { size: 1, gamma: 0.5 };
    let mut step = Step::options()
        .groups(groups)
        .schedule(&schedule)
        .compile(&device(), Sgd::new(1.0), |s| {
            let p = ["a", "b", "c"].map(|name| s.param(name, (), Init::Const(0.0)));
            &(&p[0] + &p[1]) + &p[2]
        })
        .unwrap();
    let run = |step: &mut Step| {
        step.run(&[]).unwrap();
        ["a", "b", "c"].map(|name| step.read(name).unwrap().slice::<f32>().unwrap()[0])
    };
    assert_eq!(run(&mut step), [-1.0, -0.5, -2.0]);
    step.set_group_lr("b", 4.0).unwrap();
    assert_eq!(run(&mut step), [-1.5, -2.5, -3.0], "all follow the schedule from their own base");
    let error = step.set_group_lr("c", 1.0).unwrap_err().to_string();
    assert!(error.starts_with("nothing is called lr/c"), "{error}");
}

#[test]
fn a_report_is_looked_at_once_and_only_where_something_watches() {
    let plateau = Plateau { patience: 0, factor: 0.5, ..Plateau::new() };
    let mut step = step_on_gradients(Sgd::new(1.0), &plateau);
    step.report(1.0).unwrap();
    assert_eq!([0; 3].map(|_| moved(&mut step)), [-1.0; 3], "the first report is an improvement");
    step.report(1.0).unwrap();
    assert_eq!([0; 3].map(|_| moved(&mut step)), [-0.5; 3], "one report lowers the rate once");
    step.report(f64::NAN).unwrap();
    assert_eq!(moved(&mut step), -0.25, "what is no number is no improvement");
    let error = step_on_gradients(Sgd::new(1.0), &OneCycle::new(10)).report(1.0).unwrap_err().to_string();
    assert!(error.starts_with("nothing is called plateau/reported"), "{error}");
}

#[test]
fn a_cycled_momentum_needs_an_optimizer_that_has_one() {
    let cycle = OneCycle { momentum: Some((0.8, 0.9)), ..OneCycle::new(10) };
    let compile = |rule: OptimizerSpec| {
        Step::options().schedule(&cycle).compile(&device(), rule, |s| {
            (s.param("p", [1usize], Init::Const(1.0)) * s.input("x", (Batch, 1), DType::F32)).mean(..)
        })
    };
    for rule in [OptimizerSpec::sgd(0.1), RmsProp::new(0.1).into(), NAdam::new(0.1).into()] {
        let error = compile(rule).err().expect("refused").to_string();
        assert_eq!(error, "the schedule cycles the momentum, and the optimizer has none to cycle");
    }
    compile(RmsProp { momentum: 0.5, ..RmsProp::new(0.1) }.into()).unwrap();
}
