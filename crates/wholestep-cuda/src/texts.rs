//! Texts of kernels on their way to the device. Takes texts, gives functions: those of texts that were seen before at once. Never compiles by itself.

use crate::driver::{Driver, Function, Unit};
use std::collections::{BTreeMap, BTreeSet};
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::{Shader, cuda};

/// A kernel called `KERNEL` with its device function `BODY`, both of which are macros.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    pub source: String,
    pub shared_bytes: u32,
}

impl Text {
    /// That of one shader.
    pub fn of(shader: &Shader) -> Text {
        Text { source: shader.source.clone(), shared_bytes: shader.shared_bytes }
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
    /// The functions of texts, and how many compilations that took.
    pub fn load(&mut self, driver: &mut dyn Driver, texts: &[Text]) -> Result<(Vec<Function>, u64), DeviceError> {
        let mut seen = BTreeSet::new();
        let new: Vec<&Text> = texts.iter().filter(|t| !self.functions.contains_key(t) && seen.insert(*t)).collect();
        let mut compiled = 0;
        if !new.is_empty() {
            // The prelude takes 20 ms of each compilation, a text up to a second. What is kept of a text alone is there for every program with it.
            let units: Vec<Unit> = new.iter().map(|text| unit(text)).collect();
            let (functions, n) = driver.load(&units)?;
            compiled = n;
            let new = new.into_iter().cloned().zip(functions.into_iter().flatten());
            self.functions.extend(new);
        }
        Ok((texts.iter().map(|t| self.functions[t]).collect(), compiled))
    }
}

fn unit(text: &Text) -> Unit {
    let defined = "#define BODY body\n#define KERNEL kernel\n";
    let source = format!("{}{defined}{}#undef BODY\n#undef KERNEL\n", cuda::PRELUDE, text.source);
    Unit { source, names: vec!["kernel".to_string()], shared_bytes: vec![text.shared_bytes] }
}
