//! A table of a model: each layer, what it gives, how many parameters it has. Takes a model, gives rows and text. Never runs anything: it
//! traces the model in a graph of its own.

use super::Model;
use crate::Result;
use std::fmt;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, Dim, Scope, Shape, SlotKind};

/// One line of a summary.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// How many containers it stands in.
    pub depth: usize,
    /// The layer's scope; "(implicit)" for a flatten that the model did not spell out.
    pub name: String,
    /// "conv2d".
    pub kind: String,
    /// With the batch axis.
    pub output: Shape,
    /// Learned elements, those of the layers within it included.
    pub n_params: usize,
    /// Elements kept but not learned: running statistics.
    pub n_buffers: usize,
}

/// A model's layers with their shapes and sizes; prints as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Names, and shapes with the batch axis.
    pub inputs: Vec<(String, Shape)>,
    /// In the order of tracing: what stands in a container comes before it.
    pub rows: Vec<Row>,
    /// Learned elements of the whole model.
    pub n_params: usize,
    /// Elements kept but not learned, of the whole model.
    pub n_buffers: usize,
}

impl Model {
    /// Traces the model by itself and lists its layers.
    /// Errors: as [`Model::build`].
    #[track_caller]
    pub fn summary(&self) -> Result<Summary> {
        let s = Scope::root(Mode::Infer);
        let inputs = self.inputs.iter().map(|input| {
            let mut dims = vec![Batch];
            dims.extend(input.shape.iter().map(|&n| Dim::fixed(n)));
            (input.name.clone(), Shape(dims))
        });
        let inputs: Vec<(String, Shape)> = inputs.collect();
        let mut rows = Vec::new();
        self.build_observed(&s, &mut |depth, name, kind, y, first_slot| {
            let graph = y.graph().borrow();
            let (mut n_params, mut n_buffers) = (0, 0);
            for slot in &graph.slots[first_slot..] {
                match slot.kind {
                    SlotKind::Param { .. } => n_params += slot.shape.numel_at(0),
                    SlotKind::Buffer => n_buffers += slot.shape.numel_at(0),
                    SlotKind::State | SlotKind::Scalar => {}
                }
            }
            let output = graph.node(y.id()).shape.clone();
            rows.push(Row { depth, name: name.to_string(), kind: kind.to_string(), output, n_params, n_buffers });
        })?;
        let total = |count: fn(&Row) -> usize| rows.iter().filter(|r| r.depth == 0).map(count).sum();
        let (n_params, n_buffers) = (total(|r| r.n_params), total(|r| r.n_buffers));
        Ok(Summary { inputs, rows, n_params, n_buffers })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![["layer".to_string(), "type".to_string(), "output".to_string(), "parameters".to_string()]];
        for (name, shape) in &self.inputs {
            lines.push([name.clone(), "input".to_string(), shape.to_string(), String::new()]);
        }
        for row in &self.rows {
            let name = format!("{}{}", "  ".repeat(row.depth), row.name);
            lines.push([name, row.kind.clone(), row.output.to_string(), grouped(row.n_params)]);
        }
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let (a, b, c, d) = (width(0), width(1), width(2), width(3));
        for [name, kind, output, params] in &lines {
            let line = format!("{name:a$}  {kind:b$}  {output:c$}  {params:>d$}");
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(f, "{} parameters", grouped(self.n_params))?;
        if self.n_buffers > 0 {
            write!(f, ", {} kept without being learned", grouped(self.n_buffers))?;
        }
        writeln!(f)
    }
}

/// 1234567 as "1,234,567".
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or("")).collect();
    groups.join(",")
}
