//! A compiled program against the oracle (`WHOLESTEP_VERIFY=1`). Takes a program before its first step, gives the first value that the device
//! and the f64 interpreter disagree on. Never touches the program's own memory: it loads a second one.

use super::loaded::{Loaded, device_failed};
use super::values::{array_from_bytes, reorder_back};
use crate::device::Device;
use crate::{Error, ErrorKind, Result, init};
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::op::random::philox4x32;
use wholestep_compiler::ir::{DType, Graph, InputDecl, SlotId};
use wholestep_compiler::plan::Layout;

/// Small, because the oracle is slow, and more than one, so that the batch axis counts.
pub const BATCH: usize = 2;
/// Apart from rounding, over sums as long as a network has them: in f32, and where values or operands are rounded, which the oracle does not do.
fn tolerance(graph: &Graph) -> f64 {
    match graph.storage {
        None if graph.tf32 => 2e-2,
        None => 2e-3,
        Some(DType::F16) => 2e-2,
        Some(_) => 1e-1,
    }
}

/// Runs one step both ways on random inputs and compares all outputs.
pub fn verify(device: &Device, graph: &Graph, loaded: &Loaded, seed: u64) -> Result<()> {
    let plan = &loaded.compiled.plan;
    let layout = Layout::new(plan, &loaded.caps, BATCH);
    let mut executable = device.backend().load(plan, &layout).map_err(device_failed)?;
    let mut slots = Vec::new();
    for (i, slot) in plan.slots.iter().enumerate() {
        let bytes = init::bytes(slot, seed);
        executable.write_slot(SlotId(i as u32), &bytes).map_err(device_failed)?;
        let shape = slot.shape.at(0);
        let declared = reorder_back(&bytes, &shape, &slot.order, slot.dtype.size_bytes());
        slots.push(numbers(slot.dtype, shape, &declared)?);
    }
    let (mut inputs, mut bytes) = (Vec::new(), Vec::new());
    for (i, decl) in plan.inputs.iter().enumerate() {
        let values = random_input(decl, i as u32);
        bytes.push(encode(decl.dtype, &values));
        inputs.push(values);
    }
    let tolerance = tolerance(graph);
    let expected = eval(graph, BATCH, &inputs, &slots);
    let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    executable.run(BATCH, 1, &slices).map_err(device_failed)?;
    for (i, output) in plan.outputs.iter().enumerate() {
        let mut got = vec![0; output.shape.numel_at(BATCH) * output.dtype.size_bytes()];
        executable.read_output(i, &mut got).map_err(device_failed)?;
        let got = numbers(output.dtype, output.shape.at(BATCH), &got)?;
        let scale = expected.outputs[i].iter().fold(1.0f64, |m, v| if v.is_finite() { m.max(v.abs()) } else { m });
        let differs =
            |(a, b): (&f64, &f64)| !(a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * scale);
        if let Some(at) = got.iter().zip(&expected.outputs[i]).position(differs) {
            let (device, oracle) = (got[at], expected.outputs[i][at]);
            let message =
                format!("output {}: element {at} is {device} on the device and {oracle} by the oracle", output.name);
            return Err(Error::new(ErrorKind::Device, message));
        }
    }
    Ok(())
}

fn random_input(decl: &InputDecl, stream: u32) -> Vec<f64> {
    let word = |i: usize| philox4x32([i as u32, stream, 0, 0], [1, 2])[0];
    let value = |i: usize| match (&decl.range, decl.dtype.is_float()) {
        (Some(range), _) => f64::from(word(i) % range.n.max(1) as u32),
        (None, true) => f64::from(f64::from(word(i)) as f32 / 2f32.powi(31) - 1.0),
        (None, false) => f64::from(word(i) % 2),
    };
    (0..decl.shape.numel_at(BATCH)).map(value).collect()
}

fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    let one = |&v: &f64| match dtype {
        DType::F64 => v.to_le_bytes().to_vec(),
        DType::F32 => (v as f32).to_le_bytes().to_vec(),
        DType::I64 => (v as i64).to_le_bytes().to_vec(),
        DType::I32 => (v as i32).to_le_bytes().to_vec(),
        DType::U32 => (v as u32).to_le_bytes().to_vec(),
        DType::U8 | DType::Bool => vec![v as u8],
        DType::F16 => half::f16::from_f64(v).to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f64(v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

fn numbers(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<Vec<f64>> {
    let array = array_from_bytes(dtype, shape, bytes)?;
    let mut out = Vec::with_capacity(array.len());
    array.for_each_f64(|v| out.push(v));
    Ok(out)
}
