//! Four regressions with known answers: a line, house prices, a parabola with outliers, a series. Takes generated data, gives each fit beside
//! the truth. Never tests on rows it trained on.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::{Array, Dataset, Loader, Standardize, synthetic};
use wholestep::metrics::Regression;
use wholestep::nn::Linear;
use wholestep::optim::Adam;
use wholestep::schedule::CosineAnnealing;
use wholestep::{Batch, F32, Infer, Result, Scope, Step, Tensor};

type Loss = fn(&Tensor, &Tensor) -> Tensor;

fn mse(p: &Tensor, y: &Tensor) -> Tensor {
    (p - y).square().mean(..)
}

/// Quadratic up to 1, linear beyond: an outlier pulls no harder than any other far point.
fn huber(p: &Tensor, y: &Tensor) -> Tensor {
    let off = (p - y).abs();
    off.less_equal(1.0).select(off.square() * 0.5, &off - 0.5).mean(..)
}

/// A perceptron of these sizes with ReLU between; two sizes are a line.
struct Fit<'a> {
    sizes: &'a [usize],
    loss: Loss,
    rate: f64,
    epochs: u64,
}

impl Fit<'_> {
    fn model(&self, s: &Scope, x: &Tensor) -> Tensor {
        let mut h = x.clone();
        for (i, pair) in self.sizes.windows(2).enumerate() {
            h = Linear::new(&s.sub(format!("fc{i}")), pair[0], pair[1]).forward(&h);
            if i + 2 < self.sizes.len() {
                h = h.relu();
            }
        }
        h
    }

    /// Trains on `data` and gives the program that predicts.
    fn train(&self, run: &Run, data: &Dataset) -> Result<Infer> {
        let n_in = self.sizes[0];
        let mut loader = Loader::new(data, Loading { batch_size: 64, seed: 5, ..Loading::default() })?;
        let schedule = CosineAnnealing::new(self.epochs * loader.batches_per_epoch());
        let options = Step::options().seed(5).max_batch(64).schedule(&schedule);
        let mut step = options.compile(&run.device, Adam::new(self.rate), |s| {
            let x = s.input("x", (Batch, n_in), F32);
            let y = s.input("y", (Batch, 1), F32);
            (self.loss)(&self.model(s, &x), &y)
        })?;
        let mut steps = 0;
        'training: for _ in 0..self.epochs {
            for batch in &mut loader {
                let batch = batch?;
                step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
                steps += 1;
                if !run.allows(steps) {
                    break 'training;
                }
            }
        }
        let mut infer = Infer::compile(&run.device, 256, |s| self.model(s, &s.input("x", (Batch, n_in), F32)))?;
        infer.copy_from(&mut step)?;
        Ok(infer)
    }
}

/// Errors of a program on `data`, whose target may have been standardized.
fn scores(infer: &mut Infer, data: &Dataset, units: Option<&Standardize>) -> Result<Regression> {
    let predicted = infer.run(&[("x", data.column("x")?)])?;
    let (predicted, target) = match units {
        Some(units) => (units.invert(&predicted)?, units.invert(data.column("y")?)?),
        None => (predicted, data.column("y")?.clone()),
    };
    let mut scores = Regression::new(1)?;
    scores.update(predicted.slice::<f32>()?, target.slice::<f32>()?)?;
    Ok(scores)
}

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    line(&mut run)?;
    houses(&mut run)?;
    outliers(&mut run)?;
    series(&mut run)?;
    Ok(run.verdict())
}

/// y = 2x + 1 ± 0.1: the weights themselves are the answer.
fn line(run: &mut Run) -> Result<()> {
    let data = synthetic::line(1000, 11);
    let mut infer = Fit { sizes: &[1, 1], loss: mse, rate: 0.05, epochs: 60 }.train(run, &data)?;
    let slope = f64::from(infer.read("fc0/weight")?.slice::<f32>()?[0]);
    let intercept = f64::from(infer.read("fc0/bias")?.slice::<f32>()?[0]);
    run.bar("line: slope", slope, "2 ± 0.02", (slope - 2.0).abs() <= 0.02);
    run.bar("line: intercept", intercept, "1 ± 0.02", (intercept - 1.0).abs() <= 0.02);
    Ok(())
}

/// Price in millions from five features of very different size.
fn houses(run: &mut Run) -> Result<()> {
    let (train, test) = synthetic::houses(1000, 12).split(0.8, 12)?;
    let (x, y) = (Standardize::fit(&train, "x")?, Standardize::fit(&train, "y")?);
    let (train, test) = (y.apply(&x.apply(&train)?)?, y.apply(&x.apply(&test)?)?);
    let mut infer = Fit { sizes: &[5, 64, 32, 1], loss: mse, rate: 3e-3, epochs: 60 }.train(run, &train)?;
    let scores = scores(&mut infer, &test, Some(&y))?;
    let r2 = scores.r2().unwrap_or(f64::NAN);
    println!(
        "houses: mean absolute error {:.0} dollars (the noise's own is 5000)",
        1e6 * scores.mae().unwrap_or(f64::NAN)
    );
    run.bar("houses: R²", r2, ">= 0.99", r2 >= 0.99);
    Ok(())
}

/// y = x² + x, a tenth of the rows off by ±5: judged against the parabola without outliers.
fn outliers(run: &mut Run) -> Result<()> {
    let data = synthetic::parabola_with_outliers(1000, 13);
    let x: Vec<f32> = (0..200).map(|i| -2.0 + 0.02 * i as f32).collect();
    let y: Vec<f32> = x.iter().map(|x| x * x + x).collect();
    let truth = Dataset::new([("x", Array::new(x, [200, 1])?), ("y", Array::new(y, [200, 1])?)])?;
    let mut errors = Vec::new();
    for (name, loss) in [("squared", mse as Loss), ("Huber", huber)] {
        let mut infer = Fit { sizes: &[1, 32, 32, 1], loss, rate: 5e-3, epochs: 60 }.train(run, &data)?;
        let mae = scores(&mut infer, &truth, None)?.mae().unwrap_or(f64::NAN);
        println!("outliers: {name} loss, mean absolute error {mae:.4} against the true parabola");
        errors.push(mae);
    }
    run.bar("outliers: Huber error over squared error", errors[1] / errors[0], "< 0.8", errors[1] < 0.8 * errors[0]);
    Ok(())
}

/// The next value of sin(2πt/25) + 0.01·t from the ten before it.
fn series(run: &mut Run) -> Result<()> {
    let windows = synthetic::series_windows(1000, 10);
    let flat = windows.column("x")?.clone().reshape([1000, 10])?;
    let (train, test) = windows.with_column("x", flat)?.split(0.8, 14)?;
    let (x, y) = (Standardize::fit(&train, "x")?, Standardize::fit(&train, "y")?);
    let (train, test) = (y.apply(&x.apply(&train)?)?, y.apply(&x.apply(&test)?)?);
    let mut infer = Fit { sizes: &[10, 128, 64, 32, 1], loss: mse, rate: 2e-3, epochs: 60 }.train(run, &train)?;
    let mse = scores(&mut infer, &test, Some(&y))?.mse().unwrap_or(f64::NAN);
    run.bar("series: mean squared error of the next value", mse, "<= 0.01", mse <= 0.01);
    Ok(())
}
