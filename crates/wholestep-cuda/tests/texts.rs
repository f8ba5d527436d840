//! CUDA C of every kernel of the table of ops, compiled to machine code: that the texts are right programs, on a machine without a GPU. Those of
//! examples and benchmarks are in the crates that hold them. Skipped where NVRTC is not there, unless `REQUIRE_NVRTC` is set.

#[path = "../../wholestep-compiler/tests/wgsl/kernels.rs"]
#[allow(dead_code)]
mod kernels;

use kernels::{contract, conv, in_half, matmul, result_axes, with_bias};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::backend::Backend;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::cases::{self, Floats};
use wholestep_compiler::codegen::{self, cuda::mma};
use wholestep_compiler::compile;
use wholestep_compiler::ir::op::Op;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Dim, Graph, Scope};
use wholestep_compiler::kernel::{Contract, Contraction, Half, Kernel, Triangle};
use wholestep_compiler::plan::Plan;
use wholestep_cuda::translate::Translator;

/// Contractions of f16 whose operands lie along rows and along the depth, of a fixed and of an open depth, with and without an epilogue.
fn products() -> Vec<Contract> {
    let mut out = Vec::new();
    let (fixed, open) = ([Dim::fixed(200), Dim::fixed(72), Dim::fixed(136)], [Dim::fixed(64), Dim::fixed(24), Batch]);
    for (sizes, lhs_t, rhs_t) in [(fixed, false, false), (fixed, true, true), (fixed, false, true), (open, true, false)]
    {
        let (c, axes) = matmul(&[], sizes, lhs_t, rhs_t);
        out.extend([contract(c.clone()), with_bias(c, &axes)]);
    }
    for (groups, stride) in [(1, 1), (2, 2)] {
        let s = conv(2, groups, stride, 1, [16, 32]);
        for form in [Contraction::Conv, Contraction::ConvInputGrad, Contraction::ConvWeightGrad] {
            let c = form(s.clone());
            let axes = result_axes(&c);
            out.push(with_bias(c, &axes));
        }
    }
    out.into_iter().map(in_half).collect()
}

#[test]
fn products_on_matrix_units_compile_with_every_tile() {
    let Some(translator) = Translator::open() else { return };
    let workgroups = translator.caps().workgroups.expect("a GPU has workgroups");
    for k in products() {
        assert!(mma::choose(&k, &workgroups).is_some(), "{:?}", k.contraction);
        let parts = if matches!(k.contraction, Contraction::ConvInputGrad(_)) { 1 } else { 3 };
        for rated in mma::TILES {
            let shaders = mma::shaders(&k, &workgroups, &rated.tile, parts);
            assert!(
                shaders[0].source.contains("multiply_f16(") && shaders[0].shared_bytes <= rated.tile.shared_bytes()
            );
            translator.see(shaders).unwrap();
        }
    }
    let n = translator.verdict(1).unwrap_or_else(|e| panic!("{e}"));
    // Partial sums have one text with and without an epilogue.
    assert!(n >= 9 * mma::TILES.len(), "only {n} texts");
}

/// Heads of attention of which half is hidden: tiles outside of it read nothing, and the depth of the others ends, or begins, at their rows.
#[test]
fn products_of_which_a_half_counts_leave_out_the_rest() {
    let Some(translator) = Translator::open() else { return };
    let workgroups = translator.caps().workgroups.expect("a GPU has workgroups");
    let heads = |[m, n, k]: [usize; 3], turned: [bool; 2]| {
        let (c, axes) = matmul(&[3, 4], [m, n, k].map(Dim::fixed), turned[0], turned[1]);
        in_half(with_bias(c, &axes))
    };
    let (scores, mixed, turned) = (
        heads([512, 512, 64], [false, true]),
        heads([512, 64, 512], [false, false]),
        heads([512, 64, 512], [true, false]),
    );
    let cases = [
        (&scores, Triangle::Read(Half::Lower), vec!["if (n0 >= m0 + 128u) {\nreturn;"]),
        (&scores, Triangle::Read(Half::Upper), vec!["if (m0 >= n0 + 64u) {\nreturn;"]),
        (&mixed, Triangle::Lhs(Half::Lower), vec!["let first = k_from;", "let end = min(k_to, m0 + 64u);"]),
        (&turned, Triangle::Lhs(Half::Upper), vec!["let first = max(k_from, m0);", "let end = k_to;"]),
    ];
    for (k, triangle, texts) in cases {
        let whole = mma::choose(k, &workgroups).expect("there is a tile");
        let k = Contract { triangle: Some(triangle), ..k.clone() };
        let (tile, parts) = mma::choose(&k, &workgroups).expect("there is a tile");
        let shaders = mma::shaders(&k, &workgroups, &tile, parts);
        let missing = texts.iter().find(|text| !shaders[0].source.contains(**text));
        assert_eq!(missing, None, "{triangle}: {}", shaders[0].source);
        translator.see(shaders).unwrap();
        // Parts of a depth are joined from all of their sums.
        let shaders = mma::shaders(&k, &workgroups, &whole.0, 2);
        assert!(!shaders[0].source.contains("{\nreturn;\n}"), "{}", shaders[0].source);
        translator.see(shaders).unwrap();
    }
    translator.translate(&masked_attention(&translator.caps())).expect("the kernels have texts");
    translator.verdict(1).unwrap_or_else(|e| panic!("{e}"));
}

/// A step of attention of 4 heads on 512 positions in 16 bits, with a causal mask.
fn masked_attention(caps: &Caps) -> Plan {
    let s = Scope::root(Mode::Train);
    let [q, k, v, d] = ["q", "k", "v", "d"].map(|name| s.input(name, (Batch, 4, 512, 64), DType::F32));
    let scores = q.matmul(&k.transpose(-2, -1)) * 0.125;
    let hidden = scores.positions(-1, DType::I32).greater(scores.positions(-2, DType::I32));
    let mixed = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1).matmul(&v);
    s.output("mixed", &mixed);
    for (i, gradient) in gradients(&(&mixed * d).sum(..), &[q, k, v]).iter().enumerate() {
        s.output(&format!("d{i}"), gradient);
    }
    let graph = Graph { storage: Some(DType::BF16), ..s.graph().borrow().clone() };
    let plan = compile(&graph, caps, &mut |_| {}).expect("the graph compiles").plan;
    let is_stored = |k: &Kernel| matches!(k, Kernel::Contract(k) if k.triangle == Some(Triangle::Stored(Half::Lower)));
    assert!(plan.kernels.iter().any(is_stored), "{plan}");
    plan
}

#[test]
fn every_text_of_the_table_compiles() {
    let Some(translator) = Translator::open() else { return };
    let translator = translator.with_all_forms();
    let caps = translator.caps();
    let fits = |g: &&Graph| caps.loops || !g.nodes.iter().any(|n| matches!(n.op, Op::Control(_)));
    for case in cases::all() {
        // What only moves 16 bits is the same kernels without casts.
        for form in [DType::F32.into(), DType::F64.into(), Floats::kept_in(DType::F16), Floats::kept_in(DType::BF16)] {
            for graph in [Some(case.trace(form)), case.trace_gradients(form)].iter().flatten().filter(fits) {
                let plan = compile(graph, &caps, &mut |_| {}).expect("the graph compiles").plan;
                translator.translate(&plan).expect("the kernels have texts");
            }
        }
    }
    let n = translator.verdict(1).unwrap_or_else(|e| panic!("{e}"));
    assert!(n > 1200, "only {n} texts were there to compile");
}

/// Cards that people have: their compute capability and what a block shares.
const OTHERS: [(&str, u32, u32); 4] =
    [("T4", 75, 65_536), ("A100", 80, 166_912), ("RTX 4090", 89, 101_376), ("RTX 5090", 120, 101_376)];

/// A part of the texts, as the language is the same; all of them fit.
#[test]
fn texts_are_made_for_each_device_by_what_it_can_do() {
    for (name, arch, shared_bytes) in OTHERS {
        let Some(translator) = Translator::open_for(arch, shared_bytes) else { return };
        let caps = translator.caps();
        let fits = |g: &&Graph| caps.loops || !g.nodes.iter().any(|n| matches!(n.op, Op::Control(_)));
        for case in cases::all() {
            for form in [DType::F32.into(), Floats::kept_in(DType::F16), Floats::kept_in(DType::BF16)] {
                for graph in [Some(case.trace(form)), case.trace_gradients(form)].iter().flatten().filter(fits) {
                    let plan = compile(graph, &caps, &mut |_| {}).expect("the graph compiles").plan;
                    translator.translate(&plan).unwrap_or_else(|e| panic!("{name}, {}: {e}", case.name));
                }
            }
        }
        for k in products() {
            translator.see(codegen::shaders(&Kernel::Contract(k), 1, &caps).expect("the product has a text")).unwrap();
        }
        let on_units = translator.count("multiply_f16(");
        assert!(if arch >= 80 { on_units >= 12 } else { on_units == 0 }, "{name}: {on_units} texts for matrix units");
        let n = translator.verdict(12).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(n > 60, "{name}: only {n} texts");
    }
}

/// A bias is read by the column of the result, which the texts for numbers of 64 bits work out like the others.
#[test]
fn products_of_64_bits_read_in_their_epilogue_by_row_and_column() {
    let Some(translator) = Translator::open() else { return };
    let s = Scope::root(Mode::Infer);
    let (x, w) = (s.input("x", (Batch, 6), DType::F64), s.input("w", [3, 6], DType::F64));
    let (by_row, bias) = (s.input("by_row", (Batch, 1), DType::F64), s.input("bias", [3], DType::F64));
    s.output("y", &(x.linear(&w, Some(&bias)) * by_row).tanh());
    let plan = compile(&s.graph().borrow(), &translator.caps(), &mut |_| {}).expect("the graph compiles").plan;
    assert!(matches!(&plan.kernels[0], Kernel::Contract(k) if k.epilogue.is_some()));
    translator.translate(&plan).expect("the kernels have texts");
    translator.verdict(1).unwrap_or_else(|e| panic!("{e}"));
}
