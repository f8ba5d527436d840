//! All slots of a program at one moment. Takes a loaded program, gives its slots' bytes off the device, and puts them back. Never converts
//! a number and never writes a part: either every slot fits or nothing changes.

use super::loaded::{Loaded, device_failed};
use super::values::{reorder, reorder_back};
use crate::{Error, ErrorKind, Result};
use std::borrow::Cow;
use std::ops::Range;
use wholestep_compiler::ir::{DType, Slot, SlotId, SlotKind};

/// Which half of a checkpoint a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What inference needs: parameters and running statistics.
    Weights,
    /// What only training needs: optimizer state, step number, random key, rate, sums.
    State,
}

impl Part {
    fn of(kind: SlotKind) -> Part {
        match kind {
            SlotKind::Param { .. } | SlotKind::Buffer => Part::Weights,
            SlotKind::State | SlotKind::Scalar => Part::State,
        }
    }
}

/// One slot of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// As in files: the slot's name with `.` for `/`.
    pub name: String,
    /// Which file of a checkpoint it is in.
    pub part: Part,
    /// The type of its bytes.
    pub dtype: DType,
    /// As declared.
    pub shape: Vec<usize>,
    /// Axis i of the memory is axis `order[i]` of `shape`.
    order: Vec<usize>,
    buffer: usize,
    range: Range<usize>,
}

/// The value of every slot between two steps: parameters, running statistics, optimizer state, step number, random key, rate and whatever
/// else survives a step. Made with [`crate::Step::snapshot`], written with [`crate::checkpoint::save`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    slots: Vec<Saved>,
    buffers: Vec<Vec<u8>>,
    /// The optimizer's name, of a step whose checkpoint says it.
    rule: Option<String>,
}

impl Snapshot {
    /// Of tensors that lie row-major in `buffers`, and the name of the optimizer that made them.
    pub(crate) fn of_files(
        slots: impl IntoIterator<Item = (String, Part, DType, Vec<usize>, usize, Range<usize>)>,
        buffers: Vec<Vec<u8>>,
        rule: Option<String>,
    ) -> Snapshot {
        let saved =
            |(name, part, dtype, shape, buffer, range): (String, Part, DType, Vec<usize>, usize, Range<usize>)| {
                let order = (0..shape.len()).collect();
                Saved { name, part, dtype, shape, order, buffer, range }
            };
        Snapshot { slots: slots.into_iter().map(saved).collect(), buffers, rule }
    }

    /// Names, types and shapes, in the order of the program.
    pub fn slots(&self) -> &[Saved] {
        &self.slots
    }

    /// The name of the optimizer that made its state: [`crate::optim::Optimizer::name`].
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// The elements of a slot of this snapshot, row-major in its declared shape, little-endian.
    pub fn bytes(&self, slot: &Saved) -> Cow<'_, [u8]> {
        reorder_back(self.stored(slot), &slot.shape, &slot.order, slot.dtype.size_bytes())
    }

    /// The slot called `name`, written with `/` or with `.`.
    pub fn find(&self, name: &str) -> Option<&Saved> {
        let name = name.replace('/', ".");
        self.slots.iter().find(|s| s.name == name)
    }

    /// Bytes of all slots.
    pub fn size_bytes(&self) -> usize {
        self.slots.iter().map(|s| s.range.len()).sum()
    }

    /// Its memory, to be used for the next one.
    pub(crate) fn into_memory(self) -> Option<Vec<u8>> {
        self.buffers.into_iter().next()
    }

    /// The first weight that is not finite, by slot and place.
    pub(crate) fn first_bad_weight(&self) -> Option<(&Saved, usize)> {
        let floats = self.slots.iter().filter(|s| s.part == Part::Weights);
        floats.filter_map(|s| first_bad(self.stored(s), s.dtype).map(|at| (s, at))).next()
    }

    fn stored(&self, slot: &Saved) -> &[u8] {
        &self.buffers[slot.buffer][slot.range.clone()]
    }
}

/// Equal names, types, shapes and bits, whatever the order in memory.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Snapshot) -> bool {
        let alike = |a: &Saved, b: &Saved| {
            (&a.name, a.part, a.dtype, &a.shape) == (&b.name, b.part, b.dtype, &b.shape)
                && self.bytes(a) == other.bytes(b)
        };
        self.slots.len() == other.slots.len()
            && self.slots.iter().all(|a| other.find(&a.name).is_some_and(|b| alike(a, b)))
    }
}

/// The first element that is infinite or no number: all bits of the exponent are set.
fn first_bad(bytes: &[u8], dtype: DType) -> Option<usize> {
    let find = |size: usize, mask: u64| {
        bytes.chunks_exact(size).position(|b| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(b);
            u64::from_le_bytes(word) & mask == mask
        })
    };
    match dtype {
        DType::F64 => find(8, 0x7ff0_0000_0000_0000),
        DType::F32 => find(4, 0x7f80_0000),
        DType::F16 => find(2, 0x7c00),
        DType::BF16 => find(2, 0x7f80),
        DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => None,
    }
}

impl Loaded {
    /// Copies all slots off the device into `memory`. Waits for submitted work; this copy is all that training waits for.
    pub fn snapshot(&mut self, mut memory: Vec<u8>) -> Result<Snapshot> {
        let mut end = 0;
        let mut slots: Vec<Saved> = Vec::new();
        for slot in self.slots() {
            let start = end;
            end += slot.shape.numel_at(0) * slot.dtype.size_bytes();
            slots.push(Saved {
                name: slot.name.replace('/', "."),
                part: Part::of(slot.kind),
                dtype: slot.dtype,
                shape: slot.shape.at(0),
                order: slot.order.clone(),
                buffer: 0,
                range: start..end,
            });
        }
        memory.resize(end, 0);
        for (i, slot) in slots.iter().enumerate() {
            let bytes = &mut memory[slot.range.clone()];
            self.executable.read_slot(SlotId(i as u32), bytes).map_err(device_failed)?;
        }
        Ok(Snapshot { slots, buffers: vec![memory], rule: self.rule.map(str::to_string) })
    }

    /// Overwrites all slots.
    ///
    /// Errors (`ErrorKind::Checkpoint`): another optimizer, be its state of the same names and shapes; every slot that is missing, extra or of
    /// another shape or dtype; nothing is written then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let faults = faults(self.slots(), snapshot);
        let rules = snapshot.rule().zip(self.rule).filter(|(saved, own)| saved != own);
        if !faults.is_empty() || rules.is_some() {
            return Err(misfit(&faults, rules));
        }
        let layout = |s: &Slot| (s.name.clone(), s.order.clone());
        let places: Vec<(String, Vec<usize>)> = self.slots().iter().map(layout).collect();
        for (i, (name, order)) in places.iter().enumerate() {
            let saved = snapshot.find(name).expect("bug: a slot was compared and is gone");
            let stored = snapshot.stored(saved);
            let size = saved.dtype.size_bytes();
            let bytes = match saved.order == *order {
                true => Cow::Borrowed(stored),
                false => Cow::Owned(reorder(&snapshot.bytes(saved), &saved.shape, order, size).into_owned()),
            };
            self.executable.write_slot(SlotId(i as u32), &bytes).map_err(device_failed)?;
        }
        Ok(())
    }
}

/// How one slot does not fit.
struct Fault {
    part: Part,
    is_optimizer: bool,
    text: String,
}

fn faults(slots: &[Slot], snapshot: &Snapshot) -> Vec<Fault> {
    let is_optimizer = |name: &str| name.starts_with("optimizer.");
    let mut faults = Vec::new();
    for slot in slots {
        let (name, shape) = (slot.name.replace('/', "."), slot.shape.at(0));
        let text = match snapshot.find(&name) {
            None => format!("{name} {shape:?} {} is not in the checkpoint", slot.dtype),
            Some(s) if s.shape != shape || s.dtype != slot.dtype => {
                format!("{name}: expected {shape:?} {}, the checkpoint has {:?} {}", slot.dtype, s.shape, s.dtype)
            }
            Some(_) => continue,
        };
        faults.push(Fault { part: Part::of(slot.kind), is_optimizer: is_optimizer(&name), text });
    }
    let known: std::collections::HashSet<String> = slots.iter().map(|s| s.name.replace('/', ".")).collect();
    for saved in snapshot.slots.iter().filter(|s| !known.contains(&s.name)) {
        let text = format!("{} {:?} {} is only in the checkpoint", saved.name, saved.shape, saved.dtype);
        faults.push(Fault { part: saved.part, is_optimizer: is_optimizer(&saved.name), text });
    }
    faults
}

/// How many faults are listed.
const SHOWN: usize = 12;

/// `rules` are the optimizers, the checkpoint's first, where they are not the same.
fn misfit(faults: &[Fault], rules: Option<(&str, &str)>) -> Error {
    let whose = if faults.iter().any(|f| f.part == Part::Weights) {
        "another model".to_string()
    } else if let Some((saved, own)) = rules {
        format!("another optimizer ({saved}, the step has {own})")
    } else if faults.iter().any(|f| f.is_optimizer) {
        "another optimizer".to_string()
    } else {
        "another program".to_string()
    };
    let n = faults.len();
    let how = match n {
        0 => "its tensors fit and mean something else, and nothing was loaded".to_string(),
        n => format!("{n} of its tensors do not fit, and nothing was loaded:"),
    };
    let mut text = format!("the checkpoint is of {whose}: {how}");
    for fault in faults.iter().take(SHOWN) {
        text += &format!("\n  {}", fault.text);
    }
    if n > SHOWN {
        text += &format!("\n  and {} more", n - SHOWN);
    }
    text += "\nresume with what it was saved with, or load its weights alone";
    Error::new(ErrorKind::Checkpoint, text)
}
