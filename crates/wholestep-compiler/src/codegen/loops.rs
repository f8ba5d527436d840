//! Loops. Takes a loop and how many segments its launch has, gives one dispatch, or two where long rows are few. Never sums in an order that
//! depends on anything but the program.

mod divisor;
mod masked;

use self::masked::{Masked, masked};
use super::block;
use super::point::{self, Site};
use super::quad::{self, LANES, Quads};
use super::source::{define, register, words_of};
use super::spread::{
    Analysis, Rows, analyse, is_fourfold, join as join_rows, product, rows, runs_across, stores_points,
};
use super::{Count, Grid, Shader, Source, Word, index, scalar};
use crate::caps::{Language, Workgroups};
use crate::ir::op::Binary;
use crate::ir::{DType, Dim};
use crate::kernel::{Instr, Loop, ReduceOp, Store, Value};

/// Threads of a workgroup that has no rows to share.
pub const FLAT_THREADS: u32 = 256;

/// The dispatches of a loop.
pub fn shaders(k: &Loop, n_segments: usize, workgroups: &Workgroups) -> Vec<Shader> {
    let k = &rounded_once(k, workgroups);
    let analysis = analyse(k);
    if k.n_outer == k.axes.len() && analysis.n_passes == 1 && !k.instrs.iter().any(is_reduce) {
        let turned = (n_segments == 1).then(|| block::shader(k, workgroups)).flatten();
        let made = turned.or_else(|| quad::flat(k, n_segments, workgroups));
        return vec![made.unwrap_or_else(|| flat(k, n_segments, workgroups))];
    }
    let across = runs_across(k, &analysis);
    let quads = units_of_four(k, &analysis, across, n_segments, workgroups);
    let plan = rows(k, &analysis, (across, quads.is_some()), workgroups.threads, n_segments);
    // Neighbouring rows end at other places.
    let masked = masked(k, &analysis).filter(|_| !plan.across);
    let units = (plan, quads.as_ref(), masked.as_ref());
    let shader = |part| RowShader::new(k, &analysis, units, part, n_segments, workgroups).write();
    match plan.chunk {
        None => vec![shader(Part::Whole)],
        Some(_) => vec![shader(Part::Chunks), shader(Part::Join)],
    }
}

/// The loop without roundings to 16 bits that its stores do anyway.
fn rounded_once(k: &Loop, workgroups: &Workgroups) -> Loop {
    let mut k = k.clone();
    for i in 0..if workgroups.language == Language::Cuda { k.stores.len() } else { 0 } {
        let dtype = k.args[k.stores[i].arg as usize].dtype;
        if let Instr::Cast { to, x } = k.instrs[k.stores[i].value.0 as usize]
            && (to, k.dtype(x)) == (dtype, DType::F32)
            && scalar::is_half(to)
        {
            k.stores[i].value = x;
        }
    }
    k
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
    // Each probe is a read from afar that the next step waits for: seven at a time take a third as long as one.
    let top = 1 << (3 * ((n_segments - 1).ilog2() / 3));
    format!(
        "{LINE}var segment = 0u;\nfor (var step = {top}u; step > 0u; step = step >> 3u) {{\nvar ahead = 0u;\n\
         for (var k = 1u; k < 8u; k++) {{\nlet to = segment + k * step * VECTORS;\n\
         if (to < {n_segments}u * VECTORS) {{ if ({probe} <= line) {{ ahead = k; }} }}\n}}\n\
         segment = segment + ahead * step * VECTORS;\n}}\nlet tile = line - {first};\n"
    )
}

/// The text of the extents of some axes.
pub(super) fn extents(s: &mut Source, k: &Loop, axes: std::ops::Range<usize>) -> Vec<String> {
    let first = axes.start;
    let one = |i: usize| match s.segmented() {
        true => s.word(Word::Number(i as u32)),
        // Nothing is divided by the first.
        false if i == first => s.dim(k.axes[i]),
        false => s.divisor(i, k.axes[i], 1),
    };
    axes.map(one).collect()
}

/// The text of the number of points that some axes span.
pub(super) fn span(s: &mut Source, k: &Loop, axes: std::ops::Range<usize>) -> String {
    if s.segmented() {
        let all = extents(s, k, axes);
        return if all.is_empty() { "1u".to_string() } else { format!("({})", all.join(" * ")) };
    }
    s.dim(product(&k.axes[axes]))
}

/// The words whose product is the number of points.
pub(super) fn span_words(k: &Loop, axes: std::ops::Range<usize>, segmented: bool) -> Vec<Word> {
    axes.map(|i| if segmented { Word::Number(i as u32) } else { Word::Dim(k.axes[i]) }).collect()
}

/// One point a thread.
fn flat(k: &Loop, n_segments: usize, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args).with_segments(n_segments).with_open_numbers();
    let all = 0..k.axes.len();
    let mut body = prologue(&mut s, n_segments);
    let n = span(&mut s, k, all.clone());
    body += &format!("let at = tile * {FLAT_THREADS}u + local;\nif (at < {n}) {{\n");
    let sizes = extents(&mut s, k, all.clone());
    let (text, names) = index::unravel("at", &sizes, "i", &define);
    body += &text;
    // The axes of the other segments are not known here, but one axis needs no extents to be row-major.
    let linear = (!s.segmented() || k.axes.len() == 1).then_some("at");
    let site = Site { index: &names, linear, axes: &k.axes, suffixes: None };
    body += &point::statements(&mut s, k, &site, None);
    body += "}\n";
    let grid = Grid::Line(Count { of: span_words(k, all, s.segmented()), per: FLAT_THREADS });
    s.finish([FLAT_THREADS, 1, 1], grid, &body)
}

/// How four neighbours of one row, or four neighbouring rows, see a loop that reduces; `None` if it goes element by element.
fn units_of_four(k: &Loop, analysis: &Analysis, across: bool, n_segments: usize, w: &Workgroups) -> Option<Quads> {
    let last = k.axes.len().checked_sub(1)?;
    if across {
        let bytes = |i: &Instr| if let Instr::Reduce { x, .. } = i { 4 * words_of(k.dtype(*x)) } else { 0 };
        // Each of the four rows has shared memory of its own for each reduction and its place.
        let fits = k.instrs.iter().map(bytes).sum::<u32>() * 2 * 4 * FLAT_THREADS <= w.shared_bytes;
        let quads = Quads::along(k, k.n_outer - 1);
        return (fits && is_fourfold(k.axes[k.n_outer - 1]) && quads.is_plain).then_some(quads);
    }
    // A row of one axis may end anywhere: its last elements are told apart one by one. Of several axes the one along which the four lie is a
    // multiple of four in all segments or in none.
    let ends_well = ends_in_fours(k, n_segments);
    if last < k.n_outer || !(ends_well || last == k.n_outer && (n_segments == 1 || last == 0)) {
        return None;
    }
    let quads = Quads::along(k, last);
    if !ends_well && quad::writes_halves(k, w) {
        return None;
    }
    let is_store = |s: &&Store| stores_points(k, &analysis.is_point, s.value, &s.map);
    let distinct = k.stores.iter().filter(is_store).all(|s| s.map.strides[last] != Dim::ZERO);
    (quads.is_plain && distinct).then_some(quads)
}

/// Whether rows are whole units of four in all segments.
fn ends_in_fours(k: &Loop, n_segments: usize) -> bool {
    let last = k.axes.len() - 1;
    is_fourfold(k.axes[last]) && (n_segments == 1 || last > 0)
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
    /// How the four of a unit see the loop, if units are of four.
    quads: Option<&'a Quads>,
    part: Part,
    n_segments: usize,
    body: String,
    /// By lane of a unit: the outer indices.
    outer: Vec<Vec<String>>,
    /// Values of points that are defined already and stay so: those of held rows.
    made: Vec<bool>,
    /// What a mask does, if units may be hidden by one.
    masked: Option<&'a Masked>,
    /// Values of points that are variables, as hidden units have others.
    is_kept: Vec<bool>,
    /// Values that are defined for hidden points.
    has_hidden: Vec<bool>,
}

/// A unit of a row in the text: the place of its first element, what must hold for it to be there, and the suffix of its values.
struct Unit {
    at: String,
    holds: Option<String>,
    suffix: String,
}

/// Units that stand side by side in a loop over a row, so that their loads are under way together.
const SIDE_BY_SIDE: usize = 4;
/// Programs longer than this, in values of one unit, have enough to do without.
const SHORT: usize = 48;

impl<'a> RowShader<'a> {
    fn new(
        k: &'a Loop,
        analysis: &'a Analysis,
        (plan, quads, masked): (Rows, Option<&'a Quads>, Option<&'a Masked>),
        part: Part,
        n_segments: usize,
        workgroups: &'a Workgroups,
    ) -> RowShader<'a> {
        let mut s = Source::new(workgroups, &k.args).with_segments(n_segments);
        if plan.chunk.is_some() {
            s = s.with_open_numbers();
        }
        let (rows, quads) = match part {
            Part::Join => (join_rows(k, &plan, workgroups.threads, n_segments), None),
            Part::Whole | Part::Chunks => (plan, quads),
        };
        quads.iter().for_each(|q| q.bind(&mut s));
        let [made, is_kept, has_hidden] = [(); 3].map(|()| vec![false; k.instrs.len()]);
        let (body, outer) = (String::new(), Vec::new());
        RowShader { s, k, analysis, rows, quads, part, n_segments, body, outer, made, masked, is_kept, has_hidden }
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
            let of = [vec![Word::Bits(words)], self.row_tiles(1), self.splits()].concat();
            self.s.scratch("u32", Count { of, per: 1 });
        }
        self.s.finish([self.rows.rows * self.rows.threads, 1, 1], grid, &self.body)
    }

    /// Rows that a thread has at once.
    fn rows_at_once(&self) -> u32 {
        if self.rows.wide && self.rows.across { 4 } else { 1 }
    }

    /// Elements of a row that a thread has at once.
    fn width(&self) -> u32 {
        if self.rows.wide && !self.rows.across { 4 } else { 1 }
    }

    /// The number of tiles of so many rows.
    fn row_tiles(&self, per: u32) -> Vec<Word> {
        let n_outer = self.k.n_outer;
        match self.s.segmented() {
            true => vec![Word::AxesTiles { from: 0, to: n_outer as u32, per }],
            false => vec![Word::Tiles(product(&self.k.axes[..n_outer]), per)],
        }
    }

    /// In how many parts a row is cut.
    fn splits(&self) -> Vec<Word> {
        let per = self.rows.chunk.expect("bug: only rows in chunks are split");
        let (from, to) = (self.k.n_outer, self.k.axes.len());
        vec![match (self.rows.most_splits, self.s.segmented()) {
            (None, true) => Word::AxesTiles { from: from as u32, to: to as u32, per },
            (None, false) => Word::Tiles(product(&self.k.axes[from..]), per),
            (Some(most), true) => Word::AxesSplits { from: from as u32, to: to as u32, chunk: per, most },
            (Some(most), false) => Word::Splits { row: product(&self.k.axes[from..]), chunk: per, most },
        }]
    }

    fn grid(&self) -> Grid {
        let tiles = self.row_tiles(self.rows.rows * self.rows_at_once());
        let splits = if self.part == Part::Chunks { self.splits() } else { vec![] };
        Grid::Line(Count { of: [tiles, splits].concat(), per: 1 })
    }

    /// Words of the scratch for one row's chunk.
    fn words(&self) -> u32 {
        let one = |op: ReduceOp, x: Value| words_of(self.k.dtype(x)) + u32::from(op == ReduceOp::ArgMax);
        self.analysis.reduces_of(self.k, 0).iter().map(|(_, op, x)| one(*op, *x)).sum()
    }

    fn line(&mut self, text: &str) {
        self.body += text;
        self.body += "\n";
    }

    /// Defines `row` (the first one of the thread), `live` (whether it is there), `lane_at` (the thread's number in the row), `split` and the
    /// outer indices.
    fn place_rows(&mut self) {
        let k = self.k;
        let Rows { rows, threads, across, chunk, .. } = self.rows;
        let at_once = self.rows_at_once();
        self.body += &prologue(&mut self.s, self.n_segments);
        let (row_at, lane_at) = match across {
            true => (format!("local % {rows}u"), format!("local / {rows}u")),
            false => (format!("local / {threads}u"), format!("local % {threads}u")),
        };
        self.line(&format!("let row_at = {row_at};\nlet lane_at = {lane_at};"));
        let n_rows = span(&mut self.s, k, 0..k.n_outer);
        self.line(&format!("let n_rows = {n_rows};"));
        match (self.part, chunk) {
            (Part::Chunks, Some(_)) => {
                let per = rows * at_once;
                self.line(&format!("let row_tiles = (n_rows + {}u) / {per}u;", per - 1));
                self.line("let split = tile / row_tiles;");
                self.line(&format!("let row_number = ((tile % row_tiles) * {rows}u + row_at) * {at_once}u;"));
            }
            _ => self.line(&format!("let row_number = (tile * {rows}u + row_at) * {at_once}u;")),
        }
        self.line("let live = row_number < n_rows;");
        self.line(&format!("let row = min(row_number, n_rows - {at_once}u);"));
        let sizes = extents(&mut self.s, k, 0..k.n_outer);
        let (text, names) = index::unravel("row", &sizes, "o", &define);
        self.body += &text;
        self.outer = (0..at_once).map(|lane| beside(&names, k.n_outer.wrapping_sub(1), lane)).collect();
        let n_inner = span(&mut self.s, k, k.n_outer..k.axes.len());
        self.line(&format!("let n_inner = {n_inner};"));
        if let (Part::Chunks | Part::Join, Some(chunk)) = (self.part, chunk) {
            let (last, of_chunk) = (self.s.number(chunk - 1), self.s.number(chunk));
            let each = match self.rows.most_splits {
                Some(most) => format!("(n_chunks + {}) / {}", self.s.number(most - 1), self.s.number(most)),
                None => "1u".to_string(),
            };
            self.line(&format!("let n_chunks = (n_inner + {last}) / {of_chunk};\nlet chunks_of_split = {each};"));
            self.line("let n_splits = (n_chunks + chunks_of_split - 1u) / chunks_of_split;");
            self.line(&format!("let of_split = chunks_of_split * {of_chunk};"));
        }
    }

    /// The indices of each lane: outer ones, and inner ones, of which the last differs between lanes where a unit is of one row.
    fn indices(&self, inner: &[String]) -> Vec<Vec<String>> {
        let last = self.k.axes.len().wrapping_sub(1);
        let lanes = self.lanes().len() as u32;
        (0..lanes)
            .map(|lane| {
                let outer = &self.outer[if self.outer.len() > 1 { lane as usize } else { 0 }];
                let all: Vec<String> = outer.iter().chain(inner).cloned().collect();
                if self.width() > 1 { beside(&all, last, lane) } else { all }
            })
            .collect()
    }

    /// The lanes of a unit.
    fn lanes(&self) -> Vec<&'static str> {
        if self.quads.is_some() { LANES.to_vec() } else { vec![""] }
    }

    /// By lane: the suffixes of values; `unit` is that of values that exist once a point.
    fn suffixes(&self, unit: &str) -> Vec<Vec<String>> {
        let of = |i: usize| match (self.analysis.is_point[i], self.is_kept[i]) {
            (true, true) => format!("{unit}m"),
            (true, false) => unit.to_string(),
            (false, _) => String::new(),
        };
        match self.quads {
            Some(q) => LANES.iter().map(|lane| q.suffixes(lane, of)).collect(),
            None => vec![(0..self.k.instrs.len()).map(of).collect()],
        }
    }

    /// Calls `f` with the sites of all lanes of a unit.
    fn at<T>(&mut self, inner: &[String], unit: &str, f: impl FnOnce(&mut Source<'a>, &[Site]) -> T) -> T {
        let (indices, suffixes) = (self.indices(inner), self.suffixes(unit));
        let sites: Vec<Site> = indices
            .iter()
            .zip(&suffixes)
            .map(|(index, suffixes)| Site { index, linear: None, axes: &self.k.axes, suffixes: Some(suffixes) })
            .collect();
        f(&mut self.s, &sites)
    }

    fn instruction(&mut self, i: usize, inner: &[String], unit: &str) {
        let (k, quads) = (self.k, self.quads);
        if let Some((x, by)) = self.divisor(i) {
            return self.divide(i, (x, by), inner, unit);
        }
        let text = self.at(inner, unit, |s, sites| match quads {
            Some(q) => q.instruction(s, k, i, sites, None),
            None => point::instruction(s, k, i, &sites[0], None),
        });
        self.body += &text;
    }

    fn row_instruction(&mut self, i: usize) {
        let inner = vec!["0u".to_string(); self.k.axes.len() - self.k.n_outer];
        self.instruction(i, &inner, "");
    }

    /// One pass over the rows: reductions, and in the last the stores of points.
    fn pass(&mut self, pass: u32) {
        let k = self.k;
        let reduces = self.analysis.reduces_of(k, pass);
        for &(i, op, x) in &reduces {
            for lane in self.row_lanes() {
                let text = start(&mut self.s, &format!("{i}{lane}"), op, k.dtype(x));
                self.body += &text;
            }
        }
        if self.part == Part::Join {
            self.read_chunks(&reduces);
        } else {
            self.define_divisors(pass);
            if let Some(m) = self.masked {
                self.define_hidden(m, pass);
            }
            self.walk(pass, &reduces);
        }
        if !reduces.is_empty() {
            self.combine(&reduces, pass);
        }
    }

    /// The lanes that have a row of their own.
    fn row_lanes(&self) -> Vec<&'static str> {
        if self.rows_at_once() > 1 { LANES.to_vec() } else { vec![""] }
    }

    /// Goes over what the thread has of its rows.
    fn walk(&mut self, pass: u32, reduces: &[(usize, ReduceOp, Value)]) {
        let (threads, width) = (self.rows.threads, self.width());
        let step = threads * width;
        if let Some(n) = self.rows.held {
            let exact = self.k.axes[self.k.n_outer..].iter().map(|d| d.fixed).product::<i64>() == i64::from(step * n);
            if pass == 0 {
                for u in 0..n {
                    let at = format!("lane_at * {width}u + {}u", u * step);
                    let place = if exact { at.clone() } else { format!("min({at}, n_inner - {width}u)") };
                    self.line(&format!("let j_{u} = {place};"));
                    if !exact {
                        self.line(&format!("let in_{u} = {at} < n_inner;"));
                    }
                }
            }
            let holds = |u| (!exact).then(|| format!("in_{u}"));
            let unit = |u| Unit { at: format!("j_{u}"), holds: holds(u), suffix: format!("_{u}") };
            return self.units(pass, reduces, &(0..n).map(unit).collect::<Vec<_>>(), false);
        }
        let (begin, end) = match self.rows.chunk {
            Some(_) => ("split * of_split + ".to_string(), "min(n_inner, (split + 1u) * of_split)".to_string()),
            None => (String::new(), "n_inner".to_string()),
        };
        self.line(&format!("let end_{pass} = {end};\nvar j_{pass} = {begin}lane_at * {width}u;"));
        let (j, end) = (format!("j_{pass}"), format!("end_{pass}"));
        let points = self.analysis.points_of(self.k, pass).len();
        if points * self.lanes().len() <= SHORT {
            let n = SIDE_BY_SIDE as u32;
            self.line(&format!("for (; {j} + {}u < {end}; {j} += {}u) {{", (n - 1) * step + width - 1, n * step));
            let units: Vec<Unit> = (0..n)
                .map(|u| Unit { at: format!("({j} + {}u)", u * step), holds: None, suffix: format!("_{u}") })
                .collect();
            self.units(pass, reduces, &units, false);
            self.line("}");
        }
        self.line(&format!("for (; {j} < {end}; {j} += {step}u) {{"));
        let ragged = width > 1 && !ends_in_fours(self.k, self.n_segments);
        self.units(pass, reduces, &[Unit { at: j, holds: None, suffix: String::new() }], ragged);
        self.line("}");
    }

    /// The program at some units side by side. Where it is `ragged`, elements of the one unit may be behind the end.
    fn units(&mut self, pass: u32, reduces: &[(usize, ReduceOp, Value)], units: &[Unit], ragged: bool) {
        let k = self.k;
        let held = self.rows.held.is_some();
        let sizes = extents(&mut self.s, k, k.n_outer..k.axes.len());
        let mut inner = Vec::new();
        for unit in units {
            let (text, names) = index::unravel(&unit.at, &sizes, &format!("i{}_", unit.suffix), &define);
            // What is held has its indices from the first pass.
            if !held || pass == 0 {
                self.body += &text;
            }
            inner.push(names);
        }
        let points = self.analysis.points_of(k, pass);
        if let Some(m) = self.masked {
            self.points_beside_mask(m, &points, units, &inner);
        } else {
            for i in points {
                if !self.made[i] {
                    units.iter().zip(&inner).for_each(|(unit, inner)| self.instruction(i, inner, &unit.suffix));
                }
                self.made[i] = held;
            }
        }
        for unit in units {
            self.join_unit(reduces, unit, ragged);
        }
        if pass + 1 == self.analysis.n_passes {
            units.iter().zip(&inner).for_each(|(unit, inner)| self.store_unit(unit, inner, ragged));
        }
        if !held {
            self.is_kept.fill(false);
        }
    }

    /// Joins the elements of a unit to the running results.
    fn join_unit(&mut self, reduces: &[(usize, ReduceOp, Value)], unit: &Unit, ragged: bool) {
        if reduces.is_empty() {
            return;
        }
        let (k, wide) = (self.k, self.width() > 1);
        let suffixes = self.suffixes(&unit.suffix);
        let mut text = String::new();
        for (lane, suffixes) in suffixes.iter().enumerate() {
            let mut one = String::new();
            for &(i, op, x) in reduces {
                let to = if wide { format!("{i}") } else { format!("{i}{}", self.lanes()[lane]) };
                let value = point::name(x.0 as usize, &suffixes[x.0 as usize]);
                let place = if wide { format!("({} + {lane}u)", unit.at) } else { unit.at.clone() };
                one += &join(&mut self.s, &to, op, k.dtype(x), &value, &place);
            }
            let is_over = ragged && lane > 0;
            text += &if is_over { format!("if ({} + {lane}u < n_inner) {{\n{one}}}\n", unit.at) } else { one };
        }
        self.body += &match &unit.holds {
            Some(holds) => format!("if ({holds}) {{\n{text}}}\n"),
            None => text,
        };
    }

    /// Stores what exists once a point.
    fn store_unit(&mut self, unit: &Unit, inner: &[String], ragged: bool) {
        let (k, quads) = (self.k, self.quads);
        let is_point = &self.analysis.is_point;
        let stores: Vec<&Store> = k.stores.iter().filter(|s| stores_points(k, is_point, s.value, &s.map)).collect();
        if stores.is_empty() {
            return;
        }
        let text = self.at(inner, &unit.suffix, |s, sites| {
            let whole: String = stores
                .iter()
                .map(|store| match quads {
                    Some(q) => q.store(s, store, sites),
                    None => point::store_value(s, store, &sites[0]),
                })
                .collect();
            if !ragged {
                return whole;
            }
            let mut text = format!("if ({} + 4u <= n_inner) {{\n{whole}}} else {{\n", unit.at);
            for (lane, site) in sites[..3].iter().enumerate() {
                let one: String = stores.iter().map(|store| point::store_value(s, store, site)).collect();
                text += &format!("if ({} + {lane}u < n_inner) {{\n{one}}}\n", unit.at);
            }
            text + "}\n"
        });
        let also = unit.holds.as_ref().map_or(String::new(), |holds| format!(" && {holds}"));
        self.line(&format!("if (live{also}) {{\n{text}}}"));
    }

    /// Where the partial results of this segment begin in the scratch, as the beginning of a sum.
    fn first_partial(&mut self) -> String {
        if self.s.segmented() { self.s.word(Word::FirstScratch) + " + " } else { String::new() }
    }

    /// Joins what the first dispatch left.
    fn read_chunks(&mut self, reduces: &[(usize, ReduceOp, Value)]) {
        let k = self.k;
        let words = self.words();
        let first = self.first_partial();
        let step = self.rows.threads;
        self.line("var j = lane_at;");
        for n in [SIDE_BY_SIDE as u32, 1] {
            self.line(&format!("for (; j + {}u < n_splits; j += {}u) {{", (n - 1) * step, n * step));
            for u in 0..n {
                self.line(&format!("let begin{u} = {first}((j + {}u) * n_rows + row) * {words}u;", u * step));
            }
            for u in 0..n {
                let mut at = 0;
                for &(i, op, x) in reduces {
                    let kind = register(k.dtype(x));
                    let value = self.s.from_scratch(kind, &format!("begin{u} + {at}u"));
                    at += words_of(k.dtype(x));
                    let place = format!("scratch[begin{u} + {at}u]");
                    let text = join(&mut self.s, &i.to_string(), op, k.dtype(x), &value, &place);
                    self.body += &text;
                    at += u32::from(op == ReduceOp::ArgMax);
                }
            }
            self.line("}");
        }
    }

    /// Joins the threads of each row and defines the reductions' values for all of them.
    fn combine(&mut self, reduces: &[(usize, ReduceOp, Value)], pass: u32) {
        let Rows { threads, across, .. } = self.rows;
        // Threads that can see each other's registers join without memory; the order is theirs in any case.
        let near = match self.s.workgroups.subgroup {
            Some((least, _)) if !across => threads.min(1 << least.max(1).ilog2()),
            _ => 1,
        };
        let k = self.k;
        let joined = reduces.iter().flat_map(|&(i, op, x)| {
            let lanes = self.row_lanes();
            lanes.into_iter().map(move |lane| (format!("{i}{lane}"), op, k.dtype(x)))
        });
        let joined: Vec<(String, ReduceOp, DType)> = joined.collect();
        let mut apart = 1;
        while apart < near {
            for (name, op, dtype) in &joined {
                self.line("{");
                let place = match op {
                    ReduceOp::ArgMax => {
                        self.line(&format!("let n = subgroupShuffleXor(c{name}n, {apart}u);"));
                        "n"
                    }
                    ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min => "",
                };
                self.line(&format!("let v = subgroupShuffleXor(c{name}, {apart}u);"));
                let text = join(&mut self.s, name, *op, *dtype, "v", place);
                self.line(&format!("{text}}}"));
            }
            apart *= 2;
        }
        let left = threads / near;
        if left > 1 {
            self.join_in_memory(&joined, pass, near);
        }
        for (r, (name, op, _)) in joined.iter().enumerate() {
            let in_memory = left > 1 && near == 1;
            let base = if across { "row_at".to_string() } else { format!("row_at * {threads}u") };
            let value = match op {
                ReduceOp::ArgMax if in_memory => format!("i32(at{pass}_{r}[{base}])"),
                ReduceOp::ArgMax => format!("i32(c{name}n)"),
                ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min if in_memory => format!("red{pass}_{r}[{base}]"),
                ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min => format!("c{name}"),
            };
            self.line(&format!("let v{name} = {value};"));
        }
    }

    /// Joins the partial results of a row, one of every `near` threads, in shared memory. Each pass has its own, so that no thread has to wait
    /// for the readers of the last.
    fn join_in_memory(&mut self, joined: &[(String, ReduceOp, DType)], pass: u32, near: u32) {
        let Rows { rows, threads, across, .. } = self.rows;
        let left = threads / near;
        let mut text = String::new();
        for (r, (name, op, dtype)) in joined.iter().enumerate() {
            self.s.shared(&format!("red{pass}_{r}"), register(*dtype), rows * left);
            text += &format!("red{pass}_{r}[local / {near}u] = c{name};\n");
            if *op == ReduceOp::ArgMax {
                self.s.shared(&format!("at{pass}_{r}"), "u32", rows * left);
                text += &format!("at{pass}_{r}[local / {near}u] = c{name}n;\n");
            }
        }
        self.line(&if near == 1 { text } else { format!("if (local % {near}u == 0u) {{\n{text}}}") });
        self.line("workgroupBarrier();");
        if near > 1 {
            // Few are left: every thread joins them all, in order.
            self.line(&format!("let base{pass} = row_at * {left}u;"));
            for (r, (name, op, dtype)) in joined.iter().enumerate() {
                self.line(&format!("c{name} = red{pass}_{r}[base{pass}];"));
                if *op == ReduceOp::ArgMax {
                    self.line(&format!("c{name}n = at{pass}_{r}[base{pass}];"));
                }
                let (value, place) =
                    (format!("red{pass}_{r}[base{pass} + n]"), format!("at{pass}_{r}[base{pass} + n]"));
                let text = join(&mut self.s, name, *op, *dtype, &value, &place);
                self.line(&format!("for (var n = 1u; n < {left}u; n++) {{\n{text}}}"));
            }
            return;
        }
        let stride = if across { rows } else { 1 };
        // The halves of a row are joined until one is left: an order that depends on the number of threads only.
        let mut half = threads / 2;
        while half > 0 {
            self.line(&format!("if (lane_at < {half}u) {{"));
            let other = format!("local + {}u", half * stride);
            for (r, (name, op, dtype)) in joined.iter().enumerate() {
                let (value, place) = (format!("red{pass}_{r}[{other}]"), format!("at{pass}_{r}[{other}]"));
                self.body += &join(&mut self.s, name, *op, *dtype, &value, &place);
                self.line(&format!("red{pass}_{r}[local] = c{name};"));
                if *op == ReduceOp::ArgMax {
                    self.line(&format!("at{pass}_{r}[local] = c{name}n;"));
                }
            }
            self.line("}\nworkgroupBarrier();");
            half /= 2;
        }
    }

    /// What the first thread of each row does at the end.
    fn finish_rows(&mut self, shared_rows: &[bool]) {
        let (k, quads) = (self.k, self.quads);
        if self.part == Part::Chunks {
            let words = self.words();
            self.line("if (live && lane_at == 0u) {");
            let first = self.first_partial();
            self.line(&format!("let to = {first}(split * n_rows + row) * {words}u;"));
            let mut at = 0;
            for lane in self.row_lanes() {
                for (i, op, x) in self.analysis.reduces_of(k, 0) {
                    // The first thread of the row has the joined result in its own variables.
                    self.body += &self.s.to_scratch(&format!("to + {at}u"), &format!("c{i}{lane}"));
                    at += words_of(k.dtype(x));
                    if op == ReduceOp::ArgMax {
                        self.line(&format!("scratch[to + {at}u] = c{i}{lane}n;"));
                        at += 1;
                    }
                }
            }
            self.line("}");
            return;
        }
        let is_point = &self.analysis.is_point;
        let stores: Vec<&Store> = k.stores.iter().filter(|s| !stores_points(k, is_point, s.value, &s.map)).collect();
        if stores.is_empty() {
            return;
        }
        if stores.len() < k.stores.len() && self.rows.threads > 1 {
            // All threads of the row have read what is now written over.
            self.line("workgroupBarrier();");
        }
        self.line("if (live && lane_at == 0u) {");
        for i in (0..k.instrs.len()).filter(|&i| !is_point[i] && !is_reduce(&k.instrs[i])) {
            if self.part == Part::Join || !shared_rows[i] {
                self.row_instruction(i);
            }
        }
        let inner = vec!["0u".to_string(); k.axes.len() - k.n_outer];
        let at_once = self.rows_at_once();
        let text: String = self.at(&inner, "", |s, sites| {
            let one = |store: &&Store| match quads {
                Some(q) if at_once > 1 => q.store(s, store, sites),
                _ => point::store_value(s, store, &sites[0]),
            };
            stores.iter().map(one).collect()
        });
        self.line(&format!("{text}}}"));
    }
}

/// The names with `lane` more at one axis.
pub(super) fn beside(names: &[String], axis: usize, lane: u32) -> Vec<String> {
    let mut names = names.to_vec();
    if lane > 0 {
        names[axis] = format!("({} + {lane}u)", names[axis]);
    }
    names
}

/// Defines the running result of a reduction before its first element.
pub(super) fn start(s: &mut Source, name: &str, op: ReduceOp, dtype: DType) -> String {
    let (kind, dtype) = (register(dtype), scalar::sums_in(dtype));
    let lowest = |s: &mut Source| match dtype {
        DType::I32 => "i32(-2147483648)".to_string(),
        DType::I64 => scalar::constant(s, i64::MIN as f64, dtype),
        DType::U32 | DType::U8 => "0u".to_string(),
        _ => scalar::constant(s, f64::NEG_INFINITY, dtype),
    };
    let value = match op {
        ReduceOp::Sum => format!("{kind}(0)"),
        ReduceOp::Max | ReduceOp::ArgMax => lowest(s),
        ReduceOp::Min => match dtype {
            DType::I32 => "2147483647".to_string(),
            DType::I64 => scalar::constant(s, i64::MAX as f64, dtype),
            DType::U32 => "4294967295u".to_string(),
            DType::U8 => "255u".to_string(),
            _ => scalar::constant(s, f64::INFINITY, dtype),
        },
    };
    let place = if op == ReduceOp::ArgMax { format!("var c{name}n = 4294967295u;\n") } else { String::new() };
    s.variable(&format!("c{name}"), kind, &value) + &place
}

/// The statement that joins `value` (of the row's element `place`) to the running result.
pub(super) fn join(s: &mut Source, name: &str, op: ReduceOp, dtype: DType, value: &str, place: &str) -> String {
    let (c, dtype) = (format!("c{name}"), scalar::sums_in(dtype));
    let binary = |s: &mut Source, op| format!("{c} = {};\n", scalar::binary(s, op, &c, value, dtype));
    match op {
        ReduceOp::Sum => binary(s, Binary::Add),
        ReduceOp::Max => binary(s, Binary::Max),
        ReduceOp::Min => binary(s, Binary::Min),
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
