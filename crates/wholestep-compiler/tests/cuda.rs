//! CUDA C of kernels: short texts stand here as text, and what a launch needs beside the text. That all of it compiles is tested where NVRTC is
//! called, what it computes where a device runs it.

#[path = "wgsl/kernels.rs"]
#[allow(dead_code)]
mod kernels;

use kernels::{arg, contract, matmul};
use wholestep_compiler::caps::{Caps, Language, Workgroups};
use wholestep_compiler::codegen::{self, Shader};
use wholestep_compiler::compile;
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Dim, Init, Scope};
use wholestep_compiler::kernel::{
    Access, Contract, Instr, Kernel, Loop, Map, ReduceOp, Scan, Sort, Store, Value, WindowOp,
};

fn caps() -> Caps {
    Caps {
        name: "any GPU of CUDA".to_string(),
        dtypes: vec![DType::F64, DType::F32, DType::BF16, DType::I64, DType::Bool],
        memory_bytes: None,
        align_bytes: 256,
        max_row_elems: 16_384,
        contract_scratch_bytes: |_, _| 0,
        max_args: 64,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: 1 << 40,
        loops: true,
        workgroups: Some(Workgroups {
            language: Language::Cuda,
            threads: 1024,
            shared_bytes: 49_152,
            per_axis: 65_535,
            subgroup: Some((32, 32)),
            f16: true,
            long: true,
            tiles: vec![codegen::cuda::mma::UNIT],
        }),
    }
}

fn shaders(kernel: &Kernel, n_segments: usize) -> Vec<Shader> {
    codegen::shaders(kernel, n_segments, &caps()).expect("the kernel has a text")
}

/// Compares with a file under `tests/cuda`; `CUDA_REWRITE=1` writes it anew.
fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/cuda/{name}.cu", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("CUDA_REWRITE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} differs from {path}; CUDA_REWRITE=1 writes it anew:\n{text}");
    assert!(text.lines().count() < 60, "{name} is too long to be read");
}

fn row_major(axes: &[Dim]) -> Map {
    let strides = wholestep_compiler::ir::Shape(axes.to_vec()).strides().expect("the tests have one B");
    Map { strides, offset: Dim::ZERO, guards: vec![] }
}

/// `y = select(mask, ReLU(x), -inf)` in bf16.
fn masked() -> Loop {
    let axes = vec![Batch, Dim::fixed(3)];
    let map = row_major(&axes);
    let load = |arg| Instr::Load { arg, map: map.clone(), fill: 0.0 };
    let instrs = vec![
        load(0),
        load(1),
        Instr::Const { value: 0.0, dtype: DType::BF16 },
        Instr::Binary { op: Binary::Max, x: Value(0), y: Value(2) },
        Instr::Const { value: f64::NEG_INFINITY, dtype: DType::BF16 },
        Instr::Select { cond: Value(1), yes: Value(3), no: Value(4) },
    ];
    let args = vec![arg(DType::BF16, Access::Read), arg(DType::Bool, Access::Read), arg(DType::BF16, Access::Write)];
    Loop { n_outer: 2, args, instrs, stores: vec![Store { arg: 2, map, value: Value(5) }], axes }
}

/// The sum of the squares of one long row of f64.
fn squares(len: Dim) -> Loop {
    let instrs = vec![
        Instr::Load { arg: 0, map: row_major(&[len]), fill: 0.0 },
        Instr::Binary { op: Binary::Mul, x: Value(0), y: Value(0) },
        Instr::Reduce { op: ReduceOp::Sum, x: Value(1) },
        Instr::Unary { op: Unary::Sqrt, x: Value(2) },
    ];
    let args = vec![arg(DType::F64, Access::Read), arg(DType::F64, Access::Write)];
    let map = Map { strides: vec![Dim::ZERO], offset: Dim::ZERO, guards: vec![] };
    Loop { axes: vec![len], n_outer: 0, args, instrs, stores: vec![Store { arg: 1, map, value: Value(3) }] }
}

#[test]
fn short_texts_read_as_they_did() {
    golden("masked", &shaders(&Kernel::Loop(masked()), 1)[0].source);
    golden("squares", &shaders(&Kernel::Loop(squares(Dim::fixed(24))), 1)[0].source);
    golden("window_arg_max", &shaders(&Kernel::Window(kernels::window(WindowOp::ArgMax)), 1)[0].source);
    let args = vec![arg(DType::I64, Access::Read), arg(DType::I32, Access::Write)];
    let [outer, len, inner] = [Batch, Dim::fixed(9), Dim::ONE];
    let k = Sort { outer, len, inner, descending: true, dtype: DType::I64, args };
    golden("sort", &shaders(&Kernel::Sort(k), 1)[0].source);
}

#[test]
fn kernels_that_differ_in_numbers_only_have_one_text() {
    let texts = |k: &Kernel| shaders(k, 1).into_iter().map(|s| (s.source, s.params)).collect::<Vec<_>>();
    let same = |a: Kernel, b: Kernel| {
        let (a, b) = (texts(&a), texts(&b));
        assert!(a.len() == b.len() && !a.is_empty());
        for ((a, a_params), (b, b_params)) in a.iter().zip(&b) {
            assert!(a == b, "{a}\n{b}");
            assert_ne!(a_params, b_params);
        }
    };
    // A loop of two axes, a long sum in parts, and where an epilogue reads.
    let wide = |cols: usize| {
        let axes = vec![Batch, Dim::fixed(cols)];
        let mut k = Loop { axes: axes.clone(), ..masked() };
        k.maps_mut().into_iter().for_each(|map| *map = row_major(&axes));
        Kernel::Loop(k)
    };
    same(wide(3), wide(7));
    let sum = |len: usize| Kernel::Loop(squares(Dim::fixed(len)));
    assert_eq!(texts(&sum(3 << 20)).len(), 2, "a long sum is of parts");
    same(sum(3 << 20), sum(7 << 19));
    let bias_at = |offset: usize| {
        let (c, axes) = matmul(&[], [64, 24, 40].map(Dim::fixed), false, false);
        let mut k = kernels::with_bias(c, &axes);
        let epilogue = k.epilogue.as_mut().expect("a bias is added");
        let reads = epilogue.maps_mut().into_iter().filter(|map| map.strides[0] == Dim::ZERO);
        reads.for_each(|map| map.offset = Dim::fixed(offset));
        Kernel::Contract(k)
    };
    same(bias_at(8), bias_at(512));
}

#[test]
fn long_rows_are_passed_over_again_where_there_are_many() {
    let of = |rows: usize| {
        let s = Scope::root(Mode::Infer);
        s.output("y", &s.param("x", [rows, 50_304], Init::Const(0.0)).softmax(-1));
        let caps = Caps { max_row_elems: 65_536, ..caps() };
        let plan = compile(&s.graph().borrow(), &caps, &mut |_| {}).expect("it compiles").plan;
        let threads = |k| codegen::shaders(k, 1, &caps).expect("the kernel has a text")[0].workgroup[0];
        plan.kernels.iter().map(threads).collect::<Vec<_>>()
    };
    // So few rows under way at a time that they stay in a cache.
    assert_eq!(of(2048), [1024]);
    assert_eq!(of(64).len(), 3, "few rows are shared out, which takes launches of one pass");
}

#[test]
fn a_launch_gives_the_shared_memory_that_the_text_takes() {
    let args = vec![arg(DType::F64, Access::Read), arg(DType::F64, Access::Write)];
    let k = Scan { outer: Batch, len: Dim::fixed(70), inner: Dim::ONE, reverse: false, dtype: DType::F64, args };
    let scan = &shaders(&Kernel::Scan(k), 1)[0];
    // A sum of eight bytes for each thread.
    assert_eq!((scan.shared_bytes, scan.workgroup), (8 * 256, [256, 1, 1]));
    assert_eq!(shaders(&Kernel::Loop(masked()), 1)[0].shared_bytes, 0);
}

#[test]
fn parameters_stand_in_the_order_of_a_launch() {
    // Several segments: where each begins is a parameter, and long rows of f64 leave two words of scratch each.
    let all = shaders(&Kernel::Loop(squares(Batch)), 2);
    for shader in &all {
        let kernel = shader.source.split("KERNEL(").nth(1).and_then(|t| t.split(')').next()).unwrap();
        let types: Vec<&str> = kernel.split(", ").map(|p| p.rsplit_once(' ').unwrap().1).collect();
        let mut wanted: Vec<String> = shader.args.iter().map(|a| format!("a{a}")).collect();
        wanted.extend((!shader.params.is_empty()).then(|| "params".to_string()));
        wanted.extend(shader.scratch.is_some().then(|| "scratch_words".to_string()));
        assert_eq!(types, wanted);
    }
}

#[test]
fn sums_of_f64_have_a_text_and_those_of_whole_numbers_have_none() {
    let k = contract(matmul(&[], [Batch, Dim::fixed(5), Dim::fixed(7)], false, true).0);
    let of = |dtype: DType| {
        let mut k = Contract { dtype, ..k.clone() };
        k.args[..3].iter_mut().for_each(|a| a.dtype = dtype);
        codegen::shaders(&Kernel::Contract(k), 1, &caps())
    };
    let text = &of(DType::F64).unwrap()[0].source;
    assert!(text.contains("var sum = f64();") && text.contains("f64* a2"), "{text}");
    assert_eq!(of(DType::I32).unwrap_err(), "contractions of i32");
}

/// A softmax divides by its sum, which a row shares: its reciprocal is made once, and a store rounds what it is given, once.
#[test]
fn what_a_row_shares_is_made_once() {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 4096, 64), DType::BF16).cast(DType::F32);
    s.output("y", &x.softmax(-1).cast(DType::BF16));
    let plan = compile(&s.graph().borrow(), &caps(), &mut |_| {}).expect("it compiles").plan;
    let text = &codegen::shaders(&plan.kernels[0], 1, &caps()).expect("the kernel has a text")[0].source;
    assert_eq!(text.matches("const Divisor").count(), 1, "{text}");
    assert!(text.contains("= divided(") && !text.contains(" / v"), "{text}");
    assert!(text.contains("bf16_round(vec4") && !text.contains("bf16_rounded"), "{text}");
}
