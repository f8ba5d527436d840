//! Contractions in which a thread makes one element: convolutions whose groups have few channels (depthwise ones), for which tiles would be
//! mostly empty, and the generic kernel of every contraction, against which choices of tiles are checked. Never used where tiles fit.

use super::contract::{self, Gemm, finished};
use super::index::{self, literal};
use super::source::{define, register, words_of};
use super::{Count, Grid, Shader, Source, Word};
use crate::caps::Workgroups;
use crate::kernel::{Contract, Contraction, ConvSizes};

/// Groups with fewer channels than this on either side are narrow.
const NARROW: usize = 8;
/// Threads of a workgroup where each makes one element.
const THREADS: u32 = 64;
/// Elements and slices of the depth of a workgroup for a weight's gradient.
const ELEMENTS: u32 = 32;
const SLICES: u32 = 8;
/// Depths of a part are a multiple of this.
const PART_STEP: u32 = 16;

/// The sizes of a convolution whose groups are too narrow for tiles.
pub(super) fn narrow(c: &Contraction) -> Option<&ConvSizes> {
    let (Contraction::Conv(s) | Contraction::ConvInputGrad(s) | Contraction::ConvWeightGrad(s)) = c else {
        return None;
    };
    let groups = s.geometry.groups;
    (groups > 1 && (s.c_in / groups).min(s.c_out / groups) < NARROW).then_some(s)
}

/// The shaders of such a convolution.
pub(super) fn shaders(k: &Contract, sizes: &ConvSizes, g: &Gemm, workgroups: &Workgroups) -> Vec<Shader> {
    match &k.contraction {
        Contraction::ConvWeightGrad(_) => weight_grad(k, sizes, g, workgroups),
        Contraction::Conv(_) => vec![pixels(k, sizes, g, workgroups, true)],
        Contraction::ConvInputGrad(_) => vec![pixels(k, sizes, g, workgroups, false)],
        Contraction::Matmul { .. } => panic!("bug: a product of matrices has no groups"),
    }
}

/// The contraction by its definition and without an epilogue: slow, and nothing in it depends on a choice.
pub fn generic(k: &Contract, workgroups: &Workgroups) -> Vec<Shader> {
    shaders_of_any(&Contract { epilogue: None, ..k.clone() }, workgroups)
}

/// Every contraction by its definition, whatever its dtype.
pub(super) fn shaders_of_any(k: &Contract, workgroups: &Workgroups) -> Vec<Shader> {
    match &k.contraction {
        Contraction::Matmul { .. } => vec![product(k, workgroups)],
        Contraction::Conv(s) | Contraction::ConvInputGrad(s) | Contraction::ConvWeightGrad(s) => {
            shaders(k, s, &contract::gemm(&k.contraction), workgroups)
        }
    }
}

/// A product of matrices: a thread walks the depth of its element.
fn product(kernel: &Contract, workgroups: &Workgroups) -> Shader {
    let Contraction::Matmul { batch, m, n, k, lhs, rhs } = &kernel.contraction else {
        panic!("bug: a convolution has taps")
    };
    let mut s = Source::new(workgroups, &kernel.args);
    let axes = [batch.as_slice(), &[*m, *n]].concat();
    let extents: Vec<String> = axes.iter().map(|d| s.dim(*d)).collect();
    let mut body = define("at", &format!("(group.y * groups.x + group.x) * {THREADS}u + local"));
    body += &format!("if (at >= {}) {{ return; }}\n", extents.join(" * "));
    let (text, at) = index::unravel("at", &extents, "i", &define);
    let (lead, place) = at.split_at(batch.len());
    let (left, right) = ([lead, &[place[0].clone(), "p".to_string()]], [lead, &["p".to_string(), place[1].clone()]]);
    let left = index::address(lhs, &left.concat(), &mut |d| s.dim(d));
    let right = index::address(rhs, &right.concat(), &mut |d| s.dim(d));
    let (x, y, depth) = (s.load(0, &left), s.load(1, &right), s.dim(*k));
    let zero = s.zero(kernel.dtype);
    body += &format!("{text}var sum = {zero};\nfor (var p = 0u; p < {depth}; p++) {{ sum = fma({x}, {y}, sum); }}\n");
    let cols = s.dim(*n);
    body += &(define("orow", &format!("at / {cols}")) + &define("ocol", &format!("at % {cols}")));
    body += &finished(&mut s, kernel, "sum");
    let count = Count::of(axes, THREADS);
    s.finish([THREADS, 1, 1], Grid::Line(count), &body)
}

/// Takes `rest` apart into `{prefix}_{d}` over the extents; gives the text and what is left.
fn split(rest: &str, extents: &[usize], prefix: &str) -> (String, String) {
    let (mut text, mut rest) = (String::new(), rest.to_string());
    for d in (0..extents.len()).rev() {
        text += &define(&format!("{prefix}_{d}"), &format!("{rest} % {}u", extents[d]));
        rest = format!("({rest} / {}u)", extents[d]);
    }
    (text, rest)
}

/// The row-major number of `{prefix}_{d}` over the extents, after `first` of them.
fn joined(first: &str, extents: &[usize], prefix: &str) -> String {
    let step = |at: String, d: usize| format!("({at} * {}u + {prefix}_{d})", extents[d]);
    (0..extents.len()).fold(first.to_string(), step)
}

/// The output, or the input's gradient: a thread walks the taps of its element.
fn pixels(k: &Contract, c: &ConvSizes, g: &Gemm, workgroups: &Workgroups, is_output: bool) -> Shader {
    let geometry = &c.geometry;
    let (ci, co) = (c.c_in / geometry.groups, c.c_out / geometry.groups);
    let mut s = Source::new(workgroups, &k.args);
    let total = contract::elements(&mut s, g);
    let (extents, source) = if is_output { (&c.out, &c.input) } else { (&c.input, &c.out) };
    let (cols, own, deep, source_cols) = if is_output { (c.c_out, co, ci, c.c_in) } else { (c.c_in, ci, co, c.c_out) };
    let mut body = define("at", &format!("(group.y * groups.x + group.x) * {THREADS}u + local"));
    body += &format!("if (at >= {total}) {{ return; }}\nlet orow = at / {cols}u; let ocol = at % {cols}u;\n");
    body += &define("which", &format!("ocol / {own}u"));
    let (text, image) = split("orow", extents, "u");
    body += &(text + &define("image", &image) + &format!("var sum = {};\n", s.zero(k.dtype)));
    for (d, &reach) in source.iter().enumerate() {
        let (stride, pad, dilation) = (geometry.stride[d], geometry.pad_lo[d] as i64, geometry.dilation[d]);
        body += &format!("for (var j_{d} = 0u; j_{d} < {}u; j_{d}++) {{\n", c.kernel[d]);
        if is_output {
            body += &define(&format!("p_{d}"), &format!("u_{d} * {stride}u + j_{d} * {dilation}u + {}", literal(-pad)));
            body += &format!("if (p_{d} >= {reach}u) {{ continue; }}\n");
        } else {
            body += &define(&format!("q_{d}"), &format!("u_{d} + {} - j_{d} * {dilation}u", literal(pad)));
            body += &define(&format!("p_{d}"), &format!("q_{d} / {stride}u"));
            body += &format!("if (q_{d} % {stride}u != 0u || p_{d} >= {reach}u) {{ continue; }}\n");
        }
    }
    body += &define("x", &format!("{} * {source_cols}u + which * {deep}u", joined("image", source, "p")));
    let tap = joined("0u", &c.kernel, "j");
    let weight = match is_output {
        true => format!("({tap} * {ci}u + c) * {}u + ocol", c.c_out),
        false => format!("({tap} * {ci}u + ocol % {ci}u) * {}u + which * {co}u + c", c.c_out),
    };
    let (x, w) = (s.load(0, "x + c"), s.load(1, &weight));
    body += &format!("for (var c = 0u; c < {deep}u; c++) {{ sum = fma({x}, {w}, sum); }}\n");
    body += &"}\n".repeat(extents.len());
    body += &finished(&mut s, k, "sum");
    s.finish([THREADS, 1, 1], Grid::Line(Count { of: g.result_words(), per: THREADS }), &body)
}

/// The weight's gradient: threads share the pixels of an element, and where there are many also workgroups do.
fn weight_grad(k: &Contract, c: &ConvSizes, g: &Gemm, workgroups: &Workgroups) -> Vec<Shader> {
    let geometry = &c.geometry;
    let (ci, co) = (c.c_in / geometry.groups, c.c_out / geometry.groups);
    let n_elements = c.kernel.iter().product::<usize>() * ci * c.c_out;
    let n_workgroups = n_elements.div_ceil(ELEMENTS as usize);
    let parts = (512 / n_workgroups).clamp(1, 64) as u32;
    let mut s = Source::new(workgroups, &k.args);
    let depth = s.dim(g.k);
    let mut body =
        format!("let id = group.y * groups.x + group.x;\nif (id >= {}u) {{ return; }}\n", n_workgroups as u32 * parts);
    body += &format!("let part_of_depth = id % {parts}u;\nlet depth = {depth};\n");
    body += &contract::part_bounds(PART_STEP, parts);
    body += &format!("let slice = local / {ELEMENTS}u;\nlet at = id / {parts}u * {ELEMENTS}u + local % {ELEMENTS}u;\n");
    body += &format!("let orow = at / {0}u; let ocol = at % {0}u;\n", c.c_out);
    let (text, _) = split(&format!("(orow / {ci}u)"), &c.kernel, "j");
    body += &text;
    body += &define("channel", &format!("ocol / {co}u * {ci}u + orow % {ci}u"));
    body += &format!(
        "var mine = {};\nif (at < {n_elements}u) {{\nfor (var k = k_from + slice; k < k_to; k += {SLICES}u) {{\n",
        s.zero(k.dtype)
    );
    let (text, image) = split("k", &c.out, "u");
    body += &(text + &define("image", &image));
    for d in 0..c.out.len() {
        let pad = literal(-(geometry.pad_lo[d] as i64));
        let p = format!("u_{d} * {}u + j_{d} * {}u + {pad}", geometry.stride[d], geometry.dilation[d]);
        body += &define(&format!("p_{d}"), &p);
        body += &format!("if (p_{d} >= {}u) {{ continue; }}\n", c.input[d]);
    }
    let x = s.load(0, &format!("{} * {}u + channel", joined("image", &c.input, "p"), c.c_in));
    let y = s.load(1, &format!("k * {}u + ocol", c.c_out));
    body += &format!("mine = fma({x}, {y}, mine);\n}}\n}}\n");
    s.shared("slices", register(k.dtype), ELEMENTS * SLICES);
    body += "slices[local] = mine;\nworkgroupBarrier();\n";
    body += &format!("if (slice == 0u && at < {n_elements}u) {{\nvar sum = mine;\n");
    body += &format!("for (var i = 1u; i < {SLICES}u; i++) {{ sum += slices[i * {ELEMENTS}u + local]; }}\n");
    if parts > 1 {
        let words = [g.result_words(), vec![Word::Bits(parts * words_of(k.dtype))]].concat();
        s.scratch(register(k.dtype), Count { of: words, per: 1 });
        body += &format!("if (k_from < k_to) {{ scratch[part_of_depth * {n_elements}u + at] = sum; }}\n}}\n");
    } else {
        body += &(finished(&mut s, k, "sum") + "}\n");
    }
    let grid = Grid::Line(Count { of: vec![Word::Bits(n_workgroups as u32), Word::Bits(parts)], per: 1 });
    let mut out = vec![s.finish([ELEMENTS * SLICES, 1, 1], grid, &body)];
    if parts > 1 {
        out.push(contract::join(k, g, workgroups, PART_STEP, parts));
    }
    out
}
