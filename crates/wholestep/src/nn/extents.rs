//! Per-axis numbers of windows: kernel, stride, dilation, padding. Takes one number for all axes or one per axis, in code and in files,
//! gives one per axis. Never checks that a window fits: layers do, where the input's shape is known.

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::fmt;

/// One number per spatial axis: `3`, `[3, 5]`. Files hold a single number where all are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extents<const N: usize>(pub [usize; N]);

impl<const N: usize> Extents<N> {
    /// 1 along each axis.
    pub fn ones() -> Extents<N> {
        Extents([1; N])
    }

    /// 0 along each axis.
    pub fn zeros() -> Extents<N> {
        Extents([0; N])
    }
}

impl<const N: usize> From<usize> for Extents<N> {
    fn from(n: usize) -> Extents<N> {
        Extents([n; N])
    }
}

impl<const N: usize> From<[usize; N]> for Extents<N> {
    fn from(n: [usize; N]) -> Extents<N> {
        Extents(n)
    }
}

impl<const N: usize> fmt::Display for Extents<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.iter().all(|&n| n == self.0[0]) {
            return write!(f, "{}", self.0[0]);
        }
        let each: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&each.join("x"))
    }
}

impl<const N: usize> Serialize for Extents<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.iter().all(|&n| n == self.0[0]) { self.0[0].serialize(s) } else { self.0[..].serialize(s) }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Extents<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Extents<N>, D::Error> {
        struct OneOrEach<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for OneOrEach<N> {
            type Value = Extents<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number >= 0 or {N} of them")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Extents<N>, E> {
                Ok(Extents([n as usize; N]))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Extents<N>, E> {
                usize::try_from(n)
                    .map(|n| Extents([n; N]))
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Extents<N>, A::Error> {
                each(seq, &self).map(Extents)
            }
        }
        d.deserialize_any(OneOrEach)
    }
}

/// Exactly N elements of a list.
fn each<'de, T: Deserialize<'de>, const N: usize, A: SeqAccess<'de>>(
    mut seq: A,
    expected: &dyn de::Expected,
) -> Result<[T; N], A::Error> {
    let mut values = Vec::with_capacity(N);
    while let Some(value) = seq.next_element()? {
        values.push(value);
    }
    let n = values.len();
    values.try_into().map_err(|_| de::Error::invalid_length(n, expected))
}

/// Zeros around the spatial axes: `Padding::Same`, `1`, `[1, 2]`, `[(0, 1), (2, 1)]`; in files `"same"`, `1`, `[1, 2]`, `[[0, 1], [2, 1]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding<const N: usize> {
    /// The output is as large as the input; an odd total puts the extra zero at the end. Stride 1 only, as in PyTorch.
    Same,
    /// Zeros before and after each axis.
    Explicit([(usize, usize); N]),
}

impl<const N: usize> Padding<N> {
    /// No padding.
    pub fn none() -> Padding<N> {
        Padding::Explicit([(0, 0); N])
    }
}

impl<const N: usize> From<usize> for Padding<N> {
    fn from(n: usize) -> Padding<N> {
        Padding::Explicit([(n, n); N])
    }
}

impl<const N: usize> From<[usize; N]> for Padding<N> {
    fn from(n: [usize; N]) -> Padding<N> {
        Padding::Explicit(n.map(|n| (n, n)))
    }
}

impl<const N: usize> From<[(usize, usize); N]> for Padding<N> {
    fn from(n: [(usize, usize); N]) -> Padding<N> {
        Padding::Explicit(n)
    }
}

impl<const N: usize> Serialize for Padding<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Padding::Same => s.serialize_str("same"),
            Padding::Explicit(pads) if pads.iter().all(|(lo, hi)| lo == hi) => {
                Extents(pads.map(|(lo, _)| lo)).serialize(s)
            }
            Padding::Explicit(pads) => pads[..].serialize(s),
        }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Padding<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Padding<N>, D::Error> {
        struct Forms<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Forms<N> {
            type Value = Padding<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"same\", a whole number >= 0, {N} of them, or {N} pairs [before, after]")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Padding<N>, E> {
                if text == "same" {
                    return Ok(Padding::Same);
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Padding<N>, E> {
                Ok(Padding::from(n as usize))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Padding<N>, E> {
                usize::try_from(n).map(Padding::from).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Padding<N>, A::Error> {
                each::<Sides, N, A>(seq, &self).map(|sides| Padding::Explicit(sides.map(|s| (s.0[0], s.0[1]))))
            }
        }
        d.deserialize_any(Forms)
    }
}

/// The padding of one axis: a number for both sides, or a pair.
type Sides = Extents<2>;
