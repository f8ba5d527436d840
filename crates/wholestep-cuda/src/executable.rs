//! A plan on a device. Takes batches, gives one graph launch for the steps of each turn. Never waits for the device but to read what was asked for,
//! and before it writes memory that a batch is still read from.

use crate::batches::Batches;
use crate::choose::{Chooser, Chosen, Settings};
use crate::driver::{Driver, Function, Graph, Node};
use crate::memory::{Extras, Memory, Place};
use crate::parts::Parts;
use crate::program::Program;
use crate::texts::Loaded;
use std::collections::BTreeMap;
use std::sync::Arc;
use wholestep_compiler::backend::{
    Choices, Counters, DeviceError, Executable, HostMemory, SlotAddress, check_inputs, check_output, check_slot,
};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::{InputId, SlotId};
use wholestep_compiler::plan::{BufferId, Layout, Plan};

pub struct CudaExecutable {
    driver: Box<dyn Driver>,
    caps: Caps,
    plan: Plan,
    layout: Layout,
    memory: Memory,
    program: Program,
    settings: Settings,
    chosen: Chosen,
    loaded: Loaded,
    /// By text.
    functions: Vec<Function>,
    batches: Batches,
    /// By input: where the next batch lies, if the device may copy it from there.
    lent: Vec<Option<Arc<dyn HostMemory>>>,
    graphs: Vec<Ready>,
    /// The batch size whose parameters are on the device.
    batch: Option<usize>,
    /// Where the last step read its inputs.
    last_inputs: u64,
    counters: Counters,
    /// Whether launches are timed one by one.
    profiles: bool,
    times: Vec<u64>,
    profiled_steps: u64,
    /// The device's number and this program's, for those that copy its slots.
    shared: (u64, u64),
    /// Why nothing works any more.
    lost: Option<DeviceError>,
    /// Why there is no memory but that of the slots: what there was could not be taken again after it was too little.
    roomless: Option<DeviceError>,
}

/// Work that was made ready: steps on a batch size with inputs from an address on.
struct Ready {
    batch: usize,
    inputs_at: u64,
    steps: usize,
    form: Form,
}

/// What is submitted.
enum Form {
    Graph(Graph),
    /// A single kernel, which can begin beside the last one of the submission before.
    Kernel(Box<Node>),
}

/// Graphs that are kept: those of a few batch sizes.
const MOST_GRAPHS: usize = 64;

impl CudaExecutable {
    pub fn new(
        mut driver: Box<dyn Driver>,
        caps: Caps,
        plan: &Plan,
        layout: &Layout,
        settings: &Settings,
        recorded: &BTreeMap<String, String>,
    ) -> Result<CudaExecutable, DeviceError> {
        let mut memory = Memory::new(&mut *driver, plan, &caps)?;
        memory.lay_inputs(plan, layout, &caps);
        let mut counters = Counters::default();
        let (mut loaded, mut chosen) = (Loaded::default(), Chosen::default());
        let program = match Program::whole(plan, layout, &memory, &caps, settings.apart) {
            Some(whole) => whole,
            None => {
                let compiles = &mut counters.compiles;
                let (driver, memory, caps, loaded) = (&mut *driver, &mut memory, &caps, &mut loaded);
                let mut chooser = Chooser { driver, plan, layout, memory, caps, loaded, settings, compiles };
                chosen = chooser.choose(recorded)?;
                counters.timings = chosen.timings;
                Program::Chain(Parts::new(plan, layout, memory, caps, &chosen.ways, settings.apart)?)
            }
        };
        let batches = Batches::new(&mut *driver, program.most_steps(), memory.block_bytes, program.reads_host())?;
        let mut exe = CudaExecutable {
            driver,
            caps,
            plan: plan.clone(),
            layout: layout.clone(),
            memory,
            program,
            settings: settings.clone(),
            chosen,
            loaded,
            functions: Vec::new(),
            batches,
            lent: vec![None; plan.inputs.len()],
            graphs: Vec::new(),
            batch: None,
            last_inputs: 0,
            counters,
            profiles: false,
            times: vec![0; plan.launches().len()],
            profiled_steps: 0,
            shared: (0, 0),
            lost: None,
            roomless: None,
        };
        let slots = (0..plan.slots.len()).map(|i| exe.memory.slot(SlotId(i as u32)));
        let slots = slots.map(|place| (exe.address(place), place.bytes)).collect();
        exe.shared = exe.driver.share(slots);
        // Memory first: what does not fit need not be compiled.
        exe.make_room()?;
        exe.load()?;
        Ok(exe)
    }

    fn load(&mut self) -> Result<(), DeviceError> {
        let (functions, compiled) = self.loaded.load(&mut *self.driver, &self.program.texts())?;
        self.functions = functions;
        self.counters.compiles += compiled;
        self.counters.dispatches = self.program.n_kernels() as u64;
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), DeviceError> {
        let extras = Extras {
            arena_bytes: self.program.arena_bytes(),
            scratch_bytes: self.program.scratch_bytes(),
            params_bytes: self.program.params_bytes(),
            n_blocks: self.batches.n_blocks(),
        };
        self.memory.make_room(&mut *self.driver, &self.plan, &self.layout, extras)?;
        self.counters.allocations = self.memory.allocations;
        self.counters.allocated_bytes = self.memory.bytes();
        Ok(())
    }

    /// Notes a loss, after which every call says the same.
    fn noted<T>(&mut self, result: Result<T, DeviceError>) -> Result<T, DeviceError> {
        if let Err(e @ DeviceError::Lost(_)) = &result {
            self.lost.get_or_insert_with(|| e.clone());
        }
        result
    }

    fn alive(&self) -> Result<(), DeviceError> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    fn set_batch(&mut self, batch: usize) -> Result<(), DeviceError> {
        if self.batch == Some(batch) {
            return Ok(());
        }
        self.batch = None;
        let words = self.program.params(&self.memory, batch)?;
        if !words.is_empty() {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            self.driver.write(self.memory.params_at, &bytes)?;
        }
        self.batch = Some(batch);
        Ok(())
    }

    /// The number of what does so many steps; it is made when it is first asked for. `None` if there is nothing to do.
    fn ready(&mut self, batch: usize, inputs_at: u64, steps: usize) -> Result<Option<usize>, DeviceError> {
        let is_it = |r: &Ready| (r.batch, r.inputs_at, r.steps) == (batch, inputs_at, steps);
        if let Some(at) = self.graphs.iter().position(is_it) {
            return Ok(Some(at));
        }
        let mut nodes = self.program.nodes(&self.memory, &self.functions, batch, inputs_at, steps)?.nodes;
        if nodes.is_empty() {
            return Ok(None);
        }
        if self.graphs.len() == MOST_GRAPHS {
            let oldest = self.graphs.remove(0);
            self.drop_form(&oldest.form);
        }
        let form = match nodes.pop() {
            Some(node) if nodes.is_empty() && self.program.reads_host() => Form::Kernel(Box::new(node)),
            last => {
                nodes.extend(last);
                Form::Graph(self.driver.graph(&nodes)?)
            }
        };
        self.graphs.push(Ready { batch, inputs_at, steps, form });
        Ok(Some(self.graphs.len() - 1))
    }

    fn drop_form(&mut self, form: &Form) {
        match form {
            Form::Graph(graph) => self.driver.drop_graph(*graph),
            Form::Kernel(_) => {}
        }
    }

    /// Steps `begin..begin + steps` of a call that has `all` steps.
    fn submit(
        &mut self,
        batch: usize,
        begin: usize,
        steps: usize,
        all: usize,
        inputs: &[&[u8]],
    ) -> Result<(), DeviceError> {
        let part = |bytes: &&[u8]| bytes.len() / all * begin..bytes.len() / all * (begin + steps);
        let parts = inputs.iter().map(|bytes| &bytes[part(bytes)]);
        let inputs_at = self.batches.send(&mut *self.driver, &self.memory, steps, parts, &self.lent)?;
        self.counters.bytes_staged += inputs.iter().map(|b| part(b).len() as u64).sum::<u64>();
        if self.profiles {
            let all = self.program.nodes(&self.memory, &self.functions, batch, inputs_at, steps)?;
            let times = self.driver.clock(&all.nodes)?;
            for (launches, ns) in all.launches.iter().zip(times) {
                launches.iter().for_each(|&(launch, share)| self.times[launch] += (share * ns as f64) as u64);
            }
            self.profiled_steps += steps as u64;
        } else if let Some(at) = self.ready(batch, inputs_at, steps)? {
            match &self.graphs[at].form {
                Form::Graph(graph) => self.driver.launch(*graph)?,
                Form::Kernel(node) => self.driver.run(node)?,
            }
        }
        self.batches.submitted(&mut *self.driver)?;
        self.last_inputs = inputs_at + (steps as u64 - 1) * self.memory.block_bytes;
        self.counters.submissions += 1;
        self.counters.steps += steps as u64;
        Ok(())
    }

    fn run_checked(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        self.alive()?;
        self.roomless.clone().map_or(Ok(()), Err)?;
        check_inputs(&self.plan, &self.layout, batch, steps, inputs)?;
        self.set_batch(batch)?;
        let mut begin = 0;
        while begin < steps {
            let now = (steps - begin).min(self.batches.steps);
            self.submit(batch, begin, now, steps, inputs)?;
            begin += now;
        }
        Ok(())
    }

    fn lay_out(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        self.layout = layout.clone();
        self.batch = None;
        for ready in std::mem::take(&mut self.graphs) {
            self.drop_form(&ready.form);
        }
        self.memory.lay_inputs(&self.plan, layout, &self.caps);
        let ways = &self.chosen.ways;
        self.program = Program::new(&self.plan, layout, &self.memory, &self.caps, self.settings.apart, ways)?;
        self.batches.drop_from(&mut *self.driver);
        let (steps, reads_host) = (self.program.most_steps(), self.program.reads_host());
        self.batches = Batches::new(&mut *self.driver, steps, self.memory.block_bytes, reads_host)?;
        self.make_room()?;
        self.load()
    }

    /// Where a slot is, which takes `len` bytes.
    fn slot(&self, slot: SlotId, len: usize) -> Result<u64, DeviceError> {
        self.alive()?;
        check_slot(&self.plan, slot, len)?;
        Ok(self.address(self.memory.slot(slot)))
    }

    fn address(&self, place: Place) -> u64 {
        self.memory.address(place.piece, place.offset, self.last_inputs)
    }

    /// Where a buffer of the plan lies, for the last step.
    pub(crate) fn address_of(&self, buffer: BufferId) -> u64 {
        self.address(self.memory.place(&self.plan, &self.layout, buffer))
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let read = self.driver.read(at, bytes);
        self.counters.bytes_read_back += bytes.len() as u64;
        self.noted(read)
    }
}

impl Executable for CudaExecutable {
    fn run(&mut self, batch: usize, steps: usize, inputs: &[&[u8]]) -> Result<(), DeviceError> {
        let done = self.run_checked(batch, steps, inputs);
        // It was for this run, done or not.
        self.lent.fill(None);
        self.noted(done)
    }

    fn lend(&mut self, input: InputId, memory: &Arc<dyn HostMemory>) {
        if memory.device() == self.shared.0 {
            self.lent[input.0 as usize] = Some(memory.clone());
        }
    }

    fn grow(&mut self, layout: &Layout) -> Result<(), DeviceError> {
        self.alive()?;
        let (layout_before, ways_before) = (self.layout.clone(), self.chosen.ways.clone());
        // What was chosen for another size need not do.
        self.chosen.ways.outgrow(&self.plan, layout.max_batch);
        let grown = self.lay_out(layout);
        let grown = self.noted(grown);
        self.roomless = None;
        if grown.is_err() && self.lost.is_none() {
            // What there was room for is there again: its memory was given back first.
            self.chosen.ways = ways_before;
            let back = self.lay_out(&layout_before);
            self.roomless = self.noted(back).err();
        }
        grown
    }

    fn write_slot(&mut self, slot: SlotId, bytes: &[u8]) -> Result<(), DeviceError> {
        let at = self.slot(slot, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.driver.write(at, bytes);
        self.counters.bytes_staged += bytes.len() as u64;
        self.noted(written)
    }

    fn read_slot(&mut self, slot: SlotId, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let at = self.slot(slot, bytes.len())?;
        self.read(at, bytes)
    }

    fn read_output(&mut self, index: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.alive()?;
        let output = check_output(&self.plan, index, self.batch, bytes.len())?;
        let at = self.address_of(output.buffer);
        self.read(at, bytes)
    }

    fn slot_address(&self, slot: SlotId) -> Option<SlotAddress> {
        let (device, holder) = self.shared;
        Some(SlotAddress { device, holder, slot })
    }

    fn copy_slot(&mut self, slot: SlotId, from: SlotAddress) -> Result<bool, DeviceError> {
        let bytes = self.memory.slot(slot).bytes;
        let to = self.slot(slot, bytes as usize)?;
        if self.shared == (from.device, from.holder) {
            return Ok(false);
        }
        let copied = self.driver.copy_shared(from, to, bytes);
        self.noted(copied)
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn choices(&self) -> Choices {
        self.chosen.choices.clone()
    }

    fn set_profiling(&mut self, on: bool) {
        self.times.fill(0);
        self.profiled_steps = 0;
        self.profiles = on;
    }

    fn profile(&self) -> (Vec<u64>, u64) {
        (self.times.clone(), self.profiled_steps)
    }
}
