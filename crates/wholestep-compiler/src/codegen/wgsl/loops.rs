//! Loops. Takes a loop and how many segments its launch has, gives one dispatch, or two where long rows are few. Never sums in an order that
//! depends on anything but the program.

use super::point::{self, Site};
use super::quad;
use super::{Source, define, half, register, scalar};
use crate::caps::Workgroups;
use crate::codegen::loops::{Analysis, Rows, analyse, product, rows, stores_points};
use crate::codegen::{Count, Grid, Shader, Word, index};
use crate::ir::{DType, Dim};
use crate::kernel::{Instr, Loop, ReduceOp, Value};

/// Threads of a workgroup that has no rows to share.
pub const FLAT_THREADS: u32 = 256;

/// The dispatches of a loop.
pub fn shaders(k: &Loop, n_segments: usize, workgroups: &Workgroups) -> Vec<Shader> {
    let analysis = analyse(k);
    if k.n_outer == k.axes.len() && analysis.n_passes == 1 && !k.instrs.iter().any(is_reduce) {
        if n_segments == 1
            && let Some(quads) = quad::worthwhile(k)
        {
            return vec![quad::shader(k, &quads, workgroups)];
        }
        return vec![flat(k, n_segments, workgroups)];
    }
    let plan = rows(k, &analysis, workgroups.threads, n_segments);
    let shader = |part| RowShader::new(k, &analysis, plan, part, n_segments, workgroups).write();
    match plan.chunk {
        None => vec![shader(Part::Whole)],
        Some(_) => vec![shader(Part::Chunks), shader(Part::Join)],
    }
}

pub(super) fn is_reduce(instr: &Instr) -> bool {
    matches!(instr, Instr::Reduce { .. })
}

/// The number of this workgroup, and which segment it belongs to.
const LINE: &str = "let line = group.y * groups.x + group.x;\n";

/// Defines `tile`, the number of the workgroup in its segment.
pub(super) fn prologue(s: &mut Source, n_segments: usize) -> String {
    if !s.segmented() {
        return format!("{LINE}let tile = line;\n");
    }
    let first = s.word(Word::FirstGroup);
    let probe = first.replace("segment", "to");
    let top = n_segments.next_power_of_two() / 2;
    format!(
        "{LINE}var segment = 0u;\nfor (var step = {top}u; step > 0u; step = step >> 1u) {{\n\
         let to = segment + step * VECTORS;\nif (to < {n_segments}u * VECTORS) {{ if ({probe} <= line) {{ segment = to; }} }}\n}}\n\
         let tile = line - {first};\n"
    )
}

/// The text of the extents of some axes.
fn extents(s: &mut Source, k: &Loop, axes: std::ops::Range<usize>) -> Vec<String> {
    axes.map(|i| if s.segmented() { s.word(Word::Axis(i as u32)) } else { s.dim(k.axes[i]) }).collect()
}

/// The text of the number of points that some axes span.
fn span(s: &mut Source, k: &Loop, axes: std::ops::Range<usize>) -> String {
    if s.segmented() {
        let all = extents(s, k, axes);
        return if all.is_empty() { "1u".to_string() } else { format!("({})", all.join(" * ")) };
    }
    s.dim(product(&k.axes[axes]))
}

/// The words whose product is the number of points.
pub(super) fn span_words(k: &Loop, axes: std::ops::Range<usize>, segmented: bool) -> Vec<Word> {
    axes.map(|i| if segmented { Word::Axis(i as u32) } else { Word::Dim(k.axes[i]) }).collect()
}

/// One point a thread.
fn flat(k: &Loop, n_segments: usize, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args).with_segments(n_segments);
    let all = 0..k.axes.len();
    let mut body = prologue(&mut s, n_segments);
    let n = span(&mut s, k, all.clone());
    body += &format!("let at = tile * {FLAT_THREADS}u + local;\nif (at < {n}) {{\n");
    let sizes = extents(&mut s, k, all.clone());
    let (text, names) = index::unravel("at", &sizes, "i", &define);
    body += &text;
    // The axes of the other segments are not known here, but one axis needs no extents to be row-major.
    let linear = (!s.segmented() || k.axes.len() == 1).then_some("at");
    let site = Site { index: &names, linear, axes: &k.axes, suffix: "", uniform: None };
    body += &point::statements(&mut s, k, &site, None);
    body += "}\n";
    let grid = Grid::Line(Count { of: span_words(k, all, s.segmented()), per: FLAT_THREADS });
    s.finish([FLAT_THREADS, 1, 1], grid, &body)
}

/// Which part of the work a dispatch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// Partial results of chunks of rows, into the scratch.
    Chunks,
    /// The rows' results from those.
    Join,
}

/// A dispatch of a loop that reduces, being written.
struct RowShader<'a> {
    s: Source<'a>,
    k: &'a Loop,
    analysis: &'a Analysis,
    rows: Rows,
    part: Part,
    n_segments: usize,
    body: String,
    outer: Vec<String>,
    /// Shared memory that is declared, by type and number.
    shared: Vec<String>,
}

/// Threads and rows of the dispatch that joins chunks.
const JOIN_THREADS: u32 = 32;

impl<'a> RowShader<'a> {
    fn new(
        k: &'a Loop,
        analysis: &'a Analysis,
        plan: Rows,
        part: Part,
        n_segments: usize,
        workgroups: &'a Workgroups,
    ) -> RowShader<'a> {
        let s = Source::new(workgroups, &k.args).with_segments(n_segments);
        let rows = match part {
            Part::Join => {
                Rows { rows: if k.n_outer == 0 { 1 } else { 4 }, threads: JOIN_THREADS, across: true, ..plan }
            }
            Part::Whole | Part::Chunks => plan,
        };
        RowShader { s, k, analysis, rows, part, n_segments, body: String::new(), outer: Vec::new(), shared: Vec::new() }
    }

    fn write(mut self) -> Shader {
        let k = self.k;
        self.place_rows();
        let shared_rows = self.analysis.shared_rows(k);
        let joins = self.part == Part::Join;
        for pass in 0..self.analysis.n_passes {
            let early: Vec<usize> = (0..k.instrs.len())
                .filter(|&i| !joins && shared_rows[i] && !is_reduce(&k.instrs[i]) && self.analysis.pass[i] == pass)
                .collect();
            early.into_iter().for_each(|i| self.row_instruction(i));
            self.pass(pass);
        }
        self.finish_rows(&shared_rows);
        let grid = self.grid();
        let words = self.words();
        if self.part != Part::Whole {
            let chunk = self.rows.chunk.expect("bug: only chunks need scratch");
            let mut of = vec![Word::Bits(words)];
            if self.s.segmented() {
                of.push(Word::AxesTiles(chunk));
            } else {
                of.push(Word::Dim(product(&k.axes[..k.n_outer])));
                of.push(Word::Tiles(product(&k.axes[k.n_outer..]), chunk));
            }
            self.s.scratch("u32", Count { of, per: 1 });
        }
        self.s.finish([self.rows.rows * self.rows.threads, 1, 1], grid, &self.body)
    }

    fn grid(&self) -> Grid {
        let (k, rows) = (self.k, self.rows.rows);
        let n_rows = span_words(k, 0..k.n_outer, self.s.segmented());
        match (self.part, self.rows.chunk) {
            (Part::Chunks, Some(chunk)) if self.s.segmented() => {
                Grid::Line(Count { of: vec![Word::AxesTiles(chunk)], per: 1 })
            }
            (Part::Chunks, Some(chunk)) => {
                let n_rows = product(&k.axes[..k.n_outer]);
                let tiles = vec![Word::Tiles(n_rows, rows), Word::Tiles(product(&k.axes[k.n_outer..]), chunk)];
                Grid::Line(Count { of: tiles, per: 1 })
            }
            _ => Grid::Line(Count { of: n_rows, per: rows }),
        }
    }

    /// Words of the scratch for one row's chunk.
    fn words(&self) -> u32 {
        let one = |op: ReduceOp| if op == ReduceOp::ArgMax { 2 } else { 1 };
        self.analysis.reduces_of(self.k, 0).iter().map(|(_, op, _)| one(*op)).sum()
    }

    fn line(&mut self, text: &str) {
        self.body += text;
        self.body += "\n";
    }

    /// Defines `row`, `live` (whether there is that row), `lane_at` (the thread's number in the row), `split` and the outer indices.
    fn place_rows(&mut self) {
        let k = self.k;
        let Rows { rows, threads, across, chunk } = self.rows;
        self.body += &prologue(&mut self.s, self.n_segments);
        let (row_at, lane_at) = match across {
            true => (format!("local % {rows}u"), format!("local / {rows}u")),
            false => (format!("local / {threads}u"), format!("local % {threads}u")),
        };
        self.line(&format!("let row_at = {row_at};\nlet lane_at = {lane_at};"));
        let n_rows = span(&mut self.s, k, 0..k.n_outer);
        match (self.part, chunk) {
            (Part::Chunks, Some(_)) if self.s.segmented() => self.line("let split = tile;\nlet row_number = row_at;"),
            (Part::Chunks, Some(_)) => {
                self.line(&format!("let row_tiles = ({n_rows} + {}u) / {rows}u;", rows - 1));
                self.line("let split = tile / row_tiles;");
                self.line(&format!("let row_number = (tile % row_tiles) * {rows}u + row_at;"));
            }
            _ => self.line(&format!("let row_number = tile * {rows}u + row_at;")),
        }
        self.line(&format!("let n_rows = {n_rows};\nlet live = row_number < n_rows;"));
        self.line("let row = min(row_number, n_rows - 1u);");
        let sizes = extents(&mut self.s, k, 0..k.n_outer);
        let (text, names) = index::unravel("row", &sizes, "o", &define);
        self.body += &text;
        self.outer = names;
        let n_inner = span(&mut self.s, k, k.n_outer..k.axes.len());
        self.line(&format!("let n_inner = {n_inner};"));
        if let (Part::Chunks | Part::Join, Some(chunk)) = (self.part, chunk) {
            self.line(&format!("let n_splits = (n_inner + {}u) / {chunk}u;", chunk - 1));
        }
    }

    /// The indices of a row, with the inner ones zero.
    fn row_index(&self) -> Vec<String> {
        let mut names = self.outer.clone();
        names.resize(self.k.axes.len(), "0u".to_string());
        names
    }

    fn row_instruction(&mut self, i: usize) {
        let names = self.row_index();
        let site = Site { index: &names, linear: None, axes: &self.k.axes, suffix: "", uniform: None };
        self.body += &point::instruction(&mut self.s, self.k, i, &site, None);
    }

    /// One pass over the rows: reductions, and in the last the stores of points.
    fn pass(&mut self, pass: u32) {
        let k = self.k;
        let reduces = self.analysis.reduces_of(k, pass);
        for &(i, op, x) in &reduces {
            let text = start(&mut self.s, i, op, k.dtype(x));
            self.body += &text;
        }
        if self.part == Part::Join {
            self.read_chunks(&reduces);
        } else {
            self.walk_points(pass, &reduces);
        }
        if !reduces.is_empty() {
            self.combine(&reduces, pass + 1 < self.analysis.n_passes);
        }
    }

    fn walk_points(&mut self, pass: u32, reduces: &[(usize, ReduceOp, Value)]) {
        let (k, threads) = (self.k, self.rows.threads);
        match self.rows.chunk {
            Some(chunk) => {
                self.line(&format!("let end = min(n_inner, (split + 1u) * {chunk}u);"));
                self.line(&format!("for (var j = split * {chunk}u + lane_at; j < end; j += {threads}u) {{"));
            }
            None => self.line(&format!("for (var j = lane_at; j < n_inner; j += {threads}u) {{")),
        }
        let sizes = extents(&mut self.s, k, k.n_outer..k.axes.len());
        let (text, inner) = index::unravel("j", &sizes, "i", &define);
        self.body += &text;
        let names: Vec<String> = self.outer.iter().chain(&inner).cloned().collect();
        let site = Site { index: &names, linear: None, axes: &k.axes, suffix: "", uniform: None };
        for i in self.analysis.points_of(k, pass) {
            self.body += &point::instruction(&mut self.s, k, i, &site, None);
        }
        for &(i, op, x) in reduces {
            let value = point::name(x.0 as usize, "");
            let text = join(&mut self.s, i, op, k.dtype(x), &value, "j");
            self.body += &text;
        }
        if pass + 1 == self.analysis.n_passes {
            let stores: Vec<String> = k
                .stores
                .iter()
                .filter(|store| stores_points(k, &self.analysis.is_point, store.value, &store.map))
                .map(|store| point::store_value(&mut self.s, store, &site))
                .collect();
            if !stores.is_empty() {
                self.line(&format!("if (live) {{\n{}}}", stores.concat()));
            }
        }
        self.line("}");
    }

    /// Joins what the first dispatch left.
    fn read_chunks(&mut self, reduces: &[(usize, ReduceOp, Value)]) {
        let k = self.k;
        let words = self.words();
        if self.s.segmented() {
            let chunk = self.rows.chunk.expect("bug: a join has chunks");
            let size = extents(&mut self.s, k, 0..k.axes.len()).join(" * ").replace("segment", "q");
            self.line("var first = 0u;\nfor (var q = 0u; q < segment; q += VECTORS) {");
            self.line(&format!("first += ({size} + {}u) / {chunk}u;\n}}", chunk - 1));
        } else {
            self.line("let first = 0u;");
        }
        self.line(&format!("for (var j = lane_at; j < n_splits; j += {}u) {{", self.rows.threads));
        self.line(&format!("let begin = ((first + j) * n_rows + row) * {words}u;"));
        let mut at = 0;
        for &(i, op, x) in reduces {
            let kind = register(k.dtype(x));
            let value = format!("bitcast<{kind}>(scratch[begin + {at}u])");
            let place = format!("scratch[begin + {}u]", at + 1);
            let text = join(&mut self.s, i, op, k.dtype(x), &value, &place);
            self.body += &text;
            at += if op == ReduceOp::ArgMax { 2 } else { 1 };
        }
        self.line("}");
    }

    /// Joins the threads of each row and defines the reductions' values for all of them.
    fn combine(&mut self, reduces: &[(usize, ReduceOp, Value)], again: bool) {
        let k = self.k;
        let Rows { rows, threads, across, .. } = self.rows;
        if threads == 1 {
            for &(i, op, _) in reduces {
                self.line(&format!("let {} = {};", point::name(i, ""), result(i, op)));
            }
            return;
        }
        let n = rows * threads;
        let mut arrays = Vec::new();
        for (r, &(i, op, x)) in reduces.iter().enumerate() {
            let values = self.array(r, "", register(k.dtype(x)), n);
            self.line(&format!("{values}[local] = c{i};"));
            let places = if op == ReduceOp::ArgMax { self.array(r, "at", "u32", n) } else { String::new() };
            if op == ReduceOp::ArgMax {
                self.line(&format!("{places}[local] = c{i}n;"));
            }
            arrays.push((values, places));
        }
        self.line("workgroupBarrier();");
        let stride = if across { rows } else { 1 };
        // The halves of a row are joined until one is left: an order that depends on the number of threads only.
        let mut half = threads / 2;
        while half > 0 {
            self.line(&format!("if (lane_at < {half}u) {{"));
            let other = format!("local + {}u", half * stride);
            for ((values, places), &(i, op, x)) in arrays.iter().zip(reduces) {
                let (value, place) = (format!("{values}[{other}]"), format!("{places}[{other}]"));
                self.body += &join(&mut self.s, i, op, k.dtype(x), &value, &place);
                self.line(&format!("{values}[local] = c{i};"));
                if op == ReduceOp::ArgMax {
                    self.line(&format!("{places}[local] = c{i}n;"));
                }
            }
            self.line("}\nworkgroupBarrier();");
            half /= 2;
        }
        let base = if across { "row_at".to_string() } else { format!("row_at * {threads}u") };
        for ((values, places), &(i, op, _)) in arrays.iter().zip(reduces) {
            let value =
                if op == ReduceOp::ArgMax { format!("i32({places}[{base}])") } else { format!("{values}[{base}]") };
            self.line(&format!("let {} = {value};", point::name(i, "")));
        }
        if again {
            self.line("workgroupBarrier();");
        }
    }

    /// Declares shared memory for reduction number `r` of a pass, or finds it.
    fn array(&mut self, r: usize, part: &str, of: &str, n: u32) -> String {
        let name = format!("red{r}{part}_{of}");
        if !self.shared.contains(&name) {
            self.s.shared(&name, of, n);
            self.shared.push(name.clone());
        }
        name
    }

    /// What the first thread of each row does at the end.
    fn finish_rows(&mut self, shared_rows: &[bool]) {
        let k = self.k;
        if self.part == Part::Chunks {
            let words = self.words();
            let split = if self.s.segmented() { "line" } else { "split" };
            self.line("if (live && lane_at == 0u) {");
            self.line(&format!("let to = ({split} * n_rows + row) * {words}u;"));
            let mut at = 0;
            for (i, op, _) in self.analysis.reduces_of(k, 0) {
                // The first thread of the row has the joined result in its own variables.
                self.line(&format!("scratch[to + {at}u] = bitcast<u32>(c{i});"));
                at += 1;
                if op == ReduceOp::ArgMax {
                    self.line(&format!("scratch[to + {at}u] = c{i}n;"));
                    at += 1;
                }
            }
            self.line("}");
            return;
        }
        let stores: Vec<usize> = (0..k.stores.len())
            .filter(|&n| !stores_points(k, &self.analysis.is_point, k.stores[n].value, &k.stores[n].map))
            .collect();
        if stores.is_empty() {
            return;
        }
        if stores.len() < k.stores.len() && self.rows.threads > 1 {
            // All threads of the row have read what is now written over.
            self.line("workgroupBarrier();");
        }
        self.line("if (live && lane_at == 0u) {");
        for i in (0..k.instrs.len()).filter(|&i| !self.analysis.is_point[i] && !is_reduce(&k.instrs[i])) {
            if self.part == Part::Join || !shared_rows[i] {
                self.row_instruction(i);
            }
        }
        let names = self.row_index();
        for n in stores {
            let site = Site { index: &names, linear: None, axes: &k.axes, suffix: "", uniform: None };
            self.body += &point::store_value(&mut self.s, &k.stores[n], &site);
        }
        self.line("}");
    }
}

/// Defines the running result of a reduction before its first element.
pub(super) fn start(s: &mut Source, i: usize, op: ReduceOp, dtype: DType) -> String {
    let (kind, dtype) = (register(dtype), half::sums_in(dtype));
    let lowest = |s: &mut Source| match dtype {
        DType::I32 => "i32(-2147483648)".to_string(),
        DType::U32 | DType::U8 => "0u".to_string(),
        _ => point::constant(s, f64::NEG_INFINITY, dtype),
    };
    let value = match op {
        ReduceOp::Sum => format!("{kind}(0)"),
        ReduceOp::Max | ReduceOp::ArgMax => lowest(s),
        ReduceOp::Min => match dtype {
            DType::I32 => "2147483647".to_string(),
            DType::U32 => "4294967295u".to_string(),
            DType::U8 => "255u".to_string(),
            _ => point::constant(s, f64::INFINITY, dtype),
        },
    };
    let place = if op == ReduceOp::ArgMax { format!("var c{i}n = 4294967295u;\n") } else { String::new() };
    format!("var c{i}: {kind} = {value};\n{place}")
}

/// The statement that joins `value` (of the row's element `place`) to the running result.
pub(super) fn join(s: &mut Source, i: usize, op: ReduceOp, dtype: DType, value: &str, place: &str) -> String {
    let (c, dtype) = (format!("c{i}"), half::sums_in(dtype));
    let binary = |s: &mut Source, op| format!("{c} = {};\n", scalar::binary(s, op, &c, value, dtype));
    match op {
        ReduceOp::Sum => binary(s, crate::ir::op::Binary::Add),
        ReduceOp::Max => binary(s, crate::ir::op::Binary::Max),
        ReduceOp::Min => binary(s, crate::ir::op::Binary::Min),
        ReduceOp::ArgMax => {
            let beats = scalar::beats(s, dtype);
            format!("if ({beats}({value}, {place}, {c}, {c}n)) {{ {c}n = {place}; {c} = {value}; }}\n")
        }
    }
}

/// The value of a reduction that one thread made alone.
pub(super) fn result(i: usize, op: ReduceOp) -> String {
    if op == ReduceOp::ArgMax { format!("i32(c{i}n)") } else { format!("c{i}") }
}

/// An extent times four, for both terms.
pub(super) fn is_fourfold(d: Dim) -> bool {
    d.batch % 4 == 0 && d.fixed % 4 == 0
}
