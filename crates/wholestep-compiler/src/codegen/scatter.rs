//! Sums at places that data give. Takes a scatter, gives shaders that add without atomics and in the order of the index: a thread walks the
//! index for its column, or where the index is long, the index is ordered first and each row of the result finds its own part of it.

use super::quad::LANES;
use super::sort::{self, Lines, lower_bound};
use super::source::{define, register};
use super::spread::is_fourfold;
use super::{Count, Grid, Shader, Source, Word};
use crate::caps::Workgroups;
use crate::ir::{DType, Dim};
use crate::kernel::Scatter;

const THREADS: u32 = 64;
/// The longest index that a thread walks for its column.
const SHORT: usize = 128;

/// The shaders of a scatter.
pub fn shaders(k: &Scatter, workgroups: &Workgroups) -> Vec<Shader> {
    let is_short = k.n_index.as_fixed().is_some_and(|n| n <= SHORT);
    if k.along || is_short { vec![columns(k, workgroups)] } else { vec![order(k, workgroups), rows(k, workgroups)] }
}

/// The place that an element of the index stands for: out of range is clamped.
fn clamped(s: &mut Source, k: &Scatter, at: &str) -> String {
    let index = s.load(1, at);
    let last = s.dim(k.len - Dim::ONE);
    match k.index_dtype {
        DType::I32 => format!("u32(clamp({index}, 0, i32({last})))"),
        DType::I64 => format!("u32(clamp({index}, i64(0), i64(i32({last}))))"),
        _ => format!("min({index}, {last})"),
    }
}

/// How a sum is begun, continued and stored.
fn zero(dtype: DType) -> String {
    format!("{}()", register(dtype))
}

fn stored(dtype: DType, sum: &str) -> String {
    if dtype == DType::U8 { format!("({sum}) & 255u") } else { sum.to_string() }
}

/// A thread makes a column of the result: zeros, or what is there, then each value in turn.
fn columns(k: &Scatter, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    let (outer, n_index, len, inner) = (s.dim(k.outer), s.dim(k.n_index), s.dim(k.len), s.dim(k.inner));
    let mut body = define("column", &format!("(group.y * groups.x + group.x) * {THREADS}u + local"));
    body += &format!("if (column >= {outer} * {inner}) {{ return; }}\nlet inner = {inner};\n");
    body += &format!("let first = column / inner * {len} * inner + column % inner;\n");
    if !k.replaces {
        body += &format!("for (var l = 0u; l < {len}; l++) {{ {}}}\n", s.store(2, "first + l * inner", &zero(k.dtype)));
    }
    body += &format!("for (var i = 0u; i < {n_index}; i++) {{\n");
    body += &define("at", &format!("(column / inner * {n_index} + i) * inner + column % inner"));
    let place = clamped(&mut s, k, if k.along { "at" } else { "i" });
    body += &define("to", &format!("first + {place} * inner"));
    let (before, value) = (s.load(2, "to"), s.load(0, "at"));
    let next = if k.replaces { value } else { stored(k.dtype, &format!("{before} + {value}")) };
    body += &s.store(2, "to", &next);
    body += "}\n";
    let of = vec![Word::Dim(k.outer), Word::Dim(k.inner)];
    s.finish([THREADS, 1, 1], Grid::Line(Count { of, per: THREADS }), &body)
}

/// The words of the scratch: the order of the index, then what ordering it takes.
fn words(k: &Scatter) -> Count {
    Count { of: vec![Word::Dim(k.n_index), Word::Bits(5)], per: 1 }
}

/// The first dispatch: the order of the index, stable.
fn order(k: &Scatter, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    s.scratch("u32", words(k));
    let lines = Lines { outer: Dim::ONE, len: k.n_index, inner: Dim::ONE };
    let key = |s: &mut Source, at: &str| clamped(s, k, at);
    let n = k.n_index;
    let store = move |s: &mut Source, at: &str, place: &str| {
        let n = s.dim(n);
        format!("scratch[{n} * 4u + {at}] = {place};\n")
    };
    let mut shader = sort::write(s, &lines, DType::U32, &key, &store);
    shader.scratch = Some(words(k));
    shader
}

/// The second: each element of the result, or four neighbours, add their part of the ordered index.
fn rows(k: &Scatter, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    let (outer, n_index, len, inner) = (s.dim(k.outer), s.dim(k.n_index), s.dim(k.len), s.dim(k.inner));
    s.scratch("u32", words(k));
    let lanes: &[&str] = if is_fourfold(k.inner) { &LANES } else { &[""] };
    let width = lanes.len();
    let mut body = define("at", &format!("((group.y * groups.x + group.x) * {THREADS}u + local) * {width}u"));
    body += &format!(
        "if (at >= {outer} * {len} * {inner}) {{ return; }}\nlet n_index = {n_index};\nlet inner = {inner};\n"
    );
    body += &format!("let row = at / inner % {len};\nlet o = at / inner / {len};\n");
    let key = clamped(&mut s, k, "scratch[n_index * 4u + middle]");
    body += &lower_bound("i", "row", "n_index", &|_| key.clone());
    lanes.iter().for_each(|lane| body += &format!("var sum{lane} = {};\n", zero(k.dtype)));
    body += "for (; i < n_index; i++) {\nlet place = scratch[n_index * 4u + i];\n";
    let place = clamped(&mut s, k, "place");
    body += &format!("if ({place} != row) {{ break; }}\n");
    let from = "(o * n_index + place) * inner + at % inner";
    let sums: Vec<String> = lanes.iter().map(|lane| stored(k.dtype, &format!("sum{lane}"))).collect();
    if let [sum] = &sums[..] {
        body += &format!("sum += {};\n}}\n{}", s.load(0, from), s.store(2, "at", sum));
    } else {
        body += &define("four", &s.load_vector(0, &format!("({from}) >> 2u")));
        lanes.iter().for_each(|lane| body += &format!("sum{lane} += four.{lane};\n"));
        let four = format!("vec4<{}>({})", register(k.dtype), sums.join(", "));
        body += &format!("}}\n{}", s.store_vector(2, "at >> 2u", &four));
    }
    let of = vec![Word::Dim(k.outer), Word::Dim(k.len), Word::Dim(k.inner)];
    s.finish([THREADS, 1, 1], Grid::Line(Count { of, per: THREADS * width as u32 }), &body)
}
