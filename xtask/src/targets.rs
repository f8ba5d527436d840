//! Type checks for machines that are not here. Takes the repository, gives the first target for which the workspace does not compile. Never links:
//! no SDK of Apple or Microsoft is needed to check types.

use crate::target;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const TARGETS: &[&str] = &["aarch64-apple-darwin", "x86_64-pc-windows-msvc"];

/// Debian's second Rust, which is newer than its first, and the standard library's source beside it.
const DEBIAN_BIN: &str = "/usr/bin";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std";

pub fn run(root: &Path) -> Result<(), String> {
    for name in TARGETS {
        println!("-- {name}");
        let begun = Instant::now();
        check(root, name)?;
        println!("-- {name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Checks with the toolchain at hand where it has the target's standard library, else with Debian's, which compiles that library first.
fn check(root: &Path, name: &str) -> Result<(), String> {
    let mut command = if has_library(name) {
        Command::new(crate::cargo())
    } else if Path::new(DEBIAN_SOURCE).exists() {
        let mut command = Command::new(format!("{DEBIAN_BIN}/cargo"));
        // Building the standard library is a flag that a stable compiler takes only when told so.
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", format!("{DEBIAN_BIN}/rustc")).arg("-Zbuild-std");
        // The cargo that runs us names its own toolchain and flags.
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTFLAGS");
        command
    } else {
        return Err(format!(
            "there is no standard library for {name}: rustup target add {name}, or on Debian apt-get install rustc-web cargo-web rust-web-src"
        ));
    };
    // What runs while checking, such as macros, is not worth optimizing.
    command.args(["--config", "profile.dev.package.\"*\".opt-level=0"]);
    let args = ["check", "--locked", "--workspace", "--lib", "--bins", "--quiet", "--target", name];
    let status = command
        .args(args)
        .env("CARGO_TARGET_DIR", target(root).join("targets"))
        .current_dir(root)
        .status()
        .map_err(|e| format!("cargo {}: cannot start: {e}", args.join(" ")))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

/// Whether the toolchain at hand has the standard library of a target.
fn has_library(name: &str) -> bool {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string());
    let printed = Command::new(rustc).args(["--print", "target-libdir", "--target", name]).output();
    printed.is_ok_and(|o| Path::new(String::from_utf8_lossy(&o.stdout).trim()).exists())
}
