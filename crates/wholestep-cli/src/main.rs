//! The `wholestep` command.
// The command line that calls it is wired in with the training loop.
#[allow(dead_code)]
mod report;

fn main() {}
