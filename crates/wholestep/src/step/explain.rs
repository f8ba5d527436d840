//! What was compiled, as text. Takes a loaded program, gives stages, launches, memory, the costliest launches and refused fusions. Never
//! measures by itself: costs are there once profiling ran.

use super::Cost;
use super::loaded::{CompileTime, Loaded};
use std::fmt::Write;
use std::time::Duration;
use wholestep_compiler::Compiled;
use wholestep_compiler::ir::{Dim, NodeId, SlotKind};
use wholestep_compiler::kernel::{Contraction, Kernel};
use wholestep_compiler::plan::{Launch, Layout, Size, Space};

/// How many of a list are shown.
const SHOWN: usize = 10;
/// How many kernels with their times.
const COSTLIEST: usize = 24;

/// "cpu, 2 threads, avx512: compiled in 12.3 ms (plan 8.1, kernels and memory 1.2, first values 3.0), 14 launches, 6.3 MiB of parameters and
/// state, 1.2 MiB arena at batch 64".
pub fn headline(l: &Loaded) -> String {
    let CompileTime { plan, load, values } = l.compile_time;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "{}: compiled in {:.1} ms (plan {:.1}, kernels and memory {:.1}, first values {:.1}), {} launches, {} of parameters and state, {} \
         arena at batch {}",
        l.caps.name,
        ms(plan + load + values),
        ms(plan),
        ms(load),
        ms(values),
        l.compiled.plan.launches().len(),
        size(l.compiled.plan.persistent_bytes()),
        size(l.layout.transient_bytes),
        l.layout.max_batch
    )
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// Of small networks all would be 0.00 MiB.
fn size(bytes: usize) -> String {
    match bytes {
        ..0x10_0000 => format!("{:.2} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.2} MiB", mib(bytes)),
    }
}

/// Where the memory of a program goes: slots by kind, and what is largest among the values of a step with the place that makes it.
pub fn memory(compiled: &Compiled, layout: &Layout) -> String {
    let plan = &compiled.plan;
    let slots = |kind: fn(&SlotKind) -> bool| {
        let of_kind = plan.slots.iter().filter(|s| kind(&s.kind));
        size(of_kind.map(|s| s.shape.numel_at(0) * s.dtype.size_bytes()).sum())
    };
    let mut text = format!(
        "{} of parameters, {} of the optimizer's state, {} of other slots, {} of values of a step at batch size {}",
        slots(|kind| matches!(kind, SlotKind::Param { .. })),
        slots(|kind| matches!(kind, SlotKind::State)),
        slots(|kind| matches!(kind, SlotKind::Buffer | SlotKind::Scalar)),
        size(layout.transient_bytes),
        layout.max_batch
    );
    let launches = plan.launches();
    let values = plan.buffers.iter().enumerate().filter(|(_, b)| b.space == Space::Transient);
    let mut values: Vec<(usize, u32)> = values.map(|(i, b)| (layout.sizes[i], b.first)).collect();
    values.sort_by_key(|(bytes, first)| (std::cmp::Reverse(*bytes), *first));
    for (bytes, first) in values.into_iter().take(SHOWN) {
        let maker = launches.get(first as usize).map_or(("", ""), |l| (&l.scope, &l.ops));
        let _ = write!(text, "\n  {:9.2} MiB  {}  {}", mib(bytes), maker.0, maker.1);
    }
    text
}

pub fn explain(l: &Loaded) -> String {
    let mut text = headline(l);
    let stages: Vec<String> = l.compiled.nodes.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let _ = write!(text, "\nnodes: {}", stages.join(", "));
    let _ = write!(
        text,
        "\narena: {:.2} MiB where buffers apart would take {:.2} MiB; {} distinct kernels",
        mib(l.layout.transient_bytes),
        mib(l.layout.unshared_bytes),
        l.compiled.plan.kernels.len()
    );
    text.push_str(&recomputed(l));
    text += &costliest(l);
    let _ = write!(text, "{}\n{}", choices(l), refusals(l));
    text
}

/// What took the time while profiling, the launches of one kernel as one line: "\n  833.4 µs  0.7 % 1933.9 GB/s  loop  block0/qkv and 11 more  mul exp".
fn costliest(l: &Loaded) -> String {
    let costs = costs(l);
    let total: f64 = costs.iter().map(|c| c.ns_per_step).sum();
    if total <= 0.0 {
        return String::new();
    }
    let mut all: Vec<(u32, usize, Cost)> = Vec::new();
    for (launch, cost) in l.compiled.plan.launches().into_iter().zip(costs) {
        match all.iter_mut().find(|(kernel, ..)| *kernel == launch.kernel) {
            Some((_, n, sum)) => {
                *n += 1;
                sum.ns_per_step += cost.ns_per_step;
                sum.flops += cost.flops;
                sum.bytes += cost.bytes;
            }
            None => all.push((launch.kernel, 1, cost)),
        }
    }
    all.sort_by(|a, b| b.2.ns_per_step.total_cmp(&a.2.ns_per_step));
    let mut text = format!("\nlaunches take {:.1} µs a step; the costliest kernels:", total / 1e3);
    for (_, n, c) in all.iter().take(COSTLIEST) {
        let gflops = if c.flops > 0.0 { format!("{:8.1} GFLOP/s", c.flops / c.ns_per_step) } else { " ".repeat(16) };
        let more = if *n > 1 { format!(" and {} more", n - 1) } else { String::new() };
        let _ = write!(
            text,
            "\n  {:9.1} µs {:4.1} % {gflops} {:6.1} GB/s  {:8} {}{more}  {}",
            c.ns_per_step / 1e3,
            100.0 * c.ns_per_step / total,
            c.bytes / c.ns_per_step,
            c.kind,
            c.scope,
            c.ops
        );
    }
    text
}

/// How kernels are made of which the device knows several ways: "\n  3 of fc1: TILE (timed): matmul B x 512 x 784 ..".
fn choices(l: &Loaded) -> String {
    let choices = l.executable.choices();
    let is_empty = choices.made.is_empty() && choices.notes.is_empty();
    let mut text = if is_empty { String::new() } else { "\nchoices of kernels:".to_string() };
    let launches = l.compiled.plan.launches();
    for (i, made) in choices.made.iter().enumerate() {
        if choices.made[..i].iter().any(|m| m.name == made.name) {
            continue;
        }
        let alike: Vec<usize> = choices.made.iter().filter(|m| m.name == made.name).map(|m| m.kernel).collect();
        let mut of = launches.iter().filter(|launch| alike.contains(&(launch.kernel as usize)));
        let first = of.next().map_or("", |launch| &launch.scope);
        let more = of.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = write!(text, "\n  {} ({}) in {first}{more}: {}", made.choice, made.origin, made.name);
    }
    choices.notes.iter().for_each(|note| text += &format!("\n  {note}"));
    text
}

/// What the backward pass computes again, by place: what that spares, what it costs, and whether the same kernels do it.
fn recomputed(l: &Loaded) -> String {
    let (graph, batch) = (&l.compiled.graph, l.layout.max_batch);
    let Some(recomputed) = &l.compiled.recomputed else { return String::new() };
    let plain = Layout::new(&recomputed.plain, &l.caps, batch);
    let flops_of = |ids: &mut dyn Iterator<Item = NodeId>| ids.map(|id| graph.flops(id, batch)).sum::<f64>();
    let again = flops_of(&mut recomputed.kernels.iter().flat_map(|k| k.nodes.iter().copied()));
    let all = flops_of(&mut graph.ids());
    let n_same = recomputed.kernels.iter().filter(|k| k.is_same_kernel).count();
    let mut text = format!(
        "\nrecompute: {:.2} MiB arena instead of {:.2} MiB, for {:.1} % more arithmetic in contractions; of {} kernels that compute \
         again {n_same} ran in the forward pass too (the same bits on every device), {} are others (the same operations on the same \
         operands, which a device may round otherwise)",
        mib(l.layout.transient_bytes),
        mib(plain.transient_bytes),
        100.0 * again / (all - again).max(1.0),
        recomputed.kernels.len(),
        recomputed.kernels.len() - n_same
    );
    for kernel in recomputed.kernels.iter().take(SHOWN) {
        let names: Vec<&str> = kernel.nodes.iter().map(|&id| graph.node(id).op.name()).collect();
        let scope = &graph.scopes[graph.node(kernel.nodes[0]).scope as usize];
        let how = if kernel.is_same_kernel { "the same kernel" } else { "another kernel" };
        let _ = write!(text, "\n  {scope}  {}  ({how})", names.join(" "));
    }
    if let Some(more) = recomputed.kernels.len().checked_sub(SHOWN).filter(|&more| more > 0) {
        let _ = write!(text, "\n  and {more} more");
    }
    text
}

/// Refused mergers by reason, with one example each.
pub fn refusals(l: &Loaded) -> String {
    let graph = &l.compiled.graph;
    let mut reasons: Vec<(&str, usize, String)> = Vec::new();
    for r in &l.compiled.refusals {
        match reasons.iter_mut().find(|(reason, ..)| *reason == r.reason) {
            Some((_, n, _)) => *n += 1,
            None => {
                let (node, into) = (graph.node(r.node), graph.node(r.into));
                let scope = &graph.scopes[node.scope as usize];
                let example = format!("{} into {} in {scope}", node.op.name(), into.op.name());
                reasons.push((r.reason, 1, example));
            }
        }
    }
    let mut text = format!("fusions refused: {}", l.compiled.refusals.len());
    for (reason, n, example) in reasons {
        let _ = write!(text, "\n  {n:4} {reason}: e.g. {example}");
    }
    text
}

/// Every launch with what it cost while profiling.
pub fn costs(l: &Loaded) -> Vec<Cost> {
    let (ns, steps) = l.executable.profile();
    let launches = l.compiled.plan.launches();
    let cost = |(i, launch): (usize, &&Launch)| {
        let kernel = &l.compiled.plan.kernels[launch.kernel as usize];
        Cost {
            kind: kernel.kind(),
            scope: launch.scope.clone(),
            ops: launch.ops.clone(),
            ns_per_step: ns.get(i).map_or(0.0, |&ns| ns as f64 / steps.max(1) as f64),
            flops: flops(kernel, l.batch),
            bytes: bytes(l, launch),
        }
    };
    launches.iter().enumerate().map(cost).collect()
}

/// Multiplications and additions of a contraction.
fn flops(kernel: &Kernel, batch: usize) -> f64 {
    let Kernel::Contract(k) = kernel else { return 0.0 };
    let at = |d: &Dim| d.at(batch) as f64;
    match &k.contraction {
        Contraction::Matmul { batch: lead, m, n, k, .. } => {
            2.0 * at(m) * at(n) * at(k) * lead.iter().map(at).product::<f64>()
        }
        Contraction::Conv(s) | Contraction::ConvInputGrad(s) | Contraction::ConvWeightGrad(s) => {
            let taps: usize = s.kernel.iter().product::<usize>() * s.c_in / s.geometry.groups;
            let points: usize = s.out.iter().product::<usize>() * s.c_out;
            2.0 * at(&s.n) * points as f64 * taps as f64
        }
    }
}

/// Bytes of the buffers that a launch touches, each once.
fn bytes(l: &Loaded, launch: &Launch) -> f64 {
    let plan = &l.compiled.plan;
    let size = |id: &wholestep_compiler::plan::BufferId| {
        let buffer = &plan.buffers[id.0 as usize];
        match &buffer.size {
            Size::Elements(shape) => (shape.numel_at(l.batch) * buffer.dtype.size_bytes()) as f64,
            Size::Scratch { .. } => 0.0,
        }
    };
    launch.segments.iter().flat_map(|s| &s.args).map(size).sum()
}
