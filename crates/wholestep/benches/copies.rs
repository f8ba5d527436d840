//! How fast values move: `cargo bench -p wholestep --bench copies`. Takes nothing but the device that `WHOLESTEP_DEVICE` names, prints for some sizes
//! the rates of writing a slot, reading it, handing over a batch, and copying a step's parameter to a program, beside plain copies within
//! the host. Never checks values: the tests do.

use std::hint::black_box;
use std::time::Instant;
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

fn main() -> Result<()> {
    let device = Device::best()?;
    println!("{device:?}; GB/s, fastest of {RUNS}");
    println!("    MiB  host copy  into new  write   read  batch  program to program");
    for mib in [1, 4, 16, 64, 256] {
        let (bytes, n) = (mib << 20, mib << 18);
        let value = Array::from_vec((0..n).map(|i| i as f32).collect::<Vec<f32>>());
        let (from, mut to) = (value.slice::<f32>()?, vec![0f32; n]);
        let in_place = rate(bytes, || {
            to.copy_from_slice(from);
            Ok(())
        })?;
        let into_new = rate(bytes, || Ok(from.to_vec()))?;
        let mut program = Infer::compile(&device, 1, |s| held(s, n))?;
        // A read waits for all that was written.
        let write = rate(bytes, || {
            program.write("held", &value)?;
            program.run(&[])
        })?;
        let read = rate(bytes, || program.read("held"))?;
        let mut first = Infer::compile(&device, n, |s| s.input("x", (Batch,), F32).slice(0, 0..1).sum(..))?;
        let batch = rate(bytes, || first.run(&[("x", &value)]))?;
        let mut step = Step::compile(&device, Sgd::new(0.1), |s| held(s, n))?;
        step.run(&[])?;
        let copy = rate(bytes, || {
            program.copy_from(&mut step)?;
            program.run(&[])
        })?;
        println!("  {mib:5}  {in_place:9.2}  {into_new:8.2}  {write:5.2}  {read:5.2}  {batch:5.2}  {copy:8.2}");
    }
    Ok(())
}
