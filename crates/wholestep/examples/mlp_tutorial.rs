//! Perceptrons from small to large: Fisher's iris with 4-16-8-3, then tumours with 256-128-64, batch normalization and dropout. Takes the
//! tables in data/, gives accuracy on rows that were held out, each row once in five trainings: thirty rows of iris alone would say little.
//! Never standardizes with held-out rows.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::path::Path;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::{Dataset, Loader, Standardize, sklearn_table};
use wholestep::metrics::Confusion;
use wholestep::nn::{BatchNorm1d, Dropout, Linear};
use wholestep::optim::Adam;
use wholestep::{Batch, F32, Infer, Result, Scope, Step, Tensor, U32};

/// A perceptron for a table.
struct Perceptron {
    table: &'static str,
    hidden: &'static [usize],
    /// Batch normalization before and dropout after each ReLU.
    is_regularized: bool,
    rate: f64,
    epochs: u64,
    bar: f64,
}

/// Trainings, each of which holds out another fifth.
const FOLDS: usize = 5;

const PERCEPTRONS: &[Perceptron] = &[
    Perceptron { table: "iris.csv", hidden: &[16, 8], is_regularized: false, rate: 0.01, epochs: 50, bar: 0.93 },
    Perceptron {
        table: "breast_cancer.csv",
        hidden: &[256, 128, 64],
        is_regularized: true,
        rate: 1e-3,
        epochs: 20,
        bar: 0.95,
    },
];

impl Perceptron {
    fn model(&self, s: &Scope, x: &Tensor, n_in: usize, n_classes: usize) -> Tensor {
        let (mut h, mut width) = (x.clone(), n_in);
        for (i, &n) in self.hidden.iter().enumerate() {
            let place = s.sub(format!("block{i}"));
            h = Linear::new(&place.sub("fc"), width, n).forward(&h);
            if self.is_regularized {
                h = BatchNorm1d::new(&place.sub("norm"), n).forward(&h).relu();
                h = Dropout::new(&place.sub("drop"), 0.3).forward(&h);
            } else {
                h = h.relu();
            }
            width = n;
        }
        Linear::new(&s.sub("head"), width, n_classes).forward(&h)
    }

    /// Trains without the rows of `fold` and counts how those are told apart.
    fn fit(&self, run: &Run, data: &Dataset, fold: usize, confusion: &mut Confusion) -> Result<()> {
        let (train, test) = split(data, fold)?;
        let scale = Standardize::fit(&train, "x")?;
        let (train, test) = (scale.apply(&train)?, scale.apply(&test)?);
        let (n_in, n_classes) =
            (data.feature_names().len().max(data.column("x")?.shape()[1]), data.class_names().len());
        let mut step = Step::options().seed(1).max_batch(16).compile(&run.device, Adam::new(self.rate), |s| {
            let x = s.input("x", (Batch, n_in), F32);
            let y = s.labels("y", (Batch,), U32, n_classes, None);
            self.model(s, &x, n_in, n_classes).cross_entropy(&y)
        })?;
        let mut loader = Loader::new(&train, Loading { batch_size: 16, seed: 1, ..Loading::default() })?;
        let mut steps = 0;
        'training: for epoch in 1..=self.epochs {
            for batch in &mut loader {
                let batch = batch?;
                step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
                steps += 1;
                if !run.allows(steps) {
                    break 'training;
                }
            }
            if epoch == self.epochs {
                println!("fold {fold}  loss of the last batch {:.4}", step.loss()?);
            }
        }
        let program = |s: &Scope| self.model(s, &s.input("x", (Batch, n_in), F32), n_in, n_classes);
        let mut infer = Infer::compile(&run.device, test.rows(), program)?;
        infer.copy_from(&mut step)?;
        let logits = infer.run(&[("x", test.column("x")?)])?;
        confusion.update(logits.slice::<f32>()?, test.column("y")?.slice::<u32>()?)
    }
}

/// The rows that are trained on and the fifth that is not; each class gives every fold its share.
fn split(data: &Dataset, fold: usize) -> Result<(Dataset, Dataset)> {
    let labels = data.column("y")?.slice::<u32>()?;
    let mut seen = vec![0; data.class_names().len()];
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (row, &class) in labels.iter().enumerate() {
        let nth = &mut seen[class as usize];
        if *nth % FOLDS == fold {
            test.push(row)
        } else {
            train.push(row)
        }
        *nth += 1;
    }
    Ok((data.take_rows(&train)?, data.take_rows(&test)?))
}

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tables");
    for perceptron in PERCEPTRONS {
        println!("\n{} with {:?}", perceptron.table, perceptron.hidden);
        let data = sklearn_table(tables.join(perceptron.table))?;
        let mut confusion = Confusion::new(data.class_names().len())?;
        for fold in 0..FOLDS {
            perceptron.fit(&run, &data, fold, &mut confusion)?;
        }
        println!("{}", confusion.table(data.class_names()));
        let accuracy = confusion.accuracy().unwrap_or(0.0);
        run.bar("accuracy on held-out rows", accuracy, &format!(">= {}", perceptron.bar), accuracy >= perceptron.bar);
    }
    Ok(run.verdict())
}
