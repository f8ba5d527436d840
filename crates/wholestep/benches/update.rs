//! The optimizer's update over 100 tensors of 25 million parameters: `cargo bench -p wholestep --bench update`. Takes nothing, gives the time of
//! Adam's launches beside what this machine takes to move the same bytes, measured in the same run. Never checks values: the tests do.
//!
//! The loss is `Σ p·g` with g read from inputs, so that the gradient has to come from memory: 28 bytes a parameter, which are p, m and v
//! read and written and g read.

use std::time::Instant;
use wholestep::optim::Adam;
use wholestep::{Array, Clip, DType, Device, Init, Step};

const TENSORS: usize = 100;
const EACH: usize = 250_000;
const RUNS: usize = 15;

/// Reads four arrays and writes three, as the update does, with plain loops on all threads: the least of several runs, in nanoseconds.
fn yardstick(threads: usize) -> f64 {
    let n = TENSORS * EACH;
    let mut arrays: Vec<Vec<f32>> = (0..4).map(|i| vec![i as f32 + 0.5; n]).collect();
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let [p, m, v, g] = &mut arrays[..] else { unreachable!("there are four") };
        let size = n.div_ceil(threads);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let parts = p.chunks_mut(size).zip(m.chunks_mut(size)).zip(v.chunks_mut(size)).zip(g.chunks(size));
            for (((p, m), v), g) in parts {
                scope.spawn(move || {
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        *m += g * 0.5;
                        *v += g * 0.25;
                        *p -= *g;
                    }
                });
            }
        });
        least = least.min(started.elapsed().as_nanos() as f64);
        // Or what nobody reads need not be written.
        std::hint::black_box(&mut arrays);
    }
    least
}

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Clipping by norm makes the gradient a value of its own, as accumulation does: the update is then a launch of its own, too.
    let options = Step::options().clip(Clip::GlobalNorm(1.0));
    let built = options.compile(&Device::cpu_with_threads(threads), Adam::new(1e-3), |s| {
        let term = |i: usize| {
            let p = s.param(&format!("p{i:03}"), [EACH], Init::Const(0.5));
            (p * s.input(&format!("g{i:03}"), [EACH], DType::F32)).sum(..)
        };
        (0..TENSORS).map(term).reduce(|a, b| a + b).expect("there are tensors")
    });
    let mut step = built.expect("the step compiles");
    let grads: Vec<(String, Array)> =
        (0..TENSORS).map(|i| (format!("g{i:03}"), Array::from_vec(vec![0.01f32; EACH]))).collect();
    let inputs: Vec<(&str, &Array)> = grads.iter().map(|(name, g)| (name.as_str(), g)).collect();
    step.run(&inputs).expect("the step runs");
    step.set_profiling(true);
    let bound = yardstick(threads);
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let started = Instant::now();
        step.run(&inputs).expect("the step runs");
        least = least.min(started.elapsed().as_nanos() as f64);
    }
    let bytes = 28.0 * (TENSORS * EACH) as f64;
    println!("{} tensors, {} parameters, {threads} threads", TENSORS, TENSORS * EACH);
    println!("yardstick (4 reads, 3 writes): {:.2} ms, {:.1} GB/s", bound / 1e6, bytes / bound);
    println!("whole step: {:.2} ms, {:.2} times the yardstick", least / 1e6, least / bound);
    let costs = step.costs();
    let update = costs.iter().max_by(|a, b| a.bytes.total_cmp(&b.bytes)).expect("there are launches");
    println!(
        "Adam's launch: {:.2} ms, {:.2} times the yardstick (bar 1.3)",
        update.ns_per_step / 1e6,
        update.ns_per_step / bound
    );
    for c in costs {
        println!(
            "  {:8.2} ms {:6.1} GB/s {:.2} times  {} {} {}",
            c.ns_per_step / 1e6,
            c.bytes / c.ns_per_step,
            c.ns_per_step / bound,
            c.kind,
            c.scope,
            c.ops.chars().take(40).collect::<String>()
        );
    }
}
