//! Groups: the segments of a launch that run as one dispatch. Takes a launch and where its memory is, gives what each group binds and where its
//! arguments begin in that. Never makes a text.

use crate::adapter::Gpu;
use crate::memory::{Memory, Piece, Place};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::wgsl::MAX_SEGMENT_VECTORS;
use wholestep_compiler::codegen::{Grid, Shader, Word};
use wholestep_compiler::plan::{Launch, Layout, Plan, Segment};

/// Segments of a launch that run as one dispatch, and where their arguments are.
pub struct Group {
    pub launch: usize,
    pub segments: Vec<Segment>,
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
        let (mut first, mut at) = (0, 0);
        for (segment, offsets) in self.segments.iter().zip(&self.offsets) {
            for (i, word) in shader.params.iter().enumerate() {
                params[at + i] = match *word {
                    Word::FirstGroup => first as u32,
                    Word::Offset(arg) => offsets[arg as usize],
                    other => other.at(batch, &segment.axes),
                };
            }
            at += shader.params.len().next_multiple_of(4);
            if let Grid::Line(count) = &shader.grid {
                first += count.at(batch, &segment.axes);
            }
        }
        first
    }
}

/// The segment with the most points: the text suits it.
pub fn largest(segments: &[Segment]) -> &Segment {
    let points = |s: &Segment| s.axes.iter().map(|d| d.at(1) as u64).product::<u64>();
    // Of equal ones the first, so that the text does not depend on how segments are joined.
    segments.iter().rev().max_by_key(|s| points(s)).expect("a launch has a segment")
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
    let mut found: Vec<(Vec<Segment>, Vec<Vec<Place>>, Vec<Window>)> = Vec::new();
    for segment in &l.segments {
        let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
        if let Some(big) = places.iter().find(|p| p.bytes > most) {
            return Err(DeviceError::OutOfMemory {
                wanted_bytes: big.bytes,
                what: format!("one tensor of {} ({}), where the device binds at most {most} bytes", l.scope, l.ops),
            });
        }
        let alone: Vec<Window> =
            places.iter().map(|p| Window { piece: p.piece, start: p.offset, end: p.offset + p.bytes }).collect();
        // The words of a segment are its axes, an offset per argument and its first workgroup.
        let vectors = (segment.axes.len() + segment.args.len() + 8).div_ceil(4);
        let joined = found.last_mut().and_then(|(segments, all, windows)| {
            let room = (segments.len() + 1) * vectors <= MAX_SEGMENT_VECTORS as usize;
            let wide = windows.iter().zip(&alone).map(|(a, b)| join(a, b, most)).collect::<Option<Vec<_>>>();
            wide.filter(|_| room).map(|wide| (segments, all, windows, wide))
        });
        match joined {
            Some((segments, all, windows, wide)) => {
                *windows = wide;
                segments.push(segment.clone());
                all.push(places);
            }
            None => found.push((vec![segment.clone()], vec![places], alone)),
        }
    }
    let bytes = |arg: usize| gpu.caps.stored_bytes(kernel.args()[arg].dtype) as u64;
    let finish = |(segments, all, windows): (Vec<Segment>, Vec<Vec<Place>>, Vec<Window>)| {
        let offset = |places: &Vec<Place>| {
            let of = |(arg, p): (usize, &Place)| ((p.offset - windows[arg].start) / bytes(arg)) as u32;
            places.iter().enumerate().map(of).collect()
        };
        let offsets = all.iter().map(offset).collect();
        Group { launch, segments, windows, offsets }
    };
    Ok(found.into_iter().map(finish).collect())
}

/// The window over both, if one binding can span it.
fn join(a: &Window, b: &Window, most: u64) -> Option<Window> {
    let (start, end) = (a.start.min(b.start), a.end.max(b.end));
    (a.piece == b.piece && end - start <= most).then_some(Window { piece: a.piece, start, end })
}
