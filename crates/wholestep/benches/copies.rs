//! How fast values move: `cargo bench -p wholestep --bench copies`. Takes nothing but the device that `WHOLESTEP_DEVICE` names, prints for some sizes
//! the rates of writing a slot, reading it, handing over a batch, and copying a step's parameter to a program, beside plain copies within
//! the host; then how much of handing over, and of making batches, is hidden behind steps. Never checks values: the tests do.

use std::hint::black_box;
use std::time::Instant;
use wholestep::data::loader::Loading;
use wholestep::data::{Dataset, Loader, Sample};
use wholestep::optim::Sgd;
use wholestep::{Array, Batch, Device, F32, Infer, Init, Result, Scope, Step, Tensor};

const RUNS: usize = 15;

/// GB/s of the fastest of several runs.
fn rate<T>(bytes: usize, mut run: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let began = Instant::now();
        black_box(run()?);
        least = least.min(began.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 / least / 1e9)
}

/// A parameter of `n` elements that hardly anything is done with.
fn held(s: &Scope, n: usize) -> Tensor {
    s.param("held", [n], Init::Const(1.0)).slice(0, 0..1).sum(..)
}

fn rates(device: &Device) -> Result<()> {
    println!("GB/s, fastest of {RUNS}");
    println!("    MiB  host copy  into new  write   read  batch  pinned batch  program to program");
    for mib in [1, 4, 16, 64, 256] {
        let (bytes, n) = (mib << 20, mib << 18);
        let value = Array::from_vec((0..n).map(|i| i as f32).collect::<Vec<f32>>());
        let (from, mut to) = (value.slice::<f32>()?, vec![0f32; n]);
        let in_place = rate(bytes, || {
            to.copy_from_slice(from);
            Ok(())
        })?;
        let into_new = rate(bytes, || Ok(from.to_vec()))?;
        let mut program = Infer::compile(device, 1, |s| held(s, n))?;
        // A read waits for all that was written.
        let write = rate(bytes, || {
            program.write("held", &value)?;
            program.run(&[])
        })?;
        let read = rate(bytes, || program.read("held"))?;
        let mut first = Infer::compile(device, n, |s| s.input("x", (Batch,), F32).slice(0, 0..1).sum(..))?;
        let batch = rate(bytes, || first.run(&[("x", &value)]))?;
        let value = value.pin_memory(device)?;
        let pinned = rate(bytes, || first.run(&[("x", &value)]))?;
        let mut step = Step::compile(device, Sgd::new(0.1), |s| held(s, n))?;
        step.run(&[])?;
        let copy = rate(bytes, || {
            program.copy_from(&mut step)?;
            program.run(&[])
        })?;
        println!(
            "  {mib:5}  {in_place:9.2}  {into_new:8.2}  {write:5.2}  {read:5.2}  {batch:5.2}  {pinned:12.2}  {copy:8.2}"
        );
    }
    Ok(())
}

/// Steps of one measurement, after a few that warm up.
const STEPS: usize = 30;

/// Seconds of one call, where several follow each other without being waited for: the median of several measurements.
fn seconds(step: &mut Step, mut run: impl FnMut(&mut Step) -> Result<()>) -> Result<f64> {
    let mut all = Vec::new();
    for _ in 0..5 {
        (0..3).try_for_each(|_| run(step))?;
        step.loss()?;
        let began = Instant::now();
        (0..STEPS).try_for_each(|_| run(step))?;
        step.loss()?;
        all.push(began.elapsed().as_secs_f64() / STEPS as f64);
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

/// Elements of a row.
const WIDTH: usize = 1024;

/// Seconds that the kernels of one call take, one after the other.
fn kernel_seconds(step: &mut Step, mut run: impl FnMut(&mut Step) -> Result<()>) -> Result<f64> {
    run(step)?;
    step.set_profiling(true);
    (0..STEPS).try_for_each(|_| run(step))?;
    let all = step.costs().iter().map(|cost| cost.ns_per_step).sum::<f64>() / 1e9;
    step.set_profiling(false);
    Ok(all)
}

/// A step that multiplies a batch by `cols` columns.
fn product(device: &Device, rows: usize, cols: usize) -> Result<Step> {
    Step::options().max_batch(rows).compile(device, Sgd::new(1e-9), |s| {
        s.input("x", (Batch, WIDTH), F32).matmul(&s.param("w", [WIDTH, cols], Init::Const(0.01))).square().mean(..)
    })
}

fn halves(rows: usize) -> Result<Array> {
    Array::new(vec![0.5f32; rows * WIDTH], [rows, WIDTH])
}

/// A step of `rows` rows that takes about as long as something else, and what it takes.
fn balanced(device: &Device, rows: usize, other: f64) -> Result<(Step, f64)> {
    let batch = halves(rows)?.pin_memory(device)?;
    let (mut cols, mut tries) = (512, 4);
    loop {
        let mut step = product(device, rows, cols)?;
        let alone = kernel_seconds(&mut step, |step| step.run(&[("x", &batch)]))?;
        let better = ((cols as f64 * other / alone) as usize).next_multiple_of(64).clamp(64, 1 << 15);
        tries -= 1;
        // Where other work disturbs the clock they never agree.
        if tries == 0 || better.abs_diff(cols) <= 64 {
            return Ok((step, alone));
        }
        cols = better;
    }
}

fn print(what: &str, compute: f64, other: f64, both: f64) {
    let [c, o, b] = [compute, other, both].map(|s| s * 1e3);
    println!(
        "{what}: kernels {c:.2} ms alone, the other {o:.2} ms alone, both {b:.2} ms: {:.2} of the longer",
        b / c.max(o)
    );
}

/// Handing over a pinned batch beside a step that takes about as long.
fn beside_a_copy(device: &Device) -> Result<()> {
    const ROWS: usize = 16_384;
    let batch = halves(ROWS)?.pin_memory(device)?;
    let mut sliced = Step::options().max_batch(ROWS).compile(device, Sgd::new(1e-9), |s| {
        s.input("x", (Batch, WIDTH), F32).slice(0, 0..1).sum(..) * s.param("w", (), Init::Const(1.0))
    })?;
    let run = |step: &mut Step| step.run(&[("x", &batch)]);
    let copy = seconds(&mut sliced, run)?;
    let (mut step, compute) = balanced(device, ROWS, copy)?;
    print("64 MiB handed over", compute, copy, seconds(&mut step, run)?);
    Ok(())
}

/// A worker that makes a batch beside a step that takes about as long.
fn beside_a_worker(device: &Device) -> Result<()> {
    const ROWS: usize = 1024;
    let n = STEPS * ROWS;
    let data = Dataset::new([("x", Array::new(vec![0.5f32; n * WIDTH], [n, WIDTH])?)])?;
    let loading = Loading { batch_size: ROWS, workers: 1, shuffle: false, ..Loading::default() };
    let change = |sample: &mut Sample, _: u64| {
        let x = sample.get_mut("x")?.as_mut_slice::<f32>().expect("the column is f32");
        x.iter_mut().for_each(|x| *x = black_box(*x * 0.999 + 0.0005));
        Ok(())
    };
    let mut batches = Loader::with_map(&data, loading, change)?.pin_memory(device);
    let mut next = || loop {
        // An epoch ends between two measurements.
        if let Some(batch) = batches.next() {
            return batch;
        }
    };
    let mut idle = Step::compile(device, Sgd::new(1e-9), |s| s.param("w", (), Init::Const(1.0)).square())?;
    let making = seconds(&mut idle, |step| next().and_then(|_| step.run(&[])))?;
    let (mut step, compute) = balanced(device, ROWS, making)?;
    let both = seconds(&mut step, |step| step.run(&next()?.columns().collect::<Vec<_>>()))?;
    print("4 MiB made by one worker", compute, making, both);
    Ok(())
}

fn main() -> Result<()> {
    let device = Device::best()?;
    println!("{device:?}");
    rates(&device)?;
    match device.name() {
        // The cpu reads a batch where it lies; a worker needs a core of its own.
        "cpu" => beside_a_worker(&Device::cpu_with_threads(1)),
        _ => beside_a_copy(&device).and_then(|()| beside_a_worker(&device)),
    }
}
