//! A compiled program on a device, trained or not. Takes a graph, gives runs, outputs and slots by name. Never hands a batch to the device
//! before every part of it was checked.

use super::values::{array_bytes, array_filled, array_type, reorder, reorder_back};
use super::watch::{self, Watch};
use super::{Memory, verify};
use crate::data::Array;
use crate::device::Device;
use crate::env::env;
use crate::{Error, ErrorKind, Result, init};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{DeviceError, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::graph::{LabelRange, SmallestBatch};
use wholestep_compiler::ir::{Graph, Init, InputDecl, InputId, Slot, SlotId, SlotKind, names};
use wholestep_compiler::plan::Layout;
use wholestep_compiler::{Compiled, Stage, compile};

/// What it took to make a program ready: from its trace to the plan, to have kernels and memory, and to write the first values of slots.
#[derive(Clone, Copy, Default)]
pub struct CompileTime {
    pub plan: Duration,
    pub load: Duration,
    pub values: Duration,
}

/// A program with its memory.
pub struct Loaded {
    pub compiled: Compiled,
    pub layout: Layout,
    smallest_batch: Option<SmallestBatch>,
    pub executable: Box<dyn Executable>,
    pub caps: Caps,
    pub compile_time: CompileTime,
    /// The batch size of the last run; 0 before the first.
    pub batch: usize,
    /// Whether costs are printed when the program is dropped (`WHOLESTEP_LOG=2`).
    profiled: bool,
    /// Empty between runs: the memory of the list of inputs, so that a run allocates none.
    input_list: Vec<&'static [u8]>,
    /// There when every value can be read (`WHOLESTEP_NAN=1`).
    pub watch: Option<Watch>,
    /// A number that is set to 0 when a parameter is written, as it says that something is known of them.
    pub known: Option<SlotId>,
    /// The optimizer's name, of a step.
    pub rule: Option<&'static str>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plan = &self.compiled.plan;
        f.debug_struct("Loaded")
            .field("device", &self.caps.name)
            .field("max_batch", &self.layout.max_batch)
            .field("inputs", &plan.inputs.len())
            .field("slots", &plan.slots.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.profiled && self.batch > 0 {
            eprintln!("{}", super::explain::explain(self));
        }
    }
}

impl Loaded {
    /// Compiles `graph`, allocates, and fills the slots from `seed`. Kernels that `choices` names are made as it says.
    pub fn new(
        device: &Device,
        graph: &Graph,
        max_batch: usize,
        seed: u64,
        choices: &BTreeMap<String, String>,
        started: Instant,
    ) -> Result<Loaded> {
        let env = env()?;
        let caps = device.backend().caps();
        let mut dump = Dump { folder: env.dump.as_deref(), fault: None };
        dump.write_text("01-step.dot", || wholestep_compiler::ir::print::dot(graph));
        let watched;
        let (graph, watch) = match env.nan && graph.error.is_none() {
            true => {
                let (more, watch) = watch::watched(graph);
                watched = more;
                (&watched, Some(watch))
            }
            false => (graph, None),
        };
        let (compiled, layout, executable, compile_time) = std::thread::scope(|threads| {
            // What cannot be compiled may have slots of any size.
            let slots = if graph.error.is_none() { &graph.slots[..] } else { &[] };
            let (values, fits) = first_values(threads, slots, seed);
            let compiled =
                compile(graph, &caps, &mut |stage| dump.write(stage)).map_err(|e| super::build_failed(&e))?;
            if let Some(fault) = dump.fault.take() {
                return Err(fault);
            }
            let layout = Layout::new(&compiled.plan, &caps, max_batch);
            check_memory(&caps, &compiled, &layout)?;
            check_counts(&caps, &compiled, max_batch)?;
            // It may have ended by now.
            let _ = fits.send(());
            let plan = started.elapsed();
            let loaded = device.backend().load_as(&compiled.plan, &layout, choices);
            let mut executable = loaded.map_err(|e| no_room(e, &compiled, &layout))?;
            let load = started.elapsed() - plan;
            for (slot, values) in values {
                let bytes = init::stored(&compiled.plan.slots[slot.0 as usize], values);
                executable.write_slot(slot, &bytes).map_err(device_failed)?;
            }
            let values = started.elapsed() - plan - load;
            Ok((compiled, layout, executable, CompileTime { plan, load, values }))
        })?;
        let profiled = env.log >= 2;
        let input_list = Vec::with_capacity(compiled.plan.inputs.len());
        let smallest_batch = graph.smallest_batch.clone();
        let mut loaded = Loaded {
            compiled,
            layout,
            smallest_batch,
            executable,
            caps,
            compile_time,
            batch: 0,
            profiled,
            input_list,
            watch,
            known: None,
            rule: None,
        };
        loaded.executable.set_profiling(profiled);
        if env.verify {
            verify::verify(device, graph, &loaded, seed)?;
            let n = loaded.compiled.plan.outputs.len();
            eprintln!("{n} outputs agree with the f64 oracle at batch size {}", verify::BATCH);
        }
        if let [first, rest @ ..] = &loaded.executable.choices().unlike[..] {
            eprintln!(
                "kernels are not made as the checkpoint says, so that bits may differ: {first}; {} more",
                rest.len()
            );
        }
        if env.log >= 1 {
            eprintln!("{}", super::explain::headline(&loaded));
            loaded.executable.choices().notes.iter().for_each(|note| eprintln!("{note}"));
        }
        if env.log >= 3 {
            eprintln!("{}", super::explain::refusals(&loaded));
        }
        if env.log >= 4 {
            loaded.compiled.plan.kernels.iter().for_each(|k| eprintln!("{k}"));
        }
        Ok(loaded)
    }

    /// How kernels were made of which the device knows several ways, by name.
    pub fn choices(&self) -> BTreeMap<String, String> {
        self.executable.choices().made.into_iter().map(|m| (m.name, m.choice)).collect()
    }

    pub fn slots(&self) -> &[Slot] {
        &self.compiled.plan.slots
    }

    pub fn memory(&self) -> Memory {
        Memory { persistent_bytes: self.compiled.plan.persistent_bytes(), transient_bytes: self.layout.transient_bytes }
    }

    /// Whether the program has a meaning for a batch of this size; if not, why.
    pub fn check_batch(&self, batch: usize) -> std::result::Result<(), String> {
        match &self.smallest_batch {
            Some(least) if batch < least.rows => Err(format!(
                "a batch of {batch} is too small: {}; give at least {} rows, and leave out a last batch that has fewer",
                least.why, least.rows
            )),
            _ => Ok(()),
        }
    }

    /// Checks the batch and submits `steps` steps.
    pub fn run(&mut self, steps: usize, inputs: &[(&str, &Array)]) -> Result<()> {
        if self.watch.is_none() {
            return self.submit(steps, inputs);
        }
        // One by one, because only the last step of a submission can be looked at.
        for step in 0..steps {
            let part = |array: &Array| {
                let rows = array.rows() / steps;
                if steps == 1 { Ok(array.clone()) } else { array.slice_rows(step * rows, (step + 1) * rows) }
            };
            let parts = inputs.iter().map(|(name, array)| Ok((*name, part(array)?))).collect::<Result<Vec<_>>>()?;
            let inputs: Vec<(&str, &Array)> = parts.iter().map(|(name, array)| (*name, array)).collect();
            self.note_slots()?;
            self.submit(1, &inputs)?;
            self.check_finite(&inputs)?;
        }
        Ok(())
    }

    fn submit(&mut self, steps: usize, inputs: &[(&str, &Array)]) -> Result<()> {
        let decls = &self.compiled.plan.inputs;
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !decls.iter().any(|d| d.name == *name)) {
            let known: Vec<&str> = decls.iter().map(|d| d.name.as_str()).collect();
            return Err(input_error(format!("the step has no input {name}; it has {}", names::known(name, &known))));
        }
        if let Some((name, _)) =
            inputs.iter().enumerate().find_map(|(i, (n, _))| inputs[..i].iter().find(|(m, _)| m == n))
        {
            return Err(input_error(format!("the input {name} came twice; give each once")));
        }
        let batch = batch_size(decls, inputs, steps)?;
        self.check_batch(batch).map_err(input_error)?;
        let mut bytes: Vec<&[u8]> = std::mem::take(&mut self.input_list);
        for decl in decls {
            let array = find(decl, inputs)?;
            check_input(decl, array, batch, steps)?;
            bytes.push(array_bytes(array));
        }
        if batch > self.layout.max_batch {
            let layout = Layout::new(&self.compiled.plan, &self.caps, batch);
            check_memory(&self.caps, &self.compiled, &layout)?;
            check_counts(&self.caps, &self.compiled, batch)?;
            self.executable.grow(&layout).map_err(|e| no_room(e, &self.compiled, &layout))?;
            self.layout = layout;
        }
        self.batch = batch;
        for (i, decl) in decls.iter().enumerate() {
            if let Some(memory) = find(decl, inputs)?.pinned() {
                self.executable.lend(InputId(i as u32), memory);
            }
        }
        let ran = self.executable.run(batch, steps, &bytes).map_err(device_failed);
        self.input_list = emptied(bytes);
        ran
    }

    /// A named output of the last run.
    pub fn output(&mut self, name: &str) -> Result<Array> {
        let outputs = &self.compiled.plan.outputs;
        let Some(index) = outputs.iter().position(|o| o.name == name) else {
            let shown = outputs.iter().map(|o| o.name.as_str()).filter(|name| !name.starts_with(watch::HIDDEN));
            let known: Vec<&str> = shown.collect();
            let known = names::known(name, &known);
            let message = format!(
                "the step has no output {name}, which s.output({name:?}, &value) in its closure makes; it has {known}"
            );
            return Err(input_error(message));
        };
        if self.batch == 0 {
            return Err(input_error(format!("there is no output {name} before the first run")));
        }
        let (shape, dtype) = (outputs[index].shape.at(self.batch), outputs[index].dtype);
        array_filled(dtype, shape, |to| self.executable.read_output(index, to).map_err(device_failed))
    }

    pub fn slot(&self, name: &str) -> Result<(SlotId, &Slot)> {
        let found = self.slots().iter().position(|s| s.name == name);
        let index = found.ok_or_else(|| {
            let known: Vec<&str> = self.slots().iter().map(|s| s.name.as_str()).collect();
            input_error(format!("nothing is called {name}; there are {}", names::known(name, &known)))
        })?;
        Ok((SlotId(index as u32), &self.slots()[index]))
    }

    /// The value of a slot, in the shape in which it was declared.
    pub fn read(&mut self, name: &str) -> Result<Array> {
        let (id, slot) = self.slot(name)?;
        let (shape, order, dtype) = (slot.shape.at(0), slot.order.clone(), slot.dtype);
        let declared = shape.clone();
        array_filled(dtype, shape, |to| {
            self.executable.read_slot(id, to).map_err(device_failed)?;
            if let Cow::Owned(bytes) = reorder_back(to, &declared, &order, dtype.size_bytes()) {
                to.copy_from_slice(&bytes);
            }
            Ok(())
        })
    }

    /// Overwrites a slot with one of another program, of the same shape and dtype: on the device where both are on one that can.
    pub fn copy(&mut self, name: &str, from: &mut Loaded, other: &str) -> Result<()> {
        let ((to, ours), (source, theirs)) = (self.slot(name)?, from.slot(other)?);
        let is_alike = ours.order == theirs.order;
        if is_alike
            && let Some(address) = from.executable.slot_address(source)
            && self.executable.copy_slot(to, address).map_err(device_failed)?
        {
            return self.forget(to);
        }
        if let Some(bytes) = from.executable.slot_bytes(source).filter(|_| is_alike) {
            self.executable.write_slot(to, bytes).map_err(device_failed)?;
            return self.forget(to);
        }
        let value = from.read(other)?;
        self.write(name, &value)
    }

    /// Overwrites a slot with a value in the shape in which it was declared.
    pub fn write(&mut self, name: &str, value: &Array) -> Result<()> {
        let (id, slot) = self.slot(name)?;
        let shape = slot.shape.at(0);
        if value.shape() != shape || Some(value.dtype()) != array_type(slot.dtype) {
            let message =
                format!("{name}: expected {} {}, got {:?} {}", slot.shape, slot.dtype, value.shape(), value.dtype());
            return Err(input_error(message));
        }
        let bytes = reorder(array_bytes(value), &shape, &slot.order, slot.dtype.size_bytes());
        self.executable.write_slot(id, &bytes).map_err(device_failed)?;
        self.forget(id)
    }

    /// Says that nothing is known of the parameters where `written` is one.
    fn forget(&mut self, written: SlotId) -> Result<()> {
        let slots = self.slots();
        match self.known.filter(|_| matches!(slots[written.0 as usize].kind, SlotKind::Param { .. })) {
            Some(known) => {
                let zero = vec![0; slots[known.0 as usize].dtype.size_bytes()];
                self.executable.write_slot(known, &zero).map_err(device_failed)
            }
            None => Ok(()),
        }
    }
}

/// Bytes of first values that are made and wait to be written, beside the one that is being made: they are as large as what they are for.
const BYTES_AHEAD: usize = 512 << 20;

/// The first values of slots that do not begin as zero, which slots are until they are written, and whom to tell that there is memory for all. They are
/// made while a plan and its kernels are, but large ones not before the plan was found to fit.
fn first_values<'scope>(
    threads: &'scope Scope<'scope, '_>,
    slots: &'scope [Slot],
    seed: u64,
) -> (Receiver<(SlotId, Vec<f32>)>, Sender<()>) {
    let of: Vec<usize> = (0..slots.len()).filter(|&i| slots[i].init != Init::Const(0.0)).collect();
    let bytes = |i: usize| slots[i].shape.at(0).iter().fold(size_of::<f32>(), |n, &d| n.saturating_mul(d));
    let sizes: Vec<usize> = of.iter().map(|&i| bytes(i)).collect();
    let (made, values) = sync_channel(windows_within(&sizes, BYTES_AHEAD));
    let (fits, told) = channel();
    threads.spawn(move || {
        let mut is_told = false;
        for i in of {
            is_told = is_told || (bytes(i) > BYTES_AHEAD && told.recv().is_ok());
            // Whoever would write them may have failed.
            let goes_on = is_told || bytes(i) <= BYTES_AHEAD;
            if !goes_on || made.send((SlotId(i as u32), init::fill(&slots[i], seed))).is_err() {
                break;
            }
        }
    });
    (values, fits)
}

/// The largest number of neighbours that always sum to at most `most`.
fn windows_within(sizes: &[usize], most: usize) -> usize {
    let fits =
        |n: &usize| sizes.windows(*n).all(|some| some.iter().fold(0, |a: usize, b| a.saturating_add(*b)) <= most);
    (1..=sizes.len()).collect::<Vec<_>>().partition_point(fits)
}

/// The memory of a list, for another lifetime. Collecting from an emptied list of the same size of element keeps its memory, which
/// `tests/allocations.rs` holds the standard library to.
fn emptied(mut list: Vec<&[u8]>) -> Vec<&'static [u8]> {
    list.clear();
    list.into_iter().map(|_| -> &'static [u8] { &[] }).collect()
}

pub(super) fn find<'a>(decl: &InputDecl, inputs: &[(&str, &'a Array)]) -> Result<&'a Array> {
    let found = inputs.iter().find(|(name, _)| *name == decl.name).map(|(_, array)| *array);
    found.ok_or_else(|| input_error(format!("the input {} {} {} is missing", decl.name, decl.shape, decl.dtype)))
}

/// The batch size that the inputs have together.
fn batch_size(decls: &[InputDecl], inputs: &[(&str, &Array)], steps: usize) -> Result<usize> {
    let mut batch: Option<(usize, &str)> = None;
    for decl in decls {
        let Some(axis) = decl.shape.dims().iter().position(|d| d.batch != 0) else { continue };
        let dim = decl.shape.dims()[axis];
        let array = find(decl, inputs)?;
        if array.shape().len() != decl.shape.rank() {
            return Err(input_error(format!("{}: expected {}, got {:?}", decl.name, decl.shape, array.shape())));
        }
        let rows = array.shape()[axis];
        if axis > 0 && steps != 1 {
            let message = format!(
                "{}: the steps of one call follow each other along the first axis, and the batch is axis {axis} of {}; run them one by one",
                decl.name, decl.shape
            );
            return Err(input_error(message));
        }
        if steps == 0 || rows % steps != 0 {
            return Err(input_error(format!("{}: {rows} rows are not {steps} equal batches", decl.name)));
        }
        let left = (rows / steps) as i64 - dim.fixed;
        if left <= 0 || left % dim.batch != 0 {
            return Err(input_error(format!(
                "{}: {rows} rows fit no batch size, the step takes {}",
                decl.name, decl.shape
            )));
        }
        let size = (left / dim.batch) as usize;
        match batch {
            Some((first, name)) if first != size => {
                return Err(input_error(format!(
                    "{name} has {first} rows and {} has {size}; a batch has one size",
                    decl.name
                )));
            }
            _ => batch = Some((size, &decl.name)),
        }
    }
    Ok(batch.map_or(1, |(size, _)| size))
}

/// Refuses an array that does not fit its input, before anything is copied.
fn check_input(decl: &InputDecl, array: &Array, batch: usize, steps: usize) -> Result<()> {
    if Some(array.dtype()) != array_type(decl.dtype) {
        let message = format!("{}: expected {}, got {}; convert it with .cast()", decl.name, decl.dtype, array.dtype());
        return Err(input_error(message));
    }
    let mut n = 0;
    let fits = array.shape().len() == decl.shape.rank()
        && array.shape().iter().zip(decl.shape.dims()).enumerate().all(|(i, (&got, dim))| {
            n += 1;
            got == dim.at(batch) * if i == 0 && dim.batch != 0 { steps } else { 1 }
        });
    if !fits {
        let message = format!("{}: expected {} (B = {batch}), got {:?}", decl.name, decl.shape, array.shape());
        return Err(input_error(message));
    }
    match &decl.range {
        Some(range) => check_range(decl, array, range),
        None => Ok(()),
    }
}

fn check_range(decl: &InputDecl, array: &Array, range: &LabelRange) -> Result<()> {
    let fault = |at: usize, value: i64| {
        let ignored = range.ignore.map_or(String::new(), |i| format!(" or {i} (ignored)"));
        let message = format!("{}: element {at} is {value}, expected 0 to {}{ignored}", decl.name, range.n - 1);
        input_error(message)
    };
    let fits = |v: i64| (0..range.n as i64).contains(&v) || Some(v) == range.ignore;
    let find = |values: &mut dyn Iterator<Item = i64>| values.enumerate().find(|(_, v)| !fits(*v));
    let bad = if let Some(v) = array.as_slice::<i32>() {
        find(&mut v.iter().map(|&v| i64::from(v)))
    } else if let Some(v) = array.as_slice::<u32>() {
        find(&mut v.iter().map(|&v| i64::from(v)))
    } else if let Some(v) = array.as_slice::<i64>() {
        find(&mut v.iter().copied())
    } else if let Some(v) = array.as_slice::<u8>() {
        find(&mut v.iter().map(|&v| i64::from(v)))
    } else {
        None
    };
    bad.map_or(Ok(()), |(at, value)| Err(fault(at, value)))
}

/// Refuses a program that takes more than there is, or more than it may.
fn check_memory(caps: &Caps, compiled: &Compiled, layout: &Layout) -> Result<()> {
    let wanted = (compiled.plan.persistent_bytes() + layout.transient_bytes) as u64;
    let allowed = compiled.graph.fit.map(|fit| (fit.bytes, "fit_in allows".to_string()));
    let there_is = caps.memory_bytes.map(|has| (has, format!("{} has", caps.name)));
    match allowed.into_iter().chain(there_is).find(|(has, _)| wanted > *has) {
        Some((has, limit)) => {
            let message = format!(
                "the step needs {} MiB at batch size {}, {limit} {} MiB: {} MiB too few; a smaller batch needs less, and \
                 fit_in computes values again instead of keeping them\n{}",
                wanted >> 20,
                layout.max_batch,
                has >> 20,
                (wanted - has) >> 20,
                super::explain::memory(compiled, layout)
            );
            Err(Error::new(ErrorKind::Device, message))
        }
        None => Ok(()),
    }
}

/// Refuses loops over more points than a GPU counts: it would leave some out.
fn check_counts(caps: &Caps, compiled: &Compiled, batch: usize) -> Result<()> {
    let longest = compiled.plan.longest_loop(batch).filter(|(n, _)| caps.workgroups.is_some() && *n > u32::MAX.into());
    match longest {
        Some((n, launch)) => {
            let message = format!(
                "{} in {:?} runs over {n} points at batch size {batch}, and {} counts them in 32 bits; reduce one axis after the other, take a \
                 smaller batch, or use the cpu",
                launch.ops, launch.scope, caps.name
            );
            Err(Error::new(ErrorKind::Device, message))
        }
        None => Ok(()),
    }
}

/// What a device says while it takes memory for a program; with where that goes, if there was too little.
fn no_room(error: DeviceError, compiled: &Compiled, layout: &Layout) -> Error {
    let is_memory = matches!(error, DeviceError::OutOfMemory { .. });
    let table = if is_memory { format!("\n{}", super::explain::memory(compiled, layout)) } else { String::new() };
    Error::new(ErrorKind::Device, format!("{error}{table}"))
}

pub(crate) fn device_failed(error: DeviceError) -> Error {
    Error::new(ErrorKind::Device, error.to_string())
}

fn input_error(message: String) -> Error {
    Error::new(ErrorKind::Input, message)
}

/// Writes every stage into the folder of `WHOLESTEP_DUMP`.
struct Dump<'a> {
    folder: Option<&'a std::path::Path>,
    fault: Option<Error>,
}

impl Dump<'_> {
    fn write(&mut self, stage: Stage) {
        self.write_text(&format!("{:02}-{}.txt", stage.number, stage.name), || stage.text.to_string());
    }

    fn write_text(&mut self, name: &str, text: impl FnOnce() -> String) {
        let Some(folder) = self.folder.filter(|_| self.fault.is_none()) else { return };
        let path = folder.join(name);
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text()));
        if let Err(e) = written {
            self.fault = Some(Error::io("write", &path, e));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::windows_within;

    #[test]
    fn as_many_values_are_made_ahead_as_always_fit() {
        assert_eq!(windows_within(&[3, 4, 5], 12), 3);
        assert_eq!(windows_within(&[3, 4, 5], 11), 2);
        assert_eq!(windows_within(&[3, 4, 5], 8), 1);
        assert_eq!(windows_within(&[3, 4, 5], 4), 0);
        assert_eq!(windows_within(&[1, usize::MAX, 1], usize::MAX), 3);
        assert_eq!(windows_within(&[], 4), 0);
    }
}
