//! Running sums. Takes a scan, gives a shader in which a thread walks a column where many lie side by side, and a workgroup shares a line where
//! they do not. Never adds in an order that depends on anything but the extents.

use super::source::{define, register};
use super::{Count, Grid, Shader, Source, Word};
use crate::caps::Workgroups;
use crate::ir::DType;
use crate::kernel::Scan;

/// Columns side by side from which a thread takes one each.
const WIDE: usize = 16;
const COLUMN_THREADS: u32 = 64;
const LINE_THREADS: u32 = 256;

/// The shader of a scan.
pub fn shader(k: &Scan, workgroups: &Workgroups) -> Shader {
    if k.inner.as_fixed().is_none_or(|n| n >= WIDE) { columns(k, workgroups) } else { lines(k, workgroups) }
}

/// What is stored of a sum.
fn narrow(dtype: DType, sum: &str) -> String {
    if dtype == DType::U8 { format!("({sum}) & 255u") } else { sum.to_string() }
}

fn columns(k: &Scan, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    let (outer, len, inner) = (s.dim(k.outer), s.dim(k.len), s.dim(k.inner));
    let kind = register(k.dtype);
    let mut body = define("column", &format!("(group.y * groups.x + group.x) * {COLUMN_THREADS}u + local"));
    body += &format!("if (column >= {outer} * {inner}) {{ return; }}\nlet len = {len};\nlet inner = {inner};\n");
    body += &format!("var sum = {kind}();\nfor (var step = 0u; step < len; step++) {{\n");
    body += &define("place", if k.reverse { "len - 1u - step" } else { "step" });
    body += &define("at", "(column / inner * len + place) * inner + column % inner");
    let value = s.load(0, "at");
    body += &format!("sum += {value};\n{}}}\n", s.store(1, "at", &narrow(k.dtype, "sum")));
    let of = vec![Word::Dim(k.outer), Word::Dim(k.inner)];
    s.finish([COLUMN_THREADS, 1, 1], Grid::Line(Count { of, per: COLUMN_THREADS }), &body)
}

/// A workgroup takes as many elements as it has threads, doubles the reach of each sum until all are joined, and goes on with the last.
fn lines(k: &Scan, workgroups: &Workgroups) -> Shader {
    let threads = LINE_THREADS.min(workgroups.threads);
    let mut s = Source::new(workgroups, &k.args);
    let (outer, len, inner) = (s.dim(k.outer), s.dim(k.len), s.dim(k.inner));
    let kind = register(k.dtype);
    s.shared("sums", kind, threads);
    let mut body = "let line = group.y * groups.x + group.x;\n".to_string();
    body += &format!("if (line >= {outer} * {inner}) {{ return; }}\nlet len = {len};\nlet inner = {inner};\n");
    body += &format!(
        "var before = {kind}();\nfor (var begin = 0u; begin < len; begin += {threads}u) {{\nlet step = begin + local;\n"
    );
    body += &define("place", if k.reverse { "len - 1u - step" } else { "step" });
    body += &define("at", "(line / inner * len + place) * inner + line % inner");
    let value = s.load(0, "at");
    body += &format!(
        "var sum = {kind}();\nif (step < len) {{ sum = {value}; }}\nsums[local] = sum;\nworkgroupBarrier();\n"
    );
    body += &format!("for (var reach = 1u; reach < {threads}u; reach = reach << 1u) {{\n");
    body += "if (local >= reach) { sum = sums[local - reach] + sum; }\nworkgroupBarrier();\nsums[local] = sum;\nworkgroupBarrier();\n}\n";
    body += &format!("if (step < len) {{\n{}}}\n", s.store(1, "at", &narrow(k.dtype, "before + sum")));
    body += &format!("before += sums[{}u];\nworkgroupBarrier();\n}}\n", threads - 1);
    let of = vec![Word::Dim(k.outer), Word::Dim(k.inner)];
    s.finish([threads, 1, 1], Grid::Line(Count { of, per: 1 }), &body)
}
