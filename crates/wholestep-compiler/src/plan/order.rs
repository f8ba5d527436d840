//! The order of a step and which loops run as one launch. Takes works and what each waits for, gives them in an order that respects that.
//! Never looks at memory.

use crate::kernel::lower::{Place, Work};
use crate::kernel::{Access, Kernel, Loop};
use std::collections::{BTreeMap, BTreeSet};

/// Works with their dependencies.
#[derive(Clone, Debug, Default)]
pub struct WorkGraph {
    pub works: Vec<Work>,
    /// For each work, those that must run before it.
    pub deps: Vec<BTreeSet<usize>>,
    /// Of works that may run now the one with the lowest goes first: the order of the user's program.
    pub priority: Vec<u32>,
}

impl WorkGraph {
    pub fn add(&mut self, work: Work, deps: BTreeSet<usize>, priority: u32) -> usize {
        self.works.push(work);
        self.deps.push(deps);
        self.priority.push(priority);
        self.works.len() - 1
    }

    fn waits_for(&self, from: usize, target: usize) -> bool {
        let mut open = vec![from];
        let mut seen = vec![false; self.works.len()];
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
/// launches, however many parameters there are. Only loops that write slots or reduce to a scalar take part, so that no other value
/// lives longer than it must.
pub fn merge_segments(graph: WorkGraph) -> WorkGraph {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, work) in graph.works.iter().enumerate() {
        if let Some(key) = merge_key(work) {
            groups.entry(key).or_default().push(i);
        }
    }
    let mut graph = graph;
    let mut into: Vec<usize> = (0..graph.works.len()).collect();
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
fn merge_key(work: &Work) -> Option<String> {
    let Kernel::Loop(k) = &work.kernel else { return None };
    let (_, places) = &work.segments[0];
    let writes_slot = places.iter().zip(&k.args).any(|(p, a)| matches!(p, Place::Slot(_)) && a.access != Access::Read);
    let to_scalar = k.n_outer == 0 && !k.axes.is_empty();
    if !writes_slot && !to_scalar {
        return None;
    }
    let blank = Loop { axes: Vec::new(), ..k.clone() };
    Some(format!("{} {blank:?}", k.axes.len()))
}

fn merge(graph: &mut WorkGraph, into: &mut [usize], head: usize, work: usize) {
    into[work] = head;
    let segments = std::mem::take(&mut graph.works[work].segments);
    let nodes = std::mem::take(&mut graph.works[work].nodes);
    graph.works[head].segments.extend(segments);
    graph.works[head].nodes.extend(nodes);
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
    for (i, work) in graph.works.into_iter().enumerate() {
        if into[i] == i {
            new_index[i] = out.add(work, graph.deps[i].clone(), graph.priority[i]);
        }
    }
    for d in &mut out.deps {
        *d = d.iter().map(|&i| new_index[i]).collect();
    }
    out
}

/// Works in running order.
pub fn order(graph: &WorkGraph) -> Vec<usize> {
    let n = graph.works.len();
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
