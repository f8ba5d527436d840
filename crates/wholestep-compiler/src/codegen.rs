//! Text of kernels in a device's language. Takes a kernel and what the device can do, gives sources with all that a backend needs to launch
//! them: plain data, the same on every machine. Never compiles and never sees memory.

pub mod spread;
pub mod together;
pub mod index;
pub mod source;
pub mod scalar;
pub mod point;
pub mod quad;
pub mod block;
pub mod loops;
pub mod tile;
pub mod staged;
pub mod conv;
pub mod contract;
pub mod direct;
pub mod choice;
pub mod window;
pub mod scatter;
pub mod sort;
pub mod scan;
pub mod small;
pub mod dot;
pub mod wgsl;
pub mod cuda;

pub use source::Source;
pub use together::together;

use self::choice::Choice;
use crate::caps::{Caps, Language};
use crate::ir::Dim;
use crate::kernel::{Arg, Kernel};

/// The shaders of a kernel, in order. `n_segments` is that of its launch: more than one only for loops.
/// Errors: what the kernel needs and the device or this version lacks.
pub fn shaders(kernel: &Kernel, n_segments: usize, caps: &Caps) -> Result<Vec<Shader>, String> {
    chosen_shaders(kernel, n_segments, caps, None)
}

/// The same with a choice for a contraction that has one.
/// Errors: as [`shaders`].
pub fn chosen_shaders(
    kernel: &Kernel,
    n_segments: usize,
    caps: &Caps,
    choice: Option<Choice>,
) -> Result<Vec<Shader>, String> {
    let Some(workgroups) = &caps.workgroups else { return Err(format!("{} runs no kernel text", caps.name)) };
    let narrow = (workgroups.language == Language::Wgsl).then(|| wgsl::narrow(kernel));
    let kernel = narrow.as_ref().unwrap_or(kernel);
    let lacks = |a: &&Arg| workgroups.language == Language::Wgsl && wgsl::storage(a.dtype).is_none();
    if let Some(arg) = kernel.args().iter().find(lacks) {
        return Err(format!("{} in a {} kernel on {}", arg.dtype, kernel.kind(), caps.name));
    }
    if kernel.args().len() > caps.max_args {
        let (n, most) = (kernel.args().len(), caps.max_args);
        return Err(format!("a {} kernel of {n} arguments on {}, which takes {most}", kernel.kind(), caps.name));
    }
    match kernel {
        Kernel::Loop(k) => Ok(loops::shaders(k, n_segments, workgroups)),
        Kernel::Contract(k) => contract::shaders(k, workgroups, choice),
        Kernel::Window(k) => Ok(vec![window::shader(k, workgroups)]),
        Kernel::Scatter(k) => Ok(scatter::shaders(k, workgroups)),
        Kernel::Sort(k) => Ok(vec![sort::shader(k, workgroups)]),
        Kernel::Scan(k) => Ok(vec![scan::shader(k, workgroups)]),
    }
}

/// One dispatch of a kernel: a compute shader and how it is launched. A kernel is one or more of them, run in order over the same arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Shader {
    /// The text. In WGSL argument i is binding i of group 0, the parameters are binding [`Shader::PARAMS`], the scratch is [`Shader::SCRATCH`]; all
    /// but the parameters are storage that is read and written. For CUDA C see [`cuda`].
    pub source: String,
    /// The same in parts, if it is WGSL that may stand beside others.
    pub parts: Option<wgsl::Parts>,
    /// Arguments that the text binds.
    pub args: Vec<u32>,
    /// Threads of one workgroup; baked into the text.
    pub workgroup: [u32; 3],
    /// Memory of a workgroup that the launch gives; 0 where the text declares it.
    pub shared_bytes: u32,
    /// Whether a thread holds so many sums that it wants most registers, so that nobody should bound them.
    pub wants_registers: bool,
    /// The words of the uniform block, four to a vector, for each segment of the launch one after the other (each padded to a whole vector).
    pub params: Vec<Word>,
    pub grid: Grid,
    /// 4-byte words of memory that the dispatches of one kernel share and nothing else keeps.
    pub scratch: Option<Count>,
}

impl Shader {
    pub const PARAMS: u32 = 62;
    pub const SCRATCH: u32 = 63;
}

/// A number that is known when the batch size and the segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Word {
    /// In two's complement where it is negative.
    Dim(Dim),
    /// These bits, so that the text can hold a NaN or an infinity.
    Bits(u32),
    /// ⌈dim / n⌉.
    Tiles(Dim, u32),
    /// Into how many parts a row of so many elements is cut: `most` at most, each of them whole chunks of `chunk`.
    Splits { row: Dim, chunk: u32, most: u32 },
    /// The same for a row over axes `from..to` of this segment.
    AxesSplits { from: u32, to: u32, chunk: u32, most: u32 },
    /// Number i of this segment: the extents of its axes, and behind them the strides and offsets that are its own (see [`together`]).
    Number(u32),
    /// ⌈product of axes `from..to` of this segment / per⌉.
    AxesTiles { from: u32, to: u32, per: u32 },
    /// A part of ⌈of / per⌉, the number by which places are taken apart along an axis.
    Divisor { axis: u32, of: Dim, per: u32, part: DivisorPart },
    /// Where argument i of this segment begins in the buffer that is bound for it, in elements.
    Offset(u32),
    /// The first workgroup of this segment.
    FirstGroup,
    /// Where this segment's part of the scratch begins, in words.
    FirstScratch,
}

/// What a division by a number that a text does not know is made of: with x·inverse = high·2³² + low, x / n is `(high + ((x - high) >> a)) >> b`, where a is 1
/// and b is `shift` - 1, or both are 0 if `shift` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DivisorPart {
    Itself,
    Inverse,
    Shift,
}

impl DivisorPart {
    fn of(self, n: u32) -> u32 {
        // The power of two from n on.
        let n = u64::from(n.max(1));
        let shift = n.next_power_of_two().ilog2();
        match self {
            DivisorPart::Itself => n as u32,
            DivisorPart::Inverse => ((((1 << shift) - n) << 32) / n + 1) as u32,
            DivisorPart::Shift => shift,
        }
    }
}

/// `⌈Π of / per⌉`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Count {
    pub of: Vec<Word>,
    pub per: u32,
}

/// How many workgroups run.
#[derive(Clone, Debug, PartialEq)]
pub enum Grid {
    /// So many, numbered `group.y · groups.x + group.x`: where a device allows fewer along one axis they are folded, and the text leaves
    /// out what is over. With several segments, the sum over all.
    Line(Count),
    /// Along x, y and z; each at most what the device allows along one axis.
    Box([Count; 3]),
}

impl Word {
    /// The word for a batch size and a segment's numbers. Words that depend on memory or on other segments are 0 here.
    pub fn at(self, batch: usize, numbers: &[Dim]) -> u32 {
        let points = |from: u32, to: u32| {
            numbers[from as usize..to as usize].iter().map(|d| d.at(batch) as u64).product::<u64>()
        };
        let splits = |row: u64, chunk: u32, most: u32| {
            let chunks = row.div_ceil(chunk.into());
            chunks.div_ceil(chunks.div_ceil(most.into()).max(1)) as u32
        };
        match self {
            Word::Dim(d) => d.at_signed(batch) as u32,
            Word::Bits(n) => n,
            Word::Tiles(d, n) => (d.at(batch) as u64).div_ceil(u64::from(n)) as u32,
            Word::Splits { row, chunk, most } => splits(row.at(batch) as u64, chunk, most),
            Word::AxesSplits { from, to, chunk, most } => splits(points(from, to), chunk, most),
            Word::Number(i) => numbers[i as usize].at_signed(batch) as u32,
            Word::AxesTiles { from, to, per } => points(from, to).div_ceil(per.into()) as u32,
            Word::Divisor { of, per, part, .. } => part.of(Word::Tiles(of, per).at(batch, numbers)),
            Word::Offset(_) | Word::FirstGroup | Word::FirstScratch => 0,
        }
    }
}

impl Count {
    pub fn of(dims: impl IntoIterator<Item = Dim>, per: u32) -> Count {
        Count { of: dims.into_iter().map(Word::Dim).collect(), per }
    }

    /// The number for a batch size and a segment's numbers.
    pub fn at(&self, batch: usize, numbers: &[Dim]) -> u64 {
        let n: u64 = self.of.iter().map(|word| u64::from(word.at(batch, numbers))).product();
        n.div_ceil(u64::from(self.per))
    }
}

#[cfg(test)]
mod tests {
    use super::{DivisorPart, Word};
    use crate::ir::Dim;

    /// As the prelude of CUDA C divides.
    fn quotient(x: u32, n: u32) -> u32 {
        let word = |part| Word::Divisor { axis: 0, of: Dim::fixed(n as usize), per: 1, part }.at(1, &[]);
        let [itself, inverse, shift] = [DivisorPart::Itself, DivisorPart::Inverse, DivisorPart::Shift].map(word);
        assert_eq!(itself, n);
        let high = ((u64::from(x) * u64::from(inverse)) >> 32) as u32;
        let once = shift.min(1);
        (high + ((x - high) >> once)) >> (shift - once)
    }

    #[test]
    fn a_division_by_a_parameter_is_exact() {
        let edges = (0..32).flat_map(|b| [(1u32 << b) - 1, 1 << b, (1 << b) + 1]);
        let all: Vec<u32> = edges.chain([3, 7, 56, 224, 641, 50_304, 1_000_003, u32::MAX - 1, u32::MAX]).collect();
        for &n in all.iter().filter(|n| **n > 0) {
            for x in all.iter().flat_map(|&x| [x, x.wrapping_mul(n), x.wrapping_mul(n).wrapping_sub(1)]) {
                assert_eq!(quotient(x, n), x / n, "{x} / {n}");
            }
        }
        let tiles = Word::Divisor { axis: 1, of: Dim::fixed(65), per: 64, part: DivisorPart::Itself };
        assert_eq!(tiles.at(1, &[]), 2);
    }
}
