//! Parts on a batch size: parameter words, and nodes with addresses and blocks. Never writes a text.

use super::{Made, Part, Parts, Shares, Step, VECTOR, WORKSPACE_BYTES, What, raw_bytes, turned_bytes};
use crate::driver::{Function, KernelCall, LoopCall, Node, Param, ProductCall, Work};
use crate::memory::Memory;
use crate::product::Matrix;
use crate::rows;
use crate::task::{Goal, Task};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::{Grid, Shader, Word, cuda};

/// Blocks along the first axis, and along the others.
const MOST_BLOCKS: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];

impl Parts {
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
        let work_at = memory.address(part.work.piece, part.work.offset, inputs_at);
        let mut task = self.task(contract, follower.as_ref(), batch)?;
        if let Task::Product(p) = &mut task {
            p.listed = self.is_listed(part, p);
        }
        let is_listed = matches!(&task, Task::Product(p) if p.listed);
        let bias = follower.as_ref().and_then(|f| f.bias).map(|(arg, dtype)| match dtype == task.result() {
            true => address(arg),
            false => work_at,
        });
        let operand = |arg: usize, m: &Matrix| address(arg) + m.offset * m.dtype.size_bytes() as u64;
        // One after the other: turned weights or a rounded bias, the result, the library's workspace.
        let result_at = work_at + turned_bytes(&task);
        let (lhs, rhs, turned_from) = match &task {
            Task::Product(p) => (operand(0, &p.lhs), operand(1, &p.rhs), None),
            Task::Convolution(_) if turned_bytes(&task) == 0 => (address(0), address(1), None),
            Task::Convolution(_) => (address(0), work_at, Some(address(1))),
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

impl Part {
    fn address(&self, arg: usize, memory: &Memory, inputs_at: u64) -> u64 {
        let place = self.group.windows[arg];
        memory.address(place.piece, place.offset, inputs_at)
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
