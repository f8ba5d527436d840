//! Pooling's parts. Takes a window kernel, gives a shader in which a thread makes one element of the result: the adjoints gather from all
//! windows that cover it. Never reads padding, and adds in the order of the windows.

use super::index::literal;
use super::scalar::{key_type, order_key};
use super::source::{define, register};
use super::{Count, Grid, Shader, Source, Word};
use crate::caps::Workgroups;
use crate::ir::DType;
use crate::kernel::{WindowKernel, WindowOp};

const THREADS: u32 = 128;

/// The shader of a window kernel.
pub fn shader(k: &WindowKernel, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    let (g, c) = (&k.geometry, k.channels);
    let is_adjoint = matches!(k.op, WindowOp::Put | WindowOp::Spread);
    let (extents, source) = if is_adjoint { (&k.input, &g.out) } else { (&g.out, &k.input) };
    let per_image = extents.iter().product::<usize>() * c;
    let n = s.dim(k.n);
    let mut body = define("at", &format!("(group.y * groups.x + group.x) * {THREADS}u + local"));
    body += &format!("if (at >= {n} * {per_image}u) {{ return; }}\n");
    body += &format!("let channel = at % {c}u;\n");
    let mut rest = format!("(at / {c}u)");
    for d in (0..extents.len()).rev() {
        body += &define(&format!("u_{d}"), &format!("{rest} % {}u", extents[d]));
        rest = format!("({rest} / {}u)", extents[d]);
    }
    body += &define("image", &rest);
    // Where the element of the other side is, once its position p along each axis is known.
    let at = (0..source.len()).fold("image".to_string(), |at, d| format!("({at} * {}u + p_{d})", source[d]));
    let from = format!("{at} * {c}u + channel");
    body += &match k.op {
        WindowOp::Take => take(&mut s, k, &from),
        WindowOp::ArgMax => arg_max(&mut s, k, &from),
        WindowOp::Put | WindowOp::Sum | WindowOp::Spread => sum(&mut s, k, &from),
    };
    s.finish(
        [THREADS, 1, 1],
        Grid::Line(Count { of: vec![Word::Dim(k.n), Word::Bits(per_image as u32)], per: THREADS }),
        &body,
    )
}

/// The element at the place that was chosen.
fn take(s: &mut Source, k: &WindowKernel, from: &str) -> String {
    let g = &k.geometry;
    let place = s.load(1, "at");
    let mut body = define("place", &format!("u32({place})"));
    let mut rest = "place".to_string();
    for d in (0..g.size.len()).rev() {
        let pad = literal(-(g.pad_lo[d] as i64));
        let p = format!("u_{d} * {}u + ({rest} % {}u) * {}u + {pad}", g.stride[d], g.size[d], g.dilation[d]);
        body += &define(&format!("p_{d}"), &p);
        rest = format!("({rest} / {}u)", g.size[d]);
    }
    let value = s.load(0, from);
    body + &s.store(2, "at", &value)
}

/// Opens a loop over the places of this element's window, each of which is inside of the input.
fn places(k: &WindowKernel) -> String {
    let g = &k.geometry;
    let mut body = String::new();
    for d in 0..g.size.len() {
        body += &format!("for (var j_{d} = 0u; j_{d} < {}u; j_{d}++) {{\n", g.size[d]);
        let pad = literal(-(g.pad_lo[d] as i64));
        body += &define(&format!("p_{d}"), &format!("u_{d} * {}u + j_{d} * {}u + {pad}", g.stride[d], g.dilation[d]));
        body += &format!("if (p_{d} >= {}u) {{ continue; }}\n", k.input[d]);
    }
    body
}

fn place_number(k: &WindowKernel) -> String {
    let size = &k.geometry.size;
    (1..size.len()).fold("j_0".to_string(), |at, d| format!("({at} * {}u + j_{d})", size[d]))
}

fn arg_max(s: &mut Source, k: &WindowKernel, from: &str) -> String {
    let value = s.load(0, from);
    let key = order_key(s, k.dtype, &value);
    let lowest = if key_type(k.dtype) == "u64" { "u64(0)" } else { "0u" };
    let mut body = format!("var best = -1;\nvar best_key = {lowest};\n{}", places(k));
    body += &define("key", &key);
    body += &format!("if (best < 0 || key > best_key) {{ best = i32({}); best_key = key; }}\n", place_number(k));
    body += &"}\n".repeat(k.geometry.size.len());
    body + &s.store(1, "at", "best")
}

/// The sum over a window, or over the windows that cover an element: all, or those that chose it.
fn sum(s: &mut Source, k: &WindowKernel, from: &str) -> String {
    let g = &k.geometry;
    let mut body = s.variable("sum", register(k.dtype), &s.zero(k.dtype));
    let rank = g.size.len();
    if k.op == WindowOp::Sum {
        body += &places(k);
    } else {
        // Places from the last on, so that windows come in their order.
        for d in 0..rank {
            body += &format!("for (var left_{d} = {}u; left_{d} > 0u; left_{d}--) {{\n", g.size[d]);
            body += &define(&format!("j_{d}"), &format!("left_{d} - 1u"));
            body += &define(&format!("q_{d}"), &format!("u_{d} + {}u - j_{d} * {}u", g.pad_lo[d], g.dilation[d]));
            body += &define(&format!("p_{d}"), &format!("q_{d} / {}u", g.stride[d]));
            body += &format!("if (q_{d} % {}u != 0u || p_{d} >= {}u) {{ continue; }}\n", g.stride[d], g.out[d]);
        }
    }
    body += &define("from_at", from);
    let value = s.load(0, "from_at");
    body += &match k.op {
        WindowOp::Put => {
            let place = s.load(1, "from_at");
            format!("if (u32({place}) == {}) {{ sum += {value}; }}\n", place_number(k))
        }
        WindowOp::Sum | WindowOp::Spread | WindowOp::ArgMax | WindowOp::Take => format!("sum += {value};\n"),
    };
    body += &"}\n".repeat(rank);
    let result = match k.dtype {
        DType::U8 => "sum & 255u",
        _ => "sum",
    };
    let arg = k.args.len() as u32 - 1;
    body + &s.store(arg, "at", result)
}
