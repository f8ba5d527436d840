//! Text of kernels in a device's language. Takes a kernel and what the device can do, gives sources with all that a backend needs to launch
//! them: plain data, the same on every machine. Never compiles and never sees memory.

pub mod index;
pub mod loops;
pub mod wgsl;

use crate::ir::Dim;

/// One dispatch of a kernel: a compute shader and how it is launched. A kernel is one or more of them, run in order over the same arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Shader {
    /// The text. Argument i is binding i of group 0, the parameters are binding [`Shader::PARAMS`], the scratch is [`Shader::SCRATCH`]; all
    /// but the parameters are storage that is read and written.
    pub source: String,
    /// Arguments that the text binds.
    pub args: Vec<u32>,
    /// Threads of one workgroup; baked into the text.
    pub workgroup: [u32; 3],
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
    /// The extent of axis i of this segment.
    Axis(u32),
    /// ⌈product of axes `from..to` of this segment / per⌉.
    AxesTiles { from: u32, to: u32, per: u32 },
    /// Where argument i of this segment begins in the buffer that is bound for it, in elements.
    Offset(u32),
    /// The first workgroup of this segment.
    FirstGroup,
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
    /// The word for a batch size and a segment's axes. Words that depend on memory or on other segments are 0 here.
    pub fn at(self, batch: usize, axes: &[Dim]) -> u32 {
        match self {
            Word::Dim(d) => d.at_signed(batch) as u32,
            Word::Bits(n) => n,
            Word::Tiles(d, n) => (d.at(batch) as u64).div_ceil(u64::from(n)) as u32,
            Word::Axis(i) => axes[i as usize].at(batch) as u32,
            Word::AxesTiles { from, to, per } => {
                let points = axes[from as usize..to as usize].iter().map(|d| d.at(batch) as u64).product::<u64>();
                points.div_ceil(per.into()) as u32
            }
            Word::Offset(_) | Word::FirstGroup => 0,
        }
    }
}

impl Count {
    pub fn of(dims: impl IntoIterator<Item = Dim>, per: u32) -> Count {
        Count { of: dims.into_iter().map(Word::Dim).collect(), per }
    }

    /// The number for a batch size and a segment's axes.
    pub fn at(&self, batch: usize, axes: &[Dim]) -> u64 {
        let n: u64 = self.of.iter().map(|word| u64::from(word.at(batch, axes))).product();
        n.div_ceil(u64::from(self.per))
    }
}
