//! What products take. Takes one with nodes that make it by a kernel of ours and by the library, gives the fastest way whose numbers are right. Leaves
//! nothing in memory that was not there.

use crate::check::{Check, VERDICT_BYTES, Verdict};
use crate::choose::{Choice, Named};
use crate::driver::{Algorithm, Driver, Node, ProductCall, Work};
use crate::parts::{WORKSPACE_BYTES, Way};
use crate::task::Task;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::ir::DType;

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
/// What takes so many times as long as the best at its second run is not timed further.
const HOPELESS: u64 = 2;

/// What has at least so many multiply-adds is timed by the library before a kernel of ours is compiled for it, which takes longer than all of that.
const LARGE_WORK: f64 = 1e9;
/// What part of the library's best rate kernels of ours reach at most: products of 16 bits, convolutions of 16 bits, others.
const OWN_RATES: [f64; 3] = [0.6, 0.4, 1.0];
/// And what part of its bytes in a nanosecond those of 16 bits do.
const OWN_BYTES: f64 = 0.85;
/// What part of a product is left where a half does not count.
const HALVED: f64 = 0.6;
/// A kernel of ours is compiled if the library takes more than so many times what it would take at its best.
const MARGIN: f64 = 1.25;

/// Loops move so many times the bytes that the library's products do at their best.
const LOOPS: f64 = 1.7;
/// Channels of 16 bits that matrix units take at once.
const CHANNELS: u64 = 8;

/// A way with its nanoseconds.
type Timed = (u64, Choice);

/// What is known of the library before a kernel of ours is timed.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// The fastest ways whose numbers are right, each with the time of its call: of the product alone, and with what follows.
    pub found: [Option<Timed>; 2],
    /// Whether a kernel of ours may be faster.
    pub own: bool,
}

impl Ahead {
    /// Whether the library will likely do what follows too; `None` if a kernel of ours is to be likely where it may be faster.
    pub fn likely(&self, own: bool) -> Option<bool> {
        match self.found {
            _ if self.own && own => None,
            // What is left to a loop otherwise takes longer than the difference.
            [_, joined] => Some(joined.is_some()),
        }
    }
}

/// The best rates of the library by far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Multiply-adds a nanosecond, of 16 bits and of others.
    work: [f64; 2],
    /// Bytes of operands and result a nanosecond.
    bytes: f64,
}

/// Whether the library is asked first.
pub fn is_large(task: &Task) -> bool {
    task.work() >= LARGE_WORK
}

/// Whether operands have 16 bits.
fn is_half(task: &Task) -> bool {
    matches!(task.operands()[0].0, DType::F16 | DType::BF16)
}

/// Whether the library will likely be faster than a kernel of ours, by what is known before anything is timed: not where it looks at single pixels apart from
/// each other, unless there is much of them, or at few channels.
pub fn is_likely(n: &Named) -> bool {
    let task = &n.task;
    let suits = match task {
        Task::Product(_) => true,
        Task::Convolution(c) => {
            [c.c_in, c.c_out].iter().all(|n| n % CHANNELS == 0)
                && (n.is_input_grad || c.axes.iter().any(|a| a.kernel > 1) || task.work() >= 2.0 * LARGE_WORK)
        }
    };
    suits && is_large(task) && is_half(task)
}

impl Rates {
    /// With a task that took `ns`.
    pub fn see(&mut self, task: &Task, ns: u64) {
        let ns = ns.max(1) as f64;
        let work = &mut self.work[usize::from(!is_half(task))];
        *work = work.max(task.work() / ns);
        self.bytes = self.bytes.max(task.bytes() as f64 / ns);
    }

    /// Whether a kernel of ours may be faster than the ways that were `found` of the library, which leaves `n_loops` to us where it makes the product
    /// alone.
    pub fn kernel_may_win(&self, n: &Named, found: &[Option<Timed>; 2], n_loops: usize) -> bool {
        let task = &n.task;
        if n.is_input_grad && is_half(task) && found.iter().any(Option::is_some) {
            return false;
        }
        let share = match (is_half(task), task) {
            (true, Task::Product(_)) => OWN_RATES[0],
            (true, Task::Convolution(_)) => OWN_RATES[1],
            (false, _) => OWN_RATES[2],
        };
        // A loop reads the result and writes as much.
        let loops = |n: usize| n as f64 * 2.0 * task.result_bytes() as f64 / (LOOPS * self.bytes);
        let by_work = task.work() / (share * self.work[usize::from(!is_half(task))]);
        let by_bytes = task.bytes() as f64 / (if is_half(task) { OWN_BYTES } else { 1.0 } * self.bytes);
        // What is done with the sums at once need not read them, but what there is beside them.
        let part = if n.is_halved { HALVED } else { 1.0 };
        let own = part * by_work.max(by_bytes) + loops(usize::from(n.follower.is_some()) + n_loops) / 2.0;
        let library = found.iter().zip([n_loops, 0]).filter_map(|(way, n)| Some((*way)?.0 as f64 + loops(n)));
        library.fold(f64::INFINITY, f64::min) + LIBRARY_NS as f64 > MARGIN * own
    }
}

/// What times and checks with a driver.
pub struct Trials<'a> {
    pub driver: &'a mut dyn Driver,
    pub check: Check,
    pub verdict: u64,
}

impl Trials<'_> {
    /// The fastest ways of the library whose numbers are right, of the product alone and with what follows; where an earlier process made it without
    /// timing, the same. `None` for what it has not or the device has no clock for. `forms` are the nodes of both.
    pub fn by_library(
        &mut self,
        n: &Named,
        forms: &[Vec<Node>; 2],
        notes: &mut Vec<String>,
    ) -> Result<[Option<Timed>; 2], DeviceError> {
        let mut found = [None; 2];
        let [Some((bare, _)), Some((joined, _))] = forms.each_ref().map(|nodes| product(nodes)) else {
            return Ok(found);
        };
        self.fill(bare)?;
        for (found, (joins, nodes)) in found.iter_mut().zip([(false, &forms[0]), (true, &forms[1])]) {
            let (Some((call, node)), true) = (product(nodes), may_join(n, joins)) else { continue };
            self.list(call)?;
            self.turn(call)?;
            let mut ways: Vec<Timed> = Vec::new();
            for algorithm in self.driver.algorithms(&call.task, WORKSPACE_BYTES)?.into_iter().take(most_ways(n, joins))
            {
                let best = ways.iter().map(|(ns, _)| *ns).min();
                match self.ns_in_graph(&with(std::slice::from_ref(node), algorithm), best) {
                    Ok(ns) => ways.push((ns, Choice::Library(Way { algorithm: Some(algorithm), joins }))),
                    // What the library offers and then refuses is no candidate.
                    Err(DeviceError::Unsupported(_)) => {}
                    Err(e) => return Err(e),
                }
            }
            ways.sort_by_key(|(ns, _)| *ns);
            *found = self.right(n, [bare, joined], &ways, notes)?;
        }
        [bare, joined].into_iter().try_for_each(|call| self.clear(call))?;
        Ok(found)
    }

    /// A kernel of ours or the library, whose fastest ways are known. `forms` are the nodes with a kernel of ours, with the library's product, and with all
    /// that the library can do.
    pub fn beside(&mut self, forms: &[Vec<Node>; 3], ahead: &Ahead) -> Result<Choice, DeviceError> {
        let [Some((bare, _)), Some((joined, _))] = [&forms[1], &forms[2]].map(|nodes| product(nodes)) else {
            return Ok(Choice::Own);
        };
        self.fill(bare)?;
        let mut ways: Vec<Timed> = Vec::new();
        for (nodes, fastest) in forms[1..].iter().zip(ahead.found) {
            let Some((ns, choice)) = fastest else { continue };
            let around: Vec<Node> = nodes.iter().filter(|n| !matches!(n.work, Work::Product(_))).cloned().collect();
            let around = if around.is_empty() { 0 } else { self.ns_in_graph(&around, None)? };
            ways.push((ns + around + LIBRARY_NS, choice));
        }
        if ahead.own {
            match self.ns_in_graph(&forms[0], ways.iter().map(|(ns, _)| *ns).min()) {
                Ok(ns) => ways.push((ns, Choice::Own)),
                Err(DeviceError::Unsupported(_)) => {}
                Err(e) => return Err(e),
            }
        }
        [bare, joined].into_iter().try_for_each(|call| self.clear(call))?;
        Ok(ways.into_iter().min_by_key(|(ns, _)| *ns).map_or(Choice::Own, |(_, choice)| choice))
    }

    /// The fastest way whose numbers are right, a kernel of ours first, and where an earlier process made it without timing, the same. `None` if the
    /// device has no clock. `forms` are as those of [`Trials::beside`].
    pub fn fastest(
        &mut self,
        n: &Named,
        forms: &[Vec<Node>; 3],
        notes: &mut Vec<String>,
    ) -> Result<Option<Choice>, DeviceError> {
        let [Some((bare, _)), Some((joined, _))] = [&forms[1], &forms[2]].map(|nodes| product(nodes)) else {
            return Ok(Some(Choice::Own));
        };
        self.fill(bare)?;
        let short = SHORT_NS * n.launches().len() as u64;
        let mut ways = Vec::new();
        let mut candidates = vec![(Choice::Own, forms[0].clone())];
        for (joins, nodes, call) in [(false, &forms[1], bare), (true, &forms[2], joined)] {
            if !may_join(n, joins) {
                continue;
            }
            for algorithm in self.driver.algorithms(&call.task, WORKSPACE_BYTES)?.into_iter().take(most_ways(n, joins))
            {
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
            match self.ns_in_graph(&nodes, best) {
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
        let found = self.right(n, [bare, joined], &ways, notes)?;
        [bare, joined].into_iter().try_for_each(|call| self.clear(call))?;
        Ok(Some(found.map_or(n.from.unwrap_or(Choice::Own), |(_, choice)| choice)))
    }

    /// The first of `ways` whose numbers are right. If an earlier process made this without timing, one of the same bits.
    fn right(
        &mut self,
        n: &Named,
        [bare, joined]: [&ProductCall; 2],
        ways: &[Timed],
        notes: &mut Vec<String>,
    ) -> Result<Option<Timed>, DeviceError> {
        let call = |way: Way| if way.joins { joined } else { bare };
        let before = match n.from {
            Some(Choice::Library(way)) => Some(self.verdict(call(way), way.algorithm)?.digest),
            Some(Choice::Own) | None => None,
        };
        for &(ns, choice) in ways {
            let Choice::Library(way) = choice else {
                if before.is_none() {
                    return Ok(Some((ns, choice)));
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
                return Ok(Some((ns, choice)));
            }
        }
        Ok(None)
    }

    fn fill(&mut self, call: &ProductCall) -> Result<(), DeviceError> {
        self.check.fill(call).iter().try_for_each(|node| self.driver.run(node))?;
        self.turn(call)
    }

    /// As kernels of ours turn what a call reads.
    fn turn(&mut self, call: &ProductCall) -> Result<(), DeviceError> {
        self.check.fill_turned(call).iter().try_for_each(|node| self.driver.run(node))
    }

    /// The nanoseconds that nodes take in a graph, as they will run, by the device's own notes: giving a stream a short kernel or a call of cuDNN takes the host
    /// longer than it takes the device, up to a ms while other kernels are compiled.
    fn ns_in_graph(&mut self, nodes: &[Node], best: Option<u64>) -> Result<u64, DeviceError> {
        // The first call of a way loads it.
        self.driver.clock(nodes)?;
        let once = self.driver.clock_graph(nodes)?;
        if once >= LONG_NS || best.is_some_and(|best| once > best.saturating_mul(HOPELESS)) {
            return Ok(once);
        }
        let all: Vec<Node> = (0..RUNS).flat_map(|_| nodes.iter().cloned()).collect();
        Ok(self.driver.clock_graph(&all)? / RUNS as u64)
    }

    /// What a way of the library makes of the operands as they are.
    fn verdict(&mut self, call: &ProductCall, algorithm: Option<Algorithm>) -> Result<Verdict, DeviceError> {
        let product = ProductCall { algorithm, ..call.clone() };
        // What is not written is then 0, which a sum of random products is not.
        results(call).try_for_each(|(at, bytes)| self.driver.clear(at, bytes))?;
        self.turn(call)?;
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

/// Whether the library may do what follows a product too, or if it does not join, make it alone.
fn may_join(n: &Named, joins: bool) -> bool {
    !joins || (n.follower.is_some() && !matches!(n.from, Some(Choice::Library(way)) if !way.joins))
}

/// How many ways are timed.
fn most_ways(n: &Named, joins: bool) -> usize {
    if joins || n.follower.is_none() { usize::MAX } else { FEW }
}

/// The call of the library among nodes, and its node.
fn product(nodes: &[Node]) -> Option<(&ProductCall, &Node)> {
    nodes.iter().find_map(|n| if let Work::Product(call) = &n.work { Some((&**call, n)) } else { None })
}

/// Nodes whose call of the library is made in this way.
fn with(nodes: &[Node], algorithm: Algorithm) -> Vec<Node> {
    let mut nodes = nodes.to_vec();
    for node in &mut nodes {
        if let Work::Product(call) = &mut node.work {
            call.algorithm = Some(algorithm);
        }
    }
    nodes
}
