//! The plan: kernels in order, buffers with their lifetimes, slots that survive. Takes kernels and their dataflow, gives everything a backend
//! needs to run a step. Never allocates and never knows a device.

mod alike;
mod arena;
mod bounds;
pub mod build;
pub mod order;
mod print;
mod share;

pub use arena::Layout;
pub use build::verify;

use crate::ir::{DType, Dim, InputDecl, InputId, Shape, Slot, SlotId};
use crate::kernel::Kernel;
use std::ops::Range;

/// A compiled step.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub kernels: Vec<Kernel>,
    /// Run in order.
    pub items: Vec<Item>,
    pub buffers: Vec<Buffer>,
    pub inputs: Vec<InputDecl>,
    /// Slots in the graph's order; `buffer_of_slot` gives where each lives.
    pub slots: Vec<Slot>,
    pub outputs: Vec<Output>,
    /// The alignment of every offset.
    pub align_bytes: usize,
    /// Whether contractions may round operands of f32 to 11 bits.
    pub tf32: bool,
    /// Whether the program asks for less memory, by a budget or by values computed again: it is not to be traded for time then.
    pub spares_memory: bool,
}

/// One entry of a plan's schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Launch(Launch),
    Region(Region),
}

/// A bounded loop on the device: its items run while `predicate` (a bool scalar, read before each trip) is true, at most `max_trips` times.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    pub max_trips: u32,
    pub predicate: BufferId,
    pub items: Vec<Item>,
}

/// One kernel run over one or more segments. Several segments are the same loop over different buffers and shapes (the optimizer over all its
/// parameters) and are independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into `Plan::kernels`: that of the first segment.
    pub kernel: u32,
    pub segments: Vec<Segment>,
    /// The scope of the first node in it: "gpt/block3/up".
    pub scope: String,
    /// The ops in it: "matmul add maximum".
    pub ops: String,
}

/// The kernel, extents and buffers of one segment. `axes` has as many entries as the kernel's loop and overrides its axes; it is empty for kernels
/// that are no loops.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Index into `Plan::kernels`: the launch's own, or a loop that differs from it in extents, strides and offsets only.
    pub kernel: u32,
    pub axes: Vec<Dim>,
    pub args: Vec<BufferId>,
}

/// Index into `Plan::buffers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// In the arena that all steps' intermediate values share; its place is in the [`Layout`].
    Transient,
    /// The slot's own memory, updated in place.
    Slot(SlotId),
    /// A batch input: the backend's staging memory or, on the host, the caller's.
    Input(InputId),
}

/// A piece of memory that kernels read and write.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    pub space: Space,
    pub dtype: DType,
    pub size: Size,
    /// Positions of the first and last launch (counted through regions) that touch it. Only transient buffers share memory, and only
    /// when their ranges are disjoint. An output lives to the end.
    pub first: u32,
    pub last: u32,
}

/// How large a buffer is at batch size B.
#[derive(Clone, Debug, PartialEq)]
pub enum Size {
    Elements(Shape),
    /// Scratch of the contraction that kernel `kernel` is.
    Scratch {
        kernel: u32,
    },
}

/// A value that can be read after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub buffer: BufferId,
    pub shape: Shape,
    pub dtype: DType,
}

impl Plan {
    /// The kernel of a segment, with its axes.
    pub fn kernel_of(&self, segment: &Segment) -> Kernel {
        let mut kernel = self.kernels[segment.kernel as usize].clone();
        if let (Kernel::Loop(k), false) = (&mut kernel, segment.axes.is_empty()) {
            k.axes = segment.axes.clone();
        }
        kernel
    }

    /// All launches in order, those inside of regions too.
    pub fn launches(&self) -> Vec<&Launch> {
        fn walk<'a>(items: &'a [Item], out: &mut Vec<&'a Launch>) {
            for item in items {
                match item {
                    Item::Launch(launch) => out.push(launch),
                    Item::Region(region) => walk(&region.items, out),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.items, &mut out);
        out
    }

    /// All regions, outer ones first, each with its launches as positions in [`Plan::launches`].
    pub fn regions(&self) -> Vec<(Range<usize>, &Region)> {
        fn walk<'a>(items: &'a [Item], at: &mut usize, out: &mut Vec<(Range<usize>, &'a Region)>) {
            for item in items {
                match item {
                    Item::Launch(_) => *at += 1,
                    Item::Region(region) => {
                        let (number, begin) = (out.len(), *at);
                        out.push((begin..begin, region));
                        walk(&region.items, at, out);
                        out[number].0.end = *at;
                    }
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.items, &mut 0, &mut out);
        out
    }

    /// The loop with the most rows or the longest rows at a batch size, and how many or how long: GPUs count either in 32 bits.
    pub fn longest_loop(&self, batch: usize) -> Option<(u128, &Launch)> {
        let longest = |launch: &Launch| {
            let Kernel::Loop(k) = &self.kernels[launch.kernel as usize] else { return 0 };
            let points = |axes: &[Dim]| axes.iter().fold(1u128, |n, d| n.saturating_mul(d.at(batch) as u128));
            let of = |s: &Segment| points(&s.axes[..k.n_outer]).max(points(&s.axes[k.n_outer..]));
            launch.segments.iter().map(of).max().unwrap_or(0)
        };
        self.launches().into_iter().map(|launch| (longest(launch), launch)).max_by_key(|(n, _)| *n)
    }

    /// Bytes of all slots: what survives a step.
    pub fn persistent_bytes(&self) -> usize {
        self.slots
            .iter()
            .map(|s| s.shape.numel_at(0) * s.dtype.size_bytes())
            .map(|n| n.next_multiple_of(self.align_bytes))
            .sum()
    }
}
