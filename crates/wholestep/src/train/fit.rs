//! The loop over epochs. Takes a trainer and data, gives a history. Never changes the order of rows or of steps for the sake of speed, and
//! keeps nothing between two steps that a checkpoint does not hold.

use super::checkpoints::{Keeper, Moment};
use super::feed::Feed;
use super::fingerprint::Fingerprint;
use super::record::{Best, Ended, Epoch, History, Metric, RunRecord};
use super::{Callback, EpochEnd, Flow, NonFinite, Trainer, Training, columns, score, traced};
use crate::checkpoint::{Checkpoint, Weights};
use crate::data::{Array, Batch, Dataset};
use crate::optim::Optimizer;
use crate::step::{GRAD_NORM, NOISE_SCALE};
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
    trainer.prepare_once(train.rows())?;
    let resumed = trainer.resumed.take();
    let rows = check_rows(&trainer.training, train.rows())?;
    // What is wrong with it should not show after an epoch.
    validation.map_or(Ok(()), |data| score::check(trainer, data))?;
    let mut step = trainer.step.take().expect("bug: the step was just made");
    let ended = Run::new(trainer, &mut step, (train, validation), resumed, (started, monitor, rows))
        .and_then(|run| run.epochs(trainer, &mut step, validation, callbacks));
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
/// Errors: they make no batch.
pub fn check_rows(training: &Training, rows: usize) -> Result<u64> {
    let batch = training.batch_size;
    let used = if training.drop_last { rows / batch * batch } else { rows };
    if used == 0 {
        let how = if training.drop_last { " with drop_last" } else { "" };
        let message = format!("{rows} rows make no batch of {batch}{how}; give more rows or a smaller batch");
        return Err(Error::new(ErrorKind::Input, message));
    }
    if batch < rows && wants_same_batch(training) {
        let message = format!(
            "same_batch: {rows} rows in batches of {batch} are several batches; set batch_size to {rows} or leave it out"
        );
        return Err(Error::new(ErrorKind::Config, message));
    }
    Ok(used as u64)
}

/// Whether the optimizer was promised the same batch in each step, in the same order.
fn wants_same_batch(training: &Training) -> bool {
    training.optimizer.search().is_some_and(|rule| rule.known().is_some())
}

/// A run, and all that it keeps beside the slots of its step.
struct Run {
    started: Instant,
    training: Training,
    rows: u64,
    data: Dataset,
    feed: Feed,
    state: RunRecord,
    /// Seconds before it was resumed.
    before_seconds: f64,
    best_weights: Option<Weights>,
    keeper: Keeper,
}

impl Run {
    /// A new run, or `resumed` at the point where it was saved.
    fn new(
        trainer: &Trainer,
        step: &mut Step,
        (train, validation): (&Dataset, Option<&Dataset>),
        resumed: Option<Checkpoint>,
        (started, monitor, rows): (Instant, Metric, u64),
    ) -> Result<Run> {
        let training = trainer.training.clone();
        let data = columns::fitted(step.loaded(), train, &training, true)?;
        let shuffle = !wants_same_batch(&training);
        let mut feed = Feed::new(&data, training.batch_size, training.seed, shuffle, &trainer.device)?;
        let best = Best::new(monitor, training.early_stopping.map_or(0.0, |e| e.min_delta));
        let here = Fingerprint::of(train, validation);
        let mut state = RunRecord { epochs: Vec::new(), best, seconds: 0.0, data: here };
        let mut best_weights = None;
        if let Some(checkpoint) = &resumed {
            let place = checkpoint.folder.display();
            let (Some(position), Some(run)) = (&checkpoint.record.position, &checkpoint.record.run) else {
                panic!("bug: a checkpoint without a run was resumed")
            };
            feed.seek(position).and_then(|()| run.data.check(&state.data)).map_err(|e| e.context(&place))?;
            step.restore(&checkpoint.snapshot).map_err(|e| e.context(&place))?;
            (state, best_weights) = (run.clone(), checkpoint.best_weights.clone());
        }
        // After all that can be refused: it removes what the run will write again.
        let batches_per_epoch = rows.div_ceil(training.batch_size as u64);
        let keeper = Keeper::new(trainer, resumed.as_ref(), batches_per_epoch)?;
        let before_seconds = state.seconds;
        Ok(Run { started, training, rows, data, feed, state, before_seconds, best_weights, keeper })
    }

    fn seconds(&self) -> f64 {
        self.before_seconds + self.started.elapsed().as_secs_f64()
    }

    fn epochs(
        mut self,
        trainer: &mut Trainer,
        step: &mut Step,
        validation: Option<&Dataset>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<History> {
        let mut ended = self.ended(Flow::Continue);
        while ended.is_none() {
            let began = Instant::now();
            let number = self.state.epochs.len() as u32 + 1;
            callbacks.iter_mut().for_each(|c| c.on_epoch_start(number, self.rows));
            self.train_epoch(step, number, callbacks)?;
            let sums = traced::sums(step)?;
            let evaluation = match validation {
                Some(data) => Some(score::evaluate(trainer, step, data)?),
                None => None,
            };
            let mut record = Epoch {
                epoch: number,
                steps: u64::from(step.steps()?),
                train_loss: sums.loss / sums.rows.unwrap_or(self.rows as f64),
                train_accuracy: sums.right.map(|n| n / self.counted(&sums)).filter(|share| share.is_finite()),
                validation: evaluation.as_ref().map(|e| e.numbers),
                lr: traced::number(&step.output("lr")?)?,
                grad_norm: noted(step, self.training.grad_norm, GRAD_NORM)?,
                noise_scale: noted(step, self.training.noise_scale, NOISE_SCALE)?,
                seconds: began.elapsed().as_secs_f64(),
                elapsed_seconds: self.seconds(),
                is_best: false,
            };
            self.report(step, &record)?;
            record.is_best = self.state.best.is_improved_by(&record);
            if record.is_best && self.training.early_stopping.is_some() {
                self.best_weights = Some(Weights::of(step)?);
            }
            let mut flow = Flow::Continue;
            for callback in callbacks.iter_mut() {
                let (step, trainer) = (&mut *step, &mut *trainer);
                let mut end = EpochEnd { record: &record, evaluation: evaluation.as_ref(), step, trainer };
                if callback.on_epoch_end(&mut end)? == Flow::Stop {
                    flow = Flow::Stop;
                }
            }
            self.state.epochs.push(record);
            ended = self.ended(flow);
            // Last of all: what a resumed run takes as done must be done.
            let (moment, keeper) = self.moment();
            keeper.after_epoch(&moment, step, ended.is_some())?;
        }
        if let Some(weights) = &self.best_weights {
            weights.load_into(step)?;
        }
        let seconds = self.seconds();
        self.keeper.finish()?;
        let RunRecord { epochs, best, .. } = self.state;
        Ok(History { epochs, ended: ended.unwrap_or(Ended::Epochs), best_epoch: best.epoch, seconds })
    }

    /// Targets of an epoch that can be right or wrong: more than rows where each row has several.
    fn counted(&self, sums: &traced::Sums) -> f64 {
        let each = self.data.column(&self.training.target).map_or(1, |t| t.row_elems());
        sums.counted.unwrap_or(self.rows as f64 * each.max(1) as f64)
    }

    /// Hands the schedule the number that it watches, if it watches one.
    fn report(&self, step: &mut Step, record: &Epoch) -> Result<()> {
        let Some(metric) = self.training.schedule.reports() else { return Ok(()) };
        let metric = metric.unwrap_or(if record.validation.is_some() { Metric::Loss } else { Metric::TrainLoss });
        match record.get(metric) {
            Some(value) => step.report(value),
            None => {
                let message = format!("the schedule watches {}, which this run does not have", metric.name());
                Err(Error::new(ErrorKind::Config, message))
            }
        }
    }

    /// Why no other epoch follows, if none does.
    fn ended(&self, flow: Flow) -> Option<Ended> {
        let last = self.state.epochs.last()?;
        let seconds = last.elapsed_seconds;
        match self.training.early_stopping {
            _ if self.training.stop_at.is_some_and(|s| s.is_reached(last.get(s.metric))) => {
                Some(Ended::Target { seconds })
            }
            _ if flow == Flow::Stop => Some(Ended::Callback),
            Some(e) if self.state.best.waited >= e.patience => Some(Ended::Patience),
            Some(_) | None => (last.epoch >= self.training.epochs).then_some(Ended::Epochs),
        }
    }

    /// What a checkpoint would hold now, and who would write it.
    fn moment(&mut self) -> (Moment<'_>, &mut Keeper) {
        self.state.seconds = self.before_seconds + self.started.elapsed().as_secs_f64();
        let position = self.feed.position();
        let steps = position.epoch * self.batches_per_epoch() + position.batch;
        let (training, state, best_weights) = (&self.training, &self.state, self.best_weights.as_ref());
        (Moment { training, state, position, best_weights, steps }, &mut self.keeper)
    }

    fn batches_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.training.batch_size as u64)
    }

    /// All steps of one epoch that are not done yet.
    fn train_epoch(&mut self, step: &mut Step, epoch: u32, callbacks: &mut [&mut dyn Callback]) -> Result<()> {
        let done = self.feed.position().batch;
        match done {
            0 => traced::reset(step)?,
            // Resumed within the epoch: its sums are in the slots.
            _ => {
                let rows = (done * self.training.batch_size as u64).min(self.rows);
                callbacks.iter_mut().for_each(|c| c.on_rows(rows, None));
            }
        }
        let mut read = Instant::now();
        while let Some(chunk) = self.feed.next_chunk()? {
            let began = Instant::now();
            let rows = run_chunk(step, &chunk, self.training.batch_size, self.training.drop_last)?;
            self.feed.note(began.elapsed());
            let mut loss = None;
            if read.elapsed() >= READING {
                self.check_finite(step, epoch)?;
                loss = Some(f64::from(step.loss()?));
                read = Instant::now();
            }
            callbacks.iter_mut().for_each(|c| c.on_rows(rows, loss));
            let (moment, keeper) = self.moment();
            // The end of an epoch is saved with its numbers, after the loop.
            if keeper.is_due(&moment) && moment.position.batch < self.batches_per_epoch() {
                self.check_finite(step, epoch)?;
                let (moment, keeper) = self.moment();
                keeper.save(&moment, step, false)?;
            }
        }
        // A loss that was infinite only for a moment between two readings is found here.
        self.check_finite(step, epoch)
    }

    /// Errors (`ErrorKind::Diverged`): the loss of a step so far was not finite and the run is to stop then.
    fn check_finite(&self, step: &mut Step, epoch: u32) -> Result<()> {
        match (self.training.non_finite, traced::first_bad(step)?) {
            (_, None) | (NonFinite::Continue, Some(_)) => Ok(()),
            (NonFinite::Stop, Some(bad)) => {
                let before = u64::from(epoch - 1) * self.batches_per_epoch();
                let (in_epoch, in_run) = (u64::from(bad) + 1 - before.min(u64::from(bad)), bad + 1);
                let message = format!(
                    "the loss is not finite in epoch {epoch}, step {in_epoch} (step {in_run} of the run); the rate is {:?}: lower it, \
                     clip gradients, or look for values in the data that are not finite (WHOLESTEP_NAN=1 names the first \
                     tensor){}",
                    step.lr()?,
                    self.keeper.hint()
                );
                Err(Error::new(ErrorKind::Diverged, message))
            }
        }
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

/// An output of the last step, where it is wanted and a finite number.
fn noted(step: &mut Step, is_wanted: bool, name: &str) -> Result<Option<f64>> {
    let value = if is_wanted { Some(traced::number(&step.output(name)?)?) } else { None };
    Ok(value.filter(|x| x.is_finite()))
}
