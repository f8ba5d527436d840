//! The `wholestep` command. Takes a subcommand with files, gives exit code 0, 1 when the work failed, 2 when the command line or the
//! configuration is wrong. Never panics because an input is bad.

mod arguments;
mod bench;
mod config;
mod devices;
mod eval;
mod inspect;
mod lr;
mod page;
mod predict;
mod progress;
mod report;
mod run;
mod saved;
mod target;
mod train;
#[cfg(test)]
mod translated;

use arguments::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;
use wholestep::{Error, ErrorKind, Result};

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Train(a) => train::train(&a),
        Command::Lr(a) => lr::lr(&a),
        Command::Eval(a) => eval::eval(&a),
        Command::Predict(a) => predict::predict(&a),
        Command::Inspect(a) => inspect::inspect(&a),
        Command::Devices => devices::devices(),
        Command::Bench(a) => bench::run(&a),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(if e.kind() == ErrorKind::Config { 2 } else { 1 })
        }
    }
}

/// Writes `text` to standard output; that nobody reads it is no failure, that it cannot be written (to a file on a full disk) is one.
fn say(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write", std::path::Path::new("standard output"), e))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
