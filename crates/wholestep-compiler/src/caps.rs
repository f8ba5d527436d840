//! What a device can do, as data. Backends fill it in; passes and `kernel/` read it. Never names a device.

use crate::ir::DType;
use crate::kernel::Contract;

/// The abilities and limits of a device.
#[derive(Clone, Debug)]
pub struct Caps {
    /// "cpu, 2 threads, avx512".
    pub name: String,
    /// Element types that kernels may load, compute and store.
    pub dtypes: Vec<DType>,
    /// Memory that a plan may take, if the device says so.
    pub memory_bytes: Option<u64>,
    /// Offsets in the arena are multiples of this.
    pub align_bytes: usize,
    /// The longest row that one `Loop` may pass over more than once (softmax, layer norm): longer rows are split into kernels of one pass.
    pub max_row_elems: usize,
    /// Scratch bytes that a contraction wants at a batch size. A function, because only the backend knows how it packs panels; it must
    /// not grow when the batch shrinks.
    pub contract_scratch_bytes: fn(&Contract, usize) -> usize,
    /// The most arguments that one kernel may take; fusion stops there.
    pub max_args: usize,
    /// The bytes in which an element of `u8` or `bool` lies in device memory: 1, or 4 where a device cannot store single bytes.
    pub byte_bytes: usize,
    /// The bytes in which an `i64` lies in device memory: 8, or 4 on devices without such numbers. There `i64` values may come in, be moved,
    /// compared, converted and used as indices, but nothing computes with them, so 32 bits say all of what came in.
    pub long_bytes: usize,
    /// The largest piece of memory that the device gives; buffers do not cross from one into the next.
    pub max_buffer_bytes: usize,
    /// Whether it runs loops whose end is decided on the device.
    pub loops: bool,
    /// How the device runs groups of threads; `None` for devices that no kernel text is made for.
    pub workgroups: Option<Workgroups>,
}

/// The language in which a device takes kernel text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// WGSL as WebGPU has it.
    Wgsl,
    /// CUDA C++ as NVRTC takes it.
    Cuda,
}

/// What kernel text may rely on.
#[derive(Clone, Debug, PartialEq)]
pub struct Workgroups {
    /// The one that it takes.
    pub language: Language,
    /// The most threads in one workgroup.
    pub threads: u32,
    /// The most bytes of memory that a workgroup shares.
    pub shared_bytes: u32,
    /// The most workgroups along one axis of a launch.
    pub per_axis: u32,
    /// Threads that run in step and can exchange values: the smallest and the largest such group, where there are any.
    pub subgroup: Option<(u32, u32)>,
    /// Whether kernel text may have values of `f16`; only matrix units want them.
    pub f16: bool,
    /// Whether whole numbers of 64 bits can be computed with.
    pub long: bool,
    /// Matrix tiles that a subgroup multiplies in one instruction, as `[m, n, k]` with f16 operands and f32 sums.
    pub tiles: Vec<[u32; 3]>,
}

impl Caps {
    /// Bytes in which one element of `dtype` lies in device memory.
    pub fn stored_bytes(&self, dtype: DType) -> usize {
        match dtype {
            DType::U8 | DType::Bool => self.byte_bytes,
            DType::I64 => self.long_bytes,
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::I32 | DType::U32 => dtype.size_bytes(),
        }
    }
}
