//! Host arrays as the bytes of a device. Takes arrays and storage orders, gives bytes, and back. Never converts a number.

use crate::data::array::{Element, Values};
use crate::data::{Array, ArrayType};
use crate::{Error, ErrorKind, Result};
use bytemuck::Pod;
use std::borrow::Cow;
use wholestep_compiler::ir::DType;

/// The elements as they lie in memory.
pub fn array_bytes(array: &Array) -> &[u8] {
    match &array.values {
        Values::F32(v) => bytemuck::cast_slice(v),
        Values::F64(v) => bytemuck::cast_slice(v),
        Values::I64(v) => bytemuck::cast_slice(v),
        Values::I32(v) => bytemuck::cast_slice(v),
        Values::U32(v) => bytemuck::cast_slice(v),
        Values::U8(v) => v,
        Values::Bool(v) => bytemuck::cast_slice(v),
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
    array_filled(dtype, shape, |to| {
        to.copy_from_slice(bytes);
        Ok(())
    })
}

/// An array of `shape` whose bytes `fill` writes where they will stay.
pub fn array_filled(dtype: DType, shape: Vec<usize>, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Array> {
    fn of<T: Element + Pod>(shape: Vec<usize>, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Array> {
        let mut values: Vec<T> = bytemuck::zeroed_vec(shape.iter().product());
        fill(bytemuck::cast_slice_mut(&mut values))?;
        Array::new(values, shape)
    }
    match dtype {
        DType::F64 => of::<f64>(shape, fill),
        DType::F32 => of::<f32>(shape, fill),
        DType::I64 => of::<i64>(shape, fill),
        DType::I32 => of::<i32>(shape, fill),
        DType::U32 => of::<u32>(shape, fill),
        DType::U8 => of::<u8>(shape, fill),
        DType::Bool => {
            let bytes = of::<u8>(shape.clone(), fill)?;
            Array::new(bytes.slice::<u8>()?.iter().map(|&b| b != 0).collect::<Vec<bool>>(), shape)
        }
        DType::F16 | DType::BF16 => {
            Err(Error::new(ErrorKind::Input, format!("{dtype} values are read after a cast to f32")))
        }
    }
}

/// Row-major elements of `shape` as they are stored when axis i of the memory is axis `order[i]`.
pub fn reorder<'a>(bytes: &'a [u8], shape: &[usize], order: &[usize], size: usize) -> Cow<'a, [u8]> {
    if order.is_sorted() || bytes.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let mut out = vec![0; bytes.len()];
    each_line(shape, order, size, |stored, logical, step, n| {
        copy_spread(&mut out[stored..stored + n * size], size, &bytes[logical..], step, size);
    });
    Cow::Owned(out)
}

/// The inverse of [`reorder`].
pub fn reorder_back<'a>(bytes: &'a [u8], shape: &[usize], order: &[usize], size: usize) -> Cow<'a, [u8]> {
    if order.is_sorted() || bytes.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let mut out = vec![0; bytes.len()];
    each_line(shape, order, size, |stored, logical, step, n| {
        copy_spread(&mut out[logical..], step, &bytes[stored..stored + n * size], size, size);
    });
    Cow::Owned(out)
}

/// Copies elements of `size` bytes that lie `to_step` and `from_step` bytes apart, as many as both have.
fn copy_spread(to: &mut [u8], to_step: usize, from: &[u8], from_step: usize, size: usize) {
    fn of_size<const SIZE: usize>(to: &mut [u8], to_step: usize, from: &[u8], from_step: usize) {
        // The last element may be shorter than a step and never than itself.
        let pairs = to.chunks_mut(to_step).zip(from.chunks(from_step));
        pairs.for_each(|(to, from)| to[..SIZE].copy_from_slice(&from[..SIZE]));
    }
    match size {
        1 => of_size::<1>(to, to_step, from, from_step),
        2 => of_size::<2>(to, to_step, from, from_step),
        4 => of_size::<4>(to, to_step, from, from_step),
        _ => of_size::<8>(to, to_step, from, from_step),
    }
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
