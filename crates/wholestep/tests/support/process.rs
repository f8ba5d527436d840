//! Processes. Takes the name of a test and of a part of it, gives a process of its own for that part; and the memory that a process holds.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Says which part a process is to run, and in which folder. No name of ours: those are checked.
const PART: &str = "TEST_PART";
const FOLDER: &str = "TEST_FOLDER";

/// What runs `part` of the test `name` in a new process.
pub fn command(name: &str, part: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--quiet"]).env(PART, part).env(FOLDER, folder);
    command
}

/// The folder to work in, if this process is to run `part`.
pub fn in_child(part: &str) -> Option<PathBuf> {
    (std::env::var(PART).ok()?.as_str() == part).then(|| PathBuf::from(std::env::var_os(FOLDER).unwrap()))
}

/// Bytes of this process that are in memory, where the system says so.
pub fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(4096 * pages)
}
