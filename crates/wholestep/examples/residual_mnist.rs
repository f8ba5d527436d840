//! A residual network on handwritten digits, or on clothes where Fashion-MNIST is installed. Takes data/mnist (or the folder that FASHION_MNIST
//! names), gives accuracy on test images. Never trains on more than 6,000 images, so that it ends soon.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::path::Path;
use std::process::ExitCode;
use wholestep::data::loader::Loading;
use wholestep::data::{Loader, fashion_mnist, mnist};
use wholestep::metrics::Confusion;
use wholestep::nn::{BatchNorm2d, Conv2d, Conv2dSpec, Linear};
use wholestep::optim::AdamW;
use wholestep::schedule::CosineAnnealing;
use wholestep::{Batch, F32, Infer, Result, Scope, Step, Tensor, U32};

const EPOCHS: u64 = 2;

/// Convolution without bias, batch normalization.
fn conv_norm(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Tensor {
    let spec = Conv2dSpec::new(c_out, kernel).stride(stride).padding(kernel / 2).bias(false);
    let y = Conv2d::with(&s.sub("conv"), c_in, &spec).forward(x);
    BatchNorm2d::new(&s.sub("norm"), c_out).forward(&y)
}

/// `relu(f(x) + short(x))`. Paper: He, Zhang, Ren, Sun 2015, arXiv:1512.03385.
fn block(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, stride: usize) -> Tensor {
    let h = conv_norm(&s.sub("first"), x, c_in, c_out, 3, stride).relu();
    let h = conv_norm(&s.sub("second"), &h, c_out, c_out, 3, 1);
    let short =
        if stride == 1 && c_in == c_out { x.clone() } else { conv_norm(&s.sub("short"), x, c_in, c_out, 1, stride) };
    (h + short).relu()
}

/// Stem of 16 channels at half size, three blocks of 16, 32 and 64 channels, mean over the image: x `[B, 1, 28, 28]` -> `[B, 10]`.
fn model(s: &Scope, x: &Tensor) -> Tensor {
    let h = conv_norm(&s.sub("stem"), x, 1, 16, 3, 2).relu();
    let h = block(&s.sub("block1"), &h, 16, 16, 1);
    let h = block(&s.sub("block2"), &h, 16, 32, 2);
    let h = block(&s.sub("block3"), &h, 32, 64, 2);
    Linear::new(&s.sub("head"), 64, 10).forward(&h.mean([2, 3]))
}

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let (name, bar, (train, test)) = match std::env::var_os("FASHION_MNIST") {
        Some(dir) => ("Fashion-MNIST", 0.78, fashion_mnist(dir)?),
        None => ("MNIST", 0.95, mnist(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/mnist"))?),
    };
    let (train, test) = (train.head(6000)?, test.head(2000)?);
    println!("{name}: {} images to learn from, {} to test on", train.rows(), test.rows());

    let mut loader = Loader::new(&train, Loading { batch_size: 64, seed: 9, ..Loading::default() })?;
    let schedule = CosineAnnealing::new(EPOCHS * loader.batches_per_epoch());
    let options = Step::options().seed(9).max_batch(64).schedule(&schedule);
    let mut step = options.compile(&run.device, AdamW::new(3e-3), |s| {
        let x = s.input("x", (Batch, 1, 28, 28), F32);
        let y = s.labels("y", (Batch,), U32, 10, None);
        model(s, &x).cross_entropy(&y)
    })?;
    let mut steps = 0;
    'training: for epoch in 1..=EPOCHS {
        for batch in &mut loader {
            let batch = batch?;
            step.run(&[("x", batch.column("x")?), ("y", batch.column("y")?)])?;
            steps += 1;
            if steps % 20 == 0 {
                println!("epoch {epoch}  step {steps:3}  loss {:.4}", step.loss()?);
            }
            if !run.allows(steps) {
                break 'training;
            }
        }
    }

    let mut infer = Infer::compile(&run.device, 100, |s| model(s, &s.input("x", (Batch, 1, 28, 28), F32)))?;
    infer.copy_from(&mut step)?;
    let mut confusion = Confusion::new(10)?;
    for start in (0..test.rows()).step_by(100) {
        let rows: Vec<usize> = (start..(start + 100).min(test.rows())).collect();
        let part = test.take_rows(&rows)?;
        let logits = infer.run(&[("x", part.column("x")?)])?;
        confusion.update(logits.slice::<f32>()?, part.column("y")?.slice::<u32>()?)?;
    }
    println!("{}", confusion.table(test.class_names()));
    let accuracy = confusion.accuracy().unwrap_or(0.0);
    run.bar("accuracy on test images", accuracy, &format!(">= {bar}"), accuracy >= bar);
    Ok(run.verdict())
}
