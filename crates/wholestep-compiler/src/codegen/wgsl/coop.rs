//! Products of f16 matrices on units that multiply small matrices (cooperative matrices). Takes a tile and extents that it divides, gives a
//! shader with f32 sums. Never used where the device does not list the unit's shape.

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
    /// Buffers in workgroup memory.
    pub stages: u32,
    /// Threads of a subgroup.
    pub lanes: u32,
    /// Elements that move at once between memories: 8 is fastest; Metal takes matrices only from arrays of single elements, so 1 there.
    pub vector: u32,
}

/// The tiles worth a try for units of an edge, best first.
pub fn tiles(unit: u32, lanes: u32) -> Vec<CoopTile> {
    let tile = |[rows, cols, depth]: [u32; 3], [sub_rows, sub_cols]: [u32; 2], stages, vector| CoopTile {
        unit,
        rows,
        cols,
        sub_rows,
        sub_cols,
        depth,
        stages,
        lanes,
        vector,
    };
    if unit == 8 {
        // A subgroup of Apple's makes 32 by 32; software drivers take minutes to compile more.
        return vec![tile([64, 64, 16], [32, 32], 1, 1), tile([32, 32, 16], [16, 16], 1, 1)];
    }
    vec![
        tile([128, 128, 32], [64, 64], 1, 8),
        tile([128, 256, 32], [64, 64], 1, 8),
        tile([256, 128, 32], [64, 64], 1, 8),
        tile([128, 128, 64], [64, 32], 1, 8),
        tile([128, 128, 32], [64, 64], 2, 8),
        tile([64, 64, 32], [32, 32], 1, 8),
    ]
}

impl CoopTile {
    pub fn threads(&self) -> u32 {
        (self.rows / self.sub_rows) * (self.cols / self.sub_cols) * self.lanes
    }

    pub fn shared_bytes(&self) -> u32 {
        2 * self.stages * (self.side_a().stage + self.side_b().stage)
    }

    /// Elements that one load from a buffer brings.
    fn read(&self) -> u32 {
        if self.vector == 8 { 8 } else { 4 }
    }

    fn side_a(&self) -> Side {
        Side::new('a', self.rows, self.depth)
    }

    fn side_b(&self) -> Side {
        Side::new('b', self.depth, self.cols)
    }
}

/// One operand's part in workgroup memory, row-major.
struct Side {
    name: char,
    rows: u32,
    cols: u32,
    /// Elements from one row to the next, padded so that rows begin in different banks, and of one stage.
    pitch: u32,
    stage: u32,
}

impl Side {
    fn new(name: char, rows: u32, cols: u32) -> Side {
        let pitch = cols + 8;
        Side { name, rows, cols, pitch, stage: rows * pitch }
    }

    /// Loads of each thread.
    fn loads(&self, t: &CoopTile) -> u32 {
        self.rows * self.cols / t.read() / t.threads()
    }
}

/// `[m, k]·[k, n]`, all row-major: f16 operands are bindings 0 and 1, the f32 result 2, `m n k` the words of binding 62. All three extents are
/// multiples of the tile's.
pub fn source(t: &CoopTile) -> String {
    let mut s = head(t);
    let (ni, nj, unit) = (t.sub_rows / t.unit, t.sub_cols / t.unit, t.unit);
    for (i, j) in pairs(ni, nj) {
        writeln!(s, "var c_{i}_{j} = coop_mat{unit}x{unit}<f32, C>();").unwrap();
    }
    s += &addresses(t);
    s += &walk(t);
    s += "let pitch = params[0].y;\n";
    for (i, j) in pairs(ni, nj) {
        // What is stored, where and how far apart have names because naga 30 stops at expressions here.
        writeln!(
            s,
            "{{ let v = c_{i}_{j}; let o = (m0 + sub_row + {}u) * pitch + n0 + sub_col + {}u; coopStoreT(v, &sums[o], pitch); }}",
            i * unit,
            j * unit
        )
        .unwrap();
    }
    s + "}\n"
}

fn pairs(ni: u32, nj: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..ni).flat_map(move |i| (0..nj).map(move |j| (i, j)))
}

/// Declarations, and which tile this workgroup and this subgroup make.
fn head(t: &CoopTile) -> String {
    // A vector of eight is four words: a matrix is loaded from whatever its elements lie in.
    let of = match t.vector {
        8 => "vec4<u32>",
        4 => "vec4<f16>",
        _ => "f16",
    };
    let memory = if t.read() == 8 { "vec4<u32>" } else { "vec4<f16>" };
    let (a, b) = (t.stages * t.side_a().stage / t.vector, t.stages * t.side_b().stage / t.vector);
    let CoopTile { rows, cols, sub_rows, sub_cols, .. } = *t;
    format!(
        "enable wgpu_cooperative_matrix;
enable f16;
@group(0) @binding(0) var<storage, read_write> lhs: array<{memory}>;
@group(0) @binding(1) var<storage, read_write> rhs: array<{memory}>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
var<workgroup> tile_a: array<{of}, {a}>;
var<workgroup> tile_b: array<{of}, {b}>;
@compute @workgroup_size({}, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32, \
@builtin(subgroup_id) sub: u32) {{
let id = group.y * groups.x + group.x;
let m_tiles = params[0].x / {rows}u; let n_tiles = params[0].y / {cols}u;
if (id >= m_tiles * n_tiles) {{ return; }}
let band = id / (8u * n_tiles);
let in_band = id % (8u * n_tiles);
let band_rows = min(m_tiles - band * 8u, 8u);
let m0 = (band * 8u + in_band % band_rows) * {rows}u;
let n0 = in_band / band_rows * {cols}u;
let sub_row = sub / {across}u * {sub_rows}u; let sub_col = sub % {across}u * {sub_cols}u;
",
        t.threads(),
        across = cols / sub_cols
    )
}

/// Where each thread reads and where it stages what it read; the first loads.
fn addresses(t: &CoopTile) -> String {
    let read = t.read();
    let mut s = format!("let k_vectors = params[0].z / {read}u; let n_vectors = params[0].y / {read}u;\n");
    for side in [t.side_a(), t.side_b()] {
        let (name, across) = (side.name, side.cols / read);
        for i in 0..side.loads(t) {
            let e = format!("(local + {}u)", i * t.threads());
            let (row, col) = (format!("{e} / {across}u"), format!("{e} % {across}u"));
            let (buffer, at) = match name {
                'a' => ("lhs", format!("(m0 + {row}) * k_vectors + {col}")),
                _ => ("rhs", format!("({row}) * n_vectors + n0 / {read}u + {col}")),
            };
            let (down, right) = (side.pitch / t.vector, read / t.vector);
            writeln!(s, "let g{name}{i} = {at}; let s{name}{i} = ({row}) * {down}u + ({col}) * {right}u;").unwrap();
            writeln!(s, "var v{name}{i} = {buffer}[g{name}{i}];").unwrap();
        }
    }
    s
}

fn walk(t: &CoopTile) -> String {
    let (depth, read) = (t.depth, t.read());
    let mut load = String::new();
    (0..t.side_a().loads(t)).for_each(|i| writeln!(load, "va{i} = lhs[ga{i} + k_next / {read}u];").unwrap());
    (0..t.side_b().loads(t)).for_each(|i| writeln!(load, "vb{i} = rhs[gb{i} + k_next * n_vectors];").unwrap());
    if t.stages == 1 {
        return format!(
            "for (var k = 0u; k < params[0].z; k += {depth}u) {{\nworkgroupBarrier();\n{}workgroupBarrier();\nlet k_next = k + {depth}u;\n\
             if (k_next < params[0].z) {{\n{load}}}\n{}}}\n",
            stage(t, ""),
            multiply(t, "")
        );
    }
    format!(
        "{}workgroupBarrier();\nvar stage = 0u;\nfor (var k = 0u; k < params[0].z; k += {depth}u) {{\nlet k_next = k + {depth}u;\n\
         if (k_next < params[0].z) {{\n{load}}}\n{}if (k_next < params[0].z) {{\n{}}}\nworkgroupBarrier();\nstage = 1u - stage;\n}}\n",
        stage(t, ""),
        multiply(t, "stage"),
        stage(t, "(1u - stage)")
    )
}

/// Where a stage begins, as a term of a sum.
fn begin(t: &CoopTile, side: &Side, number: &str) -> String {
    if number.is_empty() { String::new() } else { format!(" + {number} * {}u", side.stage / t.vector) }
}

/// Stores what was read to a stage.
fn stage(t: &CoopTile, number: &str) -> String {
    let mut s = String::new();
    for side in [t.side_a(), t.side_b()] {
        let (name, begin) = (side.name, begin(t, &side, number));
        for i in 0..side.loads(t) {
            if t.vector > 1 {
                writeln!(s, "tile_{name}[s{name}{i}{begin}] = v{name}{i};").unwrap();
                continue;
            }
            for (c, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                writeln!(s, "tile_{name}[s{name}{i}{begin} + {c}u] = v{name}{i}.{lane};").unwrap();
            }
        }
    }
    s
}

/// Multiplies a staged depth into the sums of this subgroup.
fn multiply(t: &CoopTile, number: &str) -> String {
    let (a, b, unit, per) = (t.side_a(), t.side_b(), t.unit, t.vector);
    let (ni, nj) = (t.sub_rows / unit, t.sub_cols / unit);
    let (begin_a, begin_b) = (begin(t, &a, number), begin(t, &b, number));
    let mut s = format!("let at_a = sub_row * {}u{begin_a}; let at_b = sub_col / {per}u{begin_b};\n", a.pitch / per);
    for k in (0..t.depth).step_by(unit as usize) {
        s += "{\n";
        for i in 0..ni {
            let at = (i * unit * a.pitch + k) / per;
            let of = format!("coop_mat{unit}x{unit}<f16, A>");
            writeln!(s, "let a{i} = coopLoadT<{of}>(&tile_a[at_a + {at}u], {}u);", a.pitch / per).unwrap();
        }
        for j in 0..nj {
            let at = (k * b.pitch + j * unit) / per;
            let of = format!("coop_mat{unit}x{unit}<f16, B>");
            writeln!(s, "let b{j} = coopLoadT<{of}>(&tile_b[at_b + {at}u], {}u);", b.pitch / per).unwrap();
        }
        for (i, j) in pairs(ni, nj) {
            writeln!(s, "c_{i}_{j} = coopMultiplyAdd(a{i}, b{j}, c_{i}_{j});").unwrap();
        }
        s += "}\n";
    }
    s
}
