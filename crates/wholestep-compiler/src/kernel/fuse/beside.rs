//! Reductions beside each other. Takes a reduction, gives the loops that read nearly the same values, though none that it reads itself. Never decides
//! whether it may join one.

use super::{Cluster, ClusterKind, Fusion, LATEST, Role};
use crate::ir::{Graph, NodeId};

impl Fusion {
    /// Loops that read what the operand of a reduction is made of, or what is made of it: that is computed again there, mostly (`recompute.rs`).
    pub(super) fn beside(&self, graph: &Graph, id: NodeId) -> Vec<(usize, usize)> {
        let operand = self.source(graph, id, 0);
        let made_of = |x: NodeId| {
            let is_point = self.role[x.0 as usize] == Role::Point;
            (0..self.n_operands(graph, x)).map(move |k| self.source(graph, x, k)).filter(move |_| is_point)
        };
        let is_near = |c: &Cluster| {
            c.kind == ClusterKind::Loop
                && (made_of(operand).any(|x| c.reads.contains(&x))
                    || c.reads.iter().any(|&x| made_of(x).any(|of| of == operand)))
        };
        let latest = self.clusters.iter().enumerate().rev().take(LATEST);
        latest.filter(|(_, c)| is_near(c)).map(|(c, _)| (c, 1)).collect()
    }
}
