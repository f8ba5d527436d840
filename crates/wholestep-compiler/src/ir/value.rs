//! Element data for the oracle. Takes numbers carried as f64, gives indexing and the arithmetic of each whole-number dtype. Never rounds
//! floats: f16, bf16 and f32 values keep f64's precision, so that the oracle stands above what it judges.

use super::DType;

/// A tensor with its elements, row-major. Every dtype is carried as f64: bools are 0 and 1; whole numbers beyond 2^53 are not exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What the elements are of, though each is carried as f64.
    pub dtype: DType,
    /// At one batch size.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Vec<f64>,
}

/// Where an op is evaluated: its result's type at one batch size, and what the step was given.
#[derive(Clone, Debug)]
pub struct EvalSite<'a> {
    /// Of the result.
    pub dtype: DType,
    /// Of the result, at this batch size.
    pub shape: Vec<usize>,
    /// What B is.
    pub batch: usize,
    /// By input, row-major.
    pub inputs: &'a [Vec<f64>],
    /// By slot, row-major in stored order.
    pub slots: &'a [Vec<f64>],
}

/// Row-major strides of `shape`.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Calls `visit` with each index of `shape` in row-major order and its place in that order.
pub(crate) fn each_index(shape: &[usize], mut visit: impl FnMut(usize, &[usize])) {
    let n: usize = shape.iter().product();
    let mut index = vec![0; shape.len()];
    for place in 0..n {
        visit(place, &index);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// `shape` around `axis`: how many elements before it, along it, after it.
pub(crate) fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

/// The value of a whole number in `dtype`: two's complement wraparound, as the devices compute.
pub(crate) fn wrap(dtype: DType, n: i128) -> f64 {
    match dtype {
        DType::I64 => n as i64 as f64,
        DType::I32 => f64::from(n as i32),
        DType::U32 => f64::from(n as u32),
        DType::U8 => f64::from(n as u8),
        DType::Bool => f64::from(u8::from(n != 0)),
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => panic!("bug: {dtype} does not wrap"),
    }
}

/// Sums of whole numbers brought back into `dtype`; floats as they are.
pub(crate) fn wrap_all(dtype: DType, data: Vec<f64>) -> Vec<f64> {
    if dtype.is_float() { data } else { data.into_iter().map(|v| wrap(dtype, v as i128)).collect() }
}

/// How many bits a whole number of `dtype` has.
pub(crate) fn bits(dtype: DType) -> u32 {
    8 * dtype.size_bytes() as u32
}
