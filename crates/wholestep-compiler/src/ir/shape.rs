//! Extents and shapes. Takes numbers and the one symbol [`Batch`], gives extents of the form `a·B + b`. Never knows the value of B:
//! whoever does calls [`Dim::at`].

use std::fmt;
use std::ops::{Add, Mul, Sub};

/// One extent: `batch·B + fixed`, where B is the batch size of the step that runs. Strides and offsets have this form too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Dim {
    /// How many times B.
    pub batch: i64,
    /// The part that does not depend on B.
    pub fixed: i64,
}

/// The batch size, the one extent that may differ from step to step: `s.input("x", (Batch, 784), F32)`.
#[allow(non_upper_case_globals)]
pub const Batch: Dim = Dim { batch: 1, fixed: 0 };

/// Elements that a tensor has for a batch of one row at most: no device holds that, and all arithmetic on extents stays below 2^63.
const MAX_ELEMENTS: u128 = 1 << 44;

impl Dim {
    /// No elements.
    pub const ZERO: Dim = Dim { batch: 0, fixed: 0 };
    /// What broadcasts.
    pub const ONE: Dim = Dim { batch: 0, fixed: 1 };

    /// The extent `n`.
    pub const fn fixed(n: usize) -> Dim {
        Dim { batch: 0, fixed: n as i64 }
    }

    /// The number, where it does not depend on the batch size.
    pub fn as_fixed(self) -> Option<usize> {
        (self.batch == 0).then_some(self.fixed as usize)
    }

    /// The number at batch size `b`.
    pub fn at(self, b: usize) -> usize {
        self.batch.saturating_mul(b as i64).saturating_add(self.fixed) as usize
    }

    /// The number at batch size `b`, for offsets and strides that may be negative.
    pub fn at_signed(self, b: usize) -> i64 {
        self.batch * b as i64 + self.fixed
    }

    /// `self · other`, unless that holds B² or is larger than any number of elements.
    pub fn times(self, other: Dim) -> Option<Dim> {
        if self.batch != 0 && other.batch != 0 {
            return None;
        }
        let batch = self.batch.checked_mul(other.fixed)?.checked_add(self.fixed.checked_mul(other.batch)?)?;
        Some(Dim { batch, fixed: self.fixed.checked_mul(other.fixed)? })
    }

    /// `self / other`, where that is an extent for every B: `(6·B)/(2·B)`, `(6·B)/3`.
    pub fn divided_by(self, other: Dim) -> Option<Dim> {
        if other.batch == 0 {
            let d = other.fixed;
            return (d != 0 && self.batch % d == 0 && self.fixed % d == 0)
                .then(|| Dim { batch: self.batch / d, fixed: self.fixed / d });
        }
        let q = if self.batch % other.batch == 0 { self.batch / other.batch } else { return None };
        (self.fixed == q * other.fixed).then_some(Dim { batch: 0, fixed: q })
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::fixed(n)
    }
}

impl Add for Dim {
    type Output = Dim;
    fn add(self, o: Dim) -> Dim {
        Dim { batch: self.batch + o.batch, fixed: self.fixed + o.fixed }
    }
}

impl Sub for Dim {
    type Output = Dim;
    fn sub(self, o: Dim) -> Dim {
        Dim { batch: self.batch - o.batch, fixed: self.fixed - o.fixed }
    }
}

impl Mul<i64> for Dim {
    type Output = Dim;
    fn mul(self, k: i64) -> Dim {
        Dim { batch: self.batch * k, fixed: self.fixed * k }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.batch, self.fixed) {
            (0, n) => write!(f, "{n}"),
            (1, 0) => write!(f, "B"),
            (a, 0) => write!(f, "{a}B"),
            (1, n) => write!(f, "B{n:+}"),
            (a, n) => write!(f, "{a}B{n:+}"),
        }
    }
}

/// The extents of a tensor, outermost first. Rank 0 is a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// The shape of a scalar.
    pub fn scalar() -> Shape {
        Shape(Vec::new())
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// How many axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// How many elements, unless that holds B².
    pub fn numel(&self) -> Option<Dim> {
        self.0.iter().try_fold(Dim::ONE, |n, d| n.times(*d))
    }

    /// How many elements at batch size `b`.
    pub fn numel_at(&self, b: usize) -> usize {
        self.0.iter().fold(1, |n: usize, d| n.saturating_mul(d.at(b)))
    }

    /// Why there is no tensor of this shape, if there is none: an extent below 0, or more elements than any memory holds.
    pub fn fault(&self) -> Option<String> {
        // An extent grows with the batch, so the smallest batch has the smallest extents.
        if let Some(d) = self.0.iter().find(|d| d.batch < 0 || d.at_signed(1) < 0) {
            let when = if d.batch == 0 { "" } else { " for some batch sizes" };
            return Some(format!("the extent {d} of {self} is below 0{when}"));
        }
        let per_row = |d: &Dim| (d.batch.unsigned_abs() as u128 + d.fixed.unsigned_abs() as u128).max(1);
        let elements = self.0.iter().fold(1u128, |n, d| n.saturating_mul(per_row(d)));
        (elements > MAX_ELEMENTS).then(|| format!("{self} has more elements than any memory holds"))
    }

    /// The extents at batch size `b`.
    pub fn at(&self, b: usize) -> Vec<usize> {
        self.0.iter().map(|d| d.at(b)).collect()
    }

    /// Row-major strides in elements, unless one holds B².
    pub fn strides(&self) -> Option<Vec<Dim>> {
        let mut strides = vec![Dim::ONE; self.rank()];
        let mut step = Dim::ONE;
        for (stride, dim) in strides.iter_mut().zip(&self.0).rev() {
            *stride = step;
            step = step.times(*dim)?;
        }
        Some(strides)
    }

    /// The extents as numbers, where none depends on the batch size.
    pub fn as_fixed(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.as_fixed()).collect()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Shape {
        Shape(dims)
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Shape {
        shape.clone()
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape(dims.iter().map(|&n| Dim::fixed(n)).collect())
    }
}

impl From<&[Dim]> for Shape {
    fn from(dims: &[Dim]) -> Shape {
        Shape(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Shape {
        Shape::from(dims.as_slice())
    }
}

impl<D: Into<Dim>, const N: usize> From<[D; N]> for Shape {
    fn from(dims: [D; N]) -> Shape {
        Shape(dims.into_iter().map(Into::into).collect())
    }
}

/// `()` is the shape of a scalar.
impl From<()> for Shape {
    fn from((): ()) -> Shape {
        Shape::scalar()
    }
}

// An array cannot mix `Batch` with numbers; a tuple can.
macro_rules! shape_from_tuple {
    ($($name:ident)+) => {
        impl<$($name: Into<Dim>),+> From<($($name,)+)> for Shape {
            #[allow(non_snake_case)]
            fn from(($($name,)+): ($($name,)+)) -> Shape {
                Shape(vec![$($name.into()),+])
            }
        }
    };
}
shape_from_tuple!(A);
shape_from_tuple!(A C);
shape_from_tuple!(A C D);
shape_from_tuple!(A C D E);
shape_from_tuple!(A C D E F);
shape_from_tuple!(A C D E F G);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_multiply_and_divide_as_polynomials_of_degree_one() {
        let t = Dim::fixed(6);
        let bt = Batch.times(t).unwrap();
        assert_eq!(bt, Dim { batch: 6, fixed: 0 });
        assert_eq!(bt.times(Batch), None);
        assert_eq!(bt.divided_by(Batch), Some(t));
        assert_eq!(bt.divided_by(Dim::fixed(3)), Some(Dim { batch: 2, fixed: 0 }));
        assert_eq!(bt.divided_by(Dim::fixed(4)), None);
        assert_eq!((bt + Dim::fixed(2)).at(5), 32);
    }

    #[test]
    fn shapes_print_as_the_user_wrote_them() {
        let shape = Shape::from((Batch, 3, 32, 32));
        assert_eq!(shape.to_string(), "[B, 3, 32, 32]");
        assert_eq!(shape.strides().unwrap()[0], Dim::fixed(3072));
        assert_eq!(shape.numel_at(4), 12288);
    }
}
