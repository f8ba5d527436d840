//! Whole error messages of building, feeding and reading a step: what was needed, what came, where, and what to do. Lines are those of
//! this file.

use wholestep::nn::{BatchNorm1d, BatchNorm1dSpec, BatchNorm2d, Linear};
use wholestep::optim::{Optimizer, Sgd, StateSpec, StepScalars};
use wholestep::{Array, Batch, DType, Device, ErrorKind, Infer, Init, Result, Scope, Shape, Step, Tensor};

fn device() -> Device {
    Device::cpu_with_threads(1)
}

/// The kind and the text of a failure, with line numbers of this file replaced by `_`.
fn failure<T>(result: Result<T>) -> (ErrorKind, String) {
    let error = result.err().expect("this must fail");
    let text = error.to_string();
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("errors.rs:") {
        let end = at + "errors.rs:".len();
        let path = rest[..end].rfind(char::is_whitespace).map_or(0, |i| i + 1);
        out.push_str(&rest[..path]);
        out.push_str("errors.rs:_");
        rest = rest[end..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    (error.kind(), out + rest)
}

#[track_caller]
fn assert_fails<T>(result: Result<T>, kind: ErrorKind, text: &str) {
    assert_eq!(failure(result), (kind, text.to_string()));
}

fn build(model: impl FnOnce(&Scope) -> Tensor) -> Result<Step> {
    Step::compile(&device(), Sgd::new(0.1), model)
}

#[test]
fn a_shape_error_has_the_users_line_and_scope() {
    let line = line!() + 4;
    let error = build(|s| {
        let x = s.input("x", (Batch, 768), DType::F32);
        let w = s.sub("gpt").sub("up").param("weight", [512usize, 3072], Init::Const(0.0));
        x.matmul(&w).sum(..)
    });
    let text = error.as_ref().expect_err("this must fail").to_string();
    assert!(text.contains(&format!("errors.rs:{line}")), "line {line} is not in:\n{text}");
    assert_fails(
        error,
        ErrorKind::Build,
        "matmul: need lhs.dim(-1) == rhs.dim(-2), got 768 and 512
  --> errors.rs:_   in gpt/up
  lhs [B, 768]    f32  from input x   errors.rs:_
  rhs [512, 3072] f32  from gpt/up/weight   errors.rs:_",
    );
}

#[test]
fn what_is_declared_after_an_error_changes_nothing() {
    let error = build(|s| {
        let x = s.input("x", (Batch, 4), DType::F32);
        let x = x.matmul(&s.param("w1", [3usize, 4], Init::Const(0.0)));
        let x =
            x.linear(&s.param("w2", [4usize, 4], Init::Const(0.0)), Some(&s.param("b2", [4usize], Init::Const(0.0))));
        s.update(&s.buffer("seen", (), Init::Const(0.0)), &x.dropout(s, 0.5).sum(..));
        x.cross_entropy(&s.labels("y", (Batch,), DType::I32, 4, None))
    });
    let (kind, text) = failure(error);
    assert_eq!(kind, ErrorKind::Build);
    assert!(text.starts_with("matmul: need lhs.dim(-1) == rhs.dim(-2), got 4 and 3\n  --> errors.rs:_"), "{text}");
    let empty = build(|s| {
        let x = Linear::new(&s.sub("fc1"), 4, 0).forward(&s.input("x", (Batch, 4), DType::F32));
        Linear::new(&s.sub("fc2"), 4, 2).forward(&x).square().mean(..)
    });
    assert!(failure(empty).1.starts_with("Linear: need out_features of at least 1, got 0"));
}

#[test]
fn a_parameter_that_the_loss_does_not_use_is_named() {
    let error = build(|s| {
        let x = s.input("x", (Batch, 4), DType::F32);
        let _ = s.sub("head").param("unused", [4usize], Init::Const(0.0));
        (x * s.param("used", [4usize], Init::Const(0.0))).sum(..)
    });
    assert_fails(
        error,
        ErrorKind::Build,
        "gradients: head/unused gets no gradient: the loss does not depend on it
  --> errors.rs:_   in head
  help: use it in the loss, make it a buffer, or freeze it",
    );
}

/// It would run, and never learn.
#[test]
fn a_model_without_parameters_is_refused() {
    let error = build(|s| {
        let x = s.input("x", (Batch, 4), DType::F32);
        (x * s.buffer("seen", [4usize], Init::Const(0.0))).sum(..)
    });
    let why = "the model has no parameter to train; Infer::compile takes programs without";
    assert_fails(error, ErrorKind::Config, why);
}

#[test]
fn a_loss_that_is_no_scalar_is_refused() {
    let error = build(|s| s.input("x", (Batch, 4), DType::F32) * s.param("w", [4usize], Init::Const(0.0)));
    assert_fails(
        error,
        ErrorKind::Build,
        "gradients: need a float scalar loss, got [B, 4] f32
  --> errors.rs:_
  loss from mul at errors.rs:_
  help: reduce it to a scalar, for example with .mean(..)",
    );
}

#[test]
fn bounds_that_are_out_of_order_are_refused() {
    let error = build(|s| s.param("w", [4usize], Init::Const(0.0)).clamp(1.0, -1.0).mean(..));
    let text = failure(error).1;
    assert!(text.starts_with("clamp: need lo <= hi, got 1 and -1\n"), "{text}");
    let error = build(|s| s.param("w", [4usize], Init::Const(0.0)).clamp(f64::NAN, 1.0).mean(..));
    let text = failure(error).1;
    assert!(text.starts_with("clamp: need lo <= hi, got NaN and 1\n"), "{text}");
}

/// An optimizer with one state tensor, whose `update` is given.
struct Faulty(fn(&Tensor, &Tensor, &Tensor) -> (Tensor, Vec<Tensor>));

impl Optimizer for Faulty {
    fn lr(&self) -> f64 {
        0.1
    }
    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        vec![StateSpec::zeros("sum", shape)]
    }
    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], _step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        (self.0)(p, g, &state[0])
    }
}

#[test]
fn an_optimizer_that_returns_the_wrong_tensors_is_named_with_its_line() {
    let fails = |rule: Faulty, text: &str| {
        let built = Step::compile(&device(), rule, |s| {
            (s.input("x", (Batch, 4), DType::F32) * s.sub("head").param("w", [4usize], Init::Const(0.5))).sum(..)
        });
        let help = "update() returns the next parameter and a Vec with the next of each of state(): sum; each of its own shape";
        let text = format!("optimizer: {text}\n  --> errors.rs:_   in optimizer/head/w\n  help: {help}");
        assert_fails(built, ErrorKind::Build, &text);
    };
    let none = Faulty(|p, g, _| (p - g, Vec::new()));
    fails(none, "update() returned 0 tensors of state, state() names 1");
    let two = Faulty(|p, g, s| (p - g, vec![s + g, s + g]));
    fails(two, "update() returned 2 tensors of state, state() names 1");
    let scalar = Faulty(|p, g, s| (p - g, vec![(s + g).sum(..)]));
    fails(scalar, "update() returned [] f32 as the next of sum, need [4] f32");
    let wide = Faulty(|p, g, s| ((p - g).cast(DType::F64), vec![s + g]));
    fails(wide, "update() returned [4] f64 as the next of the parameter, need [4] f32");
}

#[test]
fn a_wrong_tensor_of_an_optimizer_is_found_where_it_was_made() {
    let line = line!() + 1;
    let rule = Faulty(|p, g, s| (p - g, vec![(s + g).sum(..)]));
    let built = Step::compile(&device(), rule, |s| {
        (s.input("x", (Batch, 4), DType::F32) * s.param("w", [4usize], Init::Const(0.5))).sum(..)
    });
    let text = built.expect_err("this must fail").to_string();
    assert!(text.contains(&format!("errors.rs:{line} ")), "line {line} is not in:\n{text}");
}

#[test]
fn batch_normalization_refuses_a_batch_that_has_one_value_per_channel() {
    let line = line!() + 4;
    let mut step = build(|s| {
        let x = s.input("x", (Batch, 4), DType::F32);
        let norm = BatchNorm1d::new(&s.sub("bn"), 4);
        norm.forward(&x).square().mean(..)
    });
    let step = step.as_mut().expect("the batch is not known yet");
    let (kind, text) = failure(step.run(&[("x", &rows(1))]));
    let why = "BatchNorm1d needs more than one value per channel to train, at errors.rs:_   in bn";
    let advice = "give at least 2 rows, and leave out a last batch that has fewer";
    assert_eq!((kind, text), (ErrorKind::Input, format!("a batch of 1 is too small: {why}; {advice}")));
    let error = step.run_many(3, &[("x", &rows(3))]).unwrap_err().to_string();
    assert!(error.contains(&format!("errors.rs:{line} ")), "line {line} is not in: {error}");
    assert_eq!(step.steps().unwrap(), 0);
    assert_eq!(step.read("bn/running_var").unwrap().slice::<f32>().unwrap(), [1.0; 4]);
    step.run(&[("x", &rows(2))]).unwrap();
    // Without running statistics inference takes those of its batch, which then has to have some.
    let unkept = BatchNorm1dSpec::new().track_running_stats(false);
    for (spec, fits) in [(BatchNorm1dSpec::new(), true), (unkept, false)] {
        let infer = Infer::compile(&device(), 4, |s| {
            BatchNorm1d::with(&s.sub("bn"), 4, &spec).forward(&s.input("x", (Batch, 4), DType::F32))
        });
        assert_eq!(infer.unwrap().run(&[("x", &rows(1))]).is_ok(), fits);
    }
    // Images have places: one of them is enough.
    let images = build(|s| {
        let x = s.input("x", (Batch, 4, 1, 2), DType::F32);
        BatchNorm2d::new(&s.sub("bn"), 4).forward(&x).square().mean(..)
    });
    images.unwrap().run(&[("x", &rows(2).reshape(vec![1, 4, 1, 2]).unwrap())]).unwrap();
}

fn classifier() -> Step {
    let built = Step::options().max_batch(4).compile(&device(), Sgd::new(0.1), |s| {
        let x = s.input("x", (Batch, 4), DType::F32);
        let y = s.labels("y", (Batch,), DType::I32, 3, Some(-100));
        x.linear(&s.param("w", [3usize, 4], Init::Const(0.5)), None).cross_entropy(&y)
    });
    built.unwrap()
}

fn rows(n: usize) -> Array {
    Array::new(vec![0.5f32; n * 4], vec![n, 4]).unwrap()
}

fn labels(values: &[i32]) -> Array {
    Array::from_vec(values.to_vec())
}

/// Feeds a classifier something wrong; nothing may have run or changed.
fn refused(inputs: &[(&str, &Array)]) -> String {
    let mut step = classifier();
    let (kind, text) = failure(step.run(inputs));
    assert_eq!(kind, ErrorKind::Input);
    assert_eq!(step.steps().unwrap(), 0, "a refused batch counts as a step");
    assert_eq!(step.read("w").unwrap().slice::<f32>().unwrap(), [0.5; 12]);
    text
}

#[test]
fn a_label_out_of_range_is_named_with_its_place() {
    assert_eq!(
        refused(&[("x", &rows(3)), ("y", &labels(&[0, -100, 3]))]),
        "y: element 2 is 3, expected 0 to 2 or -100 (ignored)"
    );
    assert_eq!(
        refused(&[("x", &rows(2)), ("y", &labels(&[-1, 0]))]),
        "y: element 0 is -1, expected 0 to 2 or -100 (ignored)"
    );
}

#[test]
fn inputs_of_another_dtype_or_shape_are_refused() {
    let wide = Array::new(vec![0.5f64; 8], vec![2, 4]).unwrap();
    assert_eq!(refused(&[("x", &wide), ("y", &labels(&[0, 1]))]), "x: expected f32, got f64; convert it with .cast()");
    let narrow = Array::new(vec![0.5f32; 6], vec![2, 3]).unwrap();
    assert_eq!(refused(&[("x", &narrow), ("y", &labels(&[0, 1]))]), "x: expected [B, 4] (B = 2), got [2, 3]");
    let flat = Array::from_vec(vec![0.5f32; 2]);
    assert_eq!(refused(&[("x", &flat), ("y", &labels(&[0, 1]))]), "x: expected [B, 4], got [2]");
}

#[test]
fn missing_and_unknown_inputs_are_named() {
    assert_eq!(refused(&[("x", &rows(2))]), "the input y [B] i32 is missing");
    assert_eq!(
        refused(&[("x", &rows(2)), ("y", &labels(&[0, 1])), ("z", &rows(2))]),
        "the step has no input z; it has x, y"
    );
}

#[test]
fn batch_sizes_that_differ_are_refused() {
    assert_eq!(refused(&[("x", &rows(3)), ("y", &labels(&[0, 1]))]), "x has 3 rows and y has 2; a batch has one size");
    let flat = Array::from_vec(vec![0.5_f32; 8]);
    assert_eq!(refused(&[("x", &flat), ("y", &labels(&[0, 1]))]), "x: expected [B, 4], got [8]");
    assert_eq!(refused(&[("x", &rows(0)), ("y", &labels(&[]))]), "x: 0 rows fit no batch size, the step takes [B, 4]");
    let mut step = classifier();
    let error = step.run_many(2, &[("x", &rows(3)), ("y", &labels(&[0, 1, 2]))]);
    assert_fails(error, ErrorKind::Input, "x: 3 rows are not 2 equal batches");
}

/// What is wrong with the last of several steps is said before the first of them runs.
#[test]
fn a_call_of_several_steps_is_refused_whole_and_else_runs_them_in_order() {
    let mut step = classifier();
    let x = Array::new((0..24).map(|i| (i as f32 * 0.7).sin()).collect(), vec![6, 4]).unwrap();
    let wrong = step.run_many(3, &[("x", &x), ("y", &labels(&[0, 1, 2, 0, 1, 7]))]);
    assert_fails(wrong, ErrorKind::Input, "y: element 5 is 7, expected 0 to 2 or -100 (ignored)");
    assert_eq!((step.steps().unwrap(), step.counters().submissions), (0, 0));
    assert_eq!(step.read("w").unwrap().slice::<f32>().unwrap(), [0.5; 12]);
    let y = labels(&[0, 1, 2, 0, 1, 2]);
    step.run_many(3, &[("x", &x), ("y", &y)]).unwrap();
    let mut single = classifier();
    for at in [0, 2, 4] {
        let part = |of: &Array| of.slice_rows(at, at + 2).unwrap();
        single.run(&[("x", &part(&x)), ("y", &part(&y))]).unwrap();
    }
    assert_eq!(step.read("w").unwrap(), single.read("w").unwrap());
    assert_eq!((step.steps().unwrap(), step.counters().submissions), (3, 1));
}

#[test]
fn slots_and_outputs_that_are_not_there_are_answered_with_those_that_are() {
    let mut step = classifier();
    assert_fails(
        step.read("weight"),
        ErrorKind::Input,
        "nothing is called weight; there are w, step, lr; did you mean w?",
    );
    assert_fails(
        step.write("weight", &rows(3)),
        ErrorKind::Input,
        "nothing is called weight; there are w, step, lr; did you mean w?",
    );
    assert_fails(
        step.output("logits"),
        ErrorKind::Input,
        "the step has no output logits, which s.output(\"logits\", &value) in its closure makes; it has loss, lr; did you mean loss?",
    );
    assert_fails(step.loss(), ErrorKind::Input, "there is no output loss before the first run");
}

#[test]
fn a_value_that_does_not_fit_its_slot_is_refused_and_not_written() {
    let mut step = classifier();
    assert_fails(step.write("w", &rows(4)), ErrorKind::Input, "w: expected [3, 4] f32, got [4, 4] f32");
    let wide = Array::new(vec![0.0f64; 12], vec![3, 4]).unwrap();
    assert_fails(step.write("w", &wide), ErrorKind::Input, "w: expected [3, 4] f32, got [3, 4] f64");
    assert_eq!(step.read("w").unwrap().slice::<f32>().unwrap(), [0.5; 12]);
}

/// Whether a `$from` passes for a `$to` where one is asked for: by `Deref`, the only conversion that nobody writes.
macro_rules! passes_for {
    ($from:ty, $to:ty) => {{
        // Of the two constants one is the answer.
        #[allow(dead_code)]
        trait Otherwise {
            const PASSES: bool = false;
        }
        struct Of<T>(std::marker::PhantomData<T>);
        impl<T> Otherwise for Of<T> {}
        #[allow(dead_code)]
        impl<T: std::ops::Deref<Target = $to>> Of<T> {
            const PASSES: bool = true;
        }
        <Of<$from>>::PASSES
    }};
}

/// Doc tests of `Device::with_backend` show that passing one for another does not compile.
#[test]
fn a_device_a_step_a_program_and_a_backend_are_types_of_their_own() {
    use std::sync::Arc;
    use wholestep_cpu::CpuBackend;
    assert!(passes_for!(Arc<CpuBackend>, CpuBackend) && passes_for!(Box<Step>, Step), "what passes is seen");
    assert!(!passes_for!(CpuBackend, Device) && !passes_for!(Arc<CpuBackend>, Device));
    assert!(!passes_for!(Device, CpuBackend) && !passes_for!(Device, Step) && !passes_for!(Device, Infer));
    assert!(!passes_for!(Step, Device) && !passes_for!(Step, Infer) && !passes_for!(Step, CpuBackend));
    assert!(!passes_for!(Infer, Device) && !passes_for!(Infer, Step) && !passes_for!(Infer, CpuBackend));
}

#[test]
fn a_tensor_of_another_program_is_refused() {
    let mut kept = None;
    Infer::compile(&device(), 1, |s| {
        let x = s.constant(7.0, DType::F32) * 2.0;
        kept = Some(x.clone());
        x
    })
    .unwrap();
    let stranger = kept.unwrap();
    let text = |what: &str| {
        format!(
            "{what}: a tensor of another program came in: each closure that is compiled has tensors of its own
  --> errors.rs:_
  help: make the value within this closure, or hand it over as an input, a parameter or a constant"
        )
    };
    let infer = |model: &dyn Fn(&Scope) -> Tensor| Infer::compile(&device(), 1, model);
    assert_fails(infer(&|s| s.constant(1.0, DType::F32) + &stranger), ErrorKind::Build, &text("add"));
    assert_fails(infer(&|s| &stranger + s.constant(1.0, DType::F32)), ErrorKind::Build, &text("add"));
    let of_step = build(|s| s.param("w", (), Init::Const(1.0)) * &stranger);
    assert_fails(of_step, ErrorKind::Build, &text("mul"));
    let updated = build(|s| {
        s.update(&s.buffer("seen", (), Init::Const(0.0)), &stranger);
        s.param("w", (), Init::Const(1.0)).square()
    });
    assert_fails(updated, ErrorKind::Build, &text("update"));
    let differentiated = build(|s| {
        let w = s.param("w", (), Init::Const(1.0)).square();
        wholestep::gradients(&w, std::slice::from_ref(&stranger)).remove(0) + w
    });
    assert_fails(differentiated, ErrorKind::Build, &text("gradients"));
    // What a closure returns is noted where it is compiled.
    let (kind, text) = failure(infer(&|_| stranger.clone()));
    assert_eq!(kind, ErrorKind::Build);
    assert!(text.starts_with("output: a tensor of another program came in"), "{text}");
}

/// The rate, the step's number and the random key are slots too: a parameter of their name would be used for them.
#[test]
fn names_of_the_steps_own_numbers_are_refused() {
    for name in ["lr", "step", "key"] {
        let error = build(|s| {
            let w = s.param(name, [2usize], Init::Const(1.0));
            w.dropout(s, 0.5).square().mean(..)
        });
        assert_fails(
            error,
            ErrorKind::Build,
            &format!(
                "param: the name {name} is taken: the step keeps a number of its own there
  --> errors.rs:_
  help: give the parameter another name, or a scope: s.sub(\"fc1\")"
            ),
        );
    }
}

#[test]
fn shapes_that_nothing_can_have_are_refused() {
    let message = |model: &dyn Fn(&Scope) -> Tensor| failure(Infer::compile(&device(), 8, model)).1;
    let x = |s: &Scope| s.input("x", (Batch, 2usize), DType::F32);
    let fewer = Batch - DType::F32.size_bytes().into();
    let all = [
        (message(&|s| x(s).narrow(0, 4, fewer)), "slice: the extent B-4 of [B-4, 2] is below 0 for some batch sizes"),
        (
            message(&|s| x(s).sum(..).broadcast_to([fewer])),
            "broadcast: the extent B-4 of [B-4] is below 0 for some batch sizes",
        ),
        (
            message(&|s| x(s).narrow(0, wholestep::Dim { batch: -1, fixed: 3 }, 1)),
            "slice: axis 0 of [B, 2]: 1 elements",
        ),
        (
            message(&|s| s.constant(1.0, DType::F32).broadcast_to([1usize << 40, 1 << 40]).sum(..)),
            "broadcast: [1099511627776, 1099511627776] has more elements than any memory holds",
        ),
        (
            message(&|s| s.param("w", [1usize << 33, 1 << 33], Init::Const(0.0)).mean(..)),
            "slot: [8589934592, 8589934592] has more elements than any memory holds",
        ),
        (
            message(&|s| x(s).reshape((Batch, 1usize << 50))),
            "reshape: [B, 1125899906842624] has more elements than any memory holds",
        ),
    ];
    for (got, want) in all {
        assert!(got.starts_with(want), "{got}\nis not\n{want}");
    }
    let unbounded = Infer::compile(&device(), usize::MAX, |s| x(s) * 2.0);
    let (kind, text) = failure(unbounded);
    assert_eq!(kind, ErrorKind::Device);
    assert!(text.starts_with("out of memory"), "{text}");
}

#[test]
fn labels_are_whole_numbers_in_range() {
    let of = |dtype: DType, n: usize| {
        Infer::compile(&device(), 8, |s| s.labels("y", (Batch,), dtype, n, None).one_hot(3, DType::F32))
    };
    for (dtype, n) in [(DType::F32, 3), (DType::Bool, 3), (DType::U32, 0)] {
        let (kind, text) = failure(of(dtype, n));
        let want =
            format!("labels: y: need whole numbers of at least 1 class, got {dtype} of {n} classes\n  --> errors.rs:_");
        assert_eq!((kind, text), (ErrorKind::Build, want));
    }
    let mut bytes = of(DType::U8, 3).unwrap();
    bytes.run(&[("y", &Array::from_vec(vec![2u8]))]).unwrap();
    let fault = bytes.run(&[("y", &Array::from_vec(vec![0u8, 200]))]);
    assert_fails(fault, ErrorKind::Input, "y: element 1 is 200, expected 0 to 2");
}

/// Floats are no labels, and labels are no quantities: each loss refuses each other type while the step is built.
#[test]
fn every_loss_refuses_targets_of_another_type_by_both_types() {
    use DType::{BF16, Bool, F16, F32, F64, I32, I64, U8, U32};
    type Of = fn(&Tensor, &Tensor) -> Tensor;
    let of_labels: [(&str, Of); 2] =
        [("cross_entropy", |x, t| x.cross_entropy(t)), ("nll_loss", |x, t| x.log_softmax(-1).nll_loss(t))];
    let of_values: [(&str, Of); 7] = [
        ("bce_loss", |x, t| x.sigmoid().bce_loss(t)),
        ("bce_with_logits", |x, t| x.bce_with_logits(t)),
        ("mse_loss", |x, t| x.mse_loss(t)),
        ("l1_loss", |x, t| x.l1_loss(t)),
        ("huber_loss", |x, t| x.huber_loss(t)),
        ("smooth_l1_loss", |x, t| x.smooth_l1_loss(t)),
        ("hinge_loss", |x, t| x.hinge_loss(t)),
    ];
    let of = |loss: Of, shape: Shape, dtype: DType| {
        build(|s| {
            let x = s.input("x", (Batch, 4), F32).matmul(&s.param("w", [4usize, 3], Init::Const(0.5)));
            loss(&x, &s.input("t", shape, F32).cast(dtype))
        })
    };
    let row = Shape::from((Batch, 3));
    for (name, loss) in of_labels {
        for dtype in [F64, F32, F16, BF16, U8, Bool] {
            let want = format!("{name}: need labels of whole numbers, got {dtype}\n  --> errors.rs:_");
            let (kind, text) = failure(of(loss, Shape::from((Batch,)), dtype));
            assert!(kind == ErrorKind::Build && text.starts_with(&want), "{text}");
        }
        of(loss, Shape::from((Batch,)), U32).unwrap();
    }
    for (name, loss) in of_values {
        for dtype in [F64, F16, BF16, I64, I32, U32, U8, Bool] {
            let want = format!("{name}: need a target of the input's type, got f32 and {dtype}\n  --> errors.rs:_");
            let (kind, text) = failure(of(loss, row.clone(), dtype));
            assert!(kind == ErrorKind::Build && text.starts_with(&want), "{text}");
            assert!(
                text.ends_with("quantities are .cast(DType::F32); labels go with cross_entropy or nll_loss"),
                "{text}"
            );
        }
        of(loss, row.clone(), F32).unwrap();
    }
}

#[test]
fn first_values_that_cannot_be_are_refused() {
    let of = |init: Init| build(move |s| s.sub("fc").param("w", [3usize], init).square().mean(..));
    let all = [
        (Init::Values(vec![1.0]), "need 3 values, got 1"),
        (
            Init::Uniform { lo: 1.0, hi: -1.0 },
            "need lo <= hi and a spread that is not negative, got Uniform { lo: 1.0, hi: -1.0 }",
        ),
        (Init::Normal { mean: 0.0, std: f64::NAN }, "need finite numbers, got Normal { mean: 0.0, std: NaN }"),
    ];
    for (init, fault) in all {
        let text = format!("param: fc/w: {fault}\n  --> errors.rs:_   in fc");
        assert_fails(of(init), ErrorKind::Build, &text);
    }
}

/// Files write `.` for `/`, so both names would be one tensor there, and one would be lost.
#[test]
fn names_that_files_cannot_tell_apart_are_refused() {
    let error = build(|s| {
        let w = s.sub("a").param("b", [3usize], Init::Const(1.0));
        (w * s.param("a.b", [3usize], Init::Const(2.0))).mean(..)
    });
    let (kind, text) = failure(error);
    assert_eq!(kind, ErrorKind::Build);
    assert!(text.starts_with("param: the name a.b is taken\n"), "{text}");
}

#[test]
fn options_of_a_step_are_checked_where_it_is_compiled() {
    let with = |options: wholestep::step::StepOptions, rule: Sgd| {
        options.compile(&device(), rule, |s| s.param("w", (), Init::Const(1.0)).square())
    };
    let rate = with(Step::options(), Sgd::new(f64::NAN));
    assert_fails(rate, ErrorKind::Config, "optimizer: lr: need a finite number >= 0, got NaN");
    let clip = with(Step::options().clip(wholestep::Clip::GlobalNorm(-1.0)), Sgd::new(0.1));
    assert_fails(clip, ErrorKind::Config, "clip: need a finite number > 0, got -1");
    let betas = Step::compile(
        &device(),
        wholestep::optim::Adam { betas: (0.9, 1.5), ..wholestep::optim::Adam::new(0.1) },
        |s| s.param("w", (), Init::Const(1.0)).square(),
    );
    assert_fails(betas, ErrorKind::Config, "optimizer: betas: need numbers from 0 to below 1, got 1.5");
}

/// Sequences first, as recurrent networks have it.
#[test]
fn the_batch_may_be_another_axis_than_the_first() {
    let mut step = build(|s| {
        let x = s.input("x", (3usize, Batch), DType::F32);
        s.output("sums", &x.sum(0));
        (x * s.param("w", (), Init::Const(1.0))).mean(..)
    })
    .unwrap();
    for (n, sums) in [(2, vec![6.0, 9.0]), (1, vec![3.0]), (2, vec![6.0, 9.0])] {
        let x = Array::new((0..3 * n).map(|i| i as f32).collect(), [3, n]).unwrap();
        step.run(&[("x", &x)]).unwrap();
        assert_eq!(step.output("sums").unwrap().slice::<f32>().unwrap(), sums);
    }
    let x = Array::new(vec![0f32; 12], [6, 2]).unwrap();
    assert_fails(
        step.run_many(2, &[("x", &x)]),
        ErrorKind::Input,
        "x: the steps of one call follow each other along the first axis, and the batch is axis 1 of [3, B]; run them one by one",
    );
}

#[test]
fn an_input_that_comes_twice_is_refused() {
    let mut step = Infer::compile(&device(), 1, |s| s.input("x", (Batch,), DType::F32) * 2.0).unwrap();
    let (a, b) = (Array::from_vec(vec![1f32]), Array::from_vec(vec![2f32]));
    assert_fails(step.run(&[("x", &a), ("x", &b)]), ErrorKind::Input, "the input x came twice; give each once");
}
