//! Shaders side by side. Takes shaders whose work is independent, gives one text in which each has workgroups of its own, so that small work
//! is done while large work is, and costs no dispatch. Never changes what a shader computes or in which order.
//!
//! The texts are those of [`crate::codegen::Source::finish`], taken apart again: only there it is known how one is put together.

use crate::codegen::contract::gemm;
use crate::codegen::{Grid, Shader};
use crate::ir::Dim;
use crate::kernel::Kernel;
use std::collections::BTreeMap;

/// A shader among others.
pub struct Neighbour<'a> {
    pub shader: &'a Shader,
    /// For each of its arguments: the binding in the common text.
    pub bindings: Vec<u32>,
    /// Where its parameters begin in the common block, in vectors, and how many there are.
    pub first_vector: u32,
    pub vectors: u32,
}

/// A text taken apart.
struct Apart<'a> {
    /// Bindings and the types of their elements.
    elements: Vec<(u32, &'a str)>,
    /// Shared memory: names, types, numbers of elements.
    shared: Vec<(&'a str, &'a str, u32)>,
    functions: Vec<&'a str>,
    /// Vectors of parameters of a segment.
    segment: Option<&'a str>,
    has_lanes: bool,
    body: &'a str,
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = &text[text.find(from)? + from.len()..];
    rest.find(to).map(|end| &rest[..end])
}

fn take_apart(source: &str) -> Option<Apart<'_>> {
    let (head, main) = source.split_once("@compute ")?;
    let (signature, rest) = main.split_once(") {\n")?;
    let mut apart = Apart {
        elements: Vec::new(),
        shared: Vec::new(),
        functions: Vec::new(),
        segment: None,
        has_lanes: signature.contains("subgroup_invocation_id"),
        body: rest.strip_suffix("}\n")?,
    };
    let mut left = head;
    while !left.is_empty() && !left.starts_with("fn ") {
        let (line, rest) = left.split_once('\n')?;
        left = rest;
        let array = || Some(line.rsplit_once(">;")?.0.split_once("array<")?.1);
        if line.contains("var<storage") {
            apart.elements.push((between(line, "@binding(", ")")?.parse().ok()?, array()?));
        } else if line.starts_with("var<workgroup>") {
            let (of, n) = array()?.rsplit_once(", ")?;
            apart.shared.push((between(line, "var<workgroup> ", ":")?, of, n.parse().ok()?));
        } else if line.starts_with("const VECTORS") {
            apart.segment = between(line, "= ", ";");
        } else if !line.contains("var<uniform>") {
            return None;
        }
    }
    while !left.is_empty() {
        let end = left[1..].find("\nfn ").map_or(left.len(), |at| at + 2);
        apart.functions.push(&left[..end]);
        left = &left[end..];
    }
    Some(apart)
}

/// Multiply-adds of a contraction, or points of a loop, at a batch size; kernels of other kinds count as more than any.
pub fn work(kernel: &Kernel, batch: usize) -> u64 {
    let count = |dims: &[Dim]| dims.iter().map(|d| d.at(batch) as u64).product::<u64>();
    match kernel {
        Kernel::Loop(k) => count(&k.axes),
        Kernel::Contract(k) => {
            let g = gemm(&k.contraction);
            count(&g.batch) * count(&[g.m, g.n, g.k])
        }
        Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => u64::MAX >> 8,
    }
}

/// Whether these can stand side by side in this order of bindings: they have workgroups of one size, share nothing that is left in memory, and
/// name their shared memory alike.
pub fn fits(shaders: &[&Shader]) -> bool {
    let Some(aparts) = shaders.iter().map(|s| take_apart(&s.source)).collect::<Option<Vec<Apart>>>() else {
        return false;
    };
    let mut shared: BTreeMap<&str, &str> = BTreeMap::new();
    let mut names = aparts.iter().flat_map(|apart| &apart.shared);
    let agree = names.all(|(name, of, _)| shared.entry(*name).or_insert(*of) == of);
    let alike =
        |s: &&Shader| s.scratch.is_none() && s.workgroup == shaders[0].workgroup && matches!(s.grid, Grid::Line(_));
    agree && shaders.iter().all(alike)
}

/// The type of the elements of argument `arg`, as it is declared.
pub fn element_type(shader: &Shader, arg: u32) -> Option<&str> {
    take_apart(&shader.source)?.elements.iter().find(|(a, _)| *a == arg).map(|(_, of)| *of)
}

/// The common text of shaders that [`fits`] says go together. Its parameters begin with the number of workgroups up to the end of each.
pub fn source(neighbours: &[Neighbour]) -> String {
    let aparts: Vec<Apart> = neighbours
        .iter()
        .map(|n| take_apart(&n.shader.source).expect("bug: only texts that come apart are put side by side"))
        .collect();
    let mut elements: BTreeMap<u32, &str> = BTreeMap::new();
    let mut shared: BTreeMap<&str, (&str, u32)> = BTreeMap::new();
    let mut functions: Vec<&str> = Vec::new();
    let mut body = "let line = group.y * groups.x + group.x;\n".to_string();
    let mut before = "0u".to_string();
    for (i, (n, apart)) in neighbours.iter().zip(&aparts).enumerate() {
        for &(arg, of) in &apart.elements {
            let at = n.shader.args.iter().position(|a| *a == arg).expect("bug: what is declared is an argument");
            elements.insert(n.bindings[at], of);
        }
        for &(name, of, count) in &apart.shared {
            let most = shared.entry(name).or_insert((of, count));
            most.1 = most.1.max(count);
        }
        functions.extend(&apart.functions);
        let end = format!("params[{}u].{}", i / 4, ["x", "y", "z", "w"][i % 4]);
        let otherwise = if i > 0 { "else " } else { "" };
        body += &format!("{otherwise}if (line < {end}) {{\nlet group = vec3<u32>(line - {before}, 0u, 0u);\n");
        body += "let groups = vec3<u32>(1u, 1u, 1u);\n";
        body += &own_names(n, apart);
        body += "}\n";
        before = end;
    }
    functions.sort_unstable();
    functions.dedup();
    let mut text = String::new();
    for (binding, of) in &elements {
        text += &format!("@group(0) @binding({binding}) var<storage, read_write> b{binding}: array<{of}>;\n");
    }
    let vectors = neighbours.iter().map(|n| n.first_vector + n.vectors).max().unwrap_or(0);
    text += &format!("@group(0) @binding({}) var<uniform> params: array<vec4<u32>, {vectors}>;\n", Shader::PARAMS);
    for (name, (of, n)) in &shared {
        text += &format!("var<workgroup> {name}: array<{of}, {n}>;\n");
    }
    functions.iter().for_each(|f| text += f);
    let [x, y, z] = neighbours[0].shader.workgroup;
    text += &format!("@compute @workgroup_size({x}, {y}, {z})\n");
    text += "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, ";
    text += "@builtin(local_invocation_index) local: u32";
    if aparts.iter().any(|a| a.has_lanes) {
        text += ", @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) lanes: u32";
    }
    text + &format!(") {{\n{body}}}\n")
}

/// A body with its names of arguments and parameters made those of the common text.
fn own_names(n: &Neighbour, apart: &Apart) -> String {
    let mut out = String::with_capacity(apart.body.len() * 5 / 4);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = apart.body;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let argument = || {
            let arg: u32 = word.strip_prefix('a')?.parse().ok()?;
            n.shader.args.iter().position(|a| *a == arg).map(|at| n.bindings[at])
        };
        match (word, argument()) {
            ("params", _) => {
                rest = rest.strip_prefix('[').expect("bug: parameters are read one by one");
                out += &format!("params[{}u + ", n.first_vector);
            }
            ("VECTORS", _) => out += apart.segment.expect("bug: the number of vectors is declared"),
            (_, Some(binding)) if rest.starts_with('[') => out += &format!("b{binding}"),
            _ => out += word,
        }
    }
    out
}
