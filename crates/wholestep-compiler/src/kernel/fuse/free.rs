//! Points made of leaves alone: an iota compared with a label, a dropout mask, a rate. They wait for their first reader and are made by it, but for
//! the scalars that several read. Never chooses a cluster for anything else.

use super::{Fusion, Role, is_gathered, row_major, squeeze, squeeze_strides};
use crate::ir::op::Op;
use crate::ir::{Dim, Graph, NodeId, Shape};
use crate::kernel::view::View;
use std::collections::BTreeSet;

impl Fusion {
    /// Whether a point is made of leaves alone.
    pub(super) fn is_free(&self, graph: &Graph, id: NodeId) -> bool {
        (0..self.n_operands(graph, id)).all(|k| {
            let source = self.source(graph, id, k).0 as usize;
            matches!(graph.node(NodeId(source as u32)).op, Op::Leaf(_)) || self.deferred[source]
        })
    }

    /// Whether a scalar has several readers. Made by the first of them, it would make that one another program than the rest, which wait for it.
    pub(super) fn is_shared_scalar(&self, graph: &Graph, id: NodeId) -> bool {
        graph.node(id).shape.rank() == 0 && self.users[id.0 as usize].len() > 1
    }

    /// Places a deferred node now, on its own.
    pub(super) fn settle(&mut self, graph: &Graph, max_row: usize, id: NodeId) {
        if std::mem::take(&mut self.deferred[id.0 as usize]) {
            self.place(graph, max_row, id);
        }
    }

    /// Whether nothing that a deferred node is made of has been placed since it was deferred: what has may wait for the cluster that the
    /// node would ride into.
    pub(super) fn is_unplaced(&self, graph: &Graph, id: NodeId) -> bool {
        let mut all = BTreeSet::new();
        let mut open = vec![id];
        while let Some(at) = open.pop() {
            for source in (0..self.n_operands(graph, at)).map(|k| self.source(graph, at, k)) {
                match (self.role[source.0 as usize], self.deferred[source.0 as usize]) {
                    (Role::Leaf, _) => {}
                    (_, true) if all.insert(source) => open.push(source),
                    (_, true) => {}
                    (_, false) => return false,
                }
            }
        }
        true
    }

    /// Places the deferred operands of `id` that it does not read element by element, or that are no longer made of leaves alone.
    pub(super) fn settle_elsewhere(&mut self, graph: &Graph, max_row: usize, id: NodeId) {
        for k in 0..self.n_operands(graph, id) {
            let source = self.source(graph, id, k);
            if self.deferred[source.0 as usize] && !self.may_ride(graph, id, k) {
                self.settle(graph, max_row, source);
            }
        }
    }

    /// Whether the deferred operand `k` of `id` is read element by element and still made of leaves alone.
    pub(super) fn may_ride(&self, graph: &Graph, id: NodeId, k: usize) -> bool {
        let view = self.operand(graph, id, k);
        let shape = self.operand_shape(graph, id, k);
        let same_region = self.loops.of[view.source.0 as usize] == self.loops.of[id.0 as usize];
        same_region
            && !is_gathered(graph, id, k)
            && squeeze(shape) == squeeze(&graph.node(view.source).shape)
            && is_same_place(&view, shape)
            && self.is_unplaced(graph, view.source)
    }
}

/// Whether a view over `shape` reads element i of its source for element i.
fn is_same_place(view: &View, shape: &Shape) -> bool {
    view.map.guards.is_empty()
        && view.map.offset == Dim::ZERO
        && row_major(&squeeze(shape), &[]).is_some_and(|s| s == squeeze_strides(shape, &view.map.strides))
}
