//! What a GPU promises beside the numbers, which `truth` holds it to: nothing is allocated, compiled or read back after the first step, one call
//! is one submission, and the same seed gives the same bits. Without an adapter these say that they were skipped, unless `REQUIRE_WGPU` is set.
#![cfg(feature = "wgpu")]

#[path = "support/devices.rs"]
mod devices;
#[path = "support/optimizers.rs"]
mod optimizers;
#[path = "support/process.rs"]
mod process;
#[path = "support/promises.rs"]
mod promises;

use process::{command, in_child};
use std::path::Path;
use wholestep::optim::{Adam, Sgd};
use wholestep::{Array, Batch, Clip, Device, F32, I64, Init, Scope, Step, Tensor};

/// The first adapter, if there is one.
fn device() -> Option<Device> {
    devices::gpu("wgpu", "REQUIRE_WGPU")
}

#[test]
fn nothing_is_made_or_read_after_the_first_step_and_each_call_is_one_submission() {
    if let Some(device) = device() {
        promises::nothing_is_made_or_read_after_the_first_step_and_each_call_is_one_submission(&device);
    }
}

#[test]
fn no_optimizer_makes_or_reads_anything_after_its_first_step() {
    if let Some(device) = device() {
        promises::no_optimizer_makes_or_reads_anything_after_its_first_step(&device);
    }
}

#[test]
fn ten_thousand_steps_take_no_more_memory_than_a_thousand() {
    const NAME: &str = "ten_thousand_steps_take_no_more_memory_than_a_thousand";
    let Some(device) = device() else { return };
    if in_child("flat").is_some() {
        return promises::ten_thousand_steps_take_no_more_memory_than_a_thousand(&device);
    }
    let output = command(NAME, "flat", Path::new(".")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_learns_and_the_same_seed_gives_the_same_bits() {
    if let Some(device) = device() {
        promises::it_learns_and_the_same_seed_gives_the_same_bits(&device);
    }
}

#[test]
fn several_steps_in_one_submission_give_the_bits_of_single_steps() {
    if let Some(device) = device() {
        promises::several_steps_in_one_submission_give_the_bits_of_single_steps(&device);
    }
}

#[test]
fn a_larger_batch_grows_the_arena_and_keeps_the_weights() {
    if let Some(device) = device() {
        promises::a_larger_batch_grows_the_arena_and_keeps_the_weights(&device);
    }
}

#[test]
fn steps_of_one_submission_take_their_own_inputs_and_outputs_are_those_of_the_last() {
    if let Some(device) = device() {
        promises::steps_of_one_submission_take_their_own_inputs_and_outputs_are_those_of_the_last(&device);
    }
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
fn many_shapes_share_launches_and_agree_with_the_cpu() {
    if let Some(device) = device() {
        promises::many_shapes_share_launches_and_agree_with_the_cpu(&device);
    }
}

#[test]
fn launches_of_a_larger_step_share_dispatches() {
    let Some(device) = device() else { return };
    let mut step =
        Step::options().max_batch(64).compile(&device, Adam::new(1e-3), |s| layers(s, &[784, 512, 256, 10])).unwrap();
    // 14 launches: three layers forward, the loss with all that is small, the way back, and at the end of it what no other waits for. SwiftShader
    // binds ten buffers, too few for some to share.
    let most = if format!("{device:?}").contains("SwiftShader") { 11 } else { 8 };
    assert!(step.counters().dispatches <= most, "{:?}", step.counters());
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

/// `x·w`, of which each row keeps 1 MiB.
fn wide(s: &Scope) -> Tensor {
    let row =
        s.input("x", (Batch, 1), F32).broadcast_to((Batch, 1 << 18)) * s.param("w", [1_usize << 18], Init::Const(2.0));
    s.output("rows", &row);
    row.sum(1).mean(..)
}

#[test]
fn too_little_memory_is_told_with_a_table_before_the_first_step_and_nothing_is_lost() {
    let Some(device) = device() else { return };
    let rows = |n: usize| Array::new::<f32>(vec![1.0; n], vec![n, 1]).unwrap();
    // More rows than any machine has MiB.
    let most = 1 << 24;
    let expected = |message: String| {
        assert!(message.contains("1.00 MiB of parameters, 0.00 KiB of the optimizer's state"), "{message}");
        let table = format!(" MiB of values of a step at batch size {most}\n  16777216.00 MiB    ");
        assert!(message.contains(&table), "{message}");
        assert!(message.contains("too few; a smaller batch needs less"), "{message}");
    };
    let compile = |n: usize| Step::options().max_batch(n).compile(&device, Sgd::new(0.5), wide);
    expected(compile(most).err().unwrap().to_string());
    let mut step = compile(2).unwrap();
    step.run(&[("x", &rows(2))]).unwrap();
    let weights = step.read("w").unwrap();
    assert_eq!(weights.slice::<f32>().unwrap()[..2], [1.5; 2]);
    expected(step.run(&[("x", &rows(most))]).unwrap_err().to_string());
    // What was learned is there, and what fits runs.
    assert_eq!(step.read("w").unwrap().slice::<f32>().unwrap(), weights.slice::<f32>().unwrap());
    step.run(&[("x", &rows(4))]).unwrap();
    assert_eq!(step.read("w").unwrap().slice::<f32>().unwrap()[..2], [1.0; 2]);
}

/// Software devices take memory when it is touched, so that only a GPU can be full.
#[test]
fn a_full_gpu_says_so_and_what_holds_its_memory_goes_on() {
    let is_software = |d: &Device| ["llvmpipe", "SwiftShader"].iter().any(|name| format!("{d:?}").contains(name));
    let Some(device) = device().filter(|d| !is_software(d)) else { return };
    // So many values of 1 GiB.
    let compile = |gib: usize| {
        Step::options().max_batch(1024).compile(&device, Sgd::new(0.5), |s| {
            let w = s.param("w", [1_usize << 18], Init::Const(2.0));
            let row = s.input("x", (Batch, 1), F32).broadcast_to((Batch, 1 << 18)) * w;
            (0..gib).for_each(|i| s.output(&format!("rows{i}"), &(&row + i as f64)));
            row.sum(1).mean(..)
        })
    };
    let run = |step: &mut Step| step.run(&[("x", &Array::new::<f32>(vec![1.0; 2], vec![2, 1]).unwrap())]);
    const GIB: usize = 8;
    let (mut held, mut n) = (compile(GIB).unwrap(), GIB);
    let message = loop {
        drop(held);
        match compile(n + GIB) {
            Ok(step) => (held, n) = (step, n + GIB),
            Err(e) => break e.to_string(),
        }
    };
    // The table has all that was asked for, and what is lost at the ends of the arena's pieces.
    let values = message.split(" MiB of values of a step at batch size 1024").next().and_then(|m| m.rsplit(' ').next());
    let values: f64 = values.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{message}"));
    assert!(values >= ((n + GIB) << 10) as f64 && message.starts_with("the step needs "), "{message}");
    // Now one has all but a little, and another asks for more than that.
    let mut held = compile(n).unwrap();
    run(&mut held).unwrap();
    let message = compile(2 * GIB).expect_err("more than there is").to_string();
    println!("a step of {n} GiB runs; another: {message}");
    assert!(message.starts_with("out of memory: "), "{message}");
    run(&mut held).unwrap();
    assert_eq!(held.read("w").unwrap().slice::<f32>().unwrap()[..2], [1.0; 2]);
    drop(held);
    run(&mut compile(2 * GIB).unwrap()).unwrap();
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
