//! Learned values from one program to another. Takes two programs and the names of slots, copies on the device where both are on one that can.
//! Never copies a part: either every slot fits or nothing changes.

use super::loaded::Loaded;
use super::{Infer, Step};
use crate::{Error, ErrorKind, Result};
use wholestep_compiler::ir::SlotKind;
use wholestep_compiler::ir::names::known;
use wildmatch::WildMatch;

impl Infer {
    /// Takes over the parameters and running statistics of a training step, on this device or another, by name; of parameters whose average
    /// is kept, the average. Between programs of one GPU no value passes through the host, but for a weight that both store in another order.
    /// Errors: the step has none of a name that this program needs, or another shape or dtype. Nothing is copied then.
    pub fn copy_from(&mut self, step: &mut Step) -> Result<()> {
        let averages = step.averages()?;
        let evaluated = |name: &str| (name.to_string(), averages.get(name).map_or(name, String::as_str).to_string());
        let slots: Vec<(String, String)> = self.learned().map(evaluated).collect();
        self.loaded().take_over(step.loaded(), &slots)
    }
}

impl Step {
    /// Takes over the parameters and running statistics of another step whose names match `pattern`, in which `*` stands for any characters: for
    /// networks that learn by turns, each in a step of its own where the others are frozen. They are the values that are trained, not their
    /// averages; nothing else of this step changes. As with [`Infer::copy_from`], no value passes through the host between programs of one GPU.
    ///
    /// Errors (`ErrorKind::Input`): the pattern matches nothing here; the other step has none of a name, or another shape or dtype. Nothing is
    /// copied then.
    pub fn copy_from(&mut self, other: &mut Step, pattern: &str) -> Result<()> {
        let names: Vec<String> = self.loaded.learned().map(str::to_string).collect();
        let matches = WildMatch::new(pattern);
        let slots: Vec<(String, String)> =
            names.iter().filter(|name| matches.matches(name)).map(|name| (name.clone(), name.clone())).collect();
        if slots.is_empty() {
            let message =
                format!("{pattern} matches nothing that this step learned; it has {}", known(pattern, &names));
            return Err(Error::new(ErrorKind::Input, message));
        }
        self.loaded.take_over(&mut other.loaded, &slots)
    }
}

impl Loaded {
    /// Names of parameters and running statistics, in order.
    pub fn learned(&self) -> impl Iterator<Item = &str> {
        let learned = |kind: SlotKind| matches!(kind, SlotKind::Param { .. } | SlotKind::Buffer);
        self.slots().iter().filter(move |s| learned(s.kind)).map(|s| s.name.as_str())
    }

    /// Overwrites slots with those of another program: pairs of a name here and a name there.
    fn take_over(&mut self, from: &mut Loaded, slots: &[(String, String)]) -> Result<()> {
        for (name, other) in slots {
            let (ours, theirs) = (self.slot(name)?.1, from.slot(other)?.1);
            if (ours.shape.at(0), ours.dtype) != (theirs.shape.at(0), theirs.dtype) {
                let message = format!(
                    "{name}: expected {} {}, the step has {} {}",
                    ours.shape, ours.dtype, theirs.shape, theirs.dtype
                );
                return Err(Error::new(ErrorKind::Input, message));
            }
        }
        slots.iter().try_for_each(|(name, other)| self.copy(name, from, other))
    }
}
