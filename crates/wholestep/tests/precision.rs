//! Mixed precision trains as f32 does (scenario X5 of the acceptance list), in half the memory; a step whose gradients overflow changes
//! nothing but the scale of the loss.

use wholestep::optim::Adam;
use wholestep::{Array, Batch, Device, F32, Infer, Init, Precision, Result, Scope, Step, Tensor, U32};

const ROWS: usize = 1000;
const BATCH: usize = 64;

/// Class c = i mod 10, element j: clamp(c/10 ± 0.15 + 0.2·sin(0.1·j + c), 0, 1).
fn batches() -> Vec<(Array, Array)> {
    let noise = |i: usize, j: usize| {
        let x = ((i * 784 + j) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (((x ^ (x >> 27)) >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.3
    };
    let pixel = |i: usize, j: usize| {
        let c = (i % 10) as f32;
        (c / 10.0 + noise(i, j) + 0.2 * (0.1 * j as f32 + c).sin()).clamp(0.0, 1.0)
    };
    let batch = |first: usize| {
        let rows = first..(first + BATCH).min(ROWS);
        let x: Vec<f32> = rows.clone().flat_map(|i| (0..784).map(move |j| pixel(i, j))).collect();
        let y: Vec<u32> = rows.clone().map(|i| (i % 10) as u32).collect();
        (Array::new(x, vec![rows.len(), 784]).expect("rows of 784"), Array::from_vec(y))
    };
    (0..ROWS).step_by(BATCH).map(batch).collect()
}

/// 784-512-256-10 with ReLU and dropout 0.2.
fn model(s: &Scope) -> Tensor {
    let mut h = s.input("x", (Batch, 784), F32);
    let y = s.labels("y", (Batch,), U32, 10, None);
    for (i, (n_in, n_out)) in [(784, 512), (512, 256), (256, 10)].into_iter().enumerate() {
        let s = s.sub(format!("fc{i}"));
        h = wholestep::nn::Linear::new(&s, n_in, n_out).forward(&h);
        if i < 2 {
            h = h.relu().dropout(&s, 0.2);
        }
    }
    h.cross_entropy(&y)
}

/// The devices there are, by name: the cpu and, in builds with wgpu, the first adapter.
fn devices() -> Result<Vec<(&'static str, Device)>> {
    #[allow(unused_mut)]
    let mut all = vec![("cpu", Device::cpu()?)];
    #[cfg(feature = "wgpu")]
    match Device::wgpu(0) {
        Ok(device) => all.push(("wgpu", device)),
        Err(e) if std::env::var_os("REQUIRE_WGPU").is_none() => println!("skipped: no wgpu adapter ({e})"),
        Err(e) => return Err(e),
    }
    Ok(all)
}

fn step(device: &Device, precision: Precision) -> Result<Step> {
    let options = Step::options().seed(7).max_batch(BATCH).precision(precision);
    options.compile(device, Adam::new(1e-3), model)
}

fn number(step: &mut Step, slot: &str) -> Result<f64> {
    let value = step.read(slot)?.cast::<f64>()?;
    Ok(value.slice::<f64>()?[0])
}

/// The mean losses of the first three epochs: about 1.6, 0.3 and 0.04.
fn losses(device: &Device, precision: Precision, seed: u64, batches: &[(Array, Array)]) -> Result<[f64; 3]> {
    let options = Step::options().seed(seed).max_batch(BATCH).precision(precision);
    let mut step = options.compile(device, Adam::new(1e-3), model)?;
    let mut means = [0.0; 3];
    for mean in &mut means {
        for (x, y) in batches {
            step.run(&[("x", x), ("y", y)])?;
            *mean += f64::from(step.loss()?) / batches.len() as f64;
        }
    }
    if precision == Precision::F16 {
        assert_eq!(number(&mut step, "skipped_steps")?, 0.0);
        assert_eq!(number(&mut step, "loss_scale")?, 65536.0);
    }
    Ok(means)
}

/// Training doubles the distance of two runs every few steps, whatever set them apart: after three epochs runs in f32 whose first weights differ by
/// 1e-4 are 6 % apart (standard deviation of 24 seeds, here and in PyTorch), those in f16 7 % (11 % in PyTorch), those in bf16 11 % (8 %). So
/// single runs are compared after the first epoch, where it is 0.4 %, and means while they still say something.
#[test]
fn sixteen_bits_end_where_f32_ends() -> Result<()> {
    const SEEDS: u64 = 12;
    let batches = batches();
    let cpu = Device::cpu()?;
    let run = |device: &Device, precision: Precision, n: u64| {
        (0..n).map(|seed| losses(device, precision, seed, &batches)).collect::<Result<Vec<_>>>()
    };
    let whole = run(&cpu, Precision::F32, SEEDS)?;
    let devices = devices()?;
    for ((name, device), precision) in devices.iter().flat_map(|d| [(d, Precision::F16), (d, Precision::Bf16)]) {
        // Fewer where an epoch may take a second.
        let n = if *name == "cpu" { SEEDS } else { SEEDS / 3 };
        let half = run(device, precision, n)?;
        let ratio = |epoch: usize| half.iter().zip(&whole).map(move |(h, w)| h[epoch] / w[epoch] - 1.0);
        let mean = |epoch: usize| ratio(epoch).sum::<f64>() / n as f64;
        println!("{precision:?} on {name}, by epoch: {:+.4} {:+.4} {:+.4}", mean(0), mean(1), mean(2));
        for (seed, off) in ratio(0).enumerate() {
            assert!(off.abs() <= 0.02, "{precision:?} on {name}, seed {seed}: the first epoch is off by {off}");
        }
        assert!(mean(0).abs() <= 0.005, "{precision:?} on {name}: the first epoch is off by {}", mean(0));
        assert!(n < SEEDS || mean(1).abs() <= 0.02, "{precision:?} on {name}: the second epoch is off by {}", mean(1));
        assert!(half.iter().all(|l| l[2] < 0.1), "{precision:?} on {name} ends at {half:?}");
    }
    assert!(whole.iter().all(|l| l[2] < 0.1), "f32 ends at {whole:?}");
    Ok(())
}

/// What one step of gradient descent changes, by weight.
fn change(device: &Device, precision: Precision, (x, y): &(Array, Array)) -> Result<Vec<Vec<f64>>> {
    let options = Step::options().seed(7).max_batch(BATCH).precision(precision);
    let mut step = options.compile(device, wholestep::optim::Sgd::new(1.0), model)?;
    let weights = |step: &mut Step| -> Result<Vec<Vec<f64>>> {
        let read = |i| Ok(step.read(&format!("fc{i}/weight"))?.cast::<f64>()?.slice::<f64>()?.to_vec());
        (0..3).map(read).collect()
    };
    let before = weights(&mut step)?;
    step.run(&[("x", x), ("y", y)])?;
    let after = weights(&mut step)?;
    let by_element = |(a, b): (Vec<f64>, Vec<f64>)| a.into_iter().zip(b).map(|(a, b)| b - a).collect();
    Ok(before.into_iter().zip(after).map(by_element).collect())
}

/// How far gradients are apart, as a part of the second.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// Before anything adds up: all gradients of one step, dropout included.
#[test]
fn gradients_in_sixteen_bits_are_those_of_f32_and_the_same_on_every_device() -> Result<()> {
    let batch = batches().swap_remove(0);
    let cpu = Device::cpu()?;
    let whole = change(&cpu, Precision::F32, &batch)?;
    let mut faults = Vec::new();
    // In front of a ReLU a few sums round to the other side of zero, and their gradients come or go.
    for (precision, near) in [(Precision::F16, [5e-2, 5e-2, 1e-3]), (Precision::Bf16, [0.13, 0.1, 8e-3])] {
        let on_cpu = change(&cpu, precision, &batch)?;
        for (name, device) in devices()? {
            for (i, half) in change(&device, precision, &batch)?.iter().enumerate() {
                let (from_whole, from_cpu) = (distance(half, &whole[i]), distance(half, &on_cpu[i]));
                let found =
                    format!("{precision:?} on {name}, fc{i}: {from_whole:.2e} from f32, {from_cpu:.2e} from the cpu");
                println!("{found}");
                if !(from_whole > 0.0 && from_whole < near[i] && from_cpu < 2e-3) {
                    faults.push(found);
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// Names and bytes of all that a step keeps, without the loss scale and what counts calls.
fn learned(step: &mut Step) -> Result<Vec<(String, Vec<u32>)>> {
    let names: Vec<String> = step.slots().map(|(name, _)| name.to_string()).collect();
    let mut out = Vec::new();
    for name in names.into_iter().filter(|n| n.starts_with("fc") || n.starts_with("optimizer")) {
        let bits = step.read(&name)?.slice::<f32>()?.iter().map(|v| v.to_bits()).collect();
        out.push((name, bits));
    }
    Ok(out)
}

#[test]
fn an_overflow_skips_the_step_and_halves_the_scale() -> Result<()> {
    devices()?.iter().try_for_each(|(name, device)| overflow(name, device))
}

fn overflow(name: &str, device: &Device) -> Result<()> {
    let batches = batches();
    let (x, y) = &batches[0];
    let mut step = step(device, Precision::F16)?;
    step.run(&[("x", x), ("y", y)])?;
    let before = learned(&mut step)?;
    assert!(before.len() >= 18, "weights, biases and both moments: {}", before.len());
    // So large that gradients are infinite in f16.
    step.write("loss_scale", &Array::scalar(1e30_f32))?;
    step.run(&[("x", x), ("y", y)])?;
    assert_eq!(learned(&mut step)?, before, "a skipped step changes no bit ({name})");
    assert_eq!(number(&mut step, "loss_scale")?, f64::from(0.5e30_f32));
    assert_eq!(number(&mut step, "skipped_steps")?, 1.0);
    assert_eq!(number(&mut step, "loss_scale_growth")?, 0.0);
    assert!(step.loss()?.is_finite());
    // The scale comes back, and with it training: the next update counts as the second.
    step.write("loss_scale", &Array::scalar(65536_f32))?;
    step.run(&[("x", x), ("y", y)])?;
    assert_ne!(learned(&mut step)?, before);
    assert_eq!(number(&mut step, "loss_scale_growth")?, 1.0);
    // The 2000th finite step in a row doubles it.
    step.write("loss_scale_growth", &Array::scalar(1999_u32))?;
    step.run(&[("x", x), ("y", y)])?;
    assert_eq!(number(&mut step, "loss_scale")?, 131_072.0);
    assert_eq!(number(&mut step, "loss_scale_growth")?, 0.0);
    Ok(())
}

/// Without the scale, gradients below f16's smallest number are lost; with it they are those of f32.
#[test]
fn small_gradients_survive() -> Result<()> {
    let devices = devices()?;
    devices.iter().try_for_each(|(name, device)| small_gradients(name, device))
}

fn small_gradients(name: &str, device: &Device) -> Result<()> {
    let run = |precision: Precision, scale: Option<f32>| -> Result<f32> {
        let model = |s: &Scope| {
            let x = s.input("x", (Batch, 1), F32);
            let (w, v) = (s.param("w", (1, 1), Init::Const(1.0)), s.param("v", (1, 1), Init::Const(1.0)));
            // The gradient between the two products is 1e-9.
            (x.matmul(&w).matmul(&v) * 1e-9).sum(..)
        };
        let options = Step::options().precision(precision);
        let mut step = options.compile(device, wholestep::optim::Sgd::new(1e6), model)?;
        if let Some(scale) = scale {
            step.write("loss_scale", &Array::scalar(scale))?;
        }
        step.run(&[("x", &Array::new(vec![1.0_f32], vec![1, 1])?)])?;
        Ok(step.read("w")?.slice::<f32>()?[0])
    };
    let whole = run(Precision::F32, None)?;
    assert!((whole - 0.999).abs() < 1e-6, "{whole} on {name}");
    assert_eq!(run(Precision::F16, Some(1.0))?, 1.0, "{name}");
    assert!((run(Precision::F16, None)? - whole).abs() < 1e-5, "{name}");
    Ok(())
}

#[test]
fn activations_take_less_memory() -> Result<()> {
    devices()?.iter().try_for_each(|(name, device)| less_memory(name, device))
}

fn less_memory(name: &str, device: &Device) -> Result<()> {
    let transient = |precision: Precision| -> Result<f64> {
        let model = |s: &Scope| {
            let mut h = s.input("x", (Batch, 64), F32);
            for i in 0..24 {
                h = wholestep::nn::Linear::new(&s.sub(format!("fc{i}")), 64, 64).forward(&h).relu();
            }
            h.square().mean(..)
        };
        // So large that a GPU trades no memory for time.
        let step = Step::options().max_batch(16_384).precision(precision).compile(device, Adam::new(1e-3), model)?;
        Ok(step.memory_bytes().transient_bytes as f64)
    };
    // All that waits for the backward pass halves; the product that runs has its sums in f32, which the cpu keeps in memory beside the
    // packed operands.
    let ratio = transient(Precision::Bf16)? / transient(Precision::F32)?;
    let most = if name == "cpu" { 0.63 } else { 0.57 };
    assert!((0.45..most).contains(&ratio), "bf16 takes {ratio} of f32's memory on {name}");
    Ok(())
}

/// Inference in 16 bits gives what f32 gives to two digits, and not the same bits.
#[test]
fn inference_in_16_bits_is_near_f32() -> Result<()> {
    devices()?.iter().try_for_each(|(name, device)| inference(name, device))
}

fn inference(name: &str, device: &Device) -> Result<()> {
    let model = |s: &Scope| {
        let mut h = s.input("x", (Batch, 64), F32);
        for i in 0..3 {
            h = wholestep::nn::Linear::new(&s.sub(format!("fc{i}")), 64, 64).forward(&h).relu();
        }
        h
    };
    let x = Array::new((0..256 * 64).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.3).collect(), vec![256, 64])?;
    let run = |precision: Precision| -> Result<Vec<f32>> {
        let mut infer = Infer::compile_with(device, 256, precision, model)?;
        Ok(infer.run(&[("x", &x)])?.slice::<f32>()?.to_vec())
    };
    let whole = run(Precision::F32)?;
    let largest = whole.iter().fold(0_f32, |m, v| m.max(v.abs()));
    for (precision, near) in [(Precision::F16, 2e-3), (Precision::Bf16, 2e-2)] {
        let half = run(precision)?;
        let off = half.iter().zip(&whole).fold(0_f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off > 0.0 && off < near * largest, "{precision:?} on {name} is off by {off} of {largest}");
    }
    Ok(())
}
