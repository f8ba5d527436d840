//! Runs one program three ways: by the f64 oracle, compiled by the naive interpreter of plans in poisoned memory, compiled by this backend
//! in poisoned memory with one and two threads. Takes the words that make the program, gives the first difference. Never judges speed.

use super::interpreter::Machine;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wholestep_compiler::backend::{Backend, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::cases::{initial_slots, program};
use wholestep_compiler::compile;
use wholestep_compiler::conformance::{bytes_of, values_of};
use wholestep_compiler::eval::{Evaluation, eval};
use wholestep_compiler::ir::{DType, Graph, Slot, SlotId};
use wholestep_compiler::plan::{Layout, Plan};
use wholestep_cpu::loops::level::Level;
use wholestep_cpu::simd::Isa;
use wholestep_cpu::{Config, CpuBackend};

/// In this order: a smaller batch after a larger one must not see the larger one's rows.
const BATCHES: [usize; 3] = [program::MAX_BATCH, 1, 3];

/// The backends to compare.
pub struct Differ {
    backends: Vec<(String, CpuBackend)>,
}

impl Differ {
    /// The best level of this machine with one and two threads, and plain code.
    pub fn new() -> Differ {
        let best = (Level::detect(), Isa::detect());
        let configs = [(best, 1), (best, 2), ((Level::Baseline, Isa::Scalar), 1)];
        let backend = |((level, isa), n_threads): ((Level, Isa), usize)| {
            let config = Config { n_threads, level, isa, poison: true, plain_contractions: false, plain_loops: false };
            (format!("{level:?} with {n_threads} threads"), CpuBackend::new(config))
        };
        Differ { backends: configs.into_iter().map(backend).collect() }
    }

    /// What is wrong with the program that `words` make, if anything: a difference or a panic.
    pub fn fault(&self, words: &[u32], float: DType) -> Option<String> {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut graph = program::program(words, float);
            let whole = self.check(&graph, if float == DType::F64 { 1e-9 } else { 2e-4 });
            if float != DType::F32 || whole.is_err() {
                return whole;
            }
            // The same in mixed precision: exactly so by the interpreter, which does not round.
            graph.storage = Some(DType::F16);
            self.check(&graph, f64::INFINITY).map_err(|fault| format!("in f16, {fault}"))
        }));
        match outcome {
            Ok(result) => result.err(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                Some(text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
            }
        }
    }

    fn check(&self, graph: &Graph, tolerance: f64) -> Result<(), String> {
        let slots = initial_slots(graph);
        let wanted: Vec<(Vec<Vec<f64>>, Evaluation)> = BATCHES
            .iter()
            .map(|&batch| {
                let inputs = program::inputs(graph, batch);
                let want = eval(graph, batch, &inputs, &slots);
                (inputs, want)
            })
            .collect();
        let caps = interpreter_caps();
        let compiled = compile(graph, &caps, &mut |_| {}).map_err(|e| e.to_string())?;
        let layout = Layout::new(&compiled.plan, &caps, program::MAX_BATCH);
        let placed: Vec<Vec<f64>> = compiled.plan.slots.iter().zip(&slots).map(|(slot, v)| stored(slot, v)).collect();
        for (&batch, (inputs, want)) in BATCHES.iter().zip(&wanted) {
            let mut machine = Machine::new(&compiled.plan, &layout, batch, &placed, inputs);
            let outputs = machine.run();
            let got: Vec<Vec<f64>> = outputs.into_iter().chain(machine.slots).collect();
            compare(&format!("interpreter, B = {batch}"), &compiled.plan, &got, want, 1e-9)?;
        }
        let mut first: Vec<Vec<Vec<u8>>> = Vec::new();
        for (i, (name, backend)) in self.backends.iter().enumerate() {
            let caps = backend.caps();
            let plan = compile(graph, &caps, &mut |_| {}).map_err(|e| e.to_string())?.plan;
            let layout = Layout::new(&plan, &caps, program::MAX_BATCH);
            let mut exe = backend.load(&plan, &layout).map_err(|e| e.to_string())?;
            for (at, (&batch, (inputs, want))) in BATCHES.iter().zip(&wanted).enumerate() {
                let left = run(&mut *exe, &plan, batch, inputs, &slots);
                let dtypes = plan.outputs.iter().map(|o| o.dtype).chain(plan.slots.iter().map(|s| s.dtype));
                let got: Vec<Vec<f64>> = left.iter().zip(dtypes).map(|(b, d)| values_of(b, d)).collect();
                compare(&format!("{name}, B = {batch}"), &plan, &got, want, tolerance)?;
                match i {
                    0 => first.push(left),
                    1 if first[at] != left => return Err(format!("{name}, B = {batch}: other bits than with 1")),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn interpreter_caps() -> Caps {
    Caps {
        name: "interpreter".into(),
        dtypes: vec![DType::F64, DType::F32, DType::I64, DType::I32, DType::U32, DType::U8, DType::Bool],
        memory_bytes: None,
        align_bytes: 16,
        // Some rows of the programs are longer, some are not.
        max_row_elems: 16,
        contract_scratch_bytes: |_, _| 24,
        max_args: usize::MAX,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: usize::MAX,
        loops: true,
        workgroups: None,
    }
}

fn run(exe: &mut dyn Executable, plan: &Plan, batch: usize, inputs: &[Vec<f64>], slots: &[Vec<f64>]) -> Vec<Vec<u8>> {
    for (i, (slot, values)) in plan.slots.iter().zip(slots).enumerate() {
        let bytes = bytes_of(&stored(slot, values), slot.dtype);
        exe.write_slot(SlotId(i as u32), &bytes).expect("the slot takes its bytes");
    }
    let inputs: Vec<Vec<u8>> = plan.inputs.iter().zip(inputs).map(|(d, v)| bytes_of(v, d.dtype)).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    exe.run(batch, 1, &inputs).expect("the plan runs");
    let mut left = Vec::new();
    for (i, output) in plan.outputs.iter().enumerate() {
        let mut bytes = vec![0; output.shape.numel_at(batch) * output.dtype.size_bytes()];
        exe.read_output(i, &mut bytes).expect("the output can be read");
        left.push(bytes);
    }
    for (i, slot) in plan.slots.iter().enumerate() {
        let mut bytes = vec![0; slot.shape.numel_at(1) * slot.dtype.size_bytes()];
        exe.read_slot(SlotId(i as u32), &mut bytes).expect("the slot can be read");
        left.push(bytes);
    }
    left
}

/// Outputs, then slots, against the oracle. Errors are measured by the largest element: sums cancel.
fn compare(what: &str, plan: &Plan, got: &[Vec<f64>], want: &Evaluation, tolerance: f64) -> Result<(), String> {
    let names = plan.outputs.iter().map(|o| &o.name).chain(plan.slots.iter().map(|s| &s.name));
    let slots = plan.slots.iter().zip(&want.slots).map(|(slot, v)| stored(slot, v));
    let wanted = want.outputs.iter().cloned().chain(slots);
    for ((name, got), want) in names.zip(got).zip(wanted) {
        if got.len() != want.len() {
            return Err(format!("{what}: {name} has {} elements, the oracle {}", got.len(), want.len()));
        }
        let scale = want.iter().fold(1.0_f64, |m, v| if v.is_finite() { m.max(v.abs()) } else { m });
        let same = |g: f64, w: f64| g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance * scale;
        if let Some(i) = got.iter().zip(&want).position(|(&g, &w)| !same(g, w)) {
            return Err(format!("{what}: {name}[{i}] is {}, the oracle says {}", got[i], want[i]));
        }
    }
    Ok(())
}

/// Declared order to storage order.
fn stored(slot: &Slot, values: &[f64]) -> Vec<f64> {
    let shape = slot.shape.at(0);
    let extents: Vec<usize> = slot.order.iter().map(|&axis| shape[axis]).collect();
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let element = |mut n: usize| {
        let mut at = 0;
        for (i, &axis) in slot.order.iter().enumerate().rev() {
            at += n % extents[i] * stride(axis);
            n /= extents[i];
        }
        values[at]
    };
    (0..values.len()).map(element).collect()
}
