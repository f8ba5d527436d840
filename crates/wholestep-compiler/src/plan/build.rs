//! From clusters to a plan. Takes a fused graph, gives launches in order, loops around them, with their buffers and lifetimes. Never
//! assigns offsets: the largest batch size is not known yet.

use super::order::{Task, WorkGraph, merge_segments, order};
use super::share::{Sharing, share};
use super::{Buffer, BufferId, Item, Launch, Output, Plan, Region, Segment, Size, Space};
use super::{alike, bounds};
use crate::ir::op::{Movement, Op};
use crate::ir::{DType, Graph, NodeId, Shape};
use crate::kernel::fuse::{Cluster, ClusterKind, Fusion};
use crate::kernel::lower::{Place, Places, Work, WorkSegment, copy_into, lower, stored};
use crate::kernel::{Access, Kernel, Loop};
use std::collections::{BTreeMap, BTreeSet};

/// The plan of a fused graph, and by cluster how many arguments its kernels take at most.
pub fn build(graph: &Graph, mut fusion: Fusion, align_bytes: usize) -> (Plan, Vec<usize>) {
    let sharing = share(graph, &mut fusion);
    let Sharing { at, offsets, .. } = sharing.clone();
    let places = Places { stored: stored(graph, &fusion), at, offsets };
    let works = |c: &Cluster| match is_concat(graph, c) {
        true => alike::join(lower(graph, &fusion, &places, c)),
        false => lower(graph, &fusion, &places, c),
    };
    let by_cluster: Vec<Vec<Work>> = fusion.clusters.iter().map(works).collect();
    let widest = |works: &Vec<Work>| works.iter().map(|w| w.segments[0].kernel.args().len()).max().unwrap_or(0);
    let n_args = by_cluster.iter().map(widest).collect();
    let steps = Regions { graph, fusion: &fusion, places: &places, sharing: &sharing, by_cluster }.steps(None);
    (assemble(graph, &places, &fusion, steps, align_bytes), n_args)
}

/// Whether the works of a cluster are copies side by side, rather than one after the other.
fn is_concat(graph: &Graph, cluster: &Cluster) -> bool {
    matches!(cluster.kind, ClusterKind::Other(id) if matches!(graph.node(id).op, Op::Movement(Movement::Concat { .. })))
}

/// Works in order, loops as what they are.
enum Step {
    Work(Box<Work>),
    Loop(usize, Vec<Step>),
}

/// What is ordered, region by region.
struct Regions<'a> {
    graph: &'a Graph,
    fusion: &'a Fusion,
    places: &'a Places,
    sharing: &'a Sharing,
    by_cluster: Vec<Vec<Work>>,
}

impl Regions<'_> {
    /// All that a region runs, in order. A loop in it is one entry, which waits for whatever anything in it waits for.
    fn steps(&self, region: Option<usize>) -> Vec<Step> {
        let loops = &self.fusion.loops;
        let mut works = WorkGraph::default();
        // By cluster and by loop, the entries of this region.
        let mut of_cluster: Vec<Vec<usize>> = vec![Vec::new(); self.by_cluster.len()];
        let mut of_loop: Vec<Vec<usize>> = vec![Vec::new(); loops.list.len()];
        for (c, cluster) in self.fusion.clusters.iter().enumerate() {
            if self.sharing.idle.contains(&c) || cluster.region != region {
                continue;
            }
            for work in &self.by_cluster[c] {
                let deps = cluster.deps.clone();
                of_cluster[c].push(works.add(Task::Work(Box::new(work.clone())), deps, priority(cluster)));
            }
        }
        for inner in (0..loops.list.len()).filter(|&l| loops.list[l].parent == region) {
            let inside = || self.fusion.clusters.iter().filter(|c| loops.is_within(c.region, Some(inner)));
            let firsts = loops.list[inner].carries.iter().map(|carry| self.graph.node(*carry).inputs[0]);
            let begins = firsts.filter_map(|first| self.fusion.cluster[first.0 as usize]);
            let deps = inside().flat_map(|c| c.deps.iter().copied()).chain(begins).collect();
            if let Some(priority) = inside().map(priority).min() {
                of_loop[inner].push(works.add(Task::Loop(inner), deps, priority));
            }
        }
        // Dependencies are clusters until all entries are there.
        let lifted: Vec<BTreeSet<usize>> =
            works.deps.iter().map(|d| self.lift(region, d, &of_cluster, &of_loop)).collect();
        works.deps = lifted;
        for (at, deps) in works.deps.iter_mut().enumerate() {
            deps.remove(&at);
        }
        // Works of one cluster run one after the other.
        for pair in of_cluster.iter().flat_map(|of| of.windows(2)) {
            works.deps[pair[1]].insert(pair[0]);
        }
        for &(_, node, place) in self.sharing.copies.iter().filter(|(of, ..)| *of == region) {
            let all = (0..works.tasks.len()).collect();
            works.add(Task::Work(Box::new(copy_into(self.graph, self.places, node, place))), all, u32::MAX);
        }
        let mut works = merge_segments(works, region.is_some());
        let order = order(&works);
        let steps = order.into_iter().map(|i| match works.take(i) {
            Task::Work(work) => Step::Work(work),
            Task::Loop(inner) => Step::Loop(inner, self.steps(Some(inner))),
        });
        steps.collect()
    }

    /// The entries of `region` that stand for clusters; what lies outside of it ran before. An idle cluster stands for what it waits for.
    fn lift(
        &self,
        region: Option<usize>,
        clusters: &BTreeSet<usize>,
        of_cluster: &[Vec<usize>],
        of_loop: &[Vec<usize>],
    ) -> BTreeSet<usize> {
        let mut out = BTreeSet::new();
        let mut open: Vec<usize> = clusters.iter().copied().collect();
        let mut seen = BTreeSet::new();
        while let Some(c) = open.pop() {
            let cluster = &self.fusion.clusters[c];
            if !seen.insert(c) {
                continue;
            }
            if self.sharing.idle.contains(&c) {
                open.extend(&cluster.deps);
            } else if cluster.region == region {
                out.extend(&of_cluster[c]);
            } else if let Some(inner) = self.fusion.loops.child_towards(region, cluster.region) {
                out.extend(&of_loop[inner]);
            }
        }
        out
    }
}

fn priority(cluster: &Cluster) -> u32 {
    match cluster.kind {
        ClusterKind::Contract(id) | ClusterKind::Other(id) => id.0,
        ClusterKind::Loop => cluster.nodes.iter().map(|id| id.0).min().unwrap_or(u32::MAX),
    }
}

/// A plan while it is put together.
struct Assembly<'a> {
    graph: &'a Graph,
    places: &'a Places,
    fusion: &'a Fusion,
    plan: Plan,
    kernel_index: BTreeMap<String, u32>,
    buffer_index: BTreeMap<Place, BufferId>,
    /// How many launches there are so far.
    position: u32,
}

/// Turns works in order into launches, equal kernels into one, and places into buffers with lifetimes.
fn assemble(graph: &Graph, places: &Places, fusion: &Fusion, steps: Vec<Step>, align_bytes: usize) -> Plan {
    let plan = Plan {
        kernels: Vec::new(),
        items: Vec::new(),
        buffers: Vec::new(),
        inputs: graph.inputs.clone(),
        slots: graph.slots.clone(),
        outputs: Vec::new(),
        align_bytes,
        tf32: graph.tf32,
        spares_memory: graph.fit.is_some() || !graph.recompute.is_empty(),
    };
    let (kernel_index, buffer_index) = (BTreeMap::new(), BTreeMap::new());
    let mut assembly = Assembly { graph, places, fusion, plan, kernel_index, buffer_index, position: 0 };
    let items = assembly.items(steps);
    let Assembly { mut plan, buffer_index, position: end, .. } = assembly;
    plan.items = items;
    for output in &graph.outputs {
        let node = graph.node(output.node);
        let place = places.at[output.node.0 as usize].unwrap_or(Place::Node(output.node));
        let buffer = *buffer_index.get(&place).expect("bug: an output is computed");
        plan.buffers[buffer.0 as usize].last = end;
        plan.outputs.push(Output { name: output.name.clone(), buffer, shape: node.shape.clone(), dtype: node.dtype });
    }
    plan
}

impl Assembly<'_> {
    fn items(&mut self, steps: Vec<Step>) -> Vec<Item> {
        let mut items = Vec::new();
        for step in steps {
            match step {
                Step::Work(work) => items.push(Item::Launch(self.launch(*work))),
                Step::Loop(index, steps) => items.push(Item::Region(self.region(index, steps))),
            }
        }
        items
    }

    fn launch(&mut self, work: Work) -> Launch {
        let mut segments: Vec<Segment> = Vec::with_capacity(work.segments.len());
        // Segments that differ in their extents only have one kernel.
        let mut numbers = BTreeMap::new();
        for WorkSegment { kernel, places } in &work.segments {
            let axes = if let Kernel::Loop(k) = kernel { k.axes.clone() } else { Vec::new() };
            let number = *numbers.entry(without_extents(kernel)).or_insert_with(|| self.kernel(kernel));
            let args = places.iter().zip(kernel.args()).map(|(&place, arg)| self.buffer(place, number, arg.dtype));
            segments.push(Segment { kernel: number, axes, args: args.collect() });
        }
        let (scope, ops) = describe(self.graph, &work.nodes);
        self.position += 1;
        Launch { kernel: segments[0].kernel, segments, scope, ops }
    }

    /// The number of a kernel; equal ones have one.
    fn kernel(&mut self, kernel: &Kernel) -> u32 {
        *self.kernel_index.entry(format!("{kernel:?}")).or_insert_with(|| {
            self.plan.kernels.push(kernel.clone());
            self.plan.kernels.len() as u32 - 1
        })
    }

    /// The buffer for a place that the launch at the present position uses.
    fn buffer(&mut self, place: Place, kernel: u32, dtype: DType) -> BufferId {
        let position = self.position;
        let id = *self.buffer_index.entry(place).or_insert_with(|| {
            self.plan.buffers.push(new_buffer(self.graph, place, kernel, dtype, position));
            BufferId(self.plan.buffers.len() as u32 - 1)
        });
        self.plan.buffers[id.0 as usize].last = position;
        id
    }

    /// A loop. What was there before it and is used in it is used until the last trip ends.
    fn region(&mut self, index: usize, steps: Vec<Step>) -> Region {
        let l = &self.fusion.loops.list[index];
        let condition = l.carries[0];
        let place = self.places.at[condition.0 as usize].unwrap_or(Place::Node(condition));
        let predicate = self.buffer(place, 0, DType::Bool);
        let first = self.position;
        let items = self.items(steps);
        let last = self.position.saturating_sub(1);
        for buffer in self.plan.buffers.iter_mut().filter(|b| b.first < first && b.last >= first) {
            buffer.last = last;
        }
        Region { max_trips: l.max_trips, predicate, items }
    }
}

fn new_buffer(graph: &Graph, place: Place, kernel: u32, dtype: DType, first: u32) -> Buffer {
    let shape_of = |id: NodeId| Size::Elements(graph.node(id).shape.clone());
    let (space, size) = match place {
        Place::Node(id) => (Space::Transient, shape_of(id)),
        Place::Slot(id) => (Space::Slot(id), Size::Elements(graph.slot(id).shape.clone())),
        Place::Input(id) => (Space::Input(id), Size::Elements(graph.inputs[id.0 as usize].shape.clone())),
        Place::Scratch(_) => (Space::Transient, Size::Scratch { kernel }),
    };
    Buffer { space, dtype, size, first, last: first }
}

/// What a kernel computes, whatever the extents of its axes.
fn without_extents(kernel: &Kernel) -> String {
    match kernel {
        Kernel::Loop(k) => format!("{:?}", Loop { axes: Vec::new(), ..k.clone() }),
        Kernel::Contract(_) | Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => {
            format!("{kernel:?}")
        }
    }
}

/// Scope and ops of a launch, for people.
fn describe(graph: &Graph, nodes: &[NodeId]) -> (String, String) {
    let main = nodes.iter().find(|&&id| matches!(graph.node(id).op, Op::Contract(_))).or(nodes.first());
    let scope = main.map_or(String::new(), |&id| graph.scopes[graph.node(id).scope as usize].clone());
    const SHOWN: usize = 6;
    let mut names: Vec<&str> = nodes.iter().take(SHOWN).map(|&id| graph.node(id).op.name()).collect();
    let more = format!("+{}", nodes.len().saturating_sub(SHOWN));
    if nodes.len() > SHOWN {
        names.push(&more);
    }
    (scope, names.join(" "))
}

/// Checks the contract of a plan: buffers exist, lifetimes cover uses, kernels get as many args as they take and address nothing outside of them, and
/// a transient value is written before it is read.
pub fn verify(plan: &Plan) -> Result<(), String> {
    let mut written = vec![false; plan.buffers.len()];
    check_predicates(plan, &plan.items, &mut Vec::new())?;
    for (position, launch) in plan.launches().into_iter().enumerate() {
        let loops = launch.segments.iter().map(|s| plan.kernel_of(s));
        let fours = loops.filter_map(|k| if let Kernel::Loop(k) = k { Some(alike::moves_in_fours(&k)) } else { None });
        if fours.collect::<BTreeSet<bool>>().len() > 1 {
            return Err(format!("launch {position} has segments that move in fours and others that do not"));
        }
        for segment in &launch.segments {
            let kernel: &Kernel = &plan.kernels[segment.kernel as usize];
            if segment.args.len() != kernel.args().len() {
                return Err(format!(
                    "launch {position} gives {} args, its kernel takes {}",
                    segment.args.len(),
                    kernel.args().len()
                ));
            }
            for (id, arg) in segment.args.iter().zip(kernel.args()) {
                let Some(buffer) = plan.buffers.get(id.0 as usize) else {
                    return Err(format!("launch {position} uses b{}, which is no buffer", id.0));
                };
                let at = position as u32;
                if buffer.space == Space::Transient && (at < buffer.first || at > buffer.last) {
                    return Err(format!("launch {position} uses b{} outside of its life", id.0));
                }
                if buffer.space == Space::Transient && arg.access == Access::Read && !written[id.0 as usize] {
                    return Err(format!("launch {position} reads b{} before it is written", id.0));
                }
            }
            bounds::check(plan, kernel, segment).map_err(|fault| format!("launch {position}: {fault}"))?;
            for (id, arg) in segment.args.iter().zip(kernel.args()) {
                written[id.0 as usize] |= arg.access != Access::Read;
            }
        }
    }
    Ok(())
}

/// Checks that what a loop asks before each trip is a bool scalar that was written before it.
fn check_predicates(plan: &Plan, items: &[Item], written: &mut Vec<BufferId>) -> Result<(), String> {
    for item in items {
        match item {
            Item::Launch(launch) => launch.segments.iter().for_each(|s| written.extend(&s.args)),
            Item::Region(region) => {
                let id = region.predicate;
                let buffer = plan.buffers.get(id.0 as usize);
                let is_bool = |b: &Buffer| b.dtype == DType::Bool && b.size == Size::Elements(Shape::scalar());
                if !buffer.is_some_and(|b| is_bool(b) && (b.space != Space::Transient || written.contains(&id))) {
                    return Err(format!("a loop asks b{}, which is no bool that was written", id.0));
                }
                check_predicates(plan, &region.items, written)?;
            }
        }
    }
    Ok(())
}
