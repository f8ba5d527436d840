//! The form in which a step runs: a kernel for each launch, or one for all. Takes a plan, gives what has to be compiled and, for some steps, nodes.
//! Never calls the driver.

use crate::driver::{Function, Node};
use crate::memory::Memory;
use crate::parts::{Parts, Ways};
use crate::texts::Text;
use crate::whole::Whole;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::plan::{Layout, Plan};

pub enum Program {
    Chain(Parts),
    Whole(Whole),
}

/// Nodes, and by [leaf](crate::driver::leaves) the launches that it is of with the share of its time that is theirs.
pub struct Nodes {
    pub nodes: Vec<Node>,
    pub launches: Vec<Vec<(usize, f64)>>,
}

/// Launches of one graph, if that is more than one step: enough that the host has time to submit the next.
const GRAPH_NODES: usize = 256;
/// The most steps of one graph.
const MOST_STEPS: usize = 32;
/// The most steps of one kernel.
const MOST_REPEATS: usize = 128;

impl Program {
    /// A step that is small is one kernel, unless its launches are to be `apart`.
    /// Errors: what the plan holds and the device or this version lacks.
    pub fn new(
        plan: &Plan,
        layout: &Layout,
        memory: &Memory,
        caps: &Caps,
        apart: bool,
        ways: &Ways,
    ) -> Result<Program, DeviceError> {
        match Program::whole(plan, layout, memory, caps, apart) {
            Some(whole) => Ok(whole),
            None => Ok(Program::Chain(Parts::new(plan, layout, memory, caps, ways, apart)?)),
        }
    }

    /// A step that is small as one kernel.
    pub fn whole(plan: &Plan, layout: &Layout, memory: &Memory, caps: &Caps, apart: bool) -> Option<Program> {
        Whole::new(plan, layout, memory, caps).filter(|_| !apart).map(Program::Whole)
    }

    pub fn texts(&self) -> Vec<Text> {
        match self {
            Program::Chain(parts) => parts.texts(),
            Program::Whole(whole) => whole.texts(),
        }
    }

    /// Kernels of one step.
    pub fn n_kernels(&self) -> usize {
        match self {
            Program::Chain(parts) => parts.n_launches(),
            Program::Whole(_) => 1,
        }
    }

    /// The most steps of one graph.
    pub fn most_steps(&self) -> usize {
        match self {
            Program::Chain(parts) => (GRAPH_NODES / parts.n_launches().max(1)).clamp(1, MOST_STEPS),
            Program::Whole(_) => MOST_REPEATS,
        }
    }

    /// Whether kernels read batches from the host's memory, once each: that takes less time than a copy of its own.
    pub fn reads_host(&self) -> bool {
        matches!(self, Program::Whole(_))
    }

    /// The end of what libraries work in among the values of a step.
    pub fn arena_bytes(&self) -> u64 {
        match self {
            Program::Chain(parts) => parts.arena_bytes(),
            Program::Whole(_) => 0,
        }
    }

    /// Bytes that kernels of one launch share.
    pub fn scratch_bytes(&self) -> u64 {
        match self {
            Program::Chain(parts) => parts.scratch_bytes(),
            Program::Whole(_) => 0,
        }
    }

    /// Bytes of parameters in memory.
    pub fn params_bytes(&self) -> u64 {
        match self {
            Program::Chain(parts) => parts.params_bytes(),
            Program::Whole(_) => 0,
        }
    }

    /// The parameters that are in memory, for a batch size.
    pub fn params(&self, memory: &Memory, batch: usize) -> Result<Vec<u32>, DeviceError> {
        match self {
            Program::Chain(parts) => parts.params(memory, batch),
            Program::Whole(_) => Ok(Vec::new()),
        }
    }

    /// Steps on a batch size, whose inputs lie one block after the other from an address on.
    /// Errors: a launch is too large for the device.
    pub fn nodes(
        &self,
        memory: &Memory,
        functions: &[Function],
        batch: usize,
        inputs_at: u64,
        steps: usize,
    ) -> Result<Nodes, DeviceError> {
        let mut all = Nodes { nodes: Vec::new(), launches: Vec::new() };
        match self {
            Program::Chain(parts) => {
                for step in 0..steps as u64 {
                    let at = inputs_at + step * memory.block_bytes;
                    let (nodes, launches) = parts.nodes(memory, functions, batch, at)?;
                    all.nodes.extend(nodes);
                    all.launches.extend(launches);
                }
            }
            Program::Whole(whole) => {
                all.nodes.push(whole.node(memory, functions, batch, inputs_at, steps));
                all.launches.push(whole.launches());
            }
        }
        Ok(all)
    }
}
