//! Elementwise loops, four neighbouring points a thread, so that memory moves in vectors. Takes a loop that allows it, gives its shader. Never
//! touches a guard along the last axis: such loops go point by point.

use super::loops::{FLAT_THREADS, is_fourfold, prologue, span_words};
use super::point::{self, Site};
use super::{Elem, Source, define};
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

/// Whether and how a loop goes by fours.
pub fn quads(k: &Loop) -> Option<Quads> {
    let last = k.axes.len().checked_sub(1)?;
    let n = product(&k.axes);
    if !is_fourfold(k.axes[last]) || n.batch * NOMINAL_BATCH + n.fixed < WORTHWHILE {
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
    let last = k.axes.len() - 1;
    let mut body = prologue(&mut s, 1);
    let n = s.dim(product(&k.axes));
    body += &format!("let at = (tile * {FLAT_THREADS}u + local) * 4u;\nif (at < {n}) {{\n");
    let sizes: Vec<String> = k.axes.iter().map(|d| s.dim(*d)).collect();
    let (text, names) = index::unravel("at", &sizes, "i", &define);
    body += &text;
    let lanes: Vec<Vec<String>> = (0..4)
        .map(|lane| {
            let mut names = names.clone();
            names[last] = if lane == 0 { names[last].clone() } else { format!("({} + {lane}u)", names[last]) };
            names
        })
        .collect();
    let linear: Vec<String> =
        (0..4).map(|lane| if lane == 0 { "at".to_string() } else { format!("(at + {lane}u)") }).collect();
    let sites: Vec<Site> = (0..4)
        .map(|lane| Site {
            index: &lanes[lane],
            linear: Some(&linear[lane]),
            axes: &k.axes,
            suffix: LANES[lane],
            uniform: Some(&quads.uniform),
        })
        .collect();
    for (i, instr) in k.instrs.iter().enumerate() {
        body += &match instr {
            _ if quads.uniform[i] => {
                let one = Site { suffix: "", ..sites[0] };
                point::instruction(&mut s, k, i, &one, None)
            }
            Instr::Load { arg, map, fill } if quads.vectors[*arg as usize] => {
                load(&mut s, k, i, *arg, map, *fill, &sites[0])
            }
            _ => sites.iter().map(|site| point::instruction(&mut s, k, i, site, None)).collect(),
        };
    }
    for store in &k.stores {
        body += &match quads.vectors[store.arg as usize] {
            true => store_vector(&mut s, store, quads, &sites[0]),
            false => sites.iter().map(|site| point::store_value(&mut s, store, site)).collect::<String>(),
        };
    }
    body += "}\n";
    let grid = Grid::Line(Count { of: span_words(k, 0..k.axes.len(), false), per: 4 * FLAT_THREADS });
    s.finish([FLAT_THREADS, 1, 1], grid, &body)
}

/// Loads a vector and takes it apart.
fn load(s: &mut Source, k: &Loop, i: usize, arg: u32, map: &Map, fill: f64, site: &Site) -> String {
    s.bind(arg, Elem::Vec4);
    let at = point::address(s, map, site);
    let dtype = k.args[arg as usize].dtype;
    let (at, holds) = match map.guards.is_empty() {
        true => (at, None),
        false => {
            let holds = index::guards(&map.guards, site.index, &mut |d| s.dim(d));
            (format!("select(0u, {at}, {holds})"), Some(holds))
        }
    };
    let mut text = format!("let q{i} = a{arg}[({at}) >> 2u];\n");
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
    s.bind(store.arg, Elem::Vec4);
    let at = point::address(s, &store.map, site);
    let dtype = s.dtype(store.arg);
    let uniform = quads.uniform[store.value.0 as usize];
    let value = |lane: &str| {
        let name = point::name(store.value.0 as usize, if uniform { "" } else { lane });
        if dtype == DType::Bool { format!("select(0u, 1u, {name})") } else { name }
    };
    let kind = super::storage(dtype, s.workgroups).expect("bug: the dtype was checked");
    let all = LANES.map(value).join(", ");
    let text = format!("a{}[({at}) >> 2u] = vec4<{kind}>({all});\n", store.arg);
    if store.map.guards.is_empty() {
        return text;
    }
    let holds = index::guards(&store.map.guards, site.index, &mut |d| s.dim(d));
    format!("if ({holds}) {{ {text} }}\n")
}
