//! Every shader of the table of ops, and of models with an optimizer, translated by naga as the drivers' layers do it: to SPIR-V for Vulkan, to
//! MSL for Metal and to HLSL for DX12. This needs no device; it is as near to Metal and DX12 as a machine without them gets.

use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{ShaderStage, back, front::wgsl};
use std::collections::BTreeSet;
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::caps::{Caps, Workgroups};
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::wgsl::{self as codegen, whole};
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{Batch, DType, Graph, Init, Scope, SlotId, Tensor};
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::ops::conv::{ConvOptions, Padding};
use wholestep_compiler::plan::{BufferId, Launch, Space};
use wholestep_compiler::{cases, compile};

/// A device with what every WebGPU device has, and subgroups.
fn caps(subgroup: Option<(u32, u32)>) -> Caps {
    Caps {
        name: "any GPU".into(),
        dtypes: vec![DType::F32, DType::I32, DType::U32, DType::U8, DType::Bool],
        memory_bytes: None,
        align_bytes: 256,
        max_row_elems: 16_384,
        contract_scratch_bytes: codegen::contract_scratch_bytes,
        max_args: 31,
        byte_bytes: 4,
        long_bytes: 4,
        max_buffer_bytes: 1 << 30,
        workgroups: Some(Workgroups {
            threads: 256,
            shared_bytes: 16_384,
            per_axis: 65_535,
            subgroup,
            f16: false,
            tiles: Vec::new(),
        }),
    }
}

/// The shaders of a graph.
fn shaders(graph: &Graph, caps: &Caps, out: &mut Vec<Shader>) {
    let plan = compile(graph, caps, &mut |_| {}).expect("the graph compiles").plan;
    for launch in plan.launches() {
        let kernel: &Kernel = &plan.kernels[launch.kernel as usize];
        out.extend(codegen::shaders(kernel, launch.segments.len(), caps).expect("the kernel has a text"));
    }
    // The small ones of them in one workgroup, with a barrier between all.
    let part = |launch: &Launch| {
        let kernel = plan.kernels[launch.kernel as usize].clone();
        let piece = |id: &BufferId| match plan.buffers[id.0 as usize].space {
            Space::Input(_) => 0,
            Space::Slot(_) => 1,
            Space::Transient => 2,
        };
        let pieces = launch.segments[0].args.iter().map(piece).collect();
        whole::work(&kernel, 4).map(|_| whole::Part { kernel, pieces, waits: true })
    };
    let parts: Vec<whole::Part> = plan.launches().into_iter().filter_map(part).collect();
    if !parts.is_empty() {
        out.push(whole::shader(&parts, caps.workgroups.as_ref().expect("it runs texts")).0);
    }
}

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
        x.batch_norm(&now.mean, &now.var, Some(&gamma), Some(&beta), 1e-5)
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

fn parse(shader: &Shader) -> Result<(naga::Module, ModuleInfo), String> {
    let module = wgsl::parse_str(&shader.source).map_err(|e| e.emit_to_string(&shader.source))?;
    // The subgroup's number and size are asked for where the device has them, as wgpu does.
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(&shader.source))?;
    Ok((module, info))
}

fn translate(shader: &Shader) -> Result<(), String> {
    let (module, info) = parse(shader)?;
    let spv = back::spv::Options { lang_version: (1, 3), ..Default::default() };
    back::spv::write_vec(&module, &info, &spv, None).map_err(|e| format!("SPIR-V: {e}"))?;
    let msl = back::msl::Options { lang_version: (3, 0), fake_missing_bindings: true, ..Default::default() };
    let pipeline =
        back::msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())), ..Default::default() };
    let (text, _) = back::msl::write_string(&module, &info, &msl, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    // Metal has 8x8 tiles only, and naga writes any.
    if text.contains("simdgroup_") && text.contains("16x16") {
        return Err("MSL: a matrix tile that Metal lacks".to_string());
    }
    let hlsl = back::hlsl::Options {
        shader_model: back::hlsl::ShaderModel::V6_0,
        fake_missing_bindings: true,
        ..Default::default()
    };
    let mut text = String::new();
    let entry = Default::default();
    let mut writer = back::hlsl::Writer::new(&mut text, &hlsl, &entry);
    writer.write(&module, &info, None).map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

#[test]
fn every_shader_translates_for_vulkan_metal_and_dx12() {
    let mut all = Vec::new();
    for caps in [caps(None), caps(Some((32, 32)))] {
        for case in cases::all() {
            let graphs = [Some(case.trace(DType::F32)), case.trace_gradients(DType::F32)];
            let fits = |g: &Graph| g.nodes.iter().all(|n| caps.dtypes.contains(&n.dtype));
            graphs.iter().flatten().filter(|g| fits(g)).for_each(|g| shaders(g, &caps, &mut all));
        }
        let s = Scope::root(Mode::Train);
        residual(&s);
        shaders(&s.graph().borrow(), &caps, &mut all);
    }
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for shader in all.iter().filter(|s| seen.insert(s.source.clone())) {
        if let Err(e) = translate(shader) {
            faults.push(format!("{e}\nin\n{}", shader.source));
        }
    }
    assert!(seen.len() > 200, "only {} shaders were there to translate", seen.len());
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), seen.len(), faults.join("\n"));
}
