//! Launches that are one kernel: small steps whole, and those that stand beside each other or go over many tensors.

use super::*;
use crate::batches::{HALF, READ};

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
    for _ in 1..2 * READ {
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
    assert_eq!(hosts[..READ], hosts[READ..]);
    hosts.truncate(READ);
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), READ);
    for (i, kinds) in (1..).zip(&kinds) {
        let expected: &[&str] = match i % HALF {
            0 => &["wait", "run"],
            last if last == HALF - 1 => &["run", "record compute"],
            _ => &["run"],
        };
        assert_eq!(kinds[..], expected[..], "turn {i}");
    }
    let [first, _, second, waits_for_first, ..] = marks[..] else { panic!("{marks:?}") };
    assert!(waits_for_first == first && second != first, "{marks:?}");
    let submissions = 2 * READ as u64;
    assert_eq!((loaded.exe.counters().submissions, loaded.exe.counters().steps), (submissions, 5 * submissions));
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

/// Inputs lie in one block, so that what reads many of them is one launch too.
#[test]
fn a_loop_over_many_inputs_is_one_launch() {
    let dispatches = |n: usize| {
        let s = Scope::root(Mode::Train);
        for i in 0..n {
            let (p, g) = (
                s.param(&format!("p{i}"), [40_000], Init::Const(0.0)),
                s.input(&format!("g{i}"), [40_000], DType::F32),
            );
            s.update(&p, &(&p - &g * 0.1));
        }
        let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
        load_plan(plan, 1, &Settings { apart: true, ..Settings::default() }, None).exe.counters().dispatches
    };
    assert_eq!([2, 9].map(dispatches), [1, 1]);
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
