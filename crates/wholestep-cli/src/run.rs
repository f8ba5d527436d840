//! The folder of a run. Takes a name or a path, gives a new folder and files that are whole at every moment. Never writes over another run, and
//! never makes an epoch wait for the disk.

use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use wholestep::checkpoint::{replace, sync};
use wholestep::train::{Epoch, Metric};
use wholestep::{Error, ErrorKind, Result};

/// The columns of metrics.csv after epoch, steps and lr.
const METRICS: [Metric; 10] = [
    Metric::TrainLoss,
    Metric::TrainAccuracy,
    Metric::Loss,
    Metric::Accuracy,
    Metric::Top5,
    Metric::MacroF1,
    Metric::RocAuc,
    Metric::Mae,
    Metric::Rmse,
    Metric::R2,
];

/// What a run replaces as its epochs end.
const FILES: [&str; 5] = [LAST, BEST, "metrics.csv", "metrics.jsonl", crate::target::FILE];
/// The newest weights, and those of the best epoch.
pub const LAST: &str = "last.safetensors";
pub const BEST: &str = "best.safetensors";

fn taken(out: &Path) -> Error {
    let message = format!("--out {}: it exists already; a run needs a folder of its own", out.display());
    Error::new(ErrorKind::Config, message)
}

/// A folder of our own.
pub struct RunFolder {
    pub path: PathBuf,
    csv: String,
    jsonl: String,
}

impl RunFolder {
    /// Makes `out`, or the first of runs/NAME-001, -002 … that is free.
    /// Errors: `out` is there already; the folder cannot be made or written to.
    pub fn create(name: &str, out: Option<&Path>) -> Result<RunFolder> {
        let path = match out {
            Some(out) => {
                parents(out)?;
                std::fs::create_dir(out).map_err(|e| match e.kind() {
                    std::io::ErrorKind::AlreadyExists => taken(out),
                    _ => Error::io("make the folder", out, e),
                })?;
                out.to_path_buf()
            }
            None => numbered(name)?,
        };
        RunFolder::with(path, &[])
    }

    /// Errors: `out` is there already, which is better known before data are read.
    pub fn need_new(out: &Path) -> Result<()> {
        if out.exists() { Err(taken(out)) } else { Ok(()) }
    }

    /// The folder of a run that goes on after `epochs`.
    /// Errors: it cannot be written to.
    pub fn reopen(path: &Path, epochs: &[Epoch]) -> Result<RunFolder> {
        RunFolder::with(path.to_path_buf(), epochs)
    }

    /// The newest run called `name`, if there is one.
    pub fn newest(name: &str) -> Option<PathBuf> {
        let numbers = std::fs::read_dir("runs").ok()?.filter_map(|entry| {
            let file = entry.ok()?.file_name().to_string_lossy().into_owned();
            file.strip_prefix(name)?.strip_prefix('-')?.parse::<u32>().ok()
        });
        numbers.max().map(|number| numbered_path(name, number))
    }

    fn with(path: PathBuf, epochs: &[Epoch]) -> Result<RunFolder> {
        let csv = format!("epoch,steps,lr,{},seconds\n", METRICS.map(csv_name).join(","));
        let mut folder = RunFolder { path, csv, jsonl: String::new() };
        epochs.iter().for_each(|epoch| folder.append(epoch));
        folder.write_numbers()?;
        Ok(folder)
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace(&self.file(name), bytes)
    }

    /// What must be on disk before a checkpoint says that an epoch is done.
    pub fn files(&self) -> Vec<PathBuf> {
        FILES.iter().map(|name| self.file(name)).collect()
    }

    /// Makes all that was written safe on disk.
    pub fn sync(&self) -> Result<()> {
        sync(&self.files())
    }

    /// Adds a line to metrics.csv and metrics.jsonl.
    pub fn add_epoch(&mut self, epoch: &Epoch) -> Result<()> {
        self.append(epoch);
        self.write_numbers()
    }

    fn append(&mut self, epoch: &Epoch) {
        let cell = |m: Metric| epoch.get(m).map_or(String::new(), |x| x.to_string());
        let cells = METRICS.map(cell).join(",");
        let _ = writeln!(self.csv, "{},{},{},{cells},{:.3}", epoch.epoch, epoch.steps, epoch.lr, epoch.seconds);
        let _ = writeln!(self.jsonl, "{}", json!(epoch));
    }

    fn write_numbers(&self) -> Result<()> {
        self.write("metrics.csv", self.csv.as_bytes())?;
        self.write("metrics.jsonl", self.jsonl.as_bytes())
    }
}

/// Numbers of the validation set carry its name.
fn csv_name(metric: Metric) -> String {
    if metric.needs_validation() { format!("val_{}", metric.name()) } else { metric.name().to_string() }
}

fn parents(path: &Path) -> Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, e)),
        None => Ok(()),
    }
}

fn numbered_path(name: &str, number: u32) -> PathBuf {
    Path::new("runs").join(format!("{name}-{number:03}"))
}

fn numbered(name: &str) -> Result<PathBuf> {
    let runs = Path::new("runs");
    std::fs::create_dir_all(runs).map_err(|e| Error::io("make the folder", runs, e))?;
    let mut number = 1;
    loop {
        let path = numbered_path(name, number);
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // Taken, perhaps by a run that started at the same moment.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(Error::io("make the folder", &path, e)),
        }
    }
}
