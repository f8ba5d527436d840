//! The checkpoints of a run, side by side in one folder. Takes the folder, gives the newest, removes those that are no longer wanted and
//! what a killed process left behind. Never removes the newest or the best one.

use super::folder::temporary;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Which checkpoints stay on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The newest ones, at least 1.
    pub last: usize,
    /// Besides them that of the best epoch.
    pub best: bool,
}

const PREFIX: &str = "step-";

/// "step-0000000120": sorted by name is sorted by step.
pub fn name(step: u64) -> String {
    format!("{PREFIX}{step:010}")
}

/// The checkpoint in `folder` that has run the most steps; `None` where there is none yet. What a killed process was writing does not count.
/// Errors: the folder cannot be read.
pub fn latest(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    Ok(list(folder.as_ref())?.pop().map(|(_, path)| path))
}

/// Steps and folders, in the order of the steps.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix(PREFIX).and_then(|digits| digits.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", folder, e);
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path()).map_err(failed)).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}

/// Removes what is neither among the last nor the best.
pub fn prune(folder: &Path, keep: Keep, best: Option<u64>) -> Result<()> {
    let found = list(folder)?;
    let old = found.len().saturating_sub(keep.last.max(1));
    for (step, path) in found.into_iter().take(old).filter(|(step, _)| !(keep.best && best == Some(*step))) {
        remove(&path).map_err(|e| Error::io("remove", &path, e).context(name(step)))?;
    }
    Ok(())
}

/// A folder that is half removed must not look like a checkpoint, so it loses its name first.
fn remove(path: &Path) -> std::io::Result<()> {
    let old = temporary(path, "old").map_err(std::io::Error::other)?;
    std::fs::rename(path, &old)?;
    std::fs::remove_dir_all(old)
}

/// A folder of checkpoints that this process alone writes to.
pub struct Home {
    pub path: PathBuf,
    /// The system takes the lock back when the process ends, however it ends.
    _lock: File,
}

impl Home {
    /// Makes `path` where it is missing, takes it, and removes what a killed process left half written or half removed.
    /// Errors: another process has it; it cannot be made or written to.
    pub fn take(path: &Path) -> Result<Home> {
        std::fs::create_dir_all(path).map_err(|e| Error::io("make the folder", path, e))?;
        let file = path.join(".lock");
        let failed = |e| Error::io("write", &file, e);
        let lock = File::create(&file).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let message =
                    format!("{}: another process writes checkpoints here; wait for it or end it", path.display());
                return Err(Error::new(ErrorKind::Io, message));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
        for left in entries(path)? {
            let name = left.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(".step-") && (name.ends_with(".part") || name.ends_with(".old")) {
                std::fs::remove_dir_all(&left).map_err(|e| Error::io("remove", &left, e))?;
            }
        }
        Ok(Home { path: path.to_path_buf(), _lock: lock })
    }
}
