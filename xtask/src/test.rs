//! All that a change must pass. Takes the repository, runs each check in order of how soon it can fail, gives the first failure. Never needs
//! the network once packages are there.

use crate::{call, cargo, target, tidy};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Steps of each example: enough to touch every line, too few to reach its bar.
const EXAMPLE_STEPS: &str = "20";
const EXAMPLES: &str = "crates/wholestep/examples";

type Check = (&'static str, fn(&Path) -> Result<(), String>);

const CHECKS: &[Check] = &[
    ("format", |root| call(root, &cargo(), &["fmt", "--all", "--check"])),
    ("tidy", tidy::run),
    ("lints", |root| {
        call(root, &cargo(), &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    }),
    ("tests", tests),
    ("training on the GPU that is required", on_wgpu),
    ("doc tests", |root| call(root, &cargo(), &["test", "--workspace", "--locked", "--doc", "--quiet"])),
    ("examples", examples),
    ("fuzz targets", fuzz_targets),
];

pub fn run(root: &Path) -> Result<(), String> {
    let started = Instant::now();
    for (name, check) in CHECKS {
        println!("== {name}");
        let begun = Instant::now();
        check(root).map_err(|e| format!("{name}: {e}"))?;
        println!("== {name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    println!("== all passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn tests(root: &Path) -> Result<(), String> {
    let has_nextest = Command::new(cargo()).args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
    if has_nextest {
        let passed = call(root, &cargo(), &["nextest", "run", "--workspace", "--locked", "--no-tests=pass"]);
        let report = target(root).join("nextest/default/junit.xml");
        let report = std::fs::read_to_string(&report).map_err(|e| format!("{}: {e}", report.display()));
        return passed.and_then(|()| report.map(|text| println!("== {}", skips(&text))));
    }
    println!("cargo-nextest is not installed; using cargo test");
    call(root, &cargo(), &["test", "--workspace", "--locked", "--lib", "--bins", "--tests", "--quiet"])
}

/// How many tests of a report say "skipped: REASON" though they passed, and why: mostly because a GPU is not there.
fn skips(report: &str) -> String {
    let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut test = "";
    for line in report.lines().map(str::trim_start) {
        if let Some(rest) = line.strip_prefix("<testcase name=\"") {
            test = rest.split('"').next().unwrap_or(rest);
        }
        if let Some(why) = line.rsplit("<system-out>").next().and_then(|said| said.strip_prefix("skipped: ")) {
            reasons.entry(why.split(" (").next().unwrap_or(why)).or_default().insert(test);
        }
    }
    let all: BTreeSet<&str> = reasons.values().flatten().copied().collect();
    let each: Vec<String> = reasons.iter().map(|(why, tests)| format!("{} ({why})", tests.len())).collect();
    if all.is_empty() {
        "no test was skipped".to_string()
    } else {
        format!("skipped: {} tests: {}", all.len(), each.join(", "))
    }
}

/// The training runs against PyTorch's and the changing batches once more on the first wgpu device, where `REQUIRE_WGPU` says that there is one.
fn on_wgpu(root: &Path) -> Result<(), String> {
    if std::env::var_os("REQUIRE_WGPU").is_none() {
        println!("skipped: REQUIRE_WGPU is not set");
        return Ok(());
    }
    let args = ["test", "--workspace", "--locked", "--quiet", "--test", "truth", "--test", "batch"];
    cargo_with(root, ("WHOLESTEP_DEVICE", "wgpu"), &args)
}

/// Runs cargo with a variable of the environment.
fn cargo_with(root: &Path, (name, value): (&str, &str), args: &[&str]) -> Result<(), String> {
    match Command::new(cargo()).args(args).env(name, value).current_dir(root).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}={value} cargo {}: {status}", args.join(" "))),
        Err(e) => Err(format!("cargo: cannot start: {e}")),
    }
}

/// Type-checks what `cargo xtask fuzz` builds. The fuzzer itself, which takes a C++ compiler, is left out.
fn fuzz_targets(root: &Path) -> Result<(), String> {
    let args =
        ["check", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target", "--bins", "--locked", "--quiet"];
    cargo_with(root, ("CUSTOM_LIBFUZZER_PATH", "target/none/libfuzzer.a"), &args)
}

/// Builds all examples and runs each for a few steps.
fn examples(root: &Path) -> Result<(), String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(EXAMPLES)).map_err(|e| format!("{EXAMPLES}: {e}"))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    call(root, &cargo(), &["build", "--locked", "--package", "wholestep", "--examples"])?;
    for name in &names {
        println!("-- {name} --steps {EXAMPLE_STEPS}");
        let program = target(root).join("debug/examples").join(name);
        call(root, &program.to_string_lossy(), &["--steps", EXAMPLE_STEPS])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::skips;

    #[test]
    fn tests_without_their_device_are_counted_by_reason() {
        let case = |name: &str, said: &str| {
            format!(
                "<testcase name=\"{name}\" classname=\"c\">\n<system-out>\nrunning 1 test\n{said}\nok</system-out>\n</testcase>\n"
            )
        };
        let report = case("one", "skipped: no cuda (libcuda.so.1 is missing)\nskipped: no wgpu (nothing)")
            + &case("two", "it was not skipped: no cuda")
            + &case("three", "skipped: no cuda (libcuda.so.1 is missing)");
        assert_eq!(skips(&report), "skipped: 2 tests: 2 (no cuda), 1 (no wgpu)");
        assert_eq!(skips(&case("two", "")), "no test was skipped");
    }
}
