//! What loops cost on a device, for the benches of the GPU backends. Takes a backend and a case, prints bytes a second.
#![allow(dead_code)]

use super::loop_cases::{Case, bytes_of, cases, fill};
use std::collections::BTreeMap;
use std::time::Instant;
use wholestep_compiler::backend::{Backend, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{DType, Graph, Init, Scope, Shape, SlotId, SlotKind};
use wholestep_compiler::kernel::Access;
use wholestep_compiler::plan::{Launch, Layout, Plan, Size};

const STEPS: usize = 12;

/// Bytes a second at which a slot of `n` floats is copied from one program to another: each is read and written.
pub fn slot_copy_rate(backend: &dyn Backend, n: usize) -> f64 {
    const TIMES: usize = 20;
    let held = SlotId(0);
    let load = || {
        let s = Scope::root(Mode::Infer);
        let held = s.slot("held", SlotKind::Buffer, DType::F32, Shape::from([n]), Init::Const(0.0));
        let last = s.slot("last", SlotKind::Buffer, DType::F32, Shape::scalar(), Init::Const(0.0));
        s.output("y", &(held.slice(0, 0..1).sum(..) + last));
        let plan = compile(&s.graph().borrow(), &backend.caps(), &mut |_| {}).expect("it compiles").plan;
        backend.load(&plan, &Layout::new(&plan, &backend.caps(), 1)).expect("it loads")
    };
    let (from, mut to) = (load(), load());
    let address = from.slot_address(held).expect("slots can be copied from");
    let wait = |to: &mut Box<dyn Executable>| to.read_slot(SlotId(1), &mut [0; 4]).expect("a number is read");
    let mut run = |times: usize| {
        let began = Instant::now();
        (0..times).for_each(|_| assert!(to.copy_slot(held, address).expect("it is copied")));
        wait(&mut to);
        began.elapsed().as_secs_f64()
    };
    run(2);
    // What waiting costs is in both.
    2.0 * (4 * n * TIMES) as f64 / (run(TIMES + 1) - run(1))
}

/// Slots as bytes; large ones repeat a pattern.
pub fn contents(graph: &Graph, slot: usize) -> Vec<u8> {
    let decl = &graph.slots[slot];
    let n = decl.shape.numel_at(1);
    if decl.dtype != DType::F32 || n < 1 << 20 {
        return bytes_of(&fill(graph, slot), decl.dtype);
    }
    let pattern: Vec<u8> = (0..1u32 << 16)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5).to_ne_bytes())
        .collect();
    let mut all = pattern.repeat((4 * n).div_ceil(pattern.len()));
    all.truncate(4 * n);
    all
}

/// Bytes that a launch reads and writes.
fn bytes(plan: &Plan, caps: &Caps, launch: &Launch) -> usize {
    let kernel = &plan.kernels[launch.kernel as usize];
    let of = |(id, access): (&wholestep_compiler::plan::BufferId, Access)| {
        let buffer = &plan.buffers[id.0 as usize];
        let n = match &buffer.size {
            Size::Elements(shape) => shape.numel_at(1) * caps.stored_bytes(buffer.dtype),
            Size::Scratch { .. } => 0,
        };
        if access == Access::ReadWrite { 2 * n } else { n }
    };
    launch.segments.iter().flat_map(|s| s.args.iter().zip(kernel.args().iter().map(|a| a.access))).map(of).sum()
}

/// Copies of fewer bytes are timed beside a loop that only reads and writes as many: a launch takes time of its own.
const SHORT_BYTES: usize = 160 << 20;

/// Times a case and prints its rows, with the share of `best` bytes a second, and where it is short those of `x·2` on as many bytes.
pub fn measure(backend: &dyn Backend, case: &Case, (sizes, copies): (&[usize], usize), best: f64, is_cpu: bool) {
    let Some(moved) = time(backend, case, (sizes, copies), best, is_cpu) else { return };
    let each = moved / copies;
    if each < SHORT_BYTES && case.name != "scale" {
        let mut plain = cases().into_iter().find(|c| c.name == "scale").expect("there is a plain loop");
        plain.name = "  x·2 on as many bytes";
        time(backend, &plain, (&[each / 8], copies), best, is_cpu);
    }
}

/// Times a case and prints its rows; gives how many bytes a step moves.
fn time(
    backend: &dyn Backend,
    case: &Case,
    (sizes, copies): (&[usize], usize),
    best: f64,
    is_cpu: bool,
) -> Option<usize> {
    let caps = backend.caps();
    let graph = case.graph(sizes, copies);
    let plan = compile(&graph, &caps, &mut |_| {}).expect("the step compiles").plan;
    let mut exe = match backend.load(&plan, &Layout::new(&plan, &caps, 1)) {
        Ok(exe) => exe,
        Err(e) => {
            println!("{:<26} {e}", case.name);
            return None;
        }
    };
    for i in 0..graph.slots.len() {
        exe.write_slot(SlotId(i as u32), &contents(&graph, i)).expect("the slot takes its bytes");
    }
    // The clocks fall while the host fills the slots.
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < if is_cpu { 0.0 } else { 0.2 } {
        exe.run(1, 1, &[]).expect("the plan runs");
    }
    exe.set_profiling(true);
    (0..STEPS).for_each(|_| exe.run(1, 1, &[]).expect("the plan runs"));
    let (ns, steps) = exe.profile();
    if steps == 0 {
        println!("{:<26} the device has no clock", case.name);
        return None;
    }
    // Launches of one kernel are copies of each other.
    let mut by_kernel: BTreeMap<u32, (usize, usize, f64)> = BTreeMap::new();
    for (launch, ns) in plan.launches().into_iter().zip(&ns) {
        let (n, moved, took) = by_kernel.entry(launch.kernel).or_default();
        *n += 1;
        *moved += case.bytes.map_or_else(|| bytes(&plan, &caps, launch), |of| of(sizes));
        *took += *ns as f64 / steps as f64 / 1e9;
    }
    let row = |name: &str, n: usize, moved: usize, seconds: f64| {
        let rate = moved as f64 / seconds;
        let each = seconds * 1e6 / n as f64;
        println!("{name:<26} {n:>9} {each:>9.1} {:>9.0} {:>6.0}%", rate / 1e9, 100.0 * rate / best);
    };
    by_kernel.values().for_each(|(n, moved, took)| row(case.name, *n, *moved, *took));
    let (n, moved) = by_kernel.values().fold((0, 0), |(n, moved), k| (n + k.0, moved + k.1));
    row("  one after the other", n, moved, in_turn(&mut *exe, &plan));
    Some(moved)
}

/// Seconds of a step among many, without clocks: launches then cost what they cost in training.
pub fn in_turn(exe: &mut dyn Executable, plan: &Plan) -> f64 {
    exe.set_profiling(false);
    let smallest = (0..plan.slots.len()).min_by_key(|&i| plan.slots[i].shape.numel_at(1)).expect("there are slots");
    let slot = &plan.slots[smallest];
    let mut end = vec![0; slot.shape.numel_at(1) * slot.dtype.size_bytes()];
    let mut time = |steps: usize| {
        let start = Instant::now();
        (0..steps).for_each(|_| exe.run(1, 1, &[]).expect("the plan runs"));
        exe.read_slot(SlotId(smallest as u32), &mut end).expect("the slot can be read");
        start.elapsed().as_secs_f64()
    };
    let (few, many) = (5, 105);
    time(few);
    let short = time(few);
    (time(many) - short) / (many - few) as f64
}
