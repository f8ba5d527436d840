//! How contractions are made. Takes a plan and what is known by now, gives each contraction a choice: that of an earlier run which goes on, else
//! that of the cache, else the fastest of a few that are timed here, else the table's. Never uses a timed choice whose numbers are not those
//! of the generic kernel, times nothing twice, and changes no bit of what an earlier process computed: what that had no time for is timed later,
//! among the ways that add in the same order.

mod measure;
mod workers;

use crate::adapter::Gpu;
use crate::cache::{Kept, New};
use measure::{Compiled, Measure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{Choices, DeviceError, MadeChoice, Origin};
use wholestep_compiler::caps::{Caps, Workgroups};
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::choice::{self, Choice};
use wholestep_compiler::codegen::{contract, direct};
use wholestep_compiler::kernel::{Contract, Kernel};
use wholestep_compiler::plan::{BufferId, Plan, Size};
use workers::{Made, Workers};

/// What a backend may measure and keep.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where choices and compiled pipelines are kept between processes; without, nothing is read or written.
    pub cache: Option<PathBuf>,
    pub tune: Tune,
    /// The time that one plan may take for it; contractions that are not timed by then are made as the table says.
    pub budget: Duration,
}

/// Whether contractions are timed at their first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tune {
    /// The table decides.
    Never,
    /// Not on software devices, which are for tests.
    OnGpu,
    Always,
}

impl Default for Config {
    /// Nothing is measured or kept.
    fn default() -> Config {
        Config { cache: None, tune: Tune::Never, budget: Duration::from_millis(900) }
    }
}

/// The choices of a plan.
#[derive(Default)]
pub struct Chosen {
    by_kernel: Vec<Option<Choice>>,
    pub choices: Choices,
    /// How many contractions were timed.
    pub timings: u64,
}

impl Chosen {
    pub fn of(&self, kernel: usize) -> Option<Choice> {
        self.by_kernel.get(kernel).copied().flatten()
    }
}

/// Contractions of one name.
struct Named<'a> {
    name: String,
    kernel: &'a Contract,
    /// Bytes of each argument after the result.
    others: Vec<u64>,
    /// How many launches it is.
    launches: usize,
    /// The choice that an earlier process made without timing it.
    from: Option<Choice>,
    made: Option<(Choice, Origin)>,
    /// Whether there was no time for it.
    is_left: bool,
}

impl Named<'_> {
    /// What is kept of it.
    fn made_now(&self) -> Option<New> {
        let kept = Kept { name: self.name.clone(), choice: self.made?.0.to_string(), is_timed: !self.is_left };
        Some(New { kept, from: self.from.map(|choice| choice.to_string()) })
    }

    /// What is worth timing.
    fn candidates(&self, workgroups: &Workgroups, max_batch: usize) -> Vec<Choice> {
        match self.from {
            Some(from) => choice::alike(self.kernel, workgroups, max_batch, from),
            None => choice::candidates(self.kernel, workgroups, max_batch),
        }
    }

    /// Takes what another process kept for this name while this one timed.
    fn agree(&mut self, kept: &[Kept], workgroups: &Workgroups) {
        let theirs = kept.iter().find(|k| k.name == self.name);
        let theirs = theirs.and_then(|k| Choice::read(&k.choice, self.kernel, workgroups));
        if let (Some(theirs), Some((mine, _))) = (theirs, self.made)
            && theirs != mine
        {
            self.made = Some((theirs, Origin::Cached));
        }
    }
}

/// Chooses for the contractions of a plan of which some of `launches` are. `recorded` holds choices by name that an earlier run made.
pub fn choose(
    gpu: &Gpu,
    plan: &Plan,
    launches: &[usize],
    max_batch: usize,
    recorded: &BTreeMap<String, String>,
) -> Result<Chosen, DeviceError> {
    let Some(workgroups) = &gpu.caps.workgroups else { return Ok(Chosen::default()) };
    let cached: BTreeMap<String, Kept> =
        gpu.cache.iter().flat_map(|c| c.choices()).map(|k| (k.name.clone(), k)).collect();
    let (mut all, name_of) = named(plan, launches, max_batch, &gpu.caps, workgroups);
    let mut chosen = Chosen::default();
    for named in &mut all {
        let read = |text: &String| Choice::read(text, named.kernel, workgroups);
        let kept = cached.get(&named.name).and_then(|k| Some((read(&k.choice)?, k.is_timed)));
        let asked = recorded.get(&named.name);
        if let Some(text) = asked.filter(|text| read(text).is_none()) {
            chosen.choices.unlike.push(format!("{}: by {text}, which is not made here", named.name));
        }
        named.made = match (asked.and_then(read), kept) {
            (Some(choice), _) => Some((choice, Origin::Recorded)),
            (None, Some((choice, is_timed))) if is_timed || !gpu.tunes => Some((choice, Origin::Cached)),
            (None, kept) => {
                named.from = kept.map(|(choice, _)| choice);
                None
            }
        };
    }
    let mut open: Vec<&mut Named> = all.iter_mut().filter(|n| n.made.is_none()).collect();
    if gpu.tunes && !open.is_empty() {
        let mut tuner = Tuner { gpu, workgroups, max_batch, shaders: contract::shaders_with, notes: Vec::new() };
        chosen.timings = tuner.tune(&mut open)?;
        chosen.choices.notes = tuner.notes;
    }
    for named in &mut open {
        let untimed = || match named.from {
            Some(choice) => (choice, Origin::Cached),
            None => (choice::table(named.kernel, workgroups), Origin::Table),
        };
        named.made = named.made.or_else(|| Some(untimed()));
    }
    if let (Some(cache), true) = (&gpu.cache, gpu.tunes && !open.is_empty()) {
        let new: Vec<New> = open.iter().filter_map(|n| n.made_now()).collect();
        match cache.add_choices(&new) {
            Ok(kept) => open.iter_mut().for_each(|n| n.agree(&kept, workgroups)),
            Err(e) => chosen.choices.notes.push(e),
        }
    }
    for (kernel, name) in name_of.into_iter().enumerate() {
        let made = name.and_then(|i| Some((&all[i].name, all[i].made?)));
        chosen.by_kernel.push(made.map(|(_, (choice, _))| choice));
        if let Some((name, (choice, origin))) = made {
            let choice = choice.to_string();
            chosen.choices.made.push(MadeChoice { kernel, name: name.clone(), choice, origin });
        }
    }
    Ok(chosen)
}

/// The contractions that have a choice and are `launches`, by name in the order of the plan, and for each kernel which of them it is.
fn named<'a>(
    plan: &'a Plan,
    launches: &[usize],
    max_batch: usize,
    caps: &Caps,
    workgroups: &Workgroups,
) -> (Vec<Named<'a>>, Vec<Option<usize>>) {
    let mut all: Vec<Named> = Vec::new();
    let mut name_of = vec![None; plan.kernels.len()];
    let in_order = plan.launches();
    for launch in launches.iter().map(|&l| in_order[l]) {
        let kernel = launch.kernel as usize;
        let Some(k) = contraction(&plan.kernels[kernel], workgroups) else { continue };
        let name = choice::key(k, max_batch);
        let at = all.iter().position(|n| n.name == name).unwrap_or_else(|| {
            let args = launch.segments.first().map_or(&[][..], |s| &s.args);
            let others = args.iter().skip(3).map(|id| bytes(plan, *id, max_batch, caps)).collect();
            all.push(Named { name, kernel: k, others, launches: 0, from: None, made: None, is_left: false });
            all.len() - 1
        });
        all[at].launches += 1;
        name_of[kernel] = Some(at);
    }
    (all, name_of)
}

/// Bytes of a buffer on the device.
fn bytes(plan: &Plan, id: BufferId, max_batch: usize, caps: &Caps) -> u64 {
    let buffer = &plan.buffers[id.0 as usize];
    match &buffer.size {
        Size::Elements(shape) => (shape.numel_at(max_batch) * caps.stored_bytes(buffer.dtype)) as u64,
        Size::Scratch { .. } => 0,
    }
}

fn contraction<'a>(kernel: &'a Kernel, workgroups: &Workgroups) -> Option<&'a Contract> {
    match kernel {
        Kernel::Contract(k) if choice::has_choice(k, workgroups) => Some(k),
        Kernel::Contract(_)
        | Kernel::Loop(_)
        | Kernel::Window(_)
        | Kernel::Scatter(_)
        | Kernel::Sort(_)
        | Kernel::Scan(_) => None,
    }
}

struct Tuner<'a> {
    gpu: &'a Gpu,
    workgroups: &'a Workgroups,
    max_batch: usize,
    /// What makes the shaders of a choice: a test puts wrong ones here.
    shaders: fn(&Contract, &Workgroups, Choice) -> Vec<Shader>,
    notes: Vec<String>,
}

/// The part of the budget in which candidates begin to be compiled, and the part in which what the fastest are compared with does: what has
/// begun is ended.
const COMPILING: f64 = 0.7;
const COMPARING: f64 = 0.9;

/// Something to compile for the trial of a number. Ways are timed and compared without their epilogues: those are the same for all, and an
/// optimizer's text would take the driver longer to compile than the product's.
#[derive(Clone, Copy)]
enum Job {
    Way(usize, Choice),
    /// What ways are compared with.
    Generic(usize),
    /// A way with its epilogue, which leaves the bits that another left.
    Whole(usize, Choice),
}

/// What is known of a contraction's ways.
struct Trial {
    /// Index into what has no choice yet.
    open: usize,
    candidates: Vec<Choice>,
    /// How many texts it waits for.
    n_left: usize,
    /// Those that could be compiled in time: once all are back, in order of the time that they take.
    ways: Vec<(Choice, Arc<Compiled>)>,
    is_ranked: bool,
    generic: Option<Arc<Compiled>>,
    is_late: bool,
}

impl Tuner<'_> {
    /// Times what has no choice yet, the longest first, until the time is up; gives how many were timed.
    fn tune(&mut self, open: &mut [&mut Named]) -> Result<u64, DeviceError> {
        let begun = Instant::now();
        let weight = |n: &Named| {
            let table = choice::table(n.kernel, self.workgroups);
            choice::estimated_us(n.kernel, table, self.max_batch) * n.launches as f64
        };
        let mut order: Vec<(f64, usize)> = open.iter().enumerate().map(|(i, n)| (weight(n), i)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let kernels: Vec<_> = open.iter().map(|n| (n.kernel, n.others.as_slice())).collect();
        let (measure, fits) = Measure::new(self.gpu, &kernels, self.max_batch)?;
        let trial = |(_, i): (f64, usize)| {
            let candidates = open[i].candidates(self.workgroups, self.max_batch);
            let n_left = candidates.len();
            Trial { open: i, candidates, n_left, ways: Vec::new(), is_ranked: false, generic: None, is_late: false }
        };
        let several = order.into_iter().map(trial).filter(|t| fits[t.open] && t.candidates.len() > 1);
        let trials: Vec<Trial> = several.collect();
        let all = trials.len();
        trials.iter().for_each(|t| open[t.open].is_left = true);
        let found = self.found(&measure, open, trials, begun)?;
        let timed = found.len();
        for (i, choice) in found {
            open[i].is_left = false;
            open[i].made = choice.map(|choice| (choice, Origin::Timed));
        }
        if timed < all {
            let (n, budget) = (all - timed, self.gpu.budget);
            self.notes
                .push(format!("{n} of {all} contractions are made as before or as the table says: timing took all of {budget:?}; the next process with \
                     this cache goes on, with the same bits"));
        }
        self.notes.push(format!("timed {timed} contractions in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3));
        Ok(timed as u64)
    }

    /// The fastest way of each contraction whose numbers are right, or that there is none, for those that there was time for. The host's
    /// threads compile while the device times what they have compiled.
    fn found(
        &mut self,
        measure: &Measure,
        open: &[&mut Named],
        mut trials: Vec<Trial>,
        begun: Instant,
    ) -> Result<Vec<(usize, Option<Choice>)>, DeviceError> {
        let (gpu, workgroups, max_batch, shaders) = (self.gpu, self.workgroups, self.max_batch, self.shaders);
        let until = |part: f64| begun + gpu.budget.mul_f64(part);
        let kernels: Vec<(&Contract, Contract)> =
            trials.iter().map(|t| (open[t.open].kernel, bare(open[t.open].kernel))).collect();
        let texts = Texts { gpu, made: Mutex::default() };
        let make = |job: Job| match job {
            Job::Way(t, choice) => {
                let made = shaders(&kernels[t].1, workgroups, choice);
                measure.has_room(&made, max_batch).then(|| texts.compiled(made))
            }
            Job::Generic(t) => Some(texts.compiled(direct::generic(&kernels[t].1, workgroups))),
            Job::Whole(t, choice) => Some(texts.compiled(shaders(kernels[t].0, workgroups, choice))),
        };
        let ways =
            trials.iter().enumerate().flat_map(|(t, trial)| trial.candidates.iter().map(move |c| Job::Way(t, *c)));
        let jobs: Vec<(Job, Instant)> = ways.map(|job| (job, until(COMPILING))).collect();
        let mut n_left = jobs.len();
        Workers::with(jobs, make, |workers, results| {
            let mut found = Vec::new();
            while n_left > 0 {
                let (job, made) = results.recv().expect("bug: a job did not come back");
                n_left -= 1;
                let made = match made {
                    Made::It(made) => made,
                    Made::TooLate => None,
                    Made::Panicked => {
                        return Err(DeviceError::Unsupported("a kernel: its compiler panicked".to_string()));
                    }
                };
                gpu.check()?;
                let (Job::Way(t, _) | Job::Generic(t) | Job::Whole(t, _)) = job;
                let trial = &mut trials[t];
                let named = &open[trial.open];
                trial.n_left -= 1;
                match job {
                    Job::Way(_, choice) => trial.ways.extend(made.map(|made| (choice, made))),
                    Job::Generic(_) => trial.generic = made,
                    Job::Whole(..) => trial.is_late |= made.is_none(),
                }
                if trial.n_left > 0 {
                    continue;
                }
                if let (true, false, Some(generic)) = (trial.is_ranked, trial.is_late, &trial.generic) {
                    found.push((trial.open, self.right(measure, &texts, named, &trial.ways, generic)?));
                }
                if !trial.is_ranked && trial.ways.len() > 1 && self.rank(measure, named, trial)? {
                    let first = trial.ways[0].0;
                    let pair = named.from.filter(|from| *from != first).map(|from| [from, first]);
                    let asked = pair.into_iter().flatten().map(|c| Job::Whole(t, c)).chain([Job::Generic(t)]);
                    for job in asked {
                        workers.ask(job, until(COMPARING));
                        trial.n_left += 1;
                        n_left += 1;
                    }
                }
            }
            Ok(found)
        })
    }

    /// Puts the ways of a trial in order of the time that they take; gives whether that could be measured.
    fn rank(&mut self, measure: &Measure, named: &Named, trial: &mut Trial) -> Result<bool, DeviceError> {
        // The host's threads end in any order, and the table's choice counts where times are equal.
        trial.ways.sort_by_key(|(c, _)| trial.candidates.iter().position(|o| o == c));
        trial.is_ranked = true;
        match measure.time(named.kernel, &trial.ways, self.max_batch) {
            Ok(times) => {
                let mut timed: Vec<_> = times.into_iter().zip(trial.ways.drain(..)).collect();
                timed.sort_by(|a, b| a.0.total_cmp(&b.0));
                trial.ways = timed.into_iter().map(|(_, way)| way).collect();
                Ok(true)
            }
            Err(lost @ DeviceError::Lost(_)) => Err(lost),
            Err(e) => {
                self.notes.push(format!("{} could not be timed: {e}", named.name));
                Ok(false)
            }
        }
    }

    /// The first of `ways` whose numbers are right, and where the contraction was made before, the same.
    fn right(
        &mut self,
        measure: &Measure,
        texts: &Texts,
        named: &Named,
        ways: &[(Choice, Arc<Compiled>)],
        generic: &Compiled,
    ) -> Result<Option<Choice>, DeviceError> {
        let whole = |c: Choice| texts.compiled((self.shaders)(named.kernel, self.workgroups, c));
        for (c, compiled) in ways {
            let off = measure.difference(named.kernel, compiled, generic, self.max_batch)?;
            if !off.is_small() {
                let name = &named.name;
                self.notes.push(format!(
                    "{c} is not used for {name}: {off}; please report this with the device and its driver"
                ));
                continue;
            }
            let is_as_before = match named.from.filter(|from| from != c) {
                Some(from) => measure.is_equal(&named.others, [&whole(*c), &whole(from)], self.max_batch)?,
                None => true,
            };
            if is_as_before {
                return Ok(Some(*c));
            }
        }
        Ok(None)
    }
}

/// A contraction without its epilogue.
fn bare(k: &Contract) -> Contract {
    Contract { epilogue: None, ..k.clone() }
}

/// What is compiled, so that equal texts are compiled once: those of contractions that differ in their epilogues are.
struct Texts<'a> {
    gpu: &'a Gpu,
    made: Mutex<BTreeMap<String, Arc<OnceLock<Arc<Compiled>>>>>,
}

impl Texts<'_> {
    fn compiled(&self, shaders: Vec<Shader>) -> Arc<Compiled> {
        let key = shaders.iter().map(|s| format!("{:?} {:?} {}", s.params, s.grid, s.source)).collect();
        let place = self.made.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        place.get_or_init(|| Arc::new(Compiled::new(self.gpu, shaders))).clone()
    }
}

#[cfg(test)]
mod tests;
