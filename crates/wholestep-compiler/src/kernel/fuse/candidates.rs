//! What a node could join. Takes a node that is to be placed, gives clusters with the bytes that joining each would save. Never decides whether it may.

use super::{Cluster, ClusterKind, Fusion, Role, bytes};
use crate::ir::{Graph, NodeId};
use std::collections::BTreeSet;

/// Of clusters that run over the batch so many of the last are looked at: what is made long before it is read takes memory until then.
const LATEST: usize = 24;

impl Fusion {
    /// Clusters that `id` could join, with the bytes that it would save: those that make an operand and those that read the same memory.
    pub(super) fn candidates(&self, graph: &Graph, id: NodeId) -> Vec<(usize, usize)> {
        let mut saved: Vec<(usize, usize)> = Vec::new();
        let mut add = |c: usize, bytes: usize| match saved.iter_mut().find(|(other, _)| *other == c) {
            Some((_, sum)) => *sum += bytes,
            None => saved.push((c, bytes)),
        };
        let is_point = matches!(self.role[id.0 as usize], Role::Point | Role::Copy);
        let is_scalar = is_point && graph.node(id).shape.rank() == 0;
        let is_of_scalars = |c: &Cluster| c.kind == ClusterKind::Loop && c.space.is_empty();
        for k in 0..self.n_operands(graph, id) {
            let source = self.source(graph, id, k);
            // Loops that share no more than a scalar gain nothing from being one: updates of equal parameters would fill a kernel until it
            // is full, and the rest would be another program. As equal programs they are segments of one launch, however many they are.
            if !is_scalar && graph.node(source).shape.rank() == 0 {
                continue;
            }
            if let Some(c) = self.cluster[source.0 as usize] {
                // A scalar that a tensor's loop makes and one of the step's meet in the tensor's loop, so that it is the same program for each tensor.
                let among_scalars = is_scalar && is_of_scalars(&self.clusters[c]);
                add(c, if among_scalars { 1 } else { 2 * bytes(graph, source) + 1 });
            }
            let may_join = |c: &usize| !matches!(self.clusters[*c].kind, ClusterKind::Other(_));
            for c in self.readers_of(graph, id, [source]).into_iter().filter(may_join) {
                add(c, bytes(graph, source));
            }
        }
        if is_scalar {
            // Scalars of the whole step (rates, bias corrections) gather in one loop of one point.
            self.clusters.iter().enumerate().filter(|(_, c)| is_of_scalars(c)).for_each(|(c, _)| add(c, 1));
        }
        saved
    }

    /// Loops beside which a reduction could be made though it reads none of their values: they read what its operand is made of, or what is made of
    /// that, which is computed again there, mostly (`recompute.rs`).
    pub(super) fn beside(&self, graph: &Graph, id: NodeId) -> Vec<(usize, usize)> {
        let operand = self.source(graph, id, 0);
        let is_point = |x: &NodeId| self.role[x.0 as usize] == Role::Point;
        let made_of = (0..self.n_operands(graph, operand)).map(|k| self.source(graph, operand, k));
        let made_of_it = self.users[operand.0 as usize].iter().copied().filter(is_point);
        let near = made_of.filter(|_| is_point(&operand)).chain(made_of_it);
        let found = self.readers_of(graph, id, near).into_iter();
        found.filter(|&c| self.clusters[c].kind == ClusterKind::Loop).map(|c| (c, 1)).collect()
    }

    /// Clusters that read one of `values`, the latest first. Of those over a known number of points all on the same side of the loss: the same maths for
    /// each of many parameters becomes the same program, however many lie between.
    fn readers_of(&self, graph: &Graph, id: NodeId, values: impl IntoIterator<Item = NodeId>) -> Vec<usize> {
        let found: BTreeSet<usize> =
            values.into_iter().flat_map(|x| self.readers[x.0 as usize].iter().copied()).collect();
        let oldest = self.clusters.len().saturating_sub(LATEST);
        let is_forward = |id: NodeId| graph.forward.is_some_and(|end| id.0 < end);
        let is_near = |&c: &usize| {
            let Cluster { space, nodes, .. } = &self.clusters[c];
            match space.iter().all(|d| d.as_fixed().is_some()) {
                true => is_forward(nodes[0]) == is_forward(id),
                false => c >= oldest,
            }
        };
        found.into_iter().rev().filter(is_near).collect()
    }
}
