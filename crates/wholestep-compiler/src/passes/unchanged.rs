//! Loops: takes a graph, gives it without the values of loops that no trip changes, which are what they began as. What is then left of a body
//! may turn out not to change either and runs once. Never drops the condition of a loop.

use super::rewrite::rebuild;
use crate::ir::Graph;
use crate::ir::loops::Loops;
use crate::ir::op::{Control, Op};

pub fn unchanged(graph: &Graph) -> Graph {
    let loops = Loops::of(graph).expect("bug: a pass takes values out of a loop");
    // By loop and value.
    let changes = |l: usize, i: usize| i == 0 || loops.list[l].carries[i] != loops.list[l].nexts[i];
    if (0..loops.list.len()).all(|l| (0..loops.list[l].carries.len()).all(|i| changes(l, i))) {
        return graph.clone();
    }
    let fewer = rebuild(graph, |r, id, inputs| {
        let node = graph.node(id);
        match &node.op {
            Op::Control(Control::Carry { .. }) => {
                let place = |l: usize| loops.list[l].carries.iter().position(|carry| *carry == id).map(|i| (l, i));
                match (0..loops.list.len()).find_map(place) {
                    Some((l, i)) if !changes(l, i) => inputs[0],
                    Some(_) | None => r.copy(node, inputs),
                }
            }
            Op::Control(Control::Result { index, max_trips }) => {
                let l = loops.list.iter().position(|l| l.results.contains(&id)).expect("bug: a result of no loop");
                let index = *index as usize;
                if !changes(l, index) {
                    let carry = loops.list[l].carries[index];
                    return r.map[graph.node(carry).inputs[0].0 as usize];
                }
                let n = inputs.len() / 2;
                let left: Vec<_> = (0..2 * n).filter(|&k| changes(l, k % n)).map(|k| inputs[k]).collect();
                let index = (0..index).filter(|&i| changes(l, i)).count() as u32;
                r.push(Control::Result { index, max_trips: *max_trips }, &left, node)
            }
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Movement(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_) => r.copy(node, inputs),
        }
    });
    // What an inner loop leaves as it is, the outer one may leave too.
    unchanged(&fewer)
}
