//! NumPy's `.npy` files. Takes a path or bytes, gives one row-major array, and writes the same bytes as `numpy.save`.
//! Never runs pickled objects, and never trusts a header beyond the bytes that follow it.

mod header;

use std::io::{Read, Write};
use std::path::Path;

use half::f16;

use super::array::{Array, ArrayType, Values, checked_elems};
use super::bytes::{data_error, expect_end, numbers, open, read_exactly};
use crate::{Error, Result};
use header::{Header, Kind};

/// Reads a `.npy` file, plain or gzipped: versions 1 to 3, either byte order, C or Fortran order.
///
/// f4, f8, i4, i8, u1 and bool keep their type. f2 becomes f32; i1, i2 and u2 become i32; u4 becomes u32; u8 becomes
/// i64. Errors: the file is missing, not `.npy`, truncated or longer than it says; it holds text, objects, complex
/// numbers or records; a u8 value is beyond i64.
pub fn read(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    parse(&mut open(path)?).map_err(|e| e.context(path.display()))
}

/// The array in the `bytes` of a `.npy` file. Errors: as [`read`].
pub fn from_bytes(bytes: &[u8]) -> Result<Array> {
    parse(&mut &bytes[..])
}

/// Writes `array` as a version 1 `.npy` file that `numpy.load` reads. Errors: the file cannot be written.
pub fn write(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    let path = path.as_ref();
    let save = || {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        file.write_all(&to_bytes(array))?;
        file.flush()
    };
    save().map_err(|e| Error::io("write", path, e))
}

/// The bytes of the `.npy` file of `array`.
pub fn to_bytes(array: &Array) -> Vec<u8> {
    let descr = match array.dtype() {
        ArrayType::F32 => "<f4",
        ArrayType::F64 => "<f8",
        ArrayType::I64 => "<i8",
        ArrayType::I32 => "<i4",
        ArrayType::U32 => "<u4",
        ArrayType::U8 => "|u1",
        ArrayType::Bool => "|b1",
    };
    let mut out = header::text(descr, array.shape());
    match &array.values {
        Values::F32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Values::F64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Values::I64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Values::I32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Values::U32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Values::U8(v) => out.extend_from_slice(v),
        Values::Bool(v) => out.extend(v.iter().map(|&x| u8::from(x))),
    }
    out
}

pub(super) fn parse(reader: &mut impl Read) -> Result<Array> {
    let header = header::read(reader)?;
    let Header { kind, big_endian, fortran_order, shape } = header;
    let n_bytes = checked_elems(&shape).and_then(|n| n.checked_mul(kind.size_bytes())).ok_or_else(|| {
        data_error(format!("npy header: shape {shape:?} is larger than any memory; the header is damaged"))
    })?;
    let what = format!("npy values of shape {shape:?}");
    let bytes = read_exactly(reader, n_bytes, &what)?;
    expect_end(reader, n_bytes, &what)?;
    let stored_shape = if fortran_order { shape.iter().rev().copied().collect() } else { shape };
    let array = decode(kind, &bytes, big_endian, stored_shape)?;
    Ok(if fortran_order { reversed_axes(&array) } else { array })
}

fn decode(kind: Kind, bytes: &[u8], big: bool, shape: Vec<usize>) -> Result<Array> {
    match kind {
        Kind::F2 => Array::new(numbers(bytes, big, |b| f16::from_le_bytes(b).to_f32()), shape),
        Kind::F4 => Array::new(numbers(bytes, big, f32::from_le_bytes), shape),
        Kind::F8 => Array::new(numbers(bytes, big, f64::from_le_bytes), shape),
        Kind::I1 => Array::new(bytes.iter().map(|&b| i32::from(b as i8)).collect(), shape),
        Kind::I2 => Array::new(numbers(bytes, big, |b| i32::from(i16::from_le_bytes(b))), shape),
        Kind::I4 => Array::new(numbers(bytes, big, i32::from_le_bytes), shape),
        Kind::I8 => Array::new(numbers(bytes, big, i64::from_le_bytes), shape),
        Kind::U1 => Array::new(bytes.to_vec(), shape),
        Kind::U2 => Array::new(numbers(bytes, big, |b| i32::from(u16::from_le_bytes(b))), shape),
        Kind::U4 => Array::new(numbers(bytes, big, u32::from_le_bytes), shape),
        Kind::U8 => {
            let wide = numbers(bytes, big, u64::from_le_bytes);
            if let Some(at) = wide.iter().position(|&x| i64::try_from(x).is_err()) {
                return Err(data_error(format!(
                    "npy values: element {at} is {}, which i64 cannot hold; save the array as int64",
                    wide[at]
                )));
            }
            Array::new(wide.iter().map(|&x| x as i64).collect(), shape)
        }
        Kind::Bool => match bytes.iter().position(|&b| b > 1) {
            Some(at) => {
                Err(data_error(format!("npy values: element {at} is {}, expected a bool of 0 or 1", bytes[at])))
            }
            None => Array::new(bytes.iter().map(|&b| b == 1).collect(), shape),
        },
    }
}

/// The array with its axes in reverse order: Fortran order read as C order has them backwards.
fn reversed_axes(array: &Array) -> Array {
    let from_shape = array.shape();
    let shape: Vec<usize> = from_shape.iter().rev().copied().collect();
    // Elements to step in the stored order for a step along each axis of the result.
    let strides = shape.iter().scan(1usize, |next, &d| {
        let stride = *next;
        *next = next.saturating_mul(d);
        Some(stride)
    });
    let strides: Vec<usize> = strides.collect();
    let mut order = Vec::with_capacity(array.len());
    let mut index = vec![0usize; shape.len()];
    let mut at = 0;
    for _ in 0..array.len() {
        order.push(at);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    let gathered = array.clone().reshape([array.len()]).and_then(|flat| flat.take_rows(&order)?.reshape(shape));
    gathered.expect("bug: reversing the axes of an array changed its number of elements")
}
