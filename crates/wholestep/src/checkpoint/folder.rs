//! A checkpoint: one folder with everything that a run needs to go on. Takes a snapshot and a record, gives a folder that is whole or not
//! there, and back. Never opens one whose bytes are not those that were written.
//!
//! | file | what |
//! | --- | --- |
//! | `weights.safetensors` | parameters as they are trained and running statistics; [`super::Weights::open`] and other libraries read it |
//! | `state.safetensors` | all other slots: optimizer state, averages of weights, step number, random key, rate, sums |
//! | `checkpoint.json` | [`Record`]: model, configuration, position in the data, history |
//! | `best.safetensors` | weights of the best epoch so far, averaged where an average is kept, in runs that stop early and put them back |
//! | `XXH128SUMS` | checksums of the others; `xxh128sum -c XXH128SUMS` checks them too |

use super::tensors::{self, hex, read_file};
use super::{Meta, Weights, damaged, folder_of, sync, sync_folder, write_through};
use crate::data::Position;
use crate::step::{Part, Snapshot};
use crate::train::{RunRecord, Training};
use crate::{Error, ErrorKind, Result, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The version of a checkpoint's layout that this library writes, and the only one it reads.
pub const CHECKPOINT_FORMAT: u32 = 2;

const WEIGHTS: &str = "weights.safetensors";
const STATE: &str = "state.safetensors";
const BEST: &str = "best.safetensors";
const RECORD: &str = "checkpoint.json";
const SUMS: &str = "XXH128SUMS";

/// What a checkpoint holds beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`CHECKPOINT_FORMAT`].
    pub format: u32,
    /// The version of the library that wrote it.
    pub written_by: String,
    /// The device, its threads and its instruction set: the same device gives the same bits.
    pub device: String,
    /// How its kernels were made, by name, where the device knows several ways: the same choices give the same bits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub choices: BTreeMap<String, String>,
    /// Steps that were done; of a trainer's, batches.
    pub step: u64,
    /// Model, loss, class names, scalings, configuration.
    pub meta: Meta,
    /// Where the loader stood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// How a trainer trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// How far a trainer was: history, best so far, early stopping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunRecord>,
}

/// What was read from a checkpoint's folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Every slot of the step; [`Step::restore`] takes it.
    pub snapshot: Snapshot,
    /// Everything beside the tensors: versions, device, the position of the loader, a trainer's run.
    pub record: Record,
    /// The weights of the best epoch, where the run will put them back.
    pub best_weights: Option<Weights>,
    /// Where it was read from.
    pub folder: PathBuf,
}

/// Writes everything that `step` and a loader at `position` need to go on to the new folder `folder`, at once, and waits until it is safe
/// on disk.
///
/// ```no_run
/// # fn main() -> wholestep::Result<()> { let (mut step, mut loader): (wholestep::Step, wholestep::data::Loader) = return Ok(());
/// use wholestep::checkpoint::{self, Checkpoint};
/// checkpoint::save("runs/a/step-100", &mut step, Some(loader.current_position()))?;
/// // In another process, after compiling the same step and making the same loader:
/// let saved = Checkpoint::open("runs/a/step-100")?;
/// step.restore(&saved.snapshot)?;
/// loader.seek(&saved.record.position.unwrap())?;
/// # Ok(()) }
/// ```
/// Errors (`ErrorKind::Io`): `folder` is there already, cannot be made, or the disk is full; nothing is left behind then.
pub fn save(folder: impl AsRef<Path>, step: &mut Step, position: Option<Position>) -> Result<()> {
    let record = Record { position, ..Record::of(step)? };
    write(folder.as_ref(), &step.snapshot()?, &record)
}

impl Record {
    /// Of a step by itself.
    pub fn of(step: &mut Step) -> Result<Record> {
        Ok(Record {
            format: CHECKPOINT_FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_string(),
            device: step.loaded().caps.name.clone(),
            choices: step.loaded().choices(),
            step: u64::from(step.steps()?),
            ..Record::default()
        })
    }
}

/// Writes `folder` at once: killed at any moment, it is whole or not there.
/// Errors: as [`save`].
pub fn write(folder: &Path, snapshot: &Snapshot, record: &Record) -> Result<()> {
    write_with(folder, snapshot, record, None, &[])
}

/// [`write`] with the weights of the best epoch. The files `beside` are on disk when it is there.
pub(super) fn write_with(
    folder: &Path,
    snapshot: &Snapshot,
    record: &Record,
    best: Option<&Weights>,
    beside: &[PathBuf],
) -> Result<()> {
    if folder.exists() {
        let message =
            format!("cannot write {}: it is there already; a checkpoint is never overwritten", folder.display());
        return Err(Error::new(ErrorKind::Io, message));
    }
    let temporary = temporary(folder, "part")?;
    let written = write_files(&temporary, snapshot, record, best)
        .and_then(|()| sync(beside))
        .and_then(|()| std::fs::rename(&temporary, folder).map_err(|e| Error::io("write", folder, e)));
    if written.is_err() {
        // What is left of a failed attempt only takes space; that it cannot be removed changes nothing.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    written?;
    sync_folder(folder_of(folder));
    Ok(())
}

fn write_files(folder: &Path, snapshot: &Snapshot, record: &Record, best: Option<&Weights>) -> Result<()> {
    // A process with this number was killed here before us.
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, e))?;
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    let no_json = |e: serde_json::Error| damaged(format!("the record does not fit JSON: {e}"));
    let text = serde_json::to_string_pretty(record).map_err(no_json)?;
    let meta = serde_json::to_string(&record.meta.versioned()).map_err(no_json)?;
    let mut sums = String::new();
    let parts = [(WEIGHTS, Part::Weights), (STATE, Part::State)];
    // Both at once: one file is copied into the system's memory while the other goes to disk.
    let written = std::thread::scope(|threads| {
        let meta = &meta;
        let write = |name, part| threads.spawn(move || tensors::write(&folder.join(name), snapshot, part, meta));
        parts.map(|(name, part)| write(name, part)).map(|t| t.join().expect("bug: writing a file panicked"))
    });
    for ((name, _), sum) in parts.into_iter().zip(written) {
        let _ = writeln!(sums, "{}  {name}", hex(sum?));
    }
    let whole = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        write_through(&path, bytes).map_err(|e| Error::io("write", &path, e))
    };
    let mut small = vec![(RECORD, text.into_bytes())];
    if let Some(best) = best {
        small.push((BEST, best.to_bytes(&record.meta)?));
    }
    for (name, bytes) in small {
        whole(name, &bytes)?;
        let _ = writeln!(sums, "{}  {name}", hex(tensors::sum(&bytes)));
    }
    whole(SUMS, sums.as_bytes())?;
    sync_folder(folder);
    Ok(())
}

impl Checkpoint {
    /// Reads and checks the checkpoint in `folder`.
    ///
    /// Errors: `ErrorKind::Io` if a file cannot be read; `ErrorKind::Checkpoint` if one is missing, cut short or changed, or of another
    /// format version; the text names the file.
    pub fn open(folder: impl AsRef<Path>) -> Result<Checkpoint> {
        let folder = folder.as_ref();
        let (text, record_sum) = read_file(&folder.join(RECORD))?;
        check_version(&text).map_err(|e| e.context(folder.join(RECORD).display()))?;
        let sums = read_sums(folder)?;
        sums.check(folder, RECORD, record_sum)?;
        let record: Record =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("{}: {e}", folder.join(RECORD).display())))?;
        let (mut slots, mut buffers, mut rule) = (Vec::new(), Vec::new(), None);
        let parts = [(WEIGHTS, Part::Weights), (STATE, Part::State)];
        // Both at once: copying and summing share the time with the disk.
        let files = std::thread::scope(|threads| {
            let read = |name: &'static str| threads.spawn(move || read_file(&folder.join(name)));
            parts.map(|(name, _)| read(name)).map(|t| t.join().expect("bug: reading a file panicked"))
        });
        for ((name, part), file) in parts.into_iter().zip(files) {
            let (bytes, sum) = file?;
            sums.check(folder, name, sum)?;
            let (tensors, of) = tensors::read(&bytes).map_err(|e| e.context(folder.join(name).display()))?;
            rule = rule.or(of);
            let buffer = buffers.len();
            slots.extend(tensors.into_iter().map(|(n, dtype, shape, range)| (n, part, dtype, shape, buffer, range)));
            buffers.push(bytes);
        }
        let best_weights = match sums.0.iter().any(|(name, _)| name == BEST) {
            true => {
                let (bytes, sum) = read_file(&folder.join(BEST))?;
                sums.check(folder, BEST, sum)?;
                Some(Weights::from_bytes(&bytes).map_err(|e| e.context(folder.join(BEST).display()))?.0)
            }
            false => None,
        };
        let snapshot = Snapshot::of_files(slots, buffers, rule);
        Ok(Checkpoint { snapshot, record, best_weights, folder: folder.to_path_buf() })
    }
}

/// The version comes first: files of another version may mean other things, and their checksums too.
fn check_version(text: &[u8]) -> Result<()> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| damaged(format!("it is damaged: {e}")))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(v) if v == u64::from(CHECKPOINT_FORMAT) => Ok(()),
        Some(v) => Err(damaged(format!(
            "the checkpoint has format version {v}, this library reads {CHECKPOINT_FORMAT}; resume with the version that wrote it"
        ))),
        None => Err(damaged("it has no format version, so no checkpoint of ours".to_string())),
    }
}

/// What XXH128SUMS says.
struct Sums(Vec<(String, String)>);

fn read_sums(folder: &Path) -> Result<Sums> {
    let path = folder.join(SUMS);
    let (text, _) = read_file(&path)?;
    let text = String::from_utf8_lossy(&text);
    let line = |line: &str| line.split_once("  ").map(|(sum, name)| (name.to_string(), sum.to_string()));
    Ok(Sums(text.lines().filter_map(line).collect()))
}

impl Sums {
    fn check(&self, folder: &Path, name: &str, sum: u128) -> Result<()> {
        let path = folder.join(name);
        match self.0.iter().find(|(n, _)| n == name) {
            Some((_, want)) if *want == hex(sum) => Ok(()),
            Some((_, want)) => Err(damaged(format!(
                "{}: its checksum is {}, {SUMS} says {want}: the file was cut short or changed; use another checkpoint",
                path.display(),
                hex(sum)
            ))),
            None => {
                let sums = folder.join(SUMS);
                Err(damaged(format!("{}: it has no line for {name}; use another checkpoint", sums.display())))
            }
        }
    }
}

/// ".NAME.PID.part" beside `folder`.
pub fn temporary(folder: &Path, ending: &str) -> Result<PathBuf> {
    let Some(name) = folder.file_name() else {
        return Err(Error::new(ErrorKind::Io, format!("cannot write {}: it names no folder", folder.display())));
    };
    Ok(folder_of(folder).join(format!(".{}.{}.{ending}", name.to_string_lossy(), std::process::id())))
}
