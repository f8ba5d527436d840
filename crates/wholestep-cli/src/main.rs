//! The `wholestep` command.
// The command line that calls these two is wired in with the training loop.
#[allow(dead_code)]
mod progress;
#[allow(dead_code)]
mod report;
#[allow(dead_code)]
mod bench;

fn main() {}
