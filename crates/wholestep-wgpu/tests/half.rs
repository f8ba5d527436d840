//! Floats of 16 bits on the device: every value each way and many random ones, bit by bit against what torch gives, element by element and in
//! vectors of four. Without an adapter it says that it was skipped, unless `REQUIRE_WGPU` is set.

#[path = "../../wholestep-cpu/tests/common/half_sums.rs"]
mod half_sums;

use half_sums::{golden, inputs, weighted};
use wholestep_compiler::backend::{Backend, DeviceError};
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Dim, Scope, Shape};
use wholestep_compiler::plan::Layout;
use wholestep_wgpu::WgpuBackend;

fn backend() -> Option<WgpuBackend> {
    match WgpuBackend::new(0) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    }
}

/// One loop that converts each element of rows of `width`.
fn cast_by_plan(backend: &WgpuBackend, bytes: &[u8], from: DType, to: DType, width: usize) -> Vec<u8> {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", Shape(vec![Batch, Dim::fixed(width)]), from);
    s.output("y", &x.cast(to));
    let graph = s.graph().borrow().clone();
    let plan = compile(&graph, &backend.caps(), &mut |_| {}).expect("a cast compiles").plan;
    let n = bytes.len() / from.size_bytes() / width;
    let mut exe = backend.load(&plan, &Layout::new(&plan, &backend.caps(), n)).expect("a cast loads");
    exe.run(n, 1, &[&bytes[..n * width * from.size_bytes()]]).expect("a cast runs");
    let mut out = vec![0; n * width * to.size_bytes()];
    exe.read_output(0, &mut out).expect("the output is there");
    out
}

#[test]
fn all_values_round_and_widen_as_in_torch() {
    let Some(backend) = backend() else { return };
    let wide: Vec<u8> = inputs().into_iter().flat_map(u32::to_ne_bytes).collect();
    let narrow: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
    let shorts = |b: Vec<u8>| b.as_chunks().0.iter().map(|c| u32::from(u16::from_ne_bytes(*c))).collect::<Vec<u32>>();
    let words = |b: Vec<u8>| b.as_chunks().0.iter().map(|c| u32::from_ne_bytes(*c)).collect::<Vec<u32>>();
    // Rows of one element go one by one, so that two threads share each word; rows of eight go by fours.
    for width in [1, 8] {
        for (dtype, exponent, nan, name) in [(DType::F16, 0x7c00, 0x7e00, "f16"), (DType::BF16, 0x7f80, 0x7fc0, "bf16")]
        {
            let down = shorts(cast_by_plan(&backend, &wide, DType::F32, dtype, width));
            let sum = weighted(down.into_iter(), exponent, 0x8000, nan);
            assert_eq!(sum, golden(&format!("f32_to_{name}")), "{name}, rows of {width}");
            let up = words(cast_by_plan(&backend, &narrow, dtype, DType::F32, width));
            let sum = weighted(up.into_iter(), 0x7f80_0000, 0x8000_0000, 0x7fc0_0000);
            assert_eq!(sum, golden(&format!("{name}_to_f32")), "{name}, rows of {width}");
        }
    }
}

/// An odd number of elements ends in half a word, in what comes in, what is computed and what is read.
#[test]
fn odd_numbers_of_elements_keep_their_last() {
    let Some(backend) = backend() else { return };
    let bits: Vec<u16> = (0..15).map(|i| 0x3c00 + 7 * i).collect();
    let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_ne_bytes()).collect();
    let wide = cast_by_plan(&backend, &bytes, DType::F16, DType::F32, 5);
    let expected: Vec<u8> = bits.iter().flat_map(|b| (f32::from(b - 0x3c00) / 1024.0 + 1.0).to_ne_bytes()).collect();
    assert_eq!(wide, expected);
    assert_eq!(cast_by_plan(&backend, &wide, DType::F32, DType::F16, 5), bytes);
}
