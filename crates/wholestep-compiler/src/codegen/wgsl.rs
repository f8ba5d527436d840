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

/// The whole text around `body`: see [`Source::finish`].
pub(super) fn text(s: &Source, workgroup: [u32; 3], body: &str) -> String {
    let n_vectors = s.words.len().div_ceil(4);
    let mut text = String::new();
    for name in s.enables.keys() {
        text += &format!("enable {name};\n");
    }
    for (&arg, elem) in &s.bound {
        let of = storage(s.dtype(arg)).expect("bug: the dtype was checked");
        let of = match elem {
            Elem::Scalar if access::is_atomic(s, arg) => format!("atomic<{of}>"),
            Elem::Scalar => of.to_string(),
            Elem::Vec4 if is_half(s.dtype(arg)) => format!("vec2<{of}>"),
            Elem::Vec4 => format!("vec4<{of}>"),
            Elem::Halves => "vec4<f16>".to_string(),
        };
        text += &format!("@group(0) @binding({arg}) var<storage, read_write> a{arg}: array<{of}>;\n");
    }
    if n_vectors > 0 {
        let n = n_vectors * s.n_segments;
        text += &format!("@group(0) @binding({}) var<uniform> params: array<vec4<u32>, {n}>;\n", Shader::PARAMS);
    }
    if let Some((of, _)) = &s.scratch {
        text += &format!("@group(0) @binding({}) var<storage, read_write> scratch: array<{of}>;\n", Shader::SCRATCH);
    }
    if s.segmented() {
        text += &format!("const VECTORS: u32 = {n_vectors}u;\n");
    }
    for (name, of, n) in &s.shared {
        text += &format!("var<workgroup> {name}: array<{of}, {n}>;\n");
    }
    s.functions.values().for_each(|f| text += f);
    let [x, y, z] = workgroup;
    text += &format!("@compute @workgroup_size({x}, {y}, {z})\n");
    text += "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, ";
    text += "@builtin(local_invocation_index) local: u32";
    if s.enables.contains_key(COOPERATIVE) {
        text += ", @builtin(subgroup_id) sub: u32";
    }
    if s.workgroups.subgroup.is_some() && (body.contains("lane") || body.contains("lanes")) {
        text += ", @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) lanes: u32";
    }
    text += &format!(") {{\n{body}}}\n");
    text
}

/// The extension with matrix units.
pub const COOPERATIVE: &str = "wgpu_cooperative_matrix";

/// The longest parameter block of a launch of several segments, in vectors of four words: 16 KiB, which every device has.
pub const MAX_SEGMENT_VECTORS: u32 = 1024;

/// Bytes of scratch that a contraction wants: none yet.
pub fn contract_scratch_bytes(_: &crate::kernel::Contract, _: usize) -> usize {
    0
}
