//! How contractions are made. Takes a plan and what is known by now, gives each contraction a choice: that of an earlier run which goes on, else
//! that of the cache, else the fastest of a few that are timed here, else the table's. Never uses a timed choice whose numbers are not those
//! of the generic kernel, times nothing twice, and changes no bit of what an earlier process computed: what that had no time for is timed later,
//! among the ways that add in the same order.

mod measure;

use crate::adapter::Gpu;
use crate::cache::{Kept, New};
use crate::pipeline::parallel;
use measure::{Compiled, Measure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{Choices, DeviceError, MadeChoice, Origin};
use wholestep_compiler::caps::{Caps, Workgroups};
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::choice::{self, Choice};
use wholestep_compiler::codegen::{contract, direct};
use wholestep_compiler::kernel::{Contract, Kernel};
use wholestep_compiler::plan::{BufferId, Plan, Size};

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
    for named in &mut all {
        let read = |text: &String| Choice::read(text, named.kernel, workgroups);
        let kept = cached.get(&named.name).and_then(|k| Some((read(&k.choice)?, k.is_timed)));
        named.made = match (recorded.get(&named.name).and_then(read), kept) {
            (Some(choice), _) => Some((choice, Origin::Recorded)),
            (None, Some((choice, is_timed))) if is_timed || !gpu.tunes => Some((choice, Origin::Cached)),
            (None, kept) => {
                named.from = kept.map(|(choice, _)| choice);
                None
            }
        };
    }
    let mut chosen = Chosen::default();
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

/// The part of the budget in which candidates begin to be compiled: what has begun is ended, and the fastest are compiled once more.
const COMPILING: f64 = 0.45;
/// The part after which no result is compared any more.
const COMPARING: f64 = 0.8;

/// The ways of a contraction that could be compiled in time.
struct Trial {
    /// Index into what has no choice yet.
    open: usize,
    ways: Vec<(Choice, Compiled)>,
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
        let candidates = |i: usize| open[i].candidates(self.workgroups, self.max_batch);
        let several = order.into_iter().map(|(_, i)| (i, candidates(i))).filter(|(i, c)| fits[*i] && c.len() > 1);
        let several: Vec<(usize, Vec<Choice>)> = several.collect();
        let after = |part: f64| begun + self.gpu.budget.mul_f64(part);
        let trials = self.trials(&measure, open, &several, after(COMPILING))?;
        let found = self.fastest(&measure, open, trials, after(COMPARING))?;
        let (timed, all) = (found.len(), several.len());
        several.iter().for_each(|(i, _)| open[*i].is_left = true);
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

    /// Compiles candidates in order until the time is up.
    fn trials(
        &self,
        measure: &Measure,
        open: &[&mut Named],
        several: &[(usize, Vec<Choice>)],
        until: Instant,
    ) -> Result<Vec<Trial>, DeviceError> {
        let tasks: Vec<(usize, Choice)> = several.iter().flat_map(|(i, cs)| cs.iter().map(|c| (*i, *c))).collect();
        let made = self.compile(tasks.len(), until, |t| {
            let shaders = (self.shaders)(open[tasks[t].0].kernel, self.workgroups, tasks[t].1);
            measure.has_room(&shaders, self.max_batch).then_some(shaders)
        })?;
        let mut trials: Vec<Trial> = several.iter().map(|(i, _)| Trial { open: *i, ways: Vec::new() }).collect();
        let of_task = several.iter().enumerate().flat_map(|(trial, (_, cs))| cs.iter().map(move |c| (trial, *c)));
        for ((trial, c), compiled) in of_task.zip(made) {
            trials[trial].ways.extend(compiled.map(|compiled| (c, compiled)));
        }
        trials.retain(|t| t.ways.len() > 1);
        Ok(trials)
    }

    /// Pipelines of the shaders that `text` gives for 0 to n - 1; `None` where it gives none or the time is up.
    fn compile(
        &self,
        n: usize,
        until: Instant,
        text: impl Fn(usize) -> Option<Vec<Shader>> + Sync,
    ) -> Result<Vec<Option<Compiled>>, DeviceError> {
        let one = |i| if Instant::now() < until { text(i).map(|t| Compiled::new(self.gpu, &t)) } else { None };
        let compiled = parallel(n, one);
        self.gpu.check()?;
        compiled.ok_or(DeviceError::Unsupported("a kernel: its compiler panicked".to_string()))
    }

    /// The fastest way of each contraction whose numbers are right, or that there is none, for those that there was time for.
    fn fastest(
        &mut self,
        measure: &Measure,
        open: &[&mut Named],
        trials: Vec<Trial>,
        until: Instant,
    ) -> Result<Vec<(usize, Option<Choice>)>, DeviceError> {
        let mut ranked = Vec::new();
        for trial in trials {
            let n = &open[trial.open];
            match measure.time(n.kernel, &n.others, &trial.ways, self.max_batch) {
                Ok(times) => {
                    let mut ways: Vec<(f64, (Choice, Compiled))> = times.into_iter().zip(trial.ways).collect();
                    ways.sort_by(|a, b| a.0.total_cmp(&b.0));
                    ranked.push((trial.open, ways));
                }
                Err(lost @ DeviceError::Lost(_)) => return Err(lost),
                Err(e) => self.notes.push(format!("{} could not be timed: {e}", n.name)),
            }
        }
        // What is compared has no epilogue; mostly the first of each is right.
        let compiled = self.compile(2 * ranked.len(), until, |t| {
            let (i, ways) = &ranked[t / 2];
            let k = open[*i].kernel;
            Some(if t % 2 == 0 { direct::generic(k, self.workgroups) } else { self.bare(k, ways[0].1.0) })
        })?;
        let mut compiled = compiled.into_iter();
        let mut found = Vec::new();
        for (i, ways) in ranked {
            let (Some(Some(generic)), Some(Some(first))) = (compiled.next(), compiled.next()) else { continue };
            found.push((i, self.right(measure, open[i], &ways, &generic, first)?));
        }
        Ok(found)
    }

    /// The first of `ways` whose numbers are right, and where the contraction was made before, the same. `first` is the first without its
    /// epilogue.
    fn right(
        &mut self,
        measure: &Measure,
        named: &Named,
        ways: &[(f64, (Choice, Compiled))],
        generic: &Compiled,
        first: Compiled,
    ) -> Result<Option<Choice>, DeviceError> {
        let mut first = Some(first);
        let before = ways.iter().map(|(_, way)| way).find(|(c, _)| Some(*c) == named.from);
        for (_, (c, compiled)) in ways {
            let bare = first.take().unwrap_or_else(|| Compiled::new(self.gpu, &self.bare(named.kernel, *c)));
            let off = measure.difference(named.kernel, &bare, generic, self.max_batch)?;
            if !off.is_small() {
                let name = &named.name;
                self.notes.push(format!(
                    "{c} is not used for {name}: {off}; please report this with the device and its driver"
                ));
                continue;
            }
            let is_as_before = match before {
                Some((_, before)) => measure.is_equal(&named.others, [compiled, before], self.max_batch)?,
                None => named.from.is_none(),
            };
            if is_as_before {
                return Ok(Some(*c));
            }
        }
        Ok(None)
    }

    fn bare(&self, k: &Contract, c: Choice) -> Vec<Shader> {
        (self.shaders)(&Contract { epilogue: None, ..k.clone() }, self.workgroups, c)
    }
}

#[cfg(test)]
mod tests;
