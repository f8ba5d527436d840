//! Shaders side by side. Takes shaders whose work is independent, gives one text in which each has workgroups of its own, so that small work
//! is done while large work is, and costs no dispatch. Never changes what a shader computes or in which order.
//!
//! Bodies stand as they were written: what they call their memory and their parameters is defined before each.

use super::{Parts, params_type};
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

/// Whether these can stand side by side: they have workgroups of one size, ask for no extension, share nothing that is left in memory, and name
/// their shared memory alike.
pub fn fits(shaders: &[&Shader]) -> bool {
    let Some(all) = shaders.iter().map(|s| s.parts.as_ref()).collect::<Option<Vec<&Parts>>>() else { return false };
    let mut shared: BTreeMap<&str, &str> = BTreeMap::new();
    let mut names = all.iter().flat_map(|parts| &parts.shared);
    let agree = names.all(|(name, (of, _))| shared.entry(name).or_insert(of) == of);
    let alike =
        |s: &&Shader| s.scratch.is_none() && s.workgroup == shaders[0].workgroup && matches!(s.grid, Grid::Line(_));
    agree && all.iter().all(|parts| parts.enables.is_empty()) && shaders.iter().all(alike)
}

/// The type of the elements of argument `arg`, as it is declared.
pub fn element_type(shader: &Shader, arg: u32) -> Option<&str> {
    Some(shader.parts.as_ref()?.memory.get(&arg)?.1.as_str())
}

/// The common text of shaders that [`fits`] says go together. Its parameters begin with the number of workgroups up to the end of each, as whole
/// vectors; those of each shader follow.
pub fn source(neighbours: &[Neighbour]) -> String {
    let mut made = Parts { params: "Params".to_string(), ..Parts::default() };
    let mut fields = format!("ends: {}", params_type(neighbours.len().div_ceil(4)));
    let mut before = "0u".to_string();
    made.body = "let line = group.y * groups.x + group.x;\n".to_string();
    for (i, n) in neighbours.iter().enumerate() {
        let parts = n.shader.parts.as_ref().expect("bug: only texts in parts are put side by side");
        for (name, (of, count)) in &parts.shared {
            let most = made.shared.entry(name.clone()).or_insert((of.clone(), *count));
            most.1 = most.1.max(*count);
        }
        made.functions.extend(&parts.functions);
        made.knows_lanes |= parts.knows_lanes;
        let end = format!("params.ends[{}u].{}", i / 4, ["x", "y", "z", "w"][i % 4]);
        let otherwise = if i > 0 { "else " } else { "" };
        made.body += &format!("{otherwise}if (line < {end}) {{\nlet group = vec3<u32>(line - {before}, 0u, 0u);\n");
        made.body += "let groups = vec3<u32>(1u, 1u, 1u);\n";
        for (arg, binding) in n.shader.args.iter().zip(&n.bindings) {
            let (name, of) = &parts.memory[arg];
            made.memory.insert(*binding, (format!("b{binding}"), of.clone()));
            made.body += &format!("let {name} = &b{binding};\n");
        }
        if !parts.params.is_empty() {
            fields += &format!(", of_{i}: {}", parts.params);
            made.body += &format!("let params = &params.of_{i};\n");
        }
        if let Some(vectors) = parts.vectors {
            made.body += &format!("let VECTORS = {vectors}u;\n");
        }
        made.body += &format!("{}}}\n", parts.body);
        before = end;
    }
    made.types = format!("struct Params {{ {fields} }}\n");
    made.text(neighbours[0].shader.workgroup)
}
