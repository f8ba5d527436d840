//! The order of a step and which loops run as one launch. Takes works and what each waits for, gives them in an order that respects that.
//! Never looks at memory.

use super::alike;
use crate::kernel::lower::{Place, Work, WorkSegment};
use crate::kernel::{Access, Kernel};
use std::collections::{BTreeMap, BTreeSet};

/// What has a place in the order.
#[derive(Debug)]
pub enum Task {
    Work(Box<Work>),
    /// All trips of a loop.
    Loop(usize),
}

/// Works with their dependencies.
#[derive(Debug, Default)]
pub struct WorkGraph {
    pub tasks: Vec<Task>,
    /// For each work, those that must run before it.
    pub deps: Vec<BTreeSet<usize>>,
    /// Of works that may run now the one with the lowest goes first: the order of the user's program.
    pub priority: Vec<u32>,
}

impl WorkGraph {
    pub fn add(&mut self, task: Task, deps: BTreeSet<usize>, priority: u32) -> usize {
        self.tasks.push(task);
        self.deps.push(deps);
        self.priority.push(priority);
        self.tasks.len() - 1
    }

    /// Takes a task out, once.
    pub fn take(&mut self, i: usize) -> Task {
        std::mem::replace(&mut self.tasks[i], Task::Loop(usize::MAX))
    }

    fn waits_for(&self, from: usize, target: usize) -> bool {
        let mut open = vec![from];
        let mut seen = vec![false; self.tasks.len()];
        while let Some(at) = open.pop() {
            if at == target {
                return true;
            }
            if !std::mem::replace(&mut seen[at], true) {
                open.extend(self.deps[at].iter().copied());
            }
        }
        false
    }
}

/// Joins loops that are the same program over other buffers and wait for nothing of each other: the optimizer over all parameters becomes a few
/// launches, however many parameters there are and whatever their shapes. Only loops that write slots, reduce to a scalar or reduce values of a known size take
/// part, so that no other value lives longer than it must, and in the body of a loop all over values of a known size: parameters, of which a trip makes new ones.
pub fn merge_segments(graph: WorkGraph, in_loop: bool) -> WorkGraph {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, task) in graph.tasks.iter().enumerate() {
        if let Some(key) = merge_key(task, in_loop) {
            groups.entry(key).or_default().push(i);
        }
    }
    let mut graph = graph;
    let mut into: Vec<usize> = (0..graph.tasks.len()).collect();
    for members in groups.values().filter(|m| m.len() > 1) {
        let mut heads: Vec<usize> = Vec::new();
        for &work in members {
            let head = heads.iter().copied().find(|&h| !graph.waits_for(h, work) && !graph.waits_for(work, h));
            match head {
                Some(head) => merge(&mut graph, &mut into, head, work),
                None => heads.push(work),
            }
        }
    }
    compact(graph, &into)
}

/// Loops with equal keys are the same program; `None` for works that stay alone.
fn merge_key(task: &Task, in_loop: bool) -> Option<String> {
    let Task::Work(work) = task else { return None };
    let WorkSegment { kernel: Kernel::Loop(k), places } = &work.segments[0] else { return None };
    let writes_slot = places.iter().zip(&k.args).any(|(p, a)| matches!(p, Place::Slot(_)) && a.access != Access::Read);
    let reduces = k.n_outer < k.axes.len();
    let to_scalar = reduces && k.n_outer == 0;
    let is_known = k.axes.iter().all(|d| d.batch == 0);
    let of_parameter = is_known && (reduces || in_loop && !k.axes.is_empty());
    (writes_slot || to_scalar || of_parameter).then(|| alike::key(k))
}

fn merge(graph: &mut WorkGraph, into: &mut [usize], head: usize, work: usize) {
    into[work] = head;
    if let (Task::Work(from), Task::Work(to)) = (graph.take(work), &mut graph.tasks[head]) {
        to.segments.extend(from.segments);
        to.nodes.extend(from.nodes);
    }
    let deps = std::mem::take(&mut graph.deps[work]);
    graph.deps[head].extend(deps);
    graph.priority[head] = graph.priority[head].max(graph.priority[work]);
    // Whoever waited for the merged work waits for its head.
    for d in &mut graph.deps {
        if d.remove(&work) {
            d.insert(head);
        }
    }
}

fn compact(graph: WorkGraph, into: &[usize]) -> WorkGraph {
    let mut new_index = vec![0; into.len()];
    let mut out = WorkGraph::default();
    for (i, task) in graph.tasks.into_iter().enumerate() {
        if into[i] == i {
            new_index[i] = out.add(task, graph.deps[i].clone(), graph.priority[i]);
        }
    }
    for d in &mut out.deps {
        *d = d.iter().map(|&i| new_index[i]).collect();
    }
    out
}

/// Works in running order.
pub fn order(graph: &WorkGraph) -> Vec<usize> {
    let n = graph.tasks.len();
    let mut waiting: Vec<usize> = graph.deps.iter().map(BTreeSet::len).collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, deps) in graph.deps.iter().enumerate() {
        deps.iter().for_each(|&d| users[d].push(i));
    }
    let mut ready: BTreeSet<(u32, usize)> =
        (0..n).filter(|&i| waiting[i] == 0).map(|i| (graph.priority[i], i)).collect();
    let mut out = Vec::with_capacity(n);
    while let Some((_, i)) = ready.pop_first() {
        out.push(i);
        for &user in &users[i] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.insert((graph.priority[user], user));
            }
        }
    }
    assert_eq!(out.len(), n, "bug: works wait for each other");
    out
}
