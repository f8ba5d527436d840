//! The loop over epochs. Takes a trainer and data, gives a history. Never changes the order of rows or of steps for the sake of speed.

use super::feed::Feed;
use super::record::{Best, Ended, Epoch, History, Metric};
use super::{Callback, EpochEnd, Flow, Trainer, columns, score, traced};
use crate::checkpoint::Weights;
use crate::data::{Array, Batch, Dataset};
use crate::{Error, ErrorKind, Result, Step};
use std::time::{Duration, Instant};

/// How often the loss is read for progress at most: reading waits for the device.
const READING: Duration = Duration::from_millis(100);

/// [`Trainer::fit`].
pub fn fit(
    trainer: &mut Trainer,
    train: &Dataset,
    validation: Option<&Dataset>,
    callbacks: &mut [&mut dyn Callback],
) -> Result<History> {
    let started = Instant::now();
    let monitor = monitored(trainer, validation.is_some())?;
    trainer.prepare(train.rows())?;
    let rows = check_rows(trainer, train.rows())?;
    let mut step = trainer.step.take().expect("bug: the step was just made");
    let run = Run { started, monitor, rows };
    let ended = run.epochs(trainer, &mut step, train, validation, callbacks);
    // Whatever happened, the weights stay with the trainer.
    trainer.step = Some(step);
    ended
}

/// The number that says which epoch is best.
fn monitored(trainer: &Trainer, has_validation: bool) -> Result<Metric> {
    let stopping = trainer.training.early_stopping;
    let default = if has_validation { Metric::Loss } else { Metric::TrainLoss };
    let wanted = [stopping.and_then(|e| e.monitor), trainer.training.stop_at.map(|s| s.metric)];
    if let Some(metric) = wanted.into_iter().flatten().find(|m| m.needs_validation() && !has_validation) {
        let message = format!("{} is a number of the validation set, and there is none", metric.name());
        return Err(Error::new(ErrorKind::Config, message));
    }
    // A run with a target is best where it is nearest to it.
    Ok(wanted[0].or(wanted[1]).unwrap_or(default))
}

/// Rows of an epoch that are trained on.
fn check_rows(trainer: &Trainer, rows: usize) -> Result<u64> {
    let batch = trainer.training.batch_size;
    let used = if trainer.training.drop_last { rows / batch * batch } else { rows };
    if used == 0 {
        let message = format!("{rows} rows make no batch of {batch} with drop_last; give more rows or a smaller batch");
        return Err(Error::new(ErrorKind::Input, message));
    }
    Ok(used as u64)
}

struct Run {
    started: Instant,
    monitor: Metric,
    rows: u64,
}

impl Run {
    fn epochs(
        &self,
        trainer: &mut Trainer,
        step: &mut Step,
        train: &Dataset,
        validation: Option<&Dataset>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<History> {
        let training = trainer.training.clone();
        let data = columns::fitted(step.loaded(), train, true)?;
        let mut feed = Feed::new(&data, training.batch_size, training.seed)?;
        let stopping = training.early_stopping;
        let mut best = Best::new(self.monitor, stopping.map_or(0.0, |e| e.min_delta));
        let mut best_weights = None;
        let mut epochs = Vec::new();
        let mut ended = Ended::Epochs;
        for number in 1..=training.epochs {
            let began = Instant::now();
            callbacks.iter_mut().for_each(|c| c.on_epoch_start(number, self.rows));
            self.train_epoch(step, &mut feed, number, &training, callbacks)?;
            let sums = traced::sums(step)?;
            let evaluation = match validation {
                Some(data) => Some(score::evaluate(trainer, step, data)?),
                None => None,
            };
            let mut record = Epoch {
                epoch: number,
                steps: u64::from(step.steps()?),
                train_loss: sums.loss / self.rows as f64,
                train_accuracy: sums.right.map(|n| n / counted(&data, &training.target, self.rows) as f64),
                validation: evaluation.as_ref().map(|e| e.numbers),
                lr: traced::number(&step.output("lr")?)?,
                seconds: began.elapsed().as_secs_f64(),
                elapsed_seconds: self.started.elapsed().as_secs_f64(),
                is_best: false,
            };
            record.is_best = best.is_improved_by(&record);
            if record.is_best && stopping.is_some() {
                best_weights = Some(Weights::of(step)?);
            }
            let mut flow = Flow::Continue;
            for callback in callbacks.iter_mut() {
                let (step, trainer) = (&mut *step, &mut *trainer);
                let mut end = EpochEnd { record: &record, evaluation: evaluation.as_ref(), step, trainer };
                if callback.on_epoch_end(&mut end)? == Flow::Stop {
                    flow = Flow::Stop;
                }
            }
            let is_reached = training.stop_at.is_some_and(|s| s.is_reached(record.get(s.metric)));
            let seconds = record.elapsed_seconds;
            epochs.push(record);
            ended = match stopping {
                _ if is_reached => Ended::Target { seconds },
                _ if flow == Flow::Stop => Ended::Callback,
                Some(e) if best.waited >= e.patience => Ended::Patience,
                Some(_) | None => continue,
            };
            break;
        }
        if let Some(weights) = best_weights {
            weights.load_into(step)?;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(History { epochs, ended, best_epoch: best.epoch, seconds })
    }

    /// All steps of one epoch.
    fn train_epoch(
        &self,
        step: &mut Step,
        feed: &mut Feed,
        epoch: u32,
        training: &super::Training,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<()> {
        traced::reset(step)?;
        let before = step.steps()?;
        let mut read = Instant::now();
        while let Some(chunk) = feed.next_chunk()? {
            let began = Instant::now();
            let rows = run_chunk(step, &chunk, training.batch_size, training.drop_last)?;
            feed.note(began.elapsed())?;
            let mut loss = None;
            if read.elapsed() >= READING {
                let newest = f64::from(step.loss()?);
                if !newest.is_finite() {
                    return Err(diverged(step, epoch, before)?);
                }
                loss = Some(newest);
                read = Instant::now();
            }
            callbacks.iter_mut().for_each(|c| c.on_rows(rows, loss));
        }
        // A loss that was infinite only for a moment between two readings is found here.
        if traced::first_bad(step)?.is_some() { Err(diverged(step, epoch, before)?) } else { Ok(()) }
    }
}

/// Runs the batches of a chunk: the full ones in one submission, then the rest.
fn run_chunk(step: &mut Step, chunk: &Batch, batch: usize, drop_last: bool) -> Result<u64> {
    let rows = chunk.rows();
    let (full, rest) = (rows / batch, rows % batch);
    let part = |from: usize, to: usize| -> Result<Vec<(&str, Array)>> {
        chunk.columns().map(|(name, array)| Ok((name, array.slice_rows(from, to)?))).collect()
    };
    if rest == 0 {
        let inputs: Vec<(&str, &Array)> = chunk.columns().collect();
        step.run_many(full, &inputs)?;
        return Ok(rows as u64);
    }
    if full > 0 {
        let arrays = part(0, full * batch)?;
        let inputs: Vec<(&str, &Array)> = arrays.iter().map(|(name, a)| (*name, a)).collect();
        step.run_many(full, &inputs)?;
    }
    if drop_last {
        return Ok((full * batch) as u64);
    }
    let arrays = part(full * batch, rows)?;
    let inputs: Vec<(&str, &Array)> = arrays.iter().map(|(name, a)| (*name, a)).collect();
    step.run(&inputs)?;
    Ok(rows as u64)
}

/// Targets of an epoch: more than rows where each row has several.
fn counted(data: &Dataset, target: &str, rows: u64) -> u64 {
    let each = data.column(target).map_or(1, |t| t.row_elems());
    rows * each.max(1) as u64
}

/// Why training cannot go on.
fn diverged(step: &mut Step, epoch: u32, before: u32) -> Result<Error> {
    let bad = traced::first_bad(step)?.unwrap_or(before);
    let lr = step.lr()?;
    let message = format!(
        "the loss is not finite in epoch {epoch}, step {} (step {} of the run); the rate is {lr}: lower it, clip gradients, or look for \
         values in the data that are not finite (WHOLESTEP_NAN=1 names the first tensor)",
        bad - before.min(bad) + 1,
        bad + 1
    );
    Ok(Error::new(ErrorKind::Diverged, message))
}
