//! Who makes contractions: a kernel of ours, or the library. Takes a plan and what is known by now, gives each contraction that the library can make a
//! choice: that of an earlier run which goes on, else that of the cache, else the fastest of a few that are timed here, else the table's. Never uses a
//! way of the library whose numbers are wrong, times nothing twice, and changes no bit of what an earlier process computed: what that had no time for
//! is timed later, among the ways that give the same bits.

use crate::cache::Cache;
use crate::check::{Check, VERDICT_BYTES, Verdict};
use crate::driver::{Algorithm, Driver, Function, Node, ProductCall, Work, leaves};
use crate::memory::{Extras, Memory};
use crate::parts::{Parts, WORKSPACE_BYTES, Ways};
use crate::task::Task;
use crate::texts::{Loaded, Text};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{Choices, DeviceError, MadeChoice, Origin};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::choice;
use wholestep_compiler::kernel::Kernel;
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
struct Named {
    name: String,
    kernels: Vec<usize>,
    /// The first launch of one.
    launch: usize,
    task: Task,
    /// The library for it.
    library: String,
    /// The choice that an earlier process made without timing it.
    from: Option<Choice>,
    made: Option<(Choice, Origin)>,
    /// Whether it was timed, by whomever.
    is_timed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Own,
    /// `None`: the library's own first choice.
    Library(Option<Algorithm>),
}

/// At the end of what is kept of a choice that was not timed.
const UNTIMED: &str = "\tnot timed";
/// Multiply-adds from which on the table takes the library.
const LARGE: f64 = 2e6;
/// What a node of the library costs that one of ours does not: it does not begin while the one before ends, stands beside no other, and what comes
/// after its sums is one more.
const LIBRARY_NS: u64 = 4000;
/// What takes no longer needs no comparison: the library has to load each of its ways first, and with [`LIBRARY_NS`] none is faster.
const SHORT_NS: u64 = 8000;
/// Runs that are timed, after one that is not and one that tells whether the others are worth it.
const RUNS: usize = 3;
/// What takes as long varies little, and its runs are most of the time that there is.
const LONG_NS: u64 = 1_000_000;
/// What takes so many times as long as the best, with what its call takes the host, is not timed in a graph.
const HOPELESS: u64 = 4;

impl Choice {
    fn text(self, library: &str) -> String {
        let words = |a: Algorithm| a.data.map(|w| format!("{w:x}")).join(".");
        match self {
            Choice::Own => "own kernel".to_string(),
            Choice::Library(None) => library.to_string(),
            Choice::Library(Some(a)) => format!("{library}: {}", words(a)),
        }
    }

    /// `None` for what this library or version did not write.
    fn read(text: &str, library: &str) -> Option<Choice> {
        let Some(rest) = text.strip_prefix(library) else {
            return (text == Choice::Own.text(library)).then_some(Choice::Own);
        };
        if rest.is_empty() {
            return Some(Choice::Library(None));
        }
        let words = rest.strip_prefix(": ")?.split('.').map(|w| u64::from_str_radix(w, 16));
        let words: Vec<u64> = words.collect::<Result<_, _>>().ok()?;
        Some(Choice::Library(Some(Algorithm { data: words.try_into().ok()? })))
    }
}

impl Named {
    /// What was kept of one: its choice, and whether that was timed.
    fn kept(kept: &[u8], library: &str) -> Option<(Choice, bool)> {
        let text = std::str::from_utf8(kept).ok()?;
        let choice = text.strip_suffix(UNTIMED).unwrap_or(text);
        Some((Choice::read(choice, library)?, choice.len() == text.len()))
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
                if let Some((theirs, _)) = Named::kept(&theirs, &self.library).filter(|(c, _)| *c != choice) {
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
        let device = self.caps.name.clone();
        let key = |n: &Named| format!("product for {device} by {}\n{}", n.library, n.name);
        let is_timed = matches!(self.settings.products, Products::Timed(_));
        let cache = self.settings.cache.clone().filter(|_| is_timed);
        for n in &mut all {
            if let Some(text) = recorded.get(&n.name) {
                match Choice::read(text, &n.library) {
                    Some(choice) => {
                        n.made = Some((choice, Origin::Recorded));
                        continue;
                    }
                    None => chosen.choices.unlike.push(format!("{}: by {text}, and here is {}", n.name, n.library)),
                }
            }
            match cache.as_ref().and_then(|c| Named::kept(&c.read(&key(n))?, &n.library)) {
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
                None => (table(self.settings.products, &n.task), Origin::Table),
            };
            n.made.get_or_insert(untimed);
            if let Some(cache) = &cache {
                n.keep(cache, &key(n));
            }
            let (choice, origin) = n.made.expect("bug: it was made above");
            let text = choice.text(&n.library);
            for &kernel in &n.kernels {
                if let Choice::Library(algorithm) = choice {
                    chosen.ways.by_library.insert(kernel, algorithm);
                }
                let (name, choice) = (n.name.clone(), text.clone());
                chosen.choices.made.push(MadeChoice { kernel, name, choice, origin });
            }
        }
        chosen.choices.made.sort_by_key(|m| m.kernel);
        Ok(chosen)
    }

    /// The contractions that a library can make which is there, by name in the order of the plan. Adds to `unlike` what one made that is not.
    fn named(&mut self, recorded: &BTreeMap<String, String>, unlike: &mut Vec<String>) -> Vec<Named> {
        let mut all: Vec<Named> = Vec::new();
        let tf32 = self.settings.tf32;
        for (launch, l) in self.plan.launches().into_iter().enumerate() {
            let kernel = l.kernel as usize;
            let Kernel::Contract(k) = &self.plan.kernels[kernel] else { continue };
            let Some(task) = Task::of(k, self.layout.max_batch, tf32) else { continue };
            let name = format!("{}{}", choice::key(k, self.layout.max_batch), if tf32 { ", tf32" } else { "" });
            match all.iter_mut().find(|n| n.name == name) {
                Some(n) if n.kernels.contains(&kernel) => {}
                Some(n) => n.kernels.push(kernel),
                None => {
                    let is_allowed = self.settings.cudnn || !matches!(task, Task::Convolution(_));
                    let library = if is_allowed { self.driver.library(&task) } else { None };
                    let Some(library) = library else {
                        let by_library = recorded.get(&name).filter(|text| **text != Choice::Own.text(""));
                        unlike.extend(by_library.map(|text| format!("{name}: by {text}, which is not used here")));
                        continue;
                    };
                    let (kernels, from, made, is_timed) = (vec![kernel], None, None, false);
                    all.push(Named { name, kernels, launch, task, library, from, made, is_timed });
                }
            }
        }
        all
    }

    /// Times those that have no choice yet, the largest first; gives how many that were.
    fn time(&mut self, all: &mut [Named], budget: Duration, notes: &mut Vec<String>) -> Result<u64, DeviceError> {
        let mut open: Vec<&mut Named> = all.iter_mut().filter(|n| n.made.is_none()).collect();
        if open.is_empty() {
            return Ok(0);
        }
        open.sort_by(|a, b| b.task.work().total_cmp(&a.task.work()));
        let by_library = open.iter().flat_map(|n| &n.kernels).map(|&k| (k, None)).collect();
        let ways =
            [Ways { tf32: self.settings.tf32, ..Ways::default() }, Ways { by_library, tf32: self.settings.tf32 }];
        let [own, by_library] = ways.map(|w| Parts::new(self.plan, self.layout, self.memory, self.caps, &w, true));
        let (own, by_library) = (own?, by_library?);
        let params_bytes = own.params_bytes().max(by_library.params_bytes()).next_multiple_of(16);
        self.memory.make_room(
            self.driver,
            self.plan,
            self.layout,
            Extras {
                scratch_bytes: own.scratch_bytes()?.max(by_library.scratch_bytes()?),
                params_bytes: params_bytes + VERDICT_BYTES,
                n_blocks: 1,
            },
        )?;
        self.memory.clear_arena(self.driver)?;
        // All that is timed is compiled at once with what the step has if kernels of ours are chosen.
        let launches: Vec<usize> = open.iter().map(|n| n.launch).collect();
        let own_step = Ways { tf32: self.settings.tf32, ..Ways::default() };
        let own_step = Parts::new(self.plan, self.layout, self.memory, self.caps, &own_step, self.settings.apart)?;
        let timed = [&own, &by_library].map(|parts| {
            let texts = parts.texts();
            parts.texts_of(&launches).into_iter().map(|i| texts[i].clone()).collect::<Vec<Text>>()
        });
        let texts = [Check::texts().to_vec(), timed.concat(), own_step.texts()].concat();
        let (functions, compiled) = self.loaded.load(self.driver, &texts)?;
        *self.compiles += compiled;
        let (own, by_library) = (self.nodes(&own, &launches)?, self.nodes(&by_library, &launches)?);
        let verdict = self.memory.params_at + params_bytes;
        let mut trials = Trials { driver: &mut *self.driver, check: Check::new(&functions, verdict), verdict };
        // What is compiled here is what the step needs, so that it does not count.
        let started = Instant::now();
        let (mut timed, n_open) = (0, open.len());
        for n in open {
            if started.elapsed() > budget {
                break;
            }
            let of = |all: &[(usize, Node)]| -> Vec<Node> {
                all.iter().filter(|(launch, _)| *launch == n.launch).map(|(_, node)| node.clone()).collect()
            };
            if let Some(choice) = trials.fastest(n, &of(&own), &of(&by_library), notes)? {
                n.made = Some((choice, Origin::Timed));
                n.is_timed = true;
                timed += 1;
            }
        }
        let left = match n_open - timed {
            0 => "",
            _ => {
                "; the others go on as before or as the table says, and the next process with this cache times them, with the same bits"
            }
        };
        let ms = started.elapsed().as_secs_f64() * 1e3;
        notes.push(format!("timed {timed} of {n_open} products in {ms:.0} ms{left}"));
        // Epilogues have written to them.
        self.memory.clear_slots(self.driver)?;
        Ok(timed as u64)
    }

    /// The nodes of launches, those in loops too.
    fn nodes(&mut self, parts: &Parts, launches: &[usize]) -> Result<Vec<(usize, Node)>, DeviceError> {
        let (texts, needed) = (parts.texts(), parts.texts_of(launches));
        let wanted: Vec<Text> = needed.iter().map(|&i| texts[i].clone()).collect();
        let (loaded, compiled) = self.loaded.load(self.driver, &wanted)?;
        *self.compiles += compiled;
        // Other launches have no kernel here and are left out below.
        let mut functions = vec![Function(0); texts.len()];
        needed.into_iter().zip(loaded).for_each(|(i, function)| functions[i] = function);
        let (nodes, shares) = parts.nodes(self.memory, &functions, self.layout.max_batch, self.memory.block(0))?;
        // Each node is of one launch, as they are apart.
        let all = shares.into_iter().map(|of| of[0].0).zip(leaves(&nodes).into_iter().cloned());
        Ok(all.filter(|(launch, _)| launches.contains(launch)).collect())
    }
}

/// What times and checks with a driver.
struct Trials<'a> {
    driver: &'a mut dyn Driver,
    check: Check,
    verdict: u64,
}

impl Trials<'_> {
    /// The fastest way whose numbers are right, and where an earlier process made it without timing, the same. `None` if the device has no clock.
    fn fastest(
        &mut self,
        n: &Named,
        own: &[Node],
        by_library: &[Node],
        notes: &mut Vec<String>,
    ) -> Result<Option<Choice>, DeviceError> {
        let call = by_library.iter().find_map(|n| if let Work::Product(call) = &n.work { Some(call) } else { None });
        // Kernels of ours add in another order than the library.
        let (Some(call), false) = (call, n.from == Some(Choice::Own)) else { return Ok(Some(Choice::Own)) };
        let with = |algorithm: Option<Algorithm>| {
            let mut nodes = by_library.to_vec();
            for node in &mut nodes {
                if let Work::Product(call) = &mut node.work {
                    call.algorithm = algorithm;
                }
            }
            nodes
        };
        self.check.fill(call).iter().try_for_each(|node| self.driver.run(node))?;
        let mut ways = Vec::new();
        let mut candidates = vec![(Choice::Own, own.to_vec())];
        for algorithm in self.driver.algorithms(&n.task, WORKSPACE_BYTES)? {
            candidates.push((Choice::Library(Some(algorithm)), with(Some(algorithm))));
        }
        for (choice, nodes) in candidates {
            // What the library offers and then refuses is no candidate.
            let best = ways.iter().map(|(ns, _)| *ns).min();
            let ns = match n.task {
                Task::Product(_) => self.ns(&nodes, best),
                Task::Convolution(_) => self.ns_in_graph(&nodes, best),
            };
            match ns {
                Ok(ns) if choice == Choice::Own && ns <= SHORT_NS && n.from.is_none() => {
                    self.clear(call)?;
                    return Ok(Some(Choice::Own));
                }
                Ok(ns) => ways.push((ns + if choice == Choice::Own { 0 } else { LIBRARY_NS }, choice)),
                Err(DeviceError::Unsupported(why)) if choice == Choice::Own => {
                    notes.push(format!("{} could not be timed: {why}", n.name));
                    return Ok(None);
                }
                Err(DeviceError::Unsupported(_)) => {}
                Err(e) => return Err(e),
            }
        }
        ways.sort_by_key(|(ns, _)| *ns);
        let before = match n.from {
            Some(Choice::Library(algorithm)) => Some(self.verdict(call, algorithm)?.digest),
            Some(Choice::Own) | None => None,
        };
        let mut best = n.from.unwrap_or(Choice::Own);
        for (_, choice) in ways {
            let Choice::Library(algorithm) = choice else {
                if before.is_none() {
                    break;
                }
                continue;
            };
            let verdict = self.verdict(call, algorithm)?;
            if !verdict.is_small(&n.task) {
                let (choice, name) = (choice.text(&n.library), &n.name);
                notes.push(format!(
                    "{choice} is not used for {name}: {verdict}; please report this with the device and its driver"
                ));
            } else if before.is_none_or(|digest| digest == verdict.digest) {
                best = choice;
                break;
            }
        }
        self.clear(call)?;
        Ok(Some(best))
    }

    /// The nanoseconds that nodes take: the least of a few runs. What is far slower than the `best` by then is not run again.
    fn ns(&mut self, nodes: &[Node], best: Option<u64>) -> Result<u64, DeviceError> {
        let mut run = |n: usize| -> Result<Vec<u64>, DeviceError> {
            let all: Vec<Node> = (0..n).flat_map(|_| nodes.iter().cloned()).collect();
            let times = self.driver.clock(&all)?;
            Ok(times.chunks(nodes.len().max(1)).map(|run| run.iter().sum()).collect())
        };
        let first = run(2)?[1];
        if first >= LONG_NS || best.is_some_and(|best| first > best + best / 2) {
            return Ok(first);
        }
        let again = run(RUNS)?;
        Ok(again.into_iter().fold(first, u64::min))
    }

    /// The same in a graph, as they will run: giving a stream a call of cuDNN takes the host longer than many a convolution takes the device.
    fn ns_in_graph(&mut self, nodes: &[Node], best: Option<u64>) -> Result<u64, DeviceError> {
        // The first call of a way loads it.
        self.driver.clock(nodes)?;
        let once = self.driver.clock(nodes)?.iter().sum();
        if best.is_some_and(|best| once > best.saturating_mul(HOPELESS)) {
            return Ok(once);
        }
        let all: Vec<Node> = (0..RUNS).flat_map(|_| nodes.iter().cloned()).collect();
        let graph = self.driver.graph(&all)?;
        let times = [self.driver.clock_graph(graph), self.driver.clock_graph(graph)];
        self.driver.drop_graph(graph);
        let [first, second] = times;
        Ok(first?.min(second?) / RUNS as u64)
    }

    /// What a way of the library makes of the operands as they are.
    fn verdict(&mut self, call: &ProductCall, algorithm: Option<Algorithm>) -> Result<Verdict, DeviceError> {
        let product = ProductCall { algorithm, ..call.clone() };
        // What is not written is then 0, which a sum of random products is not.
        self.driver.clear(call.result, call.task.result_bytes())?;
        self.check.fill_turned(call).iter().try_for_each(|node| self.driver.run(node))?;
        self.driver.clear(self.verdict, VERDICT_BYTES)?;
        let node = Node { work: Work::Product(Box::new(product)), name: "a product that is compared".into() };
        self.driver.run(&node)?;
        self.driver.run(&self.check.compare(call))?;
        let mut bytes = [0; VERDICT_BYTES as usize];
        self.driver.read(self.verdict, &mut bytes)?;
        Ok(Verdict::read(bytes))
    }

    /// Leaves nothing that another kernel may take for places.
    fn clear(&mut self, call: &ProductCall) -> Result<(), DeviceError> {
        let [lhs, rhs] = call.task.operands().map(|(dtype, elements)| elements * dtype.size_bytes() as u64);
        let ranges = [(call.lhs, lhs), (call.rhs, rhs), (call.result, call.task.result_bytes())];
        let turned = call.turned_from.map(|at| (at, rhs));
        ranges.into_iter().chain(turned).try_for_each(|(at, bytes)| self.driver.clear(at, bytes))
    }
}

fn table(products: Products, task: &Task) -> Choice {
    let is_large = match task {
        Task::Product(p) => p.work() >= LARGE * p.outer as f64,
        Task::Convolution(_) => false,
    };
    match products {
        Products::Library => Choice::Library(None),
        Products::Own => Choice::Own,
        Products::Table | Products::Timed(_) if is_large => Choice::Library(None),
        Products::Table | Products::Timed(_) => Choice::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::Choice;
    use crate::driver::Algorithm;

    #[test]
    fn choices_come_back_from_their_text_and_those_of_another_library_do_not() {
        let algorithm = Algorithm { data: [0, 1, u64::MAX, 0x2a, 0, 0, 0, 9] };
        for choice in [Choice::Own, Choice::Library(None), Choice::Library(Some(algorithm))] {
            let text = choice.text("cuBLASLt 130100");
            assert_eq!(Choice::read(&text, "cuBLASLt 130100"), Some(choice), "{text}");
        }
        let text = Choice::Library(Some(algorithm)).text("cuBLASLt 130100");
        assert_eq!(text, "cuBLASLt 130100: 0.1.ffffffffffffffff.2a.0.0.0.9");
        for other in ["cuBLASLt 130200: 0.1.2.3.4.5.6.7", "cuBLASLt 130100: 0.1", "cuBLASLt 130100: x", "", "own"] {
            assert_eq!(Choice::read(other, "cuBLASLt 130100"), None, "{other}");
        }
    }
}
