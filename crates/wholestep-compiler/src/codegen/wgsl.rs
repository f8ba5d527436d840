//! WGSL. Takes what kernel writers say, gives shaders in that language: how arguments, parameters and memory are declared is here, below it what no
//! other language has. Never asks for more than `Caps` has.

pub mod access;
pub mod beside;
pub mod coop;
pub mod half;
pub mod scalar;
pub mod whole;

use super::Shader;
use super::scalar::is_half;
use super::source::{Elem, Source};
use crate::ir::DType;
use crate::kernel::{Arg, Instr, Kernel, Loop};
use std::collections::{BTreeMap, BTreeSet};

/// The kernel with `i32` for `i64`: the device keeps such values in 32 bits (see [`Caps::long_bytes`]).
pub(super) fn narrow(kernel: &Kernel) -> Kernel {
    let dtype = |d: &mut DType| *d = if *d == DType::I64 { DType::I32 } else { *d };
    let args = |args: &mut Vec<Arg>| args.iter_mut().for_each(|a| dtype(&mut a.dtype));
    let program = |k: &mut Loop| {
        args(&mut k.args);
        k.instrs.iter_mut().for_each(|i| match i {
            Instr::Index { dtype: d, .. } | Instr::Const { dtype: d, .. } | Instr::Extent { dtype: d, .. } => dtype(d),
            Instr::Cast { to, .. } => dtype(to),
            Instr::Load { .. }
            | Instr::Gather { .. }
            | Instr::Random { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Reduce { .. } => {}
        });
    };
    let mut kernel = kernel.clone();
    match &mut kernel {
        Kernel::Loop(k) => program(k),
        Kernel::Contract(k) => {
            args(&mut k.args);
            k.epilogue.iter_mut().for_each(program);
        }
        Kernel::Window(k) => args(&mut k.args),
        Kernel::Scatter(k) => {
            args(&mut k.args);
            dtype(&mut k.index_dtype);
        }
        Kernel::Sort(k) => {
            args(&mut k.args);
            dtype(&mut k.dtype);
        }
        Kernel::Scan(k) => args(&mut k.args),
    }
    kernel
}

/// The type in which elements of `dtype` lie in memory: `u8` and `bool` take a word of their own, floats of 16 bits lie two to a word.
pub fn storage(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::I32 => Some("i32"),
        DType::U32 | DType::U8 | DType::Bool | DType::F16 | DType::BF16 => Some("u32"),
        DType::F64 | DType::I64 => None,
    }
}

/// A text in parts, so that it can stand beside others in one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    pub(super) enables: BTreeSet<&'static str>,
    /// Declarations of types.
    pub(super) types: String,
    /// By binding: the name of the memory in the body, and the type of its elements.
    pub(super) memory: BTreeMap<u32, (String, String)>,
    /// The type of the parameters; empty where there are none.
    pub(super) params: String,
    /// Vectors of parameters of a segment, where there are several.
    pub(super) vectors: Option<usize>,
    /// Memory that a workgroup shares, by name: type of an element, how many.
    pub(super) shared: BTreeMap<String, (String, u32)>,
    pub(super) functions: BTreeMap<&'static str, &'static str>,
    /// Whether the body asks for the number of its subgroup, and for its place in it.
    pub(super) knows_subs: bool,
    pub(super) knows_lanes: bool,
    pub(super) body: String,
}

/// What is written around `body`: see [`Source::finish`].
pub(super) fn parts(s: &Source, body: &str) -> Parts {
    let element = |arg: u32, elem: &Elem| {
        let of = storage(s.dtype(arg)).expect("bug: the dtype was checked");
        match elem {
            Elem::Scalar if access::is_atomic(s, arg) => format!("atomic<{of}>"),
            Elem::Scalar => of.to_string(),
            Elem::Vec4 if is_half(s.dtype(arg)) => format!("vec2<{of}>"),
            Elem::Vec4 => format!("vec4<{of}>"),
            Elem::Halves => "vec4<f16>".to_string(),
        }
    };
    let mut memory: BTreeMap<u32, (String, String)> =
        s.bound.iter().map(|(&arg, elem)| (arg, (format!("a{arg}"), element(arg, elem)))).collect();
    if let Some((of, _)) = &s.scratch {
        memory.insert(Shader::SCRATCH, ("scratch".to_string(), of.to_string()));
    }
    let vectors = s.words.len().div_ceil(4);
    Parts {
        enables: s.enables.keys().copied().collect(),
        types: String::new(),
        memory,
        params: params_type(vectors * s.n_segments),
        vectors: s.segmented().then_some(vectors),
        shared: s.shared.iter().map(|(name, of, n)| (name.clone(), (of.clone(), *n))).collect(),
        functions: s.functions.clone(),
        knows_subs: s.enables.contains_key(COOPERATIVE),
        knows_lanes: s.workgroups.subgroup.is_some() && body.contains("lane"),
        body: body.to_string(),
    }
}

/// The type of so many vectors of parameters.
pub(super) fn params_type(vectors: usize) -> String {
    if vectors > 0 { format!("array<vec4<u32>, {vectors}>") } else { String::new() }
}

impl Parts {
    /// The whole text.
    pub(super) fn text(&self, workgroup: [u32; 3]) -> String {
        let mut text: String = self.enables.iter().map(|name| format!("enable {name};\n")).collect();
        text += &self.types;
        for (binding, (name, of)) in &self.memory {
            text += &format!("@group(0) @binding({binding}) var<storage, read_write> {name}: array<{of}>;\n");
        }
        if !self.params.is_empty() {
            text += &format!("@group(0) @binding({}) var<uniform> params: {};\n", Shader::PARAMS, self.params);
        }
        if let Some(n) = self.vectors {
            text += &format!("const VECTORS: u32 = {n}u;\n");
        }
        for (name, (of, n)) in &self.shared {
            text += &format!("var<workgroup> {name}: array<{of}, {n}>;\n");
        }
        self.functions.values().for_each(|f| text += f);
        let [x, y, z] = workgroup;
        text += &format!("@compute @workgroup_size({x}, {y}, {z})\n");
        text += "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, ";
        text += "@builtin(local_invocation_index) local: u32";
        if self.knows_subs {
            text += ", @builtin(subgroup_id) sub: u32";
        }
        if self.knows_lanes {
            text += ", @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) lanes: u32";
        }
        text + &format!(") {{\n{}}}\n", self.body)
    }
}

/// The extension with matrix units.
pub const COOPERATIVE: &str = "wgpu_cooperative_matrix";

/// The longest parameter block of a launch of several segments, in vectors of four words: 16 KiB, which every device has.
pub const MAX_SEGMENT_VECTORS: u32 = 1024;

/// Bytes of scratch that a contraction wants: none yet.
pub fn contract_scratch_bytes(_: &crate::kernel::Contract, _: usize) -> usize {
    0
}
