//! Products of operands of 16 bits on matrix units, with f32 sums. Takes a contraction whose operands are read in whole vectors of eight, gives its
//! shaders: tiles of both operands come into shared memory as they lie in memory, several steps ahead of the warps that multiply them, and the
//! epilogue is applied to the finished sums. Never adds in an order that depends on timing.

use crate::caps::{Language, Workgroups};
use crate::codegen::choice::{self, Rate};
use crate::codegen::contract::{self, Begin, Gemm, Operand, Placement};
use crate::codegen::scalar::is_half;
use crate::codegen::source::{Elem, define};
use crate::codegen::staged::Staged;
use crate::codegen::tile::{self, Along, Side};
use crate::codegen::{Count, Grid, Shader, Source, Word, index};
use crate::ir::Dim;
use crate::kernel::{Access, Contract, Contraction, Half, Instr, Map, Triangle};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The shape of a product on matrix units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmaTile {
    /// Rows and columns that a workgroup makes.
    pub rows: u32,
    pub cols: u32,
    /// Depth of one step: a multiple of 16.
    pub depth: u32,
    /// Rows and columns that a warp makes: multiples of 16.
    pub warp_rows: u32,
    pub warp_cols: u32,
    /// Steps that are in shared memory at a time.
    pub stages: u32,
}

/// A tile with the TFLOP/s that it is expected to reach on a large product, how many of its workgroups a multiprocessor runs and what a step
/// of one that is alone takes.
#[derive(Clone, Copy, Debug)]
pub struct Rated {
    pub tile: MmaTile,
    tflops: f64,
    resident: f64,
    step_us: f64,
}

/// The shipped tiles, with numbers fitted to the times of 43 contractions on an H100: of what was timed for one, the estimate picks what is 0.7 %
/// slower than the fastest on average.
pub const TILES: [Rated; 8] = [
    rated([128, 256, 64], [64, 64], 3, [380.0, 2.0, 0.50]),
    rated([128, 256, 32], [64, 64], 4, [375.0, 2.0, 0.50]),
    rated([256, 128, 32], [64, 64], 4, [312.0, 2.0, 0.50]),
    rated([128, 128, 32], [64, 64], 4, [400.0, 1.0, 0.50]),
    rated([256, 64, 32], [64, 64], 4, [236.0, 3.0, 0.66]),
    rated([128, 64, 32], [64, 32], 4, [222.0, 3.0, 0.30]),
    rated([64, 64, 64], [32, 32], 4, [400.0, 1.0, 0.41]),
    rated([32, 32, 64], [16, 16], 4, [400.0, 2.0, 0.41]),
];

const fn rated(
    [rows, cols, depth]: [u32; 3],
    [warp_rows, warp_cols]: [u32; 2],
    stages: u32,
    [tflops, resident, step_us]: [f64; 3],
) -> Rated {
    Rated { tile: MmaTile { rows, cols, depth, warp_rows, warp_cols, stages }, tflops, resident, step_us }
}

/// The batch size for which tiles are chosen where an extent depends on it: products of 16 bits are for large ones.
const NOMINAL_BATCH: usize = 256;
/// What a warp multiplies in one instruction of those here, as `[m, n, k]`.
pub const UNIT: [u32; 3] = [16, 8, 16];
/// The tile of a product whose depth is one step: what decides is how the results are made of the sums, for which more warps are better than large tiles.
/// By the heads of GPT-2, 64 deep, on an H100: with half of 1024 x 1024 scores 270 us and 530 with what softmax's gradient makes of them, where 128 x 128 x 32
/// takes 312 and 1150.
const SHALLOW: MmaTile = MmaTile { rows: 128, cols: 64, depth: 64, warp_rows: 32, warp_cols: 32, stages: 2 };
/// The tile of a product with half of a left operand, for as many columns: the smaller its rows, the less of what is 0 it multiplies. 208 us as above, where
/// 256 x 64 x 32 takes 236.
const HALVED: MmaTile = MmaTile { rows: 64, cols: 64, depth: 64, warp_rows: 32, warp_cols: 32, stages: 4 };
/// The edge of the smallest tile.
const LEAST_EDGE: u32 = 32;
/// Elements that move at once: 16 bytes.
const READ: u32 = 8;
/// Rows of tiles in a band.
const BAND: u32 = 16;
/// Bytes that memory gives at a time.
const LINE_BYTES: u32 = 128;
/// Sums from one line of a warp's patch to the next, more than there are, so that lines begin in different banks.
const PATCH_PAD: u32 = 8;

impl MmaTile {
    pub fn threads(&self) -> u32 {
        (self.rows / self.warp_rows) * (self.cols / self.warp_cols) * 32
    }

    /// Sums that pass through shared memory at a time.
    fn patches(&self) -> u32 {
        self.threads() / 32 * 16 * (self.warp_cols + PATCH_PAD)
    }

    /// Elements of 16 bits in shared memory, which the finished sums use after the operands.
    fn elements(&self, staged: &[Staged; 2]) -> u32 {
        let operands = self.stages * (staged[0].elements + staged[1].elements);
        operands.max(2 * self.patches())
    }

    /// Bytes of shared memory at most, whichever way the operands lie.
    pub fn shared_bytes(&self) -> u32 {
        let operands = Staged::most(self.rows, self.depth) + Staged::most(self.cols, self.depth);
        2 * (self.stages * operands).max(2 * self.patches())
    }
}

/// The best tile for a contraction and the number of parts of its depth; `None` where the device has no such units, and where its operands are not
/// of one 16-bit type or not in whole vectors.
pub fn choose(k: &Contract, workgroups: &Workgroups) -> Option<(MmaTile, u32)> {
    let dtype = k.args[0].dtype;
    let has_units = workgroups.language == Language::Cuda && workgroups.tiles.contains(&UNIT);
    if !has_units || !is_half(dtype) || k.args[1].dtype != dtype {
        return None;
    }
    let g = contract::gemm(&k.contraction);
    side(&g.a, g.k)?;
    side(&g.b, g.k)?;
    let has_room = |t: MmaTile| t.threads() <= workgroups.threads && t.shared_bytes() <= workgroups.shared_bytes;
    if let Some(tile) = of_heads(k, &g).filter(|t| has_room(*t)) {
        return Some((tile, 1));
    }
    // No wider than the result: what is over is stored by nobody and multiplied all the same.
    let within = |of: u32, d: Dim| d.batch > 0 || of <= (d.fixed as u32).next_power_of_two().max(LEAST_EDGE);
    let fits = |r: &&Rated| {
        let t = r.tile;
        has_room(t) && within(t.rows, g.m) && within(t.cols, g.n)
    };
    let mut best: Option<(f64, MmaTile, u32)> = None;
    for Rated { tile, tflops, resident, step_us } in TILES.iter().filter(fits) {
        let MmaTile { rows, cols, depth, .. } = *tile;
        let rate = Rate { rows, cols, depth, tflops: *tflops, resident: *resident, step_us: *step_us };
        for parts in choice::part_counts(&g, &rate, NOMINAL_BATCH) {
            let time = choice::estimate(&g, &rate, parts, NOMINAL_BATCH);
            if best.is_none_or(|(least, ..)| time < least) {
                best = Some((time, *tile, parts));
            }
        }
    }
    best.map(|(_, tile, parts)| (tile, parts))
}

/// The tile of a product such as those of attention's heads.
fn of_heads(k: &Contract, g: &Gemm) -> Option<MmaTile> {
    let Contraction::Matmul { .. } = &k.contraction else { return None };
    let is_large = |d: Dim| d.as_fixed().is_none_or(|n| n >= 2 * SHALLOW.rows as usize);
    let is_within = |d: Dim, most: u32| d.as_fixed().is_some_and(|n| n <= most as usize);
    match half(k, g) {
        Some(Triangle::Lhs(_)) if is_within(g.n, HALVED.cols) => Some(HALVED),
        _ if is_within(g.k, SHALLOW.depth) && is_large(g.m) && is_large(g.n) && !g.batch.is_empty() => Some(SHALLOW),
        _ => None,
    }
}

/// The half of a product that counts, where its rows are those of one matrix.
fn half(k: &Contract, g: &Gemm) -> Option<Triangle> {
    let Contraction::Matmul { batch, .. } = &k.contraction else { return None };
    k.triangle.filter(|_| batch.len() == g.batch.len())
}

/// The shaders of a contraction for which [`choose`] found a tile.
pub fn shaders(k: &Contract, workgroups: &Workgroups, tile: &MmaTile, parts: u32) -> Vec<Shader> {
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

fn is_whole(d: Dim) -> bool {
    d.divided_by(Dim::fixed(READ as usize)).is_some()
}

/// How an operand is read; `None` where neighbours are not whole vectors.
fn side(of: &Operand, k: Dim) -> Option<Vectors<'_>> {
    let along = match of {
        Operand::Image(i) => (i.group_step() as u32).is_multiple_of(READ).then(|| i.along())?,
        Operand::Strided(o) if !(is_whole(o.offset) && o.batch.iter().all(|&b| is_whole(b))) => return None,
        Operand::Strided(o) if o.row == Dim::ONE && is_whole(o.depth) && is_whole(o.rows) => Along::Rows,
        Operand::Strided(o) if o.depth == Dim::ONE && is_whole(o.row) && is_whole(k) => Along::Depth,
        Operand::Strided(_) => return None,
    };
    Some(Vectors { o: of, along })
}

impl Vectors<'_> {
    fn arg(&self) -> u32 {
        match self.o {
            Operand::Strided(o) => o.arg,
            Operand::Image(i) => i.arg(),
        }
    }

    /// Defines where the product's part of the operand begins.
    fn base(&self, s: &mut Source, axes: &[String]) -> String {
        let base = match self.o {
            Operand::Strided(o) => {
                let map = Map { strides: o.batch.clone(), offset: o.offset, guards: Vec::new() };
                index::address(&map, axes, &mut |d| s.dim(d))
            }
            Operand::Image(i) => format!("product * {}u", i.group_step()),
        };
        define(&format!("base_{}", self.arg()), &base)
    }

    /// Defines where row `row` is, the first of a vector that lies along rows.
    fn setup(&self, s: &mut Source, name: &str, row: &str) -> String {
        let (o, last) = match (self.o, self.along) {
            (Operand::Image(i), _) => return i.setup_row(s, name, row, READ as usize),
            (Operand::Strided(o), Along::Rows) => (o, o.rows - Dim::fixed(READ as usize)),
            (Operand::Strided(o), Along::Depth) => (o, o.rows - Dim::ONE),
        };
        let (last, step) = (s.dim(last), s.dim(o.row));
        define(&format!("o_{name}"), &format!("base_{} + min({row}, {last}) * {step}", o.arg))
    }

    /// Statements that come before the place of the vector at depth `k`, the place, and the condition under which it is there.
    fn at(&self, s: &mut Source, name: &str, k: &str) -> (String, String, String) {
        match self.o {
            Operand::Image(i) => {
                let (text, inside) = i.at(name, k);
                (text, format!("o_{name} + away"), inside)
            }
            Operand::Strided(o) => (String::new(), format!("o_{name} + {k} * {}", s.dim(o.depth)), "true".to_string()),
        }
    }
}

/// The byte at which a lane's line of its first fragment begins, and the bytes to the fragment `n` rows and `k` depths further.
fn fragment(staged: &Staged) -> (String, u32, u32) {
    let (first, pitch) = (if staged.name == 'a' { "sub_row" } else { "sub_col" }, staged.pitch);
    // Lanes give the lines of four matrices: of a, rows come before depths, of b the other way round.
    let (low, high) = ("((lane >> 3u) & 1u) * 8u", "(lane >> 4u) * 8u");
    let (row, depth) = if staged.name == 'a' { (low, high) } else { (high, low) };
    match staged.along {
        Along::Depth => (format!("(({first} + (lane & 7u) + {row}) * {pitch}u + {depth}) * 2u"), 2 * pitch, 2),
        Along::Rows => (format!("(((lane & 7u) + {depth}) * {pitch}u + {first} + {row}) * 2u"), 2, 2 * pitch),
    }
}

/// The dispatch that makes all sums, or all partial sums.
fn sums(k: &Contract, g: &Gemm, workgroups: &Workgroups, t: &MmaTile, parts: u32) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    let (m, n) = (s.dim(g.m), s.dim(g.n));
    let Begin { text, axes, counts, count } = contract::begin(&mut s, g, t.depth, parts);
    let mut body = tile::place([t.rows, t.cols], BAND, &m, &n, &count) + &text;
    let sides = [&g.a, &g.b].map(|o| side(o, g.k).expect("bug: whoever chose the tile looked"));
    for of in &sides {
        s.bind(of.arg(), Elem::Scalar);
        body += &of.base(&mut s, &axes);
    }
    let staged = [Staged::new('a', sides[0].along, t.rows, t.depth), Staged::new('b', sides[1].along, t.cols, t.depth)];
    s.shared("tiles", "u16", t.elements(&staged));
    s.wants_registers = true;
    let store = contract::Store::new(&mut s, k, g, parts);
    let half = half(k, g);
    body += &outside(&mut s, g, t, half.filter(|_| parts == 1), &store);
    body += &touch(&mut s, k, g, t, parts);
    let across = t.cols / t.warp_cols;
    writeln!(body, "let lane = local & 31u; let warp = local >> 5u;").unwrap();
    writeln!(
        body,
        "let sub_row = warp / {across}u * {}u; let sub_col = warp % {across}u * {}u;",
        t.warp_rows, t.warp_cols
    )
    .unwrap();
    writeln!(body, "f32 c[{}][{}][4] = {{}};", t.warp_rows / 16, t.warp_cols / 8).unwrap();
    body += "let tiles_a = shared_address(tiles);\n";
    body += &define("tiles_b", &format!("tiles_a + {}u", 2 * t.stages * staged[0].elements));
    let is_whole = contract::is_fixed_multiple(g.k, t.depth) && !matches!(g.result, Placement::Strided(_));
    // Up to the last row, or from the first one on: the others are multiplied with zeros.
    let (from, to) = match half.filter(|_| t.rows.is_multiple_of(t.depth)) {
        Some(Triangle::Lhs(Half::Lower)) => ("k_from".to_string(), format!("min(k_to, m0 + {}u)", t.rows)),
        Some(Triangle::Lhs(Half::Upper)) => ("max(k_from, m0)".to_string(), "k_to".to_string()),
        _ => ("k_from".to_string(), "k_to".to_string()),
    };
    body += &(define("first", &from) + &define("end", &to));
    let walk = Walk { t, sides: &sides, staged: &staged, is_whole, dtype: k.args[0].dtype.name() };
    body += &walk.text(&mut s);
    body += &finish(&mut s, g, t, &store);
    let grid = [vec![Word::Tiles(g.m, t.rows), Word::Tiles(g.n, t.cols)], counts].concat();
    s.finish([t.threads(), 1, 1], Grid::Line(Count { of: grid, per: 1 }), &body)
}

/// What a tile does that lies outside of the half that counts.
fn outside(s: &mut Source, g: &Gemm, t: &MmaTile, half: Option<Triangle>, store: &contract::Store) -> String {
    let (half, zeros) = match half {
        Some(Triangle::Read(half)) => (half, None),
        Some(Triangle::Stored(half)) => match store.zeros(s, "row", "col") {
            Some(zeros) => (half, Some(zeros)),
            None => return String::new(),
        },
        Some(Triangle::Lhs(_)) | None => return String::new(),
    };
    let is_outside = match half {
        Half::Lower => format!("n0 >= m0 + {}u", t.rows),
        Half::Upper => format!("m0 >= n0 + {}u", t.cols),
    };
    let mut text = format!("if ({is_outside}) {{\n");
    if let Some(zeros) = zeros {
        let per_row = t.cols / 4;
        writeln!(text, "for (var e = local; e < {}u; e += {}u) {{", t.rows * per_row, t.threads()).unwrap();
        writeln!(text, "let row = m0 + e / {per_row}u; let col = n0 + e % {per_row}u * 4u;").unwrap();
        writeln!(text, "if (row < {} && col < {}) {{\n{zeros}}}\n}}", s.dim(g.m), s.dim(g.n)).unwrap();
    }
    text + "return;\n}\n"
}

/// Asks for what the epilogue will read of the tile's own elements, so that it is near by then: 128 bytes at a time.
fn touch(s: &mut Source, k: &Contract, g: &Gemm, t: &MmaTile, parts: u32) -> String {
    let Some(e) = k.epilogue.as_ref().filter(|_| parts == 1 && matches!(g.result, Placement::Batched)) else {
        return String::new();
    };
    let is_whole = contract::is_fixed_multiple(g.m, t.rows) && contract::is_fixed_multiple(g.n, t.cols);
    let is_read = |arg: u32, map: &Map| k.args[arg as usize].access == Access::Read && map.is_row_major(&e.axes);
    let args: BTreeSet<u32> = e
        .instrs
        .iter()
        .filter_map(|instr| match instr {
            Instr::Load { arg, map, .. } if is_read(*arg, map) => Some(*arg),
            _ => None,
        })
        .collect();
    let mut text = String::new();
    for arg in args.into_iter().filter(|_| is_whole) {
        let bytes = k.args[arg as usize].dtype.size_bytes() as u32;
        let (m, n, lines) = (s.dim(g.m), s.dim(g.n), t.cols * bytes / LINE_BYTES);
        if lines == 0 {
            continue;
        }
        let row = if g.batch.is_empty() { "m0".to_string() } else { format!("product * {m} + m0") };
        writeln!(text, "for (var e = local; e < {}u; e += {}u)", t.rows * lines, t.threads()).unwrap();
        let at = format!("({row} + e / {lines}u) * {n} + n0 + e % {lines}u * {}u", LINE_BYTES / bytes);
        writeln!(text, "prefetch((const u8*)a{arg} + u64({at}) * {bytes}u);").unwrap();
    }
    text
}

/// What the walk along the depth is made from.
struct Walk<'a> {
    t: &'a MmaTile,
    sides: &'a [Vectors<'a>; 2],
    staged: &'a [Staged; 2],
    /// Whether the depth of every workgroup is a multiple of the tile's.
    is_whole: bool,
    dtype: &'static str,
}

impl Walk<'_> {
    fn text(&self, s: &mut Source) -> String {
        let MmaTile { depth, stages, .. } = *self.t;
        let mut text = self.setup(s);
        for stage in 0..stages - 1 {
            let from = define("from", &format!("first + {}u", stage * depth));
            let copies = self.copies(s, &format!("{stage}u"));
            writeln!(text, "{{\n{from}if (from < end) {{\n{copies}}}\ncopies_end();\n}}").unwrap();
        }
        let copies = self.copies(s, "into");
        let (n, last) = (depth / 16, stages - 1);
        let (ni, nj) = (self.t.warp_rows / 16, self.t.warp_cols / 8);
        for staged in self.staged {
            writeln!(text, "let lane_{0} = tiles_{0} + {1};", staged.name, fragment(staged).0).unwrap();
        }
        // Fragments of the next sixteen depths are loaded while these are multiplied.
        writeln!(text, "u32 fa[2][{ni}][4], fb[2][{nj}][2];").unwrap();
        writeln!(
            text,
            "copies_wait<{}>();\nworkgroupBarrier();\nvar stage = 0u;\n{}",
            stages - 2,
            self.load("0u", "0u")
        )
        .unwrap();
        writeln!(text, "for (var k = first; k < end; k += {depth}u) {{\nlet from = k + {}u;", last * depth).unwrap();
        // All warps are done with the stage that is filled now: they have passed the barrier below.
        writeln!(text, "let into = select(stage - 1u, {last}u, stage == 0u);").unwrap();
        writeln!(text, "if (from < end) {{\n{copies}}}\ncopies_end();").unwrap();
        writeln!(text, "#pragma unroll\nfor (u32 q = 0u; q < {n}u; q++) {{\nif (q == {}u) {{", n - 1).unwrap();
        writeln!(text, "stage = select(stage + 1u, 0u, stage == {last}u);\ncopies_wait<{}>();", stages - 2).unwrap();
        writeln!(text, "workgroupBarrier();\n}}\n{}", self.load("(q + 1u) & 1u", &format!("(q + 1u) % {n}u"))).unwrap();
        writeln!(
            text,
            "#pragma unroll\nfor (u32 i = 0u; i < {ni}u; i++) {{\n#pragma unroll\nfor (u32 j = 0u; j < {nj}u; j++)"
        )
        .unwrap();
        writeln!(text, "multiply_{}(c[i][j], fa[q & 1u][i], fb[q & 1u][j]);\n}}\n}}\n}}", self.dtype).unwrap();
        text
    }

    /// Where each thread reads and where it puts what it reads.
    fn setup(&self, s: &mut Source) -> String {
        let mut text = String::new();
        for (side, staged) in self.sides.iter().zip(self.staged) {
            let name = staged.name;
            let across = staged.width / READ;
            let first = if name == 'a' { "m0" } else { "n0" };
            for i in 0..staged.moves(READ, self.t.threads()) {
                let e = format!("(local + {}u)", i * self.t.threads());
                let (line, at) = (format!("{e} / {across}u"), format!("{e} % {across}u * {READ}u"));
                writeln!(text, "let s{name}{i} = ({line} * {}u + {at}) * 2u;", staged.pitch).unwrap();
                let (row, depth) = match staged.along {
                    Along::Rows => (at, line),
                    Along::Depth => (line, at),
                };
                text += &define(&format!("q{name}{i}"), &depth);
                text += &side.setup(s, &format!("{name}{i}"), &format!("{first} + {row}"));
            }
        }
        text
    }

    /// Begins the copies of the step at depth `from` into stage `stage`.
    fn copies(&self, s: &mut Source, stage: &str) -> String {
        let mut text = String::new();
        for (side, staged) in self.sides.iter().zip(self.staged) {
            let name = staged.name;
            let n = staged.lines * staged.width / READ;
            for i in 0..staged.moves(READ, self.t.threads()) {
                let k = format!("k{name}{i}");
                let (before, at, inside) = side.at(s, &format!("{name}{i}"), &k);
                let there = if self.is_whole { inside } else { format!("{inside} && {k} < end") };
                let to = format!("tiles_{name} + {stage} * {}u + s{name}{i}", 2 * staged.elements);
                let arg = side.arg();
                let one = format!("let {k} = from + q{name}{i};\n{before}copy_async({to}, &a{arg}[{at}], {there});\n");
                // The last copies may be of some threads only.
                let is_over = (i + 1) * self.t.threads() > n;
                let when =
                    if is_over { format!("if (local + {}u < {n}u) ", i * self.t.threads()) } else { String::new() };
                writeln!(text, "{when}{{\n{one}}}").unwrap();
            }
        }
        text
    }

    /// Loads this warp's fragments of sixteen depths, number `q` of those in stage `stage`, into one of two places.
    fn load(&self, into: &str, q: &str) -> String {
        let n = [self.t.warp_rows / 16, self.t.warp_cols / 16];
        let mut text = String::new();
        for (staged, n) in self.staged.iter().zip(n) {
            let (name, (_, row, depth)) = (staged.name, fragment(staged));
            let parts = match name {
                'a' => [0, 1, 2, 3].map(|r| format!("fa[{into}][i][{r}]")),
                _ => [0, 1, 2, 3].map(|r| format!("fb[{into}][2 * i + {}][{}]", r / 2, r % 2)),
            };
            // Rows of a and columns of b that lie along the depth are loaded as they are.
            let turned = staged.along == Along::Rows;
            let at =
                format!("lane_{name} + stage * {}u + i * {}u + {q} * {}u", 2 * staged.elements, 16 * row, 16 * depth);
            writeln!(
                text,
                "#pragma unroll\nfor (u32 i = 0u; i < {n}u; i++) load_fragments<{turned}>({}, {at});",
                parts.join(", ")
            )
            .unwrap();
        }
        text
    }
}

/// Stores the sums: sixteen rows of each warp at a time pass through shared memory, so that neighbouring threads have neighbouring columns and the
/// text of an epilogue stands once.
fn finish(s: &mut Source, g: &Gemm, t: &MmaTile, store: &contract::Store) -> String {
    let width = if store.is_vector() { 4 } else { 1 };
    let (ni, nj, pitch) = (t.warp_rows / 16, t.warp_cols / 8, t.warp_cols + PATCH_PAD);
    let per_row = t.warp_cols / width;
    let mut text = "copies_wait<0>();\nworkgroupBarrier();\n".to_string();
    writeln!(text, "f32* const patch = (f32*)tiles + warp * {}u;", 16 * pitch).unwrap();
    writeln!(text, "for (var part = 0u; part < {ni}u; part++) {{\nswitch (part) {{").unwrap();
    for i in 0..ni {
        let put = format!("put_sums<{nj}>(patch, {pitch}u, c[{i}], lane); ");
        text += &s.case((i + 1 < ni).then_some(i), &put);
    }
    writeln!(text, "}}\n__syncwarp();\nfor (var e = lane; e < {}u; e += 32u) {{", 16 * per_row).unwrap();
    writeln!(text, "let row = m0 + sub_row + part * 16u + e / {per_row}u;").unwrap();
    writeln!(text, "let col = n0 + sub_col + e % {per_row}u * {width}u;").unwrap();
    // A condition would keep the reads of a warp's next sums behind it.
    let is_whole = contract::is_fixed_multiple(g.m, t.rows) && contract::is_fixed_multiple(g.n, t.cols);
    let inside = if is_whole { String::new() } else { format!("if (row < {} && col < {}) ", s.dim(g.m), s.dim(g.n)) };
    writeln!(text, "{inside}{{").unwrap();
    let place = format!("patch + e / {per_row}u * {pitch}u + e % {per_row}u * {width}u");
    text += &define("sum", &if width == 4 { format!("*(const vec4<f32>*)({place})") } else { format!("*({place})") });
    text += &store.text(s, "row", "col", "sum");
    text += "}\n}\n__syncwarp();\n}\n";
    text
}
