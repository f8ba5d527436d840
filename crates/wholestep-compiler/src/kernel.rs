//! Kernels: the waist between compiler and backends. Takes a whole-step graph, gives a few kinds of work, each said without a device and
//! without byte offsets. Never names a node's op to a backend: what a backend sees is in this file.

pub mod fuse;
pub mod lower;
pub mod pin;
mod print;
pub mod recompute;
pub mod triangle;
pub mod view;

pub use triangle::{Half, Triangle};

use crate::ir::op::{Binary, ConvGeometry, Unary, WindowGeometry};
use crate::ir::{DType, Dim};

/// One piece of device work. Its buffers are the `args` of the launch that runs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    Loop(Loop),
    Contract(Contract),
    Window(WindowKernel),
    Scatter(Scatter),
    Sort(Sort),
    Scan(Scan),
}

/// How a kernel uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    /// Every element that later kernels read is written.
    Write,
    /// Read and written, each element only by the index that reads it, so that updating in place is safe.
    ReadWrite,
    /// Memory to work in: nobody reads what was there before, or is there afterwards.
    Scratch,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arg {
    pub dtype: DType,
    pub access: Access,
}

/// An index space, a straight-line program run at each of its points, and stores.
///
/// `axes[..n_outer]` are independent rows; the rest are the axes that `Reduce` joins (none: a plain elementwise loop). A value that
/// depends on no inner axis, or is a `Reduce`, exists once a row; all others once a point. An instruction may use a row's reduced value
/// at the points of that row: the row is then passed over again (softmax is one loop of three passes).
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    pub axes: Vec<Dim>,
    pub n_outer: usize,
    pub args: Vec<Arg>,
    /// In order: operands precede users.
    pub instrs: Vec<Instr>,
    pub stores: Vec<Store>,
}

/// Index of an instruction of a loop, and of the value it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

/// `offset + Σ strides[i]·index[i]` over all axes of the loop, in elements; `None` where a guard fails.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Map {
    pub strides: Vec<Dim>,
    pub offset: Dim,
    /// All must hold for the place to exist (padding).
    pub guards: Vec<Guard>,
}

/// `0 <= offset + Σ strides[i]·index[i] < extent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guard {
    pub strides: Vec<i64>,
    pub offset: Dim,
    pub extent: Dim,
}

/// What a loop computes at a point or for a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Instr {
    /// The element of `arg` at `map`, or `fill` where a guard fails.
    Load {
        arg: u32,
        map: Map,
        fill: f64,
    },
    /// The element of `arg` at `map + stride·clamp(index, 0, len - 1)`.
    Gather {
        arg: u32,
        map: Map,
        index: Value,
        stride: Dim,
        len: Dim,
    },
    /// The number `map` itself.
    Index {
        map: Map,
        dtype: DType,
    },
    /// Random bits of element `map` of a stream; `key` and `step` are args (see [`crate::ir::op::Random`]).
    Random {
        map: Map,
        stream: u32,
        key: u32,
        step: u32,
    },
    Const {
        value: f64,
        dtype: DType,
    },
    Extent {
        dim: Dim,
        dtype: DType,
    },
    Unary {
        op: Unary,
        x: Value,
    },
    Binary {
        op: Binary,
        x: Value,
        y: Value,
    },
    Select {
        cond: Value,
        yes: Value,
        no: Value,
    },
    Cast {
        to: DType,
        x: Value,
    },
    /// Over the inner axes. Sums of floats accumulate in at least f32 and in an order that depends on this kernel and its extents only.
    Reduce {
        op: ReduceOp,
        x: Value,
    },
}

/// How a row's elements are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReduceOp {
    Sum,
    /// NaN if any is.
    Max,
    /// NaN if any is.
    Min,
    /// i32: the row-major place among the inner axes of the first largest; NaN is largest.
    ArgMax,
}

/// Writes `value` to `arg` at `map`: once a point, or once a row if the value exists once a row and `map` has no inner stride.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub arg: u32,
    pub map: Map,
    pub value: Value,
}

/// A matrix product or convolution.
///
/// Args 0 and 1 are the operands, which may be of 16 bits while `dtype`, in which products are summed, is f32; 2 the row-major result, 3 scratch (u8, as many bytes as `Caps::contract_scratch_bytes` said). The epilogue, if
/// any, is an elementwise loop over the result's axes whose args are the same list: it reads arg 2 with the finished sums and may
/// overwrite it there and write others. Arg 2 overlaps no other arg, unless nobody but the epilogue reads the sums (see
/// [`Contract::keeps_sums`]): it is the scratch then, and the device may leave the sums anywhere in it, or in registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    pub contraction: Contraction,
    pub dtype: DType,
    pub args: Vec<Arg>,
    pub epilogue: Option<Loop>,
    /// What of a matrix product counts, if that is known to be a half: a device may leave out the rest, which is what its half says, or make all of it.
    pub triangle: Option<Triangle>,
}

/// What is contracted. Convolutions are channels-last with contiguous operands.
#[derive(Clone, Debug, PartialEq)]
pub enum Contraction {
    /// For each index of `batch`: `[m, k]·[k, n]`. `lhs` maps `batch ++ [m, k]`, `rhs` maps `batch ++ [k, n]`, neither has guards; the
    /// result is row-major over `batch ++ [m, n]`.
    Matmul { batch: Vec<Dim>, m: Dim, n: Dim, k: Dim, lhs: Map, rhs: Map },
    /// x `[n, input.., c_in]`, w `[kernel.., c_in/groups, c_out]` to y `[n, out.., c_out]`.
    Conv(ConvSizes),
    /// d_y, w to d_x.
    ConvInputGrad(ConvSizes),
    /// x, d_y to d_w.
    ConvWeightGrad(ConvSizes),
}

/// The extents of a convolution, the same for it and its two gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvSizes {
    pub geometry: ConvGeometry,
    pub n: Dim,
    pub input: Vec<usize>,
    pub c_in: usize,
    pub kernel: Vec<usize>,
    pub out: Vec<usize>,
    pub c_out: usize,
}

/// Pooling's parts over contiguous channels-last operands (see [`crate::ir::op::Window`]). Args: operands, then the result.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowKernel {
    pub op: WindowOp,
    pub geometry: WindowGeometry,
    pub dtype: DType,
    pub n: Dim,
    pub input: Vec<usize>,
    pub channels: usize,
    pub args: Vec<Arg>,
}

/// Which window op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowOp {
    ArgMax,
    Take,
    Put,
    Sum,
    Spread,
}

/// Adds rows or elements at places given by data, in the order of the index: arg 2 (result, zeroed first) gets arg 0 (values) at arg 1 (index).
/// Values and index are contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// Extent before the axis, of the index (along the axis), of the result along the axis, and after it.
    pub outer: Dim,
    pub n_index: Dim,
    pub len: Dim,
    pub inner: Dim,
    /// Whether each element has an index of its own (`index [outer, n_index, inner]`) or each slice (`index [n_index]`).
    pub along: bool,
    /// Whether the result begins as what is in its memory and values replace what is at their place, instead of being added to zeros.
    pub replaces: bool,
    pub dtype: DType,
    pub index_dtype: DType,
    pub args: Vec<Arg>,
}

/// Stable order of each line of `[outer, len, inner]`: arg 0 to arg 1 (i32). NaN sorts as the largest.
#[derive(Clone, Debug, PartialEq)]
pub struct Sort {
    pub outer: Dim,
    pub len: Dim,
    pub inner: Dim,
    pub descending: bool,
    pub dtype: DType,
    pub args: Vec<Arg>,
}

/// Running sums along the middle axis of `[outer, len, inner]`: arg 0 to arg 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    pub outer: Dim,
    pub len: Dim,
    pub inner: Dim,
    pub reverse: bool,
    pub dtype: DType,
    pub args: Vec<Arg>,
}

impl Kernel {
    /// The arguments, in the order in which a launch gives buffers.
    pub fn args(&self) -> &[Arg] {
        match self {
            Kernel::Loop(k) => &k.args,
            Kernel::Contract(k) => &k.args,
            Kernel::Window(k) => &k.args,
            Kernel::Scatter(k) => &k.args,
            Kernel::Sort(k) => &k.args,
            Kernel::Scan(k) => &k.args,
        }
    }

    /// The kind's name in plans and profiles.
    pub fn kind(&self) -> &'static str {
        match self {
            Kernel::Loop(_) => "loop",
            Kernel::Contract(_) => "contract",
            Kernel::Window(_) => "window",
            Kernel::Scatter(_) => "scatter",
            Kernel::Sort(_) => "sort",
            Kernel::Scan(_) => "scan",
        }
    }
}

impl Contract {
    /// Whether the sums are a value that something else reads or the epilogue overwrites, rather than passing to the epilogue only.
    pub fn keeps_sums(&self) -> bool {
        self.args[2].access != Access::Scratch
    }
}

impl Loop {
    /// The maps of its instructions and stores, in order.
    pub fn maps(&self) -> Vec<&Map> {
        let of_instrs = self.instrs.iter().filter_map(Instr::map);
        of_instrs.chain(self.stores.iter().map(|s| &s.map)).collect()
    }

    /// The same, to be changed.
    pub fn maps_mut(&mut self) -> Vec<&mut Map> {
        let of_instrs = self.instrs.iter_mut().filter_map(Instr::map_mut);
        of_instrs.chain(self.stores.iter_mut().map(|s| &mut s.map)).collect()
    }

    /// The dtype of an instruction's value.
    pub fn dtype(&self, v: Value) -> DType {
        match &self.instrs[v.0 as usize] {
            Instr::Load { arg, .. } | Instr::Gather { arg, .. } => self.args[*arg as usize].dtype,
            Instr::Index { dtype, .. } | Instr::Const { dtype, .. } | Instr::Extent { dtype, .. } => *dtype,
            Instr::Random { .. } => DType::U32,
            Instr::Unary { x, .. } => self.dtype(*x),
            Instr::Binary { op, x, .. } => {
                if op.is_comparison() {
                    DType::Bool
                } else {
                    self.dtype(*x)
                }
            }
            Instr::Select { yes, .. } => self.dtype(*yes),
            Instr::Cast { to, .. } => *to,
            Instr::Reduce { op: ReduceOp::ArgMax, .. } => DType::I32,
            Instr::Reduce { x, .. } => self.dtype(*x),
        }
    }
}

// What an instruction refers to, by a reference of either kind.
macro_rules! map_of {
    ($instr:expr) => {
        match $instr {
            Instr::Load { map, .. }
            | Instr::Gather { map, .. }
            | Instr::Index { map, .. }
            | Instr::Random { map, .. } => Some(map),
            Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. }
            | Instr::Reduce { .. } => None,
        }
    };
}

macro_rules! operands_of {
    ($instr:expr) => {
        match $instr {
            Instr::Load { .. }
            | Instr::Index { .. }
            | Instr::Random { .. }
            | Instr::Const { .. }
            | Instr::Extent { .. } => vec![],
            Instr::Gather { index, .. } => vec![index],
            Instr::Unary { x, .. } | Instr::Cast { x, .. } | Instr::Reduce { x, .. } => vec![x],
            Instr::Binary { x, y, .. } => vec![x, y],
            Instr::Select { cond, yes, no } => vec![cond, yes, no],
        }
    };
}

impl Instr {
    /// Where it reads or which element it is, if that is said by a map.
    pub fn map(&self) -> Option<&Map> {
        map_of!(self)
    }

    /// The same, to be changed.
    pub fn map_mut(&mut self) -> Option<&mut Map> {
        map_of!(self)
    }

    /// The values an instruction uses.
    pub fn operands(&self) -> Vec<Value> {
        let operands: Vec<&Value> = operands_of!(self);
        operands.into_iter().copied().collect()
    }

    /// The same, to be changed.
    pub fn operands_mut(&mut self) -> Vec<&mut Value> {
        operands_of!(self)
    }
}

impl Map {
    /// Its strides by their number, and behind them its offset.
    pub fn number(&self, i: usize) -> Dim {
        self.strides.get(i).copied().unwrap_or(self.offset)
    }

    /// The same, to be changed.
    pub fn numbers_mut(&mut self) -> impl Iterator<Item = &mut Dim> {
        self.strides.iter_mut().chain([&mut self.offset])
    }

    /// Whether the map is the row-major identity over `axes`.
    pub fn is_row_major(&self, axes: &[Dim]) -> bool {
        let strides = crate::ir::Shape(axes.to_vec()).strides();
        self.guards.is_empty()
            && self.offset == Dim::ZERO
            && strides
                .is_some_and(|s| s.iter().zip(&self.strides).zip(axes).all(|((a, b), d)| a == b || *d == Dim::ONE))
    }
}
