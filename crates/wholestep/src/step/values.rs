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
    if order.is_sorted() {
        return bytes.to_vec();
    }
    let mut out = vec![0; bytes.len()];
    each_line(shape, order, size, |stored, logical, step, n| {
        let to = out[stored..stored + n * size].chunks_exact_mut(size);
        to.zip(bytes[logical..].chunks(step)).for_each(|(to, from)| to.copy_from_slice(&from[..size]));
    });
    out
}

/// The inverse of [`reorder`].
pub fn reorder_back(bytes: &[u8], shape: &[usize], order: &[usize], size: usize) -> Vec<u8> {
    if order.is_sorted() {
        return bytes.to_vec();
    }
    let mut out = vec![0; bytes.len()];
    each_line(shape, order, size, |stored, logical, step, n| {
        let from = bytes[stored..stored + n * size].chunks_exact(size);
        out[logical..].chunks_mut(step).zip(from).for_each(|(to, from)| to[..size].copy_from_slice(from));
    });
    out
}

/// Visits the lines of the memory's last axis: byte offset in memory, byte offset in row-major order, bytes between two elements there, and
/// how many there are.
fn each_line(shape: &[usize], order: &[usize], size: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
    let mut strides = vec![size; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    let Some((&last, outer)) = order.split_last() else { return };
    let (n, lines) = (shape[last], outer.iter().map(|&axis| shape[axis]).product::<usize>());
    let mut index = vec![0; outer.len()];
    for line in 0..lines {
        let logical: usize = index.iter().zip(outer).map(|(i, &axis)| i * strides[axis]).sum();
        visit(line * n * size, logical, strides[last], n);
        for i in (0..index.len()).rev() {
            index[i] += 1;
            if index[i] < shape[outer[i]] {
                break;
            }
            index[i] = 0;
        }
    }
}
