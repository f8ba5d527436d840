//! A network that solves a differential equation: the damped oscillator u'' + 2ζω·u' + ω²·u = 0, u(0) = 1, u'(0) = 0. Takes nothing, gives the
//! curve and the seconds that L-BFGS and Adam take to the same loss. Never sees the solution: the loss is what the equation leaves.
//!
//! The derivatives by time are traced in the model, so that the loss holds second derivatives and its gradient third ones.
//! Paper: Raissi, Perdikaris, Karniadakis 2019, "Physics-informed neural networks".
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::process::ExitCode;
use std::time::Instant;
use wholestep::nn::Linear;
use wholestep::optim::{Adam, Lbfgs, Optimizer};
use wholestep::schedule::CosineAnnealing;
use wholestep::{Array, Batch, Device, F32, Infer, Result, Scope, Step, Tensor, gradients};

const OMEGA: f64 = 4.0;
const ZETA: f64 = 0.15;
const END: f64 = 3.0;
const POINTS: usize = 128;
/// The mean square of what the equation leaves, at which a run has arrived. In f32 L-BFGS comes to rest at 3e-3, where rounding hides which way is
/// down; Adam goes on to 1e-3, slowly.
const TARGET: f32 = 5e-3;
const ADAM_STEPS: u32 = 30_000;

/// 1-32-tanh-32-tanh-1, with both initial values built in: u = 1 + t²·n(t).
fn solution(s: &Scope, t: &Tensor) -> Tensor {
    let h = Linear::new(&s.sub("fc1"), 1, 32).forward(&(t * (2.0 / END) - 1.0)).tanh();
    let h = Linear::new(&s.sub("fc2"), 32, 32).forward(&h).tanh();
    t.square() * Linear::new(&s.sub("fc3"), 32, 1).forward(&h) + 1.0
}

/// What the equation leaves, squared and averaged over the points.
fn residual(s: &Scope) -> Tensor {
    let t = s.input("t", (Batch, 1), F32);
    let u = solution(s, &t);
    // Points do not know of each other, so the gradient of the sum is each point's own derivative.
    let derivative = |x: &Tensor| gradients(&x.sum(..), std::slice::from_ref(&t)).remove(0);
    let du = derivative(&u);
    let ddu = derivative(&du);
    (ddu + du * (2.0 * ZETA * OMEGA) + u * (OMEGA * OMEGA)).square().mean(..)
}

fn exact(t: f64) -> f64 {
    let damped = OMEGA * (1.0 - ZETA * ZETA).sqrt();
    (-ZETA * OMEGA * t).exp() * ((damped * t).cos() + ZETA * OMEGA / damped * (damped * t).sin())
}

/// A training on its way: the seconds since its start, and the loss there.
type Curve = Vec<(f64, f32)>;

/// Runs steps until the loss, looked at after every `every` of them, has come down to the target.
fn solve(run: &Run, device: &Device, rule: impl Optimizer, most: u32, every: u32, t: &Array) -> Result<(Step, Curve)> {
    let schedule = CosineAnnealing::new(u64::from(ADAM_STEPS));
    let options = Step::options().seed(1).max_batch(POINTS);
    // A search has a first step of its own; Adam ends better with a rate that falls.
    let options = if every > 1 { options.schedule(&schedule) } else { options };
    let mut step = options.compile(device, rule, residual)?;
    let (started, mut curve) = (Instant::now(), Curve::new());
    for n in 1..=most {
        step.run(&[("t", t)])?;
        let is_last = !run.allows(u64::from(n));
        if n % every == 0 || is_last {
            curve.push((started.elapsed().as_secs_f64(), step.loss()?));
        }
        if is_last || curve.last().is_some_and(|(_, loss)| *loss <= TARGET) {
            break;
        }
    }
    Ok((step, curve))
}

/// When it arrived; infinity where it did not.
fn seconds(curve: &Curve) -> f64 {
    curve.last().filter(|(_, loss)| *loss <= TARGET).map_or(f64::INFINITY, |(seconds, _)| *seconds)
}

/// Both losses over time as text, a line for half a power of ten.
fn chart(searched: &Curve, stepped: &Curve) -> String {
    const WIDTH: usize = 72;
    let row = |loss: f32| (loss.log10() * 2.0).floor() as i32;
    let both = || searched.iter().chain(stepped).filter(|(_, loss)| *loss > 0.0 && loss.is_finite());
    let end = both().map(|(seconds, _)| *seconds).fold(0.0, f64::max);
    let rows = both().map(|(_, loss)| row(*loss));
    let (Some(top), Some(bottom)) = (rows.clone().max(), rows.min()) else { return "no loss to draw".into() };
    let mut text = String::new();
    for at in (bottom..=top).rev() {
        let mut line = vec![' '; WIDTH];
        for (curve, mark) in [(stepped, 'a'), (searched, 'L')] {
            for (seconds, _) in curve.iter().filter(|(_, loss)| row(*loss) == at) {
                line[(seconds / end * (WIDTH - 1) as f64) as usize] = mark;
            }
        }
        let line: String = line.into_iter().collect();
        text += &format!("{:8.0e} |{}\n", 10f64.powf(f64::from(at) / 2.0), line.trim_end());
    }
    let last = format!("{end:.2} s");
    text + &format!("{:9}+{}\n{:10}0{last:>width$}", "", "-".repeat(WIDTH), "", width = WIDTH - 1)
}

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    // A search is a loop on the device.
    let device = if run.device.runs_loops() { run.device.clone() } else { Device::cpu()? };
    let points = (0..POINTS).map(|i| (END * i as f64 / (POINTS - 1) as f64) as f32).collect();
    let t: Array = Array::new::<f32>(points, [POINTS, 1])?;
    let (mut step, searched) = solve(&run, &device, Lbfgs::new().max_iter(10).history_size(20), 1000, 1, &t)?;
    let (mut adam, stepped) = solve(&run, &device, Adam::new(3e-3), ADAM_STEPS, 50, &t)?;
    println!("loss over time, L: L-BFGS, a: Adam\n{}", chart(&searched, &stepped));
    let (searched, stepped) = (seconds(&searched), seconds(&stepped));
    println!("L-BFGS: {searched:.3} s to a loss of {TARGET}, {:?} at the end", step.loss()?);
    println!("Adam:   {stepped:.3} s to a loss of {TARGET}, {:?} at the end", adam.loss()?);
    let mut infer = Infer::compile(&device, POINTS, |s| solution(s, &s.input("t", (Batch, 1), F32)))?;
    infer.copy_from(&mut step)?;
    let u = infer.run(&[("t", &t)])?;
    let far =
        t.slice::<f32>()?.iter().zip(u.slice::<f32>()?).map(|(t, u)| (exact(f64::from(*t)) - f64::from(*u)).abs());
    let far = far.fold(0.0, f64::max);
    run.bar("largest distance from the solution", far, "<= 0.01", far <= 0.01);
    let ratio = searched / stepped;
    run.bar("seconds of L-BFGS / seconds of Adam", ratio, "<= 0.5", ratio <= 0.5);
    Ok(run.verdict())
}
