//! Segments that run as one launch: those whose arguments lie near enough to each other to be counted from one place. Never writes a text.

use crate::memory::{Memory, Place};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::together::{Together, together};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{Launch, Layout, Plan, Segment};

/// Segments that run as one launch.
#[derive(Clone)]
pub struct Group {
    /// What its text is made of.
    pub kernel: Kernel,
    /// By segment: its axes and what else it has its own of.
    pub numbers: Vec<Vec<Dim>>,
    /// By argument: the part of memory over all segments.
    pub windows: Vec<Place>,
    /// By segment and argument: where it begins in its window, in elements.
    pub offsets: Vec<Vec<u32>>,
}

impl Group {
    /// Lets an argument, which may be one more than there are, lie elsewhere.
    pub fn put(&mut self, arg: usize, place: Place) {
        if arg == self.windows.len() {
            self.windows.push(place);
            self.offsets.iter_mut().for_each(|o| o.push(0));
        } else {
            self.windows[arg] = place;
        }
    }

    /// The arguments of the loop that turns argument `arg` for a library.
    pub fn turns(&self, arg: usize, turned: Place) -> Group {
        Group {
            kernel: self.kernel.clone(),
            numbers: vec![Vec::new(); self.numbers.len()],
            windows: vec![self.windows[arg], turned],
            offsets: self.offsets.iter().map(|o| vec![o[arg], 0]).collect(),
        }
    }
}

/// Segments that can run as one launch: argument i of all of them lies in one piece of memory, and elements are counted from the first with 32 bits.
pub fn groups(
    plan: &Plan,
    layout: &Layout,
    memory: &Memory,
    caps: &Caps,
    l: &Launch,
) -> Result<Vec<Group>, DeviceError> {
    let kernel = &plan.kernels[l.kernel as usize];
    let sizes: Vec<u64> = kernel.args().iter().map(|a| caps.stored_bytes(a.dtype) as u64).collect();
    let mut found: Vec<(Vec<&Segment>, Vec<Place>, Vec<Vec<Place>>)> = Vec::new();
    for segment in &l.segments {
        let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
        let joined = found.last_mut().and_then(|(segments, windows, all)| {
            let both = windows.iter().zip(&places).zip(&sizes);
            let wider = both.map(|((a, b), &size)| join(a, b, size)).collect::<Option<Vec<_>>>()?;
            Some((segments, windows, all, wider))
        });
        match joined {
            Some((segments, windows, all, wider)) => {
                *windows = wider;
                segments.push(segment);
                all.push(places);
            }
            None => {
                if let Some((place, size)) = places.iter().zip(&sizes).find(|(p, size)| too_long(p, **size)) {
                    let what = format!("one tensor of {} elements, of {} ({})", place.bytes / size, l.scope, l.ops);
                    return Err(DeviceError::Unsupported(what));
                }
                found.push((vec![segment], places.clone(), vec![places]));
            }
        }
    }
    let finish = |(segments, windows, all): (Vec<&Segment>, Vec<Place>, Vec<Vec<Place>>)| {
        let offset = |places: &Vec<Place>| {
            let each = places.iter().zip(&windows).zip(&sizes);
            each.map(|((p, w), size)| ((p.offset - w.offset) / size) as u32).collect()
        };
        let offsets = all.iter().map(offset).collect();
        let kernels: Vec<Kernel> = segments.into_iter().map(|s| plan.kernel_of(s)).collect();
        let Together { kernel, numbers } = together(&kernels);
        Group { kernel, numbers, windows, offsets }
    };
    Ok(found.into_iter().map(finish).collect())
}

/// Whether numbers of elements of a place do not fit into 32 bits.
fn too_long(place: &Place, size: u64) -> bool {
    place.bytes / size > u64::from(u32::MAX)
}

/// The place over both, if they are of one piece and it is not too long.
fn join(a: &Place, b: &Place, size: u64) -> Option<Place> {
    let (start, end) = (a.offset.min(b.offset), (a.offset + a.bytes).max(b.offset + b.bytes));
    let both = Place { piece: a.piece, offset: start, bytes: end - start };
    (a.piece == b.piece && !too_long(&both, size)).then_some(both)
}
