//! Composite ops: the maths of `Tensor` said in primitive ops, by family. Takes tensors and options, gives tensors, or records the first
//! error at the user's line. Never holds a gradient rule or knows a device.

pub mod activation;
pub mod arrange;
pub mod control;
pub mod conv;
pub mod index;
pub mod linalg;
pub mod loss;
pub mod math;
pub mod norm;
pub mod pool;
pub mod random;
pub mod reduce;
pub mod shape;
pub mod solve;

pub use arrange::PadMode;
pub use conv::{ConvOptions, ConvTransposeOptions, Padding};
pub use loss::{
    Bce, BceWithLogits, CosineEmbedding, CrossEntropy, HingeEmbedding, Huber, KlDiv, MultiMargin, Nll, Reduction,
    SigmoidFocal, SmoothL1,
};
pub use math::Operand;
pub use norm::BatchStatistics;
pub use pool::PoolOptions;
pub use shape::Rest;

use crate::ir::graph::operand_lines;
use crate::ir::op::{Leaf, Movement, Op};
use crate::ir::{Batch, BuildError, DType, Dim, Loc, NodeId, Shape, Tensor};
use std::panic::Location;

/// A tensor, or the placeholder that stands where an error was recorded.
pub(crate) type Traced = Result<Tensor, Tensor>;

/// Which axes an op works on: one, several, or all (`..`). Negative axes count from the end.
#[derive(Clone, Debug, PartialEq)]
pub enum Axes {
    All,
    List(Vec<i64>),
}

impl From<i64> for Axes {
    fn from(axis: i64) -> Axes {
        Axes::List(vec![axis])
    }
}

impl<const N: usize> From<[i64; N]> for Axes {
    fn from(axes: [i64; N]) -> Axes {
        Axes::List(axes.to_vec())
    }
}

impl From<&[i64]> for Axes {
    fn from(axes: &[i64]) -> Axes {
        Axes::List(axes.to_vec())
    }
}

impl From<Vec<i64>> for Axes {
    fn from(axes: Vec<i64>) -> Axes {
        Axes::List(axes)
    }
}

impl From<std::ops::RangeFull> for Axes {
    fn from(_: std::ops::RangeFull) -> Axes {
        Axes::All
    }
}

/// The result, or the placeholder of the error that was recorded on the way.
pub(crate) fn settle(traced: Traced) -> Tensor {
    match traced {
        Ok(tensor) | Err(tensor) => tensor,
    }
}

/// Records an error that shows its operands, and gives a placeholder.
#[track_caller]
pub(crate) fn refuse(what: &str, operands: &[&Tensor], message: impl Into<String>, help: Option<String>) -> Tensor {
    let loc = Loc::from(Location::caller());
    let first = operands[0];
    let ids: Vec<NodeId> = operands.iter().map(|t| t.id()).collect();
    let mut graph = first.graph().borrow_mut();
    let scope = operands.iter().map(|t| t.scope_in(&graph)).max().unwrap_or(0);
    let mut error = BuildError::new(what, message).at(graph.position(scope, loc));
    error.operands = operand_lines(&graph, &ids);
    error.help = help;
    graph.fail(error);
    let id = graph.placeholder(scope, loc);
    drop(graph);
    Tensor::from_node(first.graph().clone(), id)
}

/// The shape to which both broadcast as NumPy does: aligned from the right, extents equal or 1.
pub(crate) fn broadcast_shape(a: &Shape, b: &Shape) -> Option<Shape> {
    let rank = a.rank().max(b.rank());
    let extent = |shape: &Shape, i: usize| {
        (i + shape.rank()).checked_sub(rank).map_or(Dim::ONE, |own| shape.0[own]) // missing leading axes count as 1
    };
    let dims = (0..rank).map(|i| match (extent(a, i), extent(b, i)) {
        (x, y) if x == y => Some(x),
        (x, Dim::ONE) => Some(x),
        (Dim::ONE, y) => Some(y),
        (_, _) => None,
    });
    dims.collect::<Option<Vec<Dim>>>().map(Shape)
}

/// Both operands at their common shape.
#[track_caller]
pub(crate) fn broadcast_pair(what: &str, a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor), Tensor> {
    let (sa, sb) = (a.shape(), b.shape());
    match broadcast_shape(&sa, &sb) {
        Some(shape) => Ok((a.expanded(&shape), b.expanded(&shape))),
        None => {
            let message = format!("cannot broadcast {sa} with {sb}");
            Err(refuse(what, &[a, b], message, Some(broadcast_help(&sa, &sb))))
        }
    }
}

/// What would make two shapes broadcast: a new last axis where that alone helps, else the rule.
fn broadcast_help(a: &Shape, b: &Shape) -> String {
    for (short, long) in [(b, a), (a, b)] {
        let mut column = short.clone();
        column.0.push(Dim::ONE);
        if short.rank() < long.rank() && broadcast_shape(&column, long).as_ref() == Some(long) {
            return format!("{short} as a column, .unsqueeze(-1), is {column} and broadcasts to {long}");
        }
    }
    "aligned from the right, extents must be equal or 1".to_string()
}

/// The axis of extent 1 that `long` has and `short` has not, they being equal otherwise: as a number for `squeeze`.
pub(crate) fn one_axis_more(long: &Shape, short: &Shape) -> Option<i64> {
    let is_more = |axis: &usize| {
        let mut rest = long.clone();
        rest.0.remove(*axis) == Dim::ONE && rest == *short
    };
    let axis = (0..long.rank()).rev().find(is_more)?;
    Some(if axis + 1 == long.rank() { -1 } else { axis as i64 })
}

/// A shape as a program declares it: "(Batch, 1)".
pub(crate) fn as_declared(shape: &Shape) -> String {
    let extent = |d: &Dim| if *d == Batch { "Batch".to_string() } else { d.to_string() };
    format!("({})", shape.0.iter().map(extent).collect::<Vec<_>>().join(", "))
}

impl Tensor {
    /// A leaf node at this tensor's place.
    #[track_caller]
    pub(crate) fn leaf_beside(&self, leaf: Leaf) -> Tensor {
        let loc = Loc::from(Location::caller());
        let mut graph = self.graph().borrow_mut();
        let scope = self.scope_in(&graph);
        let id = graph.push(Op::Leaf(leaf), &[], scope, loc);
        drop(graph);
        Tensor::from_node(self.graph().clone(), id)
    }

    /// A scalar constant of this tensor's dtype. Whole-number types take only whole numbers that they hold.
    #[track_caller]
    pub(crate) fn constant_beside(&self, what: &str, value: f64) -> Tensor {
        let dtype = self.dtype();
        match holds(dtype, value) {
            true => self.leaf_beside(Leaf::Const { value, dtype }),
            false => refuse(
                what,
                &[self],
                format!("a tensor of {dtype} cannot be combined with the number {value}"),
                Some("nothing is converted silently: .cast(DType::F32) first".to_string()),
            ),
        }
    }

    /// `a·B + b` as a scalar of this tensor's dtype: a constant where it does not depend on the batch size.
    #[track_caller]
    pub(crate) fn extent_beside(&self, dim: Dim) -> Tensor {
        let dtype = self.dtype();
        match dim.as_fixed() {
            Some(n) => self.leaf_beside(Leaf::Const { value: n as f64, dtype }),
            None => self.leaf_beside(Leaf::Extent { dim, dtype }),
        }
    }

    /// 0, 1, 2 … along axis `axis` of a tensor of `rank` axes whose others have extent 1.
    #[track_caller]
    pub(crate) fn iota_beside(&self, len: Dim, axis: usize, rank: usize, dtype: DType) -> Tensor {
        let mut dims = vec![Dim::ONE; rank];
        dims[axis] = len;
        self.leaf_beside(Leaf::Iota { len, dtype }).reshaped(&Shape(dims))
    }

    /// The reshape node, unless the shape is the same.
    #[track_caller]
    pub(crate) fn reshaped(&self, shape: &Shape) -> Tensor {
        if self.shape() == *shape {
            return self.clone();
        }
        self.apply(Movement::Reshape { shape: shape.clone() }, &[])
    }

    /// Leading axes of 1, then a broadcast, where they are needed. The caller knows that the shapes fit.
    #[track_caller]
    pub(crate) fn expanded(&self, shape: &Shape) -> Tensor {
        let own = self.shape();
        if own == *shape {
            return self.clone();
        }
        let mut dims = vec![Dim::ONE; shape.rank().saturating_sub(own.rank())];
        dims.extend_from_slice(own.dims());
        let x = self.reshaped(&Shape(dims));
        if x.shape() == *shape {
            return x;
        }
        x.apply(Movement::Broadcast { shape: shape.clone() }, &[])
    }

    /// The axis as an index from the front.
    #[track_caller]
    pub(crate) fn axis_of(&self, what: &str, axis: i64) -> Result<usize, Tensor> {
        let rank = self.rank() as i64;
        let found = if axis < 0 { axis + rank } else { axis };
        if (0..rank).contains(&found) {
            return Ok(found as usize);
        }
        let help = match rank {
            0 => "a scalar has no axes".to_string(),
            _ => format!("its axes are 0 to {}, or -{rank} to -1", rank - 1),
        };
        Err(refuse(what, &[self], format!("axis {axis} is not in {}", self.shape()), Some(help)))
    }

    /// The axes as indices from the front, in the order given.
    #[track_caller]
    pub(crate) fn axes_in_order(&self, what: &str, axes: Axes) -> Result<Vec<usize>, Tensor> {
        let list = match axes {
            Axes::All => return Ok((0..self.rank()).collect()),
            Axes::List(list) => list,
        };
        let mut found = Vec::with_capacity(list.len());
        for axis in list {
            let index = self.axis_of(what, axis)?;
            if found.contains(&index) {
                let message = format!("axis {axis} of {} is named twice", self.shape());
                return Err(refuse(what, &[self], message, None));
            }
            found.push(index);
        }
        Ok(found)
    }

    /// The axes as indices from the front, ascending.
    #[track_caller]
    pub(crate) fn axes_of(&self, what: &str, axes: Axes) -> Result<Vec<usize>, Tensor> {
        let mut found = self.axes_in_order(what, axes)?;
        found.sort_unstable();
        Ok(found)
    }

    /// Refuses whole numbers and bool: nothing is converted silently.
    #[track_caller]
    pub(crate) fn float_or(&self, what: &str) -> Result<(), Tensor> {
        let dtype = self.dtype();
        if dtype.is_float() {
            return Ok(());
        }
        let help = "convert with .cast(DType::F32)".to_string();
        Err(refuse(what, &[self], format!("need a float, got {dtype}"), Some(help)))
    }
}

/// Whether a dtype holds a number as it is (floats round it).
fn holds(dtype: DType, value: f64) -> bool {
    let whole = |lo: f64, hi: f64| value.fract() == 0.0 && (lo..=hi).contains(&value);
    match dtype {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => true,
        DType::I64 => whole(-(2f64.powi(53)), 2f64.powi(53)),
        DType::I32 => whole(f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::U32 => whole(0.0, f64::from(u32::MAX)),
        DType::U8 => whole(0.0, 255.0),
        DType::Bool => whole(0.0, 1.0),
    }
}
