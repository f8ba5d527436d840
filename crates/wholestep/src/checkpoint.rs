//! Weights on disk as `.safetensors`, and whole checkpoints as folders. Takes what a step or a program has learned, gives a file that any
//! reader of the format opens, and back. Never loads a part without being asked: either every tensor fits or nothing changes, and a file is
//! whole or not there.
//!
//! Tensors carry the slots' names with `.` for `/` (PyTorch's keys), in the shapes that the model declares. What else a model needs lies as
//! JSON in the file's metadata under "wholestep".

mod folder;
mod keep;
mod partial;
mod tensors;
mod writer;

pub use folder::{CHECKPOINT_FORMAT, Checkpoint, Record, save, write};
pub(crate) use keep::{Home, list};
pub use keep::{Keep, latest};
pub use partial::Fitted;
pub(crate) use writer::{Job, Writer};

use crate::data::array::Array;
use crate::data::{ArrayType, Standardize};
use crate::spec::Model;
use crate::step::Loaded;
use crate::train::Loss;
use crate::{Error, ErrorKind, Infer, Result, Step};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use wholestep_compiler::ir::SlotKind;

/// The version of the metadata that this library writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// No header may be longer: it holds a line per tensor and the model's description.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// The key of the metadata.
const KEY: &str = "wholestep";

/// What a model needs besides its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// [`FORMAT`].
    pub format: u32,
    /// The model's description; absent where it is code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// What it was trained to minimize, which says what its outputs mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Names of classes 0, 1, 2 ….
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Names of the input's features, in their order; a table for prediction must have the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_names: Vec<String>,
    /// What was done to columns of the data: `(value - mean) / std`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scalings: Vec<Scaling>,
    /// The epoch after which the weights were saved, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// The configuration of the run, as TOML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Words of each column of a table that held words, in the order of their indices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vocabularies: Vec<(String, Vec<String>)>,
}

impl Meta {
    fn versioned(&self) -> Meta {
        Meta { format: FORMAT, ..self.clone() }
    }
}

/// [`Standardize`] as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// The column of the data set that was changed.
    pub column: String,
    /// One number per feature (axis 1), taken over the training part.
    pub mean: Vec<f64>,
    /// One number per feature, never 0.
    pub std: Vec<f64>,
}

impl From<Standardize> for Scaling {
    fn from(s: Standardize) -> Scaling {
        Scaling { column: s.column, mean: s.mean, std: s.std }
    }
}

impl From<Scaling> for Standardize {
    fn from(s: Scaling) -> Standardize {
        Standardize { column: s.column, mean: s.mean, std: s.std }
    }
}

/// Parameters and running statistics by the names they have in files.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    tensors: Vec<(String, Array)>,
}

impl Weights {
    /// What `step` has learned by now: the average of a parameter where one is kept. Waits for it.
    pub fn of(step: &mut Step) -> Result<Weights> {
        let averages = step.averages()?;
        let names: Vec<String> = learned(step.loaded()).map(|(name, ..)| name.to_string()).collect();
        let tensor = |name: String| Ok((dotted(&name), step.read(averages.get(&name).unwrap_or(&name))?));
        Ok(Weights { tensors: names.into_iter().map(tensor).collect::<Result<_>>()? })
    }

    /// What `program` holds.
    pub fn of_infer(program: &mut Infer) -> Result<Weights> {
        Weights::read_slots(program.loaded())
    }

    fn read_slots(loaded: &mut Loaded) -> Result<Weights> {
        let names: Vec<String> = learned(loaded).map(|(name, ..)| name.to_string()).collect();
        let tensor = |name: String| Ok((dotted(&name), loaded.read(&name)?));
        Ok(Weights { tensors: names.into_iter().map(tensor).collect::<Result<_>>()? })
    }

    /// Of tensors by name, written with `.` or with `/`.
    /// Errors (`ErrorKind::Checkpoint`): a name that came twice.
    pub fn from_tensors<N: Into<String>>(tensors: impl IntoIterator<Item = (N, Array)>) -> Result<Weights> {
        let tensors: Vec<(String, Array)> = tensors.into_iter().map(|(n, value)| (dotted(&n.into()), value)).collect();
        let mut names = BTreeSet::new();
        match tensors.iter().find(|(name, _)| !names.insert(name)) {
            Some((name, _)) => Err(damaged(format!("two tensors are called {name}; give each a name of its own"))),
            None => Ok(Weights { tensors }),
        }
    }

    /// The same values by the names that `rename` gives them, without those to which it gives none: weights of a model whose parts are called
    /// otherwise.
    ///
    /// ```
    /// # use wholestep::{Array, checkpoint::Weights};
    /// // As `DataParallel` saves them, and a layer that is called otherwise here.
    /// let theirs = Weights::from_tensors(["module.0.weight", "module.fc.weight"].map(|n| (n, Array::scalar(1.0_f32))))?;
    /// let ours = theirs.renamed(|name| Some(name.strip_prefix("module.")?.replace("fc.", "head.")))?;
    /// assert!(ours.tensors().map(|(name, _)| name).eq(["0.weight", "head.weight"]));
    /// # Ok::<(), wholestep::Error>(())
    /// ```
    /// Errors (`ErrorKind::Checkpoint`): two that get one name, with what they were called.
    pub fn renamed(self, mut rename: impl FnMut(&str) -> Option<String>) -> Result<Weights> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut tensors = Vec::new();
        for (old, value) in self.tensors {
            let Some(new) = rename(&old).map(|name| dotted(&name)) else { continue };
            if let Some(first) = names.insert(new.clone(), old.clone()) {
                return Err(damaged(format!("{first} and {old} both become {new}; rename them apart")));
            }
            tensors.push((new, value));
        }
        Ok(Weights { tensors })
    }

    /// Names and values, in the order in which the model declares them; of a file, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.tensors.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Overwrites what `step` has learned, and the averages of parameters where they are kept. PyTorch's `num_batches_tracked` is left out
    /// where the layer counts no batches.
    ///
    /// Errors (`ErrorKind::Checkpoint`): every tensor that is missing, extra or of another shape or dtype; nothing is written then.
    pub fn load_into(&self, step: &mut Step) -> Result<()> {
        let values = self.fitting(step.loaded())?;
        overwrite(step, &values)
    }

    /// As [`Weights::load_into`], for a program that does not learn.
    pub fn load_into_infer(&self, program: &mut Infer) -> Result<()> {
        let values = self.fitting(program.loaded())?;
        values.iter().try_for_each(|(name, value)| program.write(name, value))
    }

    /// A value for each slot of `loaded` that is saved, and every one of these weights for a slot.
    fn fitting(&self, loaded: &Loaded) -> Result<Vec<(String, Array)>> {
        let mut faults = Vec::new();
        let mut values = Vec::new();
        let mut n_missing = 0;
        for (name, shape, dtype) in learned(loaded) {
            match self.tensors.iter().find(|(n, _)| *n == dotted(name)).map(|(n, value)| (n, counted(n, value))) {
                None => {
                    faults.push(format!("{} {shape:?} is missing", dotted(name)));
                    n_missing += 1;
                }
                Some((n, value)) if value.shape() != shape || value.dtype().to_string() != dtype => {
                    let (got, got_type) = (value.shape(), value.dtype());
                    faults.push(format!("{n}: expected {shape:?} {dtype}, got {got:?} {got_type}"));
                }
                Some((_, value)) => values.push((name.to_string(), value)),
            }
        }
        let n_known = faults.len();
        for (name, value) in &self.tensors {
            if !is_counter(name) && !learned(loaded).any(|(slot, ..)| dotted(slot) == *name) {
                faults.push(format!("{name} {:?} belongs to no part of the model", value.shape()));
            }
        }
        if !faults.is_empty() {
            let n = faults.len();
            let list: Vec<String> = faults.iter().map(|f| format!("\n  {f}")).collect();
            let are_renamed = n_missing > 0 && n > n_known;
            let help = if are_renamed { "\nWeights::renamed gives tensors the names of the model" } else { "" };
            return Err(damaged(format!(
                "the weights do not fit the model, {n} of its tensors differ:{}{help}",
                list.concat()
            )));
        }
        Ok(values)
    }

    /// The bytes of a file with these weights and `meta`. Same weights, same bytes.
    pub fn to_bytes(&self, meta: &Meta) -> Result<Vec<u8>> {
        let text = serde_json::to_string(&meta.versioned())
            .map_err(|e| damaged(format!("the metadata does not fit JSON: {e}")))?;
        let views = self.tensors.iter().map(|(name, value)| {
            let dtype = file_dtype(value.dtype());
            let bytes = crate::step::array_bytes(value);
            let view = TensorView::new(dtype, value.shape().to_vec(), bytes);
            Ok((name.as_str(), view.map_err(|e| damaged(format!("{name}: {e}")))?))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        // One key only: a map of several would be written in any order.
        let meta = HashMap::from([(KEY.to_string(), text)]);
        safetensors::serialize(views, Some(meta)).map_err(|e| damaged(format!("cannot serialize weights: {e}")))
    }

    /// Writes `path` at once: a reader sees the old file or the new one, whatever happens meanwhile.
    /// Errors: the folder cannot be written to, the disk is full; the old file is then as it was.
    pub fn save(&self, path: impl AsRef<Path>, meta: &Meta) -> Result<()> {
        write_atomically(path.as_ref(), &self.to_bytes(meta)?)
    }

    /// Weights and metadata of the file at `path`; a file without our metadata gives an empty [`Meta`] of format 0. Floats of 16 bits come as f32,
    /// of the same value.
    ///
    /// Errors: `ErrorKind::Io` if it cannot be read; `ErrorKind::Checkpoint` if it is damaged, of another format version, or holds a
    /// dtype that this library does not read; the text says which.
    pub fn open(path: impl AsRef<Path>) -> Result<(Weights, Meta)> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Weights::from_bytes(&bytes).map_err(|e| e.context(path.display()))
    }

    /// [`Weights::open`] on the bytes of a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Weights, Meta)> {
        check_header(bytes)?;
        let broken = |e: &dyn std::fmt::Display| damaged(format!("not a whole .safetensors file: {e}"));
        let file = SafeTensors::deserialize(bytes).map_err(|e| broken(&e))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| broken(&e))?;
        let meta = match header.metadata().as_ref().and_then(|m| m.get(KEY)) {
            Some(text) => read_meta(text)?,
            None => Meta::default(),
        };
        // Not by place in the file: empty tensors share one.
        let mut names = header.offset_keys();
        names.sort();
        let read = |name: String| {
            let view = file.tensor(&name).map_err(|e| broken(&e))?;
            let value = array(&name, &view)?;
            Ok((name, value))
        };
        Ok((Weights { tensors: names.into_iter().map(read).collect::<Result<_>>()? }, meta))
    }
}

/// Name, shape and dtype of each slot that is saved.
fn learned(loaded: &Loaded) -> impl Iterator<Item = (&str, Vec<usize>, &'static str)> {
    let kept = |kind: SlotKind| matches!(kind, SlotKind::Param { .. } | SlotKind::Buffer);
    loaded.slots().iter().filter(move |s| kept(s.kind)).map(|s| (s.name.as_str(), s.shape.at(0), s.dtype.name()))
}

/// Whether a name is that of the batches that a norm has seen. PyTorch counts them always; here only cumulative averages do.
fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

/// PyTorch counts batches in i64, a slot in f32, which holds all that are likely. Every other value stays as it is.
fn counted(name: &str, value: &Array) -> Array {
    let count = if is_counter(name) { value.cast::<f32>().ok() } else { None };
    count.unwrap_or_else(|| value.clone())
}

/// Gives slots of `step` values, and averages of parameters the same ones: what was loaded is evaluated at once.
fn overwrite(step: &mut Step, values: &[(String, Array)]) -> Result<()> {
    let averages = step.averages()?;
    values.iter().try_for_each(|(name, value)| {
        step.write(name, value)?;
        averages.get(name).map_or(Ok(()), |average| step.write(average, value))
    })
}

fn dotted(name: &str) -> String {
    name.replace('/', ".")
}

fn damaged(message: String) -> Error {
    Error::new(ErrorKind::Checkpoint, message)
}

/// The header's length is the first thing in the file and the first that damage makes absurd.
fn check_header(bytes: &[u8]) -> Result<()> {
    let Some(first) = bytes.first_chunk::<8>() else {
        let n = bytes.len();
        return Err(damaged(format!("not a whole .safetensors file: expected at least 8 bytes, got {n}")));
    };
    let (header, has) = (u64::from_le_bytes(*first), bytes.len() as u64 - 8);
    if header > MAX_HEADER_BYTES {
        return Err(damaged(format!(
            "not a .safetensors file: its header would be {header} bytes long, at most {MAX_HEADER_BYTES} are sensible"
        )));
    }
    if header > has {
        return Err(damaged(format!("the file is cut short: its header is {header} bytes long, {has} bytes follow")));
    }
    Ok(())
}

fn read_meta(text: &str) -> Result<Meta> {
    let broken = |e: serde_json::Error| damaged(format!("the metadata is damaged: {e}"));
    // The version comes first: the fields of another version may mean other things.
    let value: serde_json::Value = serde_json::from_str(text).map_err(broken)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(v) if v == u64::from(FORMAT) => serde_json::from_value(value).map_err(broken),
        Some(v) => Err(damaged(format!("the metadata has format version {v}, this library reads {FORMAT}"))),
        None => Err(damaged("the metadata has no format version".to_string())),
    }
}

fn file_dtype(dtype: ArrayType) -> Dtype {
    match dtype {
        ArrayType::F32 => Dtype::F32,
        ArrayType::F64 => Dtype::F64,
        ArrayType::I64 => Dtype::I64,
        ArrayType::I32 => Dtype::I32,
        ArrayType::U32 => Dtype::U32,
        ArrayType::U8 => Dtype::U8,
        ArrayType::Bool => Dtype::BOOL,
    }
}

fn array(name: &str, view: &TensorView) -> Result<Array> {
    use half::{bf16, f16};
    use wholestep_compiler::ir::DType;
    let widened = |widen: fn([u8; 2]) -> f32| {
        let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| widen(*bytes)).collect();
        Array::new(values, view.shape().to_vec()).map_err(|e| e.context(name))
    };
    // The format's own enum is open; what we cannot hold is an error by name.
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        Dtype::F16 => return widened(|bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => return widened(|bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => {
            return Err(damaged(format!(
                "{name} holds {other:?} values, which this library does not read; write the file without it or as f32 (PyTorch: \
                 tensor.float())"
            )));
        }
    };
    crate::step::array_from_bytes(dtype, view.shape().to_vec(), view.data()).map_err(|e| e.context(name))
}

/// Writes a whole file beside `path`, makes it safe on disk, and gives it the name: killed at any moment, `path` is the old file or the new.
///
/// Errors: the folder is missing or cannot be written to, the disk is full. `path` is then untouched and nothing is left behind.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    put(path, bytes, true)?;
    sync_folder(folder_of(path));
    Ok(())
}

/// [`write_atomically`] that waits for no disk: safe from all that may happen to the process, and from a power cut once [`sync`] or a checkpoint of
/// a run that has `path` among [`Checkpoints::beside`](crate::train::Checkpoints) followed.
///
/// Errors: as [`write_atomically`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    put(path, bytes, false)
}

/// Makes files safe on disk; those that are missing are left out.
/// Errors: the disk is full or failed.
pub fn sync<P: AsRef<Path>>(files: &[P]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for path in files.iter().map(AsRef::as_ref) {
        match std::fs::File::open(path).and_then(|file| file.sync_all()) {
            Ok(()) => folders.insert(folder_of(path)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io("write", path, e)),
        };
    }
    folders.into_iter().for_each(sync_folder);
    Ok(())
}

/// Where a file lies.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn put(path: &Path, bytes: &[u8], through: bool) -> Result<()> {
    let folder = folder_of(path);
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::Io, format!("cannot write {}: it names no file", path.display())));
    };
    let temporary = folder.join(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let write = if through { write_through(&temporary, bytes) } else { std::fs::write(&temporary, bytes) };
    let written = write.and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = written {
        // What is left of a failed attempt only takes space; that it cannot be removed changes nothing.
        let _ = std::fs::remove_file(&temporary);
        return Err(Error::io("write", path, e));
    }
    Ok(())
}

/// Names must survive a power cut too; where folders cannot be synced there is nothing more to do.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
