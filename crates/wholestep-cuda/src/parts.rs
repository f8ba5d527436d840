//! A step as launches of kernels. Takes a plan and where memory is, gives texts to compile and, for each batch size, parameter words and nodes.
//! Never calls the driver.

use crate::driver::{ASK, Algorithm, Function, KernelCall, LoopCall, Node, Param, ProductCall, Work};
use crate::follow::{Follower, followers};
use crate::memory::{Memory, Piece, Place};
use crate::product::{Matrix, Product};
use crate::rows::{self, Touch};
use crate::task::{Goal, Task};
use crate::texts::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::together::{Together, together};
use wholestep_compiler::codegen::{self, Grid, Shader, Word, cuda};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::{Access, Contract, Kernel, Map};
use wholestep_compiler::plan::{Item, Launch, Layout, Plan, Segment};

/// All kernels of a step in order.
pub struct Parts {
    pub list: Vec<Part>,
    steps: Vec<Step>,
    /// Where the trips of each loop are counted, behind the parameters.
    n_loops: usize,
    /// Each once.
    shaders: Vec<Shader>,
    /// What rows run, each once.
    texts: Vec<Text>,
    max_batch: usize,
    tf32: bool,
    lists: bool,
}

/// One launch of a kernel.
pub struct Part {
    /// Index into the plan's launches.
    pub launch: usize,
    what: What,
    group: Group,
    /// What it reads and writes.
    pub touches: Vec<Touch>,
    /// Where its parameters begin among all, in words.
    params_at: usize,
    name: Arc<str>,
}

/// What is done in order.
enum Step {
    /// Parts by their numbers, which do not depend on each other: one launch.
    Row {
        parts: Vec<usize>,
        /// `None` for a product of the library.
        text: Option<usize>,
        name: Arc<str>,
    },
    Loop {
        number: usize,
        max_trips: u32,
        predicate: Place,
        body: Vec<Step>,
    },
}

/// The launches that a node is of, with the share of its time that is theirs.
pub type Shares = Vec<(usize, f64)>;

/// What a launch runs.
enum What {
    /// The kernel of a text.
    Shader(usize),
    Library(Box<Made>),
}

/// What a library makes.
struct Made {
    contract: Contract,
    /// What it does of the launch that follows, by arguments of the part.
    follower: Option<Follower>,
    goal: Goal,
    algorithm: Option<Algorithm>,
}

/// A way of a library to make a contraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The library's own first choice if there is none.
    pub algorithm: Option<Algorithm>,
    /// Whether it does what follows too.
    pub joins: bool,
}

/// The contractions, by the number of the kernel, that a library makes, and the ways that were chosen for the largest batch.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    pub by_library: BTreeMap<usize, Way>,
    /// Whether operands of f32 may be rounded to 19 bits.
    pub tf32: bool,
    /// Whether the library takes lists of addresses.
    pub lists: bool,
}

/// Segments that run as one launch.
#[derive(Clone)]
struct Group {
    /// What its text is made of.
    kernel: Kernel,
    /// By segment: its axes and what else it has its own of.
    numbers: Vec<Vec<Dim>>,
    /// By argument: the part of memory over all segments.
    windows: Vec<Place>,
    /// By segment and argument: where it begins in its window, in elements.
    offsets: Vec<Vec<u32>>,
}

/// Bytes that a library gets to work in.
pub const WORKSPACE_BYTES: u64 = 32 << 20;
/// What scratch memory is divided at.
const ALIGN_BYTES: u64 = 256;
/// Words of the addresses of three matrices, with room for whole vectors.
const LIST_WORDS: usize = 8;
/// Words of a vector of parameters.
const VECTOR: usize = 4;
/// Blocks along the first axis, and along the others.
const MOST_BLOCKS: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];

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

    /// Parameter words of a part.
    fn n_words(&self, part: &Part) -> usize {
        match &part.what {
            What::Shader(i) => self.shaders[*i].params.len().next_multiple_of(VECTOR) * part.group.numbers.len(),
            What::Library(made) => {
                let task = self.task(&made.contract, made.follower.as_ref(), self.max_batch);
                match task {
                    Ok(Task::Product(p)) if self.is_listed(part, &p) => LIST_WORDS * (p.outer * p.batch) as usize,
                    _ => 0,
                }
            }
        }
    }

    /// Whether a product reads the addresses of its matrices: where it would be several calls, and they are the same for each step.
    fn is_listed(&self, part: &Part, p: &Product) -> bool {
        self.lists && p.outer > 1 && part.group.windows.iter().all(|place| place.piece != Piece::Inputs)
    }

    /// The shader of a part and how many segments its launch has; `None` for a product of the library.
    pub fn shader(&self, part: &Part) -> Option<(&Shader, usize)> {
        match part.what {
            What::Shader(i) => Some((&self.shaders[i], part.group.numbers.len())),
            What::Library(_) => None,
        }
    }

    /// Blocks of a part at the largest batch.
    pub fn n_blocks(&self, part: &Part) -> u64 {
        self.shader(part).map_or(0, |(shader, _)| part.blocks(&shader.grid, self.max_batch).iter().product())
    }

    /// Launches of a step, those of a loop once.
    pub fn n_launches(&self) -> usize {
        fn count(steps: &[Step]) -> usize {
            let of = |step: &Step| match step {
                Step::Row { .. } => 1,
                Step::Loop { body, .. } => count(body),
            };
            steps.iter().map(of).sum()
        }
        count(&self.steps)
    }

    /// The text of each launch, each once, and last that of the kernel that loops need.
    pub fn texts(&self) -> Vec<Text> {
        let ask = (self.n_loops > 0).then(|| Text { source: ASK.to_string(), shared_bytes: 0, joins: false });
        self.texts.iter().cloned().chain(ask).collect()
    }

    /// Numbers of the texts that launches of the plan run.
    pub fn texts_of(&self, launches: &[usize]) -> BTreeSet<usize> {
        fn walk(parts: &Parts, steps: &[Step], launches: &[usize], found: &mut BTreeSet<usize>) {
            for step in steps {
                match step {
                    Step::Row { parts: row, text, .. } => {
                        let is_asked = row.iter().any(|&i| launches.contains(&parts.list[i].launch));
                        found.extend(text.filter(|_| is_asked));
                    }
                    Step::Loop { body, .. } => walk(parts, body, launches, found),
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(self, &self.steps, launches, &mut found);
        found
    }

    /// The texts that launches of the plan run.
    pub fn texts_for(&self, launches: &[usize]) -> Vec<Text> {
        let texts = self.texts();
        self.texts_of(launches).into_iter().map(|i| texts[i].clone()).collect()
    }

    /// For each text no function.
    pub fn no_functions(&self) -> Vec<Function> {
        vec![Function(0); self.texts.len() + usize::from(self.n_loops > 0)]
    }

    /// Bytes that kernels of one launch share, the most of all.
    /// Errors: see [`Parts::nodes`].
    pub fn scratch_bytes(&self) -> Result<u64, DeviceError> {
        let of = |part: &Part| match &part.what {
            What::Shader(i) => {
                let count = self.shaders[*i].scratch.as_ref();
                let words = |numbers: &Vec<Dim>| count.map_or(0, |count| count.at(self.max_batch, numbers));
                Ok(4 * part.group.numbers.iter().map(words).sum::<u64>())
            }
            What::Library(made) => {
                let task = self.task(&made.contract, made.follower.as_ref(), self.max_batch)?;
                Ok(turned_bytes(&task) + raw_bytes(&task, made.goal) + WORKSPACE_BYTES)
            }
        };
        self.list.iter().map(of).try_fold(0, |most, bytes| Ok(most.max(bytes?)))
    }

    fn task(&self, k: &Contract, follower: Option<&Follower>, batch: usize) -> Result<Task, DeviceError> {
        let what =
            || DeviceError::Unsupported(format!("a product on a batch of {batch} as on one of {}", self.max_batch));
        let joined = |task: Task| match follower {
            Some(follower) => task.joined(follower, batch),
            None => Some(task),
        };
        Task::of(k, batch, self.tf32).and_then(joined).ok_or_else(what)
    }

    /// The parameter words of all parts for a batch size.
    /// Errors: see [`Parts::nodes`].
    pub fn params(&self, memory: &Memory, batch: usize) -> Result<Vec<u32>, DeviceError> {
        let mut words = Vec::new();
        for part in &self.list {
            let shader = match &part.what {
                What::Shader(i) => &self.shaders[*i],
                What::Library(made) => {
                    let lists = self.call(part, made, memory, batch, 0)?.lists();
                    let lists = lists.map_or(Vec::new(), |(_, bytes)| bytes);
                    words.extend(lists.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word)));
                    words.resize(part.params_at + self.n_words(part), 0);
                    continue;
                }
            };
            let (mut first, mut first_scratch) = (0, 0);
            for (numbers, offsets) in part.group.numbers.iter().zip(&part.group.offsets) {
                words.extend(shader.params.iter().map(|word| match *word {
                    Word::FirstGroup => first as u32,
                    Word::FirstScratch => first_scratch as u32,
                    Word::Offset(arg) => offsets[arg as usize],
                    other => other.at(batch, numbers),
                }));
                words.resize(words.len().next_multiple_of(VECTOR), 0);
                if let Grid::Line(count) = &shader.grid {
                    first += count.at(batch, numbers);
                }
                first_scratch += shader.scratch.as_ref().map_or(0, |count| count.at(batch, numbers));
            }
        }
        Ok(words)
    }

    fn n_params(&self) -> usize {
        self.list.last().map_or(0, |p| p.params_at + self.n_words(p))
    }

    /// The bytes of [`Parts::params`] and of the words that count trips.
    pub fn params_bytes(&self) -> u64 {
        4 * (self.n_params() + self.n_loops) as u64
    }

    /// The step on a batch whose inputs begin at an address, as nodes, and by leaf the launches that it is of with the share of its time that is
    /// theirs. What has nothing to do is left out.
    /// Errors: a launch is too large for the device.
    pub fn nodes(
        &self,
        memory: &Memory,
        functions: &[Function],
        batch: usize,
        inputs_at: u64,
    ) -> Result<(Vec<Node>, Vec<Shares>), DeviceError> {
        let words = self.params(memory, batch)?;
        let mut bound = Bound { parts: self, memory, functions, batch, inputs_at, words, launches: Vec::new() };
        let nodes = bound.nodes(&self.steps)?;
        Ok((nodes, bound.launches))
    }

    fn kernel(
        &self,
        part: &Part,
        shader: &Shader,
        params: &[u32],
        function: Function,
        address: &dyn Fn(usize) -> u64,
        memory: &Memory,
        batch: usize,
    ) -> Result<KernelCall, DeviceError> {
        let blocks = part.blocks(&shader.grid, batch);
        if blocks.iter().zip(MOST_BLOCKS).any(|(&n, most)| n > most) {
            return Err(DeviceError::Unsupported(format!("{blocks:?} blocks in one launch, of {}", part.name)));
        }
        let mut args: Vec<Param> = shader.args.iter().map(|&arg| Param::Address(address(arg as usize))).collect();
        if !params.is_empty() {
            args.push(match cuda::params_by_value(shader, part.group.numbers.len()) {
                true => Param::Words(params.to_vec()),
                false => Param::Address(memory.params_at + 4 * part.params_at as u64),
            });
        }
        if shader.scratch.is_some() {
            args.push(Param::Address(memory.scratch_at));
        }
        let threads = shader.workgroup.iter().product();
        let grid = blocks.map(|n| n as u32);
        Ok(KernelCall { function, grid, threads, shared_bytes: shader.shared_bytes, args })
    }

    fn call(
        &self,
        part: &Part,
        made: &Made,
        memory: &Memory,
        batch: usize,
        inputs_at: u64,
    ) -> Result<ProductCall, DeviceError> {
        let Made { contract, follower, goal, algorithm } = made;
        let address = |arg: usize| part.address(arg, memory, inputs_at);
        let mut task = self.task(contract, follower.as_ref(), batch)?;
        if let Task::Product(p) = &mut task {
            p.listed = self.is_listed(part, p);
        }
        let is_listed = matches!(&task, Task::Product(p) if p.listed);
        let bias = follower.as_ref().and_then(|f| f.bias).map(|(arg, dtype)| match dtype == task.result() {
            true => address(arg),
            false => memory.scratch_at,
        });
        let operand = |arg: usize, m: &Matrix| address(arg) + m.offset * m.dtype.size_bytes() as u64;
        // In scratch memory: turned weights or a rounded bias, the result, the library's workspace.
        let result_at = memory.scratch_at + turned_bytes(&task);
        let (lhs, rhs, turned_from) = match &task {
            Task::Product(p) => (operand(0, &p.lhs), operand(1, &p.rhs), None),
            Task::Convolution(_) if turned_bytes(&task) == 0 => (address(0), address(1), None),
            Task::Convolution(_) => (address(0), memory.scratch_at, Some(address(1))),
        };
        let is_for_any = matches!(task, Task::Convolution(_));
        Ok(ProductCall {
            lhs,
            rhs,
            turned_from,
            result: match goal {
                Goal::Arg(arg) => address(*arg),
                Goal::Scratch(_) => result_at,
            },
            bias,
            lists: is_listed.then_some(memory.params_at + 4 * part.params_at as u64),
            aux: follower.as_ref().and_then(|f| f.aux).map(address),
            workspace: result_at + raw_bytes(&task, *goal),
            workspace_bytes: WORKSPACE_BYTES,
            // What was chosen for one size of a product need not do another.
            algorithm: algorithm.filter(|_| is_for_any || batch == self.max_batch),
            task,
        })
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
                if let Some(turn) = split.turn {
                    self.push_kernel(&Kernel::Loop(turn), (l.kernel, Stage::Before), &group.turns(1), &name)?;
                }
                if let Goal::Scratch(arg) = split.goal {
                    group.put(arg, turned_bytes(&task));
                }
                let kept = match split.goal {
                    Goal::Arg(arg) => vec![0, 1, arg as u32],
                    Goal::Scratch(_) => vec![0, 1],
                };
                let mut touches = touches(&kernel, &group, &kept);
                touches.push(WORKING_MEMORY);
                let made = Made { contract: k.clone(), follower: None, goal: split.goal, algorithm };
                self.push(What::Library(Box::new(made)), group.clone(), touches, &name);
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
        if let Some((arg, turn)) = follower.turn(k) {
            self.push_kernel(&Kernel::Loop(turn), (launches[0].kernel, Stage::Before), &after.turns(arg), name)?;
        }
        let which: Vec<u32> = follower.args().map(|arg| arg as u32).collect();
        let mut touches = [touches(kernels[0], &group, &[0, 1]), touches(kernels[1], &after, &which)].concat();
        touches.push(WORKING_MEMORY);
        let follower = follower.after(group.windows.len());
        group.windows.extend(after.windows);
        let (contract, goal, algorithm) = (k.clone(), Goal::Arg(follower.result), way.algorithm);
        let made = Made { contract, follower: Some(follower), goal, algorithm };
        self.push(What::Library(Box::new(made)), group, touches, name);
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
            self.push(What::Shader(number), group.clone(), touches, name);
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

    fn push(&mut self, what: What, group: Group, touches: Vec<Touch>, name: &Arc<str>) {
        let (launch, params_at) = (self.launch, self.parts.n_params());
        self.parts.list.push(Part { launch, what, group, touches, params_at, name: name.clone() });
    }
}

/// Parts on a batch size, while their nodes are made.
struct Bound<'a> {
    parts: &'a Parts,
    memory: &'a Memory,
    functions: &'a [Function],
    batch: usize,
    inputs_at: u64,
    /// [`Parts::params`].
    words: Vec<u32>,
    /// By leaf.
    launches: Vec<Shares>,
}

impl Bound<'_> {
    fn nodes(&mut self, steps: &[Step]) -> Result<Vec<Node>, DeviceError> {
        let mut nodes = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Row { parts, text, name } => {
                    let function = text.map_or(Function(0), |text| self.functions[text]);
                    let list = parts.iter().map(|&i| &self.parts.list[i]);
                    let works = list.clone().map(|part| self.work(part, function)).collect::<Result<Vec<_>, _>>()?;
                    let all = works.iter().map(rows::share).sum::<f64>().max(1.0);
                    let shares = list.zip(&works).map(|(part, work)| (part.launch, rows::share(work) / all)).collect();
                    if let Some(work) = rows::joined(function, works) {
                        self.launches.push(shares);
                        nodes.push(Node { work, name: name.clone() });
                    }
                }
                Step::Loop { number, max_trips, predicate, body } => {
                    let body = self.nodes(body)?;
                    if body.is_empty() {
                        continue;
                    }
                    let call = LoopCall {
                        predicate: self.memory.address(predicate.piece, predicate.offset, self.inputs_at),
                        max_trips: *max_trips,
                        counter: self.memory.params_at + 4 * (self.parts.n_params() + number) as u64,
                        ask: *self.functions.last().expect("bug: a loop without its kernel"),
                        body,
                    };
                    nodes.push(Node { work: Work::Loop(call), name: "a loop".into() });
                }
            }
        }
        Ok(nodes)
    }

    /// What a part does; a kernel that has nothing to do comes without blocks.
    fn work(&self, part: &Part, function: Function) -> Result<Work, DeviceError> {
        let Bound { parts, memory, batch, inputs_at, .. } = *self;
        let address = |arg: usize| part.address(arg, memory, inputs_at);
        match &part.what {
            What::Shader(i) => {
                let params = &self.words[part.params_at..][..parts.n_words(part)];
                let shader = &parts.shaders[*i];
                parts.kernel(part, shader, params, function, &address, memory, batch).map(Work::Kernel)
            }
            What::Library(made) => {
                parts.call(part, made, memory, batch, inputs_at).map(|call| Work::Product(Box::new(call)))
            }
        }
    }
}

/// Bytes of a result that only a kernel of ours reads.
fn raw_bytes(task: &Task, goal: Goal) -> u64 {
    match goal {
        Goal::Arg(_) => 0,
        Goal::Scratch(_) => task.result_bytes().next_multiple_of(ALIGN_BYTES),
    }
}

fn turned_bytes(task: &Task) -> u64 {
    task.turned_bytes().next_multiple_of(ALIGN_BYTES)
}

impl Group {
    /// Lets an argument, which may be one more than there are, begin in scratch memory.
    fn put(&mut self, arg: usize, offset: u64) {
        let place = Place { piece: Piece::Scratch, offset, bytes: 0 };
        if arg == self.windows.len() {
            self.windows.push(place);
            self.offsets.iter_mut().for_each(|o| o.push(0));
        } else {
            self.windows[arg] = place;
        }
    }

    /// The arguments of the loop that turns argument `arg` for a library.
    fn turns(&self, arg: usize) -> Group {
        let turned = Place { piece: Piece::Scratch, offset: 0, bytes: 0 };
        Group {
            kernel: self.kernel.clone(),
            numbers: vec![Vec::new(); self.numbers.len()],
            windows: vec![self.windows[arg], turned],
            offsets: self.offsets.iter().map(|o| vec![o[arg], 0]).collect(),
        }
    }
}

/// All that kernels of one launch share, which every launch that needs some has to itself.
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

impl Part {
    fn address(&self, arg: usize, memory: &Memory, inputs_at: u64) -> u64 {
        let place = self.group.windows[arg];
        memory.address(place.piece, place.offset, inputs_at)
    }

    fn blocks(&self, grid: &Grid, batch: usize) -> [u64; 3] {
        let numbers = &self.group.numbers;
        match grid {
            Grid::Line(count) => [numbers.iter().map(|n| count.at(batch, n)).sum(), 1, 1],
            Grid::Box(counts) => std::array::from_fn(|i| counts[i].at(batch, &numbers[0])),
        }
    }
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

/// Segments that can run as one launch: argument i of all of them lies in one piece of memory, and elements are counted from the first with 32 bits.
fn groups(plan: &Plan, layout: &Layout, memory: &Memory, caps: &Caps, l: &Launch) -> Result<Vec<Group>, DeviceError> {
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
    (a.piece == b.piece && a.piece != Piece::Inputs && !too_long(&both, size)).then_some(both)
}
