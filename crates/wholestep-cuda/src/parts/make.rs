//! Parts of a plan: which kernel or library makes each launch, and which launches stand in one row. Never knows a batch size.

use super::group::{Group, groups};
use super::{Made, Part, Parts, Step, Way, Ways, What, turned_bytes, work_bytes};
use crate::follow::{Follower, followers};
use crate::memory::{Memory, Piece, Place};
use crate::rows::{self, Touch};
use crate::task::Goal;
use crate::texts::Text;
use std::collections::BTreeMap;
use std::sync::Arc;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::{self, Shader};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::{Access, Contract, Kernel, Map};
use wholestep_compiler::plan::{Buffer, Item, Launch, Layout, Plan, Space};

impl Parts {
    /// Launches side by side where they may be, or all `apart`.
    /// Errors: what the plan holds and the device or this version lacks.
    pub fn new(
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
        caps: &Caps,
        ways: &Ways,
        apart: bool,
    ) -> Result<Parts, DeviceError> {
        let parts = Parts {
            list: Vec::new(),
            steps: Vec::new(),
            n_loops: 0,
            shaders: Vec::new(),
            texts: Vec::new(),
            max_batch: layout.max_batch,
            tf32: ways.tf32,
            lists: ways.lists,
        };
        let (known, written, known_texts) = Default::default();
        let followers = if ways.by_library.values().any(|way| way.joins) { followers(plan) } else { BTreeMap::new() };
        let mut making = Making {
            plan,
            layout,
            memory,
            caps,
            ways,
            apart,
            followers,
            parts,
            known,
            written,
            known_texts,
            launch: 0,
        };
        let steps = making.steps(&plan.items)?;
        Ok(Parts { steps, ..making.parts })
    }
}

/// What a kernel of ours does of a kernel of the plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    All,
    /// What a library's product needs turned.
    Before,
    /// What is to be done with its sums.
    After,
}

/// The plan's kernel with the stage of it, the number of segments and what its text depends on beside.
type Written = ((u32, Stage), usize, (Vec<Dim>, Vec<Map>));

/// Parts while they are made.
struct Making<'a> {
    plan: &'a Plan,
    layout: &'a Layout,
    memory: &'a Memory,
    caps: &'a Caps,
    ways: &'a Ways,
    apart: bool,
    followers: BTreeMap<u32, Follower>,
    parts: Parts,
    /// Numbers of shaders by all that makes them differ.
    known: BTreeMap<String, usize>,
    /// The same by what they were written from: launches of one kernel are many, and texts are long.
    written: BTreeMap<Written, Vec<usize>>,
    known_texts: BTreeMap<Text, usize>,
    /// The next launch of the plan.
    launch: usize,
}

impl Making<'_> {
    fn steps(&mut self, items: &[Item]) -> Result<Vec<Step>, DeviceError> {
        let mut steps = Vec::with_capacity(items.len());
        // The first part since the last loop.
        let mut first = self.parts.list.len();
        let mut rest = items.iter();
        while let Some(item) = rest.next() {
            match item {
                Item::Launch(l) => {
                    let next = rest.as_slice().first();
                    let next = next.and_then(|item| if let Item::Launch(l) = item { Some(l) } else { None });
                    if self.launch(l, next)? {
                        rest.next();
                        self.launch += 1;
                    }
                }
                Item::Region(region) => {
                    self.rows(first, &mut steps);
                    let number = self.parts.n_loops;
                    self.parts.n_loops += 1;
                    let predicate = self.memory.place(self.plan, self.layout, region.predicate);
                    let body = self.steps(&region.items)?;
                    steps.push(Step::Loop { number, max_trips: region.max_trips, predicate, body });
                    first = self.parts.list.len();
                }
            }
        }
        self.rows(first, &mut steps);
        Ok(steps)
    }

    /// The parts from `first` on as launches.
    fn rows(&mut self, first: usize, steps: &mut Vec<Step>) {
        let parts = &mut self.parts;
        for row in rows::rows(parts, first, self.apart) {
            let name = row.iter().map(|&i| &*parts.list[i].name).collect::<Vec<_>>().join(" beside ").into();
            let text = rows::text(parts, &row).map(|text| {
                *self.known_texts.entry(text).or_insert_with_key(|text| {
                    parts.texts.push(text.clone());
                    parts.texts.len() - 1
                })
            });
            steps.push(Step::Row { parts: row, text, name });
        }
    }

    /// Adds the parts of a launch; gives whether they do that of the `next` one too.
    fn launch(&mut self, l: &Launch, next: Option<&Launch>) -> Result<bool, DeviceError> {
        let Making { plan, layout, memory, caps, ways, .. } = *self;
        let kernel = &plan.kernels[l.kernel as usize];
        let name: Arc<str> = format!("{} ({}), {} kernel", l.scope, l.ops, kernel.kind()).into();
        let way = ways.by_library.get(&(l.kernel as usize)).copied();
        let follower = way.filter(|way| way.joins).and_then(|_| self.followers.get(&l.kernel)).cloned();
        if let (Kernel::Contract(k), Some(way), Some(follower), Some(next)) = (kernel, way, follower, next) {
            self.launch_joined(k, way, follower, [l, next], &name)?;
            self.launch += 1;
            return Ok(true);
        }
        for mut group in groups(plan, layout, memory, caps, l)? {
            let mut kernel = group.kernel.clone();
            let mut stage = Stage::All;
            if let (Some(Way { algorithm, .. }), Kernel::Contract(k)) = (way, &kernel) {
                let task = self.parts.task(k, None, layout.max_batch)?;
                let split = task.split(k);
                let work = self.room(1, work_bytes(&task, split.goal));
                if let Some(turn) = split.turn {
                    self.push_kernel(&Kernel::Loop(turn), (l.kernel, Stage::Before), &group.turns(1, work), &name)?;
                }
                if let Goal::Scratch(arg) = split.goal {
                    let turned = turned_bytes(&task);
                    group.put(arg, Place { offset: work.offset + turned, bytes: work.bytes - turned, ..work });
                }
                let kept = match split.goal {
                    Goal::Arg(arg) => vec![0, 1, arg as u32],
                    Goal::Scratch(_) => vec![0, 1],
                };
                let mut touches = touches(&kernel, &group, &kept);
                touches.push((work, Access::Write));
                let made = Made { contract: k.clone(), follower: None, goal: split.goal, algorithm };
                self.push(What::Library(Box::new(made)), group.clone(), work, touches, &name);
                let Some(rest) = split.rest else { continue };
                kernel = Kernel::Loop(rest);
                stage = Stage::After;
            }
            self.push_kernel(&kernel, (l.kernel, stage), &group, &name)?;
        }
        self.launch += 1;
        Ok(false)
    }

    /// Adds a product that does what the launch after its own does too.
    fn launch_joined(
        &mut self,
        k: &Contract,
        way: Way,
        follower: Follower,
        launches: [&Launch; 2],
        name: &Arc<str>,
    ) -> Result<(), DeviceError> {
        let Making { plan, layout, memory, caps, .. } = *self;
        let kernels = launches.map(|l| &plan.kernels[l.kernel as usize]);
        // Both have one segment.
        let [group, after] =
            launches.map(|l| Ok::<Group, DeviceError>(groups(plan, layout, memory, caps, l)?.remove(0)));
        let (mut group, after) = (group?, after?);
        let goal = Goal::Arg(follower.result);
        let task = self.parts.task(k, Some(&follower), layout.max_batch)?;
        let work = self.room(2, work_bytes(&task, goal));
        if let Some((arg, turn)) = follower.turn(k) {
            self.push_kernel(&Kernel::Loop(turn), (launches[0].kernel, Stage::Before), &after.turns(arg, work), name)?;
        }
        let which: Vec<u32> = follower.args().map(|arg| arg as u32).collect();
        let mut touches = [touches(kernels[0], &group, &[0, 1]), touches(kernels[1], &after, &which)].concat();
        touches.push((work, Access::Write));
        let follower = follower.after(group.windows.len());
        group.windows.extend(after.windows);
        let (contract, goal, algorithm) = (k.clone(), Goal::Arg(follower.result), way.algorithm);
        let made = Made { contract, follower: Some(follower), goal, algorithm };
        self.push(What::Library(Box::new(made)), group, work, touches, name);
        Ok(())
    }

    /// Adds the launches of a kernel of ours, which is what `of` says of the plan's kernels.
    fn push_kernel(
        &mut self,
        kernel: &Kernel,
        of: (u32, Stage),
        group: &Group,
        name: &Arc<str>,
    ) -> Result<(), DeviceError> {
        let n_segments = group.numbers.len();
        let key = (of, n_segments, extents_and_maps(kernel));
        if !self.written.contains_key(&key) {
            let texts = codegen::shaders(kernel, n_segments, self.caps);
            let texts = texts.map_err(|e| DeviceError::Unsupported(format!("{name}: {e}")))?;
            let numbers = texts.into_iter().map(|shader| self.number(shader)).collect();
            self.written.insert(key.clone(), numbers);
        }
        for number in self.written[&key].clone() {
            let shader = &self.parts.shaders[number];
            let mut touches = touches(kernel, group, &shader.args);
            touches.extend(shader.scratch.iter().map(|_| WORKING_MEMORY));
            self.push(What::Shader(number), group.clone(), WORKING_MEMORY.0, touches, name);
        }
        Ok(())
    }

    /// The number of a shader; equal ones have one.
    fn number(&mut self, shader: Shader) -> usize {
        let key = format!("{:?} {:?} {:?} {}", shader.params, shader.grid, shader.args, shader.source);
        *self.known.entry(key).or_insert_with(|| {
            self.parts.shaders.push(shader);
            self.parts.shaders.len() - 1
        })
    }

    /// Where a library works while the next `n` launches run: in memory of values that are not alive then. Where values share none, so that launches need
    /// not wait for each other, it has memory of its own.
    fn room(&self, n: u32, bytes: u64) -> Place {
        let Making { plan, layout, .. } = *self;
        if layout.transient_bytes == layout.unshared_bytes {
            return Place { bytes, ..WORKING_MEMORY.0 };
        }
        let (first, end) = (self.launch as u32, self.launch as u32 + n);
        let is_alive = |b: &Buffer| b.space == Space::Transient && b.first < end && first <= b.last;
        let alive = plan.buffers.iter().zip(layout.offsets.iter().zip(&layout.sizes)).filter(|(b, _)| is_alive(b));
        let mut taken: Vec<(u64, u64)> = alive.map(|(_, (&at, &size))| (at as u64, (at + size) as u64)).collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + bytes <= start {
                break;
            }
            offset = offset.max(end.next_multiple_of(plan.align_bytes as u64));
        }
        Place { piece: Piece::Arena, offset, bytes }
    }

    fn push(&mut self, what: What, group: Group, work: Place, touches: Vec<Touch>, name: &Arc<str>) {
        let (launch, params_at) = (self.launch, self.parts.n_params());
        self.parts.list.push(Part { launch, what, group, work, touches, params_at, name: name.clone() });
    }
}

/// What kernels of one launch share apart from the values of a step, which every launch that needs some has to itself.
const WORKING_MEMORY: Touch = (Place { piece: Piece::Scratch, offset: 0, bytes: u64::MAX }, Access::Write);

/// What the arguments `which` of a launch read and write, over all segments.
fn touches(kernel: &Kernel, group: &Group, which: &[u32]) -> Vec<Touch> {
    let args = kernel.args();
    let of = |&arg: &u32| match group.windows[arg as usize] {
        Place { piece: Piece::Scratch, .. } => WORKING_MEMORY,
        place => (place, args[arg as usize].access),
    };
    which.iter().map(of).collect()
}

/// In what kernels of one number in the plan may differ: their extents, and which of their strides and offsets each segment has its own of.
fn extents_and_maps(kernel: &Kernel) -> (Vec<Dim>, Vec<Map>) {
    match kernel {
        Kernel::Loop(k) => (k.axes.clone(), k.maps().into_iter().cloned().collect()),
        Kernel::Contract(_) | Kernel::Window(_) | Kernel::Scatter(_) | Kernel::Sort(_) | Kernel::Scan(_) => {
            Default::default()
        }
    }
}
