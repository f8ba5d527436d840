//! Evaluation and prediction. Takes data, gives numbers over all of it or the model's output for each row. Never changes the training step:
//! both run programs of their own that copy its weights.

use super::scores::{Evaluation, Scores};
use super::{Trainer, columns, no_weights, output_of};
use crate::checkpoint::Weights;
use crate::data::{Array, Dataset};
use crate::{Error, ErrorKind, Infer, Result, Step};
use std::collections::BTreeMap;
use wholestep_compiler::ir::{DType, Scope, Tensor, names};

/// Bytes of input that one batch of an evaluation holds, unless training batches hold more.
const BATCH_BYTES: usize = 4 << 20;
/// Rows of such a batch at most.
const BATCH_ROWS: usize = 256;

impl Trainer {
    /// Loss and metrics over all of `data`. Dropout is off and batch normalization uses its running statistics.
    /// Errors: no weights yet; a column is missing or does not fit.
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        self.with_weights(|trainer, weights| {
            trainer.scorer()?;
            let scorer = trainer.scorer.as_mut().expect("bug: the scorer was just made");
            weights.load_into_infer(scorer)?;
            evaluate_with(scorer, &trainer.training, data)
        })
    }

    /// The model's output `[N, ..]` for each row of `data`; columns that the model does not take are left aside.
    /// Errors: no weights yet; a column is missing or does not fit.
    pub fn predict(&mut self, data: &Dataset) -> Result<Array> {
        self.with_weights(|trainer, weights| {
            let training = trainer.training.clone();
            let rows_at_once = training.batch_size;
            let predictor = trainer.predictor()?;
            weights.load_into_infer(predictor)?;
            let data = columns::fitted(predictor.loaded(), data, &training, false)?;
            let size = batch_rows(&data, rows_at_once);
            let mut parts = Vec::new();
            for start in (0..data.rows()).step_by(size) {
                parts.push(run_rows(predictor, &data, start, (start + size).min(data.rows()))?);
            }
            stacked(parts)
        })
    }

    /// The model's output for one sample given without its batch axis, by input: `("x", [784])` gives `[10]`. With the batch axis, as
    /// [`Trainer::predict`].
    /// Errors: no weights yet; an input is missing, unknown, or of another shape.
    pub fn predict_arrays(&mut self, inputs: &[(&str, &Array)]) -> Result<Array> {
        let shapes: Vec<(String, usize)> = {
            let loaded = self.predictor()?.loaded();
            let decls = &loaded.compiled.plan.inputs;
            if let Some((name, _)) = inputs.iter().find(|(name, _)| !decls.iter().any(|d| d.name == *name)) {
                let known: Vec<&str> = decls.iter().map(|d| d.name.as_str()).collect();
                let message = format!("the model has no input {name}; it has {}", names::known(name, &known));
                return Err(Error::new(ErrorKind::Input, message));
            }
            decls.iter().map(|d| (d.name.clone(), d.shape.rank())).collect()
        };
        let is_single =
            |name: &str, a: &Array| shapes.iter().any(|(n, rank)| n == name && a.shape().len() + 1 == *rank);
        let single = inputs.iter().all(|(name, a)| is_single(name, a));
        let columns = inputs.iter().map(|(name, array)| {
            let array = (*array).clone();
            let shape = if single { [&[1], array.shape()].concat() } else { array.shape().to_vec() };
            Ok((*name, array.reshape(shape)?))
        });
        let output = self.predict(&Dataset::new(columns.collect::<Result<Vec<_>>>()?)?)?;
        let shape = output.shape()[1..].to_vec();
        if single { output.reshape(shape) } else { Ok(output) }
    }

    fn with_weights<T>(&mut self, work: impl FnOnce(&mut Trainer, &Weights) -> Result<T>) -> Result<T> {
        let weights = self.weights_now()?.ok_or_else(no_weights)?;
        work(self, &weights)
    }

    /// The forward pass with the loss.
    fn scorer(&mut self) -> Result<&mut Infer> {
        if self.scorer.is_none() {
            let training = self.training.clone();
            let program = compile(&self.device, training.batch_size, &self.choices, |s| {
                let output = output_of(&*self.network, s)?;
                let traced = training.loss.trace(s, &training.target, &output)?;
                s.output("loss", &traced.loss);
                Ok(output)
            })?;
            self.scorer = Some(program);
        }
        Ok(self.scorer.as_mut().expect("bug: the scorer was just made"))
    }

    /// The forward pass alone.
    pub(super) fn predictor(&mut self) -> Result<&mut Infer> {
        if self.predictor.is_none() {
            self.predictor =
                Some(compile(&self.device, self.training.batch_size, &self.choices, |s| output_of(&*self.network, s))?);
        }
        Ok(self.predictor.as_mut().expect("bug: the predictor was just made"))
    }
}

fn compile(
    device: &crate::Device,
    batch: usize,
    choices: &BTreeMap<String, String>,
    trace: impl FnOnce(&Scope) -> Result<Tensor>,
) -> Result<Infer> {
    let mut fault = None;
    let compiled = Infer::compile_as(device, batch, choices, |s| match trace(s) {
        Ok(output) => output,
        Err(e) => {
            fault = Some(e);
            s.constant(0.0, DType::F32)
        }
    });
    match fault {
        Some(e) => Err(e),
        None => compiled,
    }
}

/// Errors: a column that an evaluation needs is missing or does not fit.
pub fn check(trainer: &mut Trainer, data: &Dataset) -> Result<()> {
    trainer.scorer()?;
    let scorer = trainer.scorer.as_mut().expect("bug: the scorer was just made");
    columns::fitted(scorer.loaded(), data, &trainer.training, false).map(|_| ()).map_err(|e| e.context("validation"))
}

/// [`Trainer::evaluate`] with the weights of a step that the trainer has lent.
pub fn evaluate(trainer: &mut Trainer, step: &mut Step, data: &Dataset) -> Result<Evaluation> {
    let scorer = trainer.scorer()?;
    scorer.copy_from(step)?;
    let scorer = trainer.scorer.as_mut().expect("bug: the scorer was just made");
    evaluate_with(scorer, &trainer.training, data)
}

fn evaluate_with(scorer: &mut Infer, training: &super::Training, data: &Dataset) -> Result<Evaluation> {
    let data = columns::fitted(scorer.loaded(), data, training, false)?;
    let size = batch_rows(&data, training.batch_size);
    let mut scores = None;
    for start in (0..data.rows()).step_by(size) {
        let end = (start + size).min(data.rows());
        let output = run_rows(scorer, &data, start, end)?;
        let loss = super::traced::number(&scorer.output("loss")?)?;
        let target = data.column(&training.target)?.slice_rows(start, end)?;
        let scores = match &mut scores {
            Some(scores) => scores,
            None => scores.insert(Scores::new(&training.loss, &output.shape()[1..])?),
        };
        scores.add(&training.loss, loss, &output, &target).map_err(|e| overflowed(&output, start).unwrap_or(e))?;
    }
    let scores = scores.ok_or_else(|| Error::new(ErrorKind::Input, "there is no row to evaluate on"))?;
    Ok(scores.finish())
}

/// Why no score can be had from outputs that are not finite; `None`: they are.
fn overflowed(output: &Array, first_row: usize) -> Option<Error> {
    let values = output.as_slice::<f32>()?;
    let at = values.iter().position(|v| !v.is_finite())?;
    let row = first_row + at / output.row_elems().max(1);
    let message = format!(
        "the model gives {} for row {row}: its weights have grown too large; lower the rate or clip gradients",
        values[at]
    );
    Some(Error::new(ErrorKind::Diverged, message))
}

fn run_rows(program: &mut Infer, data: &Dataset, start: usize, end: usize) -> Result<Array> {
    let columns = data.columns().map(|(name, array)| Ok((name, array.slice_rows(start, end)?)));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let inputs: Vec<(&str, &Array)> = columns.iter().map(|(name, array)| (*name, array)).collect();
    program.run(&inputs)
}

fn batch_rows(data: &Dataset, training_rows: usize) -> usize {
    let row_bytes: usize = data.columns().map(|(_, a)| a.row_elems() * a.dtype().size_bytes()).sum();
    training_rows.max((BATCH_BYTES / row_bytes.max(1)).min(BATCH_ROWS))
}

/// Outputs of one batch after the other.
fn stacked(parts: Vec<Array>) -> Result<Array> {
    let Some(first) = parts.first() else {
        return Err(Error::new(ErrorKind::Input, "there is no row to predict"));
    };
    if parts.len() == 1 {
        return Ok(first.clone());
    }
    let mut shape = first.shape().to_vec();
    shape[0] = parts.iter().map(Array::rows).sum();
    let mut values = Vec::with_capacity(shape.iter().product());
    for part in &parts {
        values.extend_from_slice(part.slice::<f32>()?);
    }
    Array::new(values, shape)
}
