//! Places transient buffers in one arena. Takes lifetimes and the largest batch size, gives a byte offset for each buffer and the arena's size.
//! Never moves a slot: those live apart.

use super::{Buffer, Plan, Size, Space};
use crate::caps::Caps;
use crate::kernel::Kernel;

/// Where each transient buffer lies at batch sizes up to `max_batch`.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    pub max_batch: usize,
    /// By buffer; 0 for buffers that are not transient.
    pub offsets: Vec<usize>,
    /// Bytes of each buffer at `max_batch`.
    pub sizes: Vec<usize>,
    /// Size of the arena.
    pub transient_bytes: usize,
    /// What the transient buffers would take if none shared memory.
    pub unshared_bytes: usize,
}

/// Up to so many bytes, which the cache of a large GPU holds, buffers lie apart on devices that run launches side by side: two that
/// shared memory would have to wait for each other.
const APART_BYTES: usize = 32 << 20;

/// A buffer of 1 PiB or more counts as this much: no device takes it, and sums of such sizes do not overflow.
const MORE_THAN_THERE_IS: usize = 1 << 50;

impl Layout {
    /// Offsets for batch sizes up to `max_batch`: largest buffer first, each at the lowest place that is free during its life.
    pub fn new(plan: &Plan, caps: &Caps, max_batch: usize) -> Layout {
        let sizes: Vec<usize> = plan.buffers.iter().map(|b| size_bytes(plan, caps, b, max_batch)).collect();
        let mut order: Vec<usize> =
            (0..plan.buffers.len()).filter(|&i| plan.buffers[i].space == Space::Transient).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), plan.buffers[i].first, i));
        let unshared_bytes = order.iter().map(|&i| sizes[i].next_multiple_of(plan.align_bytes)).sum();
        let shares = caps.workgroups.is_none() || plan.spares_memory || unshared_bytes > APART_BYTES;
        let mut offsets = vec![0; plan.buffers.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut transient_bytes = 0;
        let piece = caps.max_buffer_bytes / plan.align_bytes * plan.align_bytes;
        for &i in &order {
            let live = &plan.buffers[i];
            let mut taken: Vec<(usize, usize)> = placed
                .iter()
                .filter(|&&j| !shares || (plan.buffers[j].first <= live.last && live.first <= plan.buffers[j].last))
                .map(|&j| (offsets[j], offsets[j] + sizes[j].next_multiple_of(plan.align_bytes)))
                .collect();
            taken.sort_unstable();
            let mut at = 0;
            for (start, end) in taken {
                if at + sizes[i] <= start {
                    break;
                }
                at = within_piece(at.max(end), sizes[i], piece);
            }
            offsets[i] = at;
            transient_bytes = transient_bytes.max(at + sizes[i].next_multiple_of(plan.align_bytes));
            placed.push(i);
        }
        Layout { max_batch, offsets, sizes, transient_bytes, unshared_bytes }
    }
}

/// `at`, or the beginning of the next piece of memory where `size` bytes would not fit into the rest of this one.
fn within_piece(at: usize, size: usize, piece: usize) -> usize {
    let next = (at / piece + 1).saturating_mul(piece);
    if at + size > next && size <= piece { next } else { at }
}

fn size_bytes(plan: &Plan, caps: &Caps, buffer: &Buffer, batch: usize) -> usize {
    match &buffer.size {
        Size::Elements(shape) => {
            shape.numel_at(batch).saturating_mul(caps.stored_bytes(buffer.dtype)).min(MORE_THAN_THERE_IS)
        }
        Size::Scratch { kernel } => match &plan.kernels[*kernel as usize] {
            Kernel::Contract(k) => (caps.contract_scratch_bytes)(k, batch),
            other => panic!("bug: {} kernels have no scratch", other.kind()),
        },
    }
}
