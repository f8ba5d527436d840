//! How many arguments a cluster takes. Takes a cluster and what is to join it, gives a count that may be too low by a slot that cannot be
//! updated in place. Never changes a cluster.

use super::{Cluster, ClusterKind, Fusion, has_memory};
use crate::ir::op::{Leaf, Op};
use crate::ir::{Graph, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// How many arguments a kernel may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `usize::MAX` for any number.
    pub max_args: usize,
    /// What a kernel with one of these nodes in it may be counted to take: where it was counted too low before.
    pub fewer: BTreeMap<NodeId, usize>,
}

impl Limits {
    pub fn new(max_args: usize) -> Limits {
        Limits { max_args, fewer: BTreeMap::new() }
    }

    /// Kernels of these nodes came out with `n_args` arguments. Gives whether there is less to ask for.
    pub fn lower(&mut self, nodes: &[NodeId], n_args: usize) -> bool {
        let excess = n_args - self.max_args;
        let before = nodes.iter().filter_map(|id| self.fewer.get(id)).copied().fold(self.max_args, usize::min);
        let next = before.saturating_sub(excess).max(FEWEST);
        self.fewer.extend(nodes.iter().map(|id| (*id, next)));
        next < before
    }
}

/// A product with its scratch takes as many, and a choice between two tensors.
const FEWEST: usize = 4;

impl Fusion {
    /// The most arguments that a cluster takes if `more` join it, or a new one of them alone: what it reads and what somebody else may read of
    /// it. A slot that it reads and writes is one.
    pub(super) fn n_args(&self, graph: &Graph, cluster: Option<&Cluster>, more: &[NodeId]) -> usize {
        let nodes = cluster.map_or(&[][..], |c| &c.nodes);
        let mut new = more.to_vec();
        let mut at = 0;
        while let Some(&id) = new.get(at) {
            let sources = (0..self.n_operands(graph, id)).map(|k| self.source(graph, id, k));
            // What waits for its first user comes with it.
            new.extend(sources.filter(|s| self.deferred[s.0 as usize]));
            at += 1;
        }
        new.sort_unstable();
        new.dedup();
        let mut all = [nodes, &new].concat();
        all.sort_unstable();
        all.dedup();
        let inside = |id: &NodeId| all.binary_search(id).is_ok();
        let before = cluster.iter().flat_map(|c| &c.reads).copied();
        let mut reads: BTreeSet<NodeId> = before.filter(|id| !inside(id)).collect();
        for &id in &new {
            let sources = (0..self.n_operands(graph, id)).map(|k| self.source(graph, id, k));
            reads.extend(sources.filter(|s| !inside(s) && has_memory(graph, *s)));
        }
        let mut in_place: Vec<NodeId> = reads.iter().filter_map(|id| self.becomes(graph, *id)).filter(inside).collect();
        in_place.sort_unstable();
        in_place.dedup();
        let is_written =
            |id: &&NodeId| self.is_end[id.0 as usize] || self.users[id.0 as usize].iter().any(|user| !inside(user));
        let n_written = all.iter().filter(is_written).count() - in_place.len();
        // A contraction takes its scratch too, and a place for its sums, which may be that of a value that it writes.
        let own = match cluster.map(|c| c.kind) {
            Some(ClusterKind::Contract(_)) => 1 + usize::from(n_written == 0),
            Some(ClusterKind::Loop | ClusterKind::Other(_)) | None => 0,
        };
        reads.len() + n_written + own
    }

    /// What a slot that a leaf reads holds after the step, if it is updated.
    fn becomes(&self, graph: &Graph, leaf: NodeId) -> Option<NodeId> {
        match graph.node(leaf).op {
            Op::Leaf(Leaf::Slot { id, .. }) => self.next[id.0 as usize],
            _ => None,
        }
    }

    /// Whether `more` can join cluster `c` as far as its arguments go.
    pub fn has_room(&self, graph: &Graph, c: usize, more: &[NodeId]) -> bool {
        let cluster = &self.clusters[c];
        let most = cluster.nodes.iter().chain(more).map(|id| self.most_args(*id)).min().unwrap_or(usize::MAX);
        most == usize::MAX || self.n_args(graph, Some(cluster), more) <= most
    }

    /// The most arguments that a kernel with `id` in it may be counted to take.
    pub(super) fn most_args(&self, id: NodeId) -> usize {
        self.limits.fewer.get(&id).copied().unwrap_or(self.limits.max_args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_out_too_wide_is_kept_narrower_and_nothing_else_is() {
        let [a, b, other] = [0, 1, 2].map(NodeId);
        let most = |limits: &Limits, id: NodeId| limits.fewer.get(&id).copied().unwrap_or(limits.max_args);
        let mut limits = Limits::new(8);
        assert!(limits.lower(&[a, b], 10));
        assert_eq!([a, b, other].map(|id| most(&limits, id)), [6, 6, 8]);
        assert!(limits.lower(&[b, other], 9));
        assert_eq!([a, b, other].map(|id| most(&limits, id)), [6, 5, 5]);
        assert!(limits.lower(&[b], 30));
        assert!(!limits.lower(&[b], 30), "less than a product takes cannot be asked for");
    }
}
