//! Rows of the tables that test each op everywhere. Takes shapes, ranges of values and a closure, gives the material for shape checks,
//! gradient checks and the conformance of backends. Never part of a build that ships: feature `cases`.

use super::op::random::philox4x32;
use super::{DType, Scope, Shape, Tensor};

/// One row: an op applied to operands of stated shapes and values.
#[derive(Clone)]
pub struct Case {
    /// [`super::Op::name`] of the op under test.
    pub op: &'static str,
    /// What is particular about this row: "stride 2, groups".
    pub name: &'static str,
    pub operands: Vec<Operand>,
    pub build: fn(&Scope, &[Tensor]) -> Tensor,
    pub gradient: Gradient,
}

/// What differentiation by the float operands gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// A gradient that central differences agree with, as they do with the gradient's own gradient.
    Flows,
    /// Nothing: the op is discrete, a step function or `detach`.
    Nothing,
}

/// An operand of a row.
#[derive(Clone, Debug)]
pub struct Operand {
    pub shape: Shape,
    pub values: Values,
}

/// How an operand's elements are drawn. Float operands have the dtype that the test asks for; their values are exact in f32.
#[derive(Clone, Debug)]
pub enum Values {
    /// Uniform in [lo, hi).
    Floats {
        lo: f64,
        hi: f64,
    },
    /// Of either sign, the absolute value uniform in [lo, hi).
    AwayFromZero {
        lo: f64,
        hi: f64,
    },
    /// Multiples of 1/8 that all differ, so that no order depends on a tie.
    Distinct,
    /// A few multiples of 1/2, so that ties are common.
    Ties,
    /// Whole numbers in lo..=hi.
    Whole {
        dtype: DType,
        lo: i64,
        hi: i64,
    },
    Bools,
}

/// A float operand of common size.
pub(crate) fn floats(shape: impl Into<Shape>) -> Operand {
    floats_in(shape, -2.0, 2.0)
}

pub(crate) fn floats_in(shape: impl Into<Shape>, lo: f64, hi: f64) -> Operand {
    Operand { shape: shape.into(), values: Values::Floats { lo, hi } }
}

pub(crate) fn away_from_zero(shape: impl Into<Shape>) -> Operand {
    Operand { shape: shape.into(), values: Values::AwayFromZero { lo: 0.5, hi: 2.0 } }
}

pub(crate) fn distinct(shape: impl Into<Shape>) -> Operand {
    Operand { shape: shape.into(), values: Values::Distinct }
}

pub(crate) fn ties(shape: impl Into<Shape>) -> Operand {
    Operand { shape: shape.into(), values: Values::Ties }
}

pub(crate) fn whole(dtype: DType, shape: impl Into<Shape>, lo: i64, hi: i64) -> Operand {
    Operand { shape: shape.into(), values: Values::Whole { dtype, lo, hi } }
}

pub(crate) fn bools(shape: impl Into<Shape>) -> Operand {
    Operand { shape: shape.into(), values: Values::Bools }
}

/// A row with a gradient.
pub(crate) fn flows(
    op: &'static str,
    name: &'static str,
    operands: impl Into<Vec<Operand>>,
    build: fn(&Scope, &[Tensor]) -> Tensor,
) -> Case {
    Case { op, name, operands: operands.into(), build, gradient: Gradient::Flows }
}

/// A row that no gradient passes.
pub(crate) fn stops(
    op: &'static str,
    name: &'static str,
    operands: impl Into<Vec<Operand>>,
    build: fn(&Scope, &[Tensor]) -> Tensor,
) -> Case {
    Case { op, name, operands: operands.into(), build, gradient: Gradient::Nothing }
}

impl Operand {
    /// The operand's dtype where floats are `float`.
    pub fn dtype(&self, float: DType) -> DType {
        match self.values {
            Values::Floats { .. } | Values::AwayFromZero { .. } | Values::Distinct | Values::Ties => float,
            Values::Whole { dtype, .. } => dtype,
            Values::Bools => DType::Bool,
        }
    }

    /// Elements for batch size `batch`, row-major; the same for the same `seed`.
    pub fn draw(&self, batch: usize, seed: u32) -> Vec<f64> {
        let n = self.shape.numel_at(batch);
        let word = |i: usize| philox4x32([i as u32, 0, 0, 0], [seed, 0x5EED]);
        let unit = |w: u32| f64::from(w) / 4_294_967_296.0;
        let between = |w: u32, lo: f64, hi: f64| f64::from((lo + (hi - lo) * unit(w)) as f32);
        match self.values {
            Values::Floats { lo, hi } => (0..n).map(|i| between(word(i)[0], lo, hi)).collect(),
            Values::AwayFromZero { lo, hi } => {
                (0..n).map(|i| between(word(i)[0], lo, hi) * if word(i)[1] & 1 == 0 { 1.0 } else { -1.0 }).collect()
            }
            Values::Distinct => {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by_key(|&i| (word(i)[0], i));
                order.into_iter().map(|rank| (rank as f64 - (n / 2) as f64) / 8.0).collect()
            }
            Values::Ties => (0..n).map(|i| f64::from(word(i)[0] % 4) / 2.0 - 1.0).collect(),
            Values::Whole { lo, hi, .. } => {
                (0..n).map(|i| (lo + (i64::from(word(i)[0]) % (hi - lo + 1))) as f64).collect()
            }
            Values::Bools => (0..n).map(|i| f64::from(word(i)[0] & 1)).collect(),
        }
    }
}
