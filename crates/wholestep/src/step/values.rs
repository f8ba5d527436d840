//! Host arrays as the bytes of a device. Takes arrays and storage orders, gives bytes, and back. Never converts a number.

use crate::data::array::Values;
use crate::data::{Array, ArrayType};
use crate::{Error, ErrorKind, Result};
use wholestep_compiler::ir::DType;

/// The elements as they lie in memory.
pub fn array_bytes(array: &Array) -> &[u8] {
    match &array.values {
        Values::F32(v) => bytemuck::cast_slice(v.as_slice()),
        Values::F64(v) => bytemuck::cast_slice(v.as_slice()),
        Values::I64(v) => bytemuck::cast_slice(v.as_slice()),
        Values::I32(v) => bytemuck::cast_slice(v.as_slice()),
        Values::U32(v) => bytemuck::cast_slice(v.as_slice()),
        Values::U8(v) => v.as_slice(),
        Values::Bool(v) => bytemuck::cast_slice(v.as_slice()),
    }
}

/// The array type that holds a device dtype, if one does.
pub fn array_type(dtype: DType) -> Option<ArrayType> {
    match dtype {
        DType::F64 => Some(ArrayType::F64),
        DType::F32 => Some(ArrayType::F32),
        DType::I64 => Some(ArrayType::I64),
        DType::I32 => Some(ArrayType::I32),
        DType::U32 => Some(ArrayType::U32),
        DType::U8 => Some(ArrayType::U8),
        DType::Bool => Some(ArrayType::Bool),
        DType::F16 | DType::BF16 => None,
    }
}

/// An array of `shape` from a device's bytes.
pub fn array_from_bytes(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<Array> {
    match dtype {
        DType::F64 => Array::new(bytemuck::pod_collect_to_vec::<u8, f64>(bytes), shape),
        DType::F32 => Array::new(bytemuck::pod_collect_to_vec::<u8, f32>(bytes), shape),
        DType::I64 => Array::new(bytemuck::pod_collect_to_vec::<u8, i64>(bytes), shape),
        DType::I32 => Array::new(bytemuck::pod_collect_to_vec::<u8, i32>(bytes), shape),
        DType::U32 => Array::new(bytemuck::pod_collect_to_vec::<u8, u32>(bytes), shape),
        DType::U8 => Array::new(bytes.to_vec(), shape),
        DType::Bool => Array::new(bytes.iter().map(|&b| b != 0).collect::<Vec<bool>>(), shape),
        DType::F16 | DType::BF16 => {
            Err(Error::new(ErrorKind::Input, format!("{dtype} values are read after a cast to f32")))
        }
    }
}

/// Row-major elements of `shape` as they are stored when axis i of the memory is axis `order[i]`.
pub fn reorder(bytes: &[u8], shape: &[usize], order: &[usize], size: usize) -> Vec<u8> {
    walk(shape, order, bytes, size, |out, stored, logical, bytes| {
        out[stored..stored + size].copy_from_slice(&bytes[logical..logical + size]);
    })
}

/// The inverse of [`reorder`].
pub fn reorder_back(bytes: &[u8], shape: &[usize], order: &[usize], size: usize) -> Vec<u8> {
    walk(shape, order, bytes, size, |out, stored, logical, bytes| {
        out[logical..logical + size].copy_from_slice(&bytes[stored..stored + size]);
    })
}

/// Visits every element in storage order with its two byte offsets.
fn walk(
    shape: &[usize],
    order: &[usize],
    bytes: &[u8],
    size: usize,
    copy: impl Fn(&mut [u8], usize, usize, &[u8]),
) -> Vec<u8> {
    if order.is_sorted() {
        return bytes.to_vec();
    }
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    let extents: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    let steps: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
    let mut out = vec![0; bytes.len()];
    let mut index = vec![0; extents.len()];
    for stored in 0..bytes.len() / size {
        let logical: usize = index.iter().zip(&steps).map(|(i, s)| i * s).sum();
        copy(&mut out, stored * size, logical * size, bytes);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < extents[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}
