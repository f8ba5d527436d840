//! The columns of a data set as a compiled program takes them. Takes a data set and the program's inputs, gives the same rows in the
//! declared dtypes. Never broadcasts, never cuts, and never leaves a column aside without a word.

use crate::data::{Array, Dataset};
use crate::step::Loaded;
use crate::{Error, ErrorKind, Result};
use wholestep_compiler::ir::{DType, InputDecl};

/// The columns of `data` that `loaded` takes, in the order of its inputs.
///
/// A target `[N]` serves an output `[N, 1]`. Numbers become the input's dtype where it holds them exactly (f64 rounds to f32).
/// Errors: a column is missing, of another shape, or holds a value that the dtype cannot; with `all`, a column that no input takes.
pub fn fitted(loaded: &Loaded, data: &Dataset, all: bool) -> Result<Dataset> {
    let decls = &loaded.compiled.plan.inputs;
    if all && let Some((name, _)) = data.columns().find(|(name, _)| !decls.iter().any(|d| d.name == *name)) {
        let inputs: Vec<&str> = decls.iter().map(|d| d.name.as_str()).collect();
        let message = format!("column {name:?} goes into no input of the model ({}); leave it out", inputs.join(", "));
        return Err(Error::new(ErrorKind::Input, message));
    }
    let columns = decls.iter().map(|decl| {
        let array = data.column(&decl.name)?;
        Ok((decl.name.as_str(), fitted_column(decl, array)?))
    });
    Dataset::new(columns.collect::<Result<Vec<_>>>()?)
}

fn fitted_column(decl: &InputDecl, array: &Array) -> Result<Array> {
    let row: Vec<usize> = decl.shape.at(1)[1..].to_vec();
    let came = array.shape().get(1..).unwrap_or(&[]);
    let shaped = if came == row {
        array.clone()
    } else if came.is_empty() && row == [1] {
        array.clone().reshape([array.rows(), 1])?
    } else if row.is_empty() && came == [1] {
        array.clone().reshape([array.rows()])?
    } else {
        let message = format!("column {:?}: the model takes rows of {row:?}, rows of {came:?} came", decl.name);
        return Err(Error::new(ErrorKind::Input, message));
    };
    cast(&shaped, decl.dtype).map_err(|e| e.context(format!("column {:?}", decl.name)))
}

/// The same numbers in `dtype`.
pub fn cast(array: &Array, dtype: DType) -> Result<Array> {
    match dtype {
        DType::F64 => array.cast::<f64>(),
        DType::F32 => array.cast::<f32>(),
        DType::I64 => array.cast::<i64>(),
        DType::I32 => array.cast::<i32>(),
        DType::U32 => array.cast::<u32>(),
        DType::U8 => array.cast::<u8>(),
        DType::Bool => array.cast::<bool>(),
        DType::F16 | DType::BF16 => Err(Error::new(ErrorKind::Input, format!("no host array holds {dtype}"))),
    }
}
