//! Values computed again for the backward pass: the same weights to the bit, in less memory, by `Scope::recompute`, by a model file or by a budget.
//! Most copies run in other kernels than what they copy, which cut sums into other parts: on the cpu, where sums of f32 are made in f64, that
//! shows in no bit of these networks, at any level.

#[path = "support/planner.rs"]
mod planner;

use planner::planner;
use wholestep::nn::{BatchNorm2d, Conv2d, Conv2dSpec, Embedding, LayerNorm, Linear, MaxPool2d};
use wholestep::optim::Sgd;
use wholestep::{Array, Batch, Device, F32, Result, Scope, Step, Tensor, U32};
use wholestep_compiler::backend::Backend;
use wholestep_compiler::caps::Caps;
use wholestep_cpu::loops::level::Level;
use wholestep_cpu::{Config, CpuBackend};

/// Which parts are computed again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parts {
    None,
    /// Each block.
    Blocks,
    /// Each block within pairs of blocks.
    Nested,
}

/// `n` blocks one after the other.
fn blocks(s: &Scope, parts: Parts, n: usize, x: Tensor, block: impl Fn(&Scope, &Tensor) -> Tensor) -> Tensor {
    let one = |i: usize, x: &Tensor| {
        let s = s.sub(format!("block{i}"));
        if parts == Parts::None { block(&s, x) } else { s.recompute(|s| block(s, x)) }
    };
    let two = |i: usize, x: &Tensor| if i + 1 < n { one(i + 1, &one(i, x)) } else { one(i, x) };
    (0..n).step_by(2).fold(x, |x, i| if parts == Parts::Nested { s.recompute(|_| two(i, &x)) } else { two(i, &x) })
}

const ROWS: usize = 24;

fn mlp(s: &Scope, parts: Parts) -> Tensor {
    let x = s.input("x", (Batch, 32), F32);
    let y = s.labels("y", (Batch,), U32, 10, None);
    let h = blocks(s, parts, 6, x, |s, x| {
        let h = Linear::new(&s.sub("up"), 32, 64).forward(x).relu().dropout(s, 0.2);
        Linear::new(&s.sub("down"), 64, 32).forward(&h).gelu()
    });
    Linear::new(&s.sub("head"), 32, 10).forward(&h).cross_entropy(&y)
}

fn conv(s: &Scope, x: &Tensor, channels: usize) -> Tensor {
    let spec = Conv2dSpec::new(channels, 3).padding(1).bias(false);
    let c_in = x.shape().dims()[1].as_fixed().expect("channels are fixed");
    let y = Conv2d::with(&s.sub("conv"), c_in, &spec).forward(x);
    BatchNorm2d::new(&s.sub("norm"), channels).forward(&y)
}

fn cnn(s: &Scope, parts: Parts) -> Tensor {
    let x = s.input("x", (Batch, 32), F32).reshape((Batch, 2, 4, 4));
    let y = s.labels("y", (Batch,), U32, 10, None);
    let h = blocks(s, parts, 4, x, |s, x| conv(s, x, 8).relu().dropout(s, 0.1));
    Linear::new(&s.sub("head"), 8 * 4, 10)
        .forward(&MaxPool2d::new(2).stride(2).forward(&h).flatten(1, -1))
        .cross_entropy(&y)
}

fn residual(s: &Scope, parts: Parts) -> Tensor {
    let x = s.input("x", (Batch, 32), F32).reshape((Batch, 2, 4, 4));
    let y = s.labels("y", (Batch,), U32, 10, None);
    let x = conv(&s.sub("stem"), &x, 8).relu();
    let h = blocks(s, parts, 4, x, |s, x| {
        let h = conv(&s.sub("first"), x, 8).relu();
        (conv(&s.sub("second"), &h, 8) + x).relu()
    });
    Linear::new(&s.sub("head"), 8, 10).forward(&h.mean([2, 3])).cross_entropy(&y)
}

fn transformer(s: &Scope, parts: Parts) -> Tensor {
    const TOKENS: usize = 32;
    const WIDTH: usize = 16;
    let x = s.labels("tokens", (Batch, TOKENS), U32, 11, None);
    let y = s.labels("y", (Batch,), U32, 10, None);
    let x = Embedding::new(&s.sub("tokens"), 11, WIDTH).forward(&x);
    let h = blocks(s, parts, 4, x, |s, x| {
        let h = LayerNorm::new(&s.sub("ln1"), vec![WIDTH]).forward(x);
        let [q, k, v] = ["q", "k", "v"].map(|name| Linear::new(&s.sub(name), WIDTH, WIDTH).forward(&h));
        let scores = q.matmul(&k.transpose(-2, -1)) * 0.25;
        let h = x + Linear::new(&s.sub("o"), WIDTH, WIDTH).forward(&scores.softmax(-1).dropout(s, 0.1).matmul(&v));
        let up = Linear::new(&s.sub("up"), WIDTH, 4 * WIDTH);
        let down = Linear::new(&s.sub("down"), 4 * WIDTH, WIDTH);
        &h + down.forward(&up.forward(&LayerNorm::new(&s.sub("ln2"), vec![WIDTH]).forward(&h)).gelu())
    });
    Linear::new(&s.sub("head"), WIDTH, 10).forward(&h.mean(1)).cross_entropy(&y)
}

/// Gradients of the user's within parts.
fn custom(s: &Scope, parts: Parts) -> Tensor {
    let x = s.input("x", (Batch, 32), F32);
    let y = s.labels("y", (Batch,), U32, 10, None);
    let h = blocks(s, parts, 6, x, |s, x| {
        let h = Linear::new(&s.sub("up"), 32, 64).forward(x);
        let forward = |x: &[Tensor]| vec![x[0].tanh()];
        let backward = |_: &[Tensor], y: &[Tensor], d: &[Tensor]| vec![Some(&d[0] * &(1.0 - y[0].square()))];
        Linear::new(&s.sub("down"), 64, 32).forward(&h.custom_vjp(&[], forward, backward).remove(0))
    });
    Linear::new(&s.sub("head"), 32, 10).forward(&h).cross_entropy(&y)
}

/// A loss that holds a gradient of its own.
fn slopes(s: &Scope, parts: Parts) -> Tensor {
    let x = s.input("x", (Batch, 32), F32);
    let y = s.labels("y", (Batch,), U32, 10, None);
    let h = blocks(s, parts, 4, x.clone(), |s, x| Linear::new(&s.sub("fc"), 32, 32).forward(x).tanh());
    let loss = Linear::new(&s.sub("head"), 32, 10).forward(&h).cross_entropy(&y);
    let slopes = wholestep_compiler::autodiff::gradients(&loss, &[x]).remove(0);
    loss + slopes.square().sum(..) * 0.1
}

type Model = fn(&Scope, Parts) -> Tensor;

/// A model with what is expected of it.
struct Case {
    name: &'static str,
    model: Model,
    /// The most of the arena that is left with each block computed again, beside what products have to work in, which grows with the host's cores.
    left: f64,
}

const CASES: [Case; 5] = [
    Case { name: "mlp", model: mlp, left: 0.5 },
    Case { name: "cnn", model: cnn, left: 0.6 },
    Case { name: "residual", model: residual, left: 0.56 },
    Case { name: "transformer", model: transformer, left: 0.4 },
    Case { name: "custom", model: custom, left: 0.7 },
];

/// Large enough that activations take most of the arena.
const MAX_BATCH: usize = 512;

/// Part of the arena that is left with some computed again, on a device whose products need no memory to work in.
fn left(case: &Case, parts: Parts) -> Result<f64> {
    let device =
        planner("a cpu", Caps { contract_scratch_bytes: |_, _| 0, ..CpuBackend::new(Config::detect()).caps() });
    let [some, all] = [parts, Parts::None].map(|parts| compiled(&device, case.model, parts));
    Ok(some?.memory_bytes().transient_bytes as f64 / all?.memory_bytes().transient_bytes as f64)
}

fn compiled(device: &Device, model: Model, parts: Parts) -> Result<Step> {
    Step::options().seed(3).max_batch(MAX_BATCH).compile(device, Sgd::new(0.05).momentum(0.9), |s| model(s, parts))
}

fn run(step: &mut Step, i: usize) -> Result<f32> {
    let rows = ROWS - i;
    let x = (0..rows * 32).map(|j| ((i * 31 + j * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let x = Array::new::<f32>(x, vec![rows, 32])?;
    let tokens = Array::new::<u32>((0..rows * 32).map(|j| ((i + j * 7) % 11) as u32).collect(), vec![rows, 32])?;
    let y = Array::from_vec((0..rows).map(|j| ((i + j) % 10) as u32).collect::<Vec<u32>>());
    let reads_tokens = step.slots().any(|(name, _)| name == "tokens/weight");
    step.run(&[if reads_tokens { ("tokens", &tokens) } else { ("x", &x) }, ("y", &y)])?;
    step.loss()
}

/// Losses and all slots after a few steps on batches of different sizes.
fn trained(step: &mut Step) -> Result<Vec<(String, Vec<f64>)>> {
    let losses = (0..5).map(|i| run(step, i).map(f64::from)).collect::<Result<Vec<f64>>>()?;
    let mut all = vec![("losses".to_string(), losses)];
    let names: Vec<String> = step.slots().map(|(name, _)| name.to_string()).collect();
    for name in names {
        let value = step.read(&name)?;
        // Not the step number and the random key, which no gradient reaches.
        if let Some(values) = value.as_slice::<f32>() {
            all.push((name, values.iter().map(|&v| f64::from(v)).collect()));
        }
    }
    Ok(all)
}

/// How far all losses and slots together are apart, beside their size; 0 where all bits are equal.
fn difference(got: &[(String, Vec<f64>)], want: &[(String, Vec<f64>)]) -> f64 {
    let (mut apart, mut size) = (0.0, 0.0);
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert!(got.iter().all(|v| v.is_finite()), "{name} is not finite");
        apart += got.iter().zip(want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        size += want.iter().map(|v| v * v).sum::<f64>();
    }
    (apart / size).sqrt()
}

fn check(case: &Case, what: &str, got: &[(String, Vec<f64>)], want: &[(String, Vec<f64>)]) {
    for (got, want) in got.iter().zip(want) {
        assert!(got == want, "{} {what}: the bits of {} differ", case.name, got.0);
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits() -> Result<()> {
    for (case, parts) in CASES.iter().flat_map(|case| [(case, Parts::Blocks), (case, Parts::Nested)]) {
        let left = left(case, parts)?;
        println!("{} {parts:?}: {left:.3} of the arena", case.name);
        assert!(left <= case.left, "{} {parts:?}: {left} of the arena is left", case.name);
    }
    for (case, level) in CASES.iter().flat_map(|case| [(case, Level::detect()), (case, Level::Baseline)]) {
        let device = Device::cpu_with(Config { n_threads: 2, level, ..Config::detect() });
        let mut plain = compiled(&device, case.model, Parts::None)?;
        assert!(!plain.explain().contains("recompute:"), "nothing was asked for");
        let expected = trained(&mut plain)?;
        for parts in [Parts::Blocks, Parts::Nested] {
            let mut step = compiled(&device, case.model, parts)?;
            assert!(step.explain().contains("recompute:"));
            check(case, &format!("{parts:?}"), &trained(&mut step)?, &expected);
            let (planned, held) = (step.memory_bytes(), step.counters().allocated_bytes as usize);
            let beside = held - planned.persistent_bytes - planned.transient_bytes;
            let plainly = plain.counters().allocated_bytes as usize - total(&plain) as usize;
            assert_eq!(beside, plainly, "{}: what is not planned is the same", case.name);
        }
    }
    Ok(())
}

/// What such a gradient reads is kept: nothing is gained, and nothing changes.
#[test]
fn a_gradient_within_the_model_keeps_what_it_reads() -> Result<()> {
    let device = Device::cpu_with_threads(2);
    let (mut plain, mut step) = (compiled(&device, slopes, Parts::None)?, compiled(&device, slopes, Parts::Blocks)?);
    assert_eq!(step.memory_bytes(), plain.memory_bytes());
    assert_eq!(trained(&mut step)?, trained(&mut plain)?);
    Ok(())
}

/// Parameters, state and arena.
fn total(step: &Step) -> u64 {
    let memory = step.memory_bytes();
    (memory.persistent_bytes + memory.transient_bytes) as u64
}

fn fitted(model: Model, bytes: u64) -> Result<Step> {
    let options = Step::options().seed(3).max_batch(MAX_BATCH).fit_in(bytes);
    options.compile(&Device::cpu_with_threads(2), Sgd::new(0.05).momentum(0.9), |s| model(s, Parts::None))
}

/// "5.8 %" of the line that says what recomputation costs; 0 where nothing is computed again.
fn extra_work(step: &Step) -> f64 {
    let text = step.explain();
    let Some((_, rest)) = text.split_once("instead of ") else { return 0.0 };
    let (_, rest) = rest.split_once("for ").expect("what it costs is said");
    rest.split_once(" %").and_then(|(number, _)| number.parse().ok()).expect("a number of percent")
}

/// What was compiled, without the time that took.
fn choices(step: &Step) -> Vec<String> {
    step.explain().lines().skip(1).map(str::to_string).collect()
}

#[test]
fn a_step_fits_into_what_it_may_take_with_the_same_bits() -> Result<()> {
    for case in &CASES {
        let mut plain = compiled(&Device::cpu_with_threads(2), case.model, Parts::None)?;
        let (whole, expected) = (total(&plain), trained(&mut plain)?);
        // What there is room for is not computed again.
        let roomy = fitted(case.model, whole)?;
        assert_eq!((total(&roomy), extra_work(&roomy)), (whole, 0.0), "{}", case.name);
        let error = fitted(case.model, 1000).map(|_| ()).expect_err("nothing fits into 1000 bytes").to_string();
        let least = least_of(&error);
        println!("{}: {error}", case.name);
        assert!(least < whole, "{}: {least} of {whole}", case.name);
        let mut before = 0.0;
        for halves in [1, 2] {
            let budget = whole - (whole - least) * halves / 2;
            let mut step = fitted(case.model, budget)?;
            let what = format!("{} of {whole} bytes for {budget}, {} % more work", total(&step), extra_work(&step));
            assert!(total(&step) <= budget, "{}: {what}", case.name);
            assert!(extra_work(&step) >= before, "{}: less memory for less work: {what}", case.name);
            before = extra_work(&step);
            assert_eq!(choices(&fitted(case.model, budget)?), choices(&step), "the same program, the same choices");
            check(case, &what, &trained(&mut step)?, &expected);
        }
        let half = extra_work(&fitted(case.model, whole - (whole - least) / 2)?);
        println!("{}: {half} % more work for half of what can be spared, {before} % for all", case.name);
        // It has parts of which some do for half.
        assert!(case.name != "residual" || half < before / 2.0, "as few as make it fit: {half} % of {before} %");
    }
    Ok(())
}

/// The least that was reached, in bytes, of the error that says so.
fn least_of(error: &str) -> u64 {
    let (_, rest) = error.split_once("needs at least ").expect(error);
    let bytes = rest.split_once(" bytes").and_then(|(n, _)| n.parse().ok());
    bytes.expect(error)
}

#[test]
fn what_does_not_fit_is_an_error_that_says_what_takes_the_memory() -> Result<()> {
    let error = fitted(residual, 30_000).map(|_| ()).expect_err("30 kB are too few").to_string();
    for part in [
        "fit_in: the step needs at least",
        "30000 may be taken",
        "parameters",
        "state of the optimizer",
        "arena, fullest at launch",
        "in block",
        "a smaller batch",
    ] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
    // A batch that is larger than what memory was laid out for may not break the budget either.
    let mut step = fitted(mlp, total(&compiled(&Device::cpu()?, mlp, Parts::None)?) * 2 / 3)?;
    let rows = 2 * MAX_BATCH;
    let (x, y) = (Array::new::<f32>(vec![0.5; rows * 32], vec![rows, 32])?, Array::from_vec(vec![1_u32; rows]));
    let error = step.run(&[("x", &x), ("y", &y)]).expect_err("twice the batch").to_string();
    assert!(error.contains("fit_in allows"), "{error}");
    Ok(())
}

/// A model of blocks as a file would hold it.
fn described(again: bool) -> Result<wholestep::spec::Model> {
    let body = |i: usize| {
        let layers = "{ type = \"linear\", out_features = 64 }, { type = \"relu\" }, { type = \"dropout\", p = 0.1 }, \
                      { type = \"linear\", out_features = 16 }";
        let again = if again { "recompute = true, " } else { "" };
        format!("{{ type = \"residual\", name = \"block{i}\", {again}body = [{layers}] }}")
    };
    let layers: Vec<String> = (0..6).map(body).collect();
    let text = format!("version = 1\ninputs = [{{ name = \"x\", shape = [16] }}]\nlayers = [{}]\n", layers.join(", "));
    wholestep::spec::Model::from_toml(&text)
}

#[test]
fn a_model_file_says_what_is_computed_again() -> Result<()> {
    let mut trained = Vec::new();
    for again in [false, true] {
        let model = described(again)?;
        assert_eq!(wholestep::spec::Model::from_toml(&model.to_toml()?)?, model);
        let mut step = Step::options().max_batch(1024).compile(&Device::cpu()?, Sgd::new(0.05).momentum(0.9), |s| {
            let built = model.build(s).expect("the model is sound");
            built.output().square().mean(..)
        })?;
        let x = Array::new::<f32>((0..64 * 16).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect(), vec![64, 16])?;
        for _ in 0..3 {
            step.run(&[("x", &x)])?;
        }
        let weight = step.read("block0/body/0_linear/weight")?;
        let bits: Vec<u32> = weight.slice::<f32>()?.iter().map(|v| v.to_bits()).collect();
        trained.push((bits, step.memory_bytes().transient_bytes));
    }
    assert_eq!(trained[0].0, trained[1].0);
    assert!(4 * trained[1].1 < 3 * trained[0].1, "{} of {} bytes", trained[1].1, trained[0].1);
    Ok(())
}

/// The same on a GPU, whose compiler may round in other places. Without an adapter this says that it was skipped, unless `REQUIRE_WGPU` is set.
#[cfg(feature = "wgpu")]
#[test]
fn a_gpu_computes_again_what_it_computed_before() -> Result<()> {
    let device = match Device::wgpu(0) {
        Ok(device) => device,
        Err(e) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({e})");
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    for case in CASES.iter().filter(|case| ["mlp", "residual"].contains(&case.name)) {
        let mut plain = compiled(&device, case.model, Parts::None)?;
        let mut step = compiled(&device, case.model, Parts::Blocks)?;
        assert!(total(&step) < total(&plain), "{}: no memory is spared", case.name);
        let apart = difference(&trained(&mut step)?, &trained(&mut plain)?);
        println!("{}: {apart:.1e} apart", case.name);
        assert!(apart <= 1e-6, "{}: {apart} apart", case.name);
    }
    Ok(())
}
