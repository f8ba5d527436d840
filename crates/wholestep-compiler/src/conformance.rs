//! The table of ops run on a device. Takes backends, gives every difference from the f64 oracle, and between backends that must agree to the
//! bit. Never part of a build that ships: feature `cases`.

use crate::backend::{Backend, DeviceError, Executable};
use crate::caps::Caps;
use crate::cases::{self, Case, Floats};
use crate::compile;
use crate::eval::eval;
use crate::ir::op::{Leaf, Op, Window};
use crate::ir::{DType, Graph, InputDecl, Node, Slot, SlotId};
use crate::plan::{Layout, Plan};
use half::{bf16, f16};

/// Memory is laid out for this batch size.
const MAX_BATCH: usize = 5;
/// In this order: a smaller batch after a larger one must not see the larger one's rows.
const BATCHES: [usize; 4] = [1, 3, 5, 1];

/// A backend under test.
pub struct Variant<'a> {
    /// For reports.
    pub name: String,
    /// Variants of one family that stand side by side give the same bits.
    pub family: String,
    pub backend: &'a dyn Backend,
}

/// What a run over the table found.
#[derive(Debug, Default)]
pub struct Report {
    /// Graphs that ran.
    pub checked: usize,
    /// Graphs that no variant has the dtypes, or the loops, for.
    pub skipped: usize,
    /// One per graph, variant and batch size at most.
    pub faults: Vec<String>,
}

/// Every row of the table, forward and with gradients, with floats of each of `floats`. Floats of 16 bits are what operands and results are kept
/// in, as in mixed precision; what only moves or chooses values also does so with these.
pub fn run_table(variants: &[Variant], floats: &[DType], wanted: &dyn Fn(&Case) -> bool) -> Report {
    let mut report = Report::default();
    for case in cases::all().iter().filter(|case| wanted(case)) {
        for &float in floats {
            let is_half = matches!(float, DType::F16 | DType::BF16);
            let form = if is_half { Floats::kept_in(float) } else { float.into() };
            let forward = (case.trace(form), format!("{} {float}", case.title()));
            let backward = case.trace_gradients(form).map(|g| (g, format!("{} {float} gradients", case.title())));
            let moved = (is_half && hands_on(&case.trace(DType::F32)))
                .then(|| (case.trace(float), format!("{} {float} as it is", case.title())));
            for (graph, what) in std::iter::once(forward).chain(backward).chain(moved) {
                check(variants, case, &graph, &mut report, &what);
            }
        }
    }
    report
}

/// Whether the ops of a graph move and choose values and compute none, but for the gradient of windows that overlap.
fn hands_on(graph: &Graph) -> bool {
    use Window::{ArgMax, Put, Take};
    let each = |op: &Op| {
        matches!(op, Op::Leaf(Leaf::Input { .. }) | Op::Movement(_) | Op::Window(ArgMax(_) | Take(_) | Put { .. }))
    };
    graph.nodes.iter().all(|n| each(&n.op))
}

/// What `dtype` holds of a value.
fn held(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => value,
    }
}

/// Whether a device has all dtypes of a graph, and loops if it has some.
fn fits(graph: &Graph, caps: &Caps) -> bool {
    let runs = |n: &Node| caps.loops || !matches!(n.op, Op::Control(_));
    graph.nodes.iter().all(|n| caps.dtypes.contains(&n.dtype) && runs(n))
}

/// Allowed error: this much of the larger of 1 and the value.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        // One step, where both round to one of two neighbours.
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => 0.0,
    }
}

/// A row's data as the bytes of `dtype`.
pub fn bytes_of(values: &[f64], dtype: DType) -> Vec<u8> {
    let each = |f: &dyn Fn(f64) -> Vec<u8>| values.iter().flat_map(|&v| f(v)).collect();
    match dtype {
        DType::F64 => each(&|v| v.to_ne_bytes().to_vec()),
        DType::F32 => each(&|v| (v as f32).to_ne_bytes().to_vec()),
        DType::I64 => each(&|v| (v as i64).to_ne_bytes().to_vec()),
        DType::I32 => each(&|v| (v as i32).to_ne_bytes().to_vec()),
        DType::U32 => each(&|v| (v as u32).to_ne_bytes().to_vec()),
        DType::U8 | DType::Bool => each(&|v| vec![v as u8]),
        DType::F16 => each(&|v| f16::from_f64(v).to_ne_bytes().to_vec()),
        DType::BF16 => each(&|v| bf16::from_f64(v).to_ne_bytes().to_vec()),
    }
}

/// The reverse of [`bytes_of`].
pub fn values_of(bytes: &[u8], dtype: DType) -> Vec<f64> {
    match dtype {
        DType::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_ne_bytes(*b)).collect(),
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_ne_bytes(*b))).collect(),
        DType::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_ne_bytes(*b) as f64).collect(),
        DType::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_ne_bytes(*b))).collect(),
        DType::U32 => bytes.as_chunks().0.iter().map(|b| f64::from(u32::from_ne_bytes(*b))).collect(),
        DType::U8 | DType::Bool => bytes.iter().map(|&b| f64::from(b)).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_ne_bytes(*b).to_f64()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_ne_bytes(*b).to_f64()).collect(),
    }
}

/// What a run left: outputs, then slots.
type Left = Vec<Vec<u8>>;

fn run(
    exe: &mut dyn Executable,
    plan: &Plan,
    batch: usize,
    inputs: &[Vec<u8>],
    slots: &[Vec<u8>],
) -> Result<Left, DeviceError> {
    for (i, bytes) in slots.iter().enumerate() {
        exe.write_slot(SlotId(i as u32), bytes)?;
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    exe.run(batch, 1, &inputs)?;
    let mut left = Vec::new();
    for (i, output) in plan.outputs.iter().enumerate() {
        let mut bytes = vec![0; output.shape.numel_at(batch) * output.dtype.size_bytes()];
        exe.read_output(i, &mut bytes)?;
        left.push(bytes);
    }
    for (i, slot) in slots.iter().enumerate() {
        let mut bytes = vec![0; slot.len()];
        exe.read_slot(SlotId(i as u32), &mut bytes)?;
        left.push(bytes);
    }
    Ok(left)
}

/// The first difference between what was computed and what the oracle says.
fn compare(what: &str, got: &[u8], want: &[f64], dtype: DType) -> Result<(), String> {
    let got = values_of(got, dtype);
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, the oracle has {}", got.len(), want.len()));
    }
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let w = &held(*w, dtype);
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
    assert!(slot.order.is_sorted() || is_uniform, "bug: the table does not reorder slots, {} needs it", slot.name);
    bytes_of(values, slot.dtype)
}

/// Runs one graph on all variants that have its dtypes.
fn check(variants: &[Variant], case: &Case, graph: &Graph, report: &mut Report, what: &str) {
    let values = cases::initial_slots(graph);
    let able: Vec<&Variant> = variants.iter().filter(|v| fits(graph, &v.backend.caps())).collect();
    if able.is_empty() {
        report.skipped += 1;
        return;
    }
    report.checked += 1;
    let wanted = BATCHES.map(|batch| {
        let drawn = case.inputs(batch, 1);
        let held = |(d, v): (&InputDecl, &Vec<f64>)| v.iter().map(|&x| held(x, d.dtype)).collect();
        let inputs: Vec<Vec<f64>> = graph.inputs.iter().zip(&drawn).map(held).collect();
        (eval(graph, batch, &inputs, &values), inputs)
    });
    let mut first: [Option<(&str, Left)>; BATCHES.len()] = [const { None }; BATCHES.len()];
    for v in able {
        let caps = v.backend.caps();
        let plan = compile(graph, &caps, &mut |_| {}).unwrap_or_else(|e| panic!("{what} does not compile: {e}")).plan;
        let layout = Layout::new(&plan, &caps, MAX_BATCH);
        let mut exe = match v.backend.load(&plan, &layout) {
            Ok(exe) => exe,
            Err(e) => {
                report.faults.push(format!("{what}, {}: does not load: {e}", v.name));
                continue;
            }
        };
        let slots: Vec<Vec<u8>> = plan.slots.iter().zip(&values).map(|(s, v)| slot_bytes(s, v)).collect();
        for (i, (batch, (want, inputs))) in BATCHES.into_iter().zip(&wanted).enumerate() {
            let inputs: Vec<Vec<u8>> = graph.inputs.iter().zip(inputs).map(|(d, v)| bytes_of(v, d.dtype)).collect();
            let left = match run(&mut *exe, &plan, batch, &inputs, &slots) {
                Ok(left) => left,
                Err(e) => {
                    report.faults.push(format!("{what}, B = {batch}, {}: does not run: {e}", v.name));
                    continue;
                }
            };
            let types = plan.outputs.iter().map(|o| o.dtype).chain(plan.slots.iter().map(|s| s.dtype));
            let names = plan.outputs.iter().map(|o| &o.name).chain(plan.slots.iter().map(|s| &s.name));
            let values = want.outputs.iter().chain(&want.slots);
            let mut seen = names.zip(&left).zip(values).zip(types);
            if let Some(e) = seen.find_map(|(((name, got), want), dtype)| compare(name, got, want, dtype).err()) {
                report.faults.push(format!("{what}, B = {batch}, {}: {e}", v.name));
            }
            match &first[i] {
                Some((family, bits)) if *family == v.family => {
                    if bits != &left {
                        report.faults.push(format!("{what}, B = {batch}, {}: other bits than its family's", v.name));
                    }
                }
                _ => first[i] = Some((&v.family, left)),
            }
        }
    }
}
