//! Mixed precision as a pass: what is kept in 16 bits, what is not, and what that does to memory.

#[allow(dead_code)]
#[path = "plan/steps.rs"]
mod steps;

use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Graph, Scope};
use wholestep_compiler::kernel::{Access, Arg, Contraction, Half, Instr, Kernel, Triangle};
use wholestep_compiler::ops::conv::{ConvOptions, Padding};
use wholestep_compiler::plan::{Buffer, Layout, Plan, Size, Space};
use wholestep_compiler::{Compiled, compile};

fn caps() -> Caps {
    Caps {
        name: "none".into(),
        dtypes: vec![DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::Bool],
        memory_bytes: None,
        align_bytes: 64,
        max_row_elems: 16_384,
        contract_scratch_bytes: |_, _| 0,
        max_args: usize::MAX,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: usize::MAX,
        loops: true,
        workgroups: None,
    }
}

/// Plain layers of `width` with ReLU.
fn mlp(n_layers: usize, width: usize) -> Graph {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, width), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, width, None);
    let mut h = x;
    for i in 0..n_layers {
        let s = s.sub(format!("fc{i}"));
        let (w, b) = (steps::param(&s, "weight", &[width, width]), steps::param(&s, "bias", &[width]));
        h = h.linear(&w, Some(&b)).relu();
    }
    steps::finish(&s, &h.cross_entropy(&y), true, false)
}

fn compiled(mut graph: Graph, storage: Option<DType>) -> Compiled {
    graph.storage = storage;
    compile(&graph, &caps(), &mut |_| {}).expect("the step compiles")
}

fn peak(plan: &Plan, batch: usize) -> usize {
    Layout::new(plan, &caps(), batch).transient_bytes
}

/// Bytes of the floats that wait for something: what the backward pass needs of the forward pass.
fn waiting(plan: &Plan, batch: usize) -> usize {
    let layout = Layout::new(plan, &caps(), batch);
    let waits = |b: &Buffer| b.space == Space::Transient && b.dtype.is_float() && b.last - b.first >= 4;
    plan.buffers.iter().zip(&layout.sizes).filter(|(b, _)| waits(b)).map(|(_, size)| size).sum()
}

#[test]
fn activations_take_half_the_memory() {
    let graph = mlp(16, 64);
    let whole = compiled(graph.clone(), None).plan;
    for storage in [DType::F16, DType::BF16] {
        let half = compiled(graph.clone(), Some(storage)).plan;
        let (kept, of) = (waiting(&half, 4096) as f64, waiting(&whole, 4096) as f64);
        assert!((0.45..0.55).contains(&(kept / of)), "{kept} bytes in {storage}, {of} in f32");
        // The input is rounded and kept beside itself, and the last layer's output is in f32, since the loss alone reads it.
        let (half, whole) = (peak(&half, 4096) as f64, peak(&whole, 4096) as f64);
        assert!(half / whole < 0.6, "a peak of {half} bytes in {storage}, {whole} in f32");
    }
}

/// Where a ReLU was 0 shows in its output, which the weight's gradient keeps: no mask waits for the backward pass. The last one's output is
/// read by the loss alone.
#[test]
fn a_relu_whose_output_is_kept_keeps_no_mask() {
    for storage in [None, Some(DType::F16), Some(DType::BF16)] {
        let plan = compiled(mlp(16, 64), storage).plan;
        let masks = plan.buffers.iter().filter(|b| b.dtype == DType::Bool && b.space == Space::Transient).count();
        assert!(masks <= 1, "{masks} masks with {storage:?}");
    }
}

#[test]
fn a_convolutional_step_with_batch_normalization_takes_half() {
    let graph = steps::cnn(true, false);
    let (whole, half) = (compiled(graph.clone(), None).plan, compiled(graph, Some(DType::BF16)).plan);
    let (whole, half) = (peak(&whole, 4096) as f64, peak(&half, 4096) as f64);
    // The places that pooling chose are whole numbers in both.
    assert!(half / whole < 0.505, "{half} bytes in bf16, {whole} in f32");
    let (whole, half) = (whole / 4096.0, half / 4096.0);
    assert!(half < 1500.0 && whole < 3000.0, "{half} bytes a sample in bf16, {whole} in f32");
}

/// The mask of a normalized ReLU shows in what was normalized, which the gradient's sums and the gradient read anyway: the product before them writes what it
/// rounds and nothing else, and only convolutions read the ReLU's output.
#[test]
fn the_mask_of_a_normalized_relu_takes_no_pass() {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 16, 32, 32), DType::F32);
    let mut h = x.clone();
    for i in 0..3 {
        let s = s.sub(format!("{i}"));
        let w = steps::param(&s, "weight", &[16, 16, 3, 3]);
        let options = ConvOptions { padding: Padding::all(1), ..ConvOptions::default() };
        let (gamma, beta) = (steps::param(&s, "gamma", &[16]), steps::param(&s, "beta", &[16]));
        h = h.conv2d(&w, None, &options).batch_statistics().normalize(Some(&gamma), Some(&beta), 1e-5).relu();
    }
    let plan = compiled(steps::finish(&s, &h.square().mean(..), false, false), Some(DType::BF16)).plan;
    let (mut n_gradients, mut n_loops) = (0, 0);
    for launch in plan.launches() {
        match &plan.kernels[launch.kernel as usize] {
            Kernel::Contract(k) if matches!(k.contraction, Contraction::ConvInputGrad(_)) => {
                let written = k.args.iter().filter(|arg| arg.access == Access::Write).count();
                let mut epilogue = k.epilogue.iter().flat_map(|e| &e.instrs);
                assert!(written == 1 && !epilogue.any(|i| matches!(i, Instr::Select { .. })), "{plan}");
                n_gradients += 1;
            }
            Kernel::Loop(k) if k.axes.len() > 1 && k.axes.iter().any(|d| d.batch > 0) => {
                let batches = k.args.iter().filter(|arg| arg.dtype == DType::BF16);
                let (written, read): (Vec<&Arg>, Vec<&Arg>) = batches.partition(|arg| arg.access == Access::Write);
                assert!(
                    written.len() <= 1 && read.len() <= 2,
                    "a pass over {} and {} values: {plan}",
                    read.len(),
                    written.len()
                );
                n_loops += 1;
            }
            _ => {}
        }
    }
    assert_eq!(n_gradients, 2, "{plan}");
    assert!(n_loops >= 9, "{n_loops}: {plan}");
}

/// The largest of each window is one of the values that convolutions read, and its gradient is made of what they gave: all of it stays in 16 bits.
#[test]
fn pooling_between_convolutions_is_of_16_bits() {
    for storage in [DType::F16, DType::BF16] {
        let plan = compiled(steps::cnn(true, false), Some(storage)).plan;
        let windows = plan.kernels.iter().filter_map(|k| match k {
            Kernel::Window(k) => Some(k),
            Kernel::Loop(_) | Kernel::Contract(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => None,
        });
        let floats: Vec<DType> =
            windows.flat_map(|k| k.args.iter().map(|arg| arg.dtype)).filter(|dtype| dtype.is_float()).collect();
        assert_eq!(floats, [storage; 5], "what is chosen from, what was, and the gradient there and back: {plan}");
    }
}

#[test]
fn products_read_16_bits_and_sum_in_f32() {
    let plan = compiled(mlp(3, 8), Some(DType::BF16)).plan;
    let contract = |k: &'_ Kernel| match k {
        Kernel::Contract(k) => Some(k.clone()),
        Kernel::Loop(_) | Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => None,
    };
    let contracts: Vec<_> = plan.kernels.iter().filter_map(contract).collect();
    assert!(contracts.len() >= 3);
    for k in contracts {
        assert_eq!((k.args[0].dtype, k.args[1].dtype), (DType::BF16, DType::BF16));
        assert_eq!((k.dtype, k.args[2].dtype), (DType::F32, DType::F32));
    }
}

#[test]
fn slots_outputs_and_what_is_reduced_stay_in_f32() {
    let c = compiled(mlp(3, 8), Some(DType::F16));
    assert!(c.plan.slots.iter().all(|s| s.dtype != DType::F16));
    assert!(c.plan.outputs.iter().all(|o| o.dtype == DType::F32));
    for node in &c.graph.nodes {
        if let wholestep_compiler::ir::Op::Reduce(_) = node.op {
            assert_ne!(node.dtype, DType::F16);
        }
    }
    let n_half = c.plan.buffers.iter().filter(|b| b.dtype == DType::F16 && b.space == Space::Transient).count();
    assert!(n_half >= 6, "only {n_half} buffers of 16 bits");
}

/// Attention of 12 heads with a causal mask, as GPT-2 has it.
fn attention() -> Graph {
    let (width, heads, context) = (768, 12, 1024);
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, context, width), DType::F32);
    let y = s.labels("y", (Batch, context), DType::I32, width, None);
    let h = x.linear(&steps::param(&s.sub("in"), "weight", &[width, width]), None);
    let qkv = h.linear(&steps::param(&s.sub("qkv"), "weight", &[3 * width, width]), None);
    let qkv = qkv.reshape((Batch, context, 3, heads, width / heads)).permute([2, 0, 3, 1, 4]);
    let [q, k, v] = [0, 1, 2].map(|i| qkv.index(0, i));
    let scores = q.matmul(&k.transpose(-2, -1)) * 0.125;
    let (rows, columns) = (scores.positions(-2, DType::I32), scores.positions(-1, DType::I32));
    let mixed = scores.masked_fill(&columns.greater(&rows), f64::NEG_INFINITY).softmax(-1).matmul(&v);
    let h = mixed.transpose(1, 2).reshape((Batch, context, width));
    let h = h.linear(&steps::param(&s.sub("proj"), "weight", &[width, width]), None);
    steps::finish(&s, &h.flatten(0, 1).cross_entropy(&y.flatten(0, 1)), true, false)
}

/// They are rounded and stored by the product alone, which a library can make, and scaled and masked by the softmax that reads them. So are those of the
/// backward pass: no product reads what its own result is then multiplied with elsewhere.
#[test]
fn scores_of_attention_are_stored_in_16_bits() {
    let plan = compiled(attention(), Some(DType::BF16)).plan;
    let scores = |b: &&Buffer| matches!(&b.size, Size::Elements(shape) if shape.numel_at(1) >= 12 << 20);
    let dtypes: Vec<DType> = plan.buffers.iter().filter(scores).map(|b| b.dtype).collect();
    assert_eq!(dtypes, [DType::BF16; 3], "scores, what they become, and their gradient");
    // Who masks compares positions.
    assert!(plan.buffers.iter().all(|b| b.dtype != DType::Bool), "{plan}");
    let mut triangles = Vec::new();
    for kernel in &plan.kernels {
        if let Kernel::Contract(k) = kernel
            && let Contraction::Matmul { batch, .. } = &k.contraction
            && batch.len() == 2
        {
            let epilogue = k.epilogue.as_ref().expect("it rounds");
            let only_rounds = matches!(epilogue.instrs[..], [Instr::Load { .. }, Instr::Cast { .. }]);
            assert_eq!(only_rounds, !matches!(k.triangle, Some(Triangle::Stored(_))), "{k}");
            triangles.push(k.triangle.expect("the mask is known"));
        }
    }
    let (lower, upper) = (Triangle::Lhs(Half::Lower), Triangle::Lhs(Half::Upper));
    // Scores and what they mix; gradients of values, of scores, of queries and of keys.
    assert_eq!(triangles, [Triangle::Read(Half::Lower), lower, upper, Triangle::Stored(Half::Lower), lower, upper]);
}
