//! Who makes contractions: a kernel of ours, or the library. Takes a plan and what is known by now, gives each contraction that the library can make a
//! choice: that of an earlier run which goes on, else that of the cache, else the fastest of a few that are timed here, else the table's. Never uses a
//! way of the library whose numbers are wrong, times nothing twice, and changes no bit of what an earlier process computed: what that had no time for
//! is timed later, among the ways that give the same bits.

use crate::cache::Cache;
use crate::check::{Check, VERDICT_BYTES};
use crate::driver::{Algorithm, Driver, Function, Node, leaves};
use crate::follow::{Follower, followers};
use crate::memory::{Extras, Memory};
use crate::parts::{Parts, WORKSPACE_BYTES, Way, Ways};
use crate::task::Task;
use crate::texts::{Loaded, Text};
use crate::trials::{self, Ahead, Rates, Trials};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{Choices, DeviceError, MadeChoice, Origin};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::{choice, cuda::mma};
use wholestep_compiler::kernel::{Contraction, Kernel};
use wholestep_compiler::plan::{Layout, Plan};

/// Who makes the contractions that a library can make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// Kernels of ours.
    Own,
    Library,
    /// The library if they are large products of matrices.
    #[default]
    Table,
    /// Whoever is faster, which is measured when a plan is loaded; for so long, and those that are left by then as the table says.
    Timed(Duration),
}

/// What decides beside the plan.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whether each launch is to have a kernel of its own.
    pub apart: bool,
    pub products: Products,
    pub tf32: bool,
    /// Whether cuDNN may make convolutions.
    pub cudnn: bool,
    pub cache: Option<Cache>,
}

impl Settings {
    /// With what the plan says.
    pub fn of(&self, plan: &Plan) -> Settings {
        Settings { tf32: self.tf32 || plan.tf32, ..self.clone() }
    }
}

/// The choices of a plan.
#[derive(Default)]
pub struct Chosen {
    pub ways: Ways,
    pub choices: Choices,
    /// How many contractions were timed.
    pub timings: u64,
}

/// Contractions of one name.
pub struct Named {
    pub name: String,
    kernels: Vec<usize>,
    /// The first launch of one.
    launch: usize,
    pub task: Task,
    /// Whether it is a gradient by a convolution's input. Of the ten of ResNet-18 and ResNet-50 in 16 bits for which a kernel of ours was timed it made none faster.
    pub is_input_grad: bool,
    /// Whether a kernel of ours leaves out a half of it.
    pub is_halved: bool,
    /// What follows all of them, and the library could do too.
    pub follower: Option<Follower>,
    /// The library for it.
    pub library: String,
    /// The choice that an earlier process made without timing it.
    pub from: Option<Choice>,
    made: Option<(Choice, Origin)>,
    /// Whether it was timed, by whomever.
    is_timed: bool,
    /// Whether the library had no way for it, or none that is right.
    is_refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Own,
    Library(Way),
}

/// After the library's name, where it does what follows too.
const JOINS: &str = " with what follows";
/// At the end of what is kept of a choice that was not timed.
const UNTIMED: &str = "\tnot timed";
/// Multiply-adds from which on the table takes the library.
const LARGE: f64 = 2e6;
impl Choice {
    pub fn text(self, library: &str) -> String {
        let words = |a: Algorithm| a.data.map(|w| format!("{w:x}")).join(".");
        match self {
            Choice::Own => "own kernel".to_string(),
            Choice::Library(Way { algorithm, joins }) => {
                let joins = if joins { JOINS } else { "" };
                let words = algorithm.map_or(String::new(), |a| format!(": {}", words(a)));
                format!("{library}{joins}{words}")
            }
        }
    }

    /// `None` for what this library or version did not write.
    fn read(text: &str, library: &str) -> Option<Choice> {
        let Some(rest) = text.strip_prefix(library) else {
            return (text == Choice::Own.text(library)).then_some(Choice::Own);
        };
        let (joins, rest) = match rest.strip_prefix(JOINS) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.is_empty() {
            return Some(Choice::Library(Way { algorithm: None, joins }));
        }
        let words = rest.strip_prefix(": ")?.split('.').map(|w| u64::from_str_radix(w, 16));
        let words: Vec<u64> = words.collect::<Result<_, _>>().ok()?;
        Some(Choice::Library(Way { algorithm: Some(Algorithm { data: words.try_into().ok()? }), joins }))
    }
}

impl Named {
    /// A choice that can be made for it here.
    fn read(&self, text: &str) -> Option<Choice> {
        let can_be = |c: &Choice| !matches!(c, Choice::Library(Way { joins: true, .. })) || self.follower.is_some();
        Choice::read(text, &self.library).filter(can_be)
    }

    /// What was kept of one: its choice, and whether that was timed.
    fn kept(&self, kept: &[u8]) -> Option<(Choice, bool)> {
        let text = std::str::from_utf8(kept).ok()?;
        let choice = text.strip_suffix(UNTIMED).unwrap_or(text);
        Some((self.read(choice)?, choice.len() == text.len()))
    }

    /// The launches of which it is, beginning with the first.
    pub fn launches(&self) -> std::ops::Range<usize> {
        self.launch..self.launch + 1 + usize::from(self.follower.is_some())
    }

    /// Keeps the choice that was made here, unless another process has kept one meanwhile: then that one is taken.
    fn keep(&mut self, cache: &Cache, key: &str) {
        let Some((choice, Origin::Timed | Origin::Table)) = self.made else { return };
        let text = choice.text(&self.library) + if self.is_timed { "" } else { UNTIMED };
        match self.from {
            // The bits are the same.
            Some(_) => cache.write(key, text.as_bytes()),
            None => {
                let theirs = cache.add(key, text.as_bytes());
                if let Some((theirs, _)) = self.kept(&theirs).filter(|(c, _)| *c != choice) {
                    self.made = Some((theirs, Origin::Cached));
                }
            }
        }
    }
}

/// What there is to choose with.
pub struct Chooser<'a> {
    pub driver: &'a mut dyn Driver,
    pub plan: &'a Plan,
    pub layout: &'a Layout,
    pub memory: &'a mut Memory,
    pub caps: &'a Caps,
    pub loaded: &'a mut Loaded,
    pub settings: &'a Settings,
    pub compiles: &'a mut u64,
}

impl Chooser<'_> {
    /// Chooses for all contractions of the plan. `recorded` holds choices by name that an earlier run made.
    pub fn choose(&mut self, recorded: &BTreeMap<String, String>) -> Result<Chosen, DeviceError> {
        let mut chosen = Chosen { ways: Ways { tf32: self.settings.tf32, ..Ways::default() }, ..Chosen::default() };
        if self.settings.products == Products::Own {
            return Ok(chosen);
        }
        let mut all = self.named(recorded, &mut chosen.choices.unlike);
        if all.is_empty() {
            return Ok(chosen);
        }
        chosen.ways.lists = self.driver.takes_lists();
        let device = self.caps.name.clone();
        let key = |n: &Named| format!("product for {device} by {}\n{}", n.library, n.name);
        let is_timed = matches!(self.settings.products, Products::Timed(_));
        let cache = self.settings.cache.clone().filter(|_| is_timed);
        for n in &mut all {
            if let Some(text) = recorded.get(&n.name) {
                match n.read(text) {
                    Some(choice) => {
                        n.made = Some((choice, Origin::Recorded));
                        continue;
                    }
                    None => chosen.choices.unlike.push(format!("{}: by {text}, and here is {}", n.name, n.library)),
                }
            }
            match cache.as_ref().and_then(|c| n.kept(&c.read(&key(n))?)) {
                Some((choice, true)) => n.made = Some((choice, Origin::Cached)),
                kept => n.from = kept.map(|(choice, _)| choice),
            }
        }
        if let Products::Timed(budget) = self.settings.products {
            chosen.timings = self.time(&mut all, budget, &mut chosen.choices.notes)?;
        }
        for n in &mut all {
            let untimed = match n.from {
                Some(choice) => (choice, Origin::Cached),
                None => (self.untimed(n)?, Origin::Table),
            };
            n.made.get_or_insert(untimed);
            if let Some(cache) = &cache {
                n.keep(cache, &key(n));
            }
            let (choice, origin) = n.made.expect("bug: it was made above");
            let text = choice.text(&n.library);
            for &kernel in &n.kernels {
                if let Choice::Library(way) = choice {
                    chosen.ways.by_library.insert(kernel, way);
                }
                let (name, choice) = (n.name.clone(), text.clone());
                chosen.choices.made.push(MadeChoice { kernel, name, choice, origin });
            }
        }
        chosen.choices.made.sort_by_key(|m| m.kernel);
        Ok(chosen)
    }

    /// What is chosen without timing; never a way of the library where it has none.
    fn untimed(&mut self, n: &Named) -> Result<Choice, DeviceError> {
        let choice = table(self.settings.products, n);
        let Choice::Library(Way { joins, .. }) = choice else { return Ok(choice) };
        let joined = n.follower.as_ref().filter(|_| joins).and_then(|f| n.task.joined(f, self.layout.max_batch));
        let mut has_way = |task: &Task| Ok(!self.driver.algorithms(task, WORKSPACE_BYTES)?.is_empty());
        if joined.map_or(Ok(false), |task| has_way(&task))? {
            return Ok(choice);
        }
        let alone = Choice::Library(Way { algorithm: None, joins: false });
        Ok(if has_way(&n.task)? { alone } else { Choice::Own })
    }

    /// The contractions that a library can make which is there, by name in the order of the plan. Adds to `unlike` what one made that is not.
    fn named(&mut self, recorded: &BTreeMap<String, String>, unlike: &mut Vec<String>) -> Vec<Named> {
        let mut all: Vec<Named> = Vec::new();
        let followers = followers(self.plan);
        let tf32 = self.settings.tf32;
        for (launch, l) in self.plan.launches().into_iter().enumerate() {
            let kernel = l.kernel as usize;
            let Kernel::Contract(k) = &self.plan.kernels[kernel] else { continue };
            let most = self.layout.max_batch;
            let Some(task) = Task::of_all(k, None, most, tf32) else { continue };
            // The library's ways of a product are for one size: another of the same name may have none of them.
            let of_size = matches!(task, Task::Product(_)) && !most.is_power_of_two();
            let of_size = if of_size { format!(", of {most}") } else { String::new() };
            let name = format!("{}{of_size}{}", choice::key(k, most), if tf32 { ", tf32" } else { "" });
            let follower = followers.get(&l.kernel).filter(|f| Task::of_all(k, Some(f), most, tf32).is_some()).cloned();
            match all.iter_mut().find(|n| n.name == name) {
                Some(n) if n.kernels.contains(&kernel) => {}
                Some(n) => {
                    n.kernels.push(kernel);
                    n.follower = n.follower.take().filter(|f| follower.as_ref() == Some(f));
                }
                None => {
                    let is_allowed = self.settings.cudnn || !matches!(task, Task::Convolution(_));
                    let library = if is_allowed { self.driver.library(&task) } else { None };
                    let Some(library) = library else {
                        let by_library = recorded.get(&name).filter(|text| **text != Choice::Own.text(""));
                        unlike.extend(by_library.map(|text| format!("{name}: by {text}, which is not used here")));
                        continue;
                    };
                    let (kernels, from, made, is_timed) = (vec![kernel], None, None, false);
                    let on_units = self.caps.workgroups.as_ref().is_some_and(|w| mma::choose(k, w).is_some());
                    let is_halved = k.triangle.is_some() && on_units;
                    let is_input_grad = matches!(k.contraction, Contraction::ConvInputGrad(_));
                    all.push(Named {
                        name,
                        kernels,
                        launch,
                        task,
                        is_input_grad,
                        is_halved,
                        follower,
                        library,
                        from,
                        made,
                        is_timed,
                        is_refused: false,
                    });
                }
            }
        }
        all
    }

    /// Times those that have no choice yet, the largest first; gives how many that were. The library's ways are timed while kernels of ours are
    /// compiled, and for what is large a kernel of ours is compiled only if it may be faster.
    fn time(&mut self, all: &mut [Named], budget: Duration, notes: &mut Vec<String>) -> Result<u64, DeviceError> {
        let mut likely = self.likely(all);
        let mut open: Vec<&mut Named> = all.iter_mut().filter(|n| n.made.is_none()).collect();
        if open.is_empty() {
            return Ok(0);
        }
        open.sort_by(|a, b| b.task.work().total_cmp(&a.task.work()));
        // Nothing of the library adds in the order of a kernel of ours.
        let stays = open.iter_mut().filter(|n| n.from == Some(Choice::Own));
        stays.for_each(|n| n.made = Some((Choice::Own, Origin::Timed)));
        let forms = self.forms(&open, &likely)?;
        self.loaded.prepare(self.driver, &Check::texts(), true);
        let ours: Vec<usize> = open.iter().filter(|n| !trials::is_likely(n)).flat_map(|n| n.launches()).collect();
        // What is timed first: nothing can be chosen before, and the rest is compiled while it is.
        self.loaded.prepare(self.driver, &forms.all[0].texts_for(&ours), true);
        self.loaded.prepare(self.driver, &forms.step.texts(), false);
        // What a library looks up for a task it looks up once.
        for n in open.iter().filter(|n| n.made.is_none() && trials::is_large(&n.task)) {
            self.driver.algorithms(&n.task, WORKSPACE_BYTES)?;
        }
        let (functions, compiled) = self.loaded.load(self.driver, &Check::texts())?;
        *self.compiles += compiled;
        let check = Check::new(&functions, forms.verdict);
        // Waiting for the compiler does not count: what it makes is needed anyway.
        let mut left = budget;
        let ahead = self.by_library(&mut open, &forms, check, &mut left, notes)?;
        self.prepare_likely(&open, &ahead, &mut likely)?;
        let nodes = self.loaded_nodes(&forms, &open, &ahead)?;
        let (n_open, mut timed) = (open.len(), 0);
        let mut trials = Trials { driver: &mut *self.driver, check, verdict: forms.verdict };
        for (n, ahead) in open.into_iter().zip(ahead) {
            let started = Instant::now();
            let nodes = [0, 1, 2].map(|form| of(&nodes[form], n.launches()));
            let choice = match (n.made, ahead) {
                (Some((choice, _)), _) => Some(choice),
                (None, Some(ahead)) => Some(trials.beside(&nodes, &ahead)?),
                (None, None) if left.is_zero() => None,
                (None, None) => trials.fastest(n, &nodes, notes)?,
            };
            if let Some(choice) = choice {
                n.made = Some((choice, Origin::Timed));
                n.is_timed = true;
                timed += 1;
            }
            left = left.saturating_sub(started.elapsed());
        }
        let rest = match n_open - timed {
            0 => "",
            _ => {
                "; the others go on as before or as the table says, and the next process with this cache times them, with the same bits"
            }
        };
        let ms = (budget - left).as_secs_f64() * 1e3;
        notes.push(format!("timed {timed} of {n_open} products in {ms:.0} ms{rest}"));
        // Epilogues have written to them.
        self.memory.clear_slots(self.driver)?;
        Ok(timed as u64)
    }

    /// The ways that a step will likely be made in, by what is known before anything is timed.
    fn likely(&mut self, all: &[Named]) -> Ways {
        let choice = |n: &Named| match (n.made, n.from) {
            (Some((choice, _)), _) | (None, Some(choice)) => choice,
            (None, None) if trials::is_likely(n) => {
                Choice::Library(Way { algorithm: None, joins: n.follower.is_some() })
            }
            (None, None) => Choice::Own,
        };
        let by_library = all.iter().filter_map(|n| match choice(n) {
            Choice::Library(way) => Some(n.kernels.iter().map(move |&kernel| (kernel, way))),
            Choice::Own => None,
        });
        let by_library = by_library.flatten().collect();
        Ways { by_library, tf32: self.settings.tf32, lists: self.driver.takes_lists() }
    }

    /// Begins to compile the step as it is `likely` by what the library took: with its ways for all that it made and, where a kernel of ours may be faster, with
    /// that.
    fn prepare_likely(
        &mut self,
        open: &[&mut Named],
        ahead: &[Option<Ahead>],
        likely: &mut Ways,
    ) -> Result<(), DeviceError> {
        for own in [false, true] {
            let before = likely.by_library.clone();
            for (n, ahead) in open.iter().zip(ahead) {
                let Some(ahead) = ahead else { continue };
                let way = ahead.likely(own).map(|joins| Way { algorithm: None, joins });
                for kernel in &n.kernels {
                    match way {
                        Some(way) => likely.by_library.insert(*kernel, way),
                        None => likely.by_library.remove(kernel),
                    };
                }
            }
            if likely.by_library != before {
                let Chooser { plan, layout, ref memory, caps, settings, .. } = *self;
                let step = Parts::new(plan, layout, memory, caps, likely, settings.apart)?;
                self.loaded.prepare(self.driver, &step.texts(), false);
            }
        }
        Ok(())
    }

    /// All of `open` in each form, and memory for any; beside them the step in its `likely` way.
    fn forms(&mut self, open: &[&mut Named], likely: &Ways) -> Result<Forms, DeviceError> {
        let Ways { tf32, lists, .. } = *likely;
        let library = |joins: bool| {
            let way = |n: &Named| Way { algorithm: None, joins: joins && n.follower.is_some() };
            open.iter().flat_map(|n| n.kernels.iter().map(move |&k| (k, way(n)))).collect()
        };
        let ways = [BTreeMap::new(), library(false), library(true)].map(|by_library| Ways { by_library, tf32, lists });
        let (plan, layout, memory, caps, apart) =
            (self.plan, self.layout, &*self.memory, self.caps, self.settings.apart);
        // Texts take their time: all at once.
        let made = std::thread::scope(|threads| {
            let all = ways.iter().map(|ways| (ways, true)).chain([(likely, apart)]);
            let all =
                all.map(|(ways, apart)| threads.spawn(move || Parts::new(plan, layout, memory, caps, ways, apart)));
            let all: Vec<_> = all.collect();
            all.into_iter().map(|thread| thread.join().expect("bug: writing texts panicked")).collect::<Vec<_>>()
        });
        let mut all = made.into_iter().collect::<Result<Vec<Parts>, _>>()?;
        let step = all.pop().expect("bug: a form was not made");
        let params_bytes = all.iter().map(Parts::params_bytes).max().unwrap_or(0).next_multiple_of(16);
        let most = |of: fn(&Parts) -> u64| all.iter().map(of).max().unwrap_or(0);
        let extras = Extras {
            arena_bytes: most(Parts::arena_bytes),
            scratch_bytes: most(Parts::scratch_bytes),
            params_bytes: params_bytes + VERDICT_BYTES,
            n_blocks: 1,
        };
        self.memory.make_room(self.driver, self.plan, self.layout, extras)?;
        self.memory.clear_arena(self.driver)?;
        Ok(Forms { all, step, verdict: self.memory.params_at + params_bytes })
    }

    /// The fastest ways of the library for what is large. Those where nothing else can be faster are made; for the others it begins to compile what is to
    /// be timed beside them.
    fn by_library(
        &mut self,
        open: &mut [&mut Named],
        forms: &Forms,
        check: Check,
        left: &mut Duration,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Option<Ahead>>, DeviceError> {
        let launches: Vec<usize> = open.iter().flat_map(|n| n.launches()).collect();
        // Kernels around the calls are not run.
        let nodes = |parts: &Parts| self.nodes(parts, &launches, &parts.no_functions());
        let nodes = [nodes(&forms.all[1])?, nodes(&forms.all[2])?];
        let mut trials = Trials { driver: &mut *self.driver, check, verdict: forms.verdict };
        let (mut all, mut rates) = (vec![None; open.len()], Rates::default());
        for (n, ahead) in open.iter_mut().zip(&mut all) {
            if n.made.is_some() || !trials::is_large(&n.task) || left.is_zero() {
                continue;
            }
            let started = Instant::now();
            let nodes = [0, 1].map(|form| of(&nodes[form], n.launches()));
            let found = trials.by_library(n, &nodes, notes)?;
            if let Some((ns, _)) = found[0] {
                rates.see(&n.task, ns);
            }
            *ahead = found.iter().any(Option::is_some).then_some(Ahead { found, own: false });
            n.is_refused = ahead.is_none();
            *left = left.saturating_sub(started.elapsed());
        }
        for (n, ahead) in open.iter_mut().zip(&mut all) {
            let Some(ahead) = ahead else { continue };
            // What is left to loops when the library makes the product alone.
            let n_loops = of(&nodes[0], n.launches()).len() - 1;
            ahead.own = n.from.is_none() && rates.kernel_may_win(n, &ahead.found, n_loops);
            if let ([Some((_, choice)), None] | [None, Some((_, choice))], false) = (ahead.found, ahead.own) {
                n.made = Some((choice, Origin::Timed));
            }
        }
        let texts: Vec<Text> = forms.all.iter().zip(wanted(open, &all)).flat_map(|(p, of)| p.texts_for(&of)).collect();
        self.loaded.prepare(self.driver, &texts, true);
        Ok(all)
    }

    /// By form, the nodes of those that have no choice yet, with their kernels.
    fn loaded_nodes(
        &mut self,
        forms: &Forms,
        open: &[&mut Named],
        ahead: &[Option<Ahead>],
    ) -> Result<Vec<Vec<(usize, Node)>>, DeviceError> {
        let mut all = Vec::with_capacity(forms.all.len());
        for (parts, launches) in forms.all.iter().zip(wanted(open, ahead)) {
            let (loaded, compiled) = self.loaded.load(self.driver, &parts.texts_for(&launches))?;
            *self.compiles += compiled;
            // Other launches have no kernel here and are left out.
            let mut functions = parts.no_functions();
            parts.texts_of(&launches).into_iter().zip(loaded).for_each(|(i, function)| functions[i] = function);
            all.push(self.nodes(parts, &launches, &functions)?);
        }
        Ok(all)
    }

    /// The nodes of launches, those in loops too.
    fn nodes(
        &self,
        parts: &Parts,
        launches: &[usize],
        functions: &[Function],
    ) -> Result<Vec<(usize, Node)>, DeviceError> {
        let (nodes, shares) = parts.nodes(self.memory, functions, self.layout.max_batch, self.memory.block(0))?;
        // Each node is of one launch, as they are apart.
        let all = shares.into_iter().map(|of| of[0].0).zip(leaves(&nodes).into_iter().cloned());
        Ok(all.filter(|(launch, _)| launches.contains(launch)).collect())
    }
}

/// A plan whose products are made by kernels of ours, by the library, and by it with all that it can do of what follows, each launch apart; the step as it
/// likely is; and where verdicts are left.
struct Forms {
    all: Vec<Parts>,
    step: Parts,
    verdict: u64,
}

/// By form, the launches that are still to be timed in it.
fn wanted(open: &[&mut Named], ahead: &[Option<Ahead>]) -> [Vec<usize>; 3] {
    let of = |own: bool| {
        let all = open.iter().zip(ahead).filter(|(n, _)| n.made.is_none());
        let all = all.filter(|(_, ahead)| !own || ahead.as_ref().is_none_or(|ahead| ahead.own));
        all.flat_map(|(n, _)| n.launches()).collect::<Vec<usize>>()
    };
    [of(true), of(false), of(false)]
}

/// The nodes of some launches.
fn of(all: &[(usize, Node)], launches: std::ops::Range<usize>) -> Vec<Node> {
    all.iter().filter(|(of, _)| launches.contains(of)).map(|(_, node)| node.clone()).collect()
}

/// What is chosen without timing: for a large product of which all counts the library, with what follows, which mostly takes less time than a loop of its own.
fn table(products: Products, n: &Named) -> Choice {
    let is_large = match &n.task {
        Task::Product(p) => p.work() >= LARGE * p.outer as f64,
        Task::Convolution(_) => false,
    };
    let way = |joins| Choice::Library(Way { algorithm: None, joins });
    match products {
        Products::Library => way(n.follower.is_some()),
        Products::Own => Choice::Own,
        Products::Table | Products::Timed(_) if is_large && !n.is_halved && !n.is_refused => way(n.follower.is_some()),
        Products::Table | Products::Timed(_) => Choice::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::Choice;
    use crate::driver::Algorithm;
    use crate::parts::Way;

    #[test]
    fn choices_come_back_from_their_text_and_those_of_another_library_do_not() {
        let algorithm = Algorithm { data: [0, 1, u64::MAX, 0x2a, 0, 0, 0, 9] };
        let way = |algorithm, joins| Choice::Library(Way { algorithm, joins });
        let ways = [way(None, false), way(Some(algorithm), false), way(None, true), way(Some(algorithm), true)];
        for choice in [Choice::Own].into_iter().chain(ways) {
            let text = choice.text("cuBLASLt 130100");
            assert_eq!(Choice::read(&text, "cuBLASLt 130100"), Some(choice), "{text}");
        }
        let text = way(Some(algorithm), true).text("cuBLASLt 130100");
        assert_eq!(text, "cuBLASLt 130100 with what follows: 0.1.ffffffffffffffff.2a.0.0.0.9");
        let text = way(Some(algorithm), false).text("cuBLASLt 130100");
        assert_eq!(text, "cuBLASLt 130100: 0.1.ffffffffffffffff.2a.0.0.0.9");
        for other in ["cuBLASLt 130200: 0.1.2.3.4.5.6.7", "cuBLASLt 130100: 0.1", "cuBLASLt 130100: x", "", "own"] {
            assert_eq!(Choice::read(other, "cuBLASLt 130100"), None, "{other}");
        }
    }
}
