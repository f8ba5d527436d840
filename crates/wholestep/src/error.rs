//! What can fail after a step is compiled: files, checkpoints, batches and devices. Takes the cause, gives one opaque
//! [`Error`] whose text says what was expected, what came, where, and what to do. Never guesses and never hides a cause.

use std::fmt;
use std::path::Path;

/// `std::result::Result` with Wholestep's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of thing went wrong, for programs that want to react. The text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The model does not compile: a shape, a dtype, a parameter without a gradient.
    Build,
    /// A batch or a value handed to a compiled step does not fit it.
    Input,
    /// A data file is missing, truncated or malformed.
    Data,
    /// A configuration file or an option is wrong.
    Config,
    /// Reading or writing a file failed.
    Io,
    /// The device is missing, out of memory, or lost.
    Device,
    /// Saved weights do not fit the model, or are damaged.
    Checkpoint,
    /// Training cannot go on: the loss is not finite.
    Diverged,
}

/// Anything that can go wrong. Opaque: match on [`Error::kind`], print for the rest.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<std::io::Error>,
}

impl Error {
    /// An error of `kind` that says `message`: what was expected, what came, where, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// An I/O failure while doing `what` ("read", "write") with the file at `path`.
    pub fn io(what: &str, path: &Path, source: std::io::Error) -> Error {
        let message = format!("cannot {what} {}: {source}", path.display());
        Error(Box::new(Inner { kind: ErrorKind::Io, message, source: Some(source) }))
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The same error with `context` (a file, a line, a layer) in front of its text.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// The same error with `part` taken out of its text.
    pub(crate) fn without(mut self, part: &str) -> Error {
        self.0.message = self.0.message.replace(part, "");
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

// `main` returning an error prints it with `Debug`; a person reads that too.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

/// An error "key: need what, got value" unless `fits`.
pub(crate) fn need(fits: bool, key: &str, what: &str, value: &dyn std::fmt::Display) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::new(ErrorKind::Config, format!("{key}: need {what}, got {value}"))) }
}
