//! A step as launches of kernels. Takes a plan and where memory is, gives texts to compile and, for each batch size, parameter words and nodes.
//! Never calls the driver.

use crate::driver::{Function, Node, Param, Unit};
use crate::memory::{Memory, Piece, Place};
use std::collections::BTreeMap;
use std::sync::Arc;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::{self, Grid, Shader, Word, cuda};
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{Item, Launch, Layout, Plan, Segment};

/// All kernels of a step in order.
pub struct Parts {
    pub list: Vec<Part>,
    /// Each text once.
    pub shaders: Vec<Shader>,
}

/// One launch of a kernel.
pub struct Part {
    /// Index into the plan's launches.
    pub launch: usize,
    shader: usize,
    group: Group,
    /// Where its parameters begin among all, in words.
    params_at: usize,
    name: Arc<str>,
}

/// Segments that run as one launch.
#[derive(Clone)]
struct Group {
    segments: Vec<Segment>,
    /// By argument: the part of memory over all segments.
    windows: Vec<Place>,
    /// By segment and argument: where it begins in its window, in elements.
    offsets: Vec<Vec<u32>>,
}

/// Texts of one compilation: enough that the prelude does not count, few enough that there is work for all threads.
const UNIT: usize = 6;
/// Words of a vector of parameters.
const VECTOR: usize = 4;
/// Blocks along the first axis, and along the others.
const MOST_BLOCKS: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];

impl Parts {
    /// Errors: what the plan holds and the device or this version lacks.
    pub fn new(plan: &Plan, layout: &Layout, memory: &Memory, caps: &Caps) -> Result<Parts, DeviceError> {
        if plan.items.iter().any(|item| matches!(item, Item::Region(_))) {
            return Err(DeviceError::Unsupported("a loop on the device yet".to_string()));
        }
        let mut parts = Parts { list: Vec::new(), shaders: Vec::new() };
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let mut params_at = 0;
        for (launch, l) in plan.launches().into_iter().enumerate() {
            let kernel = &plan.kernels[l.kernel as usize];
            let name: Arc<str> = format!("{} ({}), {} kernel", l.scope, l.ops, kernel.kind()).into();
            for group in groups(plan, layout, memory, caps, kernel, l)? {
                let kernel = with_axes(kernel, largest(&group.segments));
                let texts = codegen::shaders(&kernel, group.segments.len(), caps);
                let texts = texts.map_err(|e| DeviceError::Unsupported(format!("{name}: {e}")))?;
                for shader in texts {
                    let n_words = shader.params.len().next_multiple_of(VECTOR) * group.segments.len();
                    let key = format!("{:?} {:?} {:?} {}", shader.params, shader.grid, shader.args, shader.source);
                    let number = *known.entry(key).or_insert_with(|| {
                        parts.shaders.push(shader);
                        parts.shaders.len() - 1
                    });
                    let (group, name) = (group.clone(), name.clone());
                    parts.list.push(Part { launch, shader: number, group, params_at, name });
                    params_at += n_words;
                }
            }
        }
        Ok(parts)
    }

    /// The texts in a few compilations. Kernel i of all is number i % n of unit i / n.
    pub fn units(&self) -> Vec<Unit> {
        let unit = |shaders: &[Shader]| {
            let mut source = cuda::PRELUDE.to_string();
            let mut names = Vec::new();
            for (i, shader) in shaders.iter().enumerate() {
                source += &format!("#define BODY body{i}\n#define KERNEL kernel{i}\n{}", shader.source);
                source += "#undef BODY\n#undef KERNEL\n";
                names.push(format!("kernel{i}"));
            }
            Unit { source, names, shared_bytes: shaders.iter().map(|s| s.shared_bytes).collect() }
        };
        self.shaders.chunks(UNIT).map(unit).collect()
    }

    /// Bytes that kernels of one launch share, the most of all.
    pub fn scratch_bytes(&self, max_batch: usize) -> u64 {
        let of = |part: &Part| {
            let count = self.shaders[part.shader].scratch.as_ref();
            let words = |s: &Segment| count.map_or(0, |count| count.at(max_batch, &s.axes));
            4 * part.group.segments.iter().map(words).sum::<u64>()
        };
        self.list.iter().map(of).max().unwrap_or(0)
    }

    /// The parameter words of all parts for a batch size.
    pub fn params(&self, batch: usize) -> Vec<u32> {
        let mut words = Vec::new();
        for part in &self.list {
            let shader = &self.shaders[part.shader];
            let mut first = 0;
            for (segment, offsets) in part.group.segments.iter().zip(&part.group.offsets) {
                words.extend(shader.params.iter().map(|word| match *word {
                    Word::FirstGroup => first as u32,
                    Word::Offset(arg) => offsets[arg as usize],
                    other => other.at(batch, &segment.axes),
                }));
                words.resize(words.len().next_multiple_of(VECTOR), 0);
                if let Grid::Line(count) = &shader.grid {
                    first += count.at(batch, &segment.axes);
                }
            }
        }
        words
    }

    /// The bytes of [`Parts::params`].
    pub fn params_bytes(&self) -> u64 {
        let of = |p: &Part| self.shaders[p.shader].params.len().next_multiple_of(VECTOR) * p.group.segments.len();
        4 * self.list.last().map_or(0, |p| p.params_at + of(p)) as u64
    }

    /// The step on a batch whose inputs begin at an address, as nodes with the launch that each is of. What has nothing to do is left out.
    /// Errors: a launch is too large for the device.
    pub fn nodes(
        &self,
        memory: &Memory,
        functions: &[Function],
        batch: usize,
        inputs_at: u64,
    ) -> Result<Vec<(usize, Node)>, DeviceError> {
        let mut nodes = Vec::with_capacity(self.list.len());
        let words = self.params(batch);
        for part in &self.list {
            let shader = &self.shaders[part.shader];
            let blocks = part.blocks(&shader.grid, batch);
            if blocks.contains(&0) {
                continue;
            }
            if blocks.iter().zip(MOST_BLOCKS).any(|(&n, most)| n > most) {
                return Err(DeviceError::Unsupported(format!("{blocks:?} blocks in one launch, of {}", part.name)));
            }
            let window = |arg: &u32| part.group.windows[*arg as usize];
            let address = |p: Place| Param::Address(memory.address(p.piece, p.offset, inputs_at));
            let mut args: Vec<Param> = shader.args.iter().map(window).map(address).collect();
            if !shader.params.is_empty() {
                let n = shader.params.len().next_multiple_of(VECTOR) * part.group.segments.len();
                args.push(match cuda::params_by_value(shader, part.group.segments.len()) {
                    true => Param::Words(words[part.params_at..][..n].to_vec()),
                    false => Param::Address(memory.params_at + 4 * part.params_at as u64),
                });
            }
            if shader.scratch.is_some() {
                args.push(Param::Address(memory.scratch_at));
            }
            let node = Node {
                function: functions[part.shader],
                grid: blocks.map(|n| n as u32),
                threads: shader.workgroup.iter().product(),
                shared_bytes: shader.shared_bytes,
                args,
                name: part.name.clone(),
            };
            nodes.push((part.launch, node));
        }
        Ok(nodes)
    }
}

impl Part {
    fn blocks(&self, grid: &Grid, batch: usize) -> [u64; 3] {
        let segments = &self.group.segments;
        match grid {
            Grid::Line(count) => [segments.iter().map(|s| count.at(batch, &s.axes)).sum(), 1, 1],
            Grid::Box(counts) => std::array::from_fn(|i| counts[i].at(batch, &segments[0].axes)),
        }
    }
}

/// The segment with the most points, the first of equal ones: the text suits it.
fn largest(segments: &[Segment]) -> &Segment {
    let points = |s: &Segment| s.axes.iter().map(|d| d.at(1) as u64).product::<u64>();
    segments.iter().rev().max_by_key(|s| points(s)).expect("bug: a launch without a segment")
}

/// The kernel with a segment's own axes.
pub fn with_axes(kernel: &Kernel, segment: &Segment) -> Kernel {
    let mut kernel = kernel.clone();
    if let (Kernel::Loop(k), false) = (&mut kernel, segment.axes.is_empty()) {
        k.axes = segment.axes.clone();
    }
    kernel
}

/// Segments that can run as one launch: argument i of all of them lies in one piece of memory, and elements are counted from the first with 32 bits.
fn groups(
    plan: &Plan,
    layout: &Layout,
    memory: &Memory,
    caps: &Caps,
    kernel: &Kernel,
    l: &Launch,
) -> Result<Vec<Group>, DeviceError> {
    let sizes: Vec<u64> = kernel.args().iter().map(|a| caps.stored_bytes(a.dtype) as u64).collect();
    let mut found: Vec<(Group, Vec<Vec<Place>>)> = Vec::new();
    for segment in &l.segments {
        let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
        let joined = found.last_mut().and_then(|(group, all)| {
            let both = group.windows.iter().zip(&places).zip(&sizes);
            let windows = both.map(|((a, b), &size)| join(a, b, size)).collect::<Option<Vec<_>>>()?;
            Some((group, all, windows))
        });
        match joined {
            Some((group, all, windows)) => {
                group.windows = windows;
                group.segments.push(segment.clone());
                all.push(places);
            }
            None => {
                if let Some((place, size)) = places.iter().zip(&sizes).find(|(p, size)| too_long(p, **size)) {
                    let what = format!("one tensor of {} elements, of {} ({})", place.bytes / size, l.scope, l.ops);
                    return Err(DeviceError::Unsupported(what));
                }
                let group = Group { segments: vec![segment.clone()], windows: places.clone(), offsets: Vec::new() };
                found.push((group, vec![places]));
            }
        }
    }
    let finish = |(mut group, all): (Group, Vec<Vec<Place>>)| {
        let windows = &group.windows;
        let offset = |places: &Vec<Place>| {
            let each = places.iter().zip(windows).zip(&sizes);
            each.map(|((p, w), size)| ((p.offset - w.offset) / size) as u32).collect()
        };
        group.offsets = all.iter().map(offset).collect();
        group
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
    (a.piece == b.piece && a.piece != Piece::Inputs && !too_long(&both, size)).then_some(both)
}
