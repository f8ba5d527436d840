//! IDX files, the format of MNIST: plain or gzipped. Takes a path or bytes, gives one array. Never trusts a header
//! beyond the bytes that follow it, and never accepts a file that is longer than it says.

use std::io::Read;
use std::path::Path;

use super::array::{Array, checked_elems};
use super::bytes::{data_error, expect_end, numbers, open, read_exactly};
use crate::Result;

/// Reads an IDX file; gzip is recognized by its first bytes.
///
/// u8, i32, f32 and f64 keep their type; i8 and i16 become i32, which holds them exactly. Errors: the file is missing,
/// not IDX, truncated, longer than its header says, or damaged gzip.
pub fn read(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    parse(&mut open(path)?).map_err(|e| e.context(path.display()))
}

/// The array in `bytes` of an IDX file that is not compressed. Errors: as [`read`].
pub fn from_bytes(bytes: &[u8]) -> Result<Array> {
    parse(&mut &bytes[..])
}

fn parse(reader: &mut impl Read) -> Result<Array> {
    let magic = read_exactly(reader, 4, "IDX header")?;
    let size_bytes = match (magic[0], magic[1], magic[2]) {
        (0, 0, 0x08 | 0x09) => 1,
        (0, 0, 0x0b) => 2,
        (0, 0, 0x0c | 0x0d) => 4,
        (0, 0, 0x0e) => 8,
        (_, _, _) => {
            return Err(data_error(format!(
                "not an IDX file: expected bytes 00 00, a type of 08 09 0b 0c 0d 0e and a number of axes, \
                 {:02x} {:02x} {:02x} {:02x} came",
                magic[0], magic[1], magic[2], magic[3]
            )));
        }
    };
    let extents = read_exactly(reader, 4 * usize::from(magic[3]), "IDX header")?;
    let shape: Vec<usize> = numbers(&extents, true, |b| u32::from_le_bytes(b) as usize);
    let n_bytes = checked_elems(&shape).and_then(|n| n.checked_mul(size_bytes)).ok_or_else(|| {
        data_error(format!("IDX header: shape {shape:?} is larger than any memory; the header is damaged"))
    })?;
    let what = format!("IDX values of shape {shape:?}");
    let values = read_exactly(reader, n_bytes, &what)?;
    expect_end(reader, n_bytes, &what)?;
    match magic[2] {
        0x08 => Array::new(values, shape),
        0x09 => Array::new(values.iter().map(|&b| i32::from(b as i8)).collect(), shape),
        0x0b => Array::new(numbers(&values, true, |b| i32::from(i16::from_le_bytes(b))), shape),
        0x0c => Array::new(numbers(&values, true, i32::from_le_bytes), shape),
        0x0d => Array::new(numbers(&values, true, f32::from_le_bytes), shape),
        0x0e => Array::new(numbers(&values, true, f64::from_le_bytes), shape),
        other => panic!("bug: IDX type {other:#x} is in the table and not in the match"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::default());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    /// A file of this code: two axes [2, 1], then `values`.
    fn file(code: u8, values: &[u8]) -> Vec<u8> {
        [&[0, 0, code, 2, 0, 0, 0, 2, 0, 0, 0, 1], values].concat()
    }

    #[test]
    fn every_type() {
        let read = |code, values: &[u8]| from_bytes(&file(code, values)).unwrap();
        assert_eq!(read(0x08, &[1, 255]), Array::new(vec![1u8, 255], [2, 1]).unwrap());
        assert_eq!(read(0x09, &[1, 255]), Array::new(vec![1i32, -1], [2, 1]).unwrap());
        assert_eq!(read(0x0b, &[1, 0, 255, 254]), Array::new(vec![256i32, -2], [2, 1]).unwrap());
        assert_eq!(read(0x0c, &[0, 0, 1, 0, 255, 255, 255, 253]), Array::new(vec![256i32, -3], [2, 1]).unwrap());
        // IEEE 754: 1.5 is 3fc00000 and -2 is c0000000; in 64 bits 3ff8… and c000….
        assert_eq!(read(0x0d, &[0x3f, 0xc0, 0, 0, 0xc0, 0, 0, 0]), Array::new(vec![1.5f32, -2.0], [2, 1]).unwrap());
        let wide = [[0x3f, 0xf8, 0, 0, 0, 0, 0, 0], [0xc0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(read(0x0e, &wide), Array::new(vec![1.5f64, -2.0], [2, 1]).unwrap());
    }

    #[test]
    fn files_plain_gzipped_and_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-idx2-ubyte.gz");
        let plain = file(0x08, &[7, 9]);
        let packed = gz(&plain);
        let want = Array::new(vec![7u8, 9], [2, 1]).unwrap();
        for bytes in [&plain, &packed] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap(), want);
        }
        let text_of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let e = read(&path).unwrap_err();
            assert_eq!(e.kind(), crate::ErrorKind::Data);
            e.to_string().replace(&path.display().to_string(), "FILE")
        };
        let damaged = text_of(&packed[..packed.len() - 9]);
        assert!(damaged.starts_with("FILE: the compressed data are damaged ("), "{damaged}");
        let mut flipped = packed.clone();
        let at = flipped.len() - 6;
        flipped[at] ^= 1;
        assert!(text_of(&flipped).contains("damaged"));
        assert_eq!(
            text_of(&gz(&plain[..13])),
            "FILE: IDX values of shape [2, 1]: expected 2 bytes, only 1 came; the file is truncated, fetch or make it again"
        );
        let missing = read(dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), crate::ErrorKind::Io);
        assert!(missing.to_string().starts_with("cannot read "), "{missing}");
    }

    #[test]
    fn bad_headers() {
        let text_of = |bytes: &[u8]| from_bytes(bytes).unwrap_err().to_string();
        assert_eq!(
            text_of(b""),
            "IDX header: expected 4 bytes, only 0 came; the file is truncated, fetch or make it again"
        );
        assert_eq!(
            text_of(b"\x89PNG"),
            "not an IDX file: expected bytes 00 00, a type of 08 09 0b 0c 0d 0e and a number of axes, 89 50 4e 47 came"
        );
        // Four billion squared bytes are declared, none follow: this must fail at once and without the memory.
        let huge = [&[0, 0, 8, 2][..], &[255; 8]].concat();
        assert_eq!(
            text_of(&huge),
            "IDX values of shape [4294967295, 4294967295]: expected 18446744065119617025 bytes, only 0 came; \
             the file is truncated, fetch or make it again"
        );
        let beyond = [&[0, 0, 0x0e, 3][..], &[255; 12]].concat();
        assert_eq!(
            text_of(&beyond),
            "IDX header: shape [4294967295, 4294967295, 4294967295] is larger than any memory; the header is damaged"
        );
        assert_eq!(
            text_of(&file(0x08, &[1, 2, 3])),
            "IDX values of shape [2, 1]: expected the end after 2 bytes, more came; the header and the data disagree, fetch or make the file \
             again"
        );
    }
}
