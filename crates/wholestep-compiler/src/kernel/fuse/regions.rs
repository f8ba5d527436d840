//! What loops mean for fusion: which trip runs a node, what must be there before a value of a loop is read, and which copies may turn out to be
//! none. Takes a pinned graph. Never merges anything.

use super::Fusion;
use crate::ir::loops::Loops;
use crate::ir::op::{Control, Leaf, Movement, Op};
use crate::ir::{Graph, NodeId};
use std::collections::BTreeSet;

/// Which loop runs each node of a pinned graph: what a loop begins with is made in the region around it, even if it is always the same, since
/// trips overwrite it; what a trip leaves is made in the trip; and what only a branch uses is made in it, where it may not have to be made.
pub fn regions(graph: &Graph) -> Loops {
    let mut loops = Loops::of(graph).expect("bug: a pass takes values out of a loop");
    let mut is_bound = vec![loops.list.is_empty(); graph.nodes.len()];
    for (index, l) in loops.list.iter().enumerate() {
        for (carry, next) in l.carries.iter().zip(&l.nexts) {
            let first = graph.node(*carry).inputs[0];
            loops.of[first.0 as usize] = l.parent;
            loops.of[next.0 as usize] = Some(index);
            [first, *carry, *next].iter().for_each(|id| is_bound[id.0 as usize] = true);
        }
    }
    let ends = graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node));
    ends.for_each(|id| is_bound[id.0 as usize] = true);
    // By node, the innermost region in which all its users are.
    let mut used_in: Vec<Option<Option<usize>>> = vec![None; graph.nodes.len()];
    for id in graph.ids().rev() {
        let node = graph.node(id);
        let is_computed = !matches!(node.op, Op::Leaf(_) | Op::Control(_));
        if let Some(users) = used_in[id.0 as usize].filter(|_| is_computed && !is_bound[id.0 as usize]) {
            loops.of[id.0 as usize] = sunk(&loops, loops.of[id.0 as usize], users);
        }
        let region = loops.of[id.0 as usize];
        for x in &node.inputs {
            let users = &mut used_in[x.0 as usize];
            *users = Some(users.map_or(region, |users| common(&loops, users, region)));
        }
    }
    loops
}

/// The innermost region that both lie in.
fn common(loops: &Loops, a: Option<usize>, b: Option<usize>) -> Option<usize> {
    loops.chain(a).find(|&l| loops.is_within(b, Some(l)))
}

/// Where a node of `region` runs that only `users` needs: as far in as there are branches, loops of one trip, and nothing runs twice.
fn sunk(loops: &Loops, region: Option<usize>, users: Option<usize>) -> Option<usize> {
    let mut at = region;
    while let Some(next) = loops.child_towards(at, users).filter(|&l| loops.list[l].max_trips == 1) {
        at = Some(next);
    }
    at
}

/// Identities whose operand is a slot or a value of a loop and whose memory is the other of the two.
pub fn moves(graph: &Graph) -> BTreeSet<NodeId> {
    let is_home = |id: NodeId| matches!(graph.node(id).op, Op::Leaf(Leaf::Slot { .. }) | Op::Control(_));
    let is_move = |id: &NodeId| {
        let node = graph.node(*id);
        matches!(node.op, Op::Movement(Movement::Reshape { .. }))
            && node.shape.rank() > 0
            && node.shape == graph.node(node.inputs[0]).shape
            && is_home(node.inputs[0])
    };
    let firsts = graph.ids().filter(|id| matches!(graph.node(*id).op, Op::Control(Control::Carry { .. })));
    let firsts = firsts.map(|id| graph.node(id).inputs[0]);
    let results = graph.ids().filter(|id| matches!(graph.node(*id).op, Op::Control(Control::Result { .. })));
    let nexts = results.flat_map(|id| &graph.node(id).inputs[graph.node(id).inputs.len() / 2..]).copied();
    let of_result = |id: &NodeId| {
        let node = graph.node(*id);
        node.inputs.iter().any(|x| matches!(graph.node(*x).op, Op::Control(Control::Result { .. })))
    };
    let updates = graph.updates.iter().map(|(_, node)| *node);
    firsts.chain(nexts.chain(updates).filter(of_result)).filter(is_move).collect()
}

impl Fusion {
    /// The clusters that make what the loops around `region` begin with: all that is in a loop runs after all of these.
    pub(super) fn begins(&self, graph: &Graph, region: Option<usize>) -> Vec<usize> {
        let carries = self.loops.chain(region).flat_map(|l| &self.loops.list[l].carries);
        carries.filter_map(|carry| self.cluster[graph.node(*carry).inputs[0].0 as usize]).collect()
    }

    /// Whether `id` reads what is left of a loop that begins with something that cluster `c` makes.
    pub(super) fn is_left_by(&self, graph: &Graph, id: NodeId, c: usize) -> bool {
        (0..self.n_operands(graph, id)).any(|k| {
            let source = self.source(graph, id, k);
            matches!(graph.node(source).op, Op::Control(_)) && self.makers(graph, source).contains(&c)
        })
    }

    /// The clusters that must run before a value is there: the one that makes it; for a value of a loop the one that makes what it begins with,
    /// and after the loop all that a trip makes.
    pub(super) fn makers(&self, graph: &Graph, source: NodeId) -> Vec<usize> {
        let node = graph.node(source);
        let of = |id: &NodeId| self.cluster[id.0 as usize];
        match &node.op {
            Op::Control(Control::Carry { .. }) => of(&node.inputs[0]).into_iter().collect(),
            Op::Control(Control::Result { .. }) => {
                let (carries, nexts) = node.inputs.split_at(node.inputs.len() / 2);
                let firsts = carries.iter().map(|carry| &graph.node(*carry).inputs[0]);
                firsts.chain(nexts).filter_map(of).collect()
            }
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_) => of(&source).into_iter().collect(),
        }
    }
}
