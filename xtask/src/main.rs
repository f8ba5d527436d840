//! Repository chores. Takes a chore's name, gives its exit code: `cargo xtask tidy | test | targets | bench | …`. Never changes a tracked file.

mod bench;
mod drivers;
mod long;
mod replay;
mod targets;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask tidy                   what a reviewer need not look for: lengths, imports, stray files, words, data
cargo xtask test                   all that a change must pass: format, lints, tests, doc tests, tidy, 20 steps of each example
cargo xtask targets                type checks for macOS and Windows
cargo xtask weak [quick]           the wgpu device on SwiftShader, the least that a device may have; quick is what each change must pass
cargo xtask coop                   the wgpu device on a newer Mesa, which has Metal's matrices of 8x8
cargo xtask bench [OPTIONS]        our release build beside the peers: median times and ratios (--help lists the options)
cargo xtask replay REV             plans and kernels of the standard models, this tree against REV
cargo xtask fuzz [SECONDS]         every reader of files against hostile bytes, 600 s each (needs a C++ compiler)
cargo xtask programs [N]           random programs by the oracle, the interpreter of plans and the cpu, 10000 of them
cargo xtask soak [RUNS]            100000 steps in flat memory, a gigabyte to and fro, the same training 20 times: the same weights
cargo xtask kill [KILLS]           training killed at random moments, 200 times: always a valid checkpoint, in the end the same bits";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or(&[]);
    let outcome = match args.first().map(String::as_str) {
        Some("tidy") if rest.is_empty() => tidy::run(&root()),
        Some("test") if rest.is_empty() => test::run(&root()),
        Some("targets") if rest.is_empty() => targets::run(&root()),
        Some("weak") if rest.is_empty() => drivers::run(&root(), &drivers::WEAK),
        Some("weak") if rest == ["quick"] => drivers::run(&root(), &drivers::WEAK_QUICK),
        Some("coop") if rest.is_empty() => drivers::run(&root(), &drivers::COOP),
        Some("bench") => bench::run(&root(), rest),
        Some("replay") => replay::run(&root(), rest),
        Some("fuzz") => number(rest, 600).and_then(|seconds| long::fuzz(&root(), seconds)),
        Some("programs") => number(rest, 10_000).and_then(|n| long::programs(&root(), n)),
        Some("soak") => number(rest, 20).and_then(|runs| long::soak(&root(), runs)),
        Some("kill") => number(rest, 200).and_then(|kills| long::kill(&root(), kills)),
        Some("--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("expected one of these:\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The one number that may follow a chore's name.
fn number(rest: &[String], default: u64) -> Result<u64, String> {
    match rest {
        [] => Ok(default),
        [text] => text.parse().map_err(|_| format!("{text}: expected a whole number")),
        [_, more, ..] => Err(format!("{more}: expected nothing more")),
    }
}

/// The repository's root: xtask lies right below it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bug: xtask is not below the root").to_path_buf()
}

/// Runs a command in `dir` with its output going to ours.
/// Errors: it cannot be started, or it fails.
fn call(dir: &Path, program: &str, args: &[&str]) -> Result<(), String> {
    let shown = format!("{program} {}", args.join(" "));
    match Command::new(program).args(args).current_dir(dir).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(e) => Err(format!("{shown}: cannot start: {e}")),
    }
}

/// The `cargo` that runs us.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string())
}

/// The folder of build outputs.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), |dir| root.join(dir))
}
