//! Text of a graph, one node a line, and Graphviz dot. Takes a graph, gives text that is the same for the same graph. Never
//! prints anything that a `Graph` does not hold.

use super::op::{Control, Leaf, Op};
use super::{Graph, Node, NodeId};
use std::fmt::{self, Write};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for slot in &self.slots {
            writeln!(
                f,
                "slot {} {} {} {:?} = {:?}",
                slot.name,
                slot.shape,
                slot.dtype,
                slot.kind,
                InitText(&slot.init)
            )?;
        }
        for id in self.ids() {
            let node = self.node(id);
            write!(f, "%{} = {}", id.0, op_text(self, &node.op))?;
            for input in &node.inputs {
                write!(f, " %{}", input.0)?;
            }
            write!(f, "  {} {}", node.shape, node.dtype)?;
            match self.scopes[node.scope as usize].as_str() {
                "" => writeln!(f)?,
                path => writeln!(f, "  # {path}")?,
            }
        }
        for (slot, node) in &self.updates {
            writeln!(f, "update {} <- %{}", self.slot(*slot).name, node.0)?;
        }
        for output in &self.outputs {
            writeln!(f, "output {} = %{}", output.name, output.node.0)?;
        }
        Ok(())
    }
}

/// An initializer without the bulk of its values.
struct InitText<'a>(&'a super::Init);

impl fmt::Debug for InitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            super::Init::Values(values) => write!(f, "Values({} elements)", values.len()),
            other => write!(f, "{other:?}"),
        }
    }
}

/// An op with its attributes: "slice [1:+27, ..]".
pub fn op_text(graph: &Graph, op: &Op) -> String {
    match op {
        Op::Leaf(Leaf::Input { id, .. }) => format!("input {}", graph.inputs[id.0 as usize].name),
        Op::Leaf(Leaf::Slot { id, .. }) => format!("slot {}", graph.slot(*id).name),
        Op::Leaf(Leaf::Const { value, .. }) => format!("const {value}"),
        Op::Leaf(Leaf::Extent { dim, .. }) => format!("extent {dim}"),
        Op::Leaf(Leaf::Iota { .. }) => "iota".to_string(),
        Op::Elementwise(_) => op.name().to_string(),
        Op::Movement(m) => format!("{m:?}").to_lowercase(),
        Op::Reduce(r) => format!("{r:?}").to_lowercase(),
        Op::Contract(c) => format!("{c:?}"),
        Op::Window(w) => format!("{w:?}"),
        Op::Index(i) => format!("{i:?}"),
        Op::Random(r) => format!("random_bits stream {}", r.stream),
        Op::Control(Control::Carry { of, index }) => format!("carry {index} of loop {of}"),
        Op::Control(Control::Result { index, max_trips }) => {
            format!("while_loop value {index}, at most {max_trips} trips")
        }
    }
}

/// The graph in Graphviz dot: nodes are boxes, slots and inputs are ovals.
pub fn dot(graph: &Graph) -> String {
    let mut text = String::from("digraph step {\n  node [shape=box, fontname=monospace];\n");
    for id in graph.ids() {
        let node = graph.node(id);
        let shape = if matches!(node.op, Op::Leaf(_)) { ", shape=oval" } else { "" };
        let label = format!("%{} {}\\n{} {}", id.0, op_text(graph, &node.op), node.shape, node.dtype);
        writeln!(text, "  n{} [label=\"{}\"{shape}];", id.0, label.replace('"', "'"))
            .expect("bug: writing to a String fails");
        edges(&mut text, id, node);
    }
    for (slot, node) in &graph.updates {
        let name = &graph.slot(*slot).name;
        writeln!(text, "  n{} -> \"{name}'\" [style=dashed];", node.0).expect("bug: writing to a String fails");
    }
    text.push_str("}\n");
    text
}

fn edges(text: &mut String, id: NodeId, node: &Node) {
    for input in &node.inputs {
        writeln!(text, "  n{} -> n{};", input.0, id.0).expect("bug: writing to a String fails");
    }
}
