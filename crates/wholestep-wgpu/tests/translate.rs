//! Every shader of the table of ops, and of a residual network's step, translated by naga as the drivers' layers do it: to SPIR-V for Vulkan, to
//! MSL for Metal and to HLSL for DX12. Those of examples and benchmarks are in the crates that hold them.

use std::collections::BTreeSet;
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::cases::{self, Floats};
use wholestep_compiler::codegen::{Count, Grid, Shader};
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{Batch, DType, Graph, Init, Scope, SlotId, Tensor};
use wholestep_compiler::ops::conv::{ConvOptions, Padding};
use wholestep_wgpu::translate::{Driver, Translator};

/// The step of a small residual network with clipping by norm and momentum: several segments a launch, rows and columns, windows.
fn residual(s: &Scope) {
    let x = s.input("x", (Batch, 8, 16, 16), DType::F32);
    let y = s.labels("y", (Batch,), DType::I64, 10, None);
    let conv = |s: &Scope, x: &Tensor, stride: usize| {
        let w = s.param("weight", [8usize, 8, 3, 3], Init::Const(0.1));
        x.conv2d(&w, None, &ConvOptions { stride: [stride; 2], padding: Padding::all(1), ..ConvOptions::default() })
    };
    let norm = |s: &Scope, x: &Tensor| {
        let (gamma, beta) =
            (s.param("weight", [8usize], Init::Const(1.0)), s.param("bias", [8usize], Init::Const(0.0)));
        let now = x.batch_statistics();
        now.normalize(Some(&gamma), Some(&beta), 1e-5)
    };
    let h = norm(&s.sub("norm1"), &conv(&s.sub("conv1"), &x, 1)).relu();
    let h = norm(&s.sub("norm2"), &conv(&s.sub("conv2"), &h, 1));
    let h = conv(&s.sub("conv3"), &(h + &x).relu(), 2).mean([2, 3]);
    let h = h.linear(&s.sub("head").param("weight", [10usize, 8], Init::Const(0.1)), None);
    let loss = h.cross_entropy(&y);
    s.output("loss", &loss);
    let params: Vec<Tensor> = {
        let graph = s.graph().borrow();
        let node = |i: usize| slot_node(&graph, SlotId(i as u32)).expect("a slot has a node");
        (0..graph.slots.len()).map(|i| Tensor::from_node(s.graph().clone(), node(i))).collect()
    };
    let grads = gradients(&loss, &params);
    let norm = grads.iter().map(|g| g.square().sum(..)).reduce(|a, b| a + b).expect("there are parameters").sqrt();
    for (p, g) in params.iter().zip(&grads) {
        s.update(p, &(p - &(g / &norm * 0.1)));
    }
}

#[test]
fn every_shader_of_the_table_translates_for_vulkan_metal_and_dx12() {
    for driver in Driver::ALL {
        let (translator, caps) = (Translator::new(driver), driver.caps());
        let translate = |graph: &Graph| {
            let plan = compile(graph, &caps, &mut |_| {}).expect("the graph compiles").plan;
            translator.translate(&plan).expect("the kernels have texts");
        };
        for case in cases::all() {
            // What only moves 16 bits is the same kernels without casts.
            for float in [DType::F32.into(), Floats::kept_in(DType::F16), Floats::kept_in(DType::BF16)] {
                let graphs = [Some(case.trace(float)), case.trace_gradients(float)];
                let fits = |g: &Graph| g.nodes.iter().all(|n| caps.dtypes.contains(&n.dtype));
                graphs.iter().flatten().filter(|g| fits(g)).for_each(translate);
            }
        }
        let s = Scope::root(Mode::Train);
        residual(&s);
        translate(&s.graph().borrow());
        let n = translator.verdict().unwrap_or_else(|faults| panic!("{faults}"));
        assert!(n > 150, "only {n} shaders were there to translate for {driver:?}");
    }
}

/// A shader that multiplies one tile of `size` by `size`.
fn tile(size: u32) -> Shader {
    let source = format!(
        "enable f16;
enable wgpu_cooperative_matrix;
@group(0) @binding(0) var<storage, read_write> left: array<f16>;
@group(0) @binding(1) var<storage, read_write> right: array<f16>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@compute @workgroup_size(32) fn main() {{
    let l = coopLoad<coop_mat{size}x{size}<f16, A>>(&left[0], {size}u);
    let r = coopLoad<coop_mat{size}x{size}<f16, B>>(&right[0], {size}u);
    let s = coopLoad<coop_mat{size}x{size}<f32, C>>(&sums[0], {size}u);
    let made = coopMultiplyAdd(l, r, s);
    coopStore(made, &sums[0], {size}u);
}}"
    );
    let grid = Grid::Line(Count { of: Vec::new(), per: 1 });
    Shader {
        source,
        parts: None,
        args: vec![0, 1, 2],
        workgroup: [32, 1, 1],
        params: Vec::new(),
        grid,
        shared_bytes: 0,
        wants_registers: false,
        scratch: None,
    }
}

#[test]
fn only_metals_own_tile_passes_for_metal() {
    let text = Driver::Metal.translate(&tile(8)).expect("8x8 is Metal's tile");
    let matrices: BTreeSet<&str> =
        text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| w.ends_with("8x8")).collect();
    assert_eq!(matrices, BTreeSet::from(["simdgroup_float8x8", "simdgroup_half8x8"]));
    let fault = Driver::Metal.translate(&tile(16)).expect_err("naga writes 16x16 for Metal, which has none");
    assert!(fault.contains("is a tile that Metal lacks"), "{fault}");
    Driver::Vulkan.translate(&tile(16)).expect("16x16 is a tile of NVIDIA's Vulkan");
    assert!(Driver::Dx12.translate(&tile(16)).is_err(), "HLSL has no matrices, and its device does not offer them");
}
