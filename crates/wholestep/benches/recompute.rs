//! What memory costs in time: a ResNet-18 step on 32 images that keeps all activations, that computes each residual block again, and that fits
//! into less and less. Prints memory, predicted extra arithmetic and measured time. `cargo bench -p wholestep --bench recompute`.

use std::time::Instant;
use wholestep::nn::{BatchNorm2d, Conv2d, Conv2dSpec, Linear};
use wholestep::optim::Sgd;
use wholestep::{Array, Batch, Device, F32, Result, Scope, Step, Tensor, U32};

const BATCH: usize = 32;
const STEPS: usize = 5;

fn main() -> Result<()> {
    let device = Device::best()?;
    let plain = Step::options().max_batch(BATCH).compile(&device, Sgd::new(0.01), |s| resnet18(s, false))?;
    let whole = report("everything is kept", plain)?;
    let blocks = Step::options().max_batch(BATCH).compile(&device, Sgd::new(0.01), |s| resnet18(s, true))?;
    report("each block computed again", blocks)?;
    for percent in [85, 70, 60, 50, 40] {
        let options = Step::options().max_batch(BATCH).fit_in(whole * percent / 100);
        match options.compile(&device, Sgd::new(0.01), |s| resnet18(s, false)) {
            Ok(step) => report(&format!("fit_in({percent} %)"), step).map(|_| ())?,
            Err(e) => println!("fit_in({percent} %): {e}"),
        }
    }
    Ok(())
}

/// Prints a line and gives the bytes that the step takes.
fn report(what: &str, mut step: Step) -> Result<u64> {
    let x =
        Array::new::<f32>((0..BATCH * 3072).map(|i| (i % 101) as f32 / 50.0 - 1.0).collect(), vec![BATCH, 3, 32, 32])?;
    let y = Array::from_vec((0..BATCH).map(|i| (i % 10) as u32).collect::<Vec<u32>>());
    let mut times = Vec::new();
    for _ in 0..=STEPS {
        let started = Instant::now();
        step.run(&[("x", &x), ("y", &y)])?;
        step.loss()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    let memory = step.memory_bytes();
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    println!(
        "{what}: {:.1} MiB kept, {:.1} MiB arena, {:.1} ms a step (median of {STEPS}; first {first:.1})",
        mib(memory.persistent_bytes),
        mib(memory.transient_bytes),
        times[STEPS / 2]
    );
    let text = step.explain();
    text.lines()
        .filter(|line| line.contains("compiled in") || line.starts_with("recompute"))
        .for_each(|line| println!("  {line}"));
    Ok((memory.persistent_bytes + memory.transient_bytes) as u64)
}

/// ResNet-18 for small images. Paper: He, Zhang, Ren, Sun 2015, arXiv:1512.03385.
fn resnet18(s: &Scope, again: bool) -> Tensor {
    let x = s.input("x", (Batch, 3, 32, 32), F32);
    let y = s.labels("y", (Batch,), U32, 10, None);
    let mut h = conv_norm(&s.sub("stem"), &x, 3, 64, 3, 1).relu();
    let mut c_in = 64;
    for (stage, (c_out, stride)) in [(64, 1), (128, 2), (256, 2), (512, 2)].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if block == 0 { stride } else { 1 };
            let s = s.sub(format!("stage{stage}/{block}"));
            let part = |s: &Scope| basic_block(s, &h, c_in, c_out, stride);
            h = if again { s.recompute(part) } else { part(&s) };
            c_in = c_out;
        }
    }
    Linear::new(&s.sub("fc"), 512, 10).forward(&h.mean([2, 3])).cross_entropy(&y)
}

fn basic_block(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, stride: usize) -> Tensor {
    let h = conv_norm(&s.sub("first"), x, c_in, c_out, 3, stride).relu();
    let h = conv_norm(&s.sub("second"), &h, c_out, c_out, 3, 1);
    let is_same = stride == 1 && c_in == c_out;
    let short = if is_same { x.clone() } else { conv_norm(&s.sub("short"), x, c_in, c_out, 1, stride) };
    (h + short).relu()
}

fn conv_norm(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Tensor {
    let spec = Conv2dSpec::new(c_out, kernel).stride(stride).padding(kernel / 2).bias(false);
    BatchNorm2d::new(&s.sub("norm"), c_out).forward(&Conv2d::with(&s.sub("conv"), c_in, &spec).forward(x))
}
