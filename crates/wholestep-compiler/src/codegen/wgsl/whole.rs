//! Small work, one kernel after the other in one workgroup. Takes kernels and where the arguments of each are, gives one shader: where a
//! dispatch costs more than what it computes, a barrier is cheaper. Never for work that would keep more than one workgroup busy for long.
//!
//! All kernels see memory through the same bindings, one for each piece of memory, as words: two bindings of one piece would let a driver take
//! what one writes and the other reads for different memory.

use super::narrow;
use crate::caps::Workgroups;
use crate::codegen::contract::{Gemm, Operand, Placement, Strided, elements, finished, gemm};
use crate::codegen::loops::{is_reduce, join, result, start};
use crate::codegen::point::{self, Site};
use crate::codegen::source::{define, register};
use crate::codegen::spread::{Analysis, analyse, product, stores_points};
use crate::codegen::{Count, Grid, Shader, Source, Word, index};
use crate::ir::{DType, Dim};
use crate::kernel::{Contract, Kernel, Loop, ReduceOp, Value};
use std::collections::BTreeMap;
use std::ops::Range;

/// A kernel with the axes of one segment.
pub struct Part {
    pub kernel: Kernel,
    /// By argument: the piece of memory that it is in, which is the binding.
    pub pieces: Vec<u32>,
    /// Whether it uses what a part since the last barrier made or used.
    pub waits: bool,
}

/// The parameters of the shader that belong to each part: numbers of its words.
pub type PartWords = Vec<Range<usize>>;

/// Threads of the workgroup.
const THREADS: u32 = 256;
/// More multiply-adds than this in one kernel are better off with a dispatch of their own, which costs about as much on an H100 through Vulkan
/// (2.2 us, and as much again until its first results are there).
pub const MOST_WORK: u64 = 16_384;
/// A point of a loop or an element of a result, in multiply-adds.
const POINT_WORK: u64 = 4;

/// The multiply-adds of a kernel, if it is small enough at this batch size and of a kind that goes here.
pub fn work(kernel: &Kernel, batch: usize) -> Option<u64> {
    let count = |dims: &[Dim]| dims.iter().map(|d| d.at(batch) as u64).product::<u64>();
    let four_bytes = kernel.args().iter().all(|a| is_word(a.dtype));
    let work = match kernel {
        Kernel::Loop(k) => POINT_WORK * count(&k.axes),
        Kernel::Contract(k) => {
            let g = strided(k)?;
            let results = count(&g.0.batch) * count(&[g.0.m, g.0.n]);
            results * (POINT_WORK + count(&[g.0.k]))
        }
        Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => return None,
    };
    (four_bytes && work <= MOST_WORK).then_some(work)
}

/// Whether elements lie in words of their own.
fn is_word(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::U8 | DType::Bool | DType::I64 => true,
        DType::F64 | DType::F16 | DType::BF16 => false,
    }
}

/// A product of matrices whose operands are where strides say.
fn strided(k: &Contract) -> Option<(Gemm, Strided, Strided)> {
    let g = gemm(&k.contraction);
    let (Operand::Strided(a), Operand::Strided(b), Placement::Batched) = (&g.a, &g.b, &g.result) else { return None };
    let (a, b) = (a.clone(), b.clone());
    (k.dtype == DType::F32).then_some((g, a, b))
}

/// The first words of a shader that repeats: how many steps it takes, and the words from the inputs of one to those of the next.
pub const STEPS: usize = 0;
pub const INPUT_WORDS: usize = 1;
/// The piece that inputs are in.
pub const INPUTS: u32 = 0;

/// The shader, and which of its words are whose. One that `repeats` does all of it for several steps: what a step reads of the text and of
/// parameters is then near at hand for the next.
pub fn shader(parts: &[Part], repeats: bool, workgroups: &Workgroups) -> (Shader, PartWords) {
    let threads = THREADS.min(workgroups.threads);
    let threads = 1 << threads.ilog2();
    let mut words = if repeats { vec![Word::Bits(0); 4] } else { Vec::new() };
    let mut ranges = Vec::new();
    let mut body = String::new();
    let mut functions = BTreeMap::new();
    let mut bound = Vec::new();
    let mut shared = BTreeMap::new();
    for part in parts {
        words.resize(words.len().next_multiple_of(4), Word::Bits(0));
        let kernel = narrow(&part.kernel);
        let s = Source::new(workgroups, kernel.args()).in_pieces(part.pieces.clone(), words.len());
        let mut writer = Writer { s, threads, body: String::new() };
        match &kernel {
            Kernel::Loop(k) => writer.loops(k),
            Kernel::Contract(k) => writer.contract(k),
            Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => {
                panic!("bug: a {} kernel is not small work", kernel.kind())
            }
        }
        if part.waits {
            body += "storageBarrier();\n";
        }
        body += &format!("{{\n{}}}\n", writer.body);
        let text = writer.s;
        ranges.push(words.len()..words.len() + text.words.len());
        words.extend(text.words);
        functions.extend(text.functions);
        bound.extend(part.pieces.iter().copied());
        for name in text.shared {
            shared.insert(name.0, (name.1, name.2));
        }
    }
    bound.sort_unstable();
    bound.dedup();
    let mut text = String::new();
    for piece in &bound {
        text += &format!("@group(0) @binding({piece}) var<storage, read_write> p{piece}: array<u32>;\n");
    }
    if !words.is_empty() {
        let n = words.len().div_ceil(4);
        text += &format!("@group(0) @binding({}) var<uniform> params: array<vec4<u32>, {n}>;\n", Shader::PARAMS);
    }
    if repeats {
        body = format!(
            "var inputs_at = 0u;\nfor (var step = 0u; step < params[0u].x; step++) {{\n{body}inputs_at += params[0u].y;\nstorageBarrier();\n}}\n"
        );
    } else if bound.contains(&INPUTS) {
        body = format!("let inputs_at = 0u;\n{body}");
    }
    for (name, (of, n)) in &shared {
        text += &format!("var<workgroup> {name}: array<{of}, {n}>;\n");
    }
    functions.values().for_each(|f| text += f);
    text += &format!("@compute @workgroup_size({threads}, 1, 1)\n");
    text += &format!("fn main(@builtin(local_invocation_index) local: u32) {{\n{body}}}\n");
    let shader = Shader {
        source: text,
        args: bound,
        workgroup: [threads, 1, 1],
        params: words,
        grid: Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }),
        shared_bytes: 0,
        scratch: None,
    };
    (shader, ranges)
}

/// The text of one part.
struct Writer<'a> {
    s: Source<'a>,
    threads: u32,
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

    fn stores(&mut self, k: &Loop, site: &Site, which: impl Fn(&crate::kernel::Store) -> bool, when: &str) {
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
        let (m, n, depth) = (self.s.dim(g.m), self.s.dim(g.n), self.s.dim(g.k));
        self.line(&format!("let orow = at / {n}; let ocol = at % {n};\nlet product = orow / {m};"));
        let extents: Vec<String> = g.batch.iter().map(|d| self.s.dim(*d)).collect();
        let (text, batch) = index::unravel("product", &extents, "batch", &define);
        self.body += &text;
        let mut begin = |o: &Strided, row: &str| {
            let dims = [o.batch.clone(), vec![o.row]].concat();
            let map = crate::kernel::Map { strides: dims, offset: o.offset, guards: Vec::new() };
            let names = [batch.clone(), vec![row.to_string()]].concat();
            let at = index::address(&map, &names, &mut |d| self.s.dim(d));
            (at, self.s.dim(o.depth))
        };
        let (at_a, step_a) = begin(&a, &format!("(orow % {m})"));
        let (at_b, step_b) = begin(&b, "ocol");
        self.line(&format!("let begin_a = {at_a};\nlet begin_b = {at_b};\nvar sum = 0.0;"));
        let x = self.s.load(a.arg, &format!("begin_a + q * {step_a}"));
        let y = self.s.load(b.arg, &format!("begin_b + q * {step_b}"));
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
