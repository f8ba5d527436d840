//! A step as launches of kernels. Takes a plan and where memory is, gives texts to compile and, for each batch size, parameter words and nodes.
//! Never calls the driver.

mod bind;
mod group;
mod make;

use crate::driver::{ASK, Algorithm, Function};
use crate::follow::{Follower, followers};
use crate::memory::{Piece, Place};
use crate::product::Product;
use crate::rows::Touch;
use crate::task::{Goal, Task};
use crate::texts::Text;
use group::Group;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::{Grid, Shader};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::{Contract, Kernel};
use wholestep_compiler::plan::Plan;

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
    /// What it works in beside its arguments.
    work: Place,
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

impl Ways {
    /// Keeps what holds on larger batches, up to `most`, too: who makes what, but not in which way, and not what a library cannot say of so many.
    pub fn outgrow(&mut self, plan: &Plan, most: usize) {
        let (followers, tf32) = (followers(plan), self.tf32);
        self.by_library.retain(|&kernel, way| {
            let Kernel::Contract(k) = &plan.kernels[kernel] else { return false };
            let follower = followers.get(&(kernel as u32));
            way.algorithm = None;
            way.joins &= follower.is_some_and(|f| Task::of_all(k, Some(f), most, tf32).is_some());
            Task::of_all(k, None, most, tf32).is_some()
        });
    }
}

/// Bytes that a library gets to work in.
pub const WORKSPACE_BYTES: u64 = 32 << 20;
/// What scratch memory is divided at.
const ALIGN_BYTES: u64 = 256;
/// Words of the addresses of three matrices, with room for whole vectors.
const LIST_WORDS: usize = 8;
/// Words of a vector of parameters.
pub const VECTOR: usize = 4;

impl Parts {
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

    /// The end of what libraries work in among the values of a step.
    pub fn arena_bytes(&self) -> u64 {
        let in_arena = self.list.iter().map(|part| part.work).filter(|work| work.piece == Piece::Arena);
        in_arena.map(|work| work.offset + work.bytes).max().unwrap_or(0)
    }

    /// Bytes that kernels of one launch share apart from the values of a step, the most of all.
    pub fn scratch_bytes(&self) -> u64 {
        let of = |part: &Part| match &part.what {
            What::Shader(i) => {
                let count = self.shaders[*i].scratch.as_ref();
                let words = |numbers: &Vec<Dim>| count.map_or(0, |count| count.at(self.max_batch, numbers));
                4 * part.group.numbers.iter().map(words).sum::<u64>()
            }
            What::Library(_) if part.work.piece == Piece::Scratch => part.work.bytes,
            What::Library(_) => 0,
        };
        self.list.iter().map(of).max().unwrap_or(0)
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

    fn n_params(&self) -> usize {
        self.list.last().map_or(0, |p| p.params_at + self.n_words(p))
    }

    /// The bytes of [`Parts::params`] and of the words that count trips.
    pub fn params_bytes(&self) -> u64 {
        4 * (self.n_params() + self.n_loops) as u64
    }
}

impl Part {
    fn blocks(&self, grid: &Grid, batch: usize) -> [u64; 3] {
        let numbers = &self.group.numbers;
        match grid {
            Grid::Line(count) => [numbers.iter().map(|n| count.at(batch, n)).sum(), 1, 1],
            Grid::Box(counts) => std::array::from_fn(|i| counts[i].at(batch, &numbers[0])),
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

/// Bytes that a library needs beside its arguments: turned weights or a rounded bias, the result, and what it works in.
fn work_bytes(task: &Task, goal: Goal) -> u64 {
    turned_bytes(task) + raw_bytes(task, goal) + WORKSPACE_BYTES
}
