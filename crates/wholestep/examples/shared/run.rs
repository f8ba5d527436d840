//! What all examples share: the device, `--steps N` and the exit code. Takes the command line and what was measured, gives the verdict. Never
//! hides a number: each bar is printed beside what was reached.

use std::process::ExitCode;
use wholestep::{Device, Result};

/// Where and how long an example runs.
pub struct Run {
    pub device: Device,
    /// Steps of each training; `None` runs to the end and holds the bars.
    limit: Option<u64>,
    failed: bool,
}

impl Run {
    /// On the best device; reads `--steps N`. Errors (as the process's end): anything else on the command line.
    // A test that runs examples on a device of its own does not ask.
    #[allow(dead_code)]
    pub fn from_args() -> Result<Run> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let limit = match args.as_slice() {
            [] => None,
            [name, n] if name == "--steps" && n.parse::<u64>().is_ok() => n.parse().ok(),
            _ => {
                eprintln!("expected --steps N or nothing, got {}", args.join(" "));
                std::process::exit(2);
            }
        };
        Ok(Run::new(Device::best()?, limit))
    }

    pub fn new(device: Device, limit: Option<u64>) -> Run {
        Run { device, limit, failed: false }
    }

    /// Whether a training that took `steps` steps may take one more.
    // The example without any training does not ask.
    #[allow(dead_code)]
    pub fn allows(&self, steps: u64) -> bool {
        self.limit.is_none_or(|limit| steps < limit)
    }

    /// Prints a number beside the bar that it must reach; a short run has no bars.
    pub fn bar(&mut self, what: &str, value: f64, bar: &str, reached: bool) {
        let verdict = match (self.limit, reached) {
            (Some(_), _) => "short run",
            (None, true) => "ok",
            (None, false) => "MISSED",
        };
        println!("{what}: {value:.4} (bar {bar}) {verdict}");
        self.failed |= self.limit.is_none() && !reached;
    }

    /// Failure if a bar was missed.
    pub fn verdict(self) -> ExitCode {
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
