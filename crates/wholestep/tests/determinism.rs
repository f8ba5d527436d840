//! Same seed, same bits: across instances, thread counts, processes and ways to submit. Dropout draws what it says.

use std::process::Command;
use wholestep::optim::{AdamW, Optimizer, Sgd};
use wholestep::{Array, Batch, Clip, DType, Device, Infer, Init, Scope, Step, Tensor};

/// Large enough that two and three threads have work: convolution, batch normalization, dropout, matrix products, a clipped AdamW.
fn model(s: &Scope) -> Tensor {
    let x = s.input("x", (Batch, 3, 12, 12), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 5, None);
    let init = |n: f64| Init::Uniform { lo: -1.0 / n.sqrt(), hi: 1.0 / n.sqrt() };
    let x = x.conv2d(&s.param("conv", [16usize, 3, 3, 3], init(27.0)), None, &Default::default());
    let now = x.batch_statistics();
    let running = s.buffer("running_mean", [16usize], Init::Const(0.0));
    s.update(&running, &(&running * 0.9 + &now.mean * 0.1));
    let (gamma, beta) = (s.param("gamma", [16usize], Init::Const(1.0)), s.param("beta", [16usize], Init::Const(0.0)));
    let x = now.normalize(Some(&gamma), Some(&beta), 1e-5).relu().flatten(1, -1).dropout(s, 0.25);
    let x = x.linear(&s.param("w1", [128usize, 1600], init(1600.0)), Some(&s.param("b1", [128usize], init(1600.0))));
    x.relu().linear(&s.param("w2", [5usize, 128], init(128.0)), None).cross_entropy(&y)
}

fn batch(rows: std::ops::Range<usize>) -> (Array, Array) {
    let x = (rows.start * 432..rows.end * 432).map(|i| (i * 7919 % 1009) as f32 / 500.0 - 1.0).collect();
    let y = rows.clone().map(|i| (i * 3 % 5) as i32).collect();
    (Array::new::<f32>(x, vec![rows.len(), 3, 12, 12]).unwrap(), Array::new::<i32>(y, vec![rows.len()]).unwrap())
}

fn compile(n_threads: usize, seed: u64) -> Step {
    let options = Step::options().max_batch(16).seed(seed).clip(Clip::GlobalNorm(1.0));
    options.compile(&Device::cpu_with_threads(n_threads), AdamW::new(1e-3), model).unwrap()
}

/// Every bit that a step holds, by slot.
fn bits(step: &mut Step) -> Vec<(String, Vec<u32>)> {
    let names: Vec<String> = step.slots().map(|(name, _)| name.to_string()).collect();
    let of = |a: &Array| match a.as_slice::<f32>() {
        Some(v) => v.iter().map(|v| v.to_bits()).collect(),
        None => a.slice::<u32>().expect("slots are f32 or u32").to_vec(),
    };
    names.into_iter().map(|name| (name.clone(), of(&step.read(&name).unwrap()))).collect()
}

/// Eight steps on changing batches; all slots and losses.
fn trained(n_threads: usize, seed: u64) -> Vec<(String, Vec<u32>)> {
    let mut step = compile(n_threads, seed);
    let mut losses = Vec::new();
    for i in 0..8 {
        let (x, y) = batch(i * 16..i * 16 + [16, 16, 7, 1][i % 4]);
        step.run(&[("x", &x), ("y", &y)]).unwrap();
        losses.push(step.loss().unwrap().to_bits());
    }
    let mut all = bits(&mut step);
    all.push(("losses".to_string(), losses));
    all
}

fn assert_same(what: &str, a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!(a == b, "{what}: {} differs from {}", a.0, b.0);
    }
}

#[test]
fn instances_and_thread_counts_give_the_same_bits() {
    let one = trained(1, 7);
    assert_same("again", &one, &trained(1, 7));
    assert_same("2 threads", &one, &trained(2, 7));
    assert_same("3 threads", &one, &trained(3, 7));
    let weights = |all: &[(String, Vec<u32>)]| all.iter().find(|(name, _)| name == "w1").unwrap().1.clone();
    assert_ne!(weights(&one), weights(&trained(1, 8)), "another seed gives other weights");
}

/// FNV-1a over names and bits.
fn digest(all: &[(String, Vec<u32>)]) -> u64 {
    let bytes = all.iter().flat_map(|(name, bits)| name.bytes().chain(bits.iter().flat_map(|b| b.to_le_bytes())));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn processes_give_the_same_bits() {
    const CHILD: &str = "DETERMINISM_CHILD";
    let here = digest(&trained(2, 3));
    if std::env::var_os(CHILD).is_some() {
        println!("digest {here:016x}");
        return;
    }
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let out =
            child.args(["processes_give_the_same_bits", "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains(&format!("digest {here:016x}")), "this process has {here:016x}, the other said:\n{text}");
    }
}

#[test]
fn several_steps_in_one_submission_give_the_bits_of_single_steps() {
    let (mut single, mut many) = (compile(2, 5), compile(2, 5));
    for i in 0..12 {
        let (x, y) = batch(i * 8..i * 8 + 8);
        single.run(&[("x", &x), ("y", &y)]).unwrap();
    }
    for i in 0..3 {
        let (x, y) = batch(i * 32..i * 32 + 32);
        many.run_many(4, &[("x", &x), ("y", &y)]).unwrap();
    }
    assert_eq!((single.steps().unwrap(), many.steps().unwrap()), (12, 12));
    assert_same("run_many", &bits(&mut single), &bits(&mut many));
    assert_eq!(single.loss().unwrap().to_bits(), many.loss().unwrap().to_bits());
}

const N: usize = 20_000;
const P: f64 = 0.3;

/// `Σ dropout(x·p)` with a gradient by p, whose mask is the one of the output.
fn dropped(s: &Scope) -> Tensor {
    let x = s.input("x", (Batch, N), DType::F32);
    let p = s.param("p", [N], Init::Const(1.0));
    let y = (x * &p).dropout(s, P);
    s.output("y", &y);
    y.sum(..)
}

fn dropout_step(seed: u64) -> Step {
    let rule = Sgd::new(1.0);
    assert_eq!(rule.lr(), 1.0);
    Step::options().max_batch(1).seed(seed).compile(&Device::cpu_with_threads(2), rule, dropped).unwrap()
}

/// The output and the parameters' change of one step from p = 1.
fn drop_once(step: &mut Step, x: &Array) -> (Vec<f32>, Vec<f32>) {
    step.write("p", &Array::from_vec(vec![1.0f32; N])).unwrap();
    step.run(&[("x", x)]).unwrap();
    let y = step.output("y").unwrap().slice::<f32>().unwrap().to_vec();
    let p = step.read("p").unwrap().slice::<f32>().unwrap().iter().map(|p| 1.0 - p).collect();
    (y, p)
}

#[test]
fn dropout_drops_its_share_keeps_the_mean_and_differentiates_its_own_mask() {
    let x = Array::new(vec![1.0f32; N], vec![1, N]).unwrap();
    let (mut step, mut again, mut other) = (dropout_step(1), dropout_step(1), dropout_step(2));
    let mut masks: Vec<Vec<f32>> = Vec::new();
    for i in 0..5 {
        let (y, d_p) = drop_once(&mut step, &x);
        let kept = (1.0 / (1.0 - P)) as f32;
        assert!(y.iter().all(|&v| v == 0.0 || (v - kept).abs() < 1e-6), "kept elements are 1/(1 - p)");
        let n_dropped = y.iter().filter(|v| **v == 0.0).count() as f64;
        // Four standard deviations of a binomial count, and of the mean of y.
        let sigma = (N as f64 * P * (1.0 - P)).sqrt();
        assert!((n_dropped - N as f64 * P).abs() < 4.0 * sigma, "step {i} drops {n_dropped} of {N}");
        let mean = y.iter().map(|v| f64::from(*v)).sum::<f64>() / N as f64;
        assert!((mean - 1.0).abs() < 4.0 * sigma / ((1.0 - P) * N as f64), "step {i}: mean {mean}");
        assert!(y.iter().zip(&d_p).all(|(y, d)| (y - d).abs() < 1e-6), "step {i}: the gradient has another mask");
        assert_eq!(y, drop_once(&mut again, &x).0, "step {i}: the same seed draws another mask");
        assert_ne!(y, drop_once(&mut other, &x).0, "step {i}: another seed draws the same mask");
        masks.push(y);
    }
    for (i, mask) in masks.iter().enumerate() {
        for later in &masks[i + 1..] {
            let both = mask.iter().zip(later).filter(|(a, b)| **a == 0.0 && **b == 0.0).count() as f64;
            // Masks of different steps are independent: both drop an element with probability p².
            let (share, n) = (P * P, N as f64);
            assert!((both - n * share).abs() < 4.0 * (n * share * (1.0 - share)).sqrt(), "{both} of {N} in both masks");
        }
    }
}

#[test]
fn dropout_is_the_identity_in_inference() {
    let mut infer = Infer::compile(&Device::cpu_with_threads(1), 1, |s| {
        let _ = dropped(s);
        s.input("x", (Batch, N), DType::F32)
    })
    .unwrap();
    let values: Vec<f32> = (0..N).map(|i| i as f32 / 7.0 - 100.0).collect();
    let x = Array::new(values.clone(), vec![1, N]).unwrap();
    infer.write("p", &Array::from_vec(vec![1.0f32; N])).unwrap();
    infer.run(&[("x", &x)]).unwrap();
    assert_eq!(infer.output("y").unwrap().slice::<f32>().unwrap(), values);
}
