//! L-BFGS on a device, the first argument's or the host: milliseconds of an iteration of the MLP that `bench/peers-gpu` has, and how the
//! launches that read the history of ten million parameters compare with a pass over as many bytes.
//!
//! ```sh
//! cargo bench -p wholestep --bench lbfgs -- cuda      # --all prints every launch
//! ```

use std::time::Instant;
use wholestep::optim::Lbfgs;
use wholestep::step::Cost;
use wholestep::{Array, Batch, DType, Device, F32, Init, Result, Step};

const BATCH: usize = 1024;
const SIZES: [usize; 4] = [784, 512, 256, 10];
/// Iterations of one run.
const ITERATIONS: u32 = 40;
const PARAMETERS: usize = 10_000_000;
const PAIRS: usize = 10;

/// Numbers in `-1..1` that look random.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn rule() -> Lbfgs {
    Lbfgs::new().max_iter(ITERATIONS).history_size(PAIRS).tolerance_grad(0.0).tolerance_change(0.0)
}

fn number(step: &mut Step, name: &str) -> Result<f64> {
    Ok(step.output(name)?.cast::<f64>()?.slice::<f64>()?[0])
}

/// An MLP on one batch whose labels a random linear map gives.
fn mlp(device: &Device) -> Result<()> {
    let mut step = Step::options().max_batch(BATCH).compile(device, rule(), |s| {
        let mut h = s.input("x", (Batch, SIZES[0]), F32);
        let y = s.labels("y", (Batch,), DType::I64, SIZES[3], None);
        for (i, pair) in SIZES.windows(2).enumerate() {
            let bound = 1.0 / (pair[0] as f64).sqrt();
            let init = || Init::Uniform { lo: -bound, hi: bound };
            let layer = s.sub(format!("fc{i}"));
            h = h.linear(
                &layer.param("weight", [pair[1], pair[0]], init()),
                Some(&layer.param("bias", [pair[1]], init())),
            );
            h = if i + 2 < SIZES.len() { h.relu() } else { h };
        }
        h.cross_entropy(&y)
    })?;
    let (x, map) = (noise(BATCH * SIZES[0], 1), noise(SIZES[0] * SIZES[3], 2));
    let score =
        |row: &[f32], class: usize| -> f32 { row.iter().zip(&map[class * SIZES[0]..]).map(|(a, b)| a * b).sum() };
    let label =
        |row: &[f32]| (0..SIZES[3]).max_by(|&a, &b| score(row, a).total_cmp(&score(row, b))).unwrap_or(0) as i64;
    let y: Vec<i64> = x.chunks(SIZES[0]).map(label).collect();
    let (x, y) = (Array::new(x, [BATCH, SIZES[0]])?, Array::from_vec(y));
    let start = step.snapshot()?;
    let mut found = Vec::new();
    for _ in 0..6 {
        step.restore(&start)?;
        let begun = Instant::now();
        step.run(&[("x", &x), ("y", &y)])?;
        // Reading waits.
        let iterations = number(&mut step, Lbfgs::ITERATIONS)?;
        found.push(begun.elapsed().as_secs_f64() * 1e3 / iterations);
    }
    let (iterations, evaluations) = (number(&mut step, Lbfgs::ITERATIONS)?, number(&mut step, Lbfgs::EVALUATIONS)?);
    found.remove(0);
    found.sort_by(f64::total_cmp);
    println!(
        "mlp, batch {BATCH}: {:.3} ms an iteration (median of {}; {iterations} iterations, {evaluations} evaluations in one run)",
        found[found.len() / 2],
        found.len()
    );
    step.restore(&start)?;
    step.set_profiling(true);
    step.run(&[("x", &x), ("y", &y)])?;
    print_costs(&step.costs(), iterations);
    step.set_profiling(false);
    Ok(())
}

/// The launches of ten million parameters that read the pairs.
fn history(device: &Device) -> Result<()> {
    let mut step = Step::compile(device, rule(), |s| {
        let x = s.param("x", [PARAMETERS], Init::Uniform { lo: -1.0, hi: 1.0 });
        // Far enough from a quadratic that there is an iteration after each.
        let x4 = x.square().square();
        let slope = x.positions(0, F32) * (1.0 / PARAMETERS as f64) + 0.1;
        ((&x4 * &slope) + (&x.square() * 0.5)).sum(..)
    })?;
    step.set_profiling(true);
    step.run(&[])?;
    let costs = step.costs();
    step.set_profiling(false);
    let iterations = number(&mut step, Lbfgs::ITERATIONS)?;
    let list = (PAIRS * PARAMETERS * 4) as f64;
    let reads: Vec<&Cost> = costs.iter().filter(|c| c.kind == "loop" && c.bytes >= list).collect();
    let us = reads.iter().map(|c| c.ns_per_step).sum::<f64>() / 1e3 / iterations;
    let bound = 4.0 * list;
    println!(
        "history of {PARAMETERS} parameters, {PAIRS} pairs: {us:.0} us an iteration in {} launches, {:.0} GB/s of the {:.2} GB that 4·m vectors \
         have ({iterations} iterations)",
        reads.len(),
        bound / us / 1e3,
        bound / 1e9
    );
    print_costs(&costs, iterations);
    Ok(())
}

/// The launches by what they take in an iteration; all of them, or the dearest.
fn print_costs(costs: &[Cost], iterations: f64) {
    let all = std::env::args().any(|a| a == "--all");
    let total: f64 = costs.iter().map(|c| c.ns_per_step).sum::<f64>() / iterations / 1e3;
    println!("  {} launches, {total:.0} us an iteration one by one", costs.len());
    let mut order: Vec<usize> = (0..costs.len()).collect();
    if !all {
        order.sort_by(|&a, &b| costs[b].ns_per_step.total_cmp(&costs[a].ns_per_step));
        order.truncate(12);
    }
    for i in order {
        let c = &costs[i];
        let us = c.ns_per_step / iterations / 1e3;
        println!("  {i:3} {us:8.1} us {:8.1} MB {} {} {}", c.bytes / 1e6, c.kind, c.scope, c.ops);
    }
}

fn main() -> Result<()> {
    let name = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_else(|| "cpu".to_string());
    let device = Device::named(&name)?;
    println!("{device:?}");
    mlp(&device)?;
    history(&device)
}
