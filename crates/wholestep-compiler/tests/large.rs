//! Large graphs compile in time that grows about as they do.

#[allow(dead_code)]
#[path = "plan/steps.rs"]
mod steps;

use std::time::{Duration, Instant};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Graph, Scope};
use wholestep_compiler::plan::Layout;

fn caps() -> Caps {
    Caps {
        name: "none".into(),
        dtypes: vec![DType::F32, DType::I32, DType::U32, DType::U8, DType::Bool],
        memory_bytes: None,
        align_bytes: 64,
        max_row_elems: 16_384,
        contract_scratch_bytes: |_, _| 4096,
        max_args: usize::MAX,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: usize::MAX,
        loops: true,
        workgroups: None,
    }
}

/// Residual layers with layer normalization, cross-entropy, momentum and clipping by norm: about 50 nodes a layer.
fn deep(n_layers: usize) -> Graph {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 16), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 16, None);
    let mut h = x;
    for i in 0..n_layers {
        let s = s.sub(format!("block{i}"));
        let (w, b) = (steps::param(&s, "weight", &[16, 16]), steps::param(&s, "bias", &[16]));
        let centred = &h - h.mean_keepdim(-1);
        let normed = &centred * (centred.square().mean_keepdim(-1) + 1e-5).rsqrt();
        h = h + normed.linear(&w, Some(&b)).relu();
    }
    steps::finish(&s, &h.cross_entropy(&y), true, true)
}

fn time_to_compile(n_layers: usize) -> (usize, Duration) {
    let graph = deep(n_layers);
    let start = Instant::now();
    let mut last = start;
    let print = std::env::args().any(|a| a == "--nocapture");
    let compiled = compile(&graph, &caps(), &mut |stage| {
        if print && stage.number <= 30 {
            println!("{:>9.1} ms  until {}", last.elapsed().as_secs_f64() * 1e3, stage.name);
            last = Instant::now();
        }
    });
    let compiled = compiled.expect("the model compiles");
    let layout = Layout::new(&compiled.plan, &caps(), 32);
    assert!(layout.transient_bytes < layout.unshared_bytes, "buffers share memory");
    let took = start.elapsed();
    println!("{n_layers} layers, {} nodes, {} launches: {took:?}", graph.nodes.len(), compiled.plan.items.len());
    (graph.nodes.len(), took)
}

#[test]
fn a_graph_of_ten_thousand_nodes_compiles_in_seconds() {
    let (n_nodes, took) = time_to_compile(100);
    assert!(n_nodes > 8_000, "the model has only {n_nodes} nodes");
    // About half a second in a release build on an idle core; the bound is for busy ones. What is quadratic in clusters took minutes.
    assert!(took < Duration::from_secs(20), "{took:?} for {n_nodes} nodes");
}
