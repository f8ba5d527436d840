//! CUDA C. Takes what kernel writers say, gives device functions and kernels around them: how arguments, parameters and memory are declared is
//! here. Never includes a header, since the compiler's package has none.
//!
//! A shader's source is a device function and a kernel that calls it:
//!
//! ```text
//! static __device__ __forceinline__ void BODY(uint3 group, uint3 groups, u32 local, unsigned char* shared,
//!                                             T0* a0, T3* a3, const uint4* params, u32* scratch_words) { … }
//! extern "C" __global__ void __launch_bounds__(256) KERNEL(T0* a0, T3* a3, const __grid_constant__ Params<2> params,
//!                                                          u32* scratch_words) { BEGIN_KERNEL(); … }
//! ```
//!
//! `BODY` and `KERNEL` are macros that whoever compiles defines before each text, so that many kernels go into one unit after one [`PRELUDE`] and a
//! larger kernel can call several bodies with a barrier between. Parameters of the kernel are the shader's arguments in order, then the parameter
//! words if there are any (a value where [`params_by_value`] says so, else a pointer), then the scratch if there is one; all are aligned to 16 bytes and [`Word::Offset`](super::Word::Offset) counts
//! elements. Blocks have one axis with all threads of the workgroup. [`Shader::shared_bytes`](super::Shader::shared_bytes) is given at the launch.

pub mod access;
pub mod mma;
pub mod scalar;

use super::Shader;
use super::source::{Elem, Source, register};
use crate::ir::DType;
use crate::kernel::Contract;

/// Parameters that a kernel takes as a value, in vectors of four words: where there are more it takes a pointer to them.
const VALUE_VECTORS: usize = 128;

/// Whether the kernel of a launch of `n_segments` takes its parameters by value, as so many vectors: a pointer costs a miss at the start of every
/// small kernel.
pub fn params_by_value(shader: &Shader, n_segments: usize) -> bool {
    shader.params.len().div_ceil(4) * n_segments <= VALUE_VECTORS
}

/// Bytes of scratch that a contraction wants in its plan: none, as partial sums go to [`Shader::scratch`].
pub fn contract_scratch_bytes(_: &Contract, _: usize) -> usize {
    0
}

/// What every unit begins with.
pub const PRELUDE: &str = include_str!("cuda/prelude.cuh");

/// The type in which elements of `dtype` lie in memory: floats of 16 bits as their bits, truth values as bytes.
fn storage(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 | DType::Bool => "u8",
        DType::F16 | DType::BF16 => "u16",
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 => register(dtype),
    }
}

/// Bytes of an element of a type in shared memory.
fn bytes(kind: &str) -> u32 {
    match kind {
        "u8" => 1,
        "u16" => 2,
        "f32" | "u32" | "i32" => 4,
        "f64" | "u64" | "i64" => 8,
        "vec4<f32>" => 16,
        other => panic!("bug: {other} in shared memory"),
    }
}

/// The whole text around `body`, and the bytes of shared memory that it takes: see [`Source::finish`].
pub(super) fn text(s: &Source, workgroup: [u32; 3], body: &str) -> (String, u32) {
    let mut params: Vec<(String, String)> = Vec::new();
    for (&arg, elem) in &s.bound {
        let of = storage(s.dtype(arg));
        let of = match elem {
            Elem::Scalar => of.to_string(),
            Elem::Vec4 => format!("vec4<{of}>"),
            Elem::Halves => panic!("bug: vectors of f16 are for WGSL's matrix units"),
        };
        params.push((format!("{of}*"), format!("a{arg}")));
    }
    let mut of_kernel = params.clone();
    let mut given: Vec<String> = params.iter().map(|(_, name)| name.clone()).collect();
    if !s.words.is_empty() {
        let pointer = ("const uint4* __restrict__".to_string(), "params".to_string());
        let vectors = s.words.len().div_ceil(4) * s.n_segments;
        let by_value = vectors <= VALUE_VECTORS;
        of_kernel.push(match by_value {
            true => (format!("const __grid_constant__ Params<{vectors}>"), "params".to_string()),
            false => pointer.clone(),
        });
        given.push(if by_value { "params.w" } else { "params" }.to_string());
        params.push(pointer);
    }
    let mut head = String::new();
    if let Some((of, _)) = &s.scratch {
        let words = ("u32*".to_string(), "scratch_words".to_string());
        given.push(words.1.clone());
        of_kernel.push(words.clone());
        params.push(words);
        head += &format!("{of}* const scratch = ({of}*)scratch_words;\n");
    }
    if s.segmented() {
        head += &format!("constexpr u32 VECTORS = {}u;\n", s.words.len().div_ceil(4));
    }
    let mut shared_bytes = 0;
    for (name, of, n) in &s.shared {
        head += &format!("{of}* const {name} = ({of}*)(shared + {shared_bytes});\n");
        shared_bytes += (bytes(of) * n).next_multiple_of(16);
    }
    let declared: String = params.iter().map(|(of, name)| format!(", {of} {name}")).collect();
    let of_kernel: Vec<String> = of_kernel.iter().map(|(of, name)| format!("{of} {name}")).collect();
    let given: String = given.iter().map(|name| format!(", {name}")).collect();
    let threads = workgroup.iter().product::<u32>();
    let text = format!(
        "static __device__ __forceinline__ void BODY(uint3 group, uint3 groups, u32 local, u8* shared{declared}) {{\n{head}{body}}}\n\
         extern \"C\" __global__ void __launch_bounds__({threads}) KERNEL({}) {{\n\
         BEGIN_KERNEL();\nextern __shared__ uint4 shared[];\nBODY(blockIdx, gridDim, threadIdx.x, (u8*)shared{given});\n}}\n",
        of_kernel.join(", ")
    );
    (text, shared_bytes)
}
