//! A device that copies late. Takes plans like the cpu and memory that it reads by itself, looks at a batch two runs after it was handed over, or when
//! something is read. Never keeps a batch of its own where it was lent one.

#[path = "around.rs"]
mod around;

use around::{Around, Wrapped};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use wholestep::Device;
use wholestep_compiler::backend::{Backend, DeviceError, Executable, HostMemory};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::InputId;
use wholestep_compiler::plan::{Layout, Plan};
use wholestep_cpu::{Config, CpuBackend};

/// How often it gave memory, and was lent some.
#[derive(Default)]
pub struct Counts {
    pub given: AtomicUsize,
    pub lent: AtomicUsize,
}

pub fn late() -> (Device, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let backend = Late { cpu: CpuBackend::new(Config { n_threads: 2, ..Config::detect() }), counts: counts.clone() };
    (Device::with_backend("late", Arc::new(backend)), counts)
}

struct Late {
    cpu: CpuBackend,
    counts: Arc<Counts>,
}

struct Words(Vec<u64>);

impl HostMemory for Words {
    fn device(&self) -> u64 {
        0
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Backend for Late {
    fn caps(&self) -> Caps {
        self.cpu.caps()
    }

    fn load(&self, plan: &Plan, layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        let (cpu, counts) = (self.cpu.load(plan, layout)?, self.counts.clone());
        let around = Copies { counts, lent: vec![None; plan.inputs.len()], waiting: VecDeque::new() };
        Ok(Box::new(Wrapped { cpu, around }))
    }

    fn host_memory(&self, bytes: usize) -> Result<Option<Arc<dyn HostMemory>>, DeviceError> {
        self.counts.given.fetch_add(1, SeqCst);
        Ok(Some(Arc::new(Words(vec![0; bytes.div_ceil(8)]))))
    }
}

/// Runs that wait for their copies.
const WAITING: usize = 2;

struct Copies {
    counts: Arc<Counts>,
    lent: Vec<Option<Arc<dyn HostMemory>>>,
    waiting: VecDeque<(usize, usize, Vec<Input>)>,
}

enum Input {
    Lent(Arc<dyn HostMemory>, usize),
    Copied(Vec<u8>),
}

impl Copies {
    fn finish(&mut self, cpu: &mut dyn Executable, waiting: usize) -> Result<(), DeviceError> {
        while self.waiting.len() > waiting {
            let (batch, steps, inputs) = self.waiting.pop_front().unwrap();
            let bytes = |input: &Input| match input {
                Input::Lent(memory, len) => memory.bytes()[..*len].to_vec(),
                Input::Copied(bytes) => bytes.clone(),
            };
            let bytes: Vec<Vec<u8>> = inputs.iter().map(bytes).collect();
            cpu.run(batch, steps, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

impl Around for Copies {
    fn before(&mut self, cpu: &mut dyn Executable) -> Result<(), DeviceError> {
        self.finish(cpu, 0)
    }

    fn run(
        &mut self,
        cpu: &mut dyn Executable,
        batch: usize,
        steps: usize,
        inputs: &[&[u8]],
    ) -> Result<(), DeviceError> {
        let input = |(lent, bytes): (&mut Option<Arc<dyn HostMemory>>, &&[u8])| match lent.take() {
            Some(memory) => {
                assert!(memory.bytes()[..bytes.len()] == **bytes, "what is lent is what is given");
                Input::Lent(memory, bytes.len())
            }
            None => Input::Copied(bytes.to_vec()),
        };
        let inputs = self.lent.iter_mut().zip(inputs).map(input).collect();
        self.waiting.push_back((batch, steps, inputs));
        self.finish(cpu, WAITING)
    }

    fn lend(&mut self, input: InputId, memory: &Arc<dyn HostMemory>) {
        self.counts.lent.fetch_add(1, SeqCst);
        self.lent[input.0 as usize] = Some(memory.clone());
    }
}
