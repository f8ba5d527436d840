//! Schedules with each optimizer against PyTorch's: the rate of each of 50 updates and the weights that come of it. And what setting a rate by
//! hand may and may not do.

#[path = "support/golden.rs"]
mod golden;

use golden::{Tensors, compare, head};
use serde_json::Value as Json;
use wholestep::optim::{Optimizer, RmsProp, Sgd};
use wholestep::schedule::{Lambda, OneCycle, Plateau, RunLength, Schedule, ScheduleSpec, StepDecay};
use wholestep::train::OptimizerSpec;
use wholestep::{Array, Batch, DType, Device, Init, ParamGroup, Result, Step};

/// Rates and the first ten updates; later ones, where rounding has added up.
const TOLERANCE: f64 = 1e-6;
const LATER: f64 = 3e-5;
const KEPT: [usize; 4] = [1, 10, 30, 50];
const NO_MOMENTUM: &str = "the schedule cycles the momentum, and the optimizer has none to cycle";
/// The shapes of the golden numbers.
const MATRIX_AND_VECTOR: [(&str, &[usize]); 2] = [("0", &[3, 4]), ("1", &[5])];

fn device() -> Device {
    Device::cpu_with_threads(1)
}

fn row(all: &Array, i: usize) -> Array {
    let shape = all.shape()[1..].to_vec();
    all.slice_rows(i, i + 1).and_then(|row| row.reshape(shape)).expect("the row is there")
}

/// A step whose parameter `pX` has the gradient `gX`, for each name X and shape.
fn step_on_gradients(rule: impl Optimizer, schedule: &dyn Schedule, params: &[(&str, &[usize])]) -> Result<Step> {
    Step::options().schedule(schedule).compile(&device(), rule, |s| {
        let term = |(name, shape): &(&str, &[usize])| {
            let p = s.param(&format!("p{name}"), shape.to_vec(), Init::Const(1.0));
            (p * s.input(&format!("g{name}"), shape.to_vec(), DType::F32)).sum(..)
        };
        params.iter().map(term).reduce(|a, b| a + b).expect("there are parameters")
    })
}

/// A schedule of the golden file, with each optimizer.
struct Case<'a> {
    id: &'a str,
    /// Its place in the tensors.
    at: usize,
    schedule: Box<dyn Schedule>,
    watches: bool,
    refused: Vec<&'a str>,
}

impl<'a> Case<'a> {
    fn new(at: usize, case: &'a Json) -> Case<'a> {
        let id = case["id"].as_str().expect("an id");
        let refused = case["refused"].as_array().expect("names").iter().map(|name| name.as_str().expect("a name"));
        let refused = refused.collect();
        if case["schedule"].is_null() {
            let schedule = Box::new(Lambda(|step: &wholestep::Tensor| (&(step * 0.1) + 1.0).recip()));
            return Case { id, at, schedule, watches: false, refused };
        }
        let spec: ScheduleSpec =
            serde_json::from_value(case["schedule"].clone()).unwrap_or_else(|e| panic!("{id}: {e}"));
        spec.check().unwrap_or_else(|e| panic!("{id}: {e}"));
        assert_eq!(serde_json::from_value::<ScheduleSpec>(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
        let schedule = spec.schedule(RunLength { steps: 50, steps_per_epoch: 5 });
        Case { id, at, schedule, watches: spec.reports().is_some(), refused }
    }

    fn check(&self, name: &str, rule: &OptimizerSpec, golden: &Golden, faults: &mut Vec<String>) {
        let what = format!("{name} under {}", self.id);
        let mut step = match step_on_gradients(rule.clone(), &*self.schedule, &MATRIX_AND_VECTOR) {
            Err(e) if self.refused.contains(&name) && e.to_string() == NO_MOMENTUM => return,
            Ok(step) if !self.refused.contains(&name) => step,
            Ok(_) => return faults.push(format!("{what}: PyTorch refuses it")),
            Err(e) => return faults.push(format!("{what}: {e}")),
        };
        for p in ["p0", "p1"] {
            step.write(p, golden.problem.get(p)).expect("the initial value fits");
        }
        let rates = row(golden.tensors.get(&format!("lr.{}", rule.lr())), self.at);
        let rates = rates.slice::<f32>().unwrap();
        for (t, rate) in rates.iter().enumerate() {
            let grads = ["g0", "g1"].map(|g| row(golden.problem.get(g), t));
            step.run(&[("g0", &grads[0]), ("g1", &grads[1])]).expect("the step runs");
            let got = step.output("lr").unwrap().reshape([1usize]).unwrap();
            let want = Array::from_vec(vec![*rate]);
            faults.extend(compare(&format!("{what}: rate of step {t}"), &got, &want, TOLERANCE).err());
            if self.watches && t % 2 == 1 {
                step.report(golden.metrics[t / 2]).unwrap();
            }
            let Some(kept) = KEPT.iter().position(|&k| k == t + 1) else { continue };
            for p in ["p0", "p1"] {
                let want = row(&row(golden.tensors.get(&format!("{name}.{p}")), self.at), kept);
                let allowed = if t < 10 { TOLERANCE } else { LATER };
                let what = format!("{what}: {p} after step {}", t + 1);
                faults.extend(compare(&what, &step.read(p).unwrap(), &want, allowed).err());
            }
        }
    }
}

struct Golden {
    problem: Tensors,
    tensors: Tensors,
    metrics: Vec<f64>,
}

/// Every schedule with every optimizer: those of PyTorch, and those of papers under PyTorch's schedulers.
#[test]
fn rates_and_weights_are_pytorchs_for_50_steps() {
    let head = head("schedules");
    let metrics = serde_json::from_value(head["metrics"].clone()).expect("numbers");
    let golden = Golden { problem: Tensors::load("optim_problem"), tensors: Tensors::load("schedules"), metrics };
    let rules = head["optimizers"].as_object().expect("optimizers by name");
    let cases = head["cases"].as_array().expect("a list of cases");
    assert_eq!((cases.len(), rules.len()), (29, 16));
    let mut faults = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let case = Case::new(at, case);
        for (name, options) in rules {
            let rule = serde_json::from_value(options.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
            case.check(name, &rule, &golden, &mut faults);
        }
    }
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}

/// The step of one parameter of five elements.
fn of_five(rule: Sgd, schedule: &dyn Schedule) -> Step {
    step_on_gradients(rule, schedule, &[("", &[5])]).expect("the step compiles")
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
    let mut step = of_five(Sgd::new(0.25), &schedule);
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
    let mut step = of_five(Sgd::new(1.0), &plateau);
    step.report(1.0).unwrap();
    assert_eq!([0; 3].map(|_| moved(&mut step)), [-1.0; 3], "the first report is an improvement");
    step.report(1.0).unwrap();
    assert_eq!([0; 3].map(|_| moved(&mut step)), [-0.5; 3], "one report lowers the rate once");
    step.report(f64::NAN).unwrap();
    assert_eq!(moved(&mut step), -0.25, "what is no number is no improvement");
    let error = of_five(Sgd::new(1.0), &OneCycle::new(10)).report(1.0).unwrap_err().to_string();
    assert!(error.starts_with("nothing is called plateau/reported"), "{error}");
}

/// Those that have none at all are among the cases of PyTorch.
#[test]
fn a_cycled_momentum_needs_one_that_is_switched_on() {
    let cycle = OneCycle { momentum: Some((0.8, 0.9)), ..OneCycle::new(10) };
    let compile = |rule: OptimizerSpec| {
        Step::options().schedule(&cycle).compile(&device(), rule, |s| {
            (s.param("p", [1usize], Init::Const(1.0)) * s.input("x", (Batch, 1), DType::F32)).mean(..)
        })
    };
    for rule in [OptimizerSpec::sgd(0.1), RmsProp::new(0.1).into()] {
        assert_eq!(compile(rule).expect_err("refused").to_string(), NO_MOMENTUM);
    }
    compile(RmsProp { momentum: 0.5, ..RmsProp::new(0.1) }.into()).unwrap();
}
