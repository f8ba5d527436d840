//! Floats of 16 bits: every value each way and many random ones against what torch gives (`golden/half.py`), as functions, and through
//! compiled plans at every instruction level, so that vectors round as numbers do.

#[path = "common/half_sums.rs"]
mod half_sums;

use half_sums::{golden, inputs, weighted};
use wholestep_compiler::backend::Backend;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Scope, Tensor};
use wholestep_compiler::ops::PoolOptions;
use wholestep_compiler::plan::Layout;
use wholestep_cpu::loops::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use wholestep_cpu::loops::level::Level;
use wholestep_cpu::{Config, CpuBackend};

fn sum_16(bits: impl Iterator<Item = u16>, exponent: u32, nan: u32) -> String {
    weighted(bits.map(u32::from), exponent, 0x8000, nan)
}

fn sum_32(bits: impl Iterator<Item = u32>) -> String {
    weighted(bits, 0x7f80_0000, 0x8000_0000, 0x7fc0_0000)
}

#[test]
fn all_values_round_as_in_torch() {
    let wide: Vec<f32> = inputs().into_iter().map(f32::from_bits).collect();
    assert_eq!(sum_16(wide.iter().map(|&x| f32_to_f16(x)), 0x7c00, 0x7e00), golden("f32_to_f16"));
    assert_eq!(sum_16(wide.iter().map(|&x| f32_to_bf16(x)), 0x7f80, 0x7fc0), golden("f32_to_bf16"));
    assert_eq!(sum_32((0..=u16::MAX).map(|h| f16_to_f32(h).to_bits())), golden("f16_to_f32"));
    assert_eq!(sum_32((0..=u16::MAX).map(|h| bf16_to_f32(h).to_bits())), golden("bf16_to_f32"));
}

/// One loop that casts each element of `x`, at one level.
fn cast_by_plan(bytes: &[u8], from: DType, to: DType, level: Level) -> Vec<u8> {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch,), from);
    s.output("y", &x.cast(to));
    let graph = s.graph().borrow().clone();
    let backend = CpuBackend::new(Config { level, ..Config::detect() });
    let plan = compile(&graph, &backend.caps(), &mut |_| {}).expect("a cast compiles").plan;
    let n = bytes.len() / from.size_bytes();
    let mut exe = backend.load(&plan, &Layout::new(&plan, &backend.caps(), n)).expect("a cast loads");
    exe.run(n, 1, &[bytes]).expect("a cast runs");
    let mut out = vec![0; n * to.size_bytes()];
    exe.read_output(0, &mut out).expect("the output is there");
    out
}

#[test]
fn plans_round_the_same_at_every_level() {
    let wide: Vec<u8> = inputs().into_iter().flat_map(u32::to_ne_bytes).collect();
    let narrow: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
    let shorts = |b: Vec<u8>| b.as_chunks().0.iter().map(|c| u16::from_ne_bytes(*c)).collect::<Vec<u16>>();
    let words = |b: Vec<u8>| b.as_chunks().0.iter().map(|c| u32::from_ne_bytes(*c)).collect::<Vec<u32>>();
    for level in [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|l| l.is_available()) {
        for (dtype, exponent, nan, name) in [(DType::F16, 0x7c00, 0x7e00, "f16"), (DType::BF16, 0x7f80, 0x7fc0, "bf16")]
        {
            let down = shorts(cast_by_plan(&wide, DType::F32, dtype, level));
            assert_eq!(sum_16(down.into_iter(), exponent, nan), golden(&format!("f32_to_{name}")), "{level:?}");
            let up = words(cast_by_plan(&narrow, dtype, DType::F32, level));
            assert_eq!(sum_32(up.into_iter()), golden(&format!("{name}_to_f32")), "{level:?}");
        }
    }
}

/// What has no kernel in 16 bits is refused with what to write, and never run as another type.
#[test]
fn a_sum_sort_or_scatter_of_16_bits_is_refused_and_in_f32_it_runs() {
    type Maths = fn(&Tensor) -> Tensor;
    let kinds: [(&str, Maths); 4] = [
        ("scan", |x| x.cumsum(1)),
        ("sort", |x| x.argsort(1, false)),
        ("scatter", |x| x.scatter_add(1, &x.cast(DType::I32), x)),
        ("window", |x| x.reshape((Batch, 1, 2, 2)).avg_pool2d(&PoolOptions::new([2, 2]))),
    ];
    let backend = CpuBackend::new(Config::detect());
    let load = |dtype: DType, maths: Maths| {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 4), DType::F32).cast(dtype);
        s.output("y", &maths(&x));
        let graph = s.graph().borrow().clone();
        let plan = compile(&graph, &backend.caps(), &mut |_| {}).expect("it compiles").plan;
        backend.load(&plan, &Layout::new(&plan, &backend.caps(), 3)).map(|_| ())
    };
    for (kind, maths) in kinds {
        for dtype in [DType::F16, DType::BF16] {
            let error = load(dtype, maths).expect_err("there is no such kernel").to_string();
            let says =
                format!("the device cannot run a {kind} of {dtype} values; cast to f32 before it and back after it");
            assert_eq!(error, says);
        }
        load(DType::F32, maths).expect("f32 runs");
    }
}
