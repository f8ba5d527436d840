//! Iris from start to end: data, standardization, training with early stopping, the best weights, per-class scores. Takes 600 generated
//! flowers, gives two trained classifiers. Never looks at the validation part while fitting.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::{Dataset, Loader, Standardize, synthetic};
use wholestep::metrics::{Confusion, LogLoss};
use wholestep::nn::{BatchNorm1d, Dropout, Linear};
use wholestep::optim::Adam;
use wholestep::{Array, Batch, F32, Infer, Result, Scope, Step, Tensor, U32};

/// Epochs without a better validation loss before training stops.
const PATIENCE: u64 = 10;

/// 4-32-ReLU-3.
fn plain(s: &Scope, x: &Tensor) -> Tensor {
    let h = Linear::new(&s.sub("fc1"), 4, 32).forward(x).relu();
    Linear::new(&s.sub("fc2"), 32, 3).forward(&h)
}

/// 4-32-BatchNorm-ReLU-Dropout-16-8-3.
fn normalized(s: &Scope, x: &Tensor) -> Tensor {
    let h = Linear::new(&s.sub("fc1"), 4, 32).forward(x);
    let h = BatchNorm1d::new(&s.sub("norm"), 32).forward(&h).relu();
    let h = Dropout::new(&s.sub("drop"), 0.2).forward(&h);
    let h = Linear::new(&s.sub("fc2"), 32, 16).forward(&h).relu();
    let h = Linear::new(&s.sub("fc3"), 16, 8).forward(&h).relu();
    Linear::new(&s.sub("fc4"), 8, 3).forward(&h)
}

type Model = fn(&Scope, &Tensor) -> Tensor;

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let data = synthetic::iris_like(200, 42);
    println!("{}", data.describe());
    let (train, val) = data.split_stratified(0.8, 42)?;
    // Fitted on the training part only: the validation part must stay unseen.
    let scale = Standardize::fit(&train, "x")?;
    let (train, val) = (scale.apply(&train)?, scale.apply(&val)?);
    for (name, model) in [("4-32-3", plain as Model), ("4-32-BN-16-8-3", normalized)] {
        println!("\n{name}");
        let confusion = fit(&run, model, &train, &val)?;
        println!("{}", confusion.table(data.class_names()));
        let accuracy = confusion.accuracy().unwrap_or(0.0);
        run.bar("validation accuracy", accuracy, ">= 0.97", accuracy >= 0.97);
    }
    Ok(run.verdict())
}

/// Trains until the validation loss stops falling and gives the confusion of the best weights.
fn fit(run: &Run, model: Model, train: &Dataset, val: &Dataset) -> Result<Confusion> {
    let mut step = Step::options().seed(42).max_batch(16).compile(&run.device, Adam::new(0.01), |s| {
        let x = s.input("x", (Batch, 4), F32);
        let y = s.labels("y", (Batch,), U32, 3, None);
        model(s, &x).cross_entropy(&y)
    })?;
    let mut infer = Infer::compile(&run.device, val.rows(), |s| model(s, &s.input("x", (Batch, 4), F32)))?;
    let mut loader = Loader::new(train, Loading { batch_size: 16, seed: 42, ..Loading::default() })?;
    let (x, y) = (val.column("x")?, val.column("y")?.slice::<u32>()?);

    let mut best: Option<(f64, u64, Vec<(String, Array)>)> = None;
    let mut steps = 0;
    for epoch in 1..=100 {
        for batch in &mut loader {
            let batch = batch?;
            step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
            steps += 1;
            if !run.allows(steps) {
                break;
            }
        }
        infer.copy_from(&mut step)?;
        let mut val_loss = LogLoss::new(3)?;
        val_loss.update_logits(infer.run(&[("x", x)])?.slice::<f32>()?, y)?;
        let loss = val_loss.value().unwrap_or(f64::INFINITY);
        if epoch % 5 == 1 {
            println!("epoch {epoch:3}  train loss {:.4}  validation loss {loss:.4}", step.loss()?);
        }
        if best.as_ref().is_none_or(|(least, _, _)| loss < *least) {
            best = Some((loss, epoch, weights(&mut infer)?));
        } else if best.as_ref().is_some_and(|(_, at, _)| epoch >= at + PATIENCE) {
            break;
        }
        if !run.allows(steps) {
            break;
        }
    }
    if let Some((loss, epoch, weights)) = best {
        println!("best validation loss {loss:.4} in epoch {epoch}; its weights are taken back");
        for (name, value) in &weights {
            infer.write(name, value)?;
        }
    }
    let mut confusion = Confusion::new(3)?;
    confusion.update(infer.run(&[("x", x)])?.slice::<f32>()?, y)?;
    Ok(confusion)
}

/// Copies of all parameters and running statistics.
fn weights(infer: &mut Infer) -> Result<Vec<(String, Array)>> {
    let names: Vec<String> = infer.learned().map(str::to_string).collect();
    names.into_iter().map(|name| infer.read(&name).map(|value| (name, value))).collect()
}
