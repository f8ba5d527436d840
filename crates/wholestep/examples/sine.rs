//! A sine learned from 1,000 noisy points, fed by a loader that works ahead on its own threads. Takes nothing, gives a curve close to the
//! sine and weights that give the same curve when read from files again. Never tests on points it trained on.
#[path = "shared/run.rs"]
mod run;

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

const EPOCHS: u64 = 60;

/// 1-64-ReLU-Dropout-128-LeakyReLU-BatchNorm-64-ELU-1, 17,025 parameters.
fn model(s: &Scope, x: &Tensor) -> Tensor {
    let h = Linear::new(&s.sub("fc1"), 1, 64).forward(x).relu();
    let h = Dropout::new(&s.sub("drop"), 0.2).forward(&h);
    let h = Linear::new(&s.sub("fc2"), 64, 128).forward(&h).leaky_relu(0.01);
    let h = BatchNorm1d::new(&s.sub("norm"), 128).forward(&h);
    let h = Linear::new(&s.sub("fc3"), 128, 64).forward(&h).elu(1.0);
    Linear::new(&s.sub("fc4"), 64, 1).forward(&h)
}

/// x uniform in [0, 2π), y = sin x with uniform noise.
fn sine(n: usize, noise: f64, seed: u64) -> Result<Dataset> {
    let mut random = Philox::new(seed, 0);
    let x: Vec<f64> = (0..n).map(|_| random.uniform(0.0, TAU)).collect();
    let y = x.iter().map(|x| (x.sin() + random.uniform(-noise, noise)) as f32).collect();
    let x = x.iter().map(|x| *x as f32).collect();
    Dataset::new([("x", Array::new::<f32>(x, [n, 1])?), ("y", Array::new::<f32>(y, [n, 1])?)])
}

fn main() -> Result<ExitCode> {
    let mut run = Run::from_args();
    let device = Device::best()?;
    let (train, test) = (sine(1000, 0.05, 3)?, sine(500, 0.0, 4)?);
    let scale = Standardize::fit(&train, "x")?;
    let (train, test) = (scale.apply(&train)?, scale.apply(&test)?);
    // Two threads make batches ahead; the map is where a real program would change a sample.
    let loading = Loading { batch_size: 32, seed: 3, workers: 2, prefetch: 4, ..Loading::default() };
    let mut loader = Loader::with_map(&train, loading, |_sample, _seed| Ok(()))?;
    let schedule = CosineAnnealing::new(EPOCHS * loader.batches_per_epoch()).min(1e-4);
    let optimizer = Adam::new(1e-3).weight_decay(1e-4);
    let mut step = Step::options().seed(3).schedule(&schedule).compile(&device, optimizer, |s| {
        let x = s.input("x", (Batch, 1), F32);
        let y = s.input("y", (Batch, 1), F32);
        (model(s, &x) - y).square().mean(..)
    })?;
    let mut steps = 0;
    'training: for epoch in 0..EPOCHS {
        for batch in &mut loader {
            let batch = batch?;
            step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
            steps += 1;
            if !run.allows(steps) {
                break 'training;
            }
        }
        if epoch % 10 == 9 {
            let lr = step.output("lr")?.slice::<f32>()?[0];
            println!("epoch {:2}  loss of its last batch {:.5}  rate {lr:.6}", epoch + 1, step.loss()?);
        }
    }

    let program = |s: &Scope| model(s, &s.input("x", (Batch, 1), F32));
    let mut infer = Infer::compile(&device, test.rows(), program)?;
    infer.copy_from(&mut step)?;
    let curve = infer.run(&[("x", test.column("x")?)])?;
    let mut error = Regression::new(1)?;
    error.update(curve.slice::<f32>()?, test.column("y")?.slice::<f32>()?)?;
    let mse = error.mse().unwrap_or(f64::INFINITY);
    // Dropout keeps the curve from being perfect; the sine's own variance is 0.5.
    run.bar("mean squared error against the sine", mse, "<= 0.01", mse <= 0.01);

    // Each parameter is a NumPy file that any other program reads.
    let folder = std::env::temp_dir().join(format!("wholestep-sine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let names: Vec<String> = infer.learned().map(str::to_string).collect();
    let mut again = Infer::compile(&device, test.rows(), program)?;
    for name in &names {
        let path = folder.join(format!("{}.npy", name.replace('/', ".")));
        npy::write(&path, &infer.read(name)?)?;
        again.write(name, &npy::read(&path)?)?;
    }
    std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
    if again.run(&[("x", test.column("x")?)])? != curve {
        return Err(Error::new(ErrorKind::Checkpoint, "the reloaded weights give another curve"));
    }
    println!("{} arrays saved, read again: the same curve bit for bit", names.len());
    Ok(run.verdict())
}
