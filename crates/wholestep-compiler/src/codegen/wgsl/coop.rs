//! Products of f16 operands on units that multiply small matrices (cooperative matrices), with f32 sums. Takes a contraction whose operands are
//! read in whole vectors, gives its shaders. Never used where the device does not list the unit's shape.
//!
//! Operands are staged in workgroup memory as they lie in memory, so that only whole vectors move: a unit's matrix is loaded by rows or by
//! columns, whichever that is.

use super::COOPERATIVE;
use super::access::load_f16;
use crate::caps::Workgroups;
use crate::codegen::choice::{self, NOMINAL_BATCH, Rate};
use crate::codegen::contract::{self, Begin, Gemm, Operand, Placement};
use crate::codegen::source::{Elem, define};
use crate::codegen::staged::Staged;
use crate::codegen::tile::{self, Along, Side};
use crate::codegen::{Count, Grid, Shader, Source, Word, index};
use crate::ir::{DType, Dim};
use crate::kernel::{Contract, Map};
use std::fmt::Write;

/// The shape of a product on matrix units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoopTile {
    /// Edge of the unit: 16 on NVIDIA, 8 on Apple.
    pub unit: u32,
    /// Rows and columns that a workgroup makes.
    pub rows: u32,
    pub cols: u32,
    /// Rows and columns that a subgroup makes.
    pub sub_rows: u32,
    pub sub_cols: u32,
    /// Depth that is staged at a time.
    pub depth: u32,
    /// Threads of a subgroup.
    pub lanes: u32,
    /// Elements in one of the arrays in workgroup memory: 1, or vectors of 4.
    pub per: u32,
}

/// A tile with the TFLOP/s that it reached on a product of 8192³ on an H100 through Vulkan; those for units of 8 are guesses.
#[derive(Clone, Copy, Debug)]
pub struct Rated {
    pub tile: CoopTile,
    tflops: f64,
}

/// The tiles that are shipped for units of an edge.
pub fn tiles(unit: u32, lanes: u32) -> Vec<Rated> {
    // Metal takes matrices from arrays of single elements only.
    let per = if unit == 8 { 1 } else { 4 };
    let rated = |[rows, cols, depth]: [u32; 3], [sub_rows, sub_cols]: [u32; 2], tflops| Rated {
        tile: CoopTile { unit, rows, cols, sub_rows, sub_cols, depth, lanes, per },
        tflops,
    };
    if unit == 8 {
        // A subgroup of Apple's makes 32 by 32; software drivers take minutes to compile more.
        return vec![rated([64, 64, 16], [32, 32], 10.0), rated([32, 32, 16], [16, 16], 6.0)];
    }
    vec![
        rated([128, 256, 32], [64, 64], 301.0),
        rated([128, 128, 32], [64, 64], 290.0),
        rated([64, 64, 32], [32, 32], 176.0),
        rated([32, 32, 64], [16, 16], 91.0),
    ]
}

impl CoopTile {
    pub fn threads(&self) -> u32 {
        self.subs() * self.lanes
    }

    /// Subgroups of a workgroup.
    fn subs(&self) -> u32 {
        (self.rows / self.sub_rows) * (self.cols / self.sub_cols)
    }

    /// Bytes of workgroup memory at most, whichever way the operands lie.
    pub fn shared_bytes(&self) -> u32 {
        let operands = Staged::most(self.rows, self.depth) + Staged::most(self.cols, self.depth);
        2 * operands + 4 * self.patches()
    }

    /// Elements through which finished sums pass: a unit's matrix for each subgroup.
    fn patches(&self) -> u32 {
        self.subs() * self.unit * self.unit
    }
}

/// Rows of tiles in a band: as many rows as columns of the result are then in work at a time, which reads the least (298 TFLOP/s where bands of 8
/// gave 291).
const BAND: u32 = 16;

/// Elements that move at once from memory. Eight as words would be fewer loads, but naga turns no word into two f16, and NVIDIA's compiler takes
/// no matrix from an array of words.
const READ: u32 = 4;

/// The best tile for a contraction and the number of parts of its depth; `None` where its operands are not of f16 or not in whole vectors, or
/// the device has no units that fit.
pub fn choose(k: &Contract, workgroups: &Workgroups) -> Option<(CoopTile, u32)> {
    let g = contract::gemm(&k.contraction);
    let (low, high) = workgroups.subgroup?;
    let fits = |arg: usize, o: &Operand| k.args[arg].dtype == DType::F16 && side(o, g.k).is_some();
    if low != high || !fits(0, &g.a) || !fits(1, &g.b) {
        return None;
    }
    let unit = [16, 8].into_iter().find(|&u| workgroups.tiles.contains(&[u; 3]))?;
    let fits = |r: &Rated| r.tile.threads() <= workgroups.threads && r.tile.shared_bytes() <= workgroups.shared_bytes;
    let mut best: Option<(f64, CoopTile, u32)> = None;
    for r in tiles(unit, low).into_iter().filter(fits) {
        let t = r.tile;
        let CoopTile { rows, cols, depth, .. } = t;
        let rate = Rate { rows, cols, depth, tflops: r.tflops, resident: RESIDENT, step_us: STEP_US };
        for parts in choice::part_counts(&g, &rate, NOMINAL_BATCH) {
            let time = choice::estimate(&g, &rate, parts, NOMINAL_BATCH);
            if best.is_none_or(|(least, ..)| time < least) {
                best = Some((time, t, parts));
            }
        }
    }
    best.map(|(_, tile, parts)| (tile, parts))
}

/// Workgroups of a multiprocessor, and microseconds of a step of one that is alone.
const RESIDENT: f64 = 2.0;
const STEP_US: f64 = 0.75;

/// The shaders of a contraction for which [`choose`] found a tile.
pub fn shaders(k: &Contract, workgroups: &Workgroups, tile: &CoopTile, parts: u32) -> Vec<Shader> {
    let g = contract::gemm(&k.contraction);
    let mut out = vec![sums(k, &g, workgroups, tile, parts)];
    if parts > 1 {
        out.push(contract::join(k, &g, workgroups, tile.depth, parts));
    }
    out
}

/// An operand that is read as vectors of [`READ`] neighbours.
struct Vectors<'a> {
    o: &'a Operand,
    along: Along,
}

/// `d` elements in vectors, where that is whole for every batch size.
fn vectors(d: Dim) -> Option<Dim> {
    d.divided_by(Dim::fixed(READ as usize))
}

/// How an operand is read; `None` where neighbours are not whole vectors.
fn side(of: &Operand, k: Dim) -> Option<Vectors<'_>> {
    let with = |along| Vectors { o: of, along };
    let o = match of {
        Operand::Strided(o) => o,
        Operand::Image(i) => return i.vectors().then(|| with(i.along())),
    };
    let is_whole = |d: Dim| vectors(d).is_some();
    let rows = o.row == Dim::ONE && is_whole(o.depth) && is_whole(o.rows);
    let depth = o.depth == Dim::ONE && is_whole(o.row) && is_whole(k);
    match (rows, depth) {
        _ if !(is_whole(o.offset) && o.batch.iter().all(|&b| is_whole(b))) => None,
        (true, _) => Some(with(Along::Rows)),
        (false, true) => Some(with(Along::Depth)),
        (false, false) => None,
    }
}

impl Vectors<'_> {
    /// Defines where the product's part of the operand begins.
    fn base(&self, s: &mut Source, axes: &[String]) -> String {
        match self.o {
            Operand::Strided(o) => {
                let map = Map { strides: o.batch.clone(), offset: o.offset, guards: Vec::new() };
                define(&format!("base_{}", o.arg), &index::address(&map, axes, &mut |d| s.dim(d)))
            }
            Operand::Image(i) => define(&format!("base_{}", i.arg()), &format!("product * {}u", i.group_step())),
        }
    }

    /// Defines where row `row` is, the first of a vector that lies along rows.
    fn setup(&self, s: &mut Source, name: &str, row: &str) -> String {
        let (o, place) = match (self.o, self.along) {
            (Operand::Image(i), _) => return i.setup_row(s, name, row, READ as usize),
            (Operand::Strided(o), Along::Rows) => {
                let last = s.dim(vectors(o.rows).expect("bug: a side is whole vectors") - Dim::ONE);
                (o, format!("min(({row}) >> 2u, {last})"))
            }
            (Operand::Strided(o), Along::Depth) => {
                let (last, step) = (s.dim(o.rows - Dim::ONE), s.dim(o.row));
                (o, format!("(min({row}, {last}) * {step} >> 2u)"))
            }
        };
        define(&format!("o{name}"), &format!("(base_{} >> 2u) + {place}", o.arg))
    }

    /// The statement that sets `v{name}` to the vector at depth `k`, the first of a vector that lies along it.
    fn load(&self, s: &mut Source, name: &str, k: &str) -> String {
        let (arg, at) = match (self.o, self.along) {
            (Operand::Image(i), _) => {
                let (text, inside) = i.at(name, k);
                let vector = load_f16(s, i.arg(), &format!("(o_{name} + away) >> 2u"));
                return format!("{text}v{name} = vec4<f16>();\nif ({inside}) {{ v{name} = {vector}; }}\n");
            }
            (Operand::Strided(o), Along::Rows) => {
                let step = s.dim(vectors(o.depth).expect("bug: a side is whole vectors"));
                (o.arg, format!("o{name} + {k} * {step}"))
            }
            (Operand::Strided(o), Along::Depth) => (o.arg, format!("o{name} + ({k} >> 2u)")),
        };
        format!("v{name} = {};\n", load_f16(s, arg, &at))
    }
}

/// What the text of a product is made from.
struct Product<'a> {
    t: &'a CoopTile,
    sides: [(Vectors<'a>, Staged); 2],
    /// Whether the depth of every workgroup is a multiple of the tile's.
    whole: bool,
}

/// The dispatch that makes all sums, or all partial sums.
fn sums(k: &Contract, g: &Gemm, workgroups: &Workgroups, t: &CoopTile, parts: u32) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    s.enable(COOPERATIVE);
    s.enable("f16");
    let (m, n) = (s.dim(g.m), s.dim(g.n));
    let Begin { text, axes, counts, count } = contract::begin(&mut s, g, t.depth, parts);
    let mut body = tile::place([t.rows, t.cols], BAND, &m, &n, &count) + &text;
    let [a, b] = [&g.a, &g.b].map(|o| side(o, g.k).expect("bug: whoever chose the tile looked"));
    body += &(a.base(&mut s, &axes) + &b.base(&mut s, &axes));
    let staged = [Staged::new('a', a.along, t.rows, t.depth), Staged::new('b', b.along, t.cols, t.depth)];
    for side in &staged {
        let of = if t.per == 1 { "f16" } else { "vec4<f16>" };
        let name = if side.name == 'a' { "tile_a" } else { "tile_b" };
        s.shared(name, of, side.elements / t.per);
    }
    let [in_a, in_b] = staged;
    let whole = contract::is_fixed_multiple(g.k, t.depth) && !matches!(g.result, Placement::Strided(_));
    let p = Product { t, sides: [(a, in_a), (b, in_b)], whole };
    let across = t.cols / t.sub_cols;
    writeln!(body, "let sub_row = sub / {across}u * {}u; let sub_col = sub % {across}u * {}u;", t.sub_rows, t.sub_cols)
        .unwrap();
    for (i, j) in pairs(t) {
        writeln!(body, "var c_{i}_{j} = coop_mat{0}x{0}<f32, C>();", t.unit).unwrap();
    }
    body += &p.setup(&mut s);
    body += &p.walk(&mut s);
    body += &finish(&mut s, k, g, t, parts);
    let grid = [vec![Word::Tiles(g.m, t.rows), Word::Tiles(g.n, t.cols)], counts].concat();
    s.finish([t.threads(), 1, 1], Grid::Line(Count { of: grid, per: 1 }), &body)
}

/// The units of a subgroup's part.
fn pairs(t: &CoopTile) -> impl Iterator<Item = (u32, u32)> {
    let (ni, nj) = (t.sub_rows / t.unit, t.sub_cols / t.unit);
    (0..ni).flat_map(move |i| (0..nj).map(move |j| (i, j)))
}

impl Product<'_> {
    /// Where each thread reads and where it stages what it read.
    fn setup(&self, s: &mut Source) -> String {
        let t = self.t;
        let mut text = String::new();
        for (side, staged) in &self.sides {
            let name = staged.name;
            let across = staged.width / READ;
            let first = if name == 'a' { "m0" } else { "n0" };
            for i in 0..staged.moves(READ, t.threads()) {
                let e = format!("(local + {}u)", i * t.threads());
                let (line, at) = (format!("{e} / {across}u"), format!("{e} % {across}u * {READ}u"));
                let (down, right) = (staged.pitch / t.per, READ / t.per);
                writeln!(text, "let s{name}{i} = {line} * {down}u + {e} % {across}u * {right}u;").unwrap();
                let (row, depth) = match staged.along {
                    Along::Rows => (at, line),
                    Along::Depth => (line, at),
                };
                text += &define(&format!("q{name}{i}"), &depth);
                text += &side.setup(s, &format!("{name}{i}"), &format!("{first} + {row}"));
                writeln!(text, "var v{name}{i} = vec4<f16>();").unwrap();
            }
        }
        text
    }

    /// Loads of the depth `from` into registers.
    fn loads(&self, s: &mut Source, from: &str) -> String {
        let mut text = String::new();
        for (side, staged) in &self.sides {
            for i in 0..staged.moves(READ, self.t.threads()) {
                let name = format!("{}{i}", staged.name);
                let load = side.load(s, &name, &format!("k{name}"));
                let k = define(&format!("k{name}"), &format!("{from} + q{name}"));
                text += &match self.whole {
                    true => format!("{{\n{k}{load}}}\n"),
                    // What is past the end is zero on both sides, since zero times infinity is none.
                    false => {
                        format!("{{\n{k}if (k{name} < k_to) {{\n{load}}} else {{ v{name} = vec4<f16>(); }}\n}}\n")
                    }
                };
            }
        }
        text
    }

    fn walk(&self, s: &mut Source) -> String {
        let depth = self.t.depth;
        let (first, next) = (self.loads(s, "k_from"), self.loads(s, "k_next"));
        // No branch around the loads, so that the compiler may spread them: the last depth is read again, or its guards let nothing through.
        let next_at = match self.whole {
            true => format!("min(k + {depth}u, k_to - {depth}u)"),
            false => format!("k + {depth}u"),
        };
        format!(
            "{first}for (var k = k_from; k < k_to; k += {depth}u) {{\nworkgroupBarrier();\n{}workgroupBarrier();\n\
             let k_next = {next_at};\n{next}{}}}\n",
            self.stage(),
            self.multiply()
        )
    }

    /// Stores what was read to workgroup memory.
    fn stage(&self) -> String {
        let t = self.t;
        let mut text = String::new();
        for (_, staged) in &self.sides {
            let name = staged.name;
            for i in 0..staged.moves(READ, t.threads()) {
                if t.per > 1 {
                    writeln!(text, "tile_{name}[s{name}{i}] = v{name}{i};").unwrap();
                    continue;
                }
                for (at, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                    writeln!(text, "tile_{name}[s{name}{i} + {at}u] = v{name}{i}.{lane};").unwrap();
                }
            }
        }
        text
    }

    /// Multiplies a staged depth into the sums of this subgroup.
    fn multiply(&self) -> String {
        let (t, unit, per) = (self.t, self.t.unit, self.t.per);
        let mut text = String::new();
        for (_, staged) in &self.sides {
            let first = if staged.name == 'a' { "sub_row" } else { "sub_col" };
            let at = match staged.along {
                Along::Rows => format!("{first} / {per}u"),
                Along::Depth => format!("{first} * {}u", staged.pitch / per),
            };
            text += &define(&format!("at_{}", staged.name), &at);
        }
        for k in (0..t.depth).step_by(unit as usize) {
            text += "{\n";
            for ((_, staged), n) in self.sides.iter().zip([t.sub_rows / unit, t.sub_cols / unit]) {
                let name = staged.name;
                let role = if name == 'a' { "A" } else { "B" };
                for i in 0..n {
                    let at = match staged.along {
                        Along::Rows => k * staged.pitch + i * unit,
                        Along::Depth => i * unit * staged.pitch + k,
                    };
                    // A line of memory is a row of the matrix (a's rows, b's depths) or a column.
                    let load = match (staged.along, name) {
                        (Along::Depth, 'a') | (Along::Rows, 'b') => "coopLoadT",
                        (Along::Depth | Along::Rows, _) => "coopLoad",
                    };
                    let (at, pitch) = (at / per, staged.pitch / per);
                    let of = format!("coop_mat{unit}x{unit}<f16, {role}>");
                    writeln!(text, "let f{name}{i} = {load}<{of}>(&tile_{name}[at_{name} + {at}u], {pitch}u);")
                        .unwrap();
                }
            }
            // There and back (301 TFLOP/s where row by row gave 297): from one product to the next, one operand stays.
            let last = t.sub_cols / unit - 1;
            for (i, j) in pairs(t).map(|(i, j)| (i, if i % 2 == 0 { j } else { last - j })) {
                writeln!(text, "c_{i}_{j} = coopMultiplyAdd(fa{i}, fb{j}, c_{i}_{j});").unwrap();
            }
            text += "}\n";
        }
        text
    }
}

/// Stores the sums: straight from the units where the result is whole tiles and nothing is done with them, else through workgroup memory, one
/// unit of each subgroup at a time, so that the text of an epilogue stands once.
fn finish(s: &mut Source, k: &Contract, g: &Gemm, t: &CoopTile, parts: u32) -> String {
    let is_whole = contract::is_fixed_multiple(g.m, t.rows) && contract::is_fixed_multiple(g.n, t.cols);
    let is_plain = matches!(g.result, Placement::Batched) && g.batch.is_empty();
    let mut text = String::new();
    // Names for what is stored, where and how far apart: naga 30 stops at expressions here.
    if is_whole && is_plain && k.epilogue.is_none() && parts == 1 {
        s.bind(2, Elem::Scalar);
        writeln!(text, "let pitch = {};", s.dim(g.n)).unwrap();
        for (i, j) in pairs(t) {
            let (down, right) = (i * t.unit, j * t.unit);
            let at = format!("(m0 + sub_row + {down}u) * pitch + n0 + sub_col + {right}u");
            writeln!(text, "{{ let v = c_{i}_{j}; let o = {at}; coopStoreT(v, &a2[o], pitch); }}").unwrap();
        }
        return text;
    }
    let (unit, nj) = (t.unit, t.sub_cols / t.unit);
    let each = unit * unit;
    s.shared("joined", "f32", t.patches());
    let store = contract::Store::new(s, k, g, parts);
    let width = if store.is_vector() { 4 } else { 1 };
    let n = pairs(t).count();
    writeln!(text, "let mine = sub * {each}u; let across = {unit}u;").unwrap();
    writeln!(text, "for (var part = 0u; part < {n}u; part++) {{\nworkgroupBarrier();\nswitch (part) {{").unwrap();
    for (at, (i, j)) in pairs(t).enumerate() {
        let store = format!("let v = c_{i}_{j}; coopStoreT(v, &joined[mine], across); ");
        text += &s.case((at + 1 < n).then_some(at as u32), &store);
    }
    let per_row = unit / width;
    writeln!(text, "}}\nworkgroupBarrier();\nfor (var e = lane; e < {}u; e += lanes) {{", each / width).unwrap();
    writeln!(text, "let row = m0 + sub_row + part / {nj}u * {unit}u + e / {per_row}u;").unwrap();
    writeln!(text, "let col = n0 + sub_col + part % {nj}u * {unit}u + e % {per_row}u * {width}u;").unwrap();
    writeln!(text, "if (row < {} && col < {}) {{", s.dim(g.m), s.dim(g.n)).unwrap();
    let value = match width {
        4 => {
            let lanes = [0, 1, 2, 3].map(|i| format!("joined[mine + e * 4u + {i}u]"));
            format!("vec4<f32>({})", lanes.join(", "))
        }
        _ => "joined[mine + e]".to_string(),
    };
    text += &define("sum", &value);
    text += &store.text(s, "row", "col", "sum");
    text += "}\n}\n}\n";
    text
}
