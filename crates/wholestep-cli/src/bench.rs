//! `wholestep bench`: our entry among the peers of bench/peers. Takes a workload's name and counts of steps, gives one JSON line with the
//! peers' keys. Never measures the making of batches: eight are made before the first step and used in turn.

mod models;
mod record;

use crate::arguments::{Bench, Mode};
use crate::say;
use models::{GPT2, SMALL, cnn, lstm, mlp, resnet18, resnet50};
use std::time::Instant;
use wholestep::data::random::Philox;
use wholestep::optim::{Adam, AdamW, Lbfgs, Sgd};
use wholestep::{Array, Batch, Device, Error, ErrorKind, F32, Precision, Result, Scope, Step, Tensor, U32};

/// Different batches, used in turn.
const POOL: usize = 8;

/// What is trained, and how long unless the command line says.
#[derive(Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    steps: usize,
    warmup: usize,
    batch: usize,
    /// Of one input row; token numbers instead of features where there are `n_tokens`.
    shape: &'static [usize],
    n_classes: usize,
    model: fn(&Scope, &Tensor) -> Tensor,
    optimizer: Kind,
    /// Of the tokens that inputs are, each of which has a label; 0: inputs are features, with a label a row.
    n_tokens: usize,
}

/// Optimizers with the settings of the peers.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Adam,
    AdamW {
        rate: f64,
        beta2: f64,
    },
    /// With momentum 0.9.
    Sgd {
        rate: f64,
        decay: f64,
    },
    /// One iteration of up to 25 evaluations, 10 pairs, no tolerances; labels are smoothed by 0.1.
    Lbfgs,
}

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "tiny_b8",
        steps: 3000,
        warmup: 500,
        batch: 8,
        shape: &[10],
        n_classes: 2,
        model: |s, x| mlp(s, x, &[10, 16, 2]),
        optimizer: Kind::Adam,
        n_tokens: 0,
    },
    Workload {
        name: "mlp_b64",
        steps: 300,
        warmup: 50,
        batch: 64,
        shape: &[784],
        n_classes: 10,
        model: |s, x| mlp(s, x, &[784, 512, 256, 10]),
        optimizer: Kind::Adam,
        n_tokens: 0,
    },
    Workload {
        name: "mlp_b512",
        steps: 100,
        warmup: 20,
        batch: 512,
        shape: &[784],
        n_classes: 10,
        model: |s, x| mlp(s, x, &[784, 512, 256, 10]),
        optimizer: Kind::Adam,
        n_tokens: 0,
    },
    Workload {
        name: "cnn_b64",
        steps: 30,
        warmup: 5,
        batch: 64,
        shape: &[3, 32, 32],
        n_classes: 10,
        model: cnn,
        optimizer: Kind::Adam,
        n_tokens: 0,
    },
    Workload {
        name: "resnet18_b32",
        steps: 8,
        warmup: 2,
        batch: 32,
        shape: &[3, 32, 32],
        n_classes: 10,
        model: resnet18,
        optimizer: Kind::Sgd { rate: 0.01, decay: 0.0 },
        n_tokens: 0,
    },
    Workload {
        name: "gpt_b16",
        steps: 15,
        warmup: 3,
        batch: 16,
        shape: &[SMALL.context],
        n_classes: SMALL.vocabulary,
        model: |s, x| SMALL.forward(s, x),
        optimizer: Kind::AdamW { rate: 3e-4, beta2: 0.999 },
        n_tokens: SMALL.vocabulary,
    },
    Workload {
        name: "lstm_b32",
        steps: 50,
        warmup: 10,
        batch: 32,
        shape: &[64, 64],
        n_classes: 10,
        model: lstm,
        optimizer: Kind::Adam,
        n_tokens: 0,
    },
    Workload {
        name: "lbfgs_mlp",
        steps: 30,
        warmup: 0,
        batch: 512,
        shape: &[784],
        n_classes: 10,
        model: |s, x| mlp(s, x, &[784, 512, 256, 10]),
        optimizer: Kind::Lbfgs,
        n_tokens: 0,
    },
];

impl Workload {
    /// Whether the loss of one batch is evaluated several times in a step.
    pub fn is_search(&self) -> bool {
        self.optimizer == Kind::Lbfgs
    }
}

/// What only GPUs train in reasonable time.
pub const GPU_WORKLOADS: &[Workload] = &[
    Workload {
        name: "resnet18_b512",
        steps: 30,
        warmup: 6,
        batch: 512,
        shape: &[3, 32, 32],
        n_classes: 10,
        model: resnet18,
        optimizer: Kind::Sgd { rate: 0.05, decay: 5e-4 },
        n_tokens: 0,
    },
    Workload {
        name: "resnet50_b128",
        steps: 20,
        warmup: 5,
        batch: 128,
        shape: &[3, 224, 224],
        n_classes: 1000,
        model: resnet50,
        optimizer: Kind::Sgd { rate: 0.05, decay: 5e-4 },
        n_tokens: 0,
    },
    Workload {
        name: "gpt2_b32",
        steps: 20,
        warmup: 5,
        batch: 32,
        shape: &[GPT2.context],
        n_classes: GPT2.vocabulary,
        model: |s, x| GPT2.forward(s, x),
        optimizer: Kind::AdamW { rate: 6e-4, beta2: 0.95 },
        n_tokens: GPT2.vocabulary,
    },
];

impl Mode {
    /// Steps for each reading of the loss.
    fn inner(self, chunk: usize) -> usize {
        match self {
            Mode::Step => 1,
            Mode::Many => chunk,
            Mode::Stream => 64,
        }
    }
}

/// Runs one workload and prints its line.
/// Errors: an unknown workload; what compiling and running a step can fail with.
pub fn run(asked: &Bench) -> Result<()> {
    let Some(workload) = workload(asked)? else {
        // A workload of the peers that we do not train yet is an answer for their table.
        let (name, mode, version) = (&asked.workload, mode(asked), env!("CARGO_PKG_VERSION"));
        return say(&format!(
            "{{\"peer\":\"wholestep\",\"version\":\"{version}\",\"mode\":\"{mode}\",\"workload\":\"{name}\",\"unsupported\":\"not yet\"}}"
        ));
    };
    match &asked.record {
        None => say(&measure(&workload, asked)?),
        Some(folder) => {
            let loss = record::record(&device(asked)?, &workload, asked.precision, folder)?;
            say(&format!("{}: {} steps, the last loss {loss}", folder.display(), workload.steps))
        }
    }
}

/// The workload with the counts that the command line asks for; `None` for one that only peers have.
fn workload(asked: &Bench) -> Result<Option<Workload>> {
    let name = &asked.workload;
    if ["cnn_infer_b1", "gpt_infer_b1"].contains(&name.as_str()) {
        return Ok(None);
    }
    let mut all = WORKLOADS.iter().chain(GPU_WORKLOADS);
    let Some(found) = all.find(|w| w.name == name) else {
        let message = format!("--workload {name}: no workload is called so; `wholestep bench --help` lists them");
        return Err(Error::new(ErrorKind::Config, message));
    };
    let steps = if asked.steps > 0 { asked.steps } else { found.steps };
    let (warmup, batch) = (asked.warmup.unwrap_or(found.warmup), asked.batch.unwrap_or(found.batch));
    Ok(Some(Workload { steps, warmup, batch, ..*found }))
}

fn device(asked: &Bench) -> Result<Device> {
    match asked.device.as_str() {
        "cpu" => Ok(Device::cpu_with_threads(asked.threads)),
        name => Device::named(name),
    }
}

/// As the command line says it.
fn mode(asked: &Bench) -> String {
    format!("{:?}", asked.mode).to_lowercase()
}

/// Compiles, warms up, measures; gives the JSON line.
fn measure(workload: &Workload, asked: &Bench) -> Result<String> {
    let batches = batches(workload)?;
    let joined = if asked.mode == Mode::Many { Some(join(&batches, asked.chunk)?) } else { None };
    let started = Instant::now();
    let device = device(asked)?;
    let mut step = compile(&device, workload, asked.precision)?;
    let compile_s = started.elapsed().as_secs_f64();
    // Where a loader would have put them.
    let pinned = |(x, y): &(Array, Array)| Ok((x.pin_memory(&device)?, y.pin_memory(&device)?));
    let batches = batches.iter().map(pinned).collect::<Result<Vec<_>>>()?;
    let joined = joined.as_ref().map(pinned).transpose()?;

    let started = Instant::now();
    let pool = if workload.is_search() { 1 } else { POOL };
    let (x, y) = &batches[0];
    step.run(&[("x", x), ("y", y)])?;
    let loss_first = step.loss()?;
    let first_step_s = started.elapsed().as_secs_f64();

    let inner = asked.mode.inner(asked.chunk);
    let mut at = 1;
    let mut advance = |step: &mut Step| -> Result<f32> {
        if let Some((x, y)) = &joined {
            step.run_many(inner, &[("x", x), ("y", y)])?;
        } else {
            for _ in 0..inner {
                let (x, y) = &batches[at % pool];
                at += 1;
                step.run(&[("x", x), ("y", y)])?;
            }
        }
        step.loss()
    };
    for _ in 0..workload.warmup.saturating_sub(1).div_ceil(inner) {
        advance(&mut step)?;
    }
    let mut times = Vec::new();
    let mut loss_last = loss_first;
    let mut evals = 0.0;
    for _ in 0..workload.steps.div_ceil(inner).max(3) {
        let started = Instant::now();
        loss_last = advance(&mut step)?;
        times.push(started.elapsed().as_secs_f64() * 1e3 / inner as f64);
        if workload.is_search() {
            evals += step.output(Lbfgs::EVALUATIONS)?.slice::<f32>()?[0];
        }
    }
    let evals = if workload.is_search() { format!(",\"evals\":{evals}") } else { String::new() };
    let mode = mode(asked);
    let device_mb = step.counters().allocated_bytes as f64 / 1e6;
    let rss = peak_rss_mb().map_or("null".to_string(), |mb| format!("{mb:.1}"));
    let Times { median, min, mean, p90 } = Times::of(&mut times);
    Ok(format!(
        "{{\"peer\":\"wholestep\",\"version\":\"{}\",\"mode\":\"{mode}\",\"workload\":\"{}\",\"threads\":{},\"steps\":{},\"warmup\":{},\
         \"median_ms\":{median:.5},\"min_ms\":{min:.5},\"mean_ms\":{mean:.5},\"p90_ms\":{p90:.5},\"first_step_s\":{first_step_s:.3},\
         \"compile_s\":{compile_s:.3},\"loss_first\":{loss_first},\"loss_last\":{loss_last},\"peak_rss_mb\":{rss},\"batch\":{},\
         \"precision\":\"{}\",\"device_mb\":{device_mb:.1}{evals}}}",
        env!("CARGO_PKG_VERSION"),
        workload.name,
        asked.threads,
        times.len(),
        workload.warmup,
        workload.batch,
        format!("{:?}", asked.precision).to_lowercase(),
    ))
}

/// Milliseconds of a step.
struct Times {
    median: f64,
    min: f64,
    mean: f64,
    p90: f64,
}

impl Times {
    /// Sorts `times`, of which there is at least one.
    fn of(times: &mut [f64]) -> Times {
        times.sort_by(f64::total_cmp);
        let n = times.len();
        let median = if n % 2 == 1 { times[n / 2] } else { (times[n / 2 - 1] + times[n / 2]) / 2.0 };
        let mean = times.iter().sum::<f64>() / n as f64;
        Times { median, min: times[0], mean, p90: times[(n * 9 / 10).min(n - 1)] }
    }
}

pub fn compile(device: &Device, workload: &Workload, precision: Precision) -> Result<Step> {
    let options = Step::options().max_batch(workload.batch).precision(precision);
    let model = |s: &Scope| {
        let shape: Vec<wholestep::Dim> =
            std::iter::once(Batch).chain(workload.shape.iter().map(|&n| n.into())).collect();
        let shape = wholestep::Shape(shape);
        if workload.n_tokens > 0 {
            let x = s.labels("x", shape.clone(), U32, workload.n_tokens, None);
            let y = s.labels("y", shape, U32, workload.n_classes, None);
            return (workload.model)(s, &x).flatten(0, 1).cross_entropy(&y.flatten(0, 1));
        }
        let x = s.input("x", shape, F32);
        let y = s.labels("y", (Batch,), U32, workload.n_classes, None);
        let logits = (workload.model)(s, &x);
        let loss = logits.cross_entropy(&y);
        match workload.is_search() {
            // Labels smoothed by 0.1.
            true => loss * 0.9 - logits.log_softmax(1).mean(..) * 0.1,
            false => loss,
        }
    };
    match workload.optimizer {
        Kind::Adam => options.compile(device, Adam::new(1e-3), model),
        Kind::AdamW { rate, beta2 } => {
            options.compile(device, AdamW::new(rate).betas(0.9, beta2).weight_decay(0.1), model)
        }
        Kind::Sgd { rate, decay } => options.compile(device, Sgd::new(rate).momentum(0.9).weight_decay(decay), model),
        Kind::Lbfgs => {
            let rule = Lbfgs::new().max_iter(1).max_eval(25).tolerance_grad(0.0).tolerance_change(0.0).same_batch();
            options.compile(device, rule, model)
        }
    }
}

/// [`POOL`] batches of normal inputs and uniform labels.
fn batches(workload: &Workload) -> Result<Vec<(Array, Array)>> {
    let elems: usize = workload.batch * workload.shape.iter().product::<usize>();
    let mut made = Vec::new();
    for i in 0..POOL as u64 {
        let mut random = Philox::new(0, i);
        let shape = [&[workload.batch], workload.shape].concat();
        if workload.n_tokens > 0 {
            let tokens =
                |n: usize, random: &mut Philox| (0..elems).map(|_| random.below(n as u64) as u32).collect::<Vec<u32>>();
            let x = Array::new(tokens(workload.n_tokens, &mut random), shape.clone())?;
            made.push((x, Array::new(tokens(workload.n_classes, &mut random), shape)?));
            continue;
        }
        let x = Array::new((0..elems).map(|_| random.normal() as f32).collect(), shape)?;
        let labels = (0..workload.batch).map(|_| random.below(workload.n_classes as u64) as u32).collect();
        made.push((x, Array::from_vec::<u32>(labels)));
    }
    Ok(made)
}

/// So many batches one after the other, from the second on, so that both modes see the same order after the first step.
fn join(batches: &[(Array, Array)], chunk: usize) -> Result<(Array, Array)> {
    let order = || (1..=chunk).map(|i| &batches[i % POOL]);
    let mut labels: Vec<u32> = Vec::new();
    for (_, y) in order() {
        labels.extend_from_slice(y.slice()?);
    }
    let longer = |a: &Array| [&[a.shape()[0] * chunk], &a.shape()[1..]].concat();
    let y = Array::new(labels, longer(&batches[0].1))?;
    let shape = longer(&batches[0].0);
    if batches[0].0.slice::<u32>().is_ok() {
        let mut tokens: Vec<u32> = Vec::new();
        for (x, _) in order() {
            tokens.extend_from_slice(x.slice()?);
        }
        return Ok((Array::new(tokens, shape)?, y));
    }
    let mut features: Vec<f32> = Vec::new();
    for (x, _) in order() {
        features.extend_from_slice(x.slice()?);
    }
    Ok((Array::new(features, shape)?, y))
}

/// The most memory that this process had, as Linux says; `None` elsewhere.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn asked(words: &str) -> Option<Bench> {
        let words = ["wholestep", "bench"].into_iter().chain(words.split_whitespace());
        match Arguments::try_parse_from(words).ok()?.command {
            Command::Bench(asked) => Some(asked),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_line_has_the_keys_of_the_peers_and_a_loss_near_ln_2() {
        for mode in ["step", "many", "stream"] {
            let asked = asked(&format!("--workload tiny_b8 --steps 16 --warmup 2 --mode {mode}")).unwrap();
            let line = measure(&workload(&asked).unwrap().unwrap(), &asked).unwrap();
            let keys: Vec<&str> =
                line.split('"').skip(1).step_by(2).filter(|k| line.contains(&format!("\"{k}\":"))).collect();
            let expected = "peer version mode workload threads steps warmup median_ms min_ms mean_ms p90_ms first_step_s compile_s loss_first \
                            loss_last peak_rss_mb batch precision device_mb";
            assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>(), "{line}");
            let loss: f64 = line.split("\"loss_first\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
            assert!((loss - 2f64.ln()).abs() < 0.25, "{line}");
        }
    }

    #[test]
    fn both_modes_take_the_same_steps() {
        let workload = &WORKLOADS[0];
        let batches = batches(workload).unwrap();
        let joined = join(&batches, POOL).unwrap();
        let [mut one, mut many] =
            [(); 2].map(|()| compile(&Device::cpu_with_threads(1), workload, Precision::F32).unwrap());
        for i in 1..=POOL {
            let (x, y) = &batches[i % POOL];
            one.run(&[("x", x), ("y", y)]).unwrap();
        }
        many.run_many(POOL, &[("x", &joined.0), ("y", &joined.1)]).unwrap();
        assert_eq!(one.loss().unwrap().to_bits(), many.loss().unwrap().to_bits());
    }

    #[test]
    fn models_have_the_parameters_of_the_peers() {
        // Counted by PyTorch: sum(p.numel() for p in model.parameters()) of bench/peers/torch_peer.py.
        for (name, expected) in [
            ("tiny_b8", 210),
            ("mlp_b64", 535_818),
            ("cnn_b64", 591_274),
            ("resnet18_b32", 11_173_962),
            ("gpt_b16", 3_257_856),
            ("lstm_b32", 100_618),
            ("lbfgs_mlp", 535_818),
            // The same models at other sizes; GPT-2's 124,475,904 take too long to make here.
            ("resnet18_b512", 11_173_962),
            ("resnet50_b128", 25_557_032),
        ] {
            let workload = WORKLOADS.iter().chain(GPU_WORKLOADS).find(|w| w.name == name).unwrap();
            let mut step =
                compile(&Device::cpu_with_threads(1), &Workload { batch: 1, ..*workload }, Precision::F32).unwrap();
            let names: Vec<String> = step
                .slots()
                .filter(|(_, kind)| format!("{kind:?}").starts_with("Param"))
                .map(|(name, _)| name.to_string())
                .collect();
            let n: usize = names.iter().map(|name| step.read(name).unwrap().len()).sum();
            assert_eq!(n, expected, "{name}");
        }
    }

    #[test]
    fn wrong_words_are_refused() {
        for words in [
            "",
            "--workload",
            "--workload tiny_b8 --mode fast",
            "--workload tiny_b8 --steps x",
            "--workload tiny_b8 --batch 0",
            "--workload tiny_b8 --precision f8",
            "--workload tiny_b8 --speed 1",
        ] {
            assert!(asked(words).is_none(), "{words}");
        }
        let of = |words: &str| {
            let asked = asked(words).unwrap();
            workload(&asked).map(|workload| (workload, asked))
        };
        let unknown = of("--workload mlp").map(drop).unwrap_err().to_string();
        assert!(unknown.contains("mlp: no workload"), "{unknown}");
        assert!(of("--workload gpt_infer_b1").unwrap().0.is_none());
        let (workload, asked) = of("--workload mlp_b512 --steps 0").unwrap();
        let workload = workload.unwrap();
        assert_eq!((workload.steps, workload.warmup, asked.threads, asked.mode), (100, 20, 2, Mode::Step));
        let (workload, asked) = of("--workload gpt2_b32 --batch 4 --precision bf16 --warmup 0").unwrap();
        let workload = workload.unwrap();
        assert_eq!((workload.batch, workload.warmup, asked.precision), (4, 0, Precision::Bf16));
    }
}
