//! The machine's code: steps over lanes. Takes nothing; names what binding writes and running reads. Never holds a batch's data.

use super::access::{Access, Bound};
use super::blocks::BlockFn;
use super::fused::Chains;
use super::fused::chain::Lane;
use super::joins::JoinFn;
use super::random::BlocksFn;
use wholestep_compiler::ir::DType;

/// Where lanes are: `bases[base] + off + at·scale` bytes, `at` being the block's first position. Base 0 is the worker's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    pub base: u32,
    pub off: u32,
    pub scale: u32,
}

/// Bases of a frame: the registers and the accesses that are read or written in place.
pub const MAX_BASES: usize = 48;

/// One step over the lanes of a block. `access` and `arg` are indices from the start of their tables.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Block {
        f: BlockFn,
        /// What `f` does.
        lane: Lane,
        dst: Place,
        x: [Place; 3],
    },
    /// Lanes from memory; those that do not exist become `bits`.
    Fill {
        access: u32,
        arg: u32,
        size: u8,
        dst: Place,
        bits: u64,
    },
    /// Lanes to memory.
    Spill {
        access: u32,
        arg: u32,
        size: u8,
        src: Place,
    },
    /// A row's value to all its positions.
    Splat {
        size: u8,
        src: Place,
        dst: Place,
    },
    Bits {
        size: u8,
        dst: Place,
        bits: u64,
    },
    /// The map's numbers.
    Numbers {
        access: u32,
        dtype: DType,
        dst: Place,
    },
    Random {
        f: BlocksFn,
        access: u32,
        stream: u32,
        key: u32,
        step: u32,
        dst: Place,
    },
    Gather {
        access: u32,
        arg: u32,
        size: u8,
        index: Place,
        index_dtype: DType,
        stride: i64,
        len: i64,
        dst: Place,
    },
    Join {
        f: JoinFn,
        acc: Place,
        places: Place,
        x: Place,
    },
    /// Several blocks at once: `n_args` places from `args` on in `Code::fused_args`, the first `n_lanes` of them lanes, the others values
    /// that all lanes share.
    Fused {
        kernel: u32,
        args: u32,
        n_args: u8,
        n_lanes: u8,
    },
}

/// A range of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub from: u32,
    pub to: u32,
}

/// One pass over the rows of a tile: `[exact, ragged]` are the same for blocks whose lane count is a multiple of `LANES` (memory is read
/// and written in place) and for others (through registers).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// Sets accumulators.
    pub begin: Span,
    /// Once a tile.
    pub prologue: [Span; 2],
    /// Once a block.
    pub body: [Span; 2],
    /// Row values that can be computed after it, and their stores.
    pub rows: Span,
    /// The exact body runs on any number of lanes: it is nothing but fused steps on memory.
    pub any_length: bool,
}

/// An accumulator that a split row sums up in parts.
#[derive(Clone, Copy, Debug)]
pub struct Partial {
    pub acc: Place,
    pub size: u8,
    /// Joins `parts` accumulators of one row, laid out `[parts, rows]`.
    pub join: JoinFn,
}

/// An argument's memory: a fixed address, or an input's of this run.
#[derive(Clone, Copy, Debug)]
pub struct ArgAt {
    /// `NO_INPUT` where the address is fixed.
    pub input: u32,
    pub ptr: *mut u8,
    pub bytes: usize,
}

pub const NO_INPUT: u32 = u32::MAX;

/// An access that is reached through a base.
#[derive(Clone, Copy, Debug)]
pub struct BaseOf {
    pub access: u32,
    pub arg: u32,
    pub size: u32,
}

/// One segment of a loop, ready to run.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub rows: usize,
    pub len: usize,
    pub across: bool,
    /// Units are blocks of the one row; otherwise tiles of rows, times the parts of a row.
    pub by_blocks: bool,
    /// There is one pass, and what is computed once a row is the same for all rows.
    pub rows_alike: bool,
    /// Rows of a tile, positions of a block.
    pub tile_rows: usize,
    pub tile_len: usize,
    /// Parts that each row is cut into, and their length.
    pub splits: usize,
    pub split_len: usize,
    pub row_lanes: Span,
    pub passes: (u32, u32),
    pub bases: (u32, u32),
    pub partials: (u32, u32),
    /// Where the segment's partial sums lie in the shared scratch, in 8-byte words.
    pub partial_at: usize,
    pub units: usize,
}

/// The code that binding writes, for all loops of a plan. Emptied and filled again for a new batch size; the memory stays.
#[derive(Default)]
pub struct Code {
    pub steps: Vec<Step>,
    pub passes: Vec<Pass>,
    pub accesses: Vec<Access>,
    pub bounds: Vec<Bound>,
    pub bases: Vec<BaseOf>,
    pub args: Vec<ArgAt>,
    pub partials: Vec<Partial>,
    pub segments: Vec<Segment>,
    /// What the arguments of fused steps are.
    pub fused_args: Vec<Place>,
    /// Written once; not emptied with the lists.
    pub chains: Chains,
}

impl Code {
    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.passes.clear();
        self.accesses.clear();
        self.bounds.clear();
        self.bases.clear();
        self.args.clear();
        self.partials.clear();
        self.segments.clear();
        self.fused_args.clear();
    }
}

// SAFETY: addresses in the code are followed only while the executable that owns their memory runs it, each worker on its own units.
unsafe impl Sync for Code {}
