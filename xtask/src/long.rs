//! Runs that are too long for every change. Takes the repository and how long, gives the first failure. Never runs in CI: a short version of
//! each is among the tests.

use crate::{call, cargo, target};
use std::path::Path;
use std::process::Command;

const FUZZ: &str = "fuzz/fuzz_targets";

/// What libFuzzer needs to see of a program, and all that a stable compiler has of it: which edges are taken and what is compared. The checks of
/// addresses that a nightly compiler would add are not needed by readers without `unsafe`.
const SEEN: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Where the fuzzer begins: files that each reader takes.
const SEEDS: &[(&str, &str)] = &[
    ("csv", "crates/wholestep/tests/data/golden"),
    ("image", "crates/wholestep/tests/data/golden/pets"),
    ("npy", "crates/wholestep/tests/data/golden"),
    ("npz", "crates/wholestep/tests/data/golden"),
    ("toml", "fuzz/seeds/toml"),
    ("weights", "crates/wholestep/tests/golden"),
];

/// No file of a seed that is larger is taken whole.
const LARGEST_INPUT: &str = "-max_len=65536";

/// Fuzzes every reader for `seconds` each. What it learns stays in `target/fuzz/corpus` for the next time.
pub fn fuzz(root: &Path, seconds: u64) -> Result<(), String> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(root.join(FUZZ)).map_err(|e| format!("{FUZZ}: {e}"))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    targets.sort();
    let (host, folder) = (host()?, target(root).join("fuzz"));
    // For a named target, so that the flags do not reach build scripts.
    let shown = folder.to_string_lossy();
    let build = ["build", "--manifest-path", "fuzz/Cargo.toml", "--bins", "--locked", "--quiet", "--target", &host];
    let status = Command::new(cargo())
        .args(build)
        .args(["--target-dir", &shown])
        .env("RUSTFLAGS", SEEN)
        .current_dir(root)
        .status()
        .map_err(|e| format!("cargo: cannot start: {e}"))?;
    if !status.success() {
        return Err(format!("the fuzz targets: {status}"));
    }
    let limit = format!("-max_total_time={seconds}");
    for name in &targets {
        println!("-- {name}: {seconds} s");
        let [corpus, found] = ["corpus", "found"].map(|kind| folder.join(kind).join(name));
        for folder in [&corpus, &found] {
            std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        let mut run = Command::new(folder.join(&host).join("debug").join(name));
        run.arg(&corpus).args(SEEDS.iter().filter(|(of, _)| of == name).map(|(_, seeds)| seeds));
        run.args([&limit, LARGEST_INPUT, "-timeout=10", "-print_final_stats=1"]);
        run.arg(format!("-artifact_prefix={}/", found.display()));
        let status = run.current_dir(root).status().map_err(|e| format!("{name}: cannot start: {e}"))?;
        if !status.success() {
            return Err(format!("{name}: {status}; the input is in {}", found.display()));
        }
    }
    Ok(())
}

/// The target that this compiler makes programs for when nobody says.
fn host() -> Result<String, String> {
    let said = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc: cannot start: {e}"))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_string).ok_or_else(|| format!("rustc -vV does not say its host: {text}"))
}

/// Runs `n` random programs by the oracle, the interpreter of plans and the cpu, and shrinks the first that differ.
pub fn programs(root: &Path, n: u64) -> Result<(), String> {
    let n = n.to_string();
    call(root, &cargo(), &["run", "--release", "-p", "wholestep-cpu", "--example", "programs", "--", &n])
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
        call(root, &cargo(), &args)?;
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
    let status = Command::new(cargo())
        .args(["test", "--release", "--package", package, "--test", file, "--", "--exact", "--nocapture", test])
        .env(name, value)
        .current_dir(root)
        .status()
        .map_err(|e| format!("cargo test: cannot start: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{test}: {status}")) }
}
