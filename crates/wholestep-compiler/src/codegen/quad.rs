//! Four neighbouring points or rows a thread, so that memory moves in vectors. Takes a loop and the axis along which the four are neighbours,
//! gives how its accesses look to them, and statements for all four. Never decides which thread has which four.

use super::loops::{FLAT_THREADS, beside, extents, is_reduce, prologue, span, span_words};
use super::point::{self, Known, Site};
use super::source::{Elem, define, register};
use super::spread::{is_fourfold, product};
use super::{Count, Grid, Shader, Source, index, scalar};
use crate::caps::{Language, Workgroups};
use crate::ir::{DType, Dim};
use crate::kernel::{Instr, Loop, Map, Store, Value};

/// How the accesses of a loop look to four neighbours.
pub struct Quads {
    /// By instruction: whether the four have one value.
    pub uniform: Vec<bool>,
    /// By instruction: whether the four values come as one vector.
    pub whole: Vec<bool>,
    /// By argument: whether it is read or written as vectors, and otherwise only at places that the four share.
    vectors: Vec<bool>,
    /// Whether nothing that differs among the four is read or written otherwise than as a vector.
    pub is_plain: bool,
}

/// What the four neighbours are.
#[derive(Clone, Copy)]
enum Neighbours {
    /// Points that follow one another, from a multiple of four on, in the row-major order of all points.
    Points,
    /// Indices of one axis from a multiple of four on; the four share all other indices.
    Along(usize),
}

/// Fewer points than this, at the nominal batch size, are better off with a thread each.
const WORTHWHILE: i64 = 16_384;
const NOMINAL_BATCH: i64 = 64;
pub const LANES: [&str; 4] = ["x", "y", "z", "w"];

impl Neighbours {
    /// Whether all four are at one place.
    fn is_same(self, map: &Map) -> bool {
        let still = |a: usize| map.strides[a] == Dim::ZERO && map.guards.iter().all(|g| g.strides[a] == 0);
        match self {
            Neighbours::Points => (0..map.strides.len()).all(still),
            Neighbours::Along(axis) => still(axis),
        }
    }

    /// Whether the four have four neighbouring places that begin at a multiple of four.
    fn is_vector(self, k: &Loop, map: &Map) -> bool {
        match self {
            Neighbours::Points => is_linear(k, map),
            Neighbours::Along(axis) => {
                let others = (0..k.axes.len()).filter(|&a| a != axis);
                map.strides[axis] == Dim::ONE
                    && is_fourfold(map.offset)
                    && others.into_iter().all(|a| is_fourfold(map.strides[a]) || k.axes[a] == Dim::ONE)
                    && map.guards.iter().all(|g| g.strides[axis] == 0)
            }
        }
    }
}

/// Whether a map counts points as they follow one another.
fn is_linear(k: &Loop, map: &Map) -> bool {
    match &map.strides[..] {
        // Segments have other extents, but one axis needs none.
        [stride] => *stride == Dim::ONE && is_fourfold(map.offset) && map.guards.is_empty(),
        _ => map.is_row_major(&k.axes),
    }
}

impl Quads {
    /// Four neighbours along `axis`.
    pub fn along(k: &Loop, axis: usize) -> Quads {
        Quads::new(k, Neighbours::Along(axis))
    }

    fn new(k: &Loop, four: Neighbours) -> Quads {
        let n = k.instrs.len();
        let mut q = Quads { uniform: vec![false; n], whole: vec![false; n], vectors: Vec::new(), is_plain: true };
        let (mut wide, mut narrow) = (vec![false; k.args.len()], vec![false; k.args.len()]);
        let mut note = |arg: u32, is_wide: bool| {
            let of = if is_wide { &mut wide } else { &mut narrow };
            of[arg as usize] = true;
        };
        for (i, instr) in k.instrs.iter().enumerate() {
            let operands = instr.operands().iter().all(|v| q.uniform[v.0 as usize]);
            (q.uniform[i], q.whole[i]) = match instr {
                Instr::Load { map, .. } | Instr::Random { map, .. } => (four.is_same(map), four.is_vector(k, map)),
                Instr::Gather { map, stride, .. } => {
                    (four.is_same(map) && operands, four.is_vector(k, map) && operands && is_fourfold(*stride))
                }
                Instr::Index { map, .. } => (four.is_same(map), false),
                Instr::Const { .. }
                | Instr::Extent { .. }
                | Instr::Unary { .. }
                | Instr::Binary { .. }
                | Instr::Select { .. }
                | Instr::Cast { .. } => (operands, false),
                Instr::Reduce { .. } => (matches!(four, Neighbours::Along(axis) if axis >= k.n_outer), false),
            };
            match instr {
                Instr::Load { arg, .. } | Instr::Gather { arg, .. } if !q.uniform[i] => note(*arg, q.whole[i]),
                Instr::Random { key, step, .. } => {
                    note(*key, false);
                    note(*step, false);
                }
                _ => {}
            }
        }
        k.stores.iter().filter(|s| !four.is_same(&s.map)).for_each(|s| note(s.arg, four.is_vector(k, &s.map)));
        q.vectors = wide.iter().zip(&narrow).map(|(wide, narrow)| *wide && !narrow).collect();
        q.is_plain = k.stores.iter().all(|s| four.is_same(&s.map) || q.vectors[s.arg as usize]);
        for (i, instr) in k.instrs.iter().enumerate() {
            if let Instr::Load { arg, .. } | Instr::Gather { arg, .. } = instr {
                q.whole[i] &= q.vectors[*arg as usize];
                q.is_plain &= q.whole[i] || q.uniform[i];
            }
        }
        q
    }

    /// Whether an argument moves in vectors.
    pub fn moves(&self, arg: u32) -> bool {
        self.vectors[arg as usize]
    }

    /// Declares the arguments that move in vectors.
    pub fn bind(&self, s: &mut Source) {
        (0..self.vectors.len()).filter(|&arg| self.vectors[arg]).for_each(|arg| s.bind(arg as u32, Elem::Vec4));
    }

    /// The suffixes of the values that neighbour `lane` sees; `of` gives an instruction's beside that.
    pub fn suffixes(&self, lane: &str, of: impl Fn(usize) -> String) -> Vec<String> {
        (0..self.uniform.len()).map(|i| if self.uniform[i] { of(i) } else { format!("{lane}{}", of(i)) }).collect()
    }

    /// The definitions of the values of instruction `i`, which is no reduction, for all four. `known` is an argument whose four elements there are
    /// a vector already.
    pub fn instruction(&self, s: &mut Source, k: &Loop, i: usize, sites: &[Site], known: Known) -> String {
        if self.uniform[i] {
            return point::instruction(s, k, i, &sites[0], None);
        }
        if let (Instr::Load { arg, .. }, Some((known, value))) = (&k.instrs[i], known)
            && *arg == known
        {
            let one = |(site, lane)| point::instruction(s, k, i, site, Some((known, &format!("{value}.{lane}"))));
            return sites.iter().zip(LANES).map(one).collect();
        }
        if !self.whole[i] {
            return sites.iter().map(|site| point::instruction(s, k, i, site, None)).collect();
        }
        let first = &sites[0];
        let (vector, holds, fill) = match &k.instrs[i] {
            Instr::Load { arg, map, fill } => {
                let at = point::address(s, map, first);
                if map.guards.is_empty() {
                    (load(s, *arg, &at), None, 0.0)
                } else {
                    let holds = index::guards(&map.guards, first.index, &mut |d| s.dim(d));
                    (load(s, *arg, &format!("select(0u, {at}, {holds})")), Some(holds), *fill)
                }
            }
            Instr::Gather { arg, .. } => {
                let at = point::gathered(s, k, i, first);
                (load(s, *arg, &at), None, 0.0)
            }
            Instr::Random { map, stream, key, step } => {
                let at = point::address(s, map, first);
                (point::random_of_four(s, &format!("({at}) >> 2u"), *stream, *key, *step), None, 0.0)
            }
            other => panic!("bug: {other:?} reads no vector"),
        };
        let value = Value(i as u32);
        let name = format!("q{}", first.value(value));
        let mut text = define(&name, &vector);
        let dtype = k.dtype(value);
        let fill = holds.map(|holds| (scalar::constant(s, fill, dtype), holds));
        for (lane, site) in LANES.iter().zip(sites) {
            let one = if dtype == DType::Bool { format!("({name}.{lane} != 0u)") } else { format!("{name}.{lane}") };
            let one = match &fill {
                Some((fill, holds)) => format!("select({fill}, {one}, {holds})"),
                None => one,
            };
            text += &define(&site.value(value), &one);
        }
        text
    }

    /// The statements of a store at all four.
    pub fn store(&self, s: &mut Source, store: &Store, sites: &[Site]) -> String {
        if !self.vectors[store.arg as usize] {
            return sites.iter().map(|site| point::store_value(s, store, site)).collect();
        }
        let at = point::address(s, &store.map, &sites[0]);
        let dtype = s.dtype(store.arg);
        let value = |site: &Site| {
            let name = site.value(store.value);
            if dtype == DType::Bool { format!("select(0u, 1u, {name})") } else { name }
        };
        let kind = if dtype == DType::Bool { "u32" } else { register(dtype) };
        let all: Vec<String> = sites.iter().map(value).collect();
        let at = s.place(store.arg, &at);
        let text = s.store_vector(store.arg, &format!("({at}) >> 2u"), &format!("vec4<{kind}>({})", all.join(", ")));
        if store.map.guards.is_empty() {
            return text;
        }
        let holds = index::guards(&store.map.guards, sites[0].index, &mut |d| s.dim(d));
        format!("if ({holds}) {{ {text} }}\n")
    }
}

/// The vector of an argument's elements from `at` on, a multiple of four.
fn load(s: &mut Source, arg: u32, at: &str) -> String {
    let at = s.place(arg, at);
    s.load_vector(arg, &format!("({at}) >> 2u"))
}

/// Whether a loop writes floats of 16 bits that lie two to a word: those of a vector are written together or not at all.
pub fn writes_halves(k: &Loop, workgroups: &Workgroups) -> bool {
    let is_half = |store: &Store| scalar::is_half(k.args[store.arg as usize].dtype);
    workgroups.language == Language::Wgsl && k.stores.iter().any(is_half)
}

/// Whether and how an epilogue can go by fours along its last axis.
pub fn quads(k: &Loop) -> Option<Quads> {
    let last = k.axes.len().checked_sub(1)?;
    let quads = Quads::along(k, last);
    let distinct = k.stores.iter().all(|store| !Neighbours::Along(last).is_same(&store.map));
    (is_fourfold(k.axes[last]) && distinct).then_some(quads)
}

/// Statements of an epilogue for four points, of which the first has these indices and the number `linear`. `known` is an argument whose four
/// elements there are a vector already.
pub fn statements(s: &mut Source, k: &Loop, quads: &Quads, names: &[String], linear: &str, known: Known) -> String {
    let last = k.axes.len() - 1;
    let indices: Vec<Vec<String>> = (0..4).map(|lane| beside(names, last, lane)).collect();
    let numbers: Vec<String> = (0..4).map(|lane| format!("({linear} + {lane}u)")).collect();
    let suffixes = LANES.map(|lane| quads.suffixes(lane, |_| String::new()));
    let site = |lane: usize| Site {
        index: &indices[lane],
        linear: Some(if lane == 0 { linear } else { numbers[lane].as_str() }),
        axes: &k.axes,
        suffixes: Some(&suffixes[lane]),
    };
    let sites = [0, 1, 2, 3].map(site);
    quads.bind(s);
    let instrs: String = (0..k.instrs.len()).map(|i| quads.instruction(s, k, i, &sites, known)).collect();
    instrs + &k.stores.iter().map(|store| quads.store(s, store, &sites)).collect::<String>()
}

/// The shader of an elementwise loop, four points a thread; `None` for loops that go point by point.
pub fn flat(k: &Loop, n_segments: usize, workgroups: &Workgroups) -> Option<Shader> {
    let last = k.axes.len().checked_sub(1)?;
    let n = product(&k.axes);
    let is_small = n.batch * NOMINAL_BATCH + n.fixed < WORTHWHILE;
    let segmented = n_segments > 1;
    // Of several axes the last is a multiple of four in all segments or in none; the extent of one is another in each.
    let ends_well = is_fourfold(k.axes[last]) && (!segmented || last > 0);
    if if segmented { last > 0 && !ends_well } else { is_small } {
        return None;
    }
    // Where the last axis is a multiple of four, four points lie side by side along it.
    let (shares, is_whole) = (ends_well, if segmented { ends_well } else { is_fourfold(n) });
    let four = if shares { Neighbours::Along(last) } else { Neighbours::Points };
    // Four points that store to one place go one by one; so do those whose indices would be taken apart four times for nothing.
    let quads = Quads::new(k, four);
    let is_split = !is_whole && writes_halves(k, workgroups);
    if is_split || k.stores.iter().any(|s| four.is_same(&s.map)) || !(shares || quads.vectors.iter().any(|v| *v)) {
        return None;
    }
    let mut s = Source::new(workgroups, &k.args).with_segments(n_segments).with_open_numbers();
    quads.bind(&mut s);
    let mut body = prologue(&mut s, n_segments);
    let n = span(&mut s, k, 0..k.axes.len());
    body += &format!("let at = (tile * {FLAT_THREADS}u + local) * 4u;\nif (at < {n}) {{\n");
    let sizes = extents(&mut s, k, 0..k.axes.len());
    let mut numbers = vec!["at".to_string()];
    let mut indices: Vec<Vec<String>> = Vec::new();
    for (lane, name) in LANES.iter().enumerate() {
        if lane > 0 {
            numbers.push(format!("at{lane}"));
            // What is over reads the last point once more and is not stored.
            let number = if is_whole { format!("at + {lane}u") } else { format!("min(at + {lane}u, {n} - 1u)") };
            body += &define(&numbers[lane], &number);
        }
        if shares && lane > 0 {
            indices.push(beside(&indices[0], last, lane as u32));
        } else {
            let (text, names) = index::unravel(&numbers[lane], &sizes, &format!("i{name}"), &define);
            body += &text;
            indices.push(names);
        }
    }
    let suffixes = LANES.map(|lane| quads.suffixes(lane, |_| String::new()));
    let linear = !segmented || last == 0;
    let sites: Vec<Site> = (0..4)
        .map(|lane| Site {
            index: &indices[lane],
            linear: linear.then_some(numbers[lane].as_str()),
            axes: &k.axes,
            suffixes: Some(&suffixes[lane]),
        })
        .collect();
    for i in 0..k.instrs.len() {
        debug_assert!(!is_reduce(&k.instrs[i]), "bug: an elementwise loop has no reduction");
        body += &quads.instruction(&mut s, k, i, &sites, None);
    }
    body += &stores(&mut s, k, &quads, &sites, (!is_whole).then_some(n.as_str()));
    body += "}\n";
    let grid = Grid::Line(Count { of: span_words(k, 0..k.axes.len(), segmented), per: 4 * FLAT_THREADS });
    Some(s.finish([FLAT_THREADS, 1, 1], grid, &body))
}

/// All stores of four points; with `n`, those of the last four that exist.
fn stores(s: &mut Source, k: &Loop, quads: &Quads, sites: &[Site], n: Option<&str>) -> String {
    let whole: String = k.stores.iter().map(|store| quads.store(s, store, sites)).collect();
    let Some(n) = n else { return whole };
    let mut text = format!("if (at + 4u <= {n}) {{\n{whole}}} else {{\n");
    for (lane, site) in sites[..3].iter().enumerate() {
        let one: String = k.stores.iter().map(|store| point::store_value(s, store, site)).collect();
        text += &if lane == 0 { one } else { format!("if (at + {lane}u < {n}) {{\n{one}}}\n") };
    }
    text + "}\n"
}
