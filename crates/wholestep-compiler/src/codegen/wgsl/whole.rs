//! Small work, one kernel after the other in one workgroup. Takes kernels and where the arguments of each are, gives one shader: where a
//! dispatch costs more than what it computes, a barrier is cheaper. Never for work that would keep more than one workgroup busy for long.
//!
//! All kernels see memory through the same bindings, one for each piece of memory, as words: two bindings of one piece would let a driver take
//! what one writes and the other reads for different memory.

use super::narrow;
use crate::caps::Workgroups;
use crate::codegen::{Count, Grid, Shader, Source, Word, small};
use crate::ir::DType;
use crate::kernel::Kernel;
use std::collections::BTreeMap;
use std::ops::Range;

/// A kernel with the axes of one segment.
pub struct Part {
    pub kernel: Kernel,
    /// By argument: the piece of memory that it is in, which is the binding.
    pub pieces: Vec<u32>,
    /// Whether it uses what a part since the last barrier made or used.
    pub waits: bool,
}

/// The parameters of the shader that belong to each part: numbers of its words.
pub type PartWords = Vec<Range<usize>>;

/// More multiply-adds than this in one kernel are better off with a dispatch of their own, which costs about as much on an H100 through Vulkan
/// (2.2 us, and as much again until its first results are there).
pub const MOST_WORK: u64 = 16_384;

/// The multiply-adds of a kernel, if it is small enough at this batch size and of a kind that goes here.
pub fn work(kernel: &Kernel, batch: usize) -> Option<u64> {
    let is_word = |dtype: DType| !matches!(dtype, DType::F64 | DType::F16 | DType::BF16);
    let in_words = kernel.args().iter().all(|a| is_word(a.dtype));
    small::work(kernel, batch).filter(|&work| in_words && work <= MOST_WORK)
}

/// The first words of a shader that repeats: how many steps it takes, and the words from the inputs of one to those of the next.
pub const STEPS: usize = 0;
pub const INPUT_WORDS: usize = 1;
/// The piece that inputs are in.
pub const INPUTS: u32 = 0;

/// The shader, and which of its words are whose. One that `repeats` does all of it for several steps: what a step reads of the text and of
/// parameters is then near at hand for the next.
pub fn shader(parts: &[Part], repeats: bool, workgroups: &Workgroups) -> (Shader, PartWords) {
    let threads = small::threads(workgroups);
    let mut words = if repeats { vec![Word::Bits(0); 4] } else { Vec::new() };
    let mut ranges = Vec::new();
    let mut body = String::new();
    let mut functions = BTreeMap::new();
    let mut bound = Vec::new();
    let mut shared = BTreeMap::new();
    for part in parts {
        words.resize(words.len().next_multiple_of(4), Word::Bits(0));
        let kernel = narrow(&part.kernel);
        let s = Source::new(workgroups, kernel.args()).in_pieces(part.pieces.clone(), words.len());
        let (text, of_part) = small::body(s, &kernel, threads);
        if part.waits {
            body += "storageBarrier();\n";
        }
        body += &format!("{{\n{of_part}}}\n");
        ranges.push(words.len()..words.len() + text.words.len());
        words.extend(text.words);
        functions.extend(text.functions);
        bound.extend(part.pieces.iter().copied());
        for name in text.shared {
            shared.insert(name.0, (name.1, name.2));
        }
    }
    bound.sort_unstable();
    bound.dedup();
    let mut text = String::new();
    for piece in &bound {
        text += &format!("@group(0) @binding({piece}) var<storage, read_write> p{piece}: array<u32>;\n");
    }
    if !words.is_empty() {
        let n = words.len().div_ceil(4);
        text += &format!("@group(0) @binding({}) var<uniform> params: array<vec4<u32>, {n}>;\n", Shader::PARAMS);
    }
    if repeats {
        body = format!(
            "var inputs_at = 0u;\nfor (var step = 0u; step < params[0u].x; step++) {{\n{body}inputs_at += params[0u].y;\nstorageBarrier();\n}}\n"
        );
    } else if bound.contains(&INPUTS) {
        body = format!("let inputs_at = 0u;\n{body}");
    }
    for (name, (of, n)) in &shared {
        text += &format!("var<workgroup> {name}: array<{of}, {n}>;\n");
    }
    functions.values().for_each(|f| text += f);
    text += &format!("@compute @workgroup_size({threads}, 1, 1)\n");
    text += &format!("fn main(@builtin(local_invocation_index) local: u32) {{\n{body}}}\n");
    let shader = Shader {
        source: text,
        args: bound,
        workgroup: [threads, 1, 1],
        params: words,
        grid: Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }),
        shared_bytes: 0,
        scratch: None,
    };
    (shader, ranges)
}
