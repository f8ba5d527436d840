//! The smallest program that trains: a 10-16-2 classifier on 100 random rows. Takes random labels, so there is nothing to generalize: gives a
//! model that learned them by heart. Never needs a file.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::random::Philox;
use wholestep::data::{Array, Dataset, Loader};
use wholestep::nn::Linear;
use wholestep::optim::Adam;
use wholestep::{Batch, F32, Result, Step, U32};

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let mut random = Philox::new(7, 0);
    let x = Array::new((0..1000).map(|_| random.normal() as f32).collect(), [100, 10])?;
    let y = Array::from_vec((0..100).map(|_| random.below(2) as u32).collect());
    let data = Dataset::new([("x", x), ("y", y)])?;

    let mut step = Step::compile(&run.device, Adam::new(1e-3), |s| {
        let x = s.input("x", (Batch, 10), F32);
        let y = s.labels("y", (Batch,), U32, 2, None);
        let hidden = Linear::new(&s.sub("hidden"), 10, 16).forward(&x).relu();
        Linear::new(&s.sub("head"), 16, 2).forward(&hidden).cross_entropy(&y)
    })?;
    println!("{}", step.explain());

    let mut loader = Loader::new(&data, Loading { batch_size: 8, seed: 7, ..Loading::default() })?;
    let mut mean = f64::NAN;
    let mut steps = 0;
    for epoch in 0..200 {
        let mut losses = Vec::new();
        for batch in &mut loader {
            let batch = batch?;
            step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
            losses.push(f64::from(step.loss()?));
            steps += 1;
            if !run.allows(steps) {
                break;
            }
        }
        mean = losses.iter().sum::<f64>() / losses.len() as f64;
        if epoch % 25 == 0 {
            println!("epoch {epoch:3}  mean loss {mean:.4}");
        }
        if !run.allows(steps) {
            break;
        }
    }
    // Guessing gives ln 2 = 0.69; only a step that really changes weights gets below.
    run.bar("mean loss of the last epoch", mean, "<= 0.45", mean <= 0.45);
    Ok(run.verdict())
}
