//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle: in f32 and
//! f64, at batch sizes below and at the size that memory was laid out for, at every instruction level and thread count, in poisoned memory.

use wholestep_compiler::backend::{Backend, Executable};
use wholestep_compiler::cases::{self, Case};
use wholestep_compiler::compile;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::{DType, Graph, Slot, SlotId};
use wholestep_compiler::plan::{Layout, Plan};
use wholestep_cpu::loops::level::Level;
use wholestep_cpu::simd::Isa;
use wholestep_cpu::{Config, CpuBackend};

/// Memory is laid out for this batch size.
const MAX_BATCH: usize = 5;
/// In this order: a smaller batch after a larger one must not see the larger one's rows.
const BATCHES: [usize; 4] = [1, 3, 5, 1];

/// Allowed error: this much of the larger of 1 and the value.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::F16 | DType::BF16 => panic!("the cpu has no {dtype}"),
        DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => 0.0,
    }
}

/// A row's data as the bytes of `dtype`.
fn bytes_of(values: &[f64], dtype: DType) -> Vec<u8> {
    let each = |f: &dyn Fn(f64) -> Vec<u8>| values.iter().flat_map(|&v| f(v)).collect();
    match dtype {
        DType::F64 => each(&|v| v.to_ne_bytes().to_vec()),
        DType::F32 => each(&|v| (v as f32).to_ne_bytes().to_vec()),
        DType::I64 => each(&|v| (v as i64).to_ne_bytes().to_vec()),
        DType::I32 => each(&|v| (v as i32).to_ne_bytes().to_vec()),
        DType::U32 => each(&|v| (v as u32).to_ne_bytes().to_vec()),
        DType::U8 | DType::Bool => each(&|v| vec![v as u8]),
        DType::F16 | DType::BF16 => panic!("the cpu has no {dtype}"),
    }
}

fn values_of(bytes: &[u8], dtype: DType) -> Vec<f64> {
    match dtype {
        DType::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_ne_bytes(*b)).collect(),
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_ne_bytes(*b))).collect(),
        DType::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_ne_bytes(*b) as f64).collect(),
        DType::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_ne_bytes(*b))).collect(),
        DType::U32 => bytes.as_chunks().0.iter().map(|b| f64::from(u32::from_ne_bytes(*b))).collect(),
        DType::U8 | DType::Bool => bytes.iter().map(|&b| f64::from(b)).collect(),
        DType::F16 | DType::BF16 => panic!("the cpu has no {dtype}"),
    }
}

/// A backend with its name for reports; those of one level are next to each other.
struct Variant {
    name: String,
    level: Level,
    backend: CpuBackend,
}

fn variants() -> Vec<Variant> {
    let levels = [(Level::Baseline, Isa::Scalar), (Level::Avx2, Isa::Avx2), (Level::Avx512, Isa::Avx512)];
    let available = levels.into_iter().filter(|(level, isa)| level.is_available() && isa.is_available());
    let configs = available.flat_map(|(level, isa)| {
        [1, 2, 3].map(|n_threads| Config { n_threads, level, isa, poison: true, plain_contractions: false })
    });
    let name = |c: &Config| format!("{:?} with {} threads", c.level, c.n_threads);
    configs.map(|c| Variant { name: name(&c), level: c.level, backend: CpuBackend::new(c) }).collect()
}

/// What a run left: outputs, then slots.
type Left = Vec<Vec<u8>>;

fn run(exe: &mut dyn Executable, plan: &Plan, batch: usize, inputs: &[Vec<u8>], slots: &[Vec<u8>]) -> Left {
    for (i, bytes) in slots.iter().enumerate() {
        exe.write_slot(SlotId(i as u32), bytes).expect("the slot takes its bytes");
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    exe.run(batch, 1, &inputs).expect("the plan runs");
    let mut left = Vec::new();
    for (i, output) in plan.outputs.iter().enumerate() {
        let mut bytes = vec![0; output.shape.numel_at(batch) * output.dtype.size_bytes()];
        exe.read_output(i, &mut bytes).expect("the output can be read");
        left.push(bytes);
    }
    for (i, slot) in slots.iter().enumerate() {
        let mut bytes = vec![0; slot.len()];
        exe.read_slot(SlotId(i as u32), &mut bytes).expect("the slot can be read");
        left.push(bytes);
    }
    left
}

/// The first difference between what was computed and what the oracle says.
fn compare(what: &str, got: &[u8], want: &[f64], dtype: DType) -> Result<(), String> {
    let got = values_of(got, dtype);
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, the oracle has {}", got.len(), want.len()));
    }
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan());
        // A NaN on one side only compares as false and is a fault.
        let close = (g - w).abs() <= tolerance(dtype) * w.abs().max(1.0);
        if !same && !close {
            return Err(format!("{what}[{i}]: {g}, the oracle says {w}, off by {:.1e}", (g - w).abs()));
        }
    }
    Ok(())
}

/// A slot's bytes in the order in which the plan stores it.
fn slot_bytes(slot: &Slot, values: &[f64]) -> Vec<u8> {
    let is_uniform = values.iter().all(|v| *v == values[0]);
    assert!(slot.order.is_sorted() || is_uniform, "bug: this test does not reorder slots, {} needs it", slot.name);
    bytes_of(values, slot.dtype)
}

/// Runs one graph everywhere; all differences, one per variant and batch size at most.
fn check(variants: &[Variant], case: &Case, graph: &Graph, faults: &mut Vec<String>, what: &str) {
    let n_inputs = graph.inputs.len();
    let values = cases::initial_slots(graph);
    let wanted = BATCHES.map(|batch| {
        let inputs = case.inputs(batch, 1)[..n_inputs].to_vec();
        (eval(graph, batch, &inputs, &values), inputs)
    });
    let mut first: [Option<(Level, Left)>; BATCHES.len()] = [const { None }; BATCHES.len()];
    for v in variants {
        let caps = v.backend.caps();
        let plan = compile(graph, &caps, &mut |_| {}).unwrap_or_else(|e| panic!("{what} does not compile: {e}")).plan;
        let layout = Layout::new(&plan, &caps, MAX_BATCH);
        let mut exe = v.backend.load(&plan, &layout).unwrap_or_else(|e| panic!("{what} does not load: {e}"));
        let slots: Vec<Vec<u8>> = plan.slots.iter().zip(&values).map(|(s, v)| slot_bytes(s, v)).collect();
        for (i, (batch, (want, inputs))) in BATCHES.into_iter().zip(&wanted).enumerate() {
            let inputs: Vec<Vec<u8>> = graph.inputs.iter().zip(inputs).map(|(d, v)| bytes_of(v, d.dtype)).collect();
            let left = run(&mut *exe, &plan, batch, &inputs, &slots);
            let types = plan.outputs.iter().map(|o| o.dtype).chain(plan.slots.iter().map(|s| s.dtype));
            let names = plan.outputs.iter().map(|o| &o.name).chain(plan.slots.iter().map(|s| &s.name));
            let values = want.outputs.iter().chain(&want.slots);
            let mut seen = names.zip(&left).zip(values).zip(types);
            if let Some(e) = seen.find_map(|(((name, got), want), dtype)| compare(name, got, want, dtype).err()) {
                faults.push(format!("{what}, B = {batch}, {}: {e}", v.name));
            }
            match &first[i] {
                Some((level, bits)) if *level == v.level => {
                    if bits != &left {
                        faults.push(format!("{what}, B = {batch}, {}: other bits than with 1 thread", v.name));
                    }
                }
                _ => first[i] = Some((v.level, left)),
            }
        }
    }
}

#[test]
fn every_row_agrees_with_the_oracle_at_all_levels_threads_and_batch_sizes() {
    let variants = variants();
    let mut faults = Vec::new();
    let mut checked = 0;
    for case in cases::all() {
        for float in [DType::F32, DType::F64] {
            check(&variants, &case, &case.trace(float), &mut faults, &format!("{} {float}", case.title()));
            checked += 1;
            if let Some(graph) = case.trace_gradients(float) {
                check(&variants, &case, &graph, &mut faults, &format!("{} {float} gradients", case.title()));
                checked += 1;
            }
        }
    }
    assert!(checked > 300, "only {checked} graphs were there to check");
    assert!(faults.is_empty(), "{} differences in {checked} graphs:\n{}", faults.len(), faults.join("\n"));
}
