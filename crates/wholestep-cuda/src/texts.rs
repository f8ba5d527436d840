//! Texts of kernels on their way to the device. Takes texts, gives functions: those of texts that were seen before at once. Never compiles by itself.

use crate::driver::{Driver, Function, Unit};
use std::collections::{BTreeMap, BTreeSet};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::cuda;

/// A kernel called `KERNEL` with its device function `BODY`, both of which are macros.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    pub source: String,
    pub shared_bytes: u32,
}

/// All kernels that were loaded so far.
#[derive(Default)]
pub struct Loaded {
    functions: BTreeMap<Text, Function>,
}

/// Texts of one compilation: enough that the prelude does not count, few enough that there is work for all threads.
const UNIT: usize = 6;

impl Loaded {
    /// The functions of texts, and how many compilations that took.
    pub fn load(&mut self, driver: &mut dyn Driver, texts: &[Text]) -> Result<(Vec<Function>, u64), DeviceError> {
        let mut seen = BTreeSet::new();
        let new: Vec<&Text> = texts.iter().filter(|t| !self.functions.contains_key(t) && seen.insert(*t)).collect();
        let mut compiled = 0;
        if !new.is_empty() {
            let units: Vec<Unit> = new.chunks(UNIT).map(unit).collect();
            let (functions, n) = driver.load(&units)?;
            compiled = n;
            let new = new.into_iter().cloned().zip(functions.into_iter().flatten());
            self.functions.extend(new);
        }
        Ok((texts.iter().map(|t| self.functions[t]).collect(), compiled))
    }
}

fn unit(texts: &[&Text]) -> Unit {
    let mut source = cuda::PRELUDE.to_string();
    let mut names = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        source +=
            &format!("#define BODY body{i}\n#define KERNEL kernel{i}\n{}#undef BODY\n#undef KERNEL\n", text.source);
        names.push(format!("kernel{i}"));
    }
    Unit { source, names, shared_bytes: texts.iter().map(|t| t.shared_bytes).collect() }
}
