//! How fast a run is saved and how soon it goes on. Takes a folder on the disk in question, prints the copy off the device, the write beside
//! `dd` with fsync of as many bytes, how much longer a step takes while the one before is being saved, and the seconds from nothing compiled
//! to a resumed first step.
//!
//! `cargo bench -p wholestep --bench checkpoint -- FOLDER`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use wholestep::checkpoint::{self, Checkpoint, Record};
use wholestep::data::Dataset;
use wholestep::nn::{BatchNorm2d, Conv2d, Conv2dSpec, Linear};
use wholestep::optim::Adam;
use wholestep::spec::Model;
use wholestep::train::{Callback, Checkpoints, Loss, OptimizerSpec, Trainer, Training};
use wholestep::{Array, Batch, Device, F32, Init, Result, Scope, Step, Tensor, U32};

/// 100 million parameters; with Adam three tensors of as many.
const SIDE: usize = 10_000;
const REPEATS: usize = 5;

fn main() -> Result<()> {
    let folder = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let folder = PathBuf::from(folder.unwrap_or_else(|| std::env::temp_dir().display().to_string()));
    resume_speed(&folder)?;
    background_saving(&folder)?;
    save_speed(&folder)
}

fn save_speed(folder: &Path) -> Result<()> {
    let mut step = Step::options().max_batch(1).compile(&Device::best()?, Adam::new(1e-3), |s| {
        let w = s.param("w", [SIDE, SIDE], Init::Uniform { lo: -0.01, hi: 0.01 });
        s.input("x", (Batch, SIDE), F32).matmul(&w).square().mean(..)
    })?;
    let x = Array::new((0..SIDE).map(|i| (i as f32).sin()).collect(), [1, SIDE])?;
    step.run(&[("x", &x)])?;
    let bytes = step.snapshot()?.size_bytes() as f64;
    let (mut rates, mut dds) = (Vec::new(), Vec::new());
    for repeat in 0..REPEATS {
        let began = Instant::now();
        let snapshot = step.snapshot()?;
        let copied = began.elapsed().as_secs_f64();
        let path = folder.join("wholestep-bench-checkpoint");
        let record = Record::of(&mut step)?;
        let began = Instant::now();
        checkpoint::write(&path, &snapshot, &record)?;
        let written = began.elapsed().as_secs_f64();
        std::fs::remove_dir_all(&path).map_err(|e| wholestep::Error::io("remove", &path, e))?;
        let (ours, theirs) = (bytes / written / 1e6, bytes / dd(folder, bytes) / 1e6);
        println!(
            "save {repeat}: {:.2} GB copied in {copied:.2} s, written in {written:.2} s: {ours:.0} MB/s; dd {theirs:.0} MB/s",
            bytes / 1e9
        );
        rates.push(ours);
        dds.push(theirs);
    }
    let (ours, theirs) = (median(&rates), median(&dds));
    println!(
        "save: median of {REPEATS}: {ours:.0} MB/s, dd with fsync {theirs:.0} MB/s, ratio {:.2} (bar 0.70)",
        ours / theirs
    );
    Ok(())
}

/// Seconds that `dd` takes for as many bytes, fsync included.
fn dd(folder: &Path, bytes: f64) -> f64 {
    let path = folder.join("wholestep-bench-dd");
    let (out, count) = (format!("of={}", path.display()), format!("count={}", (bytes / f64::from(1 << 20)).round()));
    let began = Instant::now();
    let ended = Command::new("dd").args(["if=/dev/zero", &out, "bs=1M", &count, "conv=fsync", "status=none"]).status();
    let took = began.elapsed().as_secs_f64();
    assert!(ended.is_ok_and(|s| s.success()), "dd failed");
    let _ = std::fs::remove_file(path);
    took
}

/// Times between the ends of steps.
struct Gaps {
    last: Instant,
    seconds: Vec<f64>,
}

impl Callback for Gaps {
    fn on_rows(&mut self, _rows: u64, _loss: Option<f64>) {
        self.seconds.push(self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

/// Trains 25 million parameters, saved after the 8th and the 16th step.
fn background_saving(folder: &Path) -> Result<()> {
    const WIDTH: usize = 5000;
    const STEPS: usize = 24;
    let values = |seed: f32| (0..STEPS * WIDTH).map(|i| (i as f32 * seed).sin()).collect::<Vec<f32>>();
    let of = |seed| Array::new(values(seed), [STEPS, WIDTH]);
    let data = Dataset::new([("x", of(1.0)?), ("y", of(0.7)?)])?;
    let path = folder.join("wholestep-bench-background");
    let training = Training { batch_size: 1, ..Training::new(Loss::Mse {}, OptimizerSpec::adam(1e-3)) };
    let mut trainer = Trainer::new(&Device::best()?, Model::input([WIDTH]).linear(WIDTH), training)?;
    trainer.set_checkpoints(Checkpoints::new(&path).every_steps(8));
    trainer.prepare(STEPS)?;
    let mut gaps = Gaps { last: Instant::now(), seconds: Vec::new() };
    trainer.fit(&data, None, &mut [&mut gaps])?;
    let step = trainer.step().expect("it was trained");
    let began = Instant::now();
    let bytes = step.snapshot()?.size_bytes() as f64;
    let copied = began.elapsed().as_secs_f64();
    // A step's gap has the copy of the step before in it.
    let usual = median(&gaps.seconds[1..8]);
    let (first, second) = (gaps.seconds[8] - usual, gaps.seconds[16] - usual);
    let meanwhile = median(&gaps.seconds[9..16]);
    println!(
        "background: a step takes {usual:.3} s, {meanwhile:.3} s while {:.2} GB are written; saving held up the next step by {first:.3} s \
         and {second:.3} s, a copy takes {copied:.3} s",
        bytes / 1e9
    );
    std::fs::remove_dir_all(&path).map_err(|e| wholestep::Error::io("remove", &path, e))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The network of He et al. 2015 for 32 x 32 pixels.
fn resnet18(s: &Scope, x: &Tensor) -> Tensor {
    let conv_norm = |s: &Scope, x: &Tensor, c_in: usize, c_out: usize, kernel: usize, stride: usize| {
        let spec = Conv2dSpec { bias: false, ..Conv2dSpec::new(c_out, kernel).stride(stride).padding(kernel / 2) };
        let x = Conv2d::with(&s.sub("conv"), c_in, &spec).forward(x);
        BatchNorm2d::new(&s.sub("bn"), c_out).forward(&x)
    };
    let mut h = conv_norm(&s.sub("stem"), x, 3, 64, 3, 1).relu();
    let mut c_in = 64;
    for (stage, (c_out, stride)) in [(64, 1), (128, 2), (256, 2), (512, 2)].into_iter().enumerate() {
        for block in 0..2 {
            let s = s.sub(format!("stage{stage}/{block}"));
            let stride = if block == 0 { stride } else { 1 };
            let y = conv_norm(&s.sub("a"), &h, c_in, c_out, 3, stride).relu();
            let y = conv_norm(&s.sub("b"), &y, c_out, c_out, 3, 1);
            let skip = if c_in == c_out { h } else { conv_norm(&s.sub("skip"), &h, c_in, c_out, 1, stride) };
            h = (y + skip).relu();
            c_in = c_out;
        }
    }
    Linear::new(&s.sub("head"), 512, 10).forward(&h.mean([2, 3]))
}

fn resume_speed(folder: &Path) -> Result<()> {
    const BATCH: usize = 8;
    let device = Device::best()?;
    let x = Array::new((0..BATCH * 3072).map(|i| (i as f32).sin()).collect(), [BATCH, 3, 32, 32])?;
    let y = Array::from_vec((0..BATCH as u32).collect());
    let compile = || {
        Step::options().max_batch(BATCH).compile(&device, Adam::new(1e-3), |s| {
            let logits = resnet18(s, &s.input("x", (Batch, 3, 32, 32), F32));
            logits.cross_entropy(&s.labels("y", (Batch,), U32, 10, None))
        })
    };
    let path = folder.join("wholestep-bench-resnet18");
    let mut step = compile()?;
    step.run(&[("x", &x), ("y", &y)])?;
    checkpoint::save(&path, &mut step, None)?;
    drop(step);
    for repeat in 0..REPEATS {
        let began = Instant::now();
        let mut step = compile()?;
        let compiled = began.elapsed().as_secs_f64();
        let saved = Checkpoint::open(&path)?;
        let opened = began.elapsed().as_secs_f64();
        step.restore(&saved.snapshot)?;
        let restored = began.elapsed().as_secs_f64();
        step.run(&[("x", &x), ("y", &y)])?;
        step.loss()?;
        println!(
            "resume {repeat}: ResNet-18, {:.0} MB: compiled {compiled:.2} s, read and checked {:.2} s, restored {:.2} s, first step done \
             after {:.2} s",
            saved.snapshot.size_bytes() as f64 / 1e6,
            opened - compiled,
            restored - opened,
            began.elapsed().as_secs_f64()
        );
    }
    std::fs::remove_dir_all(&path).map_err(|e| wholestep::Error::io("remove", &path, e))
}
