//! What a plan asks of the driver, by a recorder in its place.

use crate::backend::caps;
use crate::cache::Cache;
use crate::check::Check;
use crate::choose::{Products, Settings};
use crate::driver::{Function, LoopCall, Node, Param, ProductCall, Stream, Work, leaves};
use crate::executable::CudaExecutable;
use crate::gpu::Facts;
use crate::nvrtc::Nvrtc;
use crate::product::Epilogue;
use crate::recorder::{Call, Log, Recorder};
use crate::task::Task;
use crate::units::unit;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wholestep_compiler::backend::{DeviceError, Executable, HostMemory, Origin};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Init, InputId, Scope, SlotId};
use wholestep_compiler::ops::ConvOptions;
use wholestep_compiler::ops::control::{run_if, while_loop};
use wholestep_compiler::plan::{Buffer, BufferId, Layout, Plan, Space};

pub fn h100() -> Caps {
    caps(&Facts {
        name: "NVIDIA H100".to_string(),
        arch: 90,
        memory_bytes: 80 << 30,
        shared_bytes: 232_448,
        overlaps: true,
        clocks: true,
        loops: true,
    })
}

/// `y = relu(x·w)` of rows of 6, and a slot that counts.
fn plan(caps: &Caps) -> Plan {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 6), DType::F32);
    let w = s.sub("fc").param("w", [6, 3], Init::Const(0.0));
    // What only reductions read is in no epilogue.
    s.output("y", &x.matmul(&w).relu().exp().sum(1).exp().sum(0));
    wholestep_compiler::compile(&s.graph().borrow(), caps, &mut |_| {}).unwrap().plan
}

struct Loaded {
    exe: CudaExecutable,
    log: Arc<Mutex<Log>>,
    plan: Plan,
}

/// A kernel for each launch.
fn load(max_batch: usize) -> Loaded {
    load_as(max_batch, true)
}

fn load_as(max_batch: usize, apart: bool) -> Loaded {
    load_with(max_batch, &Settings { apart, ..Settings::default() }, None)
}

fn load_with(max_batch: usize, settings: &Settings, library: Option<Vec<u64>>) -> Loaded {
    load_plan(plan(&h100()), max_batch, settings, library)
}

fn load_plan(plan: Plan, max_batch: usize, settings: &Settings, library: Option<Vec<u64>>) -> Loaded {
    let recorder = Recorder::default();
    recorder.log.lock().unwrap().library = library;
    let log = recorder.log.clone();
    let caps = h100();
    let layout = Layout::new(&plan, &caps, max_batch);
    let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, settings, &BTreeMap::new()).unwrap();
    Loaded { exe, log, plan }
}

impl Loaded {
    /// The calls since the last time.
    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.log.lock().unwrap().calls)
    }

    fn run(&mut self, batch: usize, steps: usize) -> Result<(), DeviceError> {
        let x: Vec<u8> = (0..steps * batch * 6).flat_map(|i| (i as f32).to_ne_bytes()).collect();
        self.exe.run(batch, steps, &[&x])
    }

    fn fail_next(&self, call: &'static str, error: DeviceError) {
        self.log.lock().unwrap().fails = Some((call, error));
    }
}

fn names(calls: &[Call]) -> Vec<&'static str> {
    let name = |c: &Call| match c {
        Call::Load { .. } => "load",
        Call::Alloc { .. } => "alloc",
        Call::Free { .. } => "free",
        Call::Pin { .. } => "pin",
        Call::Unpin => "unpin",
        Call::Graph { .. } => "graph",
        Call::DropGraph { .. } => "drop graph",
        Call::Launch { .. } => "launch",
        Call::Run { .. } => "run",
        Call::Clock { .. } => "clock",
        Call::Send { .. } => "send",
        Call::SendLent { .. } => "send lent",
        Call::Write { .. } => "write",
        Call::Clear { .. } => "clear",
        Call::Read { .. } => "read",
        Call::Record(_, Stream::Compute) => "record compute",
        Call::Record(_, Stream::Copy) => "record copy",
        Call::After(Stream::Compute, _) => "compute after",
        Call::After(Stream::Copy, _) => "copy after",
        Call::Wait(_) => "wait",
    };
    calls.iter().map(name).collect()
}

#[test]
fn loading_takes_memory_twice_and_compiles_each_text_once() {
    let loaded = load(4);
    let calls = loaded.calls();
    assert_eq!(names(&calls), ["alloc", "clear", "pin", "pin", "alloc", "load"]);
    let counters = loaded.exe.counters();
    let taken: u64 = calls.iter().map(|c| if let Call::Alloc { bytes, .. } = c { *bytes } else { 0 }).sum();
    let log = loaded.log.lock().unwrap();
    let kernels = log.texts.len() as u64;
    assert_eq!((counters.allocations, counters.allocated_bytes, counters.compiles), (2, taken, kernels));
    assert!(kernels > 0 && kernels <= loaded.plan.launches().len() as u64 && !log.texts[0].source.is_empty());
}

#[test]
fn a_step_is_one_launch_of_a_graph_that_is_made_once() {
    let mut loaded = load(4);
    loaded.calls();
    loaded.run(4, 1).unwrap();
    let first = loaded.calls();
    let step = ["wait", "copy after", "send", "record copy", "compute after"];
    let made = first.iter().find_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes.clone()) } else { None });
    assert!(names(&first).contains(&"graph") && names(&first).ends_with(&["launch", "record compute"]), "{first:?}");
    // Each turn of two has a graph of its own, in which only the inputs lie elsewhere.
    loaded.run(4, 1).unwrap();
    let second = loaded.calls();
    let other = second.iter().find_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes.clone()) } else { None });
    let (made, other) = (made.unwrap(), other.unwrap());
    assert_eq!(made.len(), loaded.plan.launches().len());
    let differences: usize = made.iter().zip(&other).map(|(a, b)| usize::from(args(a) != args(b))).sum();
    assert_eq!(differences, 1, "one kernel reads the input");
    assert!(made[0].name.contains("fc"), "{}", made[0].name);
    for turn in [0, 1, 0] {
        loaded.run(4, 1).unwrap();
        let calls = loaded.calls();
        assert_eq!(names(&calls), [&step[..], &["launch", "record compute"]].concat());
        assert!(calls.contains(&Call::Launch { graph: turn }), "{calls:?}");
    }
    let counters = loaded.exe.counters();
    assert_eq!((counters.submissions, counters.steps, counters.bytes_read_back, counters.allocations), (5, 5, 0, 2));
}

#[test]
fn a_batch_is_copied_to_where_its_step_reads_it_after_the_step_before_in_that_place() {
    let mut loaded = load(4);
    loaded.calls();
    let mut places = Vec::new();
    for _ in 0..4 {
        loaded.run(3, 1).unwrap();
        let calls = loaded.calls();
        let position = |call: &Call| calls.iter().position(|c| c == call);
        let turn = places.len() % 2;
        let (sent, read) = (2 * turn, 2 * turn + 1);
        let send = calls.iter().position(|c| matches!(c, Call::Send { .. })).unwrap();
        let launch = calls.iter().position(|c| matches!(c, Call::Launch { .. })).unwrap();
        // The host waits until its memory has left, the copy until the step that read the last one is done, the step for the copy.
        assert!(position(&Call::Wait(sent)).unwrap() < send);
        assert!(position(&Call::After(Stream::Copy, read)).unwrap() < send);
        assert!(send < position(&Call::Record(sent, Stream::Copy)).unwrap());
        assert!(position(&Call::After(Stream::Compute, sent)).unwrap() < launch);
        assert!(launch < position(&Call::Record(read, Stream::Compute)).unwrap());
        let Call::Send { to, bytes } = &calls[send] else { panic!("{calls:?}") };
        assert_eq!(bytes[..8], [0.0f32.to_ne_bytes(), 1.0f32.to_ne_bytes()].concat());
        let reads =
            calls.iter().find_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes.clone()) } else { None });
        if let Some(nodes) = reads {
            assert!(nodes.iter().any(|n| args(n).contains(&Param::Address(*to))), "a kernel reads where it was sent");
        }
        places.push(*to);
    }
    assert!(places[0] == places[2] && places[1] == places[3] && places[0] != places[1]);
}

/// Memory of the host as a device gives it.
struct Pinned(u64, Vec<u8>);

impl HostMemory for Pinned {
    fn device(&self) -> u64 {
        self.0
    }

    fn bytes(&self) -> &[u8] {
        &self.1
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.1
    }
}

/// A sum over a wide input and a narrow one.
fn wide_and_narrow() -> Plan {
    let s = Scope::root(Mode::Infer);
    let (x, n) = (s.input("x", (Batch, 8192), DType::F32), s.input("n", (Batch,), DType::F32));
    s.output("y", &(x.sum(1) + n).sum(0));
    wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan
}

/// Lent memory is copied from where it lies, is held until it has left, and no longer; what is small, is of another device or was not lent passes
/// through the turn's own.
#[test]
fn a_lent_batch_is_copied_from_where_it_lies_and_held_until_it_has_left() {
    const ROWS: usize = 4;
    let (wide, narrow) = (ROWS * 8192 * 4, ROWS * 4);
    let mut loaded = load_plan(wide_and_narrow(), ROWS, &Settings { apart: true, ..Settings::default() }, None);
    let n = vec![7u8; narrow];
    let lent = |device: u64, byte: u8| -> Arc<dyn HostMemory> { Arc::new(Pinned(device, vec![byte; wide])) };
    let mut run = |x: &Arc<dyn HostMemory>, small: &Arc<dyn HostMemory>| {
        loaded.exe.lend(InputId(0), x);
        loaded.exe.lend(InputId(1), small);
        loaded.exe.run(ROWS, 1, &[x.bytes(), &small.bytes()[..narrow]]).unwrap();
        loaded.calls()
    };
    let small = lent(0, 7);
    let batches: Vec<Arc<dyn HostMemory>> = (1..=3).map(|byte| lent(0, byte)).collect();
    for (i, x) in batches.iter().enumerate() {
        let calls = run(x, &small);
        let sends: Vec<&Call> =
            calls.iter().filter(|c| matches!(c, Call::Send { .. } | Call::SendLent { .. })).collect();
        let [Call::SendLent { from, to }, Call::Send { to: beside, bytes }] = sends[..] else { panic!("{sends:?}") };
        assert_eq!((*from, *beside, bytes), (x.bytes().as_ptr().addr(), to + wide as u64, &n));
        let place = |call: &str| names(&calls).iter().position(|name| *name == call).unwrap();
        assert!(place("wait") < place("send lent") && place("copy after") < place("send lent"));
        assert!(place("send lent") < place("record copy") && place("record copy") < place("compute after"));
        // Two turns are on their way, and that before has left.
        let held: Vec<bool> = batches.iter().map(|x| Arc::strong_count(x) > 1).collect();
        assert_eq!(held, [i < 2, i >= 1, i >= 2][..]);
    }
    let elsewhere = lent(1, 9);
    let calls = run(&elsewhere, &small);
    assert_eq!(names(&calls).iter().filter(|name| name.starts_with("send")).collect::<Vec<_>>(), [&"send"]);
    assert_eq!((Arc::strong_count(&elsewhere), Arc::strong_count(&batches[1])), (1, 1));
    // What a refused run was lent is no part of the next.
    loaded.exe.lend(InputId(0), &batches[0]);
    assert!(loaded.exe.run(ROWS, 1, &[&n, &n]).is_err());
    assert_eq!(Arc::strong_count(&batches[0]), 1);
    loaded.exe.run(ROWS, 1, &[batches[0].bytes(), &n]).unwrap();
    assert!(names(&loaded.calls()).contains(&"send"));
}

#[test]
fn several_steps_are_one_launch_with_inputs_of_their_own() {
    let mut loaded = load(4);
    loaded.calls();
    loaded.run(2, 3).unwrap();
    let calls = loaded.calls();
    let n_launches = loaded.plan.launches().len();
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    assert_eq!(nodes.len(), 3 * n_launches);
    let Some(Call::Send { to, .. }) = calls.iter().find(|c| matches!(c, Call::Send { .. })) else { panic!() };
    for step in 0..3 {
        // A block holds the largest batch, rounded to what memory is aligned to.
        let block = Param::Address(to + step * 256);
        let of: Vec<usize> = (0..nodes.len()).filter(|&i| args(&nodes[i]).contains(&block)).collect();
        assert_eq!(of.len(), 1);
        assert_eq!(of[0] / n_launches, step as usize);
        let floats = loaded.log.lock().unwrap().at(to + step * 256, 4).to_vec();
        assert_eq!(f32::from_ne_bytes(floats.try_into().unwrap()), 12.0 * step as f32);
    }
    let counters = loaded.exe.counters();
    assert_eq!((counters.submissions, counters.steps), (1, 3));
}

#[test]
fn a_batch_size_changes_grids_and_words_and_no_memory() {
    let mut loaded = load(4);
    let before = loaded.exe.counters();
    loaded.calls();
    let mut graphs = Vec::new();
    for batch in [4, 1, 4, 1] {
        loaded.run(batch, 1).unwrap();
        let calls = loaded.calls();
        assert!(!names(&calls).contains(&"alloc") && !names(&calls).contains(&"load"), "{calls:?}");
        graphs.extend(calls.into_iter().filter(|c| matches!(c, Call::Graph { .. })));
    }
    // Two batch sizes on one turn each, since they alternate as the turns do.
    assert_eq!(graphs.len(), 2);
    let counters = loaded.exe.counters();
    assert_eq!((counters.allocated_bytes, counters.compiles), (before.allocated_bytes, before.compiles));
}

#[test]
fn growing_keeps_slots_in_place_and_takes_the_arena_anew() {
    let mut loaded = load(2);
    let w: Vec<u8> = (0..18).flat_map(|i| (i as f32).to_ne_bytes()).collect();
    loaded.exe.write_slot(SlotId(0), &w).unwrap();
    loaded.run(2, 1).unwrap();
    loaded.calls();
    let layout = Layout::new(&loaded.plan, &h100(), 64);
    loaded.exe.grow(&layout).unwrap();
    let calls = loaded.calls();
    let kinds = names(&calls);
    let mut sorted = kinds.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["alloc", "drop graph", "free", "pin", "pin", "unpin", "unpin", "wait", "wait"]);
    let position = |name: &str| kinds.iter().position(|k| *k == name).unwrap();
    assert!(position("free") < position("alloc"), "the old arena makes room for the new one");
    loaded.run(64, 1).unwrap();
    let mut read = vec![0; w.len()];
    loaded.exe.read_slot(SlotId(0), &mut read).unwrap();
    assert_eq!(read, w);
    assert_eq!(loaded.exe.counters().allocations, 3);
}

#[test]
fn what_does_not_fit_says_what_would_have_lain_there() {
    let recorder = Recorder::default();
    let log = recorder.log.clone();
    let (caps, plan) = (h100(), plan(&h100()));
    let layout = Layout::new(&plan, &caps, 1000);
    let (apart, none) = (Settings { apart: true, ..Settings::default() }, BTreeMap::new());
    log.lock().unwrap().fails =
        Some(("alloc", DeviceError::OutOfMemory { wanted_bytes: 0, what: "taking memory".to_string() }));
    let error =
        CudaExecutable::new(Box::new(recorder.clone()), caps.clone(), &plan, &layout, &apart, &none).err().unwrap();
    assert!(error.to_string().contains("bytes for parameters and state in"), "{error}");
    // The arena is the second piece.
    let mut exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &apart, &none).unwrap();
    log.lock().unwrap().fails =
        Some(("alloc", DeviceError::OutOfMemory { wanted_bytes: 0, what: "taking memory".to_string() }));
    let error = exe.grow(&layout).unwrap_err().to_string();
    assert!(error.contains("for a step on 1000 (beside 256 for parameters and state): values "), "{error}");
    assert!(error.contains("the largest 12000 of fc (") || error.contains("the largest 4000 of"), "{error}");
    assert!(error.ends_with("a smaller batch needs less"), "{error}");
}

#[test]
fn a_step_that_cannot_grow_goes_on_with_the_batches_that_it_had_room_for() {
    for apart in [true, false] {
        let mut loaded = load_as(4, apart);
        loaded.run(4, 1).unwrap();
        let before = loaded.exe.counters();
        let layout = Layout::new(&loaded.plan, &h100(), 1000);
        for call in ["alloc", "pin"] {
            loaded.fail_next(call, DeviceError::OutOfMemory { wanted_bytes: 0, what: "taking memory".to_string() });
            loaded.exe.grow(&layout).unwrap_err();
            loaded.calls();
            loaded.run(4, 1).unwrap();
            let counters = loaded.exe.counters();
            assert_eq!((counters.allocated_bytes, counters.compiles), (before.allocated_bytes, before.compiles));
            let calls = loaded.calls();
            let nodes = calls.iter().find_map(|c| match c {
                Call::Graph { nodes, .. } => Some(nodes.clone()),
                Call::Run { node } => Some(vec![(**node).clone()]),
                _ => None,
            });
            for arg in nodes.unwrap().iter().flat_map(args) {
                // What is not the host's is memory that is held, or there is no such byte.
                if let Param::Address(at @ ..0x100_0000_0000) = arg {
                    loaded.log.lock().unwrap().at(*at, 4);
                }
            }
        }
        // Another program took it meanwhile: parameters can still be saved.
        loaded.log.lock().unwrap().is_full = true;
        loaded.exe.grow(&layout).unwrap_err();
        assert!(matches!(loaded.run(4, 1), Err(DeviceError::OutOfMemory { .. })));
        loaded.exe.read_slot(SlotId(0), &mut [0; 72]).unwrap();
        loaded.log.lock().unwrap().is_full = false;
        loaded.exe.grow(&layout).unwrap();
        loaded.run(1000, 1).unwrap();
    }
}

#[test]
fn a_lost_device_stays_lost_and_other_errors_do_not() {
    let mut loaded = load(4);
    loaded.fail_next("graph", DeviceError::Unsupported("launching fc (matmul), contract kernel: too many".to_string()));
    let error = loaded.run(4, 1).unwrap_err().to_string();
    assert!(error.contains("launching fc (matmul), contract kernel"), "{error}");
    loaded.run(4, 1).unwrap();
    loaded.fail_next("wait", DeviceError::Lost("running the step: CUDA_ERROR_ILLEGAL_ADDRESS".to_string()));
    for _ in 0..2 {
        let error = loaded.run(4, 1).unwrap_err();
        assert!(matches!(error, DeviceError::Lost(_)), "{error:?}");
        assert!(error.to_string().contains("ILLEGAL_ADDRESS; open it anew"), "{error}");
    }
    let mut bytes = [0; 72];
    assert!(matches!(loaded.exe.read_slot(SlotId(0), &mut bytes), Err(DeviceError::Lost(_))));
    assert!(matches!(loaded.exe.write_slot(SlotId(0), &bytes), Err(DeviceError::Lost(_))));
}

#[test]
fn profiling_times_each_launch_and_makes_no_graph() {
    let mut loaded = load(4);
    loaded.exe.set_profiling(true);
    loaded.calls();
    loaded.run(4, 1).unwrap();
    loaded.run(4, 2).unwrap();
    let calls = loaded.calls();
    assert!(!names(&calls).contains(&"graph") && !names(&calls).contains(&"launch"), "{calls:?}");
    let n = loaded.plan.launches().len() as u64;
    let (times, steps) = loaded.exe.profile();
    // The recorder's clock says i for the i-th launch of a call.
    let expected: Vec<u64> = (1..=n).map(|i| i + i + (n + i)).collect();
    assert_eq!((times, steps), (expected, 3));
    loaded.exe.set_profiling(false);
    loaded.run(4, 1).unwrap();
    assert!(names(&loaded.calls()).contains(&"launch"));
}

#[test]
fn slots_and_outputs_of_a_wrong_size_are_refused() {
    let mut loaded = load(4);
    let error = loaded.exe.write_slot(SlotId(0), &[0; 4]).unwrap_err().to_string();
    assert!(error.contains("4 bytes for fc/w, which has 72"), "{error}");
    let error = loaded.exe.read_slot(SlotId(9), &mut [0; 4]).unwrap_err().to_string();
    assert!(error.contains("slot 9: the plan has 1"), "{error}");
    let error = loaded.exe.read_output(0, &mut [0; 4]).unwrap_err().to_string();
    assert!(error.contains("no step ran"), "{error}");
    loaded.run(2, 1).unwrap();
    loaded.exe.read_output(0, &mut [0; 4]).unwrap();
    assert_eq!(loaded.exe.counters().bytes_read_back, 4);
    let error = loaded.run(5, 1).unwrap_err().to_string();
    assert!(error.contains("a batch of 5: it was laid out for 4"), "{error}");
}

fn args(node: &Node) -> &[Param] {
    match &node.work {
        Work::Kernel(call) => &call.args,
        Work::Product(_) | Work::Loop(_) => &[],
    }
}

/// The words of a node's arguments and its addresses.
fn arguments(node: &Node) -> (Vec<u64>, Vec<Vec<u32>>) {
    let addresses = args(node).iter().filter_map(|a| if let Param::Address(at) = a { Some(*at) } else { None });
    let words = args(node).iter().filter_map(|a| if let Param::Words(words) = a { Some(words.clone()) } else { None });
    (addresses.collect(), words.collect())
}

#[test]
fn a_small_step_is_one_kernel_that_reads_batches_from_the_host_and_takes_many_steps() {
    let mut loaded = load_as(4, false);
    assert_eq!(loaded.exe.counters().dispatches, 1);
    loaded.calls();
    loaded.run(3, 5).unwrap();
    let calls = loaded.calls();
    assert!(!names(&calls).contains(&"send"), "{calls:?}");
    let [Call::Wait(_), Call::Run { node }] = &calls[..] else { panic!("{calls:?}") };
    let (addresses, words) = arguments(node);
    let Work::Kernel(call) = &node.work else { panic!("{node:?}") };
    assert_eq!((call.grid, call.threads, addresses.len()), ([1; 3], 32, 3), "no more threads than there are results");
    assert_eq!(
        (words.len(), &words[0][..]),
        (2, &[5][..]),
        "steps, and the numbers of a batch that is not the largest"
    );
    let host = addresses[2];
    assert!(host >= 1 << 40, "the inputs are the host's");
    // One turn after the other. Half of them are marked together, and before one of that half is written again the host waits for the mark.
    let mut hosts = vec![host];
    let mut kinds = Vec::new();
    let mut marks = Vec::new();
    for _ in 0..15 {
        loaded.run(3, 5).unwrap();
        let calls = loaded.calls();
        kinds.push(names(&calls));
        for call in calls {
            match call {
                Call::Run { node } => hosts.push(arguments(&node).0[2]),
                Call::Wait(event) | Call::Record(event, _) => marks.push(event),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(hosts[..8], hosts[8..]);
    hosts.truncate(8);
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), 8);
    let half = [&["run"][..], &["run"], &["run", "record compute"], &["wait", "run"]];
    assert_eq!(kinds[..12], [half, half, half].concat());
    let [first, _, second, waits_for_first, ..] = marks[..] else { panic!("{marks:?}") };
    assert!(waits_for_first == first && second != first, "{marks:?}");
    assert_eq!((loaded.exe.counters().submissions, loaded.exe.counters().steps), (16, 80));
}

#[test]
fn the_kernel_of_a_small_step_calls_each_launch_with_a_barrier_between() {
    let loaded = load_as(4, false);
    let log = loaded.log.lock().unwrap();
    let source: String = log.texts.iter().map(|t| &*t.source).collect();
    let n: usize = loaded.plan.launches().iter().map(|l| l.segments.len()).sum();
    // One for the largest batch, which knows its numbers, and one that takes those of any other.
    let kernels: Vec<&str> = source.split("extern \"C\"").skip(1).collect();
    let [largest, any] = kernels[..] else { panic!("{} kernels", kernels.len()) };
    assert!(largest.contains("const Params<") && !largest.contains("__grid_constant__"), "{largest}");
    assert!(any.contains("__grid_constant__ Params<"), "{any}");
    for kernel in [largest, any] {
        assert_eq!(kernel.matches("(FIRST, ONLY").count(), n, "{kernel}");
        // Each launch of this step needs the one before, so that each is a round; the last ends where the next step begins.
        assert_eq!(kernel.matches(");\n__syncthreads();").count(), n - 1, "{kernel}");
    }
}

#[test]
fn a_step_that_grows_out_of_one_block_gets_kernels_of_its_launches() {
    let mut loaded = load_as(4, false);
    loaded.run(4, 1).unwrap();
    loaded.exe.grow(&Layout::new(&loaded.plan, &h100(), 100_000)).unwrap();
    assert!(loaded.exe.counters().dispatches > 1);
    loaded.calls();
    loaded.run(4, 1).unwrap();
    assert!(names(&loaded.calls()).contains(&"send"));
}

/// What was compiled.
fn sources(log: &Mutex<Log>) -> Vec<String> {
    log.lock().unwrap().texts.iter().map(|text| unit([&text.source])).collect()
}

fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::open() {
        Ok(nvrtc) => Some(nvrtc),
        Err(e) if std::env::var_os("REQUIRE_NVRTC").is_none() => {
            println!("skipped: no nvrtc ({e})");
            None
        }
        Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
    }
}

/// For those that copy in the background and for those that do not.
#[test]
fn the_kernel_of_a_small_step_compiles() {
    let Some(nvrtc) = nvrtc() else { return };
    let sources = sources(&load_as(4, false).log);
    for arch in [90, 75] {
        nvrtc.compile(&sources, arch, None).unwrap();
    }
}

#[test]
fn launches_that_do_not_depend_on_each_other_are_one_kernel_with_blocks_for_each() {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 64), DType::F32);
    for branch in ["a", "b"] {
        let s = s.sub(branch);
        let weight = |name: &str| s.param(name, [64, 64], Init::Const(0.0));
        let y = x.matmul(&weight("first")).relu().matmul(&weight("second"));
        s.output(branch, &y);
    }
    let (caps, recorder) = (h100(), Recorder::default());
    let log = recorder.log.clone();
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &caps, &mut |_| {}).unwrap().plan;
    assert_eq!(plan.launches().len(), 4);
    let (layout, settings) = (Layout::new(&plan, &caps, 128), Settings::default());
    let mut exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &BTreeMap::new()).unwrap();
    assert_eq!(exe.counters().dispatches, 2);
    assert_eq!(layout.transient_bytes, layout.unshared_bytes, "what shared memory would have to wait");
    if let Some(nvrtc) = nvrtc() {
        nvrtc.compile(&sources(&log), 90, None).unwrap();
    }
    for batch in [128, 40] {
        log.lock().unwrap().calls.clear();
        exe.run(batch, 1, &[&vec![0; 4 * 64 * batch]]).unwrap();
        let calls = log.lock().unwrap().calls.clone();
        let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
        let [first, second] = &nodes[..] else { panic!("{nodes:?}") };
        for node in [first, second] {
            assert!(node.name.starts_with("a (matmul") && node.name.contains(" beside b (matmul"), "{}", node.name);
            let (Work::Kernel(call), (addresses, words)) = (&node.work, arguments(node)) else { panic!("{node:?}") };
            let half = call.grid[0] / 2;
            assert_eq!((call.grid, &words[0][..]), ([2 * half, 1, 1], &[half, 2 * half, 0, 0][..]));
            assert!(half > 0 && addresses.len() == 6, "{node:?}");
        }
        // The second products read what the first wrote.
        let [first, second] = [first, second].map(|node| arguments(node).0);
        assert_eq!([first[2], first[5]], [second[0], second[3]]);
    }
}

/// The products of a graph that was made.
fn products(calls: &[Call]) -> Vec<ProductCall> {
    let graphs = calls.iter().filter_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes) } else { None });
    let product = |n: &Node| if let Work::Product(call) = &n.work { Some(ProductCall::clone(call)) } else { None };
    graphs.flatten().filter_map(product).collect()
}

#[test]
fn a_product_by_the_library_is_followed_by_a_kernel_with_the_rest_of_its_work() {
    let by = |products| Settings { apart: true, products, ..Settings::default() };
    let mut own = load_with(4, &by(Products::Own), Some(vec![1]));
    own.calls();
    own.run(4, 1).unwrap();
    assert_eq!(products(&own.calls()), []);
    let mut loaded = load_with(4, &by(Products::Library), Some(vec![1]));
    loaded.calls();
    loaded.run(3, 1).unwrap();
    let calls = loaded.calls();
    let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
    let Task::Product(p) = &call.task else { panic!("{call:?}") };
    assert_eq!((p.batch, p.m, p.n, p.k, p.tf32), (1, 3, 3, 6, false));
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    assert_eq!(nodes.len(), own.plan.launches().len() + 1, "the product and its epilogue");
    assert!(args(&nodes[1]).contains(&Param::Address(call.result)), "the epilogue reads the sums");
    let Some(Call::Send { to, .. }) = calls.iter().find(|c| matches!(c, Call::Send { .. })) else { panic!() };
    assert_eq!(call.lhs, *to, "the input is an operand");
    assert!(
        call.workspace >= call.result + call.task.result_bytes()
            || call.workspace + call.workspace_bytes <= call.result
    );
}

#[test]
fn the_fastest_is_chosen_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(Cache::new(folder.path().to_path_buf()));
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, cache, ..Settings::default() };
    // A kernel of ours takes 10: the second way of the library, and its epilogue, take 13; that is slower than one kernel with both.
    let slow = load_with(4, &settings, Some(vec![5, 3, 8]));
    assert_eq!((slow.exe.choices().made[0].choice.as_str(), slow.exe.counters().timings), ("own kernel", 1));
    // What was found out stays, even if it would come out otherwise now.
    let again = load_with(4, &settings, Some(vec![0, 0, 0]));
    let made = &again.exe.choices().made[0];
    assert_eq!((made.choice.as_str(), made.origin, again.exe.counters().timings), ("own kernel", Origin::Cached, 0));
    // For another largest batch it is another contraction.
    let other = load_with(64, &Settings { cache: None, ..settings.clone() }, Some(vec![5, 0, 8]));
    assert_eq!(other.exe.choices().made[0].choice, "own kernel", "0 and the epilogue's 10 are not faster than 10");
}

/// The plan of one product of 512 x 512 x 512, large enough that the table takes the library.
fn load_large(settings: &Settings, library: Vec<u64>, sums: &[(u64, (f32, u64))]) -> Loaded {
    load_square(512, 10, settings, library, sums)
}

fn load_square(n: usize, kernel_us: u64, settings: &Settings, library: Vec<u64>, sums: &[(u64, (f32, u64))]) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, n), DType::F32);
    s.output("y", &x.matmul(&s.param("w", [n, n], Init::Const(0.0))));
    let (recorder, caps) = (Recorder::default(), h100());
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &caps, &mut |_| {}).unwrap().plan;
    let log = recorder.log.clone();
    {
        let mut log = log.lock().unwrap();
        (log.library, log.sums, log.kernel_us) = (Some(library), sums.iter().copied().collect(), Some(kernel_us));
    }
    let layout = Layout::new(&plan, &caps, n);
    let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, settings, &BTreeMap::new()).unwrap();
    Loaded { exe, log, plan }
}

fn made(loaded: &Loaded) -> (String, Origin, u64) {
    let made = loaded.exe.choices().made[0].clone();
    (made.choice, made.origin, loaded.exe.counters().timings)
}

fn way(i: u64) -> String {
    format!("library 1: {i}.0.0.0.0.0.0.7")
}

#[test]
fn a_way_of_the_library_whose_numbers_are_wrong_is_not_used_and_told() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let right = load_large(&settings, vec![5, 3, 8], &[]);
    assert_eq!(made(&right), (way(1), Origin::Timed, 1));
    // The fastest is off by more than roundings are, or gives what is no number; a little off is another order of adding.
    for wrong in [1e-3, f32::NAN, f32::INFINITY] {
        let loaded = load_large(&settings, vec![5, 3, 8], &[(0, (1e-6, 0)), (1, (wrong, 0))]);
        assert_eq!(made(&loaded), (way(0), Origin::Timed, 1), "{wrong}");
        let notes = loaded.exe.choices().notes.join("; ");
        let told = format!("{} is not used for {}: it is off by", way(1), loaded.exe.choices().made[0].name);
        assert!(notes.contains(&told) && notes.contains("please report this"), "{notes}");
    }
    let all = [(0, (1.0, 0)), (1, (1.0, 0)), (2, (1.0, 0))];
    assert_eq!(made(&load_large(&settings, vec![5, 3, 8], &all)).0, "own kernel");
}

#[test]
fn what_there_was_no_time_for_is_timed_later_among_ways_of_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(Cache::new(folder.path().to_path_buf()));
    let with = |budget| Settings {
        apart: true,
        products: Products::Timed(budget),
        cache: cache.clone(),
        ..Settings::default()
    };
    let (none, some) = (with(Duration::ZERO), with(Duration::from_secs(60)));
    // The library's own first choice has bits 4; the fastest way has others.
    let sums = [(0, (0.0, 4)), (1, (0.0, 5)), (2, (0.0, 4)), (3, (0.0, 4))];
    let times = vec![9, 1, 3, 6];
    assert_eq!(made(&load_large(&none, times.clone(), &sums)), ("library 1".to_string(), Origin::Table, 0));
    assert_eq!(made(&load_large(&none, times.clone(), &sums)), ("library 1".to_string(), Origin::Cached, 0));
    assert_eq!(made(&load_large(&some, times.clone(), &sums)), (way(2), Origin::Timed, 1));
    // From then on it stays.
    assert_eq!(made(&load_large(&some, vec![9, 1, 9, 1], &sums)), (way(2), Origin::Cached, 0));
    // Without a cache it is the fastest of all.
    assert_eq!(made(&load_large(&Settings { cache: None, ..some.clone() }, times.clone(), &sums)).0, way(1));
    // A kernel of ours that the table took stays: nothing of the library adds in its order.
    load_with(4, &none, Some(vec![1, 1]));
    let small = load_with(4, &some, Some(vec![0, 0]));
    assert_eq!(made(&small), ("own kernel".to_string(), Origin::Timed, 1));
}

#[test]
fn for_a_large_product_a_kernel_of_ours_is_timed_only_if_it_may_be_faster_than_the_library() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    // A call of the library costs 4 more than it takes. What takes it 40 a kernel of ours does not make in 35 at the rate of the library.
    for (times, kernel_us, choice, is_timed) in [
        (vec![40, 45, 60], 1, way(0), false),
        (vec![15, 12, 20], 1, "own kernel".to_string(), true),
        (vec![15, 12, 20], 20, way(1), true),
    ] {
        let loaded = load_square(1024, kernel_us, &settings, times, &[]);
        assert_eq!(made(&loaded), (choice, Origin::Timed, 1));
        let calls = loaded.calls();
        let graphs = calls.iter().filter_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes) } else { None });
        let n_kernels = graphs.flatten().filter(|n| matches!(n.work, Work::Kernel(_))).count();
        assert_eq!(n_kernels > 0, is_timed, "{calls:?}");
        // Before anything is timed the compiler has begun with what checks and with the step.
        let prepared = loaded.log.lock().unwrap().prepared.clone();
        assert!(prepared.starts_with(&Check::texts()) && prepared.len() > 3);
    }
    // Wrong numbers of the fastest way are seen here too, and there may be none that is right.
    assert_eq!(made(&load_square(1024, 10, &settings, vec![40, 45], &[(0, (1.0, 0))])), (way(1), Origin::Timed, 1));
    let wrong = [(0, (1.0, 0)), (1, (1.0, 0))];
    assert_eq!(made(&load_square(1024, 10, &settings, vec![40, 45], &wrong)).0, "own kernel");
    // Of what an earlier process had no time for, the way that gives the same bits.
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(Cache::new(folder.path().to_path_buf()));
    let none = Settings { cache: cache.clone(), products: Products::Timed(Duration::ZERO), ..settings.clone() };
    let (sums, times) = ([(0, (0.0, 4)), (1, (0.0, 5)), (2, (0.0, 4))], vec![9, 1, 3]);
    assert_eq!(made(&load_square(1024, 10, &none, times.clone(), &sums)), ("library 1".to_string(), Origin::Table, 0));
    assert_eq!(made(&load_square(1024, 10, &Settings { cache, ..settings }, times, &sums)), (way(2), Origin::Timed, 1));
}

/// Without a clock nothing is timed, and the table decides.
#[test]
fn a_device_without_a_clock_is_no_error() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let recorder = Recorder::default();
    recorder.log.lock().unwrap().library = Some(vec![1]);
    recorder.log.lock().unwrap().fails = Some(("clock", DeviceError::Unsupported("clocks".to_string())));
    let (caps, plan) = (h100(), plan(&h100()));
    let layout = Layout::new(&plan, &caps, 4);
    let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &BTreeMap::new()).unwrap();
    assert_eq!((exe.choices().made[0].origin, exe.counters().timings), (Origin::Table, 0));
    assert!(exe.choices().notes.join("; ").contains("could not be timed"), "{:?}", exe.choices().notes);
}

#[test]
fn operands_are_numbers_while_ways_are_timed_and_zero_afterwards() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let calls = load_large(&settings, vec![5, 3], &[]).calls();
    let position = |of: &dyn Fn(&Call) -> bool| calls.iter().position(of).unwrap();
    // Both operands are filled before anything is timed, and the way that was found is compared after.
    let first = position(&|c| matches!(c, Call::Clock { .. }));
    let of = |c: &Call| if let Call::Run { node } = c { Some(node.name.to_string()) } else { None };
    let before: Vec<String> = calls[..first].iter().filter_map(of).collect();
    assert_eq!(before, ["filling an operand", "filling an operand"]);
    let after: Vec<String> = calls[first..].iter().filter_map(of).collect();
    assert_eq!(after, ["a product that is compared", "comparing a product"]);
    // Afterwards operands and result are cleared, one after the other.
    let bytes = 512 * 512 * 4;
    let cleared = |c: &&[Call]| c.iter().all(|c| matches!(c, Call::Clear { bytes: n, .. } if *n == bytes));
    assert!(calls.windows(3).any(|three| cleared(&three)), "{calls:?}");
}

#[test]
fn choices_of_an_earlier_run_come_first_and_slots_are_zero_after_timing() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let first = load_with(4, &settings, Some(vec![5, 3, 8]));
    let calls = first.calls();
    let last_clock = calls.iter().rposition(|c| matches!(c, Call::Clock { .. })).unwrap();
    assert!(calls[last_clock..].iter().any(|c| matches!(c, Call::Clear { .. })), "{calls:?}");
    let name = first.exe.choices().made[0].name.clone();
    // As a run of this library, of another, and of any where there is none.
    let resumed = |made: &str, library: Option<Vec<u64>>| {
        let recorded = BTreeMap::from([(name.clone(), made.to_string())]);
        let (recorder, caps, plan) = (Recorder::default(), h100(), plan(&h100()));
        let log = recorder.log.clone();
        log.lock().unwrap().library = library;
        let layout = Layout::new(&plan, &caps, 4);
        let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &recorded).unwrap();
        Loaded { exe, log, plan }
    };
    for (made, library, n_unlike) in
        [("library 0: 2", Some(vec![5]), 1), ("library 0: 2", None, 1), ("own kernel", None, 0)]
    {
        let unlike = resumed(made, library).exe.choices().unlike;
        assert_eq!(unlike.iter().filter(|text| text.contains(made)).count(), n_unlike, "{unlike:?}");
    }
    let mut loaded = resumed("library 1: 2.0.0.0.0.0.0.7", Some(vec![5, 3, 8]));
    let choices = loaded.exe.choices();
    assert_eq!((choices.made[0].origin, loaded.exe.counters().timings), (Origin::Recorded, 0));
    assert!(choices.unlike.is_empty(), "{choices:?}");
    loaded.run(4, 1).unwrap();
    let algorithms: Vec<Option<u64>> = products(&loaded.calls()).iter().map(|c| Some(c.algorithm?.data[0])).collect();
    assert_eq!(algorithms, [Some(2)]);
    loaded.run(3, 1).unwrap();
    assert_eq!(products(&loaded.calls())[0].algorithm, None, "it was chosen for the largest batch");
}

/// A loop with a branch in it: `v` is doubled while its sum is small, and if it is negative turned about.
fn looped() -> Plan {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 6), DType::F32);
    let ends = while_loop(
        7,
        &[x],
        |v| v[0].sum(..).less(50.0),
        |v| {
            let turned = run_if(&v[0].sum(..).less(0.0), &[v[0].clone()], |w| vec![-&w[0]]);
            vec![&turned[0] * 2.0]
        },
    );
    s.output("y", &ends[0]);
    wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan
}

#[test]
fn a_loop_is_a_node_that_holds_its_body_and_counts_trips_in_a_word_of_its_own() {
    let mut loaded = load_plan(looped(), 4, &Settings { apart: true, ..Settings::default() }, None);
    loaded.calls();
    loaded.run(4, 1).unwrap();
    let calls = loaded.calls();
    let nodes = calls.iter().find_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes) } else { None }).unwrap();
    let loop_of = |nodes: &[Node]| -> LoopCall {
        let mut loops = nodes.iter().filter_map(|n| if let Work::Loop(call) = &n.work { Some(call) } else { None });
        let first = loops.next().expect("there is a loop").clone();
        assert!(loops.next().is_none());
        first
    };
    let outer = loop_of(nodes);
    let inner = loop_of(&outer.body);
    assert_eq!((outer.max_trips, inner.max_trips), (7, 1));
    assert_eq!(leaves(nodes).len(), loaded.plan.launches().len());
    // What asks is the last kernel that was loaded.
    let log = loaded.log.lock().unwrap();
    let last = log.texts.last().expect("there are kernels");
    let function = log.texts.len() - 1;
    assert_eq!((outer.ask, inner.ask), (Function(function as u64), outer.ask));
    assert!(last.source.contains("cudaGraphSetConditional(loop, "));
    // Predicates are where kernels before the loop, and in it, write them; what counts is nobody else's.
    let predicates: Vec<u64> = loaded.plan.regions().iter().map(|(_, r)| loaded.exe.address_of(r.predicate)).collect();
    assert_eq!(predicates, [outer.predicate, inner.predicate]);
    let used: Vec<u64> = leaves(nodes).into_iter().flat_map(|n| arguments(n).0).collect();
    assert!(used.contains(&outer.predicate) && used.contains(&inner.predicate));
    let counters = [outer.counter, inner.counter];
    assert!(counters[0] != counters[1] && counters.iter().all(|c| !used.contains(c)), "{counters:?} {used:?}");
    assert!(log.memory.iter().any(|(at, piece)| counters.iter().all(|c| (*at..*at + piece.len() as u64).contains(c))));
}

#[test]
fn times_of_a_loop_are_those_of_its_launches() {
    let mut loaded = load_plan(looped(), 4, &Settings { apart: true, ..Settings::default() }, None);
    loaded.exe.set_profiling(true);
    loaded.run(4, 1).unwrap();
    let n = loaded.plan.launches().len() as u64;
    assert_eq!(loaded.exe.profile(), ((1..=n).collect(), 1));
}

#[test]
fn the_kernel_of_a_small_step_loops_and_compiles() {
    let loaded = load_plan(looped(), 4, &Settings::default(), None);
    assert_eq!(loaded.exe.counters().dispatches, 1);
    let source = sources(&loaded.log).concat();
    let asked = source.split("goes_on(").skip(1).filter_map(|rest| rest.split(')').next());
    let predicates: Vec<&str> = asked.filter(|at| at.starts_with("t + ")).collect();
    assert!(predicates.len() == 4 && predicates[..2] == predicates[2..] && predicates[0] != predicates[1], "{source}");
    let [outer, inner] = [7, 1].map(|most| source.find(&format!("trip < {most}u")).expect("a loop"));
    assert!(outer < inner, "{source}");
    if let Some(nvrtc) = nvrtc() {
        let apart = load_plan(looped(), 4, &Settings { apart: true, ..Settings::default() }, None);
        let sources = [sources(&loaded.log), sources(&apart.log)].concat();
        [90, 80].into_iter().for_each(|arch| {
            nvrtc.compile(&sources, arch, None).unwrap();
        });
    }
}

/// Precision `tf32` changes nothing but how the library multiplies.
#[test]
fn a_plan_that_allows_it_multiplies_in_tf32() {
    let by_library = Settings { apart: true, products: Products::Library, ..Settings::default() };
    for tf32 in [false, true] {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 64), DType::F32);
        s.output("y", &x.matmul(&s.param("w", [64, 64], Init::Const(0.0))));
        let mut graph = s.graph().borrow().clone();
        graph.tf32 = tf32;
        let (recorder, caps) = (Recorder::default(), h100());
        let plan = wholestep_compiler::compile(&graph, &caps, &mut |_| {}).unwrap().plan;
        assert_eq!(plan.tf32, tf32);
        let log = recorder.log.clone();
        log.lock().unwrap().library = Some(vec![1]);
        let layout = Layout::new(&plan, &caps, 64);
        let settings = by_library.of(&plan);
        let mut exe =
            CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &BTreeMap::new()).unwrap();
        exe.run(64, 1, &[&[0; 64 * 64 * 4]]).unwrap();
        let calls = std::mem::take(&mut log.lock().unwrap().calls);
        assert_eq!(products(&calls).iter().map(|c| c.task.tf32()).collect::<Vec<_>>(), [tf32]);
        assert_eq!(exe.choices().made[0].name.ends_with(", tf32"), tf32);
    }
}

/// A convolution of images of one row, whose ReLU follows its sums.
fn load_convolution(settings: &Settings, library: Option<Vec<u64>>) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 2, 1, 3), DType::F32);
    let w = s.sub("conv").param("w", [5, 2, 1, 2], Init::Const(0.0));
    s.output("y", &x.conv2d(&w, None, &ConvOptions::default()).relu().sum([1, 2, 3]));
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    load_plan(plan, 4, settings, library)
}

#[test]
fn a_convolution_by_the_library_stands_between_kernels_of_ours() {
    let with = |products, cudnn| Settings { apart: true, products, cudnn, ..Settings::default() };
    // Nobody has asked for it.
    assert!(load_convolution(&with(Products::Library, false), Some(vec![0])).exe.choices().made.is_empty());
    let by = |products| with(products, true);
    let timed = by(Products::Timed(Duration::from_secs(60)));
    // Ours takes 10. The library's takes nothing, but what turns its weights 10: that is no faster.
    let own = load_convolution(&timed, Some(vec![0, 1]));
    assert_eq!(own.exe.choices().made[0].choice, "own kernel");
    assert_eq!(load_convolution(&by(Products::Table), Some(vec![0])).exe.choices().made[0].choice, "own kernel");
    let mut loaded = load_convolution(&by(Products::Library), Some(vec![0, 1]));
    loaded.calls();
    loaded.run(3, 1).unwrap();
    let calls = loaded.calls();
    let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
    let Task::Convolution(c) = &call.task else { panic!("{call:?}") };
    assert_eq!((c.n, c.c_in, c.c_out, c.axes[1].out), (3, 2, 5, 2));
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    let at = nodes.iter().position(|n| matches!(n.work, Work::Product(_))).unwrap();
    assert!(args(&nodes[at - 1]).contains(&Param::Address(call.rhs)), "the kernel before writes what is read");
    assert!(args(&nodes[at + 1]).contains(&Param::Address(call.result)), "the kernel behind reads the result");
    let ranges =
        [(call.rhs, c.turned_bytes()), (call.result, call.task.result_bytes()), (call.workspace, call.workspace_bytes)];
    for (i, (a, bytes)) in ranges.iter().enumerate() {
        assert!(ranges[i + 1..].iter().all(|(b, other)| a + bytes <= *b || b + other <= *a), "{ranges:?}");
    }
}

/// Means over rows and over columns of matrices of `n` shapes, and what is made of both: what Adafactor does.
fn moments(n: usize) -> Plan {
    let s = Scope::root(Mode::Train);
    for i in 0..n {
        let (r, c) = (300 + 3 * i, 500 + 6 * i);
        let slot = |name: &str, shape: [usize; 2]| s.param(&format!("{name}{i}"), shape, Init::Const(0.0));
        let (p, row, col) = (slot("p", [r, c]), slot("row", [r, 1]), slot("col", [1, c]));
        let (row_new, col_new) = (&row + p.square().sum_keepdim(-1), &col + p.square().sum_keepdim(-2));
        s.update(&p, &(&p - &p * &row_new * &col_new));
        s.update(&row, &row_new);
        s.update(&col, &col_new);
    }
    wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan
}

/// The widths of matrices are parameters of the launches that go over all of them, whose texts compile.
#[test]
fn matrices_of_many_shapes_take_as_many_launches_as_of_few() {
    let load = |n, apart| load_plan(moments(n), 1, &Settings { apart, ..Settings::default() }, None);
    let counts = |apart| [4, 8, 12].map(|n| load(n, apart).exe.counters().dispatches);
    let (apart, joined) = (counts(true), counts(false));
    println!("{apart:?} kernels for 4, 8, 12 shapes, {joined:?} where modest ones stand side by side");
    assert!(apart[0] == apart[1] && apart[1] == apart[2] && joined.iter().all(|n| *n <= apart[0]), "{apart:?}");
    let mut loaded = load(4, true);
    loaded.exe.run(1, 1, &[]).unwrap();
    let graphs =
        loaded.calls().into_iter().filter_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes) } else { None });
    let words: Vec<Vec<u32>> = graphs.flatten().flat_map(|node| arguments(&node).1).collect();
    for width in [500, 506, 512, 518] {
        assert!(words.iter().any(|words| words.contains(&width)), "no launch knows the width {width}");
    }
    if let Some(nvrtc) = nvrtc() {
        nvrtc.compile(&sources(&loaded.log), 90, None).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// `relu(x·w + b)` of 4 rows of 512 for each of a batch: a product and a loop.
fn load_layer(library: Vec<u64>) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 4, 512), DType::F32);
    let (w, b) = (s.param("w", [512, 512], Init::Const(0.0)), s.param("b", [512], Init::Const(0.0)));
    s.output("y", &x.linear(&w, Some(&b)).relu());
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    let timed = Products::Timed(Duration::from_secs(60));
    load_plan(plan, 64, &Settings { apart: true, products: timed, ..Settings::default() }, Some(library))
}

#[test]
fn a_library_adds_the_bias_and_applies_the_activation_where_that_is_faster() {
    let mut loaded = load_layer(vec![5, 3, 8]);
    assert_eq!(loaded.exe.choices().made[0].choice, "library 1 with what follows: 1.0.0.0.0.0.0.7");
    let x = vec![0; 3 * 4 * 512 * 4];
    loaded.calls();
    loaded.exe.run(3, 1, &[&x]).unwrap();
    let calls = loaded.calls();
    let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
    let Task::Product(p) = &call.task else { panic!("{call:?}") };
    assert_eq!((p.m, p.epilogue, call.algorithm), (12, Epilogue::BiasRelu, None), "chosen for 64");
    assert_eq!(call.result, loaded.exe.address_of(loaded.plan.outputs[0].buffer));
    let bias = loaded.plan.slots.iter().position(|slot| slot.name == "b").unwrap();
    let of_slot = |b: &Buffer| b.space == Space::Slot(SlotId(bias as u32));
    let buffer = loaded.plan.buffers.iter().position(of_slot).unwrap();
    assert_eq!(call.bias, Some(loaded.exe.address_of(BufferId(buffer as u32))));
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    assert_eq!((nodes.len(), loaded.plan.launches().len()), (1, 2));
}

/// Scores of two heads of 64 that lie between the rows of a batch, kept beside what they are made of.
fn load_heads(max_batch: usize) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 16, 256), DType::F32).exp().reshape((Batch, 16, 2, 2, 64)).permute([2, 0, 3, 1, 4]);
    let [q, k] = [0, 1].map(|i| x.index(0, i));
    s.output("y", &q.matmul(&k.transpose(-2, -1)));
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    let by = Settings { apart: true, products: Products::Library, ..Settings::default() };
    load_plan(plan, max_batch, &by, Some(vec![1]))
}

#[test]
fn the_addresses_of_heads_lie_where_their_product_reads_them() {
    let mut loaded = load_heads(8);
    for batch in [8, 3] {
        loaded.calls();
        loaded.exe.run(batch, 1, &[&vec![0; batch * 16 * 256 * 4]]).unwrap();
        let calls = loaded.calls();
        let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
        let Task::Product(p) = &call.task else { panic!("{call:?}") };
        assert!(p.listed && p.outer * p.batch == 2 * batch as u64, "{p:?}");
        let (at, wanted) = call.lists().unwrap();
        assert_eq!(loaded.log.lock().unwrap().at(at, wanted.len()), wanted);
        let address = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
        let mut firsts: Vec<u64> = wanted.chunks(8).take(2 * batch).map(|at| address(at) - call.lhs).collect();
        firsts.sort_unstable();
        let heads = (0..batch as u64).flat_map(|b| [0, 64].map(|h| 4 * (b * 16 * 256 + h)));
        assert_eq!(firsts, heads.collect::<Vec<u64>>());
    }
}
