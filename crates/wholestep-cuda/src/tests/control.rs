//! Loops and branches.

use super::*;
use crate::driver::{Function, LoopCall, leaves};
use wholestep_compiler::ops::control::{run_if, while_loop};

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
