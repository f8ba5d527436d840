//! Loops on the device at sizes that go through every form of their text, with and without subgroups, against the f64 oracle. Bounds are
//! checked by the device here, and what is not written stays NaN.

#[path = "common/loop_cases.rs"]
mod loop_cases;
#[path = "common/shaders.rs"]
mod shaders;

use loop_cases::{Case, bytes_of, cases, fill, values_of};
use shaders::Device;
use std::collections::BTreeMap;
use wholestep_compiler::backend::{Backend, DeviceError};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen;
use wholestep_compiler::compile;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::{Graph, SlotId};
use wholestep_compiler::plan::{BufferId, Layout, Plan, Size, Space};
use wholestep_wgpu::WgpuBackend;

fn backend() -> Option<WgpuBackend> {
    match WgpuBackend::new(0) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    }
}

fn differences(what: &str, got: &[f64], want: &[f64], faults: &mut Vec<String>) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // Written so that a NaN is a fault.
        let close = (g - w).abs() <= 2e-5 * w.abs().max(1.0);
        if !close {
            return faults.push(format!("{what}[{i}] is {g}, expected {w}"));
        }
    }
}

fn compare(what: &str, plan: &Plan, graph: &Graph, outputs: &[Vec<u8>], slots: &[Vec<u8>], faults: &mut Vec<String>) {
    let before: Vec<Vec<f64>> = (0..graph.slots.len()).map(|i| fill(graph, i)).collect();
    let want = eval(graph, 1, &[], &before);
    for ((output, got), want) in plan.outputs.iter().zip(outputs).zip(&want.outputs) {
        differences(&format!("{what}: {}", output.name), &values_of(got, output.dtype), want, faults);
    }
    for ((slot, got), want) in plan.slots.iter().zip(slots).zip(&want.slots) {
        assert!(slot.order.is_sorted(), "{what}: {} is stored in another order", slot.name);
        differences(&format!("{what}: {}", slot.name), &values_of(got, slot.dtype), want, faults);
    }
}

/// Runs a plan on buffers of its own, one for each of the plan's. Launches have one segment.
fn run_alone(device: &Device, caps: &Caps, plan: &Plan, graph: &Graph) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut buffers = Vec::new();
    for b in &plan.buffers {
        let contents = match (b.space, &b.size) {
            (Space::Slot(slot), _) => bytes_of(&fill(graph, slot.0 as usize), b.dtype),
            (_, Size::Elements(shape)) => vec![0xff; shape.numel_at(1) * caps.stored_bytes(b.dtype)],
            (_, Size::Scratch { .. }) => vec![0xff; 16],
        };
        buffers.push(device.buffer(&contents));
    }
    for launch in plan.launches() {
        let [segment] = &launch.segments[..] else { panic!("a launch of one segment") };
        let shaders = codegen::shaders(&plan.kernels[launch.kernel as usize], 1, caps).expect("the kernel has a text");
        let args: Vec<_> = segment.args.iter().map(|id| buffers[id.0 as usize].clone()).collect();
        device.submit(&device.prepare(&shaders, &args, 1, true), 1);
    }
    let at: BTreeMap<SlotId, usize> = (plan.buffers.iter().enumerate())
        .filter_map(|(i, b)| match b.space {
            Space::Slot(slot) => Some((slot, i)),
            Space::Transient | Space::Input(_) => None,
        })
        .collect();
    let read = |id: BufferId, n: usize| device.read(&buffers[id.0 as usize], n);
    let outputs =
        plan.outputs.iter().map(|o| read(o.buffer, o.shape.numel_at(1) * caps.stored_bytes(o.dtype))).collect();
    let slots = (plan.slots.iter().enumerate())
        .map(|(i, s)| match at.get(&SlotId(i as u32)) {
            Some(&b) => read(BufferId(b as u32), s.shape.numel_at(1) * s.dtype.size_bytes()),
            None => bytes_of(&fill(graph, i), s.dtype),
        })
        .collect();
    (outputs, slots)
}

fn each(mut f: impl FnMut(&Case, &[usize], &Graph)) {
    for case in cases() {
        for sizes in case.small {
            f(&case, sizes, &case.graph(sizes, 1));
        }
    }
}

#[test]
fn loops_agree_with_the_oracle_with_and_without_subgroups() {
    let (Some(device), Some(backend)) = (Device::open(), backend()) else { return };
    let mut faults = Vec::new();
    let mut n_forms = 0;
    for subgroup in [None, device.workgroups.subgroup] {
        let mut caps = backend.caps();
        let workgroups = caps.workgroups.as_mut().expect("the device runs text");
        (workgroups.subgroup, workgroups.long) = (subgroup, workgroups.long && subgroup.is_some());
        each(|case, sizes, graph| {
            let plan = compile(graph, &caps, &mut |_| {}).expect("the step compiles").plan;
            if plan.launches().iter().any(|l| l.segments.len() > 1) {
                return;
            }
            let (outputs, slots) = run_alone(&device, &caps, &plan, graph);
            compare(&format!("{} {sizes:?} {subgroup:?}", case.name), &plan, graph, &outputs, &slots, &mut faults);
            n_forms += 1;
        });
    }
    assert!(n_forms > 50, "{n_forms} loops ran");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn loops_in_a_step_agree_with_the_oracle_and_repeat_their_bits() {
    let Some(backend) = backend() else { return };
    let caps = backend.caps();
    let mut faults = Vec::new();
    each(|case, sizes, graph| {
        let plan = compile(graph, &caps, &mut |_| {}).expect("the step compiles").plan;
        let mut exe = backend.load(&plan, &Layout::new(&plan, &caps, 1)).expect("the plan loads");
        let mut runs = [const { (Vec::new(), Vec::new()) }; 2];
        for (outputs, slots) in &mut runs {
            for (i, slot) in plan.slots.iter().enumerate() {
                exe.write_slot(SlotId(i as u32), &bytes_of(&fill(graph, i), slot.dtype)).expect("it takes its bytes");
            }
            exe.run(1, 1, &[]).expect("the plan runs");
            for (i, output) in plan.outputs.iter().enumerate() {
                let mut bytes = vec![0; output.shape.numel_at(1) * output.dtype.size_bytes()];
                exe.read_output(i, &mut bytes).expect("the output can be read");
                outputs.push(bytes);
            }
            for (i, slot) in plan.slots.iter().enumerate() {
                let mut bytes = vec![0; slot.shape.numel_at(1) * slot.dtype.size_bytes()];
                exe.read_slot(SlotId(i as u32), &mut bytes).expect("the slot can be read");
                slots.push(bytes);
            }
        }
        let what = format!("{} {sizes:?}", case.name);
        assert!(runs[0] == runs[1], "{what}: other bits the second time");
        compare(&what, &plan, graph, &runs[0].0, &runs[0].1, &mut faults);
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_row_reads_what_its_mask_shows() {
    let Some(backend) = backend() else { return };
    for (name, reads) in [("causal softmax", 1), ("gradient of a causal softmax", 2)] {
        let case = cases().into_iter().find(|c| c.name == name).expect("the case is there");
        let plan = compile(&case.graph(&[2, 132, 132, 1], 1), &backend.caps(), &mut |_| {}).expect("it compiles").plan;
        let [kernel] = &plan.kernels[..] else { panic!("{name} is one loop:\n{plan}") };
        // The mask is no argument, and all reads stand where a unit is not hidden.
        assert_eq!(kernel.args().len(), reads + 1, "{plan}");
        let text = codegen::shaders(kernel, 1, &backend.caps()).expect("the kernel has a text").remove(0).source;
        let (mut depth, mut shown) = (0, None);
        for line in text.lines() {
            assert!(!line.contains("= a") || shown.is_some_and(|from| depth > from), "{line} in\n{text}");
            shown = if line.starts_with("if (!hidden") { Some(depth) } else { shown.filter(|from| depth > *from) };
            depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        }
        assert!(text.matches("= a").count() >= reads, "{text}");
    }
}

#[test]
fn neighbours_of_a_row_meet_in_registers_where_the_device_has_subgroups() {
    let Some(backend) = backend() else { return };
    let softmax = cases().into_iter().find(|c| c.name == "softmax of long rows").expect("there is a softmax");
    let texts = |subgroup| {
        let mut caps = backend.caps();
        caps.workgroups.as_mut().expect("the device runs text").subgroup = subgroup;
        let plan = compile(&softmax.graph(&[70, 1024], 1), &caps, &mut |_| {}).expect("the step compiles").plan;
        codegen::shaders(&plan.kernels[0], 1, &caps).expect("the kernel has a text").remove(0).source
    };
    let (with, without) = (texts(Some((32, 32))), texts(None));
    assert!(with.contains("subgroupShuffleXor") && !without.contains("subgroup"));
    let barriers = |text: &str| text.matches("workgroupBarrier").count();
    assert!(barriers(&with) <= 2 && barriers(&without) > 2, "{with}");
    // A row is read once, in vectors, and stays in registers for both reductions.
    assert_eq!(with.matches("= a0[").count(), 1, "{with}");
}
