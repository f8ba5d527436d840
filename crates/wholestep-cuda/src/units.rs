//! Units of compilation. Takes texts, gives machine code in pieces of several kernels, on threads of its own, and what was kept of each text. The
//! compiler reads texts one thread at a time, and its own declarations before each unit, so that texts go together; what a program needs of earlier ones
//! is looked up by text.

use crate::cache::Cache;
use crate::nvrtc::Nvrtc;
use crate::texts::Text;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, available_parallelism};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::cuda;

/// Machine code with the kernels in it that are wanted: the number of the text and the kernel's name.
pub struct Code {
    pub cubin: Arc<Vec<u8>>,
    pub kernels: Vec<(usize, String)>,
}

/// What compiling takes beside a byte of a text, in as many bytes: a text, and a loop that is unrolled, as those for tensor cores are.
const TEXT_COST: usize = 1 << 10;
const UNROLLED: &str = "#pragma unroll\n";
const UNROLLED_COST: usize = 5 << 9;
/// A unit takes as much at least, if there is so much: its reading is worth it.
const UNIT_COST: usize = 16 << 10;
/// Units for each thread, so that who is done early takes more.
const UNITS: usize = 2;

/// The unit of the sources of texts, the n-th of which has the kernel [`name`] of n.
pub fn unit<'a>(sources: impl IntoIterator<Item = &'a String>) -> String {
    let one = |(i, source): (usize, &String)| {
        format!("#define BODY body{i}\n#define KERNEL {}\n{source}#undef BODY\n#undef KERNEL\n", name(i))
    };
    cuda::PRELUDE.to_string() + &sources.into_iter().enumerate().map(one).collect::<String>()
}

/// The name of kernel `i` of a unit.
pub fn name(i: usize) -> String {
    format!("kernel{i}")
}

/// A compiler for one device, with what it is busy with.
pub struct Compiler {
    nvrtc: Nvrtc,
    /// Compute capability, 90 for 9.0.
    arch: u32,
    cache: Option<Cache>,
    /// By text: its unit and its name in there.
    places: BTreeMap<Text, (usize, String)>,
    n_units: usize,
    work: Arc<Work>,
    threads: Vec<JoinHandle<()>>,
}

/// What threads share.
#[derive(Default)]
struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Unit>,
    n_threads: usize,
    made: BTreeMap<usize, Made>,
}

/// What is compiled together.
struct Unit {
    number: usize,
    source: String,
    /// What its kernels are kept under, with their names.
    kernels: Vec<(String, String)>,
}

/// A unit's machine code, and whether it was compiled here.
type Made = Result<(Arc<Vec<u8>>, bool), DeviceError>;

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compiler {
    pub fn new(nvrtc: Nvrtc, arch: u32, cache: Option<Cache>) -> Compiler {
        let (places, work, threads) = Default::default();
        Compiler { nvrtc, arch, cache, places, n_units: 0, work, threads }
    }

    /// Begins to compile texts that it has not seen and nobody has kept, before what waits if they are needed `soon`.
    pub fn begin(&mut self, texts: &[Text], soon: bool) {
        let mut kept: BTreeMap<String, Vec<(Text, String)>> = BTreeMap::new();
        let mut new = Vec::new();
        for text in texts.iter().filter(|t| !self.places.contains_key(t)) {
            match self.cache.as_ref().and_then(|c| place(&c.read(&self.kept_under(text))?)) {
                Some((unit, name)) => kept.entry(unit).or_default().push((text.clone(), name)),
                None => new.push(text.clone()),
            }
        }
        for (unit, kernels) in kept {
            match self.cache.as_ref().and_then(|c| c.read(&unit)) {
                Some(cubin) => {
                    self.places.extend(kernels.into_iter().map(|(text, name)| (text, (self.n_units, name))));
                    self.work.state().made.insert(self.n_units, Ok((Arc::new(cubin), false)));
                    self.n_units += 1;
                }
                None => new.extend(kernels.into_iter().map(|(text, _)| text)),
            }
        }
        new.sort();
        new.dedup();
        // One core goes on with what the rest is compiled for.
        let most = available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1);
        let mut units = Vec::new();
        for group in groups(&new, most) {
            let source = unit(group.iter().map(|&i| &new[i].source));
            let names = group.iter().enumerate().map(|(n, &i)| (i, name(n)));
            self.places.extend(names.clone().map(|(i, name)| (new[i].clone(), (self.n_units, name))));
            let kernels = names.map(|(i, name)| (self.kept_under(&new[i]), name)).collect();
            units.push(Unit { number: self.n_units, source, kernels });
            self.n_units += 1;
        }
        self.start(units, soon, most);
    }

    /// Begins to compile units, in order.
    fn start(&mut self, units: Vec<Unit>, soon: bool, most_threads: usize) {
        let mut state = self.work.state();
        let n_threads = most_threads.min(state.n_threads + units.len());
        put(&mut state.waiting, units, soon);
        while state.n_threads < n_threads {
            state.n_threads += 1;
            let (nvrtc, arch, cache, work) = (self.nvrtc, self.arch, self.cache.clone(), self.work.clone());
            self.threads.push(std::thread::spawn(move || compile(nvrtc, arch, cache.as_ref(), &work)));
        }
    }

    /// Machine code of texts, and how many of them were compiled.
    /// Errors: what the compiler says of a text that it refuses.
    pub fn finish(&mut self, texts: &[Text]) -> Result<(Vec<Code>, u64), DeviceError> {
        self.begin(texts, true);
        let mut units: BTreeMap<usize, Vec<(usize, String)>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            let (unit, name) = &self.places[text];
            units.entry(*unit).or_default().push((i, name.clone()));
        }
        let (mut all, mut compiled) = (Vec::with_capacity(units.len()), 0);
        for (unit, kernels) in units {
            let state = self.work.changed.wait_while(self.work.state(), |state| !state.made.contains_key(&unit));
            let (cubin, is_new) = state.unwrap_or_else(PoisonError::into_inner).made[&unit].clone()?;
            compiled += if is_new { kernels.len() as u64 } else { 0 };
            all.push(Code { cubin, kernels });
        }
        Ok((all, compiled))
    }

    /// What is kept of a text.
    fn kept_under(&self, text: &Text) -> String {
        format!("kernel of {}", self.nvrtc.key(&unit([&text.source]), self.arch))
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.work.state().waiting.clear();
        // A process that ends while the compiler works may crash.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Puts what is in order before what waits, or behind it.
fn put<T>(waiting: &mut VecDeque<T>, all: Vec<T>, soon: bool) {
    match soon {
        true => all.into_iter().rev().for_each(|one| waiting.push_front(one)),
        false => waiting.extend(all),
    }
}

/// Compiles units until none waits.
fn compile(nvrtc: Nvrtc, arch: u32, cache: Option<&Cache>, work: &Work) {
    let next = || {
        let mut state = work.state();
        let unit = state.waiting.pop_front();
        state.n_threads -= usize::from(unit.is_none());
        unit
    };
    while let Some(unit) = next() {
        let made = nvrtc.compile_kept(&unit.source, arch, cache);
        if let (Ok(_), Some(cache)) = (&made, cache) {
            let key = nvrtc.key(&unit.source, arch);
            unit.kernels.iter().for_each(|(under, name)| cache.write(under, format!("{name}\n{key}").as_bytes()));
        }
        let made = made.map(|(cubin, n)| (Arc::new(cubin), n > 0));
        work.state().made.insert(unit.number, made);
        work.changed.notify_all();
    }
}

/// The unit in which a text's kernel is, and its name there.
fn place(kept: &[u8]) -> Option<(String, String)> {
    let (name, unit) = std::str::from_utf8(kept).ok()?.split_once('\n')?;
    Some((unit.to_string(), name.to_string()))
}

/// What compiling a text takes, roughly.
fn cost(text: &Text) -> usize {
    text.source.len() + TEXT_COST + UNROLLED_COST * text.source.matches(UNROLLED).count()
}

/// Numbers of texts by unit, the longest unit first, for so many `threads`, with about as much in each: what takes the compiler longest is what all wait
/// for. Those that do not join are units of their own.
fn groups(texts: &[Text], threads: usize) -> Vec<Vec<usize>> {
    let costs: Vec<usize> = texts.iter().map(cost).collect();
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(costs[i]), i));
    let (alone, joined): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| !texts[i].joins);
    let n = joined.iter().map(|&i| costs[i]).sum::<usize>().div_ceil(UNIT_COST).min(UNITS * threads);
    let mut units: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); n];
    for i in joined {
        let least = units.iter_mut().min_by_key(|(cost, _)| *cost).expect("bug: texts and no unit");
        least.0 += costs[i];
        least.1.push(i);
    }
    units.extend(alone.into_iter().map(|i| (costs[i], vec![i])));
    units.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
    units.into_iter().map(|(_, unit)| unit).filter(|unit| !unit.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Compiler, UNROLLED, groups, put};
    use crate::cache::Cache;
    use crate::nvrtc::Nvrtc;
    use crate::texts::Text;
    use std::collections::VecDeque;

    fn text(number: usize, comment: usize) -> Text {
        let source = format!(
            "static __device__ float BODY() {{ return {number}.0f; }} // {}\nextern \"C\" __global__ void KERNEL(float* y) {{ y[0] = BODY(); }}\n",
            "-".repeat(comment)
        );
        Text { source, shared_bytes: 0, joins: number != 0 }
    }

    #[test]
    fn short_texts_are_compiled_together_and_long_ones_and_those_that_do_not_join_apart() {
        let texts: Vec<Text> = (0..6).map(|i| text(i, if i == 4 { 20_000 } else { 600 })).collect();
        assert_eq!(groups(&texts, 1), [vec![4], vec![1, 2, 3, 5], vec![0]]);
        assert_eq!(groups(&texts, 3), [vec![4], vec![1, 2, 3, 5], vec![0]]);
        assert_eq!(groups(&texts[1..4], 1000), [vec![0, 1, 2]], "less is not worth a unit");
        // What is unrolled counts for more.
        let sizes = |texts: &[Text]| groups(texts, 1).iter().map(Vec::len).collect::<Vec<_>>();
        let mut many: Vec<Text> = (1..=40).map(|i| text(i, 600)).collect();
        assert_eq!(sizes(&many), [20, 20]);
        many[0].source += &UNROLLED.repeat(7);
        assert_eq!(sizes(&many), [15, 25]);
        assert!(groups(&[], 4).is_empty());
    }

    #[test]
    fn what_is_needed_soon_comes_before_what_waits() {
        let mut waiting = VecDeque::new();
        put(&mut waiting, vec![1, 2], false);
        put(&mut waiting, vec![3, 4], true);
        put(&mut waiting, vec![5], false);
        assert_eq!(waiting, [3, 4, 1, 2, 5]);
    }

    #[test]
    fn a_text_that_was_compiled_with_others_is_found_alone() {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(e) if std::env::var_os("REQUIRE_NVRTC").is_none() => return println!("skipped: no nvrtc ({e})"),
            Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("kept"));
        let texts: Vec<Text> = (0..4).map(|i| text(i, 0)).collect();
        let machine_code = |texts: &[Text], arch: u32| {
            let mut compiler = Compiler::new(nvrtc, arch, Some(cache.clone()));
            // Begun and needed again: compiled once.
            compiler.begin(texts, false);
            compiler.finish(texts).unwrap()
        };
        let (cold, compiled) = machine_code(&texts, 90);
        assert_eq!((compiled, cold.iter().map(|c| c.kernels.len()).sum::<usize>()), (4, 4));
        assert!(cold.len() == 2 && cold.iter().all(|c| c.cubin.starts_with(b"\x7fELF")));
        for code in &cold {
            for (i, name) in &code.kernels {
                assert!(code.cubin.windows(name.len()).any(|w| w == name.as_bytes()));
                let (warm, compiled) = machine_code(&texts[*i..=*i], 90);
                assert_eq!(compiled, 0);
                assert_eq!((&warm[0].cubin, &warm[0].kernels), (&code.cubin, &vec![(0, name.clone())]));
            }
        }
        // Others are not, and where the code is lost the texts are compiled again.
        assert_eq!(machine_code(&[text(9, 0)], 90).1, 1);
        assert_eq!(machine_code(&texts[2..3], 80).1, 1);
        let is_code = |path: &std::path::Path| std::fs::metadata(path).unwrap().len() > 1000;
        let files = std::fs::read_dir(folder.path().join("kept")).unwrap().map(|f| f.unwrap().path());
        files.filter(|path| is_code(path)).for_each(|path| std::fs::remove_file(path).unwrap());
        let (again, compiled) = machine_code(&texts, 90);
        assert_eq!((again.len(), compiled), (2, 4));
    }
}
