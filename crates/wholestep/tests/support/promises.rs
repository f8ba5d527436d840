//! What every GPU promises beside the numbers, which `truth` holds it to.

use crate::optimizers::{OPTIMIZERS, of_kind};
use crate::process::resident_bytes;
use wholestep::optim::{Adafactor, Adam, AdamW};
use wholestep::{Array, Batch, Clip, Device, F32, I64, Init, Scope, Step, Tensor, U8};
use wholestep_compiler::backend::Counters;

const WIDTH: usize = 12;

fn mlp(s: &Scope) -> Tensor {
    let mut x = s.input("x", (Batch, WIDTH), F32);
    let y = s.labels("y", (Batch,), I64, 4, None);
    let init = Init::Uniform { lo: -0.3, hi: 0.3 };
    for i in 0..2 {
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
    let y = (0..n).map(|i| (i % 4) as i64).collect();
    (Array::new::<f32>(x, vec![n, WIDTH]).unwrap(), Array::new::<i64>(y, vec![n]).unwrap())
}

fn run(step: &mut Step, n: usize) {
    let (x, y) = batch(n);
    step.run(&[("x", &x), ("y", &y)]).unwrap();
}

fn weights(step: &mut Step) -> Vec<u32> {
    let names = ["fc0/weight", "fc0/bias", "fc1/weight", "fc1/bias", "head/weight", "head/bias"];
    let bits = names.iter().flat_map(|name| step.read(name).unwrap().slice::<f32>().unwrap().to_vec());
    bits.map(f32::to_bits).collect()
}

pub fn nothing_is_made_or_read_after_the_first_step_and_each_call_is_one_submission(device: &Device) {
    let mut step = Step::options().max_batch(8).compile(device, Adam::new(1e-2), mlp).unwrap();
    run(&mut step, 8);
    let first = step.counters();
    for i in 0..300 {
        // Every batch size up to the largest, so that none of them makes anything.
        run(&mut step, 1 + i % 8);
    }
    let last = step.counters();
    assert_eq!((last.submissions, last.steps), (301, 301));
    assert_eq!(last.bytes_read_back, 0);
    assert_eq!((last.allocations, last.allocated_bytes), (first.allocations, first.allocated_bytes));
    assert_eq!(last.compiles, first.compiles);
    step.loss().unwrap();
    assert_eq!(step.counters().bytes_read_back, 4, "the loss is one f32");
}

/// With every optimizer, not Adam alone.
pub fn no_optimizer_makes_or_reads_anything_after_its_first_step(device: &Device) {
    for name in OPTIMIZERS {
        // Small, since software takes its time to compile.
        let loss = |s: &Scope| {
            let init = Init::Uniform { lo: -0.3, hi: 0.3 };
            let (w, b) = (s.param("w", [4, WIDTH], init.clone()), s.param("b", [4usize], init));
            s.input("x", (Batch, WIDTH), F32).linear(&w, Some(&b)).square().mean(..)
        };
        let mut step = Step::options().max_batch(8).compile(device, of_kind(name, 1e-3), loss).unwrap();
        let x = batch(8).0;
        step.run(&[("x", &x)]).unwrap();
        let first = step.counters();
        (0..20).for_each(|_| step.run(&[("x", &x)]).unwrap());
        let last = step.counters();
        let made = |c: &Counters| (c.allocations, c.allocated_bytes, c.compiles, c.bytes_read_back);
        assert_eq!(made(&last), made(&first), "{name}");
        assert_eq!((last.submissions, last.steps), (21, 21), "{name}");
        assert!(step.loss().unwrap().is_finite(), "{name}");
    }
}

/// For a process of its own: what the system holds for it counts.
pub fn ten_thousand_steps_take_no_more_memory_than_a_thousand(device: &Device) {
    let mut step = Step::options().max_batch(8).compile(device, Adam::new(1e-3), mlp).unwrap();
    let (x, y) = batch(8);
    let mut run_to = |n: u64| {
        while step.counters().steps < n {
            step.run(&[("x", &x), ("y", &y)]).unwrap();
            if step.counters().steps.is_multiple_of(100) {
                assert!(step.loss().unwrap().is_finite());
            }
        }
        (step.counters(), resident_bytes())
    };
    let (early, early_bytes) = run_to(1000);
    let (late, late_bytes) = run_to(10_000);
    assert_eq!((late.steps, late.submissions, late.bytes_read_back), (10_000, 10_000, 400));
    let made = |c: &Counters| (c.allocations, c.allocated_bytes, c.compiles, c.dispatches);
    assert_eq!(made(&late), made(&early));
    println!("{early_bytes:?} bytes in memory after 1,000 steps, {late_bytes:?} after 10,000; {late:?}");
    if let (Some(early), Some(late)) = (early_bytes, late_bytes) {
        // A leak of 64 bytes a step is more.
        assert!(late <= early + 512 * 1024, "{early} bytes in memory became {late}");
    }
}

pub fn it_learns_and_the_same_seed_gives_the_same_bits(device: &Device) {
    let trained = |seed: u64| {
        let options = Step::options().max_batch(8).seed(seed).clip(Clip::GlobalNorm(1.0));
        let mut step = options.compile(device, AdamW::new(1e-2), mlp).unwrap();
        run(&mut step, 8);
        let before = step.loss().unwrap();
        (0..60).for_each(|_| run(&mut step, 8));
        assert!(step.loss().unwrap() < 0.5 * before, "{before} became {}", step.loss().unwrap());
        weights(&mut step)
    };
    assert_eq!(trained(3), trained(3));
    assert_ne!(trained(3), trained(4));
}

pub fn several_steps_in_one_submission_give_the_bits_of_single_steps(device: &Device) {
    let compile = || Step::options().max_batch(4).seed(1).compile(device, Adam::new(1e-2), mlp).unwrap();
    let (x, y) = batch(20);
    let mut at_once = compile();
    at_once.run_many(5, &[("x", &x), ("y", &y)]).unwrap();
    assert_eq!((at_once.counters().submissions, at_once.counters().steps), (1, 5));
    let mut one_by_one = compile();
    for i in 0..5 {
        let (x, y) = (x.slice_rows(4 * i, 4 * i + 4).unwrap(), y.slice_rows(4 * i, 4 * i + 4).unwrap());
        one_by_one.run(&[("x", &x), ("y", &y)]).unwrap();
    }
    assert_eq!(weights(&mut at_once), weights(&mut one_by_one));
}

pub fn a_larger_batch_grows_the_arena_and_keeps_the_weights(device: &Device) {
    let mut step = Step::options().max_batch(2).seed(1).compile(device, Adam::new(0.0), mlp).unwrap();
    let before = weights(&mut step);
    run(&mut step, 2);
    let compiles = step.counters().compiles;
    run(&mut step, 64);
    assert_eq!(weights(&mut step), before);
    // Launches that share a dispatch wait for each other as memory lies; what stays apart compiles nothing anew.
    assert!(step.counters().compiles <= 2 * compiles, "{} after {compiles}", step.counters().compiles);
    let loss = step.loss().unwrap();
    let mut fresh = Step::options().max_batch(64).seed(1).compile(device, Adam::new(0.0), mlp).unwrap();
    run(&mut fresh, 64);
    assert_eq!(fresh.loss().unwrap().to_bits(), loss.to_bits());
}

pub fn steps_of_one_submission_take_their_own_inputs_and_outputs_are_those_of_the_last(device: &Device) {
    // A byte and a word among the inputs, so that what is converted on the way lies between what is not.
    let compile = || {
        Step::options()
            .max_batch(4)
            .compile(device, Adam::new(0.0), |s| {
                let x = s.input("x", (Batch, 3), F32);
                let keep = s.input("keep", (Batch,), U8);
                let n = s.input("n", (Batch,), I64);
                let w = s.param("w", (), Init::Const(1.0));
                s.output("total", &(x.sum(1) * keep.cast(F32) + n.cast(F32)));
                (x * w).sum(..) + keep.cast(F32).sum(..)
            })
            .unwrap()
    };
    let rows = |n: usize, of: fn(usize) -> i64| (0..n).map(of).collect::<Vec<_>>();
    let x = |range: std::ops::Range<usize>| {
        Array::new::<f32>(range.clone().flat_map(|i| [i as f32, 0.5, 1.0]).collect(), vec![range.len(), 3]).unwrap()
    };
    let keep = |range: std::ops::Range<usize>| Array::from_vec::<u8>(range.map(|i| (i % 3) as u8).collect());
    let n = |range: std::ops::Range<usize>| Array::from_vec::<i64>(rows(range.end, |i| 7 - i as i64)[range].to_vec());
    // Batches of three where memory was laid out for four.
    let mut step = compile();
    for round in 0..9 {
        let at = 3 * (round % 4);
        let many = 3 * (4 - round % 4);
        let (all, last) = (at..at + many, at + many - 3..at + many);
        step.run_many(many / 3, &[("x", &x(all.clone())), ("keep", &keep(all.clone())), ("n", &n(all))]).unwrap();
        let expected: Vec<f32> = last.map(|i| (i as f32 + 1.5) * (i % 3) as f32 + 7.0 - i as f32).collect();
        // Twice: from the device, and from what came already.
        for _ in 0..2 {
            assert_eq!(step.output("total").unwrap().slice::<f32>().unwrap(), expected);
        }
    }
    assert_eq!(step.counters().submissions, 9);
}

/// Row and column means of matrices of other shapes are segments of launches, and the norm of all gradients is one reduction more. The shapes agree in
/// what segments must agree in.
pub fn many_shapes_share_launches_and_agree_with_the_cpu(device: &Device) {
    let shape = |i: usize| [65 + 2 * i, 67 + 2 * i];
    let build = |device: &Device, n: usize| {
        let options = Step::options().clip(Clip::GlobalNorm(1.0));
        let built = options.compile(device, Adafactor::new(0.01), |s| {
            let init = Init::Uniform { lo: -1.0, hi: 1.0 };
            let term = |i: usize| {
                (s.param(&format!("p{i}"), shape(i), init.clone()) * s.input(&format!("g{i}"), shape(i), F32)).sum(..)
            };
            (0..n).map(term).reduce(|a, b| a + b).unwrap()
        });
        built.unwrap()
    };
    // How many launches share a dispatch depends on how large they are; none takes more than two.
    let counts = [4, 5, 6].map(|n| build(device, n)).map(|step| (step.costs().len(), step.counters().dispatches));
    println!("launches and dispatches for 4, 5, 6 shapes: {counts:?}");
    assert!(counts.iter().all(|(n, _)| *n == counts[0].0), "launches for 4, 5, 6 shapes: {counts:?}");
    assert!(counts.iter().all(|(n, dispatches)| *dispatches <= 2 * *n as u64), "launches, dispatches: {counts:?}");
    let gradient = |i: usize| {
        let [r, c] = shape(i);
        let values = (0..r * c).map(|k| ((k * 37 + i) % 101) as f32 / 50.0 - 1.0).collect();
        (format!("g{i}"), Array::new::<f32>(values, vec![r, c]).unwrap())
    };
    let gradients: Vec<(String, Array)> = (0..6).map(gradient).collect();
    let inputs: Vec<(&str, &Array)> = gradients.iter().map(|(name, g)| (name.as_str(), g)).collect();
    let trained = |device: &Device| -> Vec<Vec<f32>> {
        let mut step = build(device, 6);
        (0..3).for_each(|_| step.run(&inputs).unwrap());
        (0..6).map(|i| step.read(&format!("p{i}")).unwrap().slice::<f32>().unwrap().to_vec()).collect()
    };
    for (i, (here, there)) in trained(device).iter().zip(trained(&Device::cpu_with_threads(1))).enumerate() {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let apart = norm(&mut here.iter().zip(&there).map(|(a, b)| a - b)) / norm(&mut there.iter().copied());
        assert!(apart < 1e-5, "matrix {i} is {apart:.1e} apart");
    }
}
