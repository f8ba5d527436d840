//! A convolutional network of 591,274 parameters on color images of 32x32. Takes ten generated classes of striped images, gives accuracy on
//! images it never saw. Never reads a file.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::f64::consts::PI;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::random::Philox;
use wholestep::data::{Array, Dataset, Loader};
use wholestep::metrics::Accuracy;
use wholestep::nn::{Conv2d, Conv2dSpec, Dropout, Linear};
use wholestep::optim::Adam;
use wholestep::{Batch, F32, Infer, Result, Scope, Step, Tensor, U32};

/// conv32, conv32 s2, conv64, conv64 s2, dense 128, dropout, dense 10: x `[B, 3, 32, 32]` -> `[B, 10]`.
fn model(s: &Scope, x: &Tensor) -> Tensor {
    let mut h = x.clone();
    for (i, (c_in, c_out, stride)) in [(3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2)].into_iter().enumerate() {
        let spec = Conv2dSpec::new(c_out, 3).stride(stride).padding(1);
        h = Conv2d::with(&s.sub(format!("conv{i}")), c_in, &spec).forward(&h).relu();
    }
    let h = Linear::new(&s.sub("fc1"), 64 * 8 * 8, 128).forward(&h.flatten(1, -1)).relu();
    let h = Dropout::new(&s.sub("drop"), 0.5).forward(&h);
    Linear::new(&s.sub("fc2"), 128, 10).forward(&h)
}

/// Stripes whose direction is the class, in a random color, with a random phase and noise: "x" `[N, 3, 32, 32]`, "y" `[N]`.
fn stripes(n: usize, seed: u64) -> Result<Dataset> {
    let mut random = Philox::new(seed, 0);
    let (mut x, mut y) = (Vec::with_capacity(n * 3 * 32 * 32), Vec::with_capacity(n));
    for i in 0..n {
        let class = i % 10;
        let (sin, cos) = (PI * class as f64 / 10.0).sin_cos();
        let phase = random.uniform(0.0, 2.0 * PI);
        for _channel in 0..3 {
            let strength = random.uniform(0.5, 1.0);
            for at in 0..32 * 32 {
                let (row, col) = ((at / 32) as f64, (at % 32) as f64);
                let wave = (0.9 * (col * cos + row * sin) + phase).sin();
                x.push((strength * wave + 0.3 * random.normal()) as f32);
            }
        }
        y.push(class as u32);
    }
    Dataset::new([("x", Array::new(x, [n, 3, 32, 32])?), ("y", Array::from_vec(y))])
}

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let (train, test) = (stripes(1000, 1)?, stripes(300, 2)?);
    let mut step = Step::options().seed(1).max_batch(32).compile(&run.device, Adam::new(1e-3), |s| {
        let x = s.input("x", (Batch, 3, 32, 32), F32);
        let y = s.labels("y", (Batch,), U32, 10, None);
        model(s, &x).cross_entropy(&y)
    })?;
    let names: Vec<String> = step.slots().map(|(name, _)| name.to_string()).collect();
    let learned = names.iter().filter(|n| n.ends_with("weight") || n.ends_with("bias"));
    let mut n_params = 0;
    for name in learned.filter(|n| !n.starts_with("optimizer")) {
        n_params += step.read(name)?.len();
    }
    run.bar("parameters", n_params as f64, "591274", n_params == 591_274);

    let mut loader = Loader::new(&train, Loading { batch_size: 32, seed: 1, drop_last: true, ..Loading::default() })?;
    let mut steps = 0;
    'training: for epoch in 1..=4 {
        for batch in &mut loader {
            let batch = batch?;
            step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
            steps += 1;
            if steps % 10 == 0 {
                println!("epoch {epoch}  step {steps:3}  loss {:.4}", step.loss()?);
            }
            if !run.allows(steps) {
                break 'training;
            }
        }
    }

    let mut infer = Infer::compile(&run.device, 100, |s| model(s, &s.input("x", (Batch, 3, 32, 32), F32)))?;
    infer.copy_from(&mut step)?;
    let mut accuracy = Accuracy::new(10)?;
    for start in (0..test.rows()).step_by(100) {
        let rows: Vec<usize> = (start..start + 100).collect();
        let part = test.take_rows(&rows)?;
        let logits = infer.run(&[("x", part.column("x")?)])?;
        accuracy.update(logits.slice::<f32>()?, part.column("y")?.slice::<u32>()?)?;
    }
    let accuracy = accuracy.value().unwrap_or(0.0);
    run.bar("accuracy on 300 new images", accuracy, ">= 0.90", accuracy >= 0.90);
    Ok(run.verdict())
}
