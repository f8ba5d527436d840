//! Runs that are too long for every change. Takes the repository and how long, gives the first failure. Never runs in CI: a short version of
//! each is among the tests.

use crate::call;
use std::path::Path;
use std::process::Command;

const FUZZ: &str = "fuzz/fuzz_targets";

/// Fuzzes every reader for `seconds` each. Needs cargo-fuzz.
pub fn fuzz(root: &Path, seconds: u64) -> Result<(), String> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(root.join(FUZZ)).map_err(|e| format!("{FUZZ}: {e}"))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    targets.sort();
    let limit = format!("-max_total_time={seconds}");
    for target in &targets {
        println!("-- {target}: {seconds} s");
        // Coverage needs flags that a stable compiler takes only when told so.
        let status = Command::new("cargo")
            .args(["fuzz", "run", target, "--", &limit])
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(root)
            .status()
            .map_err(|e| format!("cargo fuzz: cannot start: {e}; cargo install cargo-fuzz"))?;
        if !status.success() {
            return Err(format!("{target}: {status}; the input is in fuzz/artifacts/{target}"));
        }
    }
    Ok(())
}

/// Runs `n` random programs by the oracle, the interpreter of plans and the cpu, and shrinks the first that differ.
pub fn programs(root: &Path, n: u64) -> Result<(), String> {
    let n = n.to_string();
    call(root, &crate::cargo(), &["run", "--release", "-p", "wholestep-cpu", "--example", "programs", "--", &n])
}

/// 100 000 steps in flat memory, values of a gigabyte to each device and back, then trains `runs` times from the same file and compares
/// every byte of the weights.
pub fn soak(root: &Path, runs: u64) -> Result<(), String> {
    let steps = ("TEST_STEPS", "100000");
    alone(root, ["wholestep", "residency", "ten_thousand_steps_take_no_more_memory_than_one"], steps)?;
    // Not a multiple of a word or of a piece.
    let bytes = ("TEST_LARGEST", "1073741820");
    alone(root, ["wholestep", "transfers", "every_size_comes_back_to_the_bit_and_touches_nothing_beside_it"], bytes)?;
    let folder = root.join("target/soak");
    let mut first: Option<Vec<u8>> = None;
    for run in 1..=runs {
        let _ = std::fs::remove_dir_all(&folder);
        let out = folder.to_string_lossy().into_owned();
        let args =
            ["run", "--release", "--quiet", "--bin", "wholestep", "--", "train", "examples/iris.toml", "--out", &out];
        call(root, &crate::cargo(), &args)?;
        let path = folder.join("last.safetensors");
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        match &first {
            Some(first) if *first != bytes => return Err(format!("run {run} ended with other weights than run 1")),
            Some(_) => {}
            None => first = Some(bytes),
        }
        println!("-- run {run} of {runs}: the same weights");
    }
    Ok(())
}

/// Kills training `kills` times with the release build.
pub fn kill(root: &Path, kills: u64) -> Result<(), String> {
    let kills = kills.to_string();
    alone(root, ["wholestep-cli", "kill", "a_killed_run_resumes_to_the_same_bits"], ("TEST_KILLS", &kills))
}

/// Runs one test of the release build, asked for more by an environment variable.
fn alone(root: &Path, [package, file, test]: [&str; 3], (name, value): (&str, &str)) -> Result<(), String> {
    println!("-- {test}: {name}={value}");
    let status = Command::new(crate::cargo())
        .args(["test", "--release", "--package", package, "--test", file, "--", "--exact", "--nocapture", test])
        .env(name, value)
        .current_dir(root)
        .status()
        .map_err(|e| format!("cargo test: cannot start: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{test}: {status}")) }
}
