//! The error of a build: the first thing in a traced program that cannot be. Takes the rule that failed and where, gives a message that
//! shows the operands, their origin and a way out. Never holds more than one error: what follows the first is its consequence.

use std::fmt;

/// Why a program does not compile.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildError {
    /// The op or the stage: "matmul", "autodiff".
    pub what: String,
    /// "need lhs.dim(-1) == rhs.dim(-2), got 768 and 512".
    pub message: String,
    /// "src/gpt.rs:41   in gpt/block3/up".
    pub at: Option<String>,
    /// One line per operand: shape, dtype, origin.
    pub operands: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl BuildError {
    /// Without place, operands and help.
    pub fn new(what: impl Into<String>, message: impl Into<String>) -> BuildError {
        BuildError { what: what.into(), message: message.into(), at: None, operands: Vec::new(), help: None }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> BuildError {
        self.help = Some(help.into());
        self
    }

    /// Adds the line and the layer: "src/gpt.rs:41   in gpt/block3/up".
    pub fn at(mut self, at: impl Into<String>) -> BuildError {
        self.at = Some(at.into());
        self
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.message)?;
        if let Some(at) = &self.at {
            write!(f, "\n  --> {at}")?;
        }
        for operand in &self.operands {
            write!(f, "\n  {operand}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}
