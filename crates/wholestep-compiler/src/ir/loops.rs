//! The loops of a graph: which there are, how they nest and which nodes each trip runs. Takes a graph, gives that as data, or the value of a
//! body that is used where no trip is. Never depends on the order of nodes: a node is in a body because of what it depends on.

use super::op::{Control, Op};
use super::{BuildError, Graph, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// One loop. Vectors are by value of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// After so many it ends, whatever its condition.
    pub max_trips: u32,
    /// The nodes that stand for the values within the body.
    pub carries: Vec<NodeId>,
    /// What a trip makes of each.
    pub nexts: Vec<NodeId>,
    /// The nodes that read what is left, in order.
    pub results: Vec<NodeId>,
    /// The loop in whose body it lies.
    pub parent: Option<usize>,
}

/// All loops of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loops {
    /// Those whose first result comes first are first.
    pub list: Vec<Loop>,
    /// By node, the innermost loop whose trips compute it.
    pub of: Vec<Option<usize>>,
}

/// A node that uses values of bodies that are never there together, or after their loop is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak(pub NodeId);

impl Loops {
    /// Errors: the first node that uses a value of a body outside of it.
    pub fn of(graph: &Graph) -> Result<Loops, Leak> {
        let mut list: Vec<Loop> = Vec::new();
        let mut of_carry: BTreeMap<NodeId, usize> = BTreeMap::new();
        for id in graph.ids() {
            let node = graph.node(id);
            let Op::Control(Control::Result { max_trips, .. }) = node.op else { continue };
            let (carries, nexts) = node.inputs.split_at(node.inputs.len() / 2);
            let index = *of_carry.entry(carries[0]).or_insert_with(|| {
                let (carries, nexts) = (carries.to_vec(), nexts.to_vec());
                list.push(Loop { max_trips, carries, nexts, results: Vec::new(), parent: None });
                list.len() - 1
            });
            list[index].results.push(id);
            carries.iter().for_each(|&carry| {
                of_carry.insert(carry, index);
            });
        }
        if list.is_empty() {
            return Ok(Loops { list, of: vec![None; graph.nodes.len()] });
        }
        // By node, all loops within which it lies.
        let mut around: Vec<BTreeSet<usize>> = Vec::with_capacity(graph.nodes.len());
        for id in graph.ids() {
            let node = graph.node(id);
            let mut set: BTreeSet<usize> =
                node.inputs.iter().flat_map(|x| around[x.0 as usize].iter().copied()).collect();
            if let Op::Control(op) = &node.op {
                match op {
                    Control::Carry { .. } => set.extend(of_carry.get(&id)),
                    Control::Result { .. } => {
                        set.remove(&of_carry[&node.inputs[0]]);
                    }
                }
            }
            around.push(set);
        }
        let outer: Vec<BTreeSet<usize>> = list.iter().map(|l| around[l.results[0].0 as usize].clone()).collect();
        let innermost = |set: &BTreeSet<usize>| set.iter().copied().max_by_key(|&l| (outer[l].len(), l));
        let mut of = Vec::with_capacity(graph.nodes.len());
        for id in graph.ids() {
            let set = &around[id.0 as usize];
            let inner = innermost(set);
            if inner.is_some_and(|inner| set.iter().any(|l| *l != inner && !outer[inner].contains(l))) {
                return Err(Leak(id));
            }
            of.push(inner);
        }
        let ends = graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|(_, node)| *node));
        if let Some(end) = ends.into_iter().find(|end| of[end.0 as usize].is_some()) {
            return Err(Leak(end));
        }
        for (l, outer) in list.iter_mut().zip(&outer) {
            l.parent = innermost(outer);
        }
        Ok(Loops { list, of })
    }

    /// The loops around something in `inner`, itself first.
    pub fn chain(&self, inner: Option<usize>) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(inner, |&l| self.list[l].parent)
    }

    /// Whether `region` is `outer` or lies in its body; everything lies in `None`.
    pub fn is_within(&self, region: Option<usize>, outer: Option<usize>) -> bool {
        outer.is_none_or(|outer| self.chain(region).any(|l| l == outer))
    }

    /// The region in the body of `outer`, or `outer` itself, in which `region` lies: what stands for it among the items of `outer`.
    pub fn child_towards(&self, outer: Option<usize>, region: Option<usize>) -> Option<usize> {
        self.chain(region).find(|&l| self.list[l].parent == outer)
    }
}

impl Leak {
    /// As an error of the user's program.
    pub fn error(self, graph: &Graph) -> BuildError {
        let node = graph.node(self.0);
        BuildError::new(node.op.name(), "it uses a value that only the body of a loop has")
            .at(graph.position(node.scope, node.loc))
            .help("let the body return it as one of the loop's values, and use what while_loop returns")
    }
}
