//! Bounded reading of bytes that may lie about their size. Takes a reader or a path, gives bytes and numbers. Never
//! allocates much more than has really arrived, whatever a header declares.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::{Error, ErrorKind, Result};

/// What is allocated at once on the word of a header; beyond it memory grows with the data.
const TRUSTED_BYTES: usize = 1 << 20;

pub(super) fn data_error(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Data, text)
}

/// Opens `path`, unpacking it on the way when its first bytes are those of gzip.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>> {
    let failed = |e| Error::io("read", path, e);
    let mut magic = [0; 2];
    let mut file = File::open(path).map_err(failed)?;
    let n = read_up_to(&mut file, &mut magic).map_err(failed)?;
    // Chaining the two bytes back instead of seeking lets pipes through as well.
    let whole = std::io::Cursor::new(magic).take(n as u64).chain(file);
    if magic == [0x1f, 0x8b] && n == 2 {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(whole)))));
    }
    Ok(Box::new(BufReader::new(whole)))
}

/// Fills as much of `out` as the reader has, and says how much.
pub(super) fn read_up_to(reader: &mut impl Read, out: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < out.len() {
        match reader.read(&mut out[n..]) {
            Ok(0) => break,
            Ok(k) => n += k,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// A failure while reading: damaged compression is bad data, the rest is the disk's fault.
pub(super) fn read_error(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            data_error(format!("the compressed data are damaged ({e}); fetch or make the file again"))
        }
        _ => Error::new(ErrorKind::Io, format!("cannot read: {e}")),
    }
}

/// Exactly `n` bytes of `what`. Errors: the data end before; the text says how many came.
pub(super) fn read_exactly(reader: &mut impl Read, n: usize, what: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(n.min(TRUSTED_BYTES));
    reader.take(n as u64).read_to_end(&mut out).map_err(read_error)?;
    if out.len() < n {
        return Err(data_error(format!(
            "{what}: expected {n} bytes, only {} came; the file is truncated, fetch or make it again",
            out.len()
        )));
    }
    Ok(out)
}

/// Errors when anything follows the `n_read` bytes of `what`.
pub(super) fn expect_end(reader: &mut impl Read, n_read: usize, what: &str) -> Result<()> {
    let mut one = [0];
    if read_up_to(reader, &mut one).map_err(read_error)? == 0 {
        return Ok(());
    }
    Err(data_error(format!(
        "{what}: expected the end after {n_read} bytes, more came; the header and the data disagree, fetch or make the file again"
    )))
}

/// Splits bytes into numbers of `N` bytes, turned to little endian first when they are big.
pub(super) fn numbers<const N: usize, T>(bytes: &[u8], big_endian: bool, make: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    let turn = |mut b: [u8; N]| {
        if big_endian {
            b.reverse();
        }
        b
    };
    chunks.iter().map(|&b| make(turn(b))).collect()
}
