//! A sine learned in ten epochs from 1,000 noisy points, fed by a loader that works ahead on its own threads. Takes nothing, gives curves
//! close to the sine, and weights that give the same curve when read from files again. Never tests on points it trained on.
//!
//! The noise has a variance of 0.0008. With dropout on 64 units this recipe does not come down to that in ten epochs: PyTorch reaches 0.0015
//! to 0.0133 over 30 seeds, 0.0046 in the middle. Without dropout both get below 0.002. So five seeds are trained, and the bar is on the middle.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::f64::consts::TAU;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::random::Philox;
use wholestep::data::{Array, Dataset, Loader, Standardize, npy};
use wholestep::metrics::Regression;
use wholestep::nn::{BatchNorm1d, Dropout, Linear};
use wholestep::optim::Adam;
use wholestep::schedule::CosineAnnealing;
use wholestep::{Batch, Device, Error, ErrorKind, F32, Infer, Result, Scope, Step, Tensor};

const EPOCHS: u64 = 10;
const SEEDS: u64 = 5;

/// 1-64-ReLU-Dropout-128-LeakyReLU-BatchNorm-64-ELU-1, 17,025 parameters.
fn model(s: &Scope, x: &Tensor) -> Tensor {
    let h = Linear::new(&s.sub("fc1"), 1, 64).forward(x).relu();
    let h = Dropout::new(&s.sub("drop"), 0.2).forward(&h);
    let h = Linear::new(&s.sub("fc2"), 64, 128).forward(&h).leaky_relu(0.01);
    let h = BatchNorm1d::new(&s.sub("norm"), 128).forward(&h);
    let h = Linear::new(&s.sub("fc3"), 128, 64).forward(&h).elu(1.0);
    Linear::new(&s.sub("fc4"), 64, 1).forward(&h)
}

fn forward(s: &Scope) -> Tensor {
    model(s, &s.input("x", (Batch, 1), F32))
}

/// x uniform in [0, 2π), y = sin x with uniform noise.
fn sine(n: usize, noise: f64, seed: u64) -> Result<Dataset> {
    let mut random = Philox::new(seed, 0);
    let x: Vec<f64> = (0..n).map(|_| random.uniform(0.0, TAU)).collect();
    let y = x.iter().map(|x| (x.sin() + random.uniform(-noise, noise)) as f32).collect();
    let x = x.iter().map(|x| *x as f32).collect();
    Dataset::new([("x", Array::new::<f32>(x, [n, 1])?), ("y", Array::new::<f32>(y, [n, 1])?)])
}

/// One training from start to end.
fn fit(run: &Run, train: &Dataset, seed: u64) -> Result<Step> {
    // Two threads make batches ahead; the map is where a real program would change a sample.
    let loading = Loading { batch_size: 32, seed, workers: 2, prefetch: 4, ..Loading::default() };
    let mut loader = Loader::with_map(train, loading, |_sample, _seed| Ok(()))?;
    let schedule = CosineAnnealing::new(EPOCHS * loader.batches_per_epoch()).min(1e-4);
    let optimizer = Adam::new(1e-3).weight_decay(1e-4);
    let mut step = Step::options().seed(seed).schedule(&schedule).compile(&run.device, optimizer, |s| {
        let y = s.input("y", (Batch, 1), F32);
        (forward(s) - y).square().mean(..)
    })?;
    let mut steps = 0;
    for _epoch in 0..EPOCHS {
        for batch in &mut loader {
            let batch = batch?;
            step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
            steps += 1;
            if !run.allows(steps) {
                return Ok(step);
            }
        }
    }
    Ok(step)
}

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let (train, test) = (sine(1000, 0.05, 3)?, sine(500, 0.0, 4)?);
    let scale = Standardize::fit(&train, "x")?;
    let (train, test) = (scale.apply(&train)?, scale.apply(&test)?);
    let mut infer = Infer::compile(&run.device, test.rows(), forward)?;
    let mut errors = Vec::new();
    for seed in 0..SEEDS {
        let mut step = fit(&run, &train, seed)?;
        infer.copy_from(&mut step)?;
        let mut error = Regression::new(1)?;
        error.update(infer.run(&[("x", test.column("x")?)])?.slice::<f32>()?, test.column("y")?.slice::<f32>()?)?;
        let mse = error.mse().unwrap_or(f64::INFINITY);
        println!(
            "seed {seed}  loss of the last batch {:.5}  mean squared error against the sine {mse:.5}",
            step.loss()?
        );
        errors.push(mse);
    }
    errors.sort_by(f64::total_cmp);
    let middle = errors[errors.len() / 2];
    run.bar("mean squared error against the sine, in the middle of five", middle, "<= 0.01", middle <= 0.01);
    saved_and_read_again(&run.device, &mut infer, test.column("x")?)?;
    Ok(run.verdict())
}

/// Each parameter is a NumPy file that any other program reads; from these the curve comes back bit for bit.
fn saved_and_read_again(device: &Device, infer: &mut Infer, x: &Array) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("wholestep-sine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let names: Vec<String> = infer.learned().map(str::to_string).collect();
    let mut again = Infer::compile(device, x.rows(), forward)?;
    for name in &names {
        let path = folder.join(format!("{}.npy", name.replace('/', ".")));
        npy::write(&path, &infer.read(name)?)?;
        again.write(name, &npy::read(&path)?)?;
    }
    std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
    if again.run(&[("x", x)])? != infer.run(&[("x", x)])? {
        return Err(Error::new(ErrorKind::Checkpoint, "the reloaded weights give another curve"));
    }
    println!("{} arrays saved, read again: the same curve bit for bit", names.len());
    Ok(())
}
