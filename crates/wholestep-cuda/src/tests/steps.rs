//! Memory, batches, graphs and errors of a step.

use super::*;
use wholestep_compiler::backend::HostMemory;
use wholestep_compiler::ir::{InputId, SlotId};

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
/// through the turn's own, of which as much is pinned as is needed where that is much.
#[test]
fn a_lent_batch_is_copied_from_where_it_lies_and_held_until_it_has_left() {
    let pins = |rows: usize| -> Vec<usize> {
        let pinned = |c: Call| if let Call::Pin { bytes } = c { Some(bytes) } else { None };
        lend_batches(rows).into_iter().filter_map(pinned).collect()
    };
    assert_eq!(pins(4), [3 * 131_328; 2], "rows and narrow ones of three steps, when the step is loaded");
    // Narrow ones of two turns, and all of the turn whose rows are not lent.
    assert_eq!(pins(160), [640, 640, 5_243_648]);
}

/// All that was asked of the driver meanwhile.
fn lend_batches(rows: usize) -> Vec<Call> {
    let (wide, narrow) = (rows * 8192 * 4, rows * 4);
    let mut loaded = load_plan(wide_and_narrow(), rows, &Settings { apart: true, ..Settings::default() }, None);
    let mut all = loaded.calls();
    let n = vec![7u8; narrow];
    let lent = |device: u64, byte: u8| -> Arc<dyn HostMemory> { Arc::new(Pinned(device, vec![byte; wide])) };
    let mut run = |x: &Arc<dyn HostMemory>, small: &Arc<dyn HostMemory>| {
        loaded.exe.lend(InputId(0), x);
        loaded.exe.lend(InputId(1), small);
        loaded.exe.run(rows, 1, &[x.bytes(), &small.bytes()[..narrow]]).unwrap();
        let calls = loaded.calls();
        all.extend(calls.iter().cloned());
        calls
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
    assert!(loaded.exe.run(rows, 1, &[&n, &n]).is_err());
    assert_eq!(Arc::strong_count(&batches[0]), 1);
    loaded.exe.run(rows, 1, &[batches[0].bytes(), &n]).unwrap();
    assert!(names(&loaded.calls()).contains(&"send"));
    all
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
    assert!(error.contains("4 bytes for slot fc/w, which has 72"), "{error}");
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
