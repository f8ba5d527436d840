//! What a plan asks of the driver, by a recorder in its place.

use crate::backend::caps;
use crate::choose::Settings;
use crate::driver::{Node, Param, Stream, Work};
use crate::executable::CudaExecutable;
use crate::gpu::Facts;
use crate::nvrtc::Nvrtc;
use crate::recorder::{Call, Log, Recorder};
use crate::units::unit;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use wholestep_compiler::backend::{DeviceError, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Init, Scope};
use wholestep_compiler::plan::{Layout, Plan};

mod control;
mod joined;
mod products;
mod steps;

pub fn h100() -> Caps {
    caps(&Facts::h100())
}

/// `y = relu(x·w)` of rows of 6, and a slot that counts.
fn plan(caps: &Caps) -> Plan {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 6), DType::F32);
    let w = s.sub("fc").param("w", [6, 3], Init::Const(0.0));
    // What only reductions read is in no epilogue.
    s.output("y", &x.matmul(&w).relu().exp().sum(1).exp().sum(0));
    wholestep_compiler::compile(&s.graph().borrow(), caps, &mut |_| {}).unwrap().plan
}

struct Loaded {
    exe: CudaExecutable,
    log: Arc<Mutex<Log>>,
    plan: Plan,
}

/// A kernel for each launch.
fn load(max_batch: usize) -> Loaded {
    load_as(max_batch, true)
}

fn load_as(max_batch: usize, apart: bool) -> Loaded {
    load_with(max_batch, &Settings { apart, ..Settings::default() }, None)
}

fn load_with(max_batch: usize, settings: &Settings, library: Option<Vec<u64>>) -> Loaded {
    load_plan(plan(&h100()), max_batch, settings, library)
}

fn load_plan(plan: Plan, max_batch: usize, settings: &Settings, library: Option<Vec<u64>>) -> Loaded {
    let recorder = Recorder::default();
    recorder.log.lock().unwrap().library = library;
    let log = recorder.log.clone();
    let caps = h100();
    let layout = Layout::new(&plan, &caps, max_batch);
    let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, settings, &BTreeMap::new()).unwrap();
    Loaded { exe, log, plan }
}

impl Loaded {
    /// The calls since the last time.
    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.log.lock().unwrap().calls)
    }

    fn run(&mut self, batch: usize, steps: usize) -> Result<(), DeviceError> {
        let x: Vec<u8> = (0..steps * batch * 6).flat_map(|i| (i as f32).to_ne_bytes()).collect();
        self.exe.run(batch, steps, &[&x])
    }

    fn fail_next(&self, call: &'static str, error: DeviceError) {
        self.log.lock().unwrap().fails = Some((call, error));
    }
}

fn names(calls: &[Call]) -> Vec<&'static str> {
    let name = |c: &Call| match c {
        Call::Load { .. } => "load",
        Call::Alloc { .. } => "alloc",
        Call::Free { .. } => "free",
        Call::Pin { .. } => "pin",
        Call::Unpin => "unpin",
        Call::Graph { .. } => "graph",
        Call::DropGraph { .. } => "drop graph",
        Call::Launch { .. } => "launch",
        Call::Run { .. } => "run",
        Call::Clock { .. } => "clock",
        Call::ClockGraph { .. } => "clock graph",
        Call::Send { .. } => "send",
        Call::SendLent { .. } => "send lent",
        Call::Write { .. } => "write",
        Call::Clear { .. } => "clear",
        Call::Read { .. } => "read",
        Call::Record(_, Stream::Compute) => "record compute",
        Call::Record(_, Stream::Copy) => "record copy",
        Call::After(Stream::Compute, _) => "compute after",
        Call::After(Stream::Copy, _) => "copy after",
        Call::Wait(_) => "wait",
    };
    calls.iter().map(name).collect()
}

fn args(node: &Node) -> &[Param] {
    match &node.work {
        Work::Kernel(call) => &call.args,
        Work::Product(_) | Work::Loop(_) => &[],
    }
}

/// The words of a node's arguments and its addresses.
fn arguments(node: &Node) -> (Vec<u64>, Vec<Vec<u32>>) {
    let addresses = args(node).iter().filter_map(|a| if let Param::Address(at) = a { Some(*at) } else { None });
    let words = args(node).iter().filter_map(|a| if let Param::Words(words) = a { Some(words.clone()) } else { None });
    (addresses.collect(), words.collect())
}

/// What was compiled.
fn sources(log: &Mutex<Log>) -> Vec<String> {
    log.lock().unwrap().texts.iter().map(|text| unit([&text.source])).collect()
}

fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::open() {
        Ok(nvrtc) => Some(nvrtc),
        Err(e) if std::env::var_os("REQUIRE_NVRTC").is_none() => {
            println!("skipped: no nvrtc ({e})");
            None
        }
        Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
    }
}
