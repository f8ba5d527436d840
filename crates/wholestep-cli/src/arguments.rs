//! The command line. Takes words, gives typed arguments and the help that teaches them. Never touches a file.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use wholestep::Precision;

const EXAMPLE: &str = "\
Examples:
  wholestep train examples/mnist.toml        train, write runs/mnist-001 with weights, curves and report.html
  wholestep lr examples/mnist.toml           the loss at rising rates, and a rate to begin with
  wholestep eval runs/mnist-001              metrics of its best weights on the test part
  wholestep predict runs/mnist-001 digit.png which class, how sure
  wholestep inspect examples/mnist.toml      layers, memory, compiled plan; trains nothing
  wholestep devices                          GPUs and NVIDIA's libraries that are found, and how to get those that are not

A whole configuration:
  [data]
  kind = \"sklearn\"             # mnist, fashion_mnist, sklearn, csv, idx, npy, npz, image_folder
  path = \"iris.csv\"            # relative to the file itself
  validation = 0.2             # share of rows held out; `test` likewise
  standardize = true
  [model]
  layers = [
    { type = \"linear\", out_features = 16 },
    { type = \"relu\" },
    { type = \"linear\", out_features = 3 },
  ]
  [loss]
  kind = \"cross_entropy\"       # nll, bce_with_logits, mse, mae, huber, smooth_l1
  [optimizer]
  kind = \"adamw\"               # sgd, adam, rmsprop, adagrad, adadelta, nadam, radam, adamax, lion, muon, lamb,
  lr = 1e-2                    # adafactor, schedule_free_adamw, lbfgs
  [schedule]                   # or leave the section out: constant
  kind = \"warmup\"              # step, multi_step, exponential, cosine, cosine_warm_restarts, linear, polynomial,
  steps = 20                   # one_cycle, cyclic, inverse_sqrt, wsd, sequential, chained, per_epoch, plateau
  then = { kind = \"cosine\" }
  [train]
  epochs = 50
  batch_size = 16
  seed = 1
  stop_at = { metric = \"accuracy\", value = 0.97 }
  early_stopping = { patience = 10 }
  clip = { norm = 1.0 }
  precision = \"bf16\"           # or f16, which scales the loss; tf32
  checkpoint = { every_epochs = 1, every_steps = 2000, keep_last = 2, keep_best = true }
  non_finite = \"stop\"          # or continue
  accumulate = 2               # batches for one update
  memory = \"2 GiB\"             # values are computed again until the step fits
  average = { kind = \"ema\", decay = 0.99 }
  groups = [{ params = \"*/bias\", weight_decay = 0.0 }]

Environment: WHOLESTEP_DEVICE, WHOLESTEP_THREADS, WHOLESTEP_LOG=1..4, WHOLESTEP_DUMP=folder, WHOLESTEP_NAN=1,
             WHOLESTEP_CACHE=folder or off";

/// Trains neural networks: the whole step compiled ahead of time.
#[derive(Debug, Parser)]
#[command(name = "wholestep", version, after_help = EXAMPLE)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains what a TOML file describes and writes a run folder.
    Train(Train),
    /// Tries rising learning rates and suggests one; trains nothing that is kept.
    Lr(Lr),
    /// Computes metrics of saved weights on data.
    Eval(Eval),
    /// Gives a model's output for new data.
    Predict(Predict),
    /// Shows layers, memory and the compiled step; trains nothing.
    Inspect(Inspect),
    /// Lists this machine's devices and what is missing for others.
    Devices,
    /// Times one workload of bench/peers and prints a line of JSON.
    Bench(Bench),
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  wholestep train examples/iris.toml --seed 7 --out results/iris-7\n  wholestep train runs/mnist-001 --resume      goes on with a run that was killed\n  wholestep train examples/mnist.toml --resume the same for the newest run of that name, or a new one\n  wholestep train new.toml --init-from runs/old-001/best.safetensors"
)]
pub struct Train {
    /// The configuration; see `wholestep --help` for a whole one. With --resume a run folder will do.
    pub file: PathBuf,
    /// The folder to write, which must not exist yet, or that of the run to resume. Absent: runs/NAME-001, -002 ….
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Goes on from the run's newest checkpoint, to the same bits as if it had never ended. Starts it where there is none yet.
    #[arg(long)]
    pub resume: bool,
    /// Begins with the weights of a file whose names and shapes fit, and says which did not.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub init_from: Option<PathBuf>,
    /// Instead of the file's seed.
    #[arg(long, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Instead of the file's number of epochs.
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Instead of the file's device.
    #[arg(long)]
    pub device: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: wholestep lr examples/mnist.toml --from 1e-6 --to 1 --out curve.csv")]
pub struct Lr {
    /// The configuration; its schedule is left out.
    pub file: PathBuf,
    /// The first rate.
    #[arg(long, default_value_t = 1e-7)]
    pub from: f64,
    /// The last rate, unless the loss explodes before.
    #[arg(long, default_value_t = 10.0)]
    pub to: f64,
    /// How many rates, each a constant factor above the one before.
    #[arg(long, default_value_t = 100)]
    pub points: u32,
    /// Where to write all points as CSV.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Instead of the file's seed.
    #[arg(long, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Instead of the file's device.
    #[arg(long)]
    pub device: Option<String>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  wholestep eval runs/mnist-001\n  wholestep eval runs/houses-001/last.safetensors new-houses.csv"
)]
pub struct Eval {
    /// A run folder (its best weights) or a .safetensors file that `train` wrote.
    pub run: PathBuf,
    /// Data of the same kind as the run's. Absent: the run's test part, or what it validated on.
    pub data: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  wholestep predict runs/iris-001 flowers.csv --out classes.csv\n  wholestep predict runs/mnist-001 digit.png\n  wholestep predict runs/mnist-001 digits.npy"
)]
pub struct Predict {
    /// A run folder (its best weights) or a .safetensors file that `train` wrote.
    pub run: PathBuf,
    /// .csv or .tsv with the feature columns (packed as .gz or not), .npy with the input (one sample or many), .png or .jpg.
    pub data: PathBuf,
    /// Where to write the predictions as CSV. Absent: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Inspect {
    /// A configuration, a run folder or a .safetensors file.
    pub what: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = WORKLOADS)]
pub struct Bench {
    /// One of those below.
    #[arg(long, value_name = "NAME")]
    pub workload: String,
    #[arg(long, value_enum, default_value_t = Mode::Step)]
    pub mode: Mode,
    /// Calls that are timed; 0, as the peers' scripts say: the workload's own number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub steps: usize,
    /// Calls before those. Absent: the workload's own number.
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// Rows of a batch. Absent: the workload's own number.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub batch: Option<usize>,
    #[arg(long, default_value = "f32", value_parser = precision())]
    pub precision: Precision,
    /// Of the cpu.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one())]
    pub threads: usize,
    /// What WHOLESTEP_DEVICE could name.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Steps of a submission in mode many.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one())]
    pub chunk: usize,
    /// Times nothing: writes first weights, batches and the loss of each step, for bench/peers/same_losses.py.
    #[arg(long, value_name = "FOLDER")]
    pub record: Option<PathBuf>,
}

/// How steps are submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One submission a step, then the loss is read.
    Step,
    /// Several steps a submission, then the loss is read.
    Many,
    /// One submission a step; the loss is read after every 64.
    Stream,
}

const WORKLOADS: &str = "\
Workloads: tiny_b8, mlp_b64, mlp_b512, cnn_b64, resnet18_b32, gpt_b16, lstm_b32,
           lbfgs_mlp (an iteration a step, on one batch)
For GPUs:  resnet18_b512, resnet50_b128 (224 x 224), gpt2_b32 (124 M parameters, context 1024)";

fn at_least_one() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=1 << 32).map(|n| n as usize)
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(["f32", "tf32", "bf16", "f16"]).map(|name| match name.as_str() {
        "tf32" => Precision::Tf32,
        "bf16" => Precision::Bf16,
        "f16" => Precision::F16,
        _ => Precision::F32,
    })
}
