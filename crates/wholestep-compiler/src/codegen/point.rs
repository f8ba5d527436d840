//! The program of a loop at one point. Takes its instructions, the names of the axis indices and values that are there already, gives
//! statements. Never decides which thread has which point.

use super::source::register;
use super::{Source, index, scalar};
use crate::ir::{DType, Dim};
use crate::kernel::{Instr, Loop, Map, Store, Value};

/// Where the text stands.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The index of each axis.
    pub index: &'a [String],
    /// The row-major number of the point, where there is one: maps that are the identity use it.
    pub linear: Option<&'a str>,
    /// The extents over which `linear` counts.
    pub axes: &'a [Dim],
    /// By instruction: a suffix for the name of its value, so that several points can stand side by side and share some; `None` where one
    /// point stands alone.
    pub suffixes: Option<&'a [String]>,
}

impl Site<'_> {
    /// The name of a value as it is seen here.
    pub fn value(&self, v: Value) -> String {
        let i = v.0 as usize;
        name(i, self.suffixes.map_or("", |all| &all[i]))
    }
}

/// An argument whose element at the point is a value already (the sums of a contraction), and that value.
pub type Known<'a> = Option<(u32, &'a str)>;

/// The name of an instruction's value.
pub fn name(i: usize, suffix: &str) -> String {
    format!("v{i}{suffix}")
}

/// Statements for all instructions and all stores of an elementwise loop, such as an epilogue, at one point.
pub fn statements(s: &mut Source, k: &Loop, site: &Site, known: Known) -> String {
    let mut text = String::new();
    for i in 0..k.instrs.len() {
        text += &instruction(s, k, i, site, known);
    }
    k.stores.iter().for_each(|store| text += &store_value(s, store, site));
    text
}

/// The definition of the value of instruction `i`, which is no reduction.
pub fn instruction(s: &mut Source, k: &Loop, i: usize, site: &Site, known: Known) -> String {
    let v = |x: &Value| site.value(*x);
    let dtype = |x: &Value| k.dtype(*x);
    let value = match &k.instrs[i] {
        Instr::Load { arg, .. } if known.is_some_and(|(a, _)| a == *arg) => known.map_or("", |(_, v)| v).to_string(),
        Instr::Load { arg, map, fill } => load(s, *arg, map, *fill, site),
        Instr::Gather { arg, .. } => {
            let at = gathered(s, k, i, site);
            s.load(*arg, &at)
        }
        Instr::Index { map, dtype } => {
            let at = address(s, map, site);
            scalar::from_number(s, &at, *dtype)
        }
        Instr::Random { map, stream, key, step } => {
            let at = address(s, map, site);
            let four = random_of_four(s, &format!("({at}) >> 2u"), *stream, *key, *step);
            format!("{four}[({at}) & 3u]")
        }
        Instr::Const { value, dtype } => scalar::constant(s, *value, *dtype),
        Instr::Extent { dim, dtype } => {
            let n = s.dim(*dim);
            scalar::from_number(s, &n, *dtype)
        }
        Instr::Unary { op, x } => scalar::unary(s, *op, &v(x), dtype(x)),
        Instr::Binary { op, x, y } => scalar::binary(s, *op, &v(x), &v(y), dtype(x)),
        Instr::Select { cond, yes, no } => format!("select({}, {}, {})", v(no), v(yes), v(cond)),
        Instr::Cast { to, x } => scalar::cast(s, &v(x), dtype(x), *to),
        Instr::Reduce { .. } => panic!("bug: a reduction is not made at a point"),
    };
    let kind = register(k.dtype(Value(i as u32)));
    s.value(&site.value(Value(i as u32)), kind, &value)
}

/// Random bits of four neighbouring elements, of which `quarter` is a fourth of the first one's place: they come four at a time.
pub(super) fn random_of_four(s: &mut Source, quarter: &str, stream: u32, key: u32, step: u32) -> String {
    let key = [0, 1].map(|i| s.load(key, &format!("{i}u")));
    let step = s.load(step, "0u");
    scalar::random_of_four(s, quarter, stream, &step, [&key[0], &key[1]])
}

/// The place that instruction `i`, a gather, reads.
pub(super) fn gathered(s: &mut Source, k: &Loop, i: usize, site: &Site) -> String {
    let Instr::Gather { map, index, stride, len, .. } = &k.instrs[i] else {
        panic!("bug: instruction {i} is no gather")
    };
    let at = address(s, map, site);
    let len = s.dim(*len - Dim::ONE);
    let place = site.value(*index);
    let clamped = match k.dtype(*index) {
        DType::I32 => format!("u32(clamp({place}, 0, i32({len})))"),
        DType::I64 => format!("u32(clamp({place}, i64(0), i64(i32({len}))))"),
        DType::U32 | DType::U8 => format!("min({place}, {len})"),
        other @ (DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::Bool) => {
            panic!("bug: {other} is no index")
        }
    };
    format!("{at} + {clamped} * {}", s.dim(*stride))
}

/// The statement of a store.
pub fn store_value(s: &mut Source, store: &Store, site: &Site) -> String {
    let at = address(s, &store.map, site);
    let value = site.value(store.value);
    let text = s.store(store.arg, &at, &value);
    if store.map.guards.is_empty() {
        return text;
    }
    let holds = index::guards(&store.map.guards, site.index, &mut |d| s.dim(d));
    format!("if ({holds}) {{ {text} }}\n")
}

pub(super) fn address(s: &mut Source, map: &Map, site: &Site) -> String {
    match site.linear {
        Some(linear) if map.is_row_major(site.axes) => linear.to_string(),
        _ => match s.offset(map.offset) {
            Some(offset) => {
                let map = Map { offset: Dim::ZERO, ..map.clone() };
                format!("{} + {offset}", index::address(&map, site.index, &mut |d| s.dim(d)))
            }
            None => index::address(map, site.index, &mut |d| s.dim(d)),
        },
    }
}

fn load(s: &mut Source, arg: u32, map: &Map, fill: f64, site: &Site) -> String {
    let at = address(s, map, site);
    if map.guards.is_empty() {
        return s.load(arg, &at);
    }
    let holds = index::guards(&map.guards, site.index, &mut |d| s.dim(d));
    // Both sides of `select` are evaluated, so the place is made harmless before it is read.
    let value = s.load(arg, &format!("select(0u, {at}, {holds})"));
    let dtype = s.dtype(arg);
    let fill = scalar::constant(s, fill, dtype);
    format!("select({fill}, {value}, {holds})")
}
