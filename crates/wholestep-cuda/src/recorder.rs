//! A driver without a device. Takes what a step asks of one, keeps a log of it and memory that copies go through; kernels do nothing. Never part of
//! a build that ships.

use crate::check;
use crate::driver::{Algorithm, Driver, Event, Function, Graph, Host, Node, Param, Stream, Work, leaves};
use crate::task::Task;
use crate::texts::Text;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use wholestep_compiler::backend::{DeviceError, SlotAddress};

/// What was asked, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Load {
        kernels: usize,
    },
    Alloc {
        at: u64,
        bytes: u64,
    },
    Free {
        at: u64,
    },
    Pin {
        bytes: usize,
    },
    Unpin,
    Graph {
        graph: usize,
        nodes: Vec<Node>,
    },
    DropGraph {
        graph: usize,
    },
    Launch {
        graph: usize,
    },
    Run {
        node: Box<Node>,
    },
    ClockGraph {
        nodes: Vec<Node>,
    },
    Clock {
        nodes: usize,
    },
    Send {
        to: u64,
        bytes: Vec<u8>,
    },
    /// From an address of the host.
    SendLent {
        from: usize,
        to: u64,
    },
    Write {
        to: u64,
        bytes: usize,
    },
    Clear {
        at: u64,
        bytes: u64,
    },
    Read {
        from: u64,
        bytes: usize,
    },
    Record(usize, Stream),
    After(Stream, usize),
    Wait(usize),
}

/// What a test sees of it, and how it makes calls fail.
#[derive(Default)]
pub struct Log {
    pub calls: Vec<Call>,
    pub texts: Vec<Text>,
    /// What was to be compiled ahead.
    pub prepared: Vec<Text>,
    /// The next call of this name fails so.
    pub fails: Option<(&'static str, DeviceError)>,
    /// Whether no memory is left.
    pub is_full: bool,
    /// Whether there is a library for products, and the microseconds of its ways.
    pub library: Option<Vec<u64>>,
    /// The microseconds of a kernel; 10 if nothing is said.
    pub kernel_us: Option<u64>,
    /// By way of the library: how far its sums are off where the largest is 1, and the bits of its result. Ways that are not there are right and alike.
    pub sums: BTreeMap<u64, (f32, u64)>,
    /// The device's memory by the address where each piece begins.
    pub memory: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Default)]
pub struct Recorder {
    pub log: Arc<Mutex<Log>>,
    hosts: Vec<Vec<u8>>,
    /// The way of the library's last product.
    way: u64,
    /// The nodes of each.
    graphs: Vec<Vec<Node>>,
    n_events: usize,
}

impl Log {
    /// The bytes from an address on.
    pub fn at(&mut self, at: u64, bytes: usize) -> &mut [u8] {
        let (begin, piece) = self.memory.range_mut(..=at).next_back().expect("an address below all memory");
        &mut piece[(at - begin) as usize..][..bytes]
    }
}

impl Recorder {
    fn note(&self, name: &'static str, call: Call) -> Result<(), DeviceError> {
        let mut log = self.log.lock().unwrap();
        if log.fails.as_ref().is_some_and(|(which, _)| *which == name) {
            return Err(log.fails.take().expect("it was seen").1);
        }
        log.calls.push(call);
        Ok(())
    }

    /// What a product leaves behind is known when it is compared.
    fn see(&mut self, node: &Node) {
        match &node.work {
            Work::Product(call) => self.way = call.algorithm.map_or(0, |a| a.data[0]),
            Work::Kernel(call) if &*node.name == check::COMPARE => {
                let Some(Param::Address(at)) = call.args.get(3) else { panic!("{call:?}") };
                let mut log = self.log.lock().unwrap();
                let (off, bits) = log.sums.get(&self.way).copied().unwrap_or_default();
                let words = [&off.to_ne_bytes()[..], &1f32.to_ne_bytes(), &bits.to_ne_bytes()].concat();
                log.at(*at, words.len()).copy_from_slice(&words);
            }
            Work::Kernel(_) | Work::Loop(_) => {}
        }
    }
}

impl Driver for Recorder {
    fn prepare(&mut self, texts: &[Text], _soon: bool) {
        self.log.lock().unwrap().prepared.extend_from_slice(texts);
    }

    fn load(&mut self, texts: &[Text]) -> Result<(Vec<Function>, u64), DeviceError> {
        self.note("load", Call::Load { kernels: texts.len() })?;
        self.log.lock().unwrap().texts = texts.to_vec();
        // A function's number says which text it is of.
        Ok(((0..texts.len() as u64).map(Function).collect(), texts.len() as u64))
    }

    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        let at = {
            let log = self.log.lock().unwrap();
            if log.is_full {
                return Err(DeviceError::OutOfMemory { wanted_bytes: bytes, what: "taking memory".to_string() });
            }
            let end = log.memory.iter().next_back().map_or(0x1000, |(at, piece)| at + piece.len() as u64);
            end.next_multiple_of(256) + 0x1000
        };
        self.note("alloc", Call::Alloc { at, bytes })?;
        self.log.lock().unwrap().memory.insert(at, vec![0xaa; bytes as usize]);
        Ok(at)
    }

    fn free(&mut self, at: u64) {
        let mut log = self.log.lock().unwrap();
        log.memory.remove(&at).expect("memory is given back once");
        log.calls.push(Call::Free { at });
    }

    fn pin(&mut self, bytes: usize) -> Result<Host, DeviceError> {
        self.note("pin", Call::Pin { bytes })?;
        self.hosts.push(vec![0; bytes]);
        Ok(Host(self.hosts.len() - 1))
    }

    fn unpin(&mut self, host: Host) {
        self.hosts[host.0].clear();
        self.log.lock().unwrap().calls.push(Call::Unpin);
    }

    fn host(&mut self, host: Host) -> &mut [u8] {
        &mut self.hosts[host.0]
    }

    fn address(&self, host: Host) -> u64 {
        (1 << 40) + ((host.0 as u64) << 20)
    }

    fn graph(&mut self, nodes: &[Node]) -> Result<Graph, DeviceError> {
        let graph = self.graphs.len();
        self.note("graph", Call::Graph { graph, nodes: nodes.to_vec() })?;
        self.graphs.push(nodes.to_vec());
        Ok(Graph(graph))
    }

    fn drop_graph(&mut self, graph: Graph) {
        self.log.lock().unwrap().calls.push(Call::DropGraph { graph: graph.0 });
    }

    fn launch(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.note("launch", Call::Launch { graph: graph.0 })
    }

    fn run(&mut self, node: &Node) -> Result<(), DeviceError> {
        self.see(node);
        self.note("run", Call::Run { node: Box::new(node.clone()) })
    }

    fn clock(&mut self, nodes: &[Node]) -> Result<Vec<u64>, DeviceError> {
        self.note("clock", Call::Clock { nodes: nodes.len() })?;
        let (library, kernel_us) = {
            let log = self.log.lock().unwrap();
            (log.library.clone(), log.kernel_us.unwrap_or(10))
        };
        let time = |(i, node): (usize, &Node)| match (&node.work, &library) {
            (Work::Product(call), Some(times)) => 1000 * times[call.algorithm.map_or(0, |a| a.data[0] as usize)],
            (Work::Kernel(_), Some(_)) => 1000 * kernel_us,
            _ => i as u64 + 1,
        };
        Ok(leaves(nodes).into_iter().enumerate().map(time).collect())
    }

    fn clock_graph(&mut self, nodes: &[Node]) -> Result<u64, DeviceError> {
        self.log.lock().unwrap().calls.push(Call::ClockGraph { nodes: nodes.to_vec() });
        Ok(self.clock(nodes)?.iter().sum())
    }

    fn send(&mut self, host: Host, part: Range<usize>, to: u64) -> Result<(), DeviceError> {
        let bytes = self.hosts[host.0][part].to_vec();
        self.log.lock().unwrap().at(to, bytes.len()).copy_from_slice(&bytes);
        self.note("send", Call::Send { to, bytes })
    }

    fn send_lent(&mut self, bytes: &[u8], to: u64) -> Result<(), DeviceError> {
        self.log.lock().unwrap().at(to, bytes.len()).copy_from_slice(bytes);
        self.note("send", Call::SendLent { from: bytes.as_ptr().addr(), to })
    }

    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.log.lock().unwrap().at(to, bytes.len()).copy_from_slice(bytes);
        self.note("write", Call::Write { to, bytes: bytes.len() })
    }

    fn clear(&mut self, at: u64, bytes: u64) -> Result<(), DeviceError> {
        self.log.lock().unwrap().at(at, bytes as usize).fill(0);
        self.note("clear", Call::Clear { at, bytes })
    }

    fn read(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.note("read", Call::Read { from, bytes: bytes.len() })?;
        bytes.copy_from_slice(self.log.lock().unwrap().at(from, bytes.len()));
        Ok(())
    }

    fn library(&mut self, _: &Task) -> Option<String> {
        self.log.lock().unwrap().library.as_ref().map(|_| "library 1".to_string())
    }

    fn algorithms(&mut self, _: &Task, _: u64) -> Result<Vec<Algorithm>, DeviceError> {
        let n = self.log.lock().unwrap().library.as_ref().map_or(0, Vec::len);
        Ok((0..n as u64).map(|i| Algorithm { data: [i, 0, 0, 0, 0, 0, 0, 7] }).collect())
    }

    fn takes_lists(&mut self) -> bool {
        true
    }

    fn share(&mut self, _: Vec<(u64, u64)>) -> (u64, u64) {
        (0, 0)
    }

    fn copy_shared(&mut self, _: SlotAddress, _: u64, _: u64) -> Result<bool, DeviceError> {
        Ok(false)
    }

    fn event(&mut self) -> Result<Event, DeviceError> {
        self.n_events += 1;
        Ok(Event(self.n_events - 1))
    }

    fn record(&mut self, event: Event, stream: Stream) -> Result<(), DeviceError> {
        self.note("record", Call::Record(event.0, stream))
    }

    fn after(&mut self, stream: Stream, event: Event) -> Result<(), DeviceError> {
        self.note("after", Call::After(stream, event.0))
    }

    fn wait(&mut self, event: Event) -> Result<(), DeviceError> {
        self.note("wait", Call::Wait(event.0))
    }
}
