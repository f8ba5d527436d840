//! How many arguments a cluster takes. Takes a cluster and what is to join it, gives a count that may be too low by a slot that cannot be
//! updated in place. Never changes a cluster.

use super::{Cluster, ClusterKind, Fusion, has_memory};
use crate::ir::op::{Leaf, Op};
use crate::ir::{Graph, NodeId};
use std::collections::BTreeSet;

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
        self.max_args == usize::MAX || self.n_args(graph, Some(&self.clusters[c]), more) <= self.max_args
    }
}
