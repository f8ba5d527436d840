//! Host arrays, the form in which data reach a compiled step. Takes values and a shape that must agree, gives typed
//! slices, row selections and casts. Never converts a value without being asked, and never loses one in a cast.

mod store;

use std::fmt;
use std::sync::Arc;

use crate::device::Device;
use crate::{Error, ErrorKind, Result};
use store::Store;
use wholestep_compiler::backend::HostMemory;

/// The type of an [`Array`]'s elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArrayType {
    /// What layers compute with and parameters are; 4 bytes.
    F32,
    /// 8 bytes; cpu and cuda compute with it, wgpu does not.
    F64,
    /// 8 bytes; what PyTorch makes of labels. wgpu passes such values on in 32 bits, and computes with none.
    I64,
    /// 4 bytes; labels where one of them is negative, to be ignored.
    I32,
    /// 4 bytes; labels and tokens.
    U32,
    /// 1 byte, 0 to 255; pixels.
    U8,
    /// 1 byte, 0 or 1; masks.
    Bool,
}

impl fmt::Display for ArrayType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArrayType::F32 => "f32",
            ArrayType::F64 => "f64",
            ArrayType::I64 => "i64",
            ArrayType::I32 => "i32",
            ArrayType::U32 => "u32",
            ArrayType::U8 => "u8",
            ArrayType::Bool => "bool",
        })
    }
}

impl ArrayType {
    /// Bytes of one element in host memory.
    pub fn size_bytes(self) -> usize {
        match self {
            ArrayType::F64 | ArrayType::I64 => 8,
            ArrayType::F32 | ArrayType::I32 | ArrayType::U32 => 4,
            ArrayType::U8 | ArrayType::Bool => 1,
        }
    }
}

/// A dense row-major array in host memory: typed values and a shape. `[]` is the shape of a scalar.
///
/// Clones share the values (they are counted, not copied); writing through [`Array::as_mut_slice`] copies shared values
/// first, so no other clone sees the change.
#[derive(Clone, PartialEq)]
pub struct Array {
    pub(crate) values: Values,
    shape: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    F32(Arc<Store<f32>>),
    F64(Arc<Store<f64>>),
    I64(Arc<Store<i64>>),
    I32(Arc<Store<i32>>),
    U32(Arc<Store<u32>>),
    U8(Arc<Store<u8>>),
    Bool(Arc<Store<bool>>),
}

/// A Rust type that an [`Array`] can hold. Closed: the seven types of [`ArrayType`].
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// What [`Array::dtype`] says of an array of this type.
    const TYPE: ArrayType;
    #[doc(hidden)]
    fn wrap(values: Arc<Store<Self>>) -> Wrapped;
    #[doc(hidden)]
    fn view(array: &Array) -> Option<&Arc<Store<Self>>>;
    #[doc(hidden)]
    fn view_mut(array: &mut Array) -> Option<&mut Arc<Store<Self>>>;
    #[doc(hidden)]
    fn of_bytes(bytes: &[u8]) -> &[Self];
    #[doc(hidden)]
    fn of_bytes_mut(bytes: &mut [u8]) -> &mut [Self];
}

/// Keeps the storage enum out of the public interface.
#[doc(hidden)]
#[derive(Debug)]
pub struct Wrapped(Values);

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($t:ty => $v:ident by $cast:path, $cast_mut:path;)*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const TYPE: ArrayType = ArrayType::$v;
            fn wrap(values: Arc<Store<$t>>) -> Wrapped { Wrapped(Values::$v(values)) }
            fn view(array: &Array) -> Option<&Arc<Store<$t>>> {
                if let Values::$v(v) = &array.values { Some(v) } else { None }
            }
            fn view_mut(array: &mut Array) -> Option<&mut Arc<Store<$t>>> {
                if let Values::$v(v) = &mut array.values { Some(v) } else { None }
            }
            fn of_bytes(bytes: &[u8]) -> &[$t] { $cast(bytes) }
            fn of_bytes_mut(bytes: &mut [u8]) -> &mut [$t] { $cast_mut(bytes) }
        }
    )*};
}
elements! {
    f32 => F32 by bytemuck::cast_slice, bytemuck::cast_slice_mut;
    f64 => F64 by bytemuck::cast_slice, bytemuck::cast_slice_mut;
    i64 => I64 by bytemuck::cast_slice, bytemuck::cast_slice_mut;
    i32 => I32 by bytemuck::cast_slice, bytemuck::cast_slice_mut;
    u32 => U32 by bytemuck::cast_slice, bytemuck::cast_slice_mut;
    u8 => U8 by bytemuck::cast_slice, bytemuck::cast_slice_mut;
    bool => Bool by bytemuck::checked::cast_slice, bytemuck::checked::cast_slice_mut;
}

/// Runs one expression for whichever type the values have.
macro_rules! each_type {
    ($values:expr, $v:ident => $body:expr) => {
        match $values {
            Values::F32($v) => $body,
            Values::F64($v) => $body,
            Values::I64($v) => $body,
            Values::I32($v) => $body,
            Values::U32($v) => $body,
            Values::U8($v) => $body,
            Values::Bool($v) => $body,
        }
    };
}

fn input_error(text: String) -> Error {
    Error::new(ErrorKind::Input, text)
}

/// The number of elements of `shape`, or `None` when it does not fit `usize`.
pub(crate) fn checked_elems(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes an empty array, whatever the other extents are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl Array {
    /// An array of `values` in row-major order. Errors: `values` does not hold exactly the product of `shape`.
    ///
    /// ```
    /// let a = wholestep::data::Array::new(vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])?;
    /// assert_eq!(a.shape(), [2, 3]);
    /// # Ok::<(), wholestep::Error>(())
    /// ```
    pub fn new<T: Element>(values: Vec<T>, shape: impl Into<Vec<usize>>) -> Result<Array> {
        let shape = shape.into();
        match checked_elems(&shape) {
            Some(n) if n == values.len() => Ok(Array { values: wrap(values), shape }),
            n => {
                let need = n.map_or("more elements than fit in memory".to_string(), |n| format!("{n} elements"));
                Err(input_error(format!(
                    "array: shape {shape:?} needs {need}, {} {} values came; give values and a shape that agree",
                    values.len(),
                    T::TYPE
                )))
            }
        }
    }

    /// An array of one value, shape `[]`.
    pub fn scalar<T: Element>(value: T) -> Array {
        Array { values: wrap(vec![value]), shape: Vec::new() }
    }

    /// An array of one axis.
    pub fn from_vec<T: Element>(values: Vec<T>) -> Array {
        let shape = vec![values.len()];
        Array { values: wrap(values), shape }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> ArrayType {
        match self.values {
            Values::F32(_) => ArrayType::F32,
            Values::F64(_) => ArrayType::F64,
            Values::I64(_) => ArrayType::I64,
            Values::I32(_) => ArrayType::I32,
            Values::U32(_) => ArrayType::U32,
            Values::U8(_) => ArrayType::U8,
            Values::Bool(_) => ArrayType::Bool,
        }
    }

    /// The extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        each_type!(&self.values, v => v.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extent of the first axis; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements in one row, which is what follows the first axis.
    pub fn row_elems(&self) -> usize {
        // The product was checked when the array was made, except where an extent of zero made it empty.
        checked_elems(self.shape.get(1..).unwrap_or(&[])).unwrap_or(0)
    }

    /// The values in row-major order, or `None` when the elements are not `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::view(self).map(|v| &v[..])
    }

    /// The values to write to, or `None` when the elements are not `T`. Values shared with another clone are copied first.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        T::view_mut(self).map(|v| Arc::make_mut(v).as_mut_slice())
    }

    /// The values in row-major order. Errors: the elements are not `T`; the text names [`Array::cast`].
    pub fn slice<T: Element>(&self) -> Result<&[T]> {
        self.as_slice().ok_or_else(|| {
            input_error(format!(
                "array: expected {} elements, {} came; use cast::<{}>()",
                T::TYPE,
                self.dtype(),
                T::TYPE
            ))
        })
    }

    /// The value of an array that has one element, whatever its shape (PyTorch's `item`). Errors: none or several; the
    /// elements are not `T`.
    pub fn item<T: Element>(&self) -> Result<T> {
        match self.slice::<T>()? {
            [value] => Ok(*value),
            values => {
                let n = values.len();
                Err(input_error(format!("array: expected one element, shape {:?} has {n}; use slice()", self.shape)))
            }
        }
    }

    /// The same values under another shape. Errors: the number of elements differs.
    pub fn reshape(mut self, shape: impl Into<Vec<usize>>) -> Result<Array> {
        let shape = shape.into();
        if checked_elems(&shape) != Some(self.len()) {
            return Err(input_error(format!(
                "array: {:?} has {} elements and cannot become {shape:?}; the products must agree",
                self.shape,
                self.len()
            )));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Rows `start..end`, copied. Errors: the range leaves the array, or the array is a scalar.
    pub fn slice_rows(&self, start: usize, end: usize) -> Result<Array> {
        if self.shape.is_empty() || start > end || end > self.rows() {
            return Err(input_error(format!(
                "array: rows {start}..{end} do not lie in shape {:?}; give start <= end <= the first extent",
                self.shape
            )));
        }
        let n = self.row_elems();
        let mut shape = self.shape.clone();
        shape[0] = end - start;
        let values = each_type!(&self.values, v => wrap(v[start * n..end * n].to_vec()));
        Ok(Array { values, shape })
    }

    /// The rows named by `rows`, in that order, repeats allowed: `[N, ..]` -> `[rows.len(), ..]`.
    /// Errors: an index is not below N, or the array is a scalar.
    pub fn take_rows(&self, rows: &[usize]) -> Result<Array> {
        self.take_rows_into(rows, None, None)
    }

    /// [`Array::take_rows`] into memory as [`Array::room_like`] finds it.
    pub(crate) fn take_rows_into(
        &self,
        rows: &[usize],
        spare: Option<Array>,
        device: Option<&Device>,
    ) -> Result<Array> {
        let bad = rows.iter().find(|&&r| r >= self.rows());
        if self.shape.is_empty() || bad.is_some() {
            return Err(input_error(format!(
                "array: row {} does not lie in shape {:?}; rows are counted from 0 along the first axis",
                bad.copied().unwrap_or(0),
                self.shape
            )));
        }
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let mut to = self.room_like(shape, spare, device);
        fn gather<T: Element>(from: &[T], rows: &[usize], n: usize, to: &mut Array) {
            let to = to.as_mut_slice::<T>().expect("bug: room of another type");
            for (at, &row) in rows.iter().enumerate() {
                to[at * n..][..n].copy_from_slice(&from[row * n..][..n]);
            }
        }
        each_type!(&self.values, v => gather(v, rows, self.row_elems(), &mut to));
        Ok(to)
    }

    /// The same numbers as `T`. Errors: the first value that `T` cannot hold exactly (floats may round to a narrower
    /// float, but not overflow), with its place. `bool` takes only 0 and 1.
    pub fn cast<T: Number>(&self) -> Result<Array> {
        if self.dtype() == T::TYPE {
            return Ok(self.clone());
        }
        let mut out = Vec::with_capacity(self.len());
        let convert = |wide: Wide, at: usize, out: &mut Vec<T>| match T::from_wide(wide) {
            Some(x) => {
                out.push(x);
                Ok(())
            }
            None => Err(input_error(format!(
                "array: cannot cast {} to {}: element {at} is {wide}, which {} cannot hold",
                self.dtype(),
                T::TYPE,
                T::TYPE
            ))),
        };
        each_type!(&self.values, v => {
            for (at, &x) in v.iter().enumerate() {
                convert(x.wide(), at, &mut out)?;
            }
        });
        Ok(Array { values: wrap(out), shape: self.shape.clone() })
    }

    /// Calls `f` with each element as f64, in row-major order (i64 beyond 2^53 rounds).
    pub fn for_each_f64(&self, mut f: impl FnMut(f64)) {
        // The type is told apart once and not for each element: a data set has millions.
        each_type!(&self.values, v => v.iter().for_each(|x| f(match x.wide() {
            Wide::Float(x) => x,
            Wide::Int(x) => x as f64,
        })));
    }

    /// The same values in memory that `device` copies from by itself while the host goes on (pinned memory): for what is handed over again and
    /// again. They are in ordinary memory as before where that gains nothing, which is on every device but cuda, and for less than 64 KiB.
    ///
    /// Such memory is taken from what the system has to swap. A [`Loader`](crate::data::Loader) has it by itself after
    /// [`Loader::pin_memory`](crate::data::Loader::pin_memory), and a [`Trainer`](crate::Trainer) always. Errors: the system gives no more of it.
    pub fn pin_memory(&self, device: &Device) -> Result<Array> {
        let memory = device.host_memory(self.len() * self.dtype().size_bytes())?;
        fn copied<T: Element>(values: &[T], memory: Arc<dyn HostMemory>) -> Values {
            let mut to = Store::<T>::with_room(values.len(), None, |_| Some(memory));
            to.as_mut_slice().copy_from_slice(values);
            T::wrap(Arc::new(to)).0
        }
        Ok(match memory {
            Some(memory) => {
                let values = each_type!(&self.values, v => copied(v, memory));
                Array { values, shape: self.shape.clone() }
            }
            None => self.clone(),
        })
    }

    /// The memory that a device copies the values from by itself.
    pub(crate) fn pinned(&self) -> Option<&Arc<dyn HostMemory>> {
        each_type!(&self.values, v => v.pinned())
    }

    /// An array of this type to be written over: in the memory of `spare` where nothing else holds it and it has as much, else in memory that
    /// `device` copies from by itself.
    pub(crate) fn room_like(&self, shape: Vec<usize>, spare: Option<Array>, device: Option<&Device>) -> Array {
        fn room<T: Element>(_like: &[T], n: usize, spare: Option<Array>, device: Option<&Device>) -> Values {
            let mut spare = spare;
            let unshared = spare.as_mut().and_then(T::view_mut).and_then(Arc::get_mut);
            let unshared = unshared.and_then(|store| store.is_unshared().then(|| std::mem::take(store)));
            // Where there is no more of it, a batch is handed over as any other, only slower.
            let pinned = |bytes| device.and_then(|d| d.host_memory(bytes).ok().flatten());
            T::wrap(Arc::new(Store::with_room(n, unshared, pinned))).0
        }
        let n = checked_elems(&shape).expect("bug: the shape of a batch overflows");
        let values = each_type!(&self.values, v => room(v, n, spare, device));
        Array { values, shape }
    }

    /// Whether no clone and no device shares the values, so that they may be overwritten.
    pub(crate) fn is_unshared(&mut self) -> bool {
        each_type!(&mut self.values, v => Arc::get_mut(v).is_some_and(Store::is_unshared))
    }

    /// Copies all of `row` to row `at`. False when type or extent differ.
    pub(crate) fn put_row(&mut self, at: usize, row: &Array) -> bool {
        let n = self.row_elems();
        fn put<T: Element>(to: &mut Arc<Store<T>>, row: &Array, at: usize, n: usize) -> bool {
            match T::view(row) {
                Some(from) if from.len() == n => {
                    Arc::make_mut(to).as_mut_slice()[at * n..(at + 1) * n].copy_from_slice(from);
                    true
                }
                Some(_) | None => false,
            }
        }
        each_type!(&mut self.values, v => put(v, row, at, n))
    }
}

fn wrap<T: Element>(values: Vec<T>) -> Values {
    T::wrap(Arc::new(Store::Own(values))).0
}

/// A value on its way through a cast: every element type fits one of the two exactly.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub enum Wide {
    Float(f64),
    Int(i64),
}

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wide::Float(x) => write!(f, "{x}"),
            Wide::Int(x) => write!(f, "{x}"),
        }
    }
}

/// An [`Element`] that other elements can be cast to.
pub trait Number: Element {
    #[doc(hidden)]
    fn wide(self) -> Wide;
    #[doc(hidden)]
    fn from_wide(wide: Wide) -> Option<Self>;
}

/// A float without a fraction that i64 can hold, as i64.
fn whole(x: f64) -> Option<i64> {
    // 2^63 itself is a float but not an i64, so the upper bound is open.
    (x.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&x)).then_some(x as i64)
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn wide(self) -> Wide { Wide::Int(i64::from(self)) }
            fn from_wide(wide: Wide) -> Option<$t> {
                match wide {
                    Wide::Int(x) => <$t>::try_from(x).ok(),
                    Wide::Float(x) => whole(x).and_then(|x| <$t>::try_from(x).ok()),
                }
            }
        }
    )*};
}
integers!(i64, i32, u32, u8);

impl Number for bool {
    fn wide(self) -> Wide {
        Wide::Int(i64::from(self))
    }

    fn from_wide(wide: Wide) -> Option<bool> {
        match i64::from_wide(wide)? {
            0 => Some(false),
            1 => Some(true),
            i64::MIN..0 | 2.. => None,
        }
    }
}

impl Number for f64 {
    fn wide(self) -> Wide {
        Wide::Float(self)
    }

    fn from_wide(wide: Wide) -> Option<f64> {
        match wide {
            Wide::Float(x) => Some(x),
            Wide::Int(x) => (x.unsigned_abs() <= 1 << 53).then_some(x as f64),
        }
    }
}

impl Number for f32 {
    fn wide(self) -> Wide {
        Wide::Float(f64::from(self))
    }

    fn from_wide(wide: Wide) -> Option<f32> {
        match wide {
            Wide::Float(x) => (!x.is_finite() || (x as f32).is_finite()).then_some(x as f32),
            Wide::Int(x) => (x.unsigned_abs() <= 1 << 24).then_some(x as f32),
        }
    }
}

/// Short: type, shape and at most eight values, so that a batch in an error or a log stays one line.
impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} ", self.dtype(), self.shape)?;
        each_type!(&self.values, v => {
            f.debug_list().entries(v.iter().take(8)).finish()?;
            if v.len() > 8 { write!(f, " and {} more", v.len() - 8)?; }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_shape_must_agree() {
        let e = Array::new(vec![1f32; 5], [2, 3]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Input);
        assert_eq!(
            e.to_string(),
            "array: shape [2, 3] needs 6 elements, 5 f32 values came; give values and a shape that agree"
        );
        let e = Array::new(vec![1u8], [usize::MAX, 2]).unwrap_err();
        assert!(e.to_string().contains("more elements than fit in memory"), "{e}");
        assert_eq!(Array::new(Vec::<f32>::new(), [usize::MAX, 0, 2]).unwrap().len(), 0);
    }

    #[test]
    fn an_item_is_the_only_element() {
        assert_eq!(Array::scalar(2.5f32).item::<f32>().unwrap(), 2.5);
        assert_eq!(Array::new(vec![7i32], [1, 1]).unwrap().item::<i32>().unwrap(), 7);
        assert_eq!(
            Array::from_vec(vec![1u8, 2]).item::<u8>().unwrap_err().to_string(),
            "array: expected one element, shape [2] has 2; use slice()"
        );
        assert!(Array::from_vec(Vec::<f32>::new()).item::<f32>().is_err());
        let e = Array::scalar(1i64).item::<f32>().unwrap_err().to_string();
        assert_eq!(e, "array: expected f32 elements, i64 came; use cast::<f32>()");
    }

    #[test]
    fn rows_are_gathered_in_order_and_checked() {
        let a = Array::new((0..12).collect::<Vec<i32>>(), [4, 3]).unwrap();
        let b = a.take_rows(&[3, 0, 3]).unwrap();
        assert_eq!(b.shape(), [3, 3]);
        assert_eq!(b.slice::<i32>().unwrap(), [9, 10, 11, 0, 1, 2, 9, 10, 11]);
        assert_eq!(a.slice_rows(1, 2).unwrap().slice::<i32>().unwrap(), [3, 4, 5]);
        assert_eq!(
            a.take_rows(&[1, 4]).unwrap_err().to_string(),
            "array: row 4 does not lie in shape [4, 3]; rows are counted from 0 along the first axis"
        );
        assert!(a.slice_rows(3, 5).is_err() && a.slice_rows(2, 1).is_err());
        assert!(Array::scalar(1f32).take_rows(&[0]).is_err());
    }

    #[test]
    fn a_write_is_not_seen_by_another_clone() {
        let a = Array::from_vec(vec![1u8, 2]);
        let mut b = a.clone();
        b.as_mut_slice::<u8>().unwrap()[0] = 9;
        assert_eq!(a.slice::<u8>().unwrap(), [1, 2]);
        assert_eq!(b.slice::<u8>().unwrap(), [9, 2]);
    }

    #[test]
    fn casts_are_exact_or_errors() {
        let a = Array::from_vec(vec![0i64, 1, 255]);
        assert_eq!(a.cast::<u8>().unwrap().slice::<u8>().unwrap(), [0, 1, 255]);
        assert_eq!(a.cast::<f32>().unwrap().slice::<f32>().unwrap(), [0.0, 1.0, 255.0]);
        let e = Array::from_vec(vec![0i64, 256]).cast::<u8>().unwrap_err().to_string();
        assert_eq!(e, "array: cannot cast i64 to u8: element 1 is 256, which u8 cannot hold");
        assert!(Array::from_vec(vec![0.5f32]).cast::<i32>().is_err());
        assert!(Array::from_vec(vec![2f64.powi(63)]).cast::<i64>().is_err());
        assert!(Array::from_vec(vec![f64::NAN]).cast::<i64>().is_err());
        assert!(Array::from_vec(vec![1e300f64]).cast::<f32>().is_err());
        assert!(Array::from_vec(vec![(1i64 << 24) + 1]).cast::<f32>().is_err());
        assert!(Array::from_vec(vec![2u8]).cast::<bool>().is_err());
        assert!(Array::from_vec(vec![f64::INFINITY]).cast::<f32>().unwrap().slice::<f32>().unwrap()[0].is_infinite());
    }

    #[test]
    fn debug_is_one_short_line() {
        let a = Array::new((0..10).collect::<Vec<u32>>(), [5, 2]).unwrap();
        assert_eq!(format!("{a:?}"), "u32[5, 2] [0, 1, 2, 3, 4, 5, 6, 7] and 2 more");
    }
}
