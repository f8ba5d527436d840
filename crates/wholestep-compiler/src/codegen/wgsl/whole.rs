//! Small work, one kernel after the other in one workgroup. Takes kernels and where the arguments of each are, gives one shader: where a
//! dispatch costs more than what it computes, a barrier is cheaper. Never for work that would keep more than one workgroup busy for long.
//!
//! All kernels see memory through the same bindings, one for each piece of memory, as words: two bindings of one piece would let a driver take
//! what one writes and the other reads for different memory.

use super::{Parts, narrow, params_type};
use crate::caps::Workgroups;
use crate::codegen::small::{self, By};
use crate::codegen::{Count, Grid, Shader, Source, Word};
use crate::ir::DType;
use crate::kernel::Kernel;
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

/// Threads of one part's own begin and end at multiples of this: a subgroup, on the devices where it matters.
const OWN: u64 = 32;
/// A thread of its own adds up so many elements at most; more are shared by several.
const MOST_DEPTH: u64 = 32;

/// The threads that are each part's own, if it has some: parts of a round that need few wait for memory at the same time then, not one after
/// the other. `batch` is the largest batch size.
fn own_threads(parts: &[Part], threads: u32, batch: usize) -> Vec<Option<Range<u32>>> {
    let mut own = vec![None; parts.len()];
    let mut from = 0;
    while from < parts.len() {
        let next = parts[from + 1..].iter().position(|p| p.waits).map_or(parts.len(), |n| from + 1 + n);
        let (mut end, mut found) = (0, Vec::new());
        for (i, part) in parts[from..next].iter().enumerate() {
            let wanted = small::results(&part.kernel, batch).filter(|(_, depth)| *depth <= MOST_DEPTH);
            let Some(n) = wanted.map(|(n, _)| n.next_multiple_of(OWN)) else { continue };
            if n > 0 && u64::from(end) + n <= u64::from(threads) {
                found.push((from + i, end..end + n as u32));
                end += n as u32;
            }
        }
        // Alone in its round, a part is better off with all threads.
        if next - from > 1 {
            found.into_iter().for_each(|(i, range)| own[i] = Some(range));
        }
        from = next;
    }
    own
}

/// The shader, and which of its words are whose, for batches up to `batch`. One that `repeats` does all of it for several steps: what a step
/// reads of the text and of parameters is then near at hand for the next.
pub fn shader(parts: &[Part], repeats: bool, workgroups: &Workgroups, batch: usize) -> (Shader, PartWords) {
    let threads = small::threads(workgroups);
    let mut words = if repeats { vec![Word::Bits(0); 4] } else { Vec::new() };
    let mut ranges = Vec::new();
    let mut made = Parts::default();
    let mut body = String::new();
    for (part, own) in parts.iter().zip(own_threads(parts, threads, batch)) {
        words.resize(words.len().next_multiple_of(4), Word::Bits(0));
        let kernel = narrow(&part.kernel);
        let s = Source::new(workgroups, kernel.args()).in_pieces(part.pieces.clone(), words.len());
        let by = own.clone().map_or(By::All(threads), |own| By::Each(own.end - own.start));
        let (text, of_part) = small::body(s, &kernel, by);
        if part.waits {
            body += "storageBarrier();\n";
        }
        let (when, place) = match own {
            Some(Range { start, end }) => (
                format!("if (local >= {start}u && local < {end}u) "),
                format!("let all = local;\nlet local = all - {start}u;\n"),
            ),
            None => Default::default(),
        };
        body += &format!("{when}{{\n{place}{of_part}}}\n");
        ranges.push(words.len()..words.len() + text.words.len());
        words.extend(text.words);
        made.functions.extend(text.functions);
        made.memory.extend(part.pieces.iter().map(|&piece| (piece, (format!("p{piece}"), "u32".to_string()))));
        made.shared.extend(text.shared.into_iter().map(|(name, of, n)| (name, (of, n))));
    }
    made.params = params_type(words.len().div_ceil(4));
    made.body = if repeats {
        format!(
            "var inputs_at = 0u;\nfor (var step = 0u; step < params[0u].x; step++) {{\n{body}inputs_at += params[0u].y;\nstorageBarrier();\n}}\n"
        )
    } else {
        format!("let inputs_at = 0u;\n{body}")
    };
    let workgroup = [threads, 1, 1];
    let shader = Shader {
        source: made.text(workgroup),
        parts: None,
        args: made.memory.into_keys().collect(),
        workgroup,
        params: words,
        grid: Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }),
        shared_bytes: 0,
        wants_registers: false,
        scratch: None,
    };
    (shader, ranges)
}

#[cfg(test)]
mod tests {
    use super::{Part, own_threads, shader};
    use crate::caps::{Language, Workgroups};
    use crate::ir::{Batch, DType, Dim};
    use crate::kernel::{Access, Arg, Contract, Contraction, Kernel, Map};

    /// A product of `m` by `n` results, each a sum of `k`.
    fn part(m: Dim, n: usize, k: usize, waits: bool) -> Part {
        let map = |row: usize| Map { strides: vec![Dim::fixed(row), Dim::ONE], offset: Dim::ZERO, guards: vec![] };
        let arg = |access| Arg { dtype: DType::F32, access };
        let kernel = Kernel::Contract(Contract {
            contraction: Contraction::Matmul {
                batch: vec![],
                m,
                n: Dim::fixed(n),
                k: Dim::fixed(k),
                lhs: map(k),
                rhs: map(n),
            },
            dtype: DType::F32,
            args: vec![arg(Access::Read), arg(Access::Read), arg(Access::Write)],
            epilogue: None,
            triangle: None,
        });
        Part { kernel, pieces: vec![1, 2, 3], waits }
    }

    #[test]
    fn parts_of_a_round_that_need_few_threads_have_their_own() {
        let parts = [
            part(Dim::fixed(16), 10, 8, false),
            part(Dim::fixed(1), 2, 1000, false), // Too deep for one thread.
            part(Batch, 2, 8, false),
            part(Dim::fixed(16), 4, 8, false), // No room any more.
            part(Dim::fixed(1), 2, 4, false),
            part(Dim::fixed(1), 2, 8, true), // Alone in its round.
        ];
        let at = |batch| own_threads(&parts, 256, batch);
        assert_eq!(at(8), [Some(0..160), None, Some(160..192), Some(192..256), None, None]);
        assert_eq!(at(17), [Some(0..160), None, Some(160..224), None, Some(224..256), None]);
        let workgroups = Workgroups {
            language: Language::Wgsl,
            threads: 256,
            shared_bytes: 16384,
            per_axis: 65535,
            subgroup: None,
            f16: false,
            long: false,
            tiles: vec![],
        };
        let text = shader(&parts, false, &workgroups, 17).0.source;
        // Where only some threads come, none waits for all.
        let ends = ["\n{\n", "\nstorageBarrier"];
        let own =
            |t: &str| ends.iter().filter_map(|end| t.find(end)).min().map_or(t.to_string(), |end| t[..end].to_string());
        let parts: Vec<String> = text.split("if (local >= ").skip(1).map(own).collect();
        assert_eq!(parts.len(), 3, "{text}");
        assert!(parts.iter().all(|t| !t.contains("arrier")), "{text}");
        assert!(text.contains("workgroupBarrier();") && text.matches("storageBarrier();").count() == 1, "{text}");
    }
}
