//! Contractions. Takes a matrix product or one of the three forms of a convolution, gives the shader that makes it by tiles, with the
//! epilogue applied to each finished element, and where the result is small and the depth large a second one that joins partial sums. Never
//! adds in an order that depends on timing.

use super::choice::{self, Choice};
use super::cuda::mma;
use super::quad::{self, Quads};
use super::source::{Elem, define, register, words_of};
use super::tile::{self, Along, DepthEdge, Output, Product, Side};
use super::wgsl::coop;
use super::{Count, Grid, Shader, Source, Word, conv, direct, dot, index, point};
use crate::caps::{Language, Workgroups};
use crate::ir::{DType, Dim};
use crate::kernel::{Contract, Contraction, Map};

/// A contraction as rows of both operands along a common depth.
pub(super) struct Gemm {
    pub m: Dim,
    pub n: Dim,
    pub k: Dim,
    /// What the depth of every product is a multiple of.
    pub unit: Dim,
    /// Products of this shape, outermost first; their number is the result's leading part or the groups of a convolution.
    pub batch: Vec<Dim>,
    pub a: Operand,
    pub b: Operand,
    pub result: Placement,
}

/// Where an operand's elements are.
pub(super) enum Operand {
    Strided(Strided),
    Image(conv::Image),
}

/// An operand whose element of row r and depth k is at `offset + batch + r·row + k·depth`.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    pub arg: u32,
    pub rows: Dim,
    pub row: Dim,
    pub depth: Dim,
    pub offset: Dim,
    /// Strides over the batch axes.
    pub batch: Vec<Dim>,
}

/// Where row r and column c of product z of the result are.
// One lives a moment while a text is made.
#[allow(clippy::large_enum_variant)]
pub(super) enum Placement {
    /// Row `z·m + r` of a matrix with `n` columns.
    Batched,
    /// Row r, columns from `z·n` on, of a matrix with that many columns.
    Grouped { cols: Dim },
    /// As `Grouped`, but the rows are those of one class of pixels.
    Strided(conv::Classes),
}

/// The shaders of a contraction, as `choice` says or else the table. Those that no tiles make have no choice.
/// Errors: what it needs and this version or the device lacks.
pub fn shaders(k: &Contract, workgroups: &Workgroups, choice: Option<Choice>) -> Result<Vec<Shader>, String> {
    match (k.dtype, workgroups.language) {
        (DType::F32, _) => {}
        (DType::F64, Language::Cuda) => return Ok(direct::shaders_of_any(k, workgroups)),
        (dtype, _) => return Err(format!("contractions of {dtype}")),
    }
    let gemm = gemm(&k.contraction);
    if let Some(sizes) = direct::narrow(&k.contraction) {
        return Ok(direct::shaders(k, sizes, &gemm, workgroups));
    }
    if let Some(shaders) = on_units(k, workgroups) {
        return Ok(shaders);
    }
    if let Some(shader) = dot::shader(k, workgroups) {
        return Ok(vec![shader]);
    }
    Ok(shaders_with(k, workgroups, choice.unwrap_or_else(|| choice::table(k, workgroups))))
}

/// The shaders of a contraction that goes to matrix units.
pub(super) fn on_units(k: &Contract, workgroups: &Workgroups) -> Option<Vec<Shader>> {
    match workgroups.language {
        Language::Wgsl => {
            let (tile, parts) = coop::choose(k, workgroups)?;
            Some(coop::shaders(k, workgroups, &tile, parts))
        }
        Language::Cuda => {
            let (tile, parts) = mma::choose(k, workgroups)?;
            Some(mma::shaders(k, workgroups, &tile, parts))
        }
    }
}

/// The shaders of a contraction with a given choice.
pub fn shaders_with(k: &Contract, workgroups: &Workgroups, choice: Choice) -> Vec<Shader> {
    let gemm = gemm(&k.contraction);
    let mut out = vec![sums(k, &gemm, workgroups, choice)];
    if choice.parts > 1 {
        out.push(join(k, &gemm, workgroups, choice.tile.depth, choice.parts));
    }
    out
}

pub(super) fn gemm(c: &Contraction) -> Gemm {
    match c {
        Contraction::Matmul { batch, m, n, k, lhs, rhs } => matmul(batch, [*m, *n, *k], lhs, rhs),
        Contraction::Conv(s) => conv::forward(s),
        Contraction::ConvInputGrad(s) => conv::input_grad(s),
        Contraction::ConvWeightGrad(s) => conv::weight_grad(s),
    }
}

fn matmul(batch: &[Dim], [m, n, k]: [Dim; 3], lhs: &Map, rhs: &Map) -> Gemm {
    let r = batch.len();
    let mut g = Gemm {
        m,
        n,
        k,
        unit: k,
        batch: batch.to_vec(),
        a: Operand::Strided(Strided {
            arg: 0,
            rows: m,
            row: lhs.strides[r],
            depth: lhs.strides[r + 1],
            offset: lhs.offset,
            batch: lhs.strides[..r].to_vec(),
        }),
        b: Operand::Strided(Strided {
            arg: 1,
            rows: n,
            row: rhs.strides[r + 1],
            depth: rhs.strides[r],
            offset: rhs.offset,
            batch: rhs.strides[..r].to_vec(),
        }),
        result: Placement::Batched,
    };
    g.join_batch();
    g
}

impl Gemm {
    /// Batch axes over which the right operand stays the same are rows of one larger product.
    fn join_batch(&mut self) {
        let (Operand::Strided(a), Operand::Strided(b)) = (&mut self.a, &mut self.b) else { return };
        while let Some(&extent) = self.batch.last() {
            let (la, lb) = (*a.batch.last().expect("bug: a stride for each axis"), *b.batch.last().expect("bug: as a"));
            let joined = self.m.times(extent);
            let is_row = a.row.times(self.m) == Some(la) || self.m == Dim::ONE;
            match joined {
                _ if extent == Dim::ONE => {}
                Some(m) if lb == Dim::ZERO && is_row => {
                    if self.m == Dim::ONE {
                        a.row = la;
                    }
                    self.m = m;
                }
                _ => return,
            }
            self.batch.pop();
            a.batch.pop();
            b.batch.pop();
            a.rows = self.m;
        }
    }

    fn batch_words(&self) -> Vec<Word> {
        self.batch.iter().map(|d| Word::Dim(*d)).collect()
    }

    /// Columns of the whole result.
    fn result_cols(&self) -> Dim {
        match &self.result {
            Placement::Batched => self.n,
            Placement::Grouped { cols } => *cols,
            Placement::Strided(c) => c.cols,
        }
    }

    /// Factors of the number of elements of the whole result.
    pub fn result_words(&self) -> Vec<Word> {
        let rows = match &self.result {
            Placement::Batched => [self.batch_words(), vec![Word::Dim(self.m)]].concat(),
            Placement::Grouped { .. } => vec![Word::Dim(self.m)],
            Placement::Strided(c) => vec![Word::Dim(c.pixels)],
        };
        [rows, vec![Word::Dim(self.result_cols())]].concat()
    }
}

/// Whether an extent is a multiple of `of` and does not depend on the batch size.
pub(super) fn is_fixed_multiple(d: Dim, of: u32) -> bool {
    d.batch == 0 && d.fixed > 0 && d.fixed % i64::from(of) == 0
}

/// `d / 4`, where that is whole for every batch size.
pub(super) fn quarter(d: Dim) -> Option<Dim> {
    d.divided_by(Dim::fixed(4))
}

impl Strided {
    /// Whether blocks are loaded as vectors, and along which axis they lie.
    fn access(&self, k: Dim) -> (Along, bool) {
        let whole = quarter(self.offset).is_some() && self.batch.iter().all(|&b| quarter(b).is_some());
        if self.row == Dim::ONE && quarter(self.depth).is_some() && quarter(self.rows).is_some() && whole {
            return (Along::Rows, true);
        }
        if self.depth == Dim::ONE && quarter(self.row).is_some() && quarter(k).is_some() && whole {
            return (Along::Depth, true);
        }
        let smaller = |a: Dim, b: Dim| a.at_signed(64).abs() < b.at_signed(64).abs();
        (if smaller(self.depth, self.row) { Along::Depth } else { Along::Rows }, false)
    }
}

/// A strided operand in a shader.
struct StridedSide<'a> {
    o: &'a Strided,
    along: Along,
    vectors: bool,
}

impl Side for StridedSide<'_> {
    fn along(&self) -> Along {
        self.along
    }

    fn setup(&self, s: &mut Source, name: &str, row: &str) -> String {
        let last = s.dim(self.o.rows - Dim::ONE);
        let arg = self.o.arg;
        if self.vectors && self.along == Along::Rows {
            let last = s.dim(quarter(self.o.rows).expect("bug: access looked") - Dim::ONE);
            return define(&format!("o{name}"), &format!("(base_{arg} >> 2u) + min({row} >> 2u, {last})"));
        }
        let step = s.dim(self.o.row);
        let shift = if self.vectors { " >> 2u" } else { "" };
        (0..4)
            .map(|j| {
                define(&format!("o{name}_{j}"), &format!("(base_{arg} + min({row} + {j}u, {last}) * {step}){shift}"))
            })
            .collect()
    }

    fn load(&self, s: &mut Source, name: &str, slot: u32, k: &str) -> String {
        let arg = self.o.arg;
        if self.vectors && self.along == Along::Depth {
            let vector = |j: u32| s.load_vector(arg, &format!("o{name}_{j} + ({k} >> 2u)"));
            let rows = [0, 1, 2, 3].map(vector);
            let define = |(j, row): (usize, &String)| define(&format!("l{j}"), row);
            return rows.iter().enumerate().map(define).collect::<String>() + &transpose(slot);
        }
        (0..4).map(|i| self.load_one(s, name, slot, &format!("({k} + {i}u)"), i)).collect()
    }

    fn load_one(&self, s: &mut Source, name: &str, slot: u32, k: &str, i: u32) -> String {
        let arg = self.o.arg;
        if self.vectors {
            let step = s.dim(quarter(self.o.depth).unwrap_or(Dim::ZERO));
            return format!("v{slot}_{i} = {};\n", s.load_vector(arg, &format!("o{name} + {k} * {step}")));
        }
        let step = s.dim(self.o.depth);
        let each = [0, 1, 2, 3].map(|j| s.load(arg, &format!("o{name}_{j} + {k} * {step}")));
        format!("v{slot}_{i} = vec4<f32>({});\n", each.join(", "))
    }
}

/// Turns `l0` to `l3`, each a row along the depth, into `v{slot}_0` to `v{slot}_3`.
pub(super) fn transpose(slot: u32) -> String {
    ["x", "y", "z", "w"]
        .iter()
        .enumerate()
        .map(|(i, c)| format!("v{slot}_{i} = vec4<f32>(l0.{c}, l1.{c}, l2.{c}, l3.{c});\n"))
        .collect()
}

/// What a text begins with once `z`, the number of the product, is known.
pub(super) struct Begin {
    /// Defines the part of the depth, the batch indices, `depth`, `k_from` and `k_to`; workgroups that have no depth return.
    pub text: String,
    /// The batch indices.
    pub axes: Vec<String>,
    /// How many products there are, as factors for the grid and as text.
    pub counts: Vec<Word>,
    pub count: String,
}

/// For a tile that stages `step` of the depth at a time, and the depth cut into `parts`.
pub(super) fn begin(s: &mut Source, g: &Gemm, step: u32, parts: u32) -> Begin {
    let depth = s.dim(g.k);
    let (mut counts, mut count) = (g.batch_words(), String::new());
    for d in &g.batch {
        count += &format!("{} * ", s.dim(*d));
    }
    if let Placement::Strided(c) = &g.result {
        counts.push(Word::Bits(c.count()));
        count += &format!("{}u * ", c.count());
    }
    count += &format!("{}u", parts);
    counts.push(Word::Bits(parts));
    let mut text = define("part_of_depth", &format!("z % {}u", parts));
    let mut rest = format!("z / {}u", parts);
    if let Placement::Strided(c) = &g.result {
        text += &c.prologue(&rest);
        rest = format!("(z / {}u)", parts * c.count());
    }
    text += &define("product", &rest);
    let extents: Vec<String> = g.batch.iter().map(|d| s.dim(*d)).collect();
    let (split, axes) = index::unravel("product", &extents, "batch", &define);
    text += &split;
    let depth = match &g.result {
        Placement::Strided(_) => "class_depth".to_string(),
        Placement::Batched | Placement::Grouped { .. } => depth,
    };
    text += &define("depth", &depth);
    text += &part_bounds(step, parts);
    if parts > 1 {
        text += "if (k_from >= k_to) { return; }\n";
    }
    Begin { text, axes, counts, count }
}

/// Where finished or partial sums go.
pub(super) struct Store<'a> {
    k: &'a Contract,
    g: &'a Gemm,
    is_partial: bool,
    /// Whether four neighbours in a row are a vector.
    vectors: bool,
    /// How the epilogue goes by fours.
    quads: Option<Quads>,
    per_part: String,
}

impl<'a> Store<'a> {
    pub fn new(s: &mut Source, k: &'a Contract, g: &'a Gemm, parts: u32) -> Store<'a> {
        let vectors = quarter(g.n).is_some() && quarter(g.result_cols()).is_some();
        let is_partial = parts > 1;
        if is_partial {
            let words = [g.result_words(), vec![Word::Bits(parts)]].concat();
            s.scratch(if vectors { "vec4<f32>" } else { "f32" }, Count { of: words, per: 1 });
        }
        let quads = k.epilogue.as_ref().and_then(quad::quads);
        Store { k, g, is_partial, vectors, quads, per_part: elements(s, g) }
    }

    /// Whether sums are stored four at a time.
    pub fn is_vector(&self) -> bool {
        self.vectors && (self.is_short() || self.quads.is_some())
    }

    /// Whether the text is so short that it may stand often.
    fn is_short(&self) -> bool {
        self.is_partial || self.k.epilogue.is_none()
    }

    /// Statements that store 0 where [`Store::text`] stores what is made of four sums; `None` where that is not at their place.
    pub fn zeros(&self, s: &mut Source, row: &str, col: &str) -> Option<String> {
        let e = self.k.epilogue.as_ref().filter(|_| self.is_vector() && !self.is_partial)?;
        let is_plain = |store: &crate::kernel::Store| {
            store.map.is_row_major(&e.axes)
                && self.k.args[store.arg as usize].dtype.is_float()
                && self.k.args[store.arg as usize].dtype != DType::F64
        };
        if self.k.keeps_sums() || !e.stores.iter().all(is_plain) {
            return None;
        }
        let at = place(s, self.g, row, col);
        let stores: String =
            e.stores.iter().map(|store| s.store_vector(store.arg, "at >> 2u", "vec4<f32>()")).collect();
        Some(format!("{at}{stores}{}", close(self.g)))
    }

    /// Statements that store the sum of a row and column, or four from that column on.
    pub fn text(&self, s: &mut Source, row: &str, col: &str, value: &str) -> String {
        let at = place(s, self.g, row, col);
        let per_part = &self.per_part;
        let store = match (self.is_partial, self.is_vector()) {
            (true, true) => format!("scratch[(part_of_depth * ({per_part}) + at) >> 2u] = {value};\n"),
            (true, false) => format!("scratch[part_of_depth * ({per_part}) + at] = {value};\n"),
            (false, true) => finished_four(s, self.k, self.quads.as_ref(), value),
            (false, false) => finished(s, self.k, value),
        };
        format!("{at}{store}{}", close(self.g))
    }
}

/// The dispatch that makes all sums, or all partial sums.
fn sums(k: &Contract, g: &Gemm, workgroups: &Workgroups, choice: Choice) -> Shader {
    let tile = choice.tile;
    let mut s = Source::new(workgroups, &k.args);
    let (m, n) = (s.dim(g.m), s.dim(g.n));
    let Begin { text: mut prologue, axes, counts, count } = begin(&mut s, g, tile.depth, choice.parts);
    let (a, text_a) = side(&mut s, &g.a, g.k, &axes);
    let (b, text_b) = side(&mut s, &g.b, g.k, &axes);
    prologue += &(text_a + &text_b);
    let whole = is_fixed_multiple(g.k, tile.depth) && !matches!(g.result, Placement::Strided(_));
    let edge = match () {
        () if whole => DepthEdge::Whole,
        () if quarter(g.unit).is_some() => DepthEdge::Vectors,
        () => DepthEdge::Any,
    };
    let store = Store::new(&mut s, k, g, choice.parts);
    let text = |s: &mut Source, row: &str, col: &str, value: &str| store.text(s, row, col, value);
    let output = match store.is_vector() {
        true if store.is_short() => Output::Vectors(&text),
        true => Output::Staged(&text),
        false => Output::Elements(&text),
    };
    let p = Product { tile, m, n, count, prologue, edge, a: a.as_ref(), b: b.as_ref(), output };
    let body = tile::body(&mut s, &p);
    let grid = [vec![Word::Tiles(g.m, tile.rows), Word::Tiles(g.n, tile.cols)], counts].concat();
    s.finish([tile.threads(), 1, 1], Grid::Line(Count { of: grid, per: 1 }), &body)
}

/// Defines the depths of this workgroup, and how many parts there are. A part is a multiple of `depth`.
pub(super) fn part_bounds(depth: u32, parts: u32) -> String {
    if parts == 1 {
        return "let k_from = 0u; let k_to = depth;\n".to_string();
    }
    let least = depth * LEAST_STEPS;
    define("of_part", &format!("max({least}u, (depth + {}u) / {}u * {depth}u)", parts * depth - 1, parts * depth))
        + "let k_from = min(part_of_depth * of_part, depth); let k_to = min(k_from + of_part, depth);\n"
}

/// A part of the depth takes at least so many steps of the tile.
pub(super) const LEAST_STEPS: u32 = 8;

/// The number of elements of the result, as text.
pub(super) fn elements(s: &mut Source, g: &Gemm) -> String {
    let factor = |s: &mut Source, w: &Word| match w {
        Word::Dim(d) => s.dim(*d),
        other => s.word(*other),
    };
    let factors: Vec<String> = g.result_words().iter().map(|w| factor(s, w)).collect();
    factors.join(" * ")
}

/// Statements that define where an element of the result is: `orow`, `ocol` and the row-major `at`. What they open, `close` closes.
fn place(s: &mut Source, g: &Gemm, row: &str, col: &str) -> String {
    let (m, n, cols) = (s.dim(g.m), s.dim(g.n), s.dim(g.result_cols()));
    let (rows, ocol) = match &g.result {
        Placement::Batched if g.batch.is_empty() => (define("orow", row), col.to_string()),
        Placement::Batched => (define("orow", &format!("product * {m} + {row}")), col.to_string()),
        Placement::Grouped { .. } => (define("orow", row), format!("product * {n} + {col}")),
        Placement::Strided(c) => (c.place(row), format!("product * {n} + {col}")),
    };
    let at = define("ocol", &ocol) + &define("at", &format!("orow * {cols} + ocol"));
    match &g.result {
        Placement::Strided(_) => format!("{rows}if (inside) {{\n{at}"),
        Placement::Batched | Placement::Grouped { .. } => rows + &at,
    }
}

fn close(g: &Gemm) -> &'static str {
    match &g.result {
        Placement::Strided(_) => "}\n",
        Placement::Batched | Placement::Grouped { .. } => "",
    }
}

/// Statements for a finished sum at `orow`, `ocol`, `at`: the epilogue, and the store of the sum where that does not overwrite it.
pub(super) fn finished(s: &mut Source, k: &Contract, value: &str) -> String {
    let Some(e) = &k.epilogue else { return s.store(2, "at", value) };
    let rank = e.axes.len();
    let extents: Vec<String> = e.axes[..rank - 1].iter().map(|d| s.dim(*d)).collect();
    let (mut text, mut at) = index::unravel("orow", &extents, "i", &define);
    at.push("ocol".to_string());
    let site = point::Site { index: &at, linear: Some("at"), axes: &e.axes, suffixes: None };
    text += &define("finished", value);
    text += &point::statements(s, e, &site, Some((2, "finished")));
    if k.keeps_sums() && !e.stores.iter().any(|store| store.arg == 2) {
        text += &s.store(2, "at", value);
    }
    text
}

/// The same for four neighbours in a row, where the epilogue can go by fours.
pub(super) fn finished_four(s: &mut Source, k: &Contract, quads: Option<&Quads>, value: &str) -> String {
    let (Some(e), Some(quads)) = (&k.epilogue, quads) else { return s.store_vector(2, "at >> 2u", value) };
    let rank = e.axes.len();
    let extents: Vec<String> = e.axes[..rank - 1].iter().map(|d| s.dim(*d)).collect();
    let (mut text, mut at) = index::unravel("orow", &extents, "i", &define);
    at.push("ocol".to_string());
    text += &define("finished", value);
    text += &quad::statements(s, e, quads, &at, "at", Some((2, "finished")));
    if k.keeps_sums() && !e.stores.iter().any(|store| store.arg == 2) {
        text += &s.store_vector(2, "at >> 2u", "finished");
    }
    text
}

/// The second dispatch: joins the parts of each element in their order.
pub(super) fn join(k: &Contract, g: &Gemm, workgroups: &Workgroups, depth_step: u32, parts: u32) -> Shader {
    const THREADS: u32 = 64;
    /// Partial sums that a thread loads at once.
    const AT_ONCE: u32 = 8;
    let mut s = Source::new(workgroups, &k.args);
    let total = elements(&mut s, g);
    let (depth, cols) = (s.dim(g.k), s.dim(g.result_cols()));
    let words = g.result_words();
    s.scratch(
        register(k.dtype),
        Count { of: [words.clone(), vec![Word::Bits(parts * words_of(k.dtype))]].concat(), per: 1 },
    );
    let mut body = define("at", &format!("(group.y * groups.x + group.x) * {THREADS}u + local"));
    body += &format!("let total = {total};\nif (at >= total) {{ return; }}\n");
    body += &(define("depth", &depth) + &define("part_of_depth", "0u") + &part_bounds(depth_step, parts));
    body += &format!("let parts = (depth + of_part - 1u) / of_part;\nvar sum = {};\nvar part = 0u;\n", s.zero(k.dtype));
    // Loads do not wait for sums, so some are asked for at once.
    let loads: String =
        (0..AT_ONCE).map(|i| define(&format!("s{i}"), &format!("scratch[(part + {i}u) * total + at]"))).collect();
    let sums: String = (0..AT_ONCE).map(|i| format!("sum += s{i};\n")).collect();
    body += &format!("for (; part + {AT_ONCE}u <= parts; part += {AT_ONCE}u) {{\n{loads}{sums}}}\n");
    body += "for (; part < parts; part++) { sum += scratch[part * total + at]; }\n";
    body += &(define("orow", &format!("at / {cols}")) + &define("ocol", &format!("at % {cols}")));
    body += &finished(&mut s, k, "sum");
    s.finish([THREADS, 1, 1], Grid::Line(Count { of: words, per: THREADS }), &body)
}

/// An operand as it is loaded, and the statements that define where it begins.
fn side<'a>(s: &mut Source, o: &'a Operand, k: Dim, batch: &[String]) -> (Box<dyn Side + 'a>, String) {
    match o {
        Operand::Strided(o) => {
            let (along, vectors) = o.access(k);
            s.bind(o.arg, if vectors { Elem::Vec4 } else { Elem::Scalar });
            let map = Map { strides: o.batch.clone(), offset: o.offset, guards: Vec::new() };
            let base = index::address(&map, batch, &mut |d| s.dim(d));
            (Box::new(StridedSide { o, along, vectors }), define(&format!("base_{}", o.arg), &base))
        }
        Operand::Image(i) => {
            s.bind(i.arg(), if i.vectors() { Elem::Vec4 } else { Elem::Scalar });
            (Box::new(i.clone()), define(&format!("base_{}", i.arg()), &format!("product * {}u", i.group_step())))
        }
    }
}
