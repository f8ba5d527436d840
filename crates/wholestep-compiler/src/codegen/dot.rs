//! Products of matrices that are too small for tiles: a few threads make each element, so that the whole device takes part. Takes a product, gives its
//! shader. Never for products in which an operand is read so often that it should be kept near.

use super::choice::NOMINAL_BATCH;
use super::contract::{Strided, elements, finished};
use super::small::{self, Dot};
use super::source::define;
use super::{Count, Grid, Shader, Source};
use crate::caps::{Language, Workgroups};
use crate::ir::Dim;
use crate::kernel::Contract;

/// Multiply-adds up to which a tile's own preparations take longer than its sums.
const MOST_WORK: u64 = 1 << 18;
/// Threads of a workgroup.
const THREADS: u32 = 256;
/// Threads that a device should have to hide what loads take.
const ENOUGH: u64 = 1 << 14;
/// A thread adds up at least so many products.
const LEAST_DEPTH: u64 = 4;
/// Elements of a workgroup whose threads share a depth that is not contiguous: neighbours in memory.
const ELEMENTS: u32 = 32;

/// The shader of a small product, if it is one.
pub(super) fn shader(k: &Contract, workgroups: &Workgroups) -> Option<Shader> {
    let lanes = workgroups.subgroup.is_some_and(|(least, _)| least >= ELEMENTS);
    if workgroups.language != Language::Cuda || !lanes || workgroups.threads < THREADS {
        return None;
    }
    let (g, a, b) = small::strided(k)?;
    let nominal = |d: Dim| d.at(NOMINAL_BATCH).max(1) as u64;
    let n: u64 = g.batch.iter().chain([&g.m, &g.n]).map(|d| nominal(*d)).product();
    let depth = nominal(g.k);
    if n * depth > MOST_WORK {
        return None;
    }
    let most = (depth / LEAST_DEPTH).max(1).ilog2().min(ELEMENTS.ilog2());
    let share = 1u32 << (ENOUGH.div_ceil(n).next_power_of_two().ilog2()).min(most);
    let is_along = |o: &Strided| o.depth == Dim::ONE;
    let across = !(is_along(&a) && is_along(&b));
    // Threads of an element: neighbours, or as far apart as there are elements in the workgroup.
    let share = if across && share > 1 { THREADS / ELEMENTS } else { share };
    let per = THREADS / share;
    let mut s = Source::new(workgroups, &k.args);
    let total = elements(&mut s, &g);
    let Dot { text, depth, x, y } = small::dot(&mut s, &g, &a, &b);
    let (element, slice) = match across {
        true => (format!("local % {per}u"), format!("local / {per}u")),
        false => (format!("local / {share}u"), format!("local % {share}u")),
    };
    let mut body = define("total", &total);
    body += &define("place", &format!("(group.y * groups.x + group.x) * {per}u + {element}"));
    body += &(define("at", "min(place, total - 1u)") + &define("slice", &slice) + &text);
    body += &format!("var sum = {};\n", s.zero(k.dtype));
    body += &format!("for (var q = slice; q < {depth}; q += {share}u) {{ sum = fma({x}, {y}, sum); }}\n");
    if share > 1 && across {
        s.shared("parts_of_sum", "f32", THREADS);
        body += "parts_of_sum[local] = sum;\nworkgroupBarrier();\n";
        body += &format!(
            "if (slice == 0u) {{\nfor (var i = 1u; i < {share}u; i++) {{ sum += parts_of_sum[local + i * {per}u]; }}\n}}\n"
        );
    } else {
        let halves = (0..share.ilog2()).rev().map(|bit| 1u32 << bit);
        body += &halves.map(|half| format!("sum += subgroupShuffleXor(sum, {half}u);\n")).collect::<String>();
    }
    let text = finished(&mut s, k, "sum");
    body += &format!("if (place < total && slice == 0u) {{\n{text}}}\n");
    Some(s.finish([THREADS, 1, 1], Grid::Line(Count { of: g.result_words(), per }), &body))
}
