//! Elementwise loops, four neighbouring points a thread, so that memory moves in vectors. Takes a loop that allows it, gives its shader, or as the
//! epilogue of a contraction its statements. Never touches a guard along the last axis: such loops go point by point.

use super::loops::{FLAT_THREADS, is_fourfold, prologue, span_words};
use super::point::{self, Site};
use super::{Source, define, register};
use crate::caps::Workgroups;
use crate::codegen::loops::product;
use crate::codegen::{Count, Grid, Shader, index};
use crate::ir::{DType, Dim};
use crate::kernel::{Instr, Loop, Map, Store};

/// How the accesses of a loop look to four neighbouring points.
pub struct Quads {
    /// By instruction: whether the four have one value.
    uniform: Vec<bool>,
    /// Arguments that are read and written as vectors only, but for places that the four share.
    vectors: Vec<bool>,
}

/// Fewer points than this, at the nominal batch size, are better off with a thread each.
const WORTHWHILE: i64 = 16_384;
const NOMINAL_BATCH: i64 = 64;
const LANES: [&str; 4] = ["x", "y", "z", "w"];

/// Whether and how a loop of its own goes by fours.
pub fn worthwhile(k: &Loop) -> Option<Quads> {
    let n = product(&k.axes);
    quads(k).filter(|_| n.batch * NOMINAL_BATCH + n.fixed >= WORTHWHILE)
}

/// Whether and how a loop can go by fours.
pub fn quads(k: &Loop) -> Option<Quads> {
    let last = k.axes.len().checked_sub(1)?;
    if !is_fourfold(k.axes[last]) {
        return None;
    }
    let same = |map: &Map| map.strides[last] == Dim::ZERO && map.guards.iter().all(|g| g.strides[last] == 0);
    let mut uniform = vec![false; k.instrs.len()];
    let mut vectors = vec![true; k.args.len()];
    let mut narrow = |arg: u32| vectors[arg as usize] = false;
    for (i, instr) in k.instrs.iter().enumerate() {
        let operands = instr.operands().iter().all(|v| uniform[v.0 as usize]);
        uniform[i] = match instr {
            Instr::Load { map, .. } | Instr::Index { map, .. } | Instr::Random { map, .. } => same(map),
            Instr::Gather { map, .. } => same(map) && operands,
            _ => operands,
        };
        match instr {
            Instr::Load { arg, map, .. } if !uniform[i] && !is_vector(k, map) => narrow(*arg),
            Instr::Gather { arg, .. } => narrow(*arg),
            Instr::Random { key, step, .. } => {
                narrow(*key);
                narrow(*step);
            }
            _ => {}
        }
    }
    // Four points that store to one place, or to places that are no vector, go one by one.
    if k.stores.iter().any(|s| same(&s.map)) {
        return None;
    }
    k.stores.iter().filter(|s| !is_vector(k, &s.map)).for_each(|s| narrow(s.arg));
    Some(Quads { uniform, vectors })
}

/// Whether four neighbouring points have four neighbouring places that begin at a multiple of four.
fn is_vector(k: &Loop, map: &Map) -> bool {
    let last = k.axes.len() - 1;
    map.strides[last] == Dim::ONE
        && is_fourfold(map.offset)
        && (0..last).all(|a| is_fourfold(map.strides[a]) || k.axes[a] == Dim::ONE)
        && map.guards.iter().all(|g| g.strides[last] == 0)
}

pub fn shader(k: &Loop, quads: &Quads, workgroups: &Workgroups) -> Shader {
    let mut s = Source::new(workgroups, &k.args);
    let mut body = prologue(&mut s, 1);
    let n = s.dim(product(&k.axes));
    body += &format!("let at = (tile * {FLAT_THREADS}u + local) * 4u;\nif (at < {n}) {{\n");
    let sizes: Vec<String> = k.axes.iter().map(|d| s.dim(*d)).collect();
    let (text, names) = index::unravel("at", &sizes, "i", &define);
    body += &text;
    body += &statements(&mut s, k, quads, &names, "at", None);
    body += "}\n";
    let grid = Grid::Line(Count { of: span_words(k, 0..k.axes.len(), false), per: 4 * FLAT_THREADS });
    s.finish([FLAT_THREADS, 1, 1], grid, &body)
}

/// Statements for four points, of which the first has these indices and the number `linear`. `known` is an argument whose four elements there are
/// a vector already.
pub fn statements(
    s: &mut Source,
    k: &Loop,
    quads: &Quads,
    names: &[String],
    linear: &str,
    known: Option<(u32, &str)>,
) -> String {
    let last = k.axes.len() - 1;
    let lanes: Vec<Vec<String>> = (0..4)
        .map(|lane| {
            let mut names = names.to_vec();
            names[last] = if lane == 0 { names[last].clone() } else { format!("({} + {lane}u)", names[last]) };
            names
        })
        .collect();
    let linear: Vec<String> =
        (0..4).map(|lane| if lane == 0 { linear.to_string() } else { format!("({linear} + {lane}u)") }).collect();
    let known: Vec<Option<(u32, String)>> =
        LANES.iter().map(|lane| known.map(|(arg, value)| (arg, format!("{value}.{lane}")))).collect();
    let sites: Vec<Site> = (0..4)
        .map(|lane| Site {
            index: &lanes[lane],
            linear: Some(&linear[lane]),
            axes: &k.axes,
            suffix: LANES[lane],
            uniform: Some(&quads.uniform),
        })
        .collect();
    let mut body = String::new();
    for (i, instr) in k.instrs.iter().enumerate() {
        body += &match instr {
            _ if quads.uniform[i] => {
                let one = Site { suffix: "", ..sites[0] };
                point::instruction(s, k, i, &one, None)
            }
            Instr::Load { arg, map, fill } if quads.vectors[*arg as usize] && !is_known(&known[0], *arg) => {
                load(s, k, i, *arg, map, *fill, &sites[0])
            }
            _ => {
                let known = known.iter().map(|k| k.as_ref().map(|(arg, value)| (*arg, value.as_str())));
                sites.iter().zip(known).map(|(site, known)| point::instruction(s, k, i, site, known)).collect()
            }
        };
    }
    for store in &k.stores {
        body += &match quads.vectors[store.arg as usize] {
            true => store_vector(s, store, quads, &sites[0]),
            false => sites.iter().map(|site| point::store_value(s, store, site)).collect::<String>(),
        };
    }
    body
}

fn is_known(known: &Option<(u32, String)>, arg: u32) -> bool {
    known.as_ref().is_some_and(|(known, _)| *known == arg)
}

/// Loads a vector and takes it apart.
fn load(s: &mut Source, k: &Loop, i: usize, arg: u32, map: &Map, fill: f64, site: &Site) -> String {
    let at = point::address(s, map, site);
    let dtype = k.args[arg as usize].dtype;
    let (at, holds) = match map.guards.is_empty() {
        true => (at, None),
        false => {
            let holds = index::guards(&map.guards, site.index, &mut |d| s.dim(d));
            (format!("select(0u, {at}, {holds})"), Some(holds))
        }
    };
    let vector = s.load_vector(arg, &format!("({at}) >> 2u"));
    let mut text = format!("let q{i} = {vector};\n");
    let fill = holds.is_some().then(|| point::constant(s, fill, dtype));
    for lane in LANES {
        let value = if dtype == DType::Bool { format!("(q{i}.{lane} != 0u)") } else { format!("q{i}.{lane}") };
        let value = match (&holds, &fill) {
            (Some(holds), Some(fill)) => format!("select({fill}, {value}, {holds})"),
            _ => value,
        };
        text += &define(&point::name(i, lane), &value);
    }
    text
}

fn store_vector(s: &mut Source, store: &Store, quads: &Quads, site: &Site) -> String {
    let at = point::address(s, &store.map, site);
    let dtype = s.dtype(store.arg);
    let uniform = quads.uniform[store.value.0 as usize];
    let value = |lane: &str| {
        let name = point::name(store.value.0 as usize, if uniform { "" } else { lane });
        if dtype == DType::Bool { format!("select(0u, 1u, {name})") } else { name }
    };
    let kind = if dtype == DType::Bool { "u32" } else { register(dtype) };
    let all = format!("vec4<{kind}>({})", LANES.map(value).join(", "));
    let text = s.store_vector(store.arg, &format!("({at}) >> 2u"), &all);
    if store.map.guards.is_empty() {
        return text;
    }
    let holds = index::guards(&store.map.guards, site.index, &mut |d| s.dim(d));
    format!("if ({holds}) {{ {text} }}\n")
}
