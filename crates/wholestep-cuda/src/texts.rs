//! Texts of kernels on their way to the device. Takes texts, gives functions: those of texts that were seen before at once. Never compiles by itself.

use crate::driver::{Driver, Function};
use std::collections::{BTreeMap, BTreeSet};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::Shader;

/// A kernel called `KERNEL` with its device function `BODY`, both of which are macros.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    pub source: String,
    pub shared_bytes: u32,
    /// Whether it may be compiled with others: it declares nothing but under names that are made of the two.
    pub joins: bool,
}

impl Text {
    /// That of one shader.
    pub fn of(shader: &Shader) -> Text {
        Text { source: shader.source.clone(), shared_bytes: shader.shared_bytes, joins: true }
    }
}

/// The part of a shader's text before its own kernel, for kernels that call several.
pub fn device_function(shader: &Shader) -> &str {
    shader.source.split("extern \"C\" __global__").next().unwrap_or_default()
}

/// All kernels that were loaded so far.
#[derive(Default)]
pub struct Loaded {
    functions: BTreeMap<Text, Function>,
}

impl Loaded {
    /// Begins to compile texts that are loaded later, before what waits if they are needed `soon`.
    pub fn prepare(&self, driver: &mut dyn Driver, texts: &[Text], soon: bool) {
        let new: Vec<Text> = texts.iter().filter(|t| !self.functions.contains_key(t)).cloned().collect();
        driver.prepare(&new, soon);
    }

    /// The functions of texts, and how many compilations that took.
    pub fn load(&mut self, driver: &mut dyn Driver, texts: &[Text]) -> Result<(Vec<Function>, u64), DeviceError> {
        let mut seen = BTreeSet::new();
        let new = texts.iter().filter(|t| !self.functions.contains_key(t) && seen.insert(*t));
        let new: Vec<Text> = new.cloned().collect();
        let mut compiled = 0;
        if !new.is_empty() {
            let (functions, n) = driver.load(&new)?;
            compiled = n;
            self.functions.extend(new.into_iter().zip(functions));
        }
        Ok((texts.iter().map(|t| self.functions[t]).collect(), compiled))
    }
}
