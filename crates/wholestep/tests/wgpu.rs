//! What a GPU promises beside the numbers, which `truth` holds it to: nothing is allocated, compiled or read back after the first step, one call
//! is one submission, and the same seed gives the same bits. Without an adapter these say that they were skipped, unless `REQUIRE_WGPU` is set.
#![cfg(feature = "wgpu")]

#[path = "support/process.rs"]
mod process;

use process::{command, in_child};
use std::path::Path;
use wholestep::optim::{Adam, AdamW};
use wholestep::{Array, Batch, Clip, Device, F32, I64, Init, Scope, Step, Tensor, U8};

const WIDTH: usize = 12;

/// The first adapter, if there is one.
fn device() -> Option<Device> {
    match Device::wgpu(0) {
        Ok(device) => Some(device),
        Err(e) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({e})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and there is no adapter: {e}"),
    }
}

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

#[test]
fn nothing_is_made_or_read_after_the_first_step_and_each_call_is_one_submission() {
    let Some(device) = device() else { return };
    let mut step = Step::options().max_batch(8).compile(&device, Adam::new(1e-2), mlp).unwrap();
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

#[test]
fn it_learns_and_the_same_seed_gives_the_same_bits() {
    let Some(device) = device() else { return };
    let trained = |seed: u64| {
        let options = Step::options().max_batch(8).seed(seed).clip(Clip::GlobalNorm(1.0));
        let mut step = options.compile(&device, AdamW::new(1e-2), mlp).unwrap();
        run(&mut step, 8);
        let before = step.loss().unwrap();
        (0..60).for_each(|_| run(&mut step, 8));
        assert!(step.loss().unwrap() < 0.5 * before, "{before} became {}", step.loss().unwrap());
        weights(&mut step)
    };
    assert_eq!(trained(3), trained(3));
    assert_ne!(trained(3), trained(4));
}

#[test]
fn several_steps_in_one_submission_give_the_bits_of_single_steps() {
    let Some(device) = device() else { return };
    let compile = || Step::options().max_batch(4).seed(1).compile(&device, Adam::new(1e-2), mlp).unwrap();
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

#[test]
fn a_larger_batch_grows_the_arena_and_keeps_the_weights() {
    let Some(device) = device() else { return };
    let mut step = Step::options().max_batch(2).seed(1).compile(&device, Adam::new(0.0), mlp).unwrap();
    let before = weights(&mut step);
    run(&mut step, 2);
    let compiles = step.counters().compiles;
    run(&mut step, 64);
    assert_eq!(weights(&mut step), before);
    // Launches that share a dispatch wait for each other as memory lies; what stays apart compiles nothing anew.
    assert!(step.counters().compiles <= 2 * compiles, "{} after {compiles}", step.counters().compiles);
    let loss = step.loss().unwrap();
    let mut fresh = Step::options().max_batch(64).seed(1).compile(&device, Adam::new(0.0), mlp).unwrap();
    run(&mut fresh, 64);
    assert_eq!(fresh.loss().unwrap().to_bits(), loss.to_bits());
}

#[test]
fn a_whole_number_that_the_device_cannot_hold_is_refused() {
    let Some(device) = device() else { return };
    let mut step = Step::options()
        .max_batch(2)
        .compile(&device, Adam::new(0.0), |s| {
            let x = s.input("x", (Batch, 2), F32);
            let n = s.input("n", (Batch, 2), I64);
            (x * s.param("w", (), Init::Const(1.0)) * n.cast(F32)).mean(..)
        })
        .unwrap();
    let x = Array::new::<f32>(vec![1.0; 4], vec![2, 2]).unwrap();
    let fits = Array::new::<i64>(vec![1, -2, 3, i64::from(i32::MAX)], vec![2, 2]).unwrap();
    step.run(&[("x", &x), ("n", &fits)]).unwrap();
    let large = Array::new::<i64>(vec![1, 2, 1 << 40, 4], vec![2, 2]).unwrap();
    let message = step.run(&[("x", &x), ("n", &large)]).unwrap_err().to_string();
    assert!(message.contains("n: element 2 is 1099511627776"), "{message}");
}

#[test]
fn steps_of_one_submission_take_their_own_inputs_and_outputs_are_those_of_the_last() {
    let Some(device) = device() else { return };
    // A byte and a word among the inputs, so that what is converted on the way lies between what is not.
    let compile = || {
        Step::options()
            .max_batch(4)
            .compile(&device, Adam::new(0.0), |s| {
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

/// Linear layers with ReLU between them, of 2 or 10 classes.
fn layers(s: &Scope, sizes: &[usize]) -> Tensor {
    let mut h = s.input("x", (Batch, sizes[0]), F32);
    let y = s.labels("y", (Batch,), I64, sizes[sizes.len() - 1], None);
    for (i, pair) in sizes.windows(2).enumerate() {
        let s = s.sub(format!("fc{i}"));
        let init = Init::Uniform { lo: -0.2, hi: 0.2 };
        h = h.linear(&s.param("weight", [pair[1], pair[0]], init.clone()), Some(&s.param("bias", [pair[1]], init)));
        h = if i + 2 < sizes.len() { h.relu() } else { h };
    }
    h.cross_entropy(&y)
}

/// Trains some steps, several of them in one submission; gives the losses after each submission and the weights.
fn trained(device: &Device, sizes: &[usize], max_batch: usize, n: usize) -> (Step, Vec<f32>, Vec<f32>) {
    let options = Step::options().max_batch(max_batch).seed(5).clip(Clip::GlobalNorm(2.0));
    let mut step = options.compile(device, Adam::new(1e-2), |s| layers(s, sizes)).unwrap();
    let x = (0..4 * n * sizes[0]).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let y = (0..4 * n).map(|i| (i % sizes[sizes.len() - 1]) as i64).collect();
    let x = Array::new::<f32>(x, vec![4 * n, sizes[0]]).unwrap();
    let y = Array::new::<i64>(y, vec![4 * n]).unwrap();
    let mut losses = Vec::new();
    for _ in 0..3 {
        step.run_many(4, &[("x", &x), ("y", &y)]).unwrap();
        losses.push(step.loss().unwrap());
    }
    let names = (0..sizes.len() - 1).flat_map(|i| [format!("fc{i}/weight"), format!("fc{i}/bias")]);
    let weights = names.flat_map(|name| step.read(&name).unwrap().slice::<f32>().unwrap().to_vec()).collect();
    (step, losses, weights)
}

fn assert_near(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 2e-4 * a.abs().max(1.0), "{what}: number {i} is {a} and {b}");
    }
}

#[test]
fn a_small_step_is_one_dispatch_and_agrees_with_many_and_with_the_cpu() {
    let Some(device) = device() else { return };
    let sizes = [10, 16, 2];
    let (step, losses, weights) = trained(&device, &sizes, 8, 8);
    assert_eq!(step.counters().dispatches, 1, "{:?}", step.counters());
    let (_, again, same) = trained(&device, &sizes, 8, 8);
    assert_eq!((&losses, &weights), (&again, &same), "the same program gives the same bits");
    // Room for a batch that is not small, so that the launches stay apart.
    let (large, other_losses, other) = trained(&device, &sizes, 4096, 8);
    assert!(large.counters().dispatches > 5, "{:?}", large.counters());
    assert_near(&losses, &other_losses, "losses");
    assert_near(&weights, &other, "weights");
    let (_, cpu_losses, on_cpu) = trained(&Device::cpu_with_threads(1), &sizes, 8, 8);
    assert_near(&losses, &cpu_losses, "losses on the cpu");
    assert_near(&weights, &on_cpu, "weights on the cpu");
}

#[test]
fn launches_of_a_larger_step_share_dispatches() {
    let Some(device) = device() else { return };
    let mut step =
        Step::options().max_batch(64).compile(&device, Adam::new(1e-3), |s| layers(s, &[784, 512, 256, 10])).unwrap();
    // 14 launches: three layers forward, the loss with all that is small, the way back, and at the end of it what no other waits for.
    assert!(step.counters().dispatches <= 8, "{:?}", step.counters());
    let mut on_cpu = Step::options()
        .max_batch(64)
        .compile(&Device::cpu_with_threads(1), Adam::new(1e-3), |s| layers(s, &[784, 512, 256, 10]))
        .unwrap();
    let x = (0..64 * 784).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let x = Array::new::<f32>(x, vec![64, 784]).unwrap();
    let y = Array::from_vec::<i64>((0..64).map(|i| i % 10).collect());
    for _ in 0..3 {
        step.run(&[("x", &x), ("y", &y)]).unwrap();
        on_cpu.run(&[("x", &x), ("y", &y)]).unwrap();
    }
    assert_near(&[step.loss().unwrap()], &[on_cpu.loss().unwrap()], "losses");
    for name in ["fc0/weight", "fc0/bias", "fc2/weight", "fc2/bias"] {
        let of = |step: &mut Step| step.read(name).unwrap().slice::<f32>().unwrap().to_vec();
        assert_near(&of(&mut step), &of(&mut on_cpu), name);
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_names_those_that_are() {
    let Some(_) = device() else { return };
    let message = Device::named("wgpu:99").unwrap_err().to_string();
    assert!(message.contains("there is no device wgpu:99; this machine has wgpu:0, "), "{message}");
}

#[test]
fn a_machine_without_a_driver_says_what_to_install() {
    const NAME: &str = "a_machine_without_a_driver_says_what_to_install";
    if in_child("none").is_some() {
        match Device::wgpu(0) {
            Ok(device) => println!("opened {device:?}"),
            Err(e) => println!("refused: {e}"),
        }
        return;
    }
    let mut child = command(NAME, "none", Path::new("."));
    // The old name and the new one of the variable by which a Vulkan loader is told its drivers.
    let output = child.env("VK_ICD_FILENAMES", "/dev/null").env("VK_DRIVER_FILES", "/dev/null").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "refused: no device for Vulkan, Metal or DX12 was found; install the GPU's driver";
    assert!(text.contains(expected) || cfg!(not(target_os = "linux")), "{text}");
}
