//! GB/s of loops on the GPU as a share of what the driver copies on it, and TFLOP/s of products as the backend chooses to make them:
//! `kernels [NAME]..` runs those whose name contains one of the words. Loops are timed by the device's clock, launch by launch, and in turn
//! without clocks; each step moves more bytes than the cache holds. Products are timed in turn, timing their ways first, on normal numbers, as peers
//! are: a GPU runs as fast as its power allows, and the numbers decide how much it takes.

#[path = "../../wholestep-wgpu/tests/common/loop_cases.rs"]
mod loop_cases;
#[path = "../../wholestep-wgpu/tests/common/loop_rates.rs"]
mod loop_rates;

use loop_cases::cases;
use loop_rates::{in_turn, measure, slot_copy_rate};
use std::time::{Duration, Instant};
use wholestep_compiler::backend::Backend;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{DType, Graph, Init, Scope, SlotId, SlotKind};
use wholestep_compiler::plan::Layout;
use wholestep_cuda::{Config, CudaBackend, Products};

/// Of a slot whose copy is the yardstick.
const COPIED: usize = 1 << 26;

/// A product of squares: its name, the type of operands and result, whether f32 may be rounded to 19 bits, and the extent.
type Square = (&'static str, DType, bool, usize);

const SQUARES: &[Square] = &[
    ("product bf16 8192", DType::BF16, false, 8192),
    ("product bf16 4096", DType::BF16, false, 4096),
    ("product f16 8192", DType::F16, false, 8192),
    ("product tf32 8192", DType::F32, true, 8192),
    ("product f32 8192", DType::F32, false, 8192),
    ("product f32 4096", DType::F32, false, 4096),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|w| name.contains(w.as_str()));
    let backend = match CudaBackend::new(0) {
        Ok(backend) => backend.apart(),
        Err(e) => return println!("{e}"),
    };
    println!("{}", backend.caps().name);
    let squares: Vec<&Square> = SQUARES.iter().filter(|s| is_wanted(s.0)).collect();
    squares.iter().for_each(|square| product(square));
    let loops: Vec<_> = cases().into_iter().filter(|c| is_wanted(c.name)).collect();
    if loops.is_empty() {
        return;
    }
    let best = slot_copy_rate(&backend, COPIED);
    println!("the driver copies {} MiB at {:.0} GB/s", (4 * COPIED) >> 20, best / 1e9);
    println!("{:<26} {:>9} {:>9} {:>9} {:>7}", "loop", "launches", "us each", "GB/s", "share");
    loops.iter().for_each(|case| measure(&backend, case, case.full, best, false));
}

/// `y ← a·b`, kept in the operands' type.
fn square(dtype: DType, n: usize) -> Graph {
    let s = Scope::root(Mode::Infer);
    let [a, b, y] = ["a", "b", "y"].map(|name| s.slot(name, SlotKind::Buffer, dtype, [n, n].into(), Init::Const(0.0)));
    let sums = a.cast(DType::F32).matmul(&b.cast(DType::F32));
    s.update(&y, &sums.cast(dtype));
    // What is waited for.
    let last = s.slot("last", SlotKind::Buffer, DType::F32, [1].into(), Init::Const(0.0));
    s.update(&last, &(&last + 1.0));
    s.graph().borrow().clone()
}

fn product(&(name, dtype, tf32, n): &Square) {
    let products = Products::Timed(Duration::from_secs(20));
    let backend = CudaBackend::with(0, Config { products, tf32, ..Config::default() }).expect("it was opened before");
    let caps = backend.caps();
    let plan = compile(&square(dtype, n), &caps, &mut |_| {}).expect("the step compiles").plan;
    let mut exe = backend.load(&plan, &Layout::new(&plan, &caps, 1)).expect("the plan loads");
    let values = (0..1 << 20).map(normal);
    let pattern: Vec<u8> = match dtype {
        DType::BF16 => values.flat_map(|x| ((x.to_bits() >> 16) as u16).to_ne_bytes()).collect(),
        DType::F16 => values.flat_map(|x| half(x).to_ne_bytes()).collect(),
        _ => values.flat_map(f32::to_ne_bytes).collect(),
    };
    let bytes = pattern.repeat((n * n * dtype.size_bytes()).div_ceil(pattern.len()));
    (0..2).for_each(|i| exe.write_slot(SlotId(i), &bytes[..n * n * dtype.size_bytes()]).expect("it has the size"));
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < 0.5 {
        exe.run(1, 8, &[]).expect("the plan runs");
        exe.read_slot(SlotId(3), &mut [0; 4]).expect("a number is read");
    }
    let seconds = in_turn(&mut *exe, &plan);
    let rate = 2.0 * (n as f64).powi(3) / seconds / 1e12;
    let choices = exe.choices();
    println!(
        "{name:<26} {:>9.1} us {rate:>8.1} TFLOP/s, {}",
        1e6 * seconds,
        choices.made.first().map_or("", |m| &m.choice)
    );
    choices.notes.iter().filter(|note| note.contains("not used")).for_each(|note| println!("    {note}"));
}

/// A number of the normal distribution by its place. Paper: Box, Muller 1958.
fn normal(i: usize) -> f32 {
    let uniform = |i: u32| {
        let mixed = (i ^ i >> 15).wrapping_mul(0x2c1b_3c6d);
        let mixed = (mixed ^ mixed >> 12).wrapping_mul(0x297a_2d39);
        (((mixed ^ mixed >> 15) >> 8) as f32 + 0.5) / 16_777_216.0
    };
    let [u, v] = [2 * i, 2 * i + 1].map(|i| uniform(i as u32 + 1));
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// A number as f16, cut.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let sign = (bits >> 16) as u16 & 0x8000;
    if exponent <= 0 { sign } else { sign | (exponent as u16) << 10 | (bits >> 13) as u16 & 0x3ff }
}
