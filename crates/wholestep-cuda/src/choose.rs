//! Who makes contractions: a kernel of ours, or the library. Takes a plan and what is known by now, gives each contraction that the library can make a
//! choice: that of an earlier run which goes on, else that of the cache, else the fastest of a few that are timed here, else the table's. Never uses a
//! way of the library whose numbers are wrong, times nothing twice, and changes no bit of what an earlier process computed: what that had no time for
//! is timed later, among the ways that give the same bits.

use crate::cache::Cache;
use crate::check::{Check, VERDICT_BYTES, Verdict};
use crate::driver::{Algorithm, Driver, Function, Node, ProductCall, Work, leaves};
use crate::follow::{Follower, followers};
use crate::memory::{Extras, Memory};
use crate::parts::{Parts, WORKSPACE_BYTES, Way, Ways};
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
    /// What follows all of them, and the library could do too.
    follower: Option<Follower>,
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
    Library(Way),
}

/// After the library's name, where it does what follows too.
const JOINS: &str = " with what follows";
/// At the end of what is kept of a choice that was not timed.
const UNTIMED: &str = "\tnot timed";
/// Multiply-adds from which on the table takes the library.
const LARGE: f64 = 2e6;
/// What a node of the library costs that one of ours does not: it does not begin while the one before ends, stands beside no other, and what comes
/// after its sums is one more.
const LIBRARY_NS: u64 = 4000;
/// A launch that takes no longer needs no comparison: the library has to load each of its ways first, and with [`LIBRARY_NS`] none is faster.
const SHORT_NS: u64 = 8000;
/// Runs that are timed, after one that is not and one that tells whether the others are worth it.
const RUNS: usize = 3;
/// What takes as long varies little, and its runs are most of the time that there is.
const LONG_NS: u64 = 1_000_000;
/// Ways of a product that are timed where it could be one with what follows, which is mostly faster.
const FEW: usize = 2;
/// What takes so many times as long as the best, with what its call takes the host, is not timed in a graph.
const HOPELESS: u64 = 4;

impl Choice {
    fn text(self, library: &str) -> String {
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
    fn launches(&self) -> std::ops::Range<usize> {
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
                None => (table(self.settings.products, n), Origin::Table),
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

    /// The contractions that a library can make which is there, by name in the order of the plan. Adds to `unlike` what one made that is not.
    fn named(&mut self, recorded: &BTreeMap<String, String>, unlike: &mut Vec<String>) -> Vec<Named> {
        let mut all: Vec<Named> = Vec::new();
        let followers = followers(self.plan);
        let tf32 = self.settings.tf32;
        for (launch, l) in self.plan.launches().into_iter().enumerate() {
            let kernel = l.kernel as usize;
            let Kernel::Contract(k) = &self.plan.kernels[kernel] else { continue };
            let Some(task) = Task::of(k, self.layout.max_batch, tf32) else { continue };
            let name = format!("{}{}", choice::key(k, self.layout.max_batch), if tf32 { ", tf32" } else { "" });
            let follower =
                followers.get(&l.kernel).filter(|f| task.joined(f, self.layout.max_batch).is_some()).cloned();
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
                    all.push(Named { name, kernels, launch, task, follower, library, from, made, is_timed });
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
        let (tf32, lists) = (self.settings.tf32, self.driver.takes_lists());
        let library = |joins: bool| {
            let joins = |n: &Named| Way { algorithm: None, joins: joins && n.follower.is_some() };
            open.iter().flat_map(|n| n.kernels.iter().map(move |&k| (k, joins(n)))).collect()
        };
        let forms = [BTreeMap::new(), library(false), library(true)].map(|by_library| {
            let ways = Ways { by_library, tf32, lists };
            Parts::new(self.plan, self.layout, self.memory, self.caps, &ways, true)
        });
        let forms: Vec<Parts> = forms.into_iter().collect::<Result<_, _>>()?;
        let params_bytes = forms.iter().map(Parts::params_bytes).max().unwrap_or(0).next_multiple_of(16);
        let scratch = forms.iter().map(Parts::scratch_bytes).collect::<Result<Vec<u64>, _>>()?;
        self.memory.make_room(
            self.driver,
            self.plan,
            self.layout,
            Extras {
                scratch_bytes: scratch.into_iter().max().unwrap_or(0),
                params_bytes: params_bytes + VERDICT_BYTES,
                n_blocks: 1,
            },
        )?;
        self.memory.clear_arena(self.driver)?;
        // All that is timed is compiled at once with what the step has if kernels of ours are chosen.
        let launches: Vec<usize> = open.iter().flat_map(|n| n.launches()).collect();
        let own_step = Ways { tf32, lists, ..Ways::default() };
        let own_step = Parts::new(self.plan, self.layout, self.memory, self.caps, &own_step, self.settings.apart)?;
        let timed = forms.iter().flat_map(|parts| {
            let texts = parts.texts();
            parts.texts_of(&launches).into_iter().map(move |i| texts[i].clone())
        });
        let texts: Vec<Text> = Check::texts().into_iter().chain(timed).chain(own_step.texts()).collect();
        let (functions, compiled) = self.loaded.load(self.driver, &texts)?;
        *self.compiles += compiled;
        let forms: Vec<_> = forms.iter().map(|parts| self.nodes(parts, &launches)).collect::<Result<_, _>>()?;
        let verdict = self.memory.params_at + params_bytes;
        let mut trials = Trials { driver: &mut *self.driver, check: Check::new(&functions, verdict), verdict };
        // What is compiled here is what the step needs, so that it does not count.
        let started = Instant::now();
        let (mut timed, n_open) = (0, open.len());
        for n in open {
            if started.elapsed() > budget {
                break;
            }
            let of = |all: &Vec<(usize, Node)>| -> Vec<Node> {
                all.iter().filter(|(launch, _)| n.launches().contains(launch)).map(|(_, node)| node.clone()).collect()
            };
            let forms: Vec<Vec<Node>> = forms.iter().map(of).collect();
            if let Some(choice) = trials.fastest(n, &forms, notes)? {
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
    /// The fastest way whose numbers are right, and where an earlier process made it without timing, the same. `None` if the device has no clock. `forms`
    /// are the nodes with a kernel of ours, with the library's product, and with all that the library can do.
    fn fastest(
        &mut self,
        n: &Named,
        forms: &[Vec<Node>],
        notes: &mut Vec<String>,
    ) -> Result<Option<Choice>, DeviceError> {
        let call_of = |nodes: &Vec<Node>| {
            nodes
                .iter()
                .find_map(|n| if let Work::Product(call) = &n.work { Some(ProductCall::clone(call)) } else { None })
        };
        // Kernels of ours add in another order than the library.
        let calls: Vec<ProductCall> = forms[1..].iter().filter_map(call_of).collect();
        let ([bare, joined], false) = (&calls[..], n.from == Some(Choice::Own)) else { return Ok(Some(Choice::Own)) };
        self.check.fill(bare).iter().try_for_each(|node| self.driver.run(node))?;
        let short = SHORT_NS * n.launches().len() as u64;
        let mut ways = Vec::new();
        let mut candidates = vec![(Choice::Own, forms[0].clone())];
        for (joins, nodes, call) in [(false, &forms[1], bare), (true, &forms[2], joined)] {
            if joins && (n.follower.is_none() || matches!(n.from, Some(Choice::Library(way)) if !way.joins)) {
                continue;
            }
            let most = if joins || n.follower.is_none() { usize::MAX } else { FEW };
            for algorithm in self.driver.algorithms(&call.task, WORKSPACE_BYTES)?.into_iter().take(most) {
                let way = Way { algorithm: Some(algorithm), joins };
                candidates.push((Choice::Library(way), with(nodes, algorithm)));
            }
        }
        for (choice, nodes) in candidates {
            // What the library offers and then refuses is no candidate.
            let best = ways.iter().map(|(ns, _)| *ns).min();
            if let Choice::Library(way) = choice {
                self.list(if way.joins { joined } else { bare })?;
            }
            let ns = match n.task {
                Task::Product(_) => self.ns(&nodes, best),
                Task::Convolution(_) => self.ns_in_graph(&nodes, best),
            };
            match ns {
                Ok(ns) if choice == Choice::Own && ns <= short && n.from.is_none() => {
                    self.clear(bare)?;
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
        let call = |way: Way| if way.joins { joined } else { bare };
        let before = match n.from {
            Some(Choice::Library(way)) => Some(self.verdict(call(way), way.algorithm)?.digest),
            Some(Choice::Own) | None => None,
        };
        let mut best = n.from.unwrap_or(Choice::Own);
        for (_, choice) in ways {
            let Choice::Library(way) = choice else {
                if before.is_none() {
                    break;
                }
                continue;
            };
            let verdict = self.verdict(call(way), way.algorithm)?;
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
        [bare, joined].into_iter().try_for_each(|call| self.clear(call))?;
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
        results(call).try_for_each(|(at, bytes)| self.driver.clear(at, bytes))?;
        self.check.fill_turned(call).iter().try_for_each(|node| self.driver.run(node))?;
        self.list(call)?;
        self.driver.clear(self.verdict, VERDICT_BYTES)?;
        let node = Node { work: Work::Product(Box::new(product)), name: "a product that is compared".into() };
        self.driver.run(&node)?;
        self.check.compare(call).iter().try_for_each(|node| self.driver.run(node))?;
        let mut bytes = [0; VERDICT_BYTES as usize];
        self.driver.read(self.verdict, &mut bytes)?;
        Ok(Verdict::read(bytes))
    }

    /// Puts the addresses where a call reads them.
    fn list(&mut self, call: &ProductCall) -> Result<(), DeviceError> {
        call.lists().map_or(Ok(()), |(at, bytes)| self.driver.write(at, &bytes))
    }

    /// Leaves nothing that another kernel may take for places.
    fn clear(&mut self, call: &ProductCall) -> Result<(), DeviceError> {
        let [lhs, rhs] = call.task.operands().map(|(dtype, elements)| elements * dtype.size_bytes() as u64);
        let operands = [(call.lhs, lhs), (call.rhs, rhs)];
        let turned = call.turned_from.map(|at| (at, rhs));
        operands.into_iter().chain(turned).chain(results(call)).try_for_each(|(at, bytes)| self.driver.clear(at, bytes))
    }
}

/// Where results of a call lie.
fn results(call: &ProductCall) -> impl Iterator<Item = (u64, u64)> {
    [Some(call.result), call.aux].into_iter().flatten().map(|at| (at, call.task.result_bytes()))
}

/// Nodes in which the library makes its product in one way.
fn with(nodes: &[Node], algorithm: Algorithm) -> Vec<Node> {
    let mut nodes = nodes.to_vec();
    for node in &mut nodes {
        if let Work::Product(call) = &mut node.work {
            call.algorithm = Some(algorithm);
        }
    }
    nodes
}

/// What is chosen without timing: for a large product the library, with what follows, which mostly takes less time than a loop of its own.
fn table(products: Products, n: &Named) -> Choice {
    let is_large = match &n.task {
        Task::Product(p) => p.work() >= LARGE * p.outer as f64,
        Task::Convolution(_) => false,
    };
    let way = |joins| Choice::Library(Way { algorithm: None, joins });
    match products {
        Products::Library => way(n.follower.is_some()),
        Products::Own => Choice::Own,
        Products::Table | Products::Timed(_) if is_large => way(n.follower.is_some()),
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
