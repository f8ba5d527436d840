//! Fusion: which nodes run together. Takes a canonical graph, gives clusters, each of which becomes one kernel, and the reason for every
//! merger refused. Never orders clusters or places memory.
//!
//! Greedy on one number, bytes saved: nodes are taken in order and each joins the cluster that spares it the most traffic, unless that
//! would make two clusters wait for each other.

mod args;
mod candidates;
mod free;
mod regions;
mod roles;

pub use args::Limits;
pub use roles::natural_role;

use super::view::View;
use crate::ir::loops::Loops;
use crate::ir::op::{Index, Leaf, Movement, Op, Reduce};
use crate::ir::{Dim, Graph, NodeId, Shape};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Bytes are compared at this batch size: large enough that batch-sized values outweigh small parameters.
const NOMINAL_BATCH: usize = 32;
/// More instructions than this no longer fit a block's registers in the first-level cache.
const MAX_NODES: usize = 160;
/// A longer row is passed over again only if there are so many that a device need not share one out.
const LONG_ROW: (usize, usize) = (16_384, 1024);

/// What part a node plays in kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read from a slot or input, or known: nothing runs.
    Leaf,
    /// Movement said by its users' address maps, or a widening of 16-bit floats, which a load does: nothing runs.
    Virtual,
    /// Movement that must happen.
    Copy,
    /// One result element from elements at known places.
    Point,
    /// Joins the elements of rows.
    Reduce,
    /// A kernel kind of its own.
    Heavy,
}

/// Whether a value of a loop exists once a point or once a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Point,
    Row,
}

/// What a cluster becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    Loop,
    /// A contraction and the points that follow it in its epilogue.
    Contract(NodeId),
    /// A window, scatter, sort, scan or concat node, alone.
    Other(NodeId),
}

/// Nodes that run as one kernel.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub kind: ClusterKind,
    /// In topological order.
    pub nodes: Vec<NodeId>,
    /// Extents of the index space, without ones.
    pub space: Vec<Dim>,
    /// Which axes of `space` are reduced; empty for none.
    pub reduced: Vec<usize>,
    /// Nodes whose memory it reads.
    pub reads: BTreeSet<NodeId>,
    /// Clusters whose values it reads.
    pub deps: BTreeSet<usize>,
    /// The loop whose trips run it.
    pub region: Option<usize>,
}

/// The result of fusion.
#[derive(Clone, Debug)]
pub struct Fusion {
    pub clusters: Vec<Cluster>,
    /// By node.
    pub role: Vec<Role>,
    pub view: Vec<View>,
    /// What a `Copy` node reads.
    pub copied: Vec<Option<View>>,
    pub cluster: Vec<Option<usize>>,
    pub level: Vec<Level>,
    /// How many reductions of its own cluster a value waits for.
    pub pass: Vec<u32>,
    pub refusals: Vec<Refusal>,
    pub loops: Loops,
    /// Copies between a slot and a value of a loop, or between values of two loops. They stay alone, since mostly the two have one memory and
    /// nothing runs (`plan/share.rs`).
    pub moves: BTreeSet<NodeId>,
    /// Points made of leaves alone (an iota compared with a label, a dropout mask): they wait for their first user and join it.
    deferred: Vec<bool>,
    limits: Limits,
    /// The nodes that read each node, itself or through movement.
    users: Vec<Vec<NodeId>>,
    /// The clusters that read each node's memory, in order.
    readers: Vec<Vec<usize>>,
    /// By node, whether it is an output or what a slot holds after the step.
    is_end: Vec<bool>,
    /// By slot, what it holds after the step, if that is something new.
    next: Vec<Option<NodeId>>,
}

/// A merger that was possible by shape and was not made.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub node: NodeId,
    pub into: NodeId,
    pub reason: &'static str,
}

/// Groups the nodes of `graph` into clusters. Every node of `graph` is live and its leaves are pinned.
pub fn fuse(graph: &Graph, max_row: usize, limits: &Limits) -> Fusion {
    let mut fusion = Fusion::new(graph, limits);
    for id in graph.ids() {
        match fusion.role[id.0 as usize] {
            Role::Virtual => {}
            // What a loop begins with and what a trip leaves is in memory before anyone reads it.
            Role::Leaf => graph.node(id).inputs.iter().for_each(|&x| fusion.settle(graph, max_row, x)),
            Role::Heavy => fusion.open_heavy(graph, max_row, id),
            Role::Copy | Role::Reduce => fusion.place(graph, max_row, id),
            Role::Point => {
                // A value that is read elsewhere than where it is made cannot be a register of its reader, deferred or not.
                fusion.settle_elsewhere(graph, max_row, id);
                match fusion.is_free(graph, id) && !fusion.is_shared_scalar(graph, id) {
                    true => fusion.deferred[id.0 as usize] = true,
                    false => fusion.place(graph, max_row, id),
                }
            }
        }
    }
    let ends = graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node));
    for id in ends.collect::<Vec<_>>() {
        fusion.settle(graph, max_row, id);
    }
    fusion
}

/// The extents of a shape that are not 1.
pub fn squeeze(shape: &Shape) -> Vec<Dim> {
    shape.dims().iter().copied().filter(|d| *d != Dim::ONE).collect()
}

/// Bytes of a node at the nominal batch size.
fn bytes(graph: &Graph, id: NodeId) -> usize {
    let node = graph.node(id);
    node.shape.numel_at(NOMINAL_BATCH) * node.dtype.size_bytes()
}

impl Fusion {
    /// The view through which `id` reads operand number `k`, over [`Fusion::operand_shape`].
    pub fn operand(&self, graph: &Graph, id: NodeId, k: usize) -> Cow<'_, View> {
        if let (Some(view), Role::Copy) = (&self.copied[id.0 as usize], self.role[id.0 as usize]) {
            return Cow::Borrowed(view);
        }
        let node = graph.node(id);
        let view = &self.view[node.inputs[k].0 as usize];
        match (&node.op, k) {
            (Op::Index(Index::Take { axis }), 1) => Cow::Owned(spread_over(view.clone(), *axis, node.shape.rank())),
            _ => Cow::Borrowed(view),
        }
    }

    /// The node whose elements operand `k` reads.
    pub fn source(&self, graph: &Graph, id: NodeId, k: usize) -> NodeId {
        match (&self.copied[id.0 as usize], self.role[id.0 as usize]) {
            (Some(view), Role::Copy) => view.source,
            _ => self.view[graph.node(id).inputs[k].0 as usize].source,
        }
    }

    /// How many operands a node reads: a copy reads what it copies.
    pub fn n_operands(&self, graph: &Graph, id: NodeId) -> usize {
        if self.role[id.0 as usize] == Role::Copy { 1 } else { graph.node(id).inputs.len() }
    }

    /// Opens a cluster for a node that is a kernel kind of its own.
    fn open_heavy(&mut self, graph: &Graph, max_row: usize, id: NodeId) {
        for k in 0..graph.node(id).inputs.len() {
            self.settle(graph, max_row, self.source(graph, id, k));
        }
        let kind = match &graph.node(id).op {
            Op::Contract(_) => ClusterKind::Contract(id),
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Control(_) => ClusterKind::Other(id),
        };
        self.open(graph, id, kind, squeeze(&graph.node(id).shape), Vec::new());
    }

    fn open(&mut self, graph: &Graph, id: NodeId, kind: ClusterKind, space: Vec<Dim>, reduced: Vec<usize>) {
        self.clusters.push(Cluster {
            kind,
            nodes: Vec::new(),
            space,
            reduced,
            reads: BTreeSet::new(),
            deps: BTreeSet::new(),
            region: self.loops.of[id.0 as usize],
        });
        let level = if self.role[id.0 as usize] == Role::Reduce { Level::Row } else { Level::Point };
        self.join(graph, self.clusters.len() - 1, id, Fit { level, pass: self.first_pass(id), reduced: None });
    }

    fn first_pass(&self, id: NodeId) -> u32 {
        u32::from(self.role[id.0 as usize] == Role::Reduce)
    }

    fn join(&mut self, graph: &Graph, c: usize, id: NodeId, fit: Fit) {
        let operand_level = if self.role[id.0 as usize] == Role::Reduce { Level::Point } else { fit.level };
        for k in 0..self.n_operands(graph, id) {
            let source = self.source(graph, id, k);
            if std::mem::take(&mut self.deferred[source.0 as usize]) {
                self.join(graph, c, source, Fit { level: operand_level, pass: 0, reduced: None });
            }
        }
        for k in 0..self.n_operands(graph, id) {
            let source = self.source(graph, id, k);
            let from = self.cluster[source.0 as usize];
            let makers = self.makers(graph, source);
            self.clusters[c].deps.extend(makers.into_iter().filter(|&maker| maker != c));
            if from != Some(c) && has_memory(graph, source) && self.clusters[c].reads.insert(source) {
                self.readers[source.0 as usize].push(c);
            }
        }
        if let Some(from) = self.awaited(graph, id).filter(|&from| from != c) {
            self.clusters[c].deps.insert(from);
        }
        let begins = self.begins(graph, self.clusters[c].region);
        self.clusters[c].deps.extend(begins);
        let i = id.0 as usize;
        self.clusters[c].nodes.push(id);
        if let Some(reduced) = fit.reduced {
            self.clusters[c].reduced = reduced;
        }
        (self.cluster[i], self.level[i], self.pass[i]) = (Some(c), fit.level, fit.pass);
    }

    /// Puts a node into the best cluster there is for it, or a new one.
    fn place(&mut self, graph: &Graph, max_row: usize, id: NodeId) {
        self.settle_elsewhere(graph, max_row, id);
        let most = self.most_args(id);
        if most < usize::MAX && self.n_args(graph, None, &[id]) > most {
            // What waits to come along is too much for one kernel.
            for k in 0..self.n_operands(graph, id) {
                self.settle(graph, max_row, self.source(graph, id, k));
            }
        }
        let mut best = self.best(graph, max_row, id, self.candidates(graph, id));
        if best.is_none() && self.role[id.0 as usize] == Role::Reduce {
            best = self.best(graph, max_row, id, self.beside(graph, id));
        }
        match best {
            Some((c, fit)) => self.join(graph, c, id, fit),
            None => {
                let (space, reduced) = self.own_space(graph, id);
                self.open(graph, id, ClusterKind::Loop, space, reduced);
            }
        }
    }

    /// The candidate that saves the most of those that `id` can join.
    fn best(
        &mut self,
        graph: &Graph,
        max_row: usize,
        id: NodeId,
        candidates: Vec<(usize, usize)>,
    ) -> Option<(usize, Fit)> {
        let (space, reduced) = self.own_space(graph, id);
        let mut best: Option<(usize, usize, Fit)> = None;
        for (c, saved) in candidates {
            if best.as_ref().is_some_and(|(_, most, _)| *most >= saved) {
                continue;
            }
            match self.fit(graph, max_row, id, c, &space, &reduced) {
                Ok(fit) => best = Some((c, saved, fit)),
                Err(Some(reason)) => self.refusals.push(Refusal { node: id, into: self.clusters[c].nodes[0], reason }),
                Err(None) => {}
            }
        }
        best.map(|(c, _, fit)| (c, fit))
    }

    /// The index space of a node alone: its points, or its operand's points for a reduction.
    fn own_space(&self, graph: &Graph, id: NodeId) -> (Vec<Dim>, Vec<usize>) {
        let node = graph.node(id);
        match (&node.op, self.role[id.0 as usize]) {
            (Op::Reduce(op), Role::Reduce) => {
                let shape = &graph.node(node.inputs[0]).shape;
                (squeeze(shape), squeezed_axes(shape, &reduced_axes(op)))
            }
            _ => (squeeze(&node.shape), Vec::new()),
        }
    }

    /// Whether and how `id` can join cluster `c`. `Err(None)`: the shapes have nothing to do with each other.
    fn fit(
        &self,
        graph: &Graph,
        max_row: usize,
        id: NodeId,
        c: usize,
        space: &[Dim],
        reduced: &[usize],
    ) -> Result<Fit, Option<&'static str>> {
        let cluster = &self.clusters[c];
        let role = self.role[id.0 as usize];
        let level = self.level_in(cluster, role, space, reduced)?;
        if cluster.region != self.loops.of[id.0 as usize] {
            return Err((!space.is_empty()).then_some("a loop runs one of the two"));
        }
        if self.moves.contains(&id) || self.moves.contains(&cluster.nodes[0]) {
            return Err(None);
        }
        if matches!(cluster.kind, ClusterKind::Other(_)) {
            return Err(Some("the producer is a kernel of its own kind"));
        }
        if matches!(cluster.kind, ClusterKind::Contract(_)) && role == Role::Reduce {
            return Err(Some("an epilogue sees one tile and cannot reduce"));
        }
        if matches!(cluster.kind, ClusterKind::Contract(_)) && self.is_for_reductions(id) {
            return Err(Some("only reductions read it, and an epilogue cannot reduce"));
        }
        if cluster.nodes.len() >= MAX_NODES {
            return Err(Some("the loop is as long as registers allow"));
        }
        let operand_level = if role == Role::Reduce { Level::Point } else { level };
        let with_axes = if cluster.reduced.is_empty() { reduced } else { &cluster.reduced[..] };
        let mut pass = 0;
        for k in 0..self.n_operands(graph, id) {
            let view = self.operand(graph, id, k);
            if self.cluster[view.source.0 as usize] == Some(c) {
                let shape = self.operand_shape(graph, id, k);
                let register = self.is_register(cluster, with_axes, &view, shape, operand_level);
                if is_gathered(graph, id, k) || !register {
                    return Err(Some("it reads the producer's elements at other places"));
                }
                pass = pass.max(self.pass[view.source.0 as usize]);
            }
        }
        if operand_level == Level::Point && pass > 0 && !row_is_short(max_row, &cluster.space, with_axes) {
            return Err(Some("the row is too long to be passed over again"));
        }
        if !self.has_room(graph, c, &[id]) {
            return Err(Some("the device takes fewer arguments"));
        }
        if self.waits_for(graph, id, c) {
            return Err(Some("the two would wait for each other"));
        }
        let reduced = (role == Role::Reduce && cluster.reduced.is_empty()).then(|| reduced.to_vec());
        Ok(Fit { level, pass: pass + u32::from(role == Role::Reduce), reduced })
    }

    /// Whether reductions read a point and nobody else. Theirs is the loop in which it costs no memory.
    fn is_for_reductions(&self, id: NodeId) -> bool {
        let users = &self.users[id.0 as usize];
        !users.is_empty()
            && users.iter().all(|user| self.role[user.0 as usize] == Role::Reduce)
            && !self.is_end[id.0 as usize]
    }

    /// The level that a node with this space would have in `cluster`.
    fn level_in(
        &self,
        cluster: &Cluster,
        role: Role,
        space: &[Dim],
        reduced: &[usize],
    ) -> Result<Level, Option<&'static str>> {
        if role == Role::Reduce {
            if space != cluster.space {
                return Err(None);
            }
            let same = cluster.reduced.is_empty() || cluster.reduced == reduced;
            return if same { Ok(Level::Row) } else { Err(Some("the producer reduces other axes")) };
        }
        if space == cluster.space {
            return Ok(Level::Point);
        }
        if !cluster.reduced.is_empty() && space == row_space(cluster) {
            return Ok(Level::Row);
        }
        Err(None)
    }

    /// Shape over which operand `k`'s view is given: the node's own, except where a reduction or a gather reads more.
    pub fn operand_shape<'g>(&self, graph: &'g Graph, id: NodeId, k: usize) -> &'g Shape {
        let node = graph.node(id);
        let own = self.role[id.0 as usize] == Role::Copy || matches!((&node.op, k), (Op::Index(Index::Take { .. }), 1));
        if own { &node.shape } else { &graph.node(node.inputs[k]).shape }
    }

    /// Whether a value made in this cluster and seen through `view` is the one at the same point or row.
    pub fn is_register(&self, cluster: &Cluster, reduced: &[usize], view: &View, shape: &Shape, level: Level) -> bool {
        let source_level = self.level[view.source.0 as usize];
        if !view.map.guards.is_empty() || view.map.offset != Dim::ZERO {
            return false;
        }
        let strides = squeeze_strides(shape, &view.map.strides);
        let expected = match (source_level, level) {
            (Level::Point, Level::Point) => row_major(&cluster.space, &[]),
            (Level::Row, Level::Point) => row_major(&cluster.space, reduced),
            (Level::Row, Level::Row) => row_major(&row_space(cluster), &[]),
            (Level::Point, Level::Row) => return false,
        };
        expected.is_some_and(|e| e == strides)
    }

    /// The cluster of what `id` waits for besides its operands.
    fn awaited(&self, graph: &Graph, id: NodeId) -> Option<usize> {
        let token = graph.waits.get(&id)?;
        self.cluster[self.view[token.0 as usize].source.0 as usize]
    }

    /// The clusters that must run before `id`: those of its operands, of what it awaits, and of what rides with it.
    fn before(&self, graph: &Graph, id: NodeId) -> Vec<usize> {
        let mut before = Vec::new();
        let mut riders = BTreeSet::new();
        let mut open = vec![id];
        while let Some(at) = open.pop() {
            before.extend(self.awaited(graph, at));
            for source in (0..self.n_operands(graph, at)).map(|k| self.source(graph, at, k)) {
                match self.deferred[source.0 as usize] {
                    true if riders.insert(source) => open.push(source),
                    true => {}
                    false => before.extend(self.makers(graph, source)),
                }
            }
        }
        before
    }

    /// Whether something from outside of `c` itself that `id` needs waits for `c`.
    fn waits_for(&self, graph: &Graph, id: NodeId, c: usize) -> bool {
        if self.is_left_by(graph, id, c) {
            return true;
        }
        let mut open = self.before(graph, id);
        open.retain(|&from| from != c);
        let mut seen = vec![false; self.clusters.len()];
        while let Some(at) = open.pop() {
            if at == c {
                return true;
            }
            if !std::mem::replace(&mut seen[at], true) {
                open.extend(self.clusters[at].deps.iter().copied());
            }
        }
        false
    }
}

/// Whether operand `k` is read at places given by data, or as a few words (a random key), so that it must be in memory.
pub fn is_gathered(graph: &Graph, id: NodeId, k: usize) -> bool {
    match &graph.node(id).op {
        Op::Index(Index::Take { .. } | Index::TakeAlong { .. }) => k == 0,
        Op::Random(_) => true,
        Op::Index(Index::TakeGrad { .. } | Index::TakeAlongGrad { .. } | Index::Put { .. } | Index::ArgSort { .. })
        | Op::Leaf(_)
        | Op::Elementwise(_)
        | Op::Movement(_)
        | Op::Reduce(_)
        | Op::Contract(_)
        | Op::Window(_)
        | Op::Control(_) => false,
    }
}

/// A view of the index of `Take` as a view over the result, where the index has axes from `axis` on.
fn spread_over(mut view: View, axis: usize, rank: usize) -> View {
    let n = view.map.strides.len();
    let mut strides = vec![Dim::ZERO; rank];
    strides[axis..axis + n].copy_from_slice(&view.map.strides);
    view.map.strides = strides;
    for guard in &mut view.map.guards {
        let mut strides = vec![0; rank];
        strides[axis..axis + n].copy_from_slice(&guard.strides);
        guard.strides = strides;
    }
    view
}

/// How a node joins a cluster.
struct Fit {
    level: Level,
    pass: u32,
    /// The axes that the cluster reduces from now on, if it did not before.
    reduced: Option<Vec<usize>>,
}

pub fn is_pad(op: &Op) -> bool {
    matches!(op, Op::Movement(Movement::Pad { .. }))
}

/// Whether a source is read from memory, rather than made where it is used.
pub fn has_memory(graph: &Graph, source: NodeId) -> bool {
    !matches!(graph.node(source).op, Op::Leaf(Leaf::Const { .. } | Leaf::Extent { .. } | Leaf::Iota { .. }))
}

pub fn reduced_axes(op: &Reduce) -> Vec<usize> {
    match op {
        Reduce::Sum { axes } | Reduce::Max { axes } | Reduce::Min { axes } => axes.clone(),
        Reduce::ArgMax { axis } | Reduce::CumSum { axis, .. } => vec![*axis],
    }
}

/// `axes` of `shape` counted without its ones.
fn squeezed_axes(shape: &Shape, axes: &[usize]) -> Vec<usize> {
    let kept: Vec<usize> = (0..shape.rank()).filter(|&i| shape.0[i] != Dim::ONE).collect();
    kept.iter().enumerate().filter(|(_, axis)| axes.contains(axis)).map(|(i, _)| i).collect()
}

/// Strides of the axes that are not 1.
pub fn squeeze_strides(shape: &Shape, strides: &[Dim]) -> Vec<Dim> {
    shape.dims().iter().zip(strides).filter(|(d, _)| **d != Dim::ONE).map(|(_, s)| *s).collect()
}

/// Extents of a cluster's rows.
pub fn row_space(cluster: &Cluster) -> Vec<Dim> {
    cluster.space.iter().enumerate().filter(|(i, _)| !cluster.reduced.contains(i)).map(|(_, d)| *d).collect()
}

/// Row-major strides over `space` with the axes in `without` left out (stride 0).
fn row_major(space: &[Dim], without: &[usize]) -> Option<Vec<Dim>> {
    let mut strides = vec![Dim::ZERO; space.len()];
    let mut step = Dim::ONE;
    for i in (0..space.len()).rev().filter(|i| !without.contains(i)) {
        strides[i] = step;
        step = step.times(space[i])?;
    }
    Some(strides)
}

/// Whether rows may be passed over more than once: the reduced axes are the last ones and few.
fn row_is_short(max_row: usize, space: &[Dim], reduced: &[usize]) -> bool {
    let (outer, inner) = space.split_at(space.len() - reduced.len());
    let trailing = reduced.iter().copied().eq(outer.len()..space.len());
    let n_rows = || outer.iter().map(|d| d.at(NOMINAL_BATCH)).product::<usize>();
    let elems = inner.iter().map(|d| d.as_fixed()).product::<Option<usize>>();
    trailing && elems.is_some_and(|n| n <= max_row && (n <= LONG_ROW.0 || n_rows() >= LONG_ROW.1))
}
