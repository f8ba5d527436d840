//! Sums of products by tiles. Takes two operands as rows of vectors along a common depth, gives the body of a shader in which each
//! workgroup makes one tile of their products in registers. Never knows what the operands mean: a matrix product and the three forms of a
//! convolution differ in how they load and where a row of the result lies.
//!
//! Shapes: rows `[M, K]` of side `a`, rows `[N, K]` of side `b`, result `[M, N]`. Both sides are staged in workgroup memory with the depth as
//! outer axis, so that a thread reads its four neighbouring rows as one vector. What is loaded is a block of four rows by four depths, whichever
//! of the two is contiguous in memory.

use super::Source;
use std::fmt::Write;

/// The shape of a tile: what one workgroup and one thread make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows and columns of the result that a workgroup makes; multiples of 16.
    pub rows: u32,
    pub cols: u32,
    /// Depth that is staged at a time, over all slices; a multiple of 8.
    pub depth: u32,
    /// Rows and columns that a thread makes: multiples of 4.
    pub thread_rows: u32,
    pub thread_cols: u32,
    /// Groups of threads that share the depth of one tile; their sums are joined in order.
    pub slices: u32,
    /// Buffers in workgroup memory: with 2, the next depth is stored while the present one is multiplied.
    pub stages: u32,
    /// Depths of a slice that are written out one after the other in the text.
    pub unroll: u32,
}

/// What is known of the depth of every workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepthEdge {
    /// It is a multiple of the tile's depth.
    Whole,
    /// It is a multiple of four.
    Vectors,
    /// Nothing.
    Any,
}

/// Which of the two axes of a block is contiguous in memory, and therefore runs along neighbouring threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    Rows,
    Depth,
}

/// One side of the product.
pub trait Side {
    fn along(&self) -> Along;

    /// Statements that run once, before the depth is walked. `row` is the first row of the block that this thread loads, which may be past the
    /// end; `name` ends the names of what is defined.
    fn setup(&self, s: &mut Source, name: &str, row: &str) -> String;

    /// Statements that set `v{slot}_0` to `v{slot}_3`, vectors of four rows, to depths `k` to `k + 3`, all of which exist.
    fn load(&self, s: &mut Source, name: &str, slot: u32, k: &str) -> String;

    /// The same for depth `k` alone, into `v{slot}_{i}`.
    fn load_one(&self, s: &mut Source, name: &str, slot: u32, k: &str, i: u32) -> String;
}

/// Where finished sums go.
pub enum Output<'a> {
    /// `store(row, col, vector)`: four neighbours at once; columns are a multiple of four.
    Vectors(&'a dyn Fn(&mut Source, &str, &str, &str) -> String),
    /// The same, where the text of `store` is long and is to stand once.
    Staged(&'a dyn Fn(&mut Source, &str, &str, &str) -> String),
    /// `store(row, col, value)` for each element, by neighbouring threads for neighbouring columns.
    Elements(&'a dyn Fn(&mut Source, &str, &str, &str) -> String),
}

/// A product to be made by tiles.
pub struct Product<'a> {
    pub tile: Tile,
    /// Extents, of type u32.
    pub m: String,
    pub n: String,
    /// How many products of this shape there are: batch, groups, parts of the depth.
    pub count: String,
    /// Statements that run once `z`, the number of the product, is known, and define `k_from` and `k_to`.
    pub prologue: String,
    pub edge: DepthEdge,
    pub a: &'a dyn Side,
    pub b: &'a dyn Side,
    pub output: Output<'a>,
}

/// Rows of tiles in a band.
const BAND: u32 = 8;

impl Tile {
    pub fn threads(&self) -> u32 {
        self.threads_of_slice() * self.slices
    }

    fn threads_of_slice(&self) -> u32 {
        (self.rows / self.thread_rows) * (self.cols / self.thread_cols)
    }

    /// Vectors from one depth to the next in workgroup memory: one more than needed, so that threads that store blocks of different depths
    /// use different banks.
    fn pitch(rows: u32) -> u32 {
        rows / 4 + 1
    }

    /// Vectors of workgroup memory of side a and of side b.
    fn shared(&self) -> (u32, u32) {
        let joined = self.slices * (self.rows / self.thread_rows) * (self.cols / 4);
        let a = self.stages * self.depth * Tile::pitch(self.rows);
        (a.max(joined), self.stages * self.depth * Tile::pitch(self.cols))
    }

    pub fn shared_bytes(&self) -> u32 {
        let (a, b) = self.shared();
        16 * (a + b)
    }
}

/// A thread of more rows wants most registers.
const MODEST_ROWS: u32 = 4;

/// The body of the shader.
pub fn body(s: &mut Source, p: &Product) -> String {
    let t = &p.tile;
    let (shared_a, shared_b) = t.shared();
    s.shared("tile_a", "vec4<f32>", shared_a);
    s.shared("tile_b", "vec4<f32>", shared_b);
    let mut text = place([t.rows, t.cols], BAND, &p.m, &p.n, &p.count);
    text += &p.prologue;
    let slots: Vec<Slot> = slots(t);
    for slot in &slots {
        text += &slot_setup(s, p, slot);
    }
    text += &threads(t);
    let (ni, nj) = (t.thread_rows, t.thread_cols / 4);
    s.wants_registers = ni > MODEST_ROWS;
    for i in 0..ni {
        for j in 0..nj {
            writeln!(text, "var c{i}_{j} = vec4<f32>();").unwrap();
        }
    }
    text += &walk(s, p, &slots);
    text += &finish(s, p);
    text
}

/// Defines which tile of `count` products of `m` by `n` this workgroup makes: `z`, the number of the product, `m0` and `n0`. Tiles are numbered in
/// bands of `band` rows, so that workgroups that run at the same time share operands in the cache.
pub fn place([rows, cols]: [u32; 2], band: u32, m: &str, n: &str, count: &str) -> String {
    let mut text = String::new();
    writeln!(text, "let id = group.y * groups.x + group.x;").unwrap();
    writeln!(text, "let m_tiles = ({m} + {}u) / {rows}u;", rows - 1).unwrap();
    writeln!(text, "let n_tiles = ({n} + {}u) / {cols}u;", cols - 1).unwrap();
    writeln!(text, "if (id >= m_tiles * n_tiles * {count}) {{ return; }}").unwrap();
    writeln!(text, "let z = id / (m_tiles * n_tiles);").unwrap();
    writeln!(text, "let in_z = id % (m_tiles * n_tiles);").unwrap();
    writeln!(text, "let band = in_z / ({band}u * n_tiles);").unwrap();
    writeln!(text, "let in_band = in_z % ({band}u * n_tiles);").unwrap();
    writeln!(text, "let band_rows = min(m_tiles - band * {band}u, {band}u);").unwrap();
    writeln!(text, "let m0 = (band * {band}u + in_band % band_rows) * {rows}u;").unwrap();
    writeln!(text, "let n0 = in_band / band_rows * {cols}u;").unwrap();
    text
}

/// A block that each thread loads at every step. Where the blocks of both sides do not fill whole rounds of threads, some threads of a slot
/// load for a, some for b and some not at all.
struct Slot {
    number: u32,
    a: Option<Part>,
    b: Option<Part>,
}

/// The threads of a slot that load for one side.
struct Part {
    /// Number of the block, from `local`.
    block: String,
    /// Which threads; `None` for all.
    threads: Option<String>,
}

fn slots(t: &Tile) -> Vec<Slot> {
    let (na, nb, n) = (t.rows * t.depth / 16, t.cols * t.depth / 16, t.threads());
    (0..(na + nb).div_ceil(n))
        .map(|number| {
            let (from, to) = (number * n, (number + 1) * n);
            let a = (from < na).then(|| Part {
                block: format!("local + {from}u"),
                threads: (to > na).then(|| format!("local < {}u", na - from)),
            });
            let b = (to > na).then(|| {
                let begins = (from < na).then(|| format!("local >= {}u", na - from));
                let ends = (to > na + nb).then(|| format!("local < {}u", na + nb - from));
                let threads = [begins, ends].into_iter().flatten().collect::<Vec<_>>().join(" && ");
                Part {
                    block: if from < na {
                        format!("local - {}u", na - from)
                    } else {
                        format!("local + {}u", from - na)
                    },
                    threads: (!threads.is_empty()).then_some(threads),
                }
            });
            Slot { number, a, b }
        })
        .collect()
}

fn slot_setup(s: &mut Source, p: &Product, slot: &Slot) -> String {
    let mut text = String::new();
    let i = slot.number;
    for v in 0..4 {
        writeln!(text, "var v{i}_{v} = vec4<f32>();").unwrap();
    }
    for (part, side, name, extent, origin) in
        [(&slot.a, p.a, "a", p.tile.rows, "m0"), (&slot.b, p.b, "b", p.tile.cols, "n0")]
    {
        let Some(part) = part else { continue };
        let (rows4, depth4) = (extent / 4, p.tile.depth / 4);
        writeln!(text, "let e{name}{i} = {};", part.block).unwrap();
        let e = format!("e{name}{i}");
        match side.along() {
            Along::Rows => {
                writeln!(text, "let r{name}{i} = {e} % {rows4}u; let q{name}{i} = {e} / {rows4}u * 4u;").unwrap();
            }
            // Eight neighbouring threads take two depths by four rows, which are eight banks; all depths of a row are taken near each other.
            Along::Depth => writeln!(
                text,
                "let r{name}{i} = ({e} >> 1u) % 4u + ({e} >> 3u) / {0}u * 4u; let q{name}{i} = ({e} % 2u + ({e} >> 3u) % {0}u * 2u) * 4u;",
                depth4 / 2
            )
            .unwrap(),
        }
        writeln!(text, "let s{name}{i} = q{name}{i} * {}u + r{name}{i};", Tile::pitch(extent)).unwrap();
        text += &side.setup(s, &format!("{name}{i}"), &format!("({origin} + r{name}{i} * 4u)"));
    }
    text
}

/// What each thread multiplies. Threads of a subgroup of 32 form 4 rows by 8 columns where the tile has so many, which reads the fewest banks.
fn threads(t: &Tile) -> String {
    let (across, down) = (t.cols / t.thread_cols, t.rows / t.thread_rows);
    let mut text = String::new();
    writeln!(text, "let in_slice = local % {}u; let slice = local / {0}u;", t.threads_of_slice()).unwrap();
    if across.is_multiple_of(8) && down.is_multiple_of(4) {
        let wide = across / 8;
        writeln!(text, "let tx = in_slice / 32u % {wide}u * 8u + in_slice % 8u;").unwrap();
        writeln!(text, "let ty = in_slice / {}u * 4u + in_slice % 32u / 8u;", 32 * wide).unwrap();
    } else {
        writeln!(text, "let tx = in_slice % {across}u; let ty = in_slice / {across}u;").unwrap();
    }
    text
}

fn only(condition: &Option<String>, text: String) -> String {
    match condition {
        Some(c) => format!("if ({c}) {{\n{text}}}\n"),
        None => text,
    }
}

/// Loads of all slots at depth `from` into registers.
fn loads(s: &mut Source, p: &Product, slots: &[Slot], from: &str) -> String {
    let mut text = String::new();
    for slot in slots {
        let i = slot.number;
        for (part, side, name) in [(&slot.a, p.a, "a"), (&slot.b, p.b, "b")] {
            let Some(part) = part else { continue };
            let side_name = format!("{name}{i}");
            let k = format!("k{name}{i}");
            let all = side.load(s, &side_name, i, &k);
            let zero = |v: u32| format!("v{i}_{v} = vec4<f32>();\n");
            let zeros: String = (0..4).map(zero).collect();
            let guarded = match p.edge {
                DepthEdge::Whole => all,
                DepthEdge::Vectors => format!("if ({k} < k_to) {{\n{all}}} else {{\n{zeros}}}\n"),
                DepthEdge::Any => {
                    let mut each = String::new();
                    for v in 0..4 {
                        let kv = format!("({k} + {v}u)");
                        let one = side.load_one(s, &side_name, i, &kv, v);
                        each += &format!("if ({kv} < k_to) {{\n{one}}} else {{\n{}}}\n", zero(v));
                    }
                    format!("if ({k} + 3u < k_to) {{\n{all}}} else {{\n{each}}}\n")
                }
            };
            let one = format!("let {k} = {from} + q{side_name};\n{guarded}");
            // Names of a block end with it.
            text += &part.threads.as_ref().map_or(format!("{{\n{one}}}\n"), |c| format!("if ({c}) {{\n{one}}}\n"));
        }
    }
    text
}

/// Stores what was loaded to the stage that begins `stage_a` and `stage_b` vectors into workgroup memory.
fn stores(p: &Product, slots: &[Slot], stage: Option<&str>) -> String {
    let mut text = String::new();
    for slot in slots {
        let i = slot.number;
        for (part, name, extent) in [(&slot.a, "a", p.tile.rows), (&slot.b, "b", p.tile.cols)] {
            let Some(part) = part else { continue };
            let pitch = Tile::pitch(extent);
            let begin = stage.map_or(String::new(), |n| format!(" + {n} * {}u", p.tile.depth * pitch));
            let one = |v: u32| format!("tile_{name}[s{name}{i} + {}u{begin}] = v{i}_{v};\n", v * pitch);
            text += &only(&part.threads, (0..4).map(one).collect());
        }
    }
    text
}

/// Walks the depth.
fn walk(s: &mut Source, p: &Product, slots: &[Slot]) -> String {
    let depth = p.tile.depth;
    let first = loads(s, p, slots, "k_from");
    let next = loads(s, p, slots, "k_next");
    if p.tile.stages == 1 {
        let (store, multiply) = (stores(p, slots, None), multiply(p, None));
        return format!(
            "if (k_from < k_to) {{\n{first}}}\nfor (var k = k_from; k < k_to; k += {depth}u) {{\nworkgroupBarrier();\n{store}\
             workgroupBarrier();\nlet k_next = k + {depth}u;\nif (k_next < k_to) {{\n{next}}}\n{multiply}}}\n"
        );
    }
    let (store_first, store_next) = (stores(p, slots, None), stores(p, slots, Some("(1u - stage)")));
    let multiply = multiply(p, Some("stage"));
    format!(
        "if (k_from < k_to) {{\n{first}{store_first}}}\nworkgroupBarrier();\nvar stage = 0u;\n\
         for (var k = k_from; k < k_to; k += {depth}u) {{\nlet k_next = k + {depth}u;\nif (k_next < k_to) {{\n{next}}}\n{multiply}\
         if (k_next < k_to) {{\n{store_next}}}\nworkgroupBarrier();\nstage = 1u - stage;\n}}\n"
    )
}

/// Multiplies one staged depth into the sums.
fn multiply(p: &Product, stage: Option<&str>) -> String {
    let t = &p.tile;
    let (pa, pb) = (Tile::pitch(t.rows), Tile::pitch(t.cols));
    let (down, across) = (t.rows / t.thread_rows, t.cols / t.thread_cols);
    let depth = t.depth / t.slices;
    let unroll = t.unroll.min(depth);
    let mut text = String::new();
    let begin = |pitch: u32| stage.map_or(String::new(), |n| format!(" + {n} * {}u", t.depth * pitch));
    let slice = |pitch: u32| if t.slices > 1 { format!(" + slice * {}u", depth * pitch) } else { String::new() };
    writeln!(text, "var at_a = ty{}{}; var at_b = tx{}{};", slice(pa), begin(pa), slice(pb), begin(pb)).unwrap();
    if unroll < depth {
        writeln!(text, "for (var kk = 0u; kk < {depth}u; kk += {unroll}u) {{").unwrap();
    }
    for u in 0..unroll {
        writeln!(text, "{{").unwrap();
        for g in 0..t.thread_rows / 4 {
            writeln!(text, "let fa{g} = tile_a[at_a + {}u];", u * pa + g * down).unwrap();
        }
        for j in 0..t.thread_cols / 4 {
            writeln!(text, "let fb{j} = tile_b[at_b + {}u];", u * pb + j * across).unwrap();
        }
        for i in 0..t.thread_rows {
            let lane = ["x", "y", "z", "w"][(i % 4) as usize];
            for j in 0..t.thread_cols / 4 {
                writeln!(text, "c{i}_{j} = fma(vec4<f32>(fa{}.{lane}), fb{j}, c{i}_{j});", i / 4).unwrap();
            }
        }
        writeln!(text, "}}").unwrap();
    }
    if unroll < depth {
        writeln!(text, "at_a += {}u; at_b += {}u;\n}}", unroll * pa, unroll * pb).unwrap();
    }
    text
}

fn finish(s: &mut Source, p: &Product) -> String {
    match &p.output {
        Output::Vectors(store) if p.tile.slices == 1 => finish_direct(s, p, *store),
        Output::Vectors(store) | Output::Staged(store) => finish_staged(s, p, *store, 4),
        Output::Elements(store) => finish_staged(s, p, *store, 1),
    }
}

/// Each thread stores its own sums.
fn finish_direct(s: &mut Source, p: &Product, store: &dyn Fn(&mut Source, &str, &str, &str) -> String) -> String {
    let t = &p.tile;
    let (down, across) = (t.rows / t.thread_rows, t.cols / t.thread_cols);
    let mut text = String::new();
    for i in 0..t.thread_rows {
        writeln!(text, "{{\nlet row = m0 + ({}u + ty) * 4u + {}u;\nif (row < {}) {{", i / 4 * down, i % 4, p.m)
            .unwrap();
        for j in 0..t.thread_cols / 4 {
            writeln!(text, "{{\nlet col = n0 + ({}u + tx) * 4u;\nif (col < {}) {{", j * across, p.n).unwrap();
            text += &store(s, "row", "col", &format!("c{i}_{j}"));
            text += "}\n}\n";
        }
        text += "}\n}\n";
    }
    text
}

/// Sums pass through workgroup memory, one row of each thread at a time, so that the text of an epilogue stands once and neighbouring threads
/// have neighbouring columns; slices are joined on the way, in their order.
fn finish_staged(
    s: &mut Source,
    p: &Product,
    store: &dyn Fn(&mut Source, &str, &str, &str) -> String,
    width: u32,
) -> String {
    let t = &p.tile;
    let (down, across) = (t.rows / t.thread_rows, t.cols / t.thread_cols);
    let (cols4, nj) = (t.cols / 4, t.thread_cols / 4);
    let mut text = String::new();
    writeln!(text, "for (var part = 0u; part < {}u; part++) {{", t.thread_rows).unwrap();
    for j in 0..nj {
        writeln!(text, "var x{j} = vec4<f32>();").unwrap();
    }
    writeln!(text, "switch (part) {{").unwrap();
    for i in 0..t.thread_rows {
        let set: String = (0..nj).map(|j| format!("x{j} = c{i}_{j}; ")).collect();
        text += &s.case((i + 1 < t.thread_rows).then_some(i), &set);
    }
    writeln!(text, "}}\nworkgroupBarrier();").unwrap();
    for j in 0..nj {
        writeln!(text, "tile_a[(slice * {down}u + ty) * {cols4}u + {}u + tx] = x{j};", j * across).unwrap();
    }
    writeln!(text, "workgroupBarrier();").unwrap();
    let per_row = t.cols / width;
    let n = down * per_row;
    writeln!(text, "for (var e = local; e < {n}u; e += {}u) {{", t.threads()).unwrap();
    writeln!(text, "let row = m0 + (part / 4u * {down}u + e / {per_row}u) * 4u + part % 4u;").unwrap();
    writeln!(text, "let col = n0 + e % {per_row}u * {width}u;").unwrap();
    writeln!(text, "if (row < {} && col < {}) {{", p.m, p.n).unwrap();
    let element = |slice: u32| {
        let begin = slice * down * cols4;
        if width == 4 { format!("tile_a[e + {begin}u]") } else { format!("tile_a[(e >> 2u) + {begin}u][e & 3u]") }
    };
    writeln!(text, "var sum = {};", element(0)).unwrap();
    (1..t.slices).for_each(|slice| writeln!(text, "sum += {};", element(slice)).unwrap());
    text += &store(s, "row", "col", "sum");
    text += "}\n}\n}\n";
    text
}
