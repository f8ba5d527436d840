//! Small work: a kernel that one workgroup does alone, so that it can stand before others in one launch. Takes a kernel, gives the body in which
//! so many threads take turns at its points, rows or elements of a product. Never for work that would keep more than one workgroup busy for long.

use super::contract::{Gemm, Operand, Placement, Strided, elements, finished, gemm};
use super::loops::{is_reduce, join, result, start};
use super::point::{self, Site};
use super::source::{define, register};
use super::spread::{Analysis, analyse, product, stores_points};
use super::{Count, Grid, Shader, Source, Word, index};
use crate::caps::Workgroups;
use crate::ir::{DType, Dim};
use crate::kernel::{Contract, Kernel, Loop, Map, ReduceOp, Store, Value};

/// Threads of the workgroup, where the device has so many.
const THREADS: u32 = 256;
/// A point of a loop or an element of a result, in multiply-adds.
const POINT_WORK: u64 = 4;

/// The multiply-adds of a kernel at a batch size, if it is of a kind that goes here.
pub fn work(kernel: &Kernel, batch: usize) -> Option<u64> {
    let count = |dims: &[Dim]| dims.iter().map(|d| d.at(batch) as u64).product::<u64>();
    match kernel {
        Kernel::Loop(k) => Some(POINT_WORK * count(&k.axes)),
        Kernel::Contract(k) => {
            let (g, ..) = strided(k)?;
            Some(count(&g.batch) * count(&[g.m, g.n]) * (POINT_WORK + count(&[g.k])))
        }
        Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => None,
    }
}

/// A product of matrices whose operands are where strides say.
pub(super) fn strided(k: &Contract) -> Option<(Gemm, Strided, Strided)> {
    let g = gemm(&k.contraction);
    let (Operand::Strided(a), Operand::Strided(b), Placement::Batched) = (&g.a, &g.b, &g.result) else { return None };
    let (a, b) = (a.clone(), b.clone());
    (k.dtype == DType::F32).then_some((g, a, b))
}

/// The shader of one kernel with the axes of its one segment, of a kind for which [`work`] gives a number: a grid of one workgroup.
pub fn shader(kernel: &Kernel, workgroups: &Workgroups) -> Shader {
    let threads = threads(workgroups);
    let (s, body) = body(Source::new(workgroups, kernel.args()), kernel, By::All(threads));
    s.finish([threads, 1, 1], Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }), &body)
}

/// The same for threads each of which makes results by itself, and none of which waits for another.
pub fn shader_each(kernel: &Kernel, workgroups: &Workgroups, threads: u32) -> Shader {
    let (s, body) = body(Source::new(workgroups, kernel.args()), kernel, By::Each(threads));
    s.finish([threads, 1, 1], Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }), &body)
}

/// Threads of a workgroup that does small work: a power of two.
pub fn threads(workgroups: &Workgroups) -> u32 {
    1 << THREADS.min(workgroups.threads).ilog2()
}

/// The results of a small kernel, and the elements that each is made of.
pub fn results(kernel: &Kernel, batch: usize) -> Option<(u64, u64)> {
    let count = |dims: &[Dim]| dims.iter().map(|d| d.at(batch) as u64).product::<u64>();
    match kernel {
        Kernel::Loop(k) => Some((count(&k.axes[..k.n_outer]), count(&k.axes[k.n_outer..]))),
        Kernel::Contract(k) => strided(k).map(|(g, ..)| (count(&g.batch) * count(&[g.m, g.n]), count(&[g.k]))),
        Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => None,
    }
}

/// Which threads do a kernel.
pub(super) enum By {
    /// The whole workgroup, a power of two, so that several may share a result and wait for each other.
    All(u32),
    /// So many of it, each by itself.
    Each(u32),
}

/// The body of a kernel's text, and what it declared.
pub(super) fn body<'a>(s: Source<'a>, kernel: &Kernel, by: By) -> (Source<'a>, String) {
    let (threads, shares) = match by {
        By::All(n) => (n, true),
        By::Each(n) => (n, false),
    };
    let mut writer = Writer { s, threads, shares, body: String::new() };
    match kernel {
        Kernel::Loop(k) => writer.loops(k),
        Kernel::Contract(k) => writer.contract(k),
        Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => {
            panic!("bug: a {} kernel is not small work", kernel.kind())
        }
    }
    (writer.s, writer.body)
}

/// An element of a product, as the sum over `q` of products of two numbers.
pub(super) struct Dot {
    /// Defines where the vectors of element `at` begin, and `orow` and `ocol`.
    pub text: String,
    pub depth: String,
    pub x: String,
    pub y: String,
}

pub(super) fn dot(s: &mut Source, g: &Gemm, a: &Strided, b: &Strided) -> Dot {
    let (m, n, depth) = (s.dim(g.m), s.dim(g.n), s.dim(g.k));
    let mut text = format!("let orow = at / {n}; let ocol = at % {n};\nlet product = orow / {m};\n");
    let extents: Vec<String> = g.batch.iter().map(|d| s.dim(*d)).collect();
    let (split, batch) = index::unravel("product", &extents, "batch", &define);
    text += &split;
    let mut begin = |o: &Strided, row: &str| {
        let dims = [o.batch.clone(), vec![o.row]].concat();
        let map = Map { strides: dims, offset: o.offset, guards: Vec::new() };
        let names = [batch.clone(), vec![row.to_string()]].concat();
        let at = index::address(&map, &names, &mut |d| s.dim(d));
        (at, s.dim(o.depth))
    };
    let (at_a, step_a) = begin(a, &format!("(orow % {m})"));
    let (at_b, step_b) = begin(b, "ocol");
    text += &format!("let begin_a = {at_a};\nlet begin_b = {at_b};\n");
    let x = s.load(a.arg, &format!("begin_a + q * {step_a}"));
    let y = s.load(b.arg, &format!("begin_b + q * {step_b}"));
    Dot { text, depth, x, y }
}

/// The text of one kernel.
struct Writer<'a> {
    s: Source<'a>,
    threads: u32,
    /// Whether threads may share a result.
    shares: bool,
    body: String,
}

/// A device runs a batch of about this size where an extent is a multiple of it; only who does what depends on it.
const NOMINAL_BATCH: usize = 64;

impl Writer<'_> {
    fn line(&mut self, text: &str) {
        self.body += text;
        self.body += "\n";
    }

    fn loops(&mut self, k: &Loop) {
        let analysis = analyse(k);
        if k.n_outer == k.axes.len() && analysis.n_passes == 1 && !k.instrs.iter().any(is_reduce) {
            return self.points(k);
        }
        self.rows(k, &analysis);
    }

    /// A point a thread.
    fn points(&mut self, k: &Loop) {
        let n = self.s.dim(product(&k.axes));
        let threads = self.threads;
        self.line(&format!("for (var at = local; at < {n}; at += {threads}u) {{"));
        let sizes: Vec<String> = k.axes.iter().map(|d| self.s.dim(*d)).collect();
        let (text, names) = index::unravel("at", &sizes, "i", &define);
        self.body += &text;
        let site = Site { index: &names, linear: Some("at"), axes: &k.axes, suffixes: None };
        let text = point::statements(&mut self.s, k, &site, None);
        self.line(&format!("{text}}}"));
    }

    /// How many threads share each of `n` results that are made of `depth` elements: as many as there are threads for them.
    fn threads_of(&self, n: Dim, depth: Dim) -> u32 {
        if !self.shares {
            return 1;
        }
        let nominal = |d: Dim| d.at(NOMINAL_BATCH).clamp(1, 1 << 20) as u32;
        let share = self.threads / nominal(n).next_power_of_two().min(self.threads);
        share.min(1 << nominal(depth).ilog2())
    }

    /// Begins a loop in which each `threads` threads have one of `n` results: defines `lane_at`, `at` and `live`.
    fn take_turns(&mut self, n: &str, threads: u32) {
        let each = self.threads / threads;
        self.line(&format!("let lane_at = local % {threads}u;"));
        self.line(&format!("for (var turn = 0u; turn < {n}; turn += {each}u) {{"));
        self.line(&format!("let live = turn + local / {threads}u < {n};"));
        self.line(&format!("let at = min(turn + local / {threads}u, {n} - 1u);"));
    }

    /// Rows that are reduced.
    fn rows(&mut self, k: &Loop, analysis: &Analysis) {
        let (n_rows, n_inner) = (product(&k.axes[..k.n_outer]), product(&k.axes[k.n_outer..]));
        let threads = self.threads_of(n_rows, n_inner);
        let (rows, inner) = (self.s.dim(n_rows), self.s.dim(n_inner));
        self.take_turns(&rows, threads);
        let sizes: Vec<String> = k.axes.iter().map(|d| self.s.dim(*d)).collect();
        let (text, outer) = index::unravel("at", &sizes[..k.n_outer], "o", &define);
        self.body += &text;
        let mut of_row = outer.clone();
        of_row.resize(k.axes.len(), "0u".to_string());
        let row = Site { index: &of_row, linear: None, axes: &k.axes, suffixes: None };
        let shared_rows = analysis.shared_rows(k);
        for pass in 0..analysis.n_passes {
            for (i, is_shared) in shared_rows.iter().enumerate() {
                if *is_shared && !is_reduce(&k.instrs[i]) && analysis.pass[i] == pass {
                    self.body += &point::instruction(&mut self.s, k, i, &row, None);
                }
            }
            let reduces = analysis.reduces_of(k, pass);
            for &(i, op, x) in &reduces {
                self.body += &start(&mut self.s, &i.to_string(), op, k.dtype(x));
            }
            self.line(&format!("for (var j = lane_at; j < {inner}; j += {threads}u) {{"));
            let (text, inner) = index::unravel("j", &sizes[k.n_outer..], "i", &define);
            self.body += &text;
            let names: Vec<String> = outer.iter().chain(&inner).cloned().collect();
            let site = Site { index: &names, ..row };
            for i in analysis.points_of(k, pass) {
                self.body += &point::instruction(&mut self.s, k, i, &site, None);
            }
            for &(i, op, x) in &reduces {
                let value = point::name(x.0 as usize, "");
                self.body += &join(&mut self.s, &i.to_string(), op, k.dtype(x), &value, "j");
            }
            if pass + 1 == analysis.n_passes {
                self.stores(k, &site, |s| stores_points(k, &analysis.is_point, s.value, &s.map), "live");
            }
            self.line("}");
            self.combine(k, &reduces, threads);
        }
        let of_points = k.stores.iter().any(|s| stores_points(k, &analysis.is_point, s.value, &s.map));
        if of_points && threads > 1 {
            // All threads of the row have read what is now written over.
            self.line("workgroupBarrier();");
        }
        self.line("if (live && lane_at == 0u) {");
        for i in (0..k.instrs.len()).filter(|&i| !analysis.is_point[i] && !is_reduce(&k.instrs[i])) {
            if !shared_rows[i] {
                self.body += &point::instruction(&mut self.s, k, i, &row, None);
            }
        }
        self.stores(k, &row, |s| !stores_points(k, &analysis.is_point, s.value, &s.map), "true");
        self.line("}\n}");
    }

    fn stores(&mut self, k: &Loop, site: &Site, which: impl Fn(&Store) -> bool, when: &str) {
        let text: String =
            k.stores.iter().filter(|s| which(s)).map(|s| point::store_value(&mut self.s, s, site)).collect();
        if !text.is_empty() {
            self.line(&format!("if ({when}) {{\n{text}}}"));
        }
    }

    /// Joins the threads of each row and defines the reductions' values for all of them.
    fn combine(&mut self, k: &Loop, reduces: &[(usize, ReduceOp, Value)], threads: u32) {
        for &(i, op, x) in reduces {
            if threads > 1 {
                let kind = register(k.dtype(x));
                let (values, places) = (format!("joined_{kind}"), "places".to_string());
                self.s.shared(&values, kind, self.threads);
                if op == ReduceOp::ArgMax {
                    self.s.shared(&places, "u32", self.threads);
                }
                let keep = match op {
                    ReduceOp::ArgMax => format!("{values}[local] = c{i};\n{places}[local] = c{i}n;"),
                    ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min => format!("{values}[local] = c{i};"),
                };
                // Whoever read what was there before is done.
                self.line(&format!("workgroupBarrier();\n{keep}\nworkgroupBarrier();"));
                // The halves of a row are joined until one is left: an order that depends on the number of threads only.
                self.line(&format!("for (var half = {}u; half > 0u; half = half >> 1u) {{", threads / 2));
                let (value, place) = (format!("{values}[local + half]"), format!("{places}[local + half]"));
                let text = join(&mut self.s, &i.to_string(), op, k.dtype(x), &value, &place);
                self.line(&format!("if (lane_at < half) {{\n{text}{keep}\n}}\nworkgroupBarrier();\n}}"));
                self.line(&format!("c{i} = {values}[local - lane_at];"));
                if op == ReduceOp::ArgMax {
                    self.line(&format!("c{i}n = {places}[local - lane_at];"));
                }
            }
            self.line(&format!("let {} = {};", point::name(i, ""), result(i, op)));
        }
    }

    /// A product of matrices: each element by some threads, which share its depth.
    fn contract(&mut self, k: &Contract) {
        let (g, a, b) = strided(k).expect("bug: only such products are small work");
        let n = g.batch.iter().chain([&g.m, &g.n]).try_fold(Dim::ONE, |all, d| all.times(*d));
        let threads = self.threads_of(n.unwrap_or(Dim::fixed(1 << 20)), g.k);
        let total = elements(&mut self.s, &g);
        self.line(&format!("let total = {total};"));
        self.take_turns("total", threads);
        let Dot { text, depth, x, y } = dot(&mut self.s, &g, &a, &b);
        self.body += &text;
        let zero = self.s.zero(k.dtype);
        self.line(&format!("var sum = {zero};"));
        self.line(&format!("for (var q = lane_at; q < {depth}; q += {threads}u) {{ sum = fma({x}, {y}, sum); }}"));
        if threads > 1 {
            self.s.shared("joined_f32", "f32", self.threads);
            self.line("workgroupBarrier();\njoined_f32[local] = sum;\nworkgroupBarrier();");
            self.line("if (lane_at == 0u) {");
            self.line(&format!("for (var q = 1u; q < {threads}u; q++) {{ sum += joined_f32[local + q]; }}\n}}"));
        }
        let text = finished(&mut self.s, k, "sum");
        self.line(&format!("if (live && lane_at == 0u) {{\n{text}}}\n}}"));
    }
}
