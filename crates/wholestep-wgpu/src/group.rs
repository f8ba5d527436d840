//! Groups: the segments of a launch that run as one dispatch. Takes a launch and where its memory is, gives what each group binds and where its
//! arguments begin in that. Never makes a text.

use crate::adapter::Gpu;
use crate::memory::{Memory, Piece, Place};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::together::{Together, together};
use wholestep_compiler::codegen::wgsl::MAX_SEGMENT_VECTORS;
use wholestep_compiler::codegen::wgsl::beside::work;
use wholestep_compiler::codegen::{Grid, Shader, Word};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{Launch, Layout, Plan};

/// Segments of a launch that run as one dispatch, and where their arguments are.
pub struct Group {
    pub launch: usize,
    /// What its text is made of.
    pub kernel: Kernel,
    /// By segment: its axes and what else it has its own of.
    pub numbers: Vec<Vec<Dim>>,
    /// Multiply-adds or points.
    pub work: u64,
    /// By argument: the part of a piece that is bound.
    pub windows: Vec<Window>,
    /// By segment and argument: where the argument begins in its window, in elements.
    offsets: Vec<Vec<u32>>,
}

/// A range of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub piece: Piece,
    pub start: u64,
    pub end: u64,
}

impl Group {
    /// Evaluates the words of a shader for all segments; gives the number of workgroups where they stand in a line.
    pub fn set_batch(&self, batch: usize, shader: &Shader, params: &mut [u32]) -> u64 {
        let (mut first, mut first_scratch, mut at) = (0, 0, 0);
        for (numbers, offsets) in self.numbers.iter().zip(&self.offsets) {
            for (i, word) in shader.params.iter().enumerate() {
                params[at + i] = match *word {
                    Word::FirstGroup => first as u32,
                    Word::FirstScratch => first_scratch as u32,
                    Word::Offset(arg) => offsets[arg as usize],
                    other => other.at(batch, numbers),
                };
            }
            at += shader.params.len().next_multiple_of(4);
            if let Grid::Line(count) = &shader.grid {
                first += count.at(batch, numbers);
            }
            first_scratch += shader.scratch.as_ref().map_or(0, |count| count.at(batch, numbers));
        }
        first
    }
}

/// Segments that can run as one dispatch: argument i of all of them lies in one piece of memory, within what one binding may span.
pub fn groups(
    gpu: &Gpu,
    plan: &Plan,
    layout: &Layout,
    memory: &Memory,
    launch: usize,
    l: &Launch,
) -> Result<Vec<Group>, DeviceError> {
    let most = gpu.limits.max_storage_buffer_binding_size;
    let kernel = &plan.kernels[l.kernel as usize];
    let kernels: Vec<Kernel> = l.segments.iter().map(|s| plan.kernel_of(s)).collect();
    let n_numbers = together(&kernels).numbers[0].len();
    let mut found: Vec<(Vec<&Kernel>, Vec<Vec<Place>>, Vec<Window>)> = Vec::new();
    for (segment, kernel) in l.segments.iter().zip(&kernels) {
        let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
        if let Some(big) = places.iter().find(|p| p.bytes > most) {
            return Err(DeviceError::OutOfMemory {
                wanted_bytes: big.bytes,
                what: format!("one tensor of {} ({}), where the device binds at most {most} bytes", l.scope, l.ops),
            });
        }
        let alone: Vec<Window> =
            places.iter().map(|p| Window { piece: p.piece, start: p.offset, end: p.offset + p.bytes }).collect();
        // The words of a segment are its numbers, an offset per argument and its first workgroup.
        let vectors = (n_numbers + segment.args.len() + 8).div_ceil(4);
        let joined = found.last_mut().and_then(|(of, all, windows)| {
            let room = (of.len() + 1) * vectors <= MAX_SEGMENT_VECTORS as usize;
            let wide = windows.iter().zip(&alone).map(|(a, b)| join(a, b, most)).collect::<Option<Vec<_>>>();
            wide.filter(|_| room).map(|wide| (of, all, windows, wide))
        });
        match joined {
            Some((of, all, windows, wide)) => {
                *windows = wide;
                of.push(kernel);
                all.push(places);
            }
            None => found.push((vec![kernel], vec![places], alone)),
        }
    }
    let bytes = |arg: usize| gpu.caps.stored_bytes(kernel.args()[arg].dtype) as u64;
    let finish = |(of, all, windows): (Vec<&Kernel>, Vec<Vec<Place>>, Vec<Window>)| {
        let offset = |places: &Vec<Place>| {
            let of = |(arg, p): (usize, &Place)| ((p.offset - windows[arg].start) / bytes(arg)) as u32;
            places.iter().enumerate().map(of).collect()
        };
        let offsets = all.iter().map(offset).collect();
        let work = of.iter().map(|k| work(k, layout.max_batch)).sum();
        let Together { kernel, numbers } = together(&of.into_iter().cloned().collect::<Vec<_>>());
        Group { launch, kernel, numbers, work, windows, offsets }
    };
    Ok(found.into_iter().map(finish).collect())
}

/// The window over both, if one binding can span it.
fn join(a: &Window, b: &Window, most: u64) -> Option<Window> {
    let (start, end) = (a.start.min(b.start), a.end.max(b.end));
    (a.piece == b.piece && end - start <= most).then_some(Window { piece: a.piece, start, end })
}
