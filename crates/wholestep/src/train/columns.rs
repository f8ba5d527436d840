//! The columns of a data set as a compiled program takes them. Takes a data set and the program's inputs, gives the same rows in the
//! declared dtypes. Never broadcasts, never cuts, and never leaves a column aside without a word.

use super::{Loss, Task, Training};
use crate::data::{Array, Dataset};
use crate::step::Loaded;
use crate::{Error, ErrorKind, Result};
use wholestep_compiler::ir::graph::LabelRange;
use wholestep_compiler::ir::{DType, InputDecl};

/// The columns of `data` that `loaded` takes, in the order of its inputs.
///
/// A target `[N]` serves an output `[N, 1]`. Numbers become the input's dtype where it holds them exactly (f64 rounds to f32).
/// Errors: a column is missing, of another shape, or holds a value that the dtype cannot; a number that is not finite or a label that is no
/// class, by row; with `all`, a column that no input takes.
pub fn fitted(loaded: &Loaded, data: &Dataset, training: &Training, all: bool) -> Result<Dataset> {
    let decls = &loaded.compiled.plan.inputs;
    if all && let Some((name, _)) = data.columns().find(|(name, _)| !decls.iter().any(|d| d.name == *name)) {
        let inputs: Vec<&str> = decls.iter().map(|d| d.name.as_str()).collect();
        let all = inputs.join(", ");
        return Err(input_error(format!("column {name:?} goes into no input of the model ({all}); leave it out")));
    }
    let columns = decls.iter().map(|decl| {
        let array = data.column(&decl.name)?;
        let fault = |e: Error| e.context(format!("column {:?}", decl.name));
        if decl.name == training.target {
            check_target(&training.loss, array, data.class_names()).map_err(fault)?;
        }
        Ok((decl.name.as_str(), fitted_column(decl, array, data.class_names()).map_err(fault)?))
    });
    let fitted = Dataset::new(columns.collect::<Result<Vec<_>>>()?)?;
    fitted.check_finite()?;
    Ok(fitted)
}

/// What would train without a word and mean nothing: the numbers of classes as quantities, and classes beside yes and no.
fn check_target(loss: &Loss, target: &Array, class_names: &[String]) -> Result<()> {
    let is_float = target.as_slice::<f32>().is_some() || target.as_slice::<f64>().is_some();
    match loss.task() {
        Task::Values if !is_float && !class_names.is_empty() => Err(input_error(format!(
            "it holds classes ({}), and the loss takes quantities; classes go with cross_entropy",
            class_names.join(", ")
        ))),
        Task::Binary => {
            let mut at = 0;
            let mut bad = None;
            target.for_each_f64(|v| {
                // What is no number is told by row and place with all other columns.
                let is_fit = v.is_nan() || (0.0..=1.0).contains(&v);
                bad = bad.or((!is_fit).then_some((at, v)));
                at += 1;
            });
            let Some((at, v)) = bad else { return Ok(()) };
            Err(input_error(format!(
                "row {} is {v}, and bce_with_logits takes targets from 0 (no) to 1 (yes); more classes than two go with cross_entropy",
                at / target.row_elems().max(1)
            )))
        }
        Task::Values | Task::Classes => Ok(()),
    }
}

fn fitted_column(decl: &InputDecl, array: &Array, class_names: &[String]) -> Result<Array> {
    let row: Vec<usize> = decl.shape.at(1)[1..].to_vec();
    let came = array.shape().get(1..).unwrap_or(&[]);
    let shaped = if came == row {
        array.clone()
    } else if came.is_empty() && row == [1] {
        array.clone().reshape([array.rows(), 1])?
    } else if row.is_empty() && came == [1] {
        array.clone().reshape([array.rows()])?
    } else {
        let is_labels = came.is_empty() && array.as_slice::<f32>().is_none() && array.as_slice::<f64>().is_none();
        let hint = match &decl.range {
            Some(_) if came.is_empty() => {
                "; one label a sample goes with an output [B, classes]: flatten before the last layer"
            }
            None if is_labels => "; labels of classes go with cross_entropy or nll",
            Some(_) | None => "",
        };
        return Err(input_error(format!("the model takes rows of {row:?}, rows of {came:?} came{hint}")));
    };
    if let Some(range) = &decl.range {
        check_labels(&shaped, range, class_names)?;
    }
    cast(&shaped, decl.dtype)
}

fn check_labels(labels: &Array, range: &LabelRange, class_names: &[String]) -> Result<()> {
    let n = range.n as f64;
    let values = labels.cast::<f64>()?;
    let is_class = |v: f64| (v >= 0.0 && v < n && v.fract() == 0.0) || range.ignore.is_some_and(|i| v == i as f64);
    let Some(at) = values.slice::<f64>()?.iter().position(|v| !is_class(*v)) else { return Ok(()) };
    let value = values.slice::<f64>()?[at];
    let row = at / labels.row_elems().max(1);
    if value.fract() != 0.0 {
        return Err(input_error(format!(
            "row {row} is {value:.4}, which is no class: the loss takes whole numbers from 0 to {}; for quantities take mse, mae or huber",
            n - 1.0
        )));
    }
    let name = class_names.get(value as usize).filter(|_| value >= 0.0).map_or(String::new(), |n| format!(" ({n})"));
    let needed =
        if value >= n { format!("; its last layer needs at least {} outputs", value + 1.0) } else { String::new() };
    Err(input_error(format!("row {row} is class {value}{name}, the model tells 0 to {} apart{needed}", n - 1.0)))
}

fn input_error(message: String) -> Error {
    Error::new(ErrorKind::Input, message)
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
