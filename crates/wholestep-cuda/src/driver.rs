//! What a step asks of the CUDA driver, and a step as data. The device and a recorder for tests implement it. Never knows a plan.

use crate::task::Task;
use crate::texts::Text;
use std::ops::Range;
use std::sync::Arc;
use wholestep_compiler::backend::{DeviceError, SlotAddress};

/// A queue of work on a device with what belongs to it: memory, code, graphs. All of it is given back when it is dropped.
pub trait Driver: Send {
    /// Begins to compile texts, before what waits if they are needed `soon`; [`Driver::load`] tells what became of them.
    fn prepare(&mut self, texts: &[Text], soon: bool);

    /// Compiles texts and loads their kernels; gives the function of each, and how many texts were compiled anew.
    fn load(&mut self, texts: &[Text]) -> Result<(Vec<Function>, u64), DeviceError>;

    /// Device memory of `bytes` bytes, at a multiple of 256.
    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError>;

    fn free(&mut self, at: u64);

    /// Memory of the host that the device can read by itself.
    fn pin(&mut self, bytes: usize) -> Result<Host, DeviceError>;

    fn unpin(&mut self, host: Host);

    /// What is in it. The caller sees to it that the device does not read while it is written.
    fn host(&mut self, host: Host) -> &mut [u8];

    /// Where kernels find it.
    fn address(&self, host: Host) -> u64;

    /// Nodes in order, each after the one before, to be launched as one. What a loop holds runs as often as the device decides.
    fn graph(&mut self, nodes: &[Node]) -> Result<Graph, DeviceError>;

    fn drop_graph(&mut self, graph: Graph);

    fn launch(&mut self, graph: Graph) -> Result<(), DeviceError>;

    /// Puts a kernel behind the one before, which it may begin beside as far as it waits for it itself. Never a loop.
    fn run(&mut self, node: &Node) -> Result<(), DeviceError>;

    /// Runs nodes one by one and waits for them; gives the nanoseconds of each [leaf](leaves), over all trips of the loops around it.
    fn clock(&mut self, nodes: &[Node]) -> Result<Vec<u64>, DeviceError>;

    /// Runs nodes in a graph of their own, in which the device notes when it begins and ends, and waits for it; gives the nanoseconds between.
    fn clock_graph(&mut self, nodes: &[Node]) -> Result<u64, DeviceError>;

    /// Copies part of a pinned memory to the device, on the stream for copies.
    fn send(&mut self, host: Host, part: Range<usize>, to: u64) -> Result<(), DeviceError>;

    /// Copies bytes to the device, on the stream for copies. They lie in pinned memory, where the caller leaves them as they are until an event after
    /// this.
    fn send_lent(&mut self, bytes: &[u8], to: u64) -> Result<(), DeviceError>;

    /// Copies bytes to the device after all work so far.
    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Sets bytes to zero after all work so far.
    fn clear(&mut self, at: u64, bytes: u64) -> Result<(), DeviceError>;

    /// Copies bytes from the device after all work so far, and waits for them.
    fn read(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// The library for a task, if it is there: "cuBLASLt 130100".
    fn library(&mut self, task: &Task) -> Option<String>;

    /// Ways in which its library does a task with so much memory to work in, the likeliest first.
    fn algorithms(&mut self, task: &Task, workspace_bytes: u64) -> Result<Vec<Algorithm>, DeviceError>;

    /// Whether the library of products takes lists of addresses.
    fn takes_lists(&mut self) -> bool;

    /// Lets other queues on the device copy from slots, given by address and bytes; gives the device's number and this queue's.
    fn share(&mut self, slots: Vec<(u64, u64)>) -> (u64, u64);

    /// Copies a slot that another queue shares, after all work that both were given, and waits for it. `false` if the slot is not to be found on this device.
    fn copy_shared(&mut self, from: SlotAddress, to: u64, bytes: u64) -> Result<bool, DeviceError>;

    fn event(&mut self) -> Result<Event, DeviceError>;

    /// Marks where a stream is by now.
    fn record(&mut self, event: Event, stream: Stream) -> Result<(), DeviceError>;

    /// Work given to `stream` from now on comes after the event.
    fn after(&mut self, stream: Stream, event: Event) -> Result<(), DeviceError>;

    /// The host waits for the event; not at all if it was never recorded.
    fn wait(&mut self, event: Event) -> Result<(), DeviceError>;
}

/// Order within a queue: work on one stream is done in order, that on different ones beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Compute,
    Copy,
}

/// A loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub usize);

/// One piece of work of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub work: Work,
    /// For errors: "net/fc1 (matmul add), contract kernel".
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Kernel(KernelCall),
    Product(Box<ProductCall>),
    Loop(LoopCall),
}

/// Nodes that run again and again while a truth value on the device holds.
#[derive(Clone, Debug, PartialEq)]
pub struct LoopCall {
    /// Where it lies: a byte, read before each trip.
    pub predicate: u64,
    pub max_trips: u32,
    /// Where trips are counted: a word of its own.
    pub counter: u64,
    /// The kernel of [`ASK`].
    pub ask: Function,
    pub body: Vec<Node>,
}

/// The text of the kernel that a graph asks whether there is another trip.
pub const ASK: &str = include_str!("ask.cuh");

/// The nodes that are no loops, in order, those in loops too.
pub fn leaves(nodes: &[Node]) -> Vec<&Node> {
    let mut all = Vec::with_capacity(nodes.len());
    for node in nodes {
        match &node.work {
            Work::Loop(call) => all.extend(leaves(&call.body)),
            Work::Kernel(_) | Work::Product(_) => all.push(node),
        }
    }
    all
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelCall {
    pub function: Function,
    /// Blocks along each axis, none of them 0.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    pub shared_bytes: u32,
    pub args: Vec<Param>,
}

/// A product or a convolution that a library makes, with the addresses of its operands, its result and memory to work in.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductCall {
    pub task: Task,
    /// The library's own first choice if there is none.
    pub algorithm: Option<Algorithm>,
    pub lhs: u64,
    pub rhs: u64,
    /// Where the right operand lies before a kernel turns it, if one does.
    pub turned_from: Option<u64>,
    pub result: u64,
    /// What the product's epilogue adds by column, and where it leaves what it applies an activation to.
    pub bias: Option<u64>,
    pub aux: Option<u64>,
    /// Where [`crate::product::Product::addresses`] lie, if they do.
    pub lists: Option<u64>,
    pub workspace: u64,
    pub workspace_bytes: u64,
}

impl ProductCall {
    /// The bytes of the lists that it reads, and where they belong.
    pub fn lists(&self) -> Option<(u64, Vec<u8>)> {
        let Task::Product(p) = &self.task else { return None };
        let addresses = p.addresses([self.lhs, self.rhs, self.result]);
        Some((self.lists?, addresses.iter().flat_map(|at| at.to_ne_bytes()).collect()))
    }
}

/// A way to do a task, in the library's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    pub data: [u64; 8],
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    Address(u64),
    /// By value.
    Words(Vec<u32>),
}
