//! Plans and kernels of three standard training steps, for `cargo xtask replay`. Takes nothing, gives text that is the same on every machine.
//! Never runs what it compiles.

use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{Batch, DType, Dim, Init, Scope, Shape, SlotId, SlotKind, Tensor};
use wholestep_compiler::ops::conv::{ConvOptions, Padding};

fn main() {
    print_plan("mlp", &[784], |s, x| {
        let h = linear(&s.sub("fc1"), x, 784, 512).relu();
        let h = linear(&s.sub("fc2"), &h, 512, 256).relu();
        linear(&s.sub("fc3"), &h, 256, 10)
    });
    print_plan("cnn", &[3, 32, 32], |s, x| {
        let h = conv(&s.sub("conv1"), x, 3, 32, 1).relu();
        let h = conv(&s.sub("conv2"), &h, 32, 32, 2).relu();
        linear(&s.sub("head"), &h.flatten(1, -1), 32 * 16 * 16, 10)
    });
    print_plan("residual", &[16, 8, 8], |s, x| {
        let h = norm(&s.sub("norm1"), &conv(&s.sub("conv1"), x, 16, 16, 1), 16).relu();
        let h = norm(&s.sub("norm2"), &conv(&s.sub("conv2"), &h, 16, 16, 1), 16);
        linear(&s.sub("head"), &(h + x).relu().mean([2, 3]), 16, 10)
    });
}

fn print_plan(name: &str, shape: &[usize], model: impl Fn(&Scope, &Tensor) -> Tensor) {
    let s = Scope::root(Mode::Train);
    let mut dims = vec![Batch];
    dims.extend(shape.iter().map(|&n| Dim::from(n)));
    let x = s.input("x", Shape(dims), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 10, None);
    let loss = model(&s, &x).cross_entropy(&y);
    s.output("loss", &loss);
    momentum(&s, &loss);
    let graph = s.graph().borrow().clone();
    let caps = Caps {
        name: "plans".into(),
        dtypes: vec![DType::F32, DType::I32, DType::U32, DType::Bool],
        memory_bytes: None,
        align_bytes: 64,
        max_row_elems: 16384,
        contract_scratch_bytes: |_, _| 0,
        max_args: usize::MAX,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: usize::MAX,
        loops: true,
        workgroups: None,
    };
    println!("# {name}");
    let compiled = compile(&graph, &caps, &mut |stage| {
        if ["plan", "kernel"].contains(&stage.name) {
            println!("## {} {}\n{}", stage.number, stage.name, stage.text);
        }
    });
    match compiled {
        Ok(compiled) => println!("nodes {:?}\n", compiled.nodes),
        Err(fault) => println!("{fault}\n"),
    }
}

/// Descent with momentum for all parameters.
fn momentum(s: &Scope, loss: &Tensor) {
    let params: Vec<(String, Tensor)> = {
        let graph = s.graph().borrow();
        let slots = graph.slots.iter().enumerate().filter(|(_, slot)| matches!(slot.kind, SlotKind::Param { .. }));
        slots
            .filter_map(|(i, slot)| Some((slot.name.clone(), slot_node(&graph, SlotId(i as u32))?)))
            .map(|(name, node)| (name, Tensor::from_node(s.graph().clone(), node)))
            .collect()
    };
    let tensors: Vec<Tensor> = params.iter().map(|(_, p)| p.clone()).collect();
    for ((name, p), g) in params.iter().zip(gradients(loss, &tensors)) {
        let b = s.slot(&format!("sgd/{name}"), SlotKind::State, DType::F32, p.shape(), Init::Const(0.0));
        let moved = &b * 0.9 + g;
        s.update(p, &(p - &moved * 0.01));
        s.update(&b, &moved);
    }
}

const START: Init = Init::Normal { mean: 0.0, std: 0.05 };

fn linear(s: &Scope, x: &Tensor, n_in: usize, n_out: usize) -> Tensor {
    let w = s.param("weight", [n_out, n_in], START);
    x.linear(&w, Some(&s.param("bias", [n_out], Init::Const(0.0))))
}

fn conv(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, stride: usize) -> Tensor {
    let w = s.param("weight", [c_out, c_in, 3, 3], START);
    let options = ConvOptions { stride: [stride; 2], padding: Padding::all(1), ..ConvOptions::default() };
    x.conv2d(&w, Some(&s.param("bias", [c_out], Init::Const(0.0))), &options)
}

fn norm(s: &Scope, x: &Tensor, c: usize) -> Tensor {
    let batch = x.batch_statistics();
    let running = s.buffer("running_mean", [c], Init::Const(0.0));
    s.update(&running, &(&running * 0.9 + batch.mean.reshape([c]) * 0.1));
    let (scale, shift) = (s.param("weight", [c], Init::Const(1.0)), s.param("bias", [c], Init::Const(0.0)));
    batch.normalize(Some(&scale), Some(&shift), 1e-5)
}
