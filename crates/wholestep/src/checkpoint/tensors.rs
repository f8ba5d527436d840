//! Snapshots as `.safetensors` files. Takes the slots of one part, streams them to disk with their checksum, and reads them back. Never
//! holds a second copy of all bytes, and never trusts a header.

use super::{KEY, check_header, damaged};
use crate::step::{Part, Snapshot};
use crate::{Error, ErrorKind, Result};
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::json;
use std::borrow::Cow;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use wholestep_compiler::ir::DType;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Bytes that are summed and written before the next: few enough to stay in the processor's cache between the two.
const PIECE: usize = 1 << 20;

/// The text of a header that names the optimizer whose state a file holds.
const RULE: &str = "optimizer";

/// Writes the slots of `part` to `path`, makes them safe on disk and gives their checksum. `meta` goes into the header.
pub fn write(path: &Path, snapshot: &Snapshot, part: Part, meta: &str) -> Result<u128> {
    let header = header(snapshot, part, meta)?;
    let failed = |e| Error::io("write", path, e);
    let mut file = std::fs::File::create(path).map_err(failed)?;
    let mut sum = Xxh3::new();
    let slots = snapshot.slots().iter().filter(|s| s.part == part);
    for bytes in std::iter::once(Cow::Owned(header)).chain(slots.map(|s| snapshot.bytes(s))) {
        for piece in bytes.chunks(PIECE) {
            sum.update(piece);
            file.write_all(piece).map_err(failed)?;
        }
    }
    file.sync_all().map_err(failed)?;
    Ok(sum.digest128())
}

/// Length and JSON of a file's header, as <https://huggingface.co/docs/safetensors> lays down.
fn header(snapshot: &Snapshot, part: Part, meta: &str) -> Result<Vec<u8>> {
    let mut tensors = serde_json::Map::new();
    let mut texts = json!({ KEY: meta });
    if let Some(rule) = snapshot.rule().filter(|_| part == Part::State) {
        texts[RULE] = rule.into();
    }
    tensors.insert("__metadata__".to_string(), texts);
    let mut end = 0;
    for slot in snapshot.slots().iter().filter(|s| s.part == part) {
        let start = end;
        end += slot.shape.iter().product::<usize>() * slot.dtype.size_bytes();
        let entry = json!({ "dtype": file_dtype(slot.dtype), "shape": slot.shape, "data_offsets": [start, end] });
        if tensors.insert(slot.name.clone(), entry).is_some() {
            return Err(damaged(format!("two slots are called {} in files; rename one of them", slot.name)));
        }
    }
    let mut text = serde_json::Value::Object(tensors).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}

/// A tensor of a file: name, type, shape and where its bytes lie.
pub type Found = (String, DType, Vec<usize>, Range<usize>);

/// The tensors in the bytes of a file, and the optimizer where it names one.
/// Errors (`ErrorKind::Checkpoint`): the file is damaged; a dtype that no slot has.
pub fn read(bytes: &[u8]) -> Result<(Vec<Found>, Option<String>)> {
    check_header(bytes)?;
    let broken = |e: safetensors::SafeTensorError| damaged(format!("not a whole .safetensors file: {e}"));
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let rule = header.metadata().as_ref().and_then(|texts| texts.get(RULE).cloned());
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        let dtype = slot_dtype(view.dtype()).ok_or_else(|| {
            damaged(format!("{name} holds {:?} values, which this library does not read", view.dtype()))
        })?;
        // The view borrows from `bytes`, so the difference of addresses is its place.
        let start = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        tensors.push((name.to_string(), dtype, view.shape().to_vec(), start..start + view.data().len()));
    }
    tensors.sort_by_key(|t| t.3.start);
    Ok((tensors, rule))
}

fn file_dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::U32 => "U32",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
    }
}

/// The format's own enum is open; what no slot can have is an error by name.
fn slot_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I64 => Some(DType::I64),
        Dtype::I32 => Some(DType::I32),
        Dtype::U32 => Some(DType::U32),
        Dtype::U8 => Some(DType::U8),
        Dtype::BOOL => Some(DType::Bool),
        _ => None,
    }
}

/// A file with its checksum. Errors: it is missing or cannot be read.
pub fn read_file(path: &Path) -> Result<(Vec<u8>, u128)> {
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            ErrorKind::Checkpoint,
            format!("{} is missing: the checkpoint is not whole; use another one", path.display()),
        ),
        _ => Error::io("read", path, e),
    })?;
    let sum = sum(&bytes);
    Ok((bytes, sum))
}

/// XXH128: it finds damage as surely as a cryptographic sum and runs at the speed of memory, where SHA-256 took longer than the disk.
pub fn sum(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// As `xxh128sum` prints it.
pub fn hex(sum: u128) -> String {
    format!("{sum:032x}")
}
