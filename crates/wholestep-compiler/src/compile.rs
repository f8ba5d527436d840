//! The pipeline in one screen. Takes a whole-step graph and what the device can do, gives the plan; every stage is shown to an observer.
//! Never keeps anything between two calls.

mod fit;

use crate::caps::Caps;
use crate::ir::loops::Loops;
use crate::ir::op::{Elementwise, Index, Leaf, Op};
use crate::ir::verify::verify;
use crate::ir::{BuildError, DType, Graph, Node, NodeId};
use crate::kernel::fuse::{Fusion, Limits, Refusal, fuse};
use crate::kernel::pin::pin;
use crate::kernel::recompute::recompute;
use crate::passes::PASSES;
use crate::passes::remat::{Depths, Remat, by_scope, remat};
use crate::plan::{Plan, build};
use std::collections::BTreeMap;

/// A compiled step and how it came to be.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub plan: Plan,
    /// The graph from which the kernels were made; slots have their storage order here.
    pub graph: Graph,
    /// Nodes after each stage: ("trace", 120), ("dce", 80) …
    pub nodes: Vec<(&'static str, usize)>,
    /// Mergers that were possible by shape and refused.
    pub refusals: Vec<Refusal>,
    /// What the backward pass computes again, where it does.
    pub recomputed: Option<Recomputed>,
}

/// What a backward pass computes again.
#[derive(Clone, Debug)]
pub struct Recomputed {
    /// By kernel, in order.
    pub kernels: Vec<Again>,
    /// The plan that keeps all values instead, for comparison.
    pub plain: Plan,
}

/// A kernel that computes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Again {
    /// Its nodes that are copies.
    pub nodes: Vec<NodeId>,
    /// Whether the same kernel ran in the forward pass, so that results have the same bits on every device. Else the same operations run on
    /// the same operands within another kernel, in which a device may round otherwise.
    pub is_same_kernel: bool,
}

/// A graph with what is computed again, and its plan.
struct Planned {
    graph: Graph,
    plan: Plan,
    refusals: Vec<Refusal>,
    kernels: Vec<Again>,
}

/// One box of the pipeline, for dumps and logs: its number, its name and its text.
pub struct Stage<'a> {
    pub number: usize,
    pub name: &'static str,
    pub text: &'a dyn std::fmt::Display,
}

/// Compiles a whole-step graph for a device.
/// Errors: the first error recorded while tracing; a value of a loop's body that is used outside of it.
pub fn compile(traced: &Graph, caps: &Caps, observe: &mut dyn FnMut(Stage)) -> Result<Compiled, BuildError> {
    if let Some(error) = &traced.error {
        return Err(error.clone());
    }
    observe(Stage { number: 1, name: "step.graph", text: traced });
    Loops::of(traced).map_err(|leak| leak.error(traced))?;
    check_abilities(traced, caps)?;
    check(traced, "trace");
    let mut nodes = vec![("trace", traced.nodes.len())];
    let mut graph = traced.clone();
    for (i, (name, pass)) in PASSES.iter().enumerate() {
        graph = pass(&graph);
        check(&graph, name);
        nodes.push((name, graph.nodes.len()));
        observe(Stage { number: 2 + i, name, text: &graph });
    }
    let graph = pin(&graph);
    check(&graph, "pin");
    let asked = by_scope(&graph);
    let planned = match graph.fit {
        Some(budget) => fit::fit(&graph, &asked, caps, budget)?,
        None => plan_with(&graph, &asked, caps),
    };
    let recomputed = (!planned.kernels.is_empty()).then(|| {
        let plain = plan_with(&graph, &vec![0; graph.nodes.len()], caps).plan;
        nodes.push(("remat", planned.graph.nodes.len()));
        observe(Stage { number: 29, name: "remat", text: &planned.graph });
        Recomputed { kernels: planned.kernels, plain }
    });
    let Planned { graph, plan, refusals, .. } = planned;
    observe(Stage { number: 30, name: "plan", text: &plan });
    for (i, kernel) in plan.kernels.iter().enumerate() {
        observe(Stage { number: 100 + i, name: "kernel", text: kernel });
    }
    Ok(Compiled { plan, graph, nodes, refusals, recomputed })
}

/// The rest of the pipeline, from the graph that all passes have been through: values of `depths` are computed again.
fn plan_with(graph: &Graph, depths: &Depths, caps: &Caps) -> Planned {
    let Remat { graph, copies } = remat(graph, depths);
    check(&graph, "remat");
    let (plan, fusion) = plan_within(&graph, caps);
    if let Err(fault) = build::verify(&plan) {
        panic!("bug: the plan is not sound: {fault}");
    }
    Planned { plan, kernels: again(&fusion, &copies), refusals: fusion.refusals, graph }
}

/// The clusters that hold copies.
fn again(fusion: &Fusion, copies: &BTreeMap<NodeId, NodeId>) -> Vec<Again> {
    let of = |nodes: &[NodeId]| {
        let copied: Option<Vec<NodeId>> = nodes.iter().map(|id| copies.get(id).copied()).collect();
        let is_same_kernel = copied.is_some_and(|mut originals| {
            originals.sort_unstable();
            let before = originals.first().and_then(|id| fusion.cluster[id.0 as usize]);
            before.is_some_and(|c| fusion.clusters[c].nodes == originals)
        });
        let nodes: Vec<NodeId> = nodes.iter().copied().filter(|id| copies.contains_key(id)).collect();
        (!nodes.is_empty()).then_some(Again { nodes, is_same_kernel })
    };
    fusion.clusters.iter().filter_map(|c| of(&c.nodes)).collect()
}

/// The plan whose kernels take no more than `caps.max_args` arguments, where there is one. What fusion counts is a guess, as a slot that cannot
/// be updated in place is an argument more: what came out too wide it is told to keep narrower.
fn plan_within(graph: &Graph, caps: &Caps) -> (Plan, Fusion) {
    let mut limits = Limits::new(caps.max_args);
    loop {
        let mut fusion = fuse(graph, caps.max_row_elems, &limits);
        recompute(graph, &mut fusion);
        let (plan, n_args) = build::build(graph, fusion.clone(), caps.align_bytes);
        let wide = fusion.clusters.iter().zip(n_args).filter(|(_, n)| *n > caps.max_args);
        if !wide.fold(false, |goes_on, (cluster, n)| limits.lower(&cluster.nodes, n) || goes_on) {
            return (plan, fusion);
        }
    }
}

/// Refuses element types that the device does not have, and loops.
fn check_abilities(graph: &Graph, caps: &Caps) -> Result<(), BuildError> {
    if let Some(node) = graph.nodes.iter().find(|n| matches!(n.op, Op::Control(_)) && !caps.loops) {
        let at = graph.position(node.scope, node.loc);
        let message = format!("{} runs no loop that ends on the device yet", caps.name);
        return Err(BuildError::new(node.op.name(), message).at(at).help("run it on the cpu"));
    }
    let fits = |n: &Node| caps.dtypes.contains(&n.dtype) || (n.dtype == DType::I64 && carries(n, caps));
    let Some(node) = graph.nodes.iter().find(|n| !fits(n)) else { return Ok(()) };
    let known: Vec<&str> = caps.dtypes.iter().map(|d| d.name()).collect();
    let message = format!("{} has no {}; it has {}", caps.name, node.dtype, known.join(", "));
    let at = format!("{}:{}   in {}", node.loc.file, node.loc.line, graph.scopes[node.scope as usize]);
    Err(BuildError::new(node.op.name(), message).at(at).help("convert inputs before the step, or use another device"))
}

/// Whether an `i64` node only passes on what came in, so that a device may keep it in 32 bits.
fn carries(node: &Node, caps: &Caps) -> bool {
    let small = |v: f64| v.abs() <= f64::from(i32::MAX);
    caps.long_bytes == 4
        && match &node.op {
            Op::Leaf(Leaf::Const { value, .. }) => small(*value),
            Op::Leaf(_) | Op::Movement(_) | Op::Elementwise(Elementwise::Select) | Op::Control(_) => true,
            Op::Index(Index::Take { .. } | Index::TakeAlong { .. }) => true,
            Op::Elementwise(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Window(_)
            | Op::Index(
                Index::TakeGrad { .. } | Index::TakeAlongGrad { .. } | Index::Put { .. } | Index::ArgSort { .. },
            )
            | Op::Random(_) => false,
        }
}

/// The contract between passes. It is cheap next to the passes themselves, so it always holds.
fn check(graph: &Graph, pass: &str) {
    if let Err(fault) = verify(graph) {
        panic!("bug: {pass} broke the graph: {fault}");
    }
}
