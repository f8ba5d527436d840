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
}
