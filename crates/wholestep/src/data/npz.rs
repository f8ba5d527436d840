//! NumPy's `.npz` files: a zip archive of `.npy` files. Takes a path or bytes, gives named arrays in the order of the
//! archive. Never unpacks more of an entry than its `.npy` header says, and never writes to the disk.

use std::io::{Cursor, Read, Seek};
use std::path::Path;

use zip::ZipArchive;

use super::array::Array;
use super::bytes::data_error;
use super::dataset::Dataset;
use super::npy;
use crate::{Error, Result};

/// Reads a `.npz` file of `numpy.savez` or `numpy.savez_compressed`: names (without `.npy`) and arrays.
///
/// Types are those of [`npy::read`]. Errors name the entry: no zip archive, damaged (each entry has a checksum),
/// encrypted, an entry that is not `.npy`, and all errors of `npy::read`.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<(String, Array)>> {
    let path = path.as_ref();
    let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    parse(std::io::BufReader::new(file)).map_err(|e| e.context(path.display()))
}

/// The arrays in the `bytes` of a `.npz` file. Errors: as [`read`].
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<(String, Array)>> {
    parse(Cursor::new(bytes))
}

/// A data set whose columns are the arrays of a `.npz` file. Errors: those of [`read`] and [`Dataset::new`].
pub fn dataset(path: impl AsRef<Path>) -> Result<Dataset> {
    let path = path.as_ref();
    Dataset::new(read(path)?).map_err(|e| e.context(path.display()))
}

fn parse(reader: impl Read + Seek) -> Result<Vec<(String, Array)>> {
    let mut archive = ZipArchive::new(reader)
        .map_err(|e| data_error(format!("not a .npz file: expected a zip archive, {}", zip_text(&e))))?;
    let mut arrays = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive
            .by_index(i)
            .map_err(|e| data_error(format!("entry {i} of the archive cannot be read, {}", zip_text(&e))))?;
        let name = match entry.name() {
            Ok(name) => name.into_owned(),
            Err(e) => return Err(data_error(format!("entry {i} of the archive has no name, {}", zip_text(&e)))),
        };
        let Some(array_name) = name.strip_suffix(".npy") else {
            return Err(data_error(format!("expected entries called NAME.npy, {name:?} came; save with numpy.savez")));
        };
        let array = npy::parse(&mut entry).map_err(|e| e.context(format!("entry {name:?}")))?;
        arrays.push((array_name.to_string(), array));
    }
    Ok(arrays)
}

fn zip_text(e: &zip::result::ZipError) -> String {
    format!("but came: {e}; fetch or make the file again")
}
