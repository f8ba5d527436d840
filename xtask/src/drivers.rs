//! The wgpu device on software drivers that no system installs. Takes the repository, gives the first test that fails on one. Never installs
//! anything: `.ci/driver` unpacks the driver below the folder of build outputs.

use crate::cargo;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A driver of `.ci/driver`, and the tests that are worth its time: the test's program, and what that is told.
pub struct Driver {
    name: &'static str,
    tests: &'static [[&'static str; 2]],
}

const TABLES: &str = "--exact every_row_agrees_with_the_oracle rows_kept_in_16_bits_agree_with_the_oracle";

/// The least that a device may have.
pub const WEAK: Driver = Driver {
    name: "weak",
    tests: &[
        ["conformance", TABLES],
        ["truth", ""],
        // 10,000 steps take minutes there.
        ["wgpu", "--skip ten_thousand"],
    ],
};

/// What of it each change must pass.
pub const WEAK_QUICK: Driver = Driver {
    name: "weak",
    tests: &[["conformance", "--exact every_row_agrees_with_the_oracle"], ["wgpu", "--skip ten_thousand"]],
};

/// A device with Metal's matrices of 8x8.
pub const COOP: Driver = Driver {
    name: "coop",
    tests: &[
        ["conformance", TABLES],
        ["contractions", ""],
        // Two start themselves again, which a program that a loader of its own has started cannot.
        ["wgpu", "--skip ten_thousand --skip without_a_driver"],
    ],
};

pub fn run(root: &Path, driver: &Driver) -> Result<(), String> {
    let script = Command::new(root.join(".ci/driver")).arg(driver.name).output();
    let output = script.map_err(|e| format!(".ci/driver: cannot start: {e}"))?;
    if !output.status.success() {
        return Err(format!(".ci/driver {}: {}", driver.name, String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8(output.stdout).map_err(|e| e.to_string())?;
    let variables: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    for [test, filter] in driver.tests {
        let begun = Instant::now();
        // The whole workspace, so that what its tests have built is used: one package alone is built with other features of its dependencies.
        let mut args = vec!["test", "--locked", "--quiet", "--workspace", "--test", test, "--"];
        args.extend(filter.split_whitespace());
        let status = Command::new(cargo())
            .args(&args)
            .env("REQUIRE_WGPU", "1")
            .env("WHOLESTEP_DEVICE", "wgpu")
            .envs(variables.iter().copied())
            .current_dir(root)
            .status()
            .map_err(|e| format!("cargo {}: cannot start: {e}", args.join(" ")))?;
        if !status.success() {
            return Err(format!("{test} on the {} driver: {status}", driver.name));
        }
        println!("-- {test} {filter}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}
