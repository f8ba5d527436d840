//! Who makes contractions: a kernel of ours, or the library. Takes a plan and what is known by now, gives each contraction that the library can make a
//! choice: that of an earlier run which goes on, else that of the cache, else the fastest of a few that are timed here, else the table's. Never times
//! anything twice.

use crate::cache::Cache;
use crate::driver::{Algorithm, Driver, Node, Work, leaves};
use crate::memory::{Extras, Memory};
use crate::parts::{Parts, WORKSPACE_BYTES, Ways};
use crate::product::Product;
use crate::texts::Loaded;
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
    /// The library if they are large.
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
    pub cache: Option<Cache>,
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
    product: Product,
    made: Option<(Choice, Origin)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Own,
    /// `None`: the library's own first choice.
    Library(Option<Algorithm>),
}

/// Multiply-adds from which on the table takes the library.
const LARGE: f64 = 2e6;
/// Runs that are timed, after one that is not.
const RUNS: usize = 4;

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
        let mut all = self.named();
        if all.is_empty() {
            return Ok(chosen);
        }
        let Some(library) = self.driver.library() else { return Ok(chosen) };
        let key = |name: &str| format!("choice for {} by {library}\n{name}", self.caps.name);
        let is_timed = matches!(self.settings.products, Products::Timed(_));
        let cache = self.settings.cache.clone().filter(|_| is_timed);
        for n in &mut all {
            let kept = cache.as_ref().and_then(|c| String::from_utf8(c.read(&key(&n.name))?).ok());
            let known = [(recorded.get(&n.name), Origin::Recorded), (kept.as_ref(), Origin::Cached)];
            let read = |(text, origin): (Option<&String>, Origin)| Some((Choice::read(text?, &library)?, origin));
            n.made = known.into_iter().find_map(read);
        }
        if let Products::Timed(budget) = self.settings.products {
            chosen.timings = self.time(&mut all, budget)?;
        }
        for n in &mut all {
            let (choice, origin) =
                *n.made.get_or_insert_with(|| (table(self.settings.products, &n.product), Origin::Table));
            let text = choice.text(&library);
            // What the budget left to the table is kept too: the next run has to make the same choices.
            if let (Some(cache), Origin::Timed | Origin::Table) = (&cache, origin) {
                cache.write(&key(&n.name), text.as_bytes());
            }
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

    /// The contractions that the library can make, by name in the order of the plan.
    fn named(&self) -> Vec<Named> {
        let mut all: Vec<Named> = Vec::new();
        let tf32 = self.settings.tf32;
        for (launch, l) in self.plan.launches().into_iter().enumerate() {
            let kernel = l.kernel as usize;
            let Kernel::Contract(k) = &self.plan.kernels[kernel] else { continue };
            let Some(product) = Product::of(k, self.layout.max_batch, tf32) else { continue };
            let name = format!("{}{}", choice::key(k, self.layout.max_batch), if tf32 { ", tf32" } else { "" });
            match all.iter_mut().find(|n| n.name == name) {
                Some(n) if n.kernels.contains(&kernel) => {}
                Some(n) => n.kernels.push(kernel),
                None => all.push(Named { name, kernels: vec![kernel], launch, product, made: None }),
            }
        }
        all
    }

    /// Times those that have no choice yet, the largest first; gives how many that were.
    fn time(&mut self, all: &mut [Named], budget: Duration) -> Result<u64, DeviceError> {
        let mut open: Vec<&mut Named> = all.iter_mut().filter(|n| n.made.is_none()).collect();
        if open.is_empty() {
            return Ok(0);
        }
        open.sort_by(|a, b| b.product.work().total_cmp(&a.product.work()));
        let by_library = open.iter().flat_map(|n| &n.kernels).map(|&k| (k, None)).collect();
        let ways =
            [Ways { tf32: self.settings.tf32, ..Ways::default() }, Ways { by_library, tf32: self.settings.tf32 }];
        let [own, library] = ways.map(|w| Parts::new(self.plan, self.layout, self.memory, self.caps, &w));
        let (own, library) = (own?, library?);
        self.memory.make_room(
            self.driver,
            self.plan,
            self.layout,
            Extras {
                scratch_bytes: own.scratch_bytes()?.max(library.scratch_bytes()?),
                params_bytes: own.params_bytes().max(library.params_bytes()),
                n_blocks: 1,
            },
        )?;
        self.memory.clear_arena(self.driver)?;
        let own = self.nodes(&own)?;
        let library = self.nodes(&library)?;
        // What is compiled here is what the step needs, so that it does not count.
        let started = Instant::now();
        let mut timed = 0;
        for n in open {
            if started.elapsed() > budget {
                break;
            }
            let of = |all: &[(usize, Node)]| -> Vec<Node> {
                all.iter().filter(|(launch, _)| *launch == n.launch).map(|(_, node)| node.clone()).collect()
            };
            let mut best = (self.ns(&of(&own))?, Choice::Own);
            for algorithm in self.driver.algorithms(&n.product, WORKSPACE_BYTES)? {
                let mut nodes = of(&library);
                for node in &mut nodes {
                    if let Work::Product(call) = &mut node.work {
                        call.algorithm = Some(algorithm);
                    }
                }
                // What the library offers and then refuses is no candidate.
                match self.ns(&nodes) {
                    Ok(ns) if ns < best.0 => best = (ns, Choice::Library(Some(algorithm))),
                    Ok(_) | Err(DeviceError::Unsupported(_)) => {}
                    Err(e) => return Err(e),
                }
            }
            n.made = Some((best.1, Origin::Timed));
            timed += 1;
        }
        // Epilogues have written to them.
        self.memory.clear_slots(self.driver)?;
        Ok(timed)
    }

    /// The nodes of all parts, those in loops too, with their launches.
    fn nodes(&mut self, parts: &Parts) -> Result<Vec<(usize, Node)>, DeviceError> {
        let (functions, compiled) = self.loaded.load(self.driver, &parts.texts())?;
        *self.compiles += compiled;
        let (nodes, launches) = parts.nodes(self.memory, &functions, self.layout.max_batch, self.memory.block(0))?;
        Ok(launches.into_iter().zip(leaves(&nodes).into_iter().cloned()).collect())
    }

    /// The nanoseconds that nodes take: the least of a few runs.
    fn ns(&mut self, nodes: &[Node]) -> Result<u64, DeviceError> {
        let all: Vec<Node> = (0..=RUNS).flat_map(|_| nodes.iter().cloned()).collect();
        let times = self.driver.clock(&all)?;
        let runs = times.chunks(nodes.len().max(1)).skip(1).map(|run| run.iter().sum());
        Ok(runs.min().unwrap_or(0))
    }
}

fn table(products: Products, product: &Product) -> Choice {
    match products {
        Products::Library => Choice::Library(None),
        Products::Own => Choice::Own,
        Products::Table | Products::Timed(_) if product.work() >= LARGE => Choice::Library(None),
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
