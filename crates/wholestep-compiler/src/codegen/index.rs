//! Addresses as text. Takes index maps and the names of axis indices, gives expressions over unsigned 32-bit numbers that C and WGSL spell
//! alike. Never knows where a buffer is.
//!
//! Negative strides and offsets are two's complement: sums and products wrap, so that a guard `0 <= x < n` is one comparison.

use crate::ir::Dim;
use crate::kernel::{Guard, Map};

/// `n` as an unsigned literal.
pub fn literal(n: i64) -> String {
    format!("{}u", n as i32 as u32)
}

/// `offset + Σ strides·index`; `dim` gives the text of a number.
pub fn address(map: &Map, index: &[String], dim: &mut dyn FnMut(Dim) -> String) -> String {
    affine(map.offset, &map.strides, index, dim)
}

/// The condition under which the place exists.
pub fn guards(guards: &[Guard], index: &[String], dim: &mut dyn FnMut(Dim) -> String) -> String {
    let one = |g: &Guard| {
        let strides: Vec<Dim> = g.strides.iter().map(|&s| Dim { batch: 0, fixed: s }).collect();
        format!("{} < {}", affine(g.offset, &strides, index, dim), dim(g.extent))
    };
    all(guards.iter().map(one))
}

/// The condition that all of `tests` hold. No branch stands between them: they cost less, and some compilers take minutes for a text with many.
pub fn all(tests: impl IntoIterator<Item = String>) -> String {
    let tests: Vec<String> = tests.into_iter().map(|test| format!("({test})")).collect();
    if tests.is_empty() { "true".to_string() } else { tests.join(" & ") }
}

fn affine(offset: Dim, strides: &[Dim], index: &[String], dim: &mut dyn FnMut(Dim) -> String) -> String {
    let mut terms = Vec::new();
    for (stride, i) in strides.iter().zip(index).filter(|(s, i)| **s != Dim::ZERO && *i != "0u") {
        terms.push(if *stride == Dim::ONE { i.clone() } else { format!("{i} * {}", dim(*stride)) });
    }
    if offset != Dim::ZERO || terms.is_empty() {
        terms.push(dim(offset));
    }
    terms.join(" + ")
}

/// Takes the number `linear` apart into one index per axis, row-major: gives statements and the names of the indices, which begin with
/// `prefix`. `define` spells a definition.
pub fn unravel(
    linear: &str,
    extents: &[String],
    prefix: &str,
    define: &dyn Fn(&str, &str) -> String,
) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut names = vec![String::new(); extents.len()];
    let mut rest = linear.to_string();
    for axis in (0..extents.len()).rev() {
        let name = format!("{prefix}{axis}");
        let extent = &extents[axis];
        if axis == 0 {
            names[0] = rest.clone();
        } else if extent == "1u" {
            names[axis] = "0u".to_string();
        } else {
            text += &define(&name, &format!("{rest} % {extent}"));
            let over = format!("{name}r");
            text += &define(&over, &format!("{rest} / {extent}"));
            names[axis] = name;
            rest = over;
        }
    }
    (text, names)
}
