//! The first value of a step that is not finite (`WHOLESTEP_NAN=1`). Takes a traced program, makes every computed value of it readable, and
//! after a step that went wrong gives the node where that began, with its scope and line. Never blames a value that was not used: masks may
//! hold infinities.

use super::loaded::{Loaded, device_failed, find};
use super::values::array_from_bytes;
use crate::data::Array;
use crate::{Error, ErrorKind, Result};
use wholestep_compiler::ir::op::Leaf;
use wholestep_compiler::ir::scope::STEP;
use wholestep_compiler::ir::{DType, Graph, NodeId, Op, OutputDecl, SlotId, SlotKind};

/// Outputs that a step of one's own must not make non-finite.
const RESULTS: [&str; 2] = ["loss", "output"];

/// What is known of a program whose values can all be read.
pub struct Watch {
    /// As traced: with every node, scope and line.
    graph: Graph,
    /// By node, its output.
    output_of: Vec<Option<usize>>,
    /// By slot, whether it was finite before the step.
    was_bad: Vec<bool>,
}

/// `graph` with every computed float as an output, and what finds them again. Views compute nothing and are left out.
pub fn watched(graph: &Graph) -> (Graph, Watch) {
    let mut more = graph.clone();
    // Values that can be read are kept, however much memory they take.
    more.fit = None;
    let mut output_of = vec![None; graph.nodes.len()];
    let used = used(graph);
    for id in graph.ids().filter(|id| used[id.0 as usize] && is_computed(graph, *id)) {
        output_of[id.0 as usize] = Some(more.outputs.len());
        more.outputs.push(OutputDecl { name: format!("{HIDDEN}{}", id.0), node: id });
    }
    let was_bad = vec![false; graph.slots.len()];
    (more, Watch { graph: graph.clone(), output_of, was_bad })
}

/// How the outputs of a watched program begin that nobody asked for.
pub const HIDDEN: &str = "watch/";

fn is_computed(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    node.dtype.is_float() && !matches!(node.op, Op::Leaf(_) | Op::Movement(_))
}

/// Nodes that a result or a slot depends on.
fn used(graph: &Graph) -> Vec<bool> {
    let mut used = vec![false; graph.nodes.len()];
    let mut open: Vec<NodeId> = graph.outputs.iter().map(|o| o.node).chain(graph.updates.iter().map(|u| u.1)).collect();
    while let Some(id) = open.pop() {
        if !std::mem::replace(&mut used[id.0 as usize], true) {
            open.extend(&graph.node(id).inputs);
        }
    }
    used
}

/// Whether a slot that is not finite means that a step went wrong: schedules and sums may hold infinities.
fn must_be_finite(name: &str, kind: SlotKind) -> bool {
    match kind {
        SlotKind::Param { .. } | SlotKind::Buffer => true,
        SlotKind::State => name.starts_with("optimizer/"),
        SlotKind::Scalar => false,
    }
}

impl Loaded {
    /// Notes which slots are not finite before a step.
    pub fn note_slots(&mut self) -> Result<()> {
        for i in 0..self.slots().len() {
            let bad = self.bad_in_slot(i)?.is_some();
            if let Some(watch) = &mut self.watch {
                watch.was_bad[i] = bad;
            }
        }
        Ok(())
    }

    /// Errors (`ErrorKind::Diverged`): the step that just ran made the loss, a weight or optimizer state that is not finite; the text names
    /// the node where it began.
    pub fn check_finite(&mut self, inputs: &[(&str, &Array)]) -> Result<()> {
        let Some(watch) = self.watch.take() else { return Ok(()) };
        let checked = self.first_fault(&watch, inputs);
        self.watch = Some(watch);
        checked?.map_or(Ok(()), |text| Err(Error::new(ErrorKind::Diverged, text)))
    }

    fn first_fault(&mut self, watch: &Watch, inputs: &[(&str, &Array)]) -> Result<Option<String>> {
        let graph = &watch.graph;
        let results = graph.outputs.iter().filter(|o| RESULTS.contains(&o.name.as_str())).map(|o| o.node);
        let mut targets: Vec<NodeId> = results.collect();
        for (slot, node) in &graph.updates {
            let decl = graph.slot(*slot);
            if must_be_finite(&decl.name, decl.kind) && self.bad_in_slot(slot.0 as usize)?.is_some() {
                targets.push(*node);
            }
        }
        let mut search = Search { watch, inputs, known: vec![None; graph.nodes.len()] };
        let mut first: Option<NodeId> = None;
        for target in targets {
            if search.is_bad(self, target)? {
                let origin = search.origin(self, target)?;
                first = Some(first.map_or(origin, |f| f.min(origin)));
            }
        }
        first.map(|id| search.describe(self, id)).transpose()
    }

    /// The first value of a slot that is not finite: its place and the value.
    fn bad_in_slot(&mut self, i: usize) -> Result<Option<(usize, f64)>> {
        let slot = &self.slots()[i];
        if !slot.dtype.is_float() {
            return Ok(None);
        }
        let (dtype, shape) = (slot.dtype, slot.shape.at(0));
        let mut bytes = vec![0; slot.shape.numel_at(0) * dtype.size_bytes()];
        self.executable.read_slot(SlotId(i as u32), &mut bytes).map_err(device_failed)?;
        Ok(first_bad(&bytes, dtype, shape))
    }

    fn bad_in_output(&mut self, index: usize) -> Result<Option<(usize, f64)>> {
        let output = &self.compiled.plan.outputs[index];
        let (dtype, shape) = (output.dtype, output.shape.at(self.batch));
        let mut bytes = vec![0; output.shape.numel_at(self.batch) * dtype.size_bytes()];
        self.executable.read_output(index, &mut bytes).map_err(device_failed)?;
        Ok(first_bad(&bytes, dtype, shape))
    }
}

fn first_bad(bytes: &[u8], dtype: DType, shape: Vec<usize>) -> Option<(usize, f64)> {
    let mut found = None;
    let mut at = 0;
    let mut see = |x: f64| {
        if !x.is_finite() && found.is_none() {
            found = Some((at, x));
        }
        at += 1;
    };
    match dtype {
        DType::F16 => bytes.chunks_exact(2).for_each(|b| see(half::f16::from_le_bytes([b[0], b[1]]).to_f64())),
        DType::BF16 => bytes.chunks_exact(2).for_each(|b| see(half::bf16::from_le_bytes([b[0], b[1]]).to_f64())),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => {
            array_from_bytes(dtype, shape, bytes).ok()?.for_each_f64(see);
        }
    }
    found
}

struct Search<'a> {
    watch: &'a Watch,
    inputs: &'a [(&'a str, &'a Array)],
    known: Vec<Option<bool>>,
}

impl Search<'_> {
    /// Whether a node holds a value that is not finite; of a view, whether what it looks at does.
    fn is_bad(&mut self, loaded: &mut Loaded, id: NodeId) -> Result<bool> {
        let at = id.0 as usize;
        if let Some(known) = self.known[at] {
            return Ok(known);
        }
        let node = self.watch.graph.node(id);
        let bad = match (&node.op, self.watch.output_of[at]) {
            (_, Some(output)) => loaded.bad_in_output(output)?.is_some(),
            (Op::Leaf(Leaf::Slot { id, .. }), None) => self.watch.was_bad[id.0 as usize],
            (Op::Leaf(Leaf::Input { id, .. }), None) => {
                let decl = &self.watch.graph.inputs[id.0 as usize];
                bad_in_array(find(decl, self.inputs)?).is_some()
            }
            (Op::Leaf(Leaf::Const { .. } | Leaf::Extent { .. } | Leaf::Iota { .. }), None) => false,
            (_, None) => {
                let mut any = false;
                for input in node.inputs.clone() {
                    any |= self.is_bad(loaded, input)?;
                }
                any
            }
        };
        self.known[at] = Some(bad);
        Ok(bad)
    }

    /// The earliest node from which a bad value came to `id`, itself bad with only good operands.
    fn origin(&mut self, loaded: &mut Loaded, id: NodeId) -> Result<NodeId> {
        let mut open = vec![id];
        let mut seen = vec![false; self.known.len()];
        let mut first: Option<NodeId> = None;
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.0 as usize], true) {
                continue;
            }
            let mut comes_from_before = false;
            for input in self.watch.graph.node(id).inputs.clone() {
                if self.is_bad(loaded, input)? {
                    comes_from_before = true;
                    open.push(input);
                }
            }
            if !comes_from_before {
                first = Some(first.map_or(id, |f| f.min(id)));
            }
        }
        Ok(first.unwrap_or(id))
    }

    fn describe(&self, loaded: &mut Loaded, id: NodeId) -> Result<String> {
        let graph = &self.watch.graph;
        let node = graph.node(id);
        let step = match loaded.slots().iter().any(|s| s.name == STEP) {
            true => format!("in step {}", loaded.read(STEP)?.slice::<u32>()?[0]),
            false => "in this run".to_string(),
        };
        let (what, bad) = match (&node.op, self.watch.output_of[id.0 as usize]) {
            (_, Some(output)) => (node.op.name().to_string(), loaded.bad_in_output(output)?),
            (Op::Leaf(Leaf::Slot { id, .. }), None) => (format!("{} before it", graph.slot(*id).name), None),
            (Op::Leaf(Leaf::Input { id, .. }), None) => {
                let decl = &graph.inputs[id.0 as usize];
                (format!("input {}", decl.name), bad_in_array(find(decl, self.inputs)?))
            }
            (op, None) => (op.name().to_string(), None),
        };
        let value = bad.map_or("not finite".to_string(), |(at, x)| format!("{x} at element {at}"));
        let mut text = format!(
            "the first value that is not finite {step}: {what} is {value} of {} {}\n  --> {}",
            node.shape,
            node.dtype,
            graph.position(node.scope, node.loc)
        );
        for &input in &node.inputs {
            let from = graph.node(input);
            let name = match &from.op {
                Op::Leaf(Leaf::Slot { id, .. }) => graph.slot(*id).name.clone(),
                Op::Leaf(Leaf::Input { id, .. }) => format!("input {}", graph.inputs[id.0 as usize].name),
                op => op.name().to_string(),
            };
            let position = graph.position(from.scope, from.loc);
            text += &format!("\n  of {name} {} {}, finite   {position}", from.shape, from.dtype);
        }
        Ok(text)
    }
}

fn bad_in_array(array: &Array) -> Option<(usize, f64)> {
    let (mut found, mut at) = (None, 0);
    array.for_each_f64(|x| {
        if !x.is_finite() && found.is_none() {
            found = Some((at, x));
        }
        at += 1;
    });
    found
}
