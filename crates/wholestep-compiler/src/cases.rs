//! The table that tests each primitive op everywhere. Takes nothing, gives every family's rows with graphs and data to run them: forward,
//! and forward with gradients. Never part of a build that ships: feature `cases`.

mod control;
pub mod program;

use crate::autodiff::gradients_or_none;
use crate::ir::case::Operand;
pub use crate::ir::case::{Case, Gradient, Values};
use crate::ir::op::{contract, elementwise, index, leaf, movement, random, reduce, window};
use crate::ir::prim::{mul, reshape, sum};
use crate::ir::scope::Mode;
use crate::ir::{DType, Graph, Init, Scope, Shape, Slot, Tensor};

/// Every row.
pub fn all() -> Vec<Case> {
    let families = [
        leaf::cases(),
        elementwise::cases(),
        movement::cases(),
        reduce::cases(),
        contract::cases(),
        window::cases(),
        index::cases(),
        random::cases(),
        control::cases(),
    ];
    families.concat()
}

/// What floats a row's graph has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floats {
    /// In what the op computes.
    pub computed: DType,
    /// In what its operands come and its results go: where that is another, they are converted.
    pub stored: DType,
}

impl From<DType> for Floats {
    fn from(all: DType) -> Floats {
        Floats { computed: all, stored: all }
    }
}

impl Floats {
    /// f32 whose operands and results are of 16 bits.
    pub fn kept_in(half: DType) -> Floats {
        Floats { computed: DType::F32, stored: half }
    }

    /// What a value of `dtype` is stored in.
    fn of(self, dtype: DType) -> DType {
        if dtype.is_float() { self.stored } else { dtype }
    }

    fn taken(self, x: &Tensor) -> Tensor {
        let is_other = x.dtype().is_float() && x.dtype() != self.computed;
        if is_other { x.cast(self.computed) } else { x.clone() }
    }

    fn given(self, y: &Tensor) -> Tensor {
        let to = self.of(y.dtype());
        if to == y.dtype() { y.clone() } else { y.cast(to) }
    }
}

impl Case {
    /// "conv: depthwise".
    pub fn title(&self) -> String {
        format!("{}: {}", self.op, self.name)
    }

    /// The row's graph with floats as `floats` says: inputs `x0, x1 ..`, output `y`.
    pub fn trace(&self, floats: impl Into<Floats>) -> Graph {
        let floats = floats.into();
        let (scope, _, y) = self.traced(floats);
        scope.output("y", &floats.given(&y));
        take(&scope)
    }

    /// The row's graph with the gradient of `Σ y·v`: inputs `x0, x1 ..` and `v` (of y's shape); outputs `y` and, for each float operand i
    /// that gets a gradient, `d_x{i}`. `None` for rows that no gradient passes.
    pub fn trace_gradients(&self, floats: impl Into<Floats>) -> Option<Graph> {
        let floats = floats.into();
        let (scope, operands, y) = self.traced(floats);
        if self.gradient == Gradient::Nothing {
            return None;
        }
        scope.output("y", &floats.given(&y));
        for (i, d_x) in self.differentiate(&scope, &operands, &y, floats) {
            scope.output(&format!("d_x{i}"), &floats.given(&d_x));
        }
        Some(take(&scope))
    }

    /// Data for the inputs of either graph at batch size `batch`, the same for the same `seed`: [`Case::trace`] uses the first
    /// `operands.len()` of them.
    pub fn inputs(&self, batch: usize, seed: u32) -> Vec<Vec<f64>> {
        let y = Operand {
            shape: self.traced(DType::F64.into()).2.shape(),
            values: Values::AwayFromZero { lo: 0.5, hi: 1.5 },
        };
        let operands = self.operands.iter().chain([&y]).enumerate();
        operands.map(|(i, operand)| operand.draw(batch, 1000 * seed + i as u32)).collect()
    }

    fn traced(&self, floats: Floats) -> (Scope, Vec<Tensor>, Tensor) {
        let scope = Scope::root(Mode::Train);
        let declare =
            |(i, x): (usize, &Operand)| floats.taken(&scope.input(&format!("x{i}"), &x.shape, x.dtype(floats.stored)));
        let operands: Vec<Tensor> = self.operands.iter().enumerate().map(declare).collect();
        let y = (self.build)(&scope, &operands);
        (scope, operands, y)
    }

    /// The gradients of `Σ y·v` by the float operands that have one.
    fn differentiate(&self, scope: &Scope, operands: &[Tensor], y: &Tensor, floats: Floats) -> Vec<(usize, Tensor)> {
        let v = floats.taken(&scope.input("v", y.shape(), floats.of(y.dtype())));
        let wanted: Vec<(usize, &Tensor)> = operands.iter().enumerate().filter(|(_, x)| x.dtype().is_float()).collect();
        let wrt: Vec<Tensor> = wanted.iter().map(|(_, x)| (*x).clone()).collect();
        let found = gradients_or_none(&total(&mul(y, &v)), &wrt);
        wanted.into_iter().zip(found).filter_map(|((i, _), d_x)| Some((i, d_x?))).collect()
    }
}

/// What the slots of a row's graph hold before the first step. The random key is `[1, 2]`.
pub fn initial_slots(graph: &Graph) -> Vec<Vec<f64>> {
    let fill = |slot: &Slot| match &slot.init {
        Init::Const(value) => vec![*value; slot.shape.numel_at(1)],
        Init::Values(values) => values.iter().map(|&v| f64::from(v)).collect(),
        Init::Key => vec![1.0, 2.0],
        Init::Uniform { .. } | Init::Normal { .. } | Init::TruncNormal { .. } | Init::Orthogonal { .. } => {
            panic!("bug: rows of the table do not draw their slots")
        }
    };
    graph.slots.iter().map(fill).collect()
}

/// The sum of all elements.
fn total(x: &Tensor) -> Tensor {
    reshape(&sum(x, (0..x.rank()).collect()), &Shape::scalar())
}

fn take(scope: &Scope) -> Graph {
    scope.graph().borrow().clone()
}

#[cfg(test)]
mod tests;
