//! Checkpoints of a run. Takes where, how often and how many, gives folders as the run goes on and the state to go on from. Never makes the
//! run wait for the disk, and never resumes with other settings than those that were saved.

use super::record::RunRecord;
use super::{NonFinite, ScheduleSpec, Trainer, Training};
use crate::checkpoint::{Checkpoint, Home, Job, Keep, Meta, Record, Weights, Writer, list};
use crate::data::Position;
use crate::{Error, ErrorKind, Result, Step};
use std::path::{Path, PathBuf};

/// Where and how often a run is saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoints {
    /// Holds one folder per checkpoint, "step-0000000120".
    pub folder: PathBuf,
    /// Saves when each so many epochs have ended; absent: only at the end of the run.
    pub every_epochs: Option<u32>,
    /// Saves within epochs too, when so many steps have passed since it was saved last.
    pub every_steps: Option<u64>,
    /// Which stay on disk when a newer one is written; the last two and the best by default.
    pub keep: Keep,
    /// Files that callbacks [`replace`](crate::checkpoint::replace) as epochs end: a checkpoint is there only when they are safe on disk.
    pub beside: Vec<PathBuf>,
    /// Class names, scalings and whatever else goes with the weights.
    pub meta: Meta,
}

impl Checkpoints {
    /// After each epoch; the last two and the best are kept.
    pub fn new(folder: impl Into<PathBuf>) -> Checkpoints {
        let keep = Keep { last: 2, best: true };
        let (beside, meta) = (Vec::new(), Meta::default());
        Checkpoints { folder: folder.into(), every_epochs: Some(1), every_steps: None, keep, beside, meta }
    }

    /// After each `n`-th epoch.
    pub fn every_epochs(self, n: u32) -> Checkpoints {
        Checkpoints { every_epochs: Some(n.max(1)), ..self }
    }

    /// After each `n`-th step too, within epochs.
    pub fn every_steps(self, n: u64) -> Checkpoints {
        Checkpoints { every_steps: Some(n.max(1)), ..self }
    }

    /// Which of them stay on disk.
    pub fn keep(self, keep: Keep) -> Checkpoints {
        Checkpoints { keep, ..self }
    }

    /// What is written beside the weights: names of classes, scalings, a configuration.
    pub fn meta(self, meta: Meta) -> Checkpoints {
        Checkpoints { meta, ..self }
    }
}

impl Trainer {
    /// Saves the runs of [`Trainer::fit`] from now on.
    pub fn set_checkpoints(&mut self, checkpoints: Checkpoints) {
        self.checkpoints = Some(checkpoints);
    }

    /// Makes the next [`Trainer::fit`] go on where `checkpoint` was written: same order of rows, same masks, same bits as if the run had
    /// never ended. Another number of epochs may be asked for where the schedule is constant.
    /// Checkpoints in the run's folder that are newer than this one are removed when the run goes on: it writes them anew.
    ///
    /// Errors (`ErrorKind::Checkpoint`): it was not written by a trainer, or by one of another model or of other settings, which are listed.
    /// Tensors are compared when `fit` has compiled the step; nothing is loaded if one does not fit.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let Record { meta, training, run, position, .. } = &checkpoint.record;
        let place = checkpoint.folder.display();
        let fault = |what: String| Err(Error::new(ErrorKind::Checkpoint, format!("{place}: {what}")));
        let (Some(training), Some(_), Some(_)) = (training, run, position) else {
            return fault("it holds no run of a trainer; `Step::restore` takes its snapshot".to_string());
        };
        if let (Some(then), Some(now)) = (&meta.model, self.network.model())
            && then != now
        {
            return fault("it is of another model than the one that is to go on".to_string());
        }
        let differences = differences(training, &self.training)?;
        if !differences.is_empty() {
            return fault(format!(
                "it was trained with other settings:{}\n  a run goes on with its own; with others, begin a new one from its weights",
                differences.concat()
            ));
        }
        // A step that is there already may have made its kernels otherwise.
        if checkpoint.record.choices != self.choices {
            self.prepared = None;
        }
        self.resumed = Some(checkpoint);
        Ok(())
    }
}

/// "\n  batch_size was 32, now 64" for each setting that differs.
fn differences(then: &Training, now: &Training) -> Result<Vec<String>> {
    let fields = |t: &Training| match serde_json::to_value(t) {
        Ok(serde_json::Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(Error::new(ErrorKind::Checkpoint, "the settings do not fit JSON")),
    };
    let (then_fields, now_fields) = (fields(then)?, fields(now)?);
    // Only the rate of a run without a schedule is known not to depend on its length.
    let may_differ = |key: &str| key == "epochs" && then.schedule == ScheduleSpec::default();
    let text = |value: Option<&serde_json::Value>| value.map_or("absent".to_string(), |v| v.to_string());
    let differs = then_fields.iter().filter(|(key, value)| now_fields.get(*key) != Some(value) && !may_differ(key));
    Ok(differs.map(|(key, value)| format!("\n  {key} was {value}, now {}", text(now_fields.get(key)))).collect())
}

/// What saves a run while it goes on.
pub struct Keeper {
    writer: Option<(Writer, Checkpoints)>,
    /// Batches that were done when it was saved last.
    saved: u64,
}

impl Keeper {
    /// Errors: the folder holds checkpoints already and the run is a new one; another process writes there.
    pub fn new(trainer: &Trainer, resumed: Option<&Checkpoint>, batches_per_epoch: u64) -> Result<Keeper> {
        let saved = resumed.map_or(0, |c| c.record.step);
        let Some(mut checkpoints) = trainer.checkpoints.clone() else { return Ok(Keeper { writer: None, saved }) };
        checkpoints.meta = trainer.meta(&checkpoints.meta);
        let home = Home::take(&checkpoints.folder)?;
        let found = list(&home.path)?;
        if let (Some((_, path)), None) = (found.last(), resumed) {
            let message =
                format!("{} is of another run; resume it, or use a folder without checkpoints", path.display());
            return Err(Error::new(ErrorKind::Config, message));
        }
        // What a resumed run will write again must not be there: a run that was resumed from an older checkpoint goes its way anew.
        for (_, newer) in found.iter().filter(|(step, _)| *step > saved) {
            std::fs::remove_dir_all(newer).map_err(|e| Error::io("remove", newer, e))?;
        }
        let is_here = |c: &&Checkpoint| c.folder.parent() == Some(&*home.path);
        let last = resumed.map(|c| c.folder.clone());
        let best_epoch = resumed.filter(is_here).and_then(|c| c.record.run.as_ref()?.best.epoch);
        let best = best_epoch.map(|epoch| u64::from(epoch) * batches_per_epoch);
        let writer = Writer::start(home, checkpoints.keep, checkpoints.beside.clone(), last, best)?;
        Ok(Keeper { writer: Some((writer, checkpoints)), saved })
    }

    /// Whether it is time to save within an epoch.
    pub fn is_due(&self, run: &Moment) -> bool {
        let every = self.writer.as_ref().and_then(|(_, checkpoints)| checkpoints.every_steps);
        every.is_some_and(|n| run.steps >= self.saved + n)
    }

    /// Saves at the end of an epoch if it is time, the epoch is the best so far, or the run ends.
    pub fn after_epoch(&mut self, run: &Moment, step: &mut Step, is_last: bool) -> Result<()> {
        let Some((_, checkpoints)) = &self.writer else { return Ok(()) };
        let is_best = run.state.epochs.last().is_some_and(|e| e.is_best);
        let n = run.state.epochs.len() as u32;
        let due = checkpoints.every_epochs.is_some_and(|every| n.is_multiple_of(every));
        if due || is_last || (is_best && checkpoints.keep.best) { self.save(run, step, is_best) } else { Ok(()) }
    }

    pub fn save(&mut self, run: &Moment, step: &mut Step, is_best: bool) -> Result<()> {
        let Some((writer, checkpoints)) = &self.writer else { return Ok(()) };
        let must_be_finite = run.training.non_finite == NonFinite::Stop;
        let record = Record {
            meta: Meta { epoch: Some(run.state.epochs.len() as u32), ..checkpoints.meta.clone() },
            position: Some(run.position.clone()),
            training: Some(run.training.clone()),
            run: Some(run.state.clone()),
            step: run.steps,
            ..Record::of(step)?
        };
        let snapshot = step.loaded().snapshot(writer.memory())?;
        self.saved = record.step;
        let best_weights = run.best_weights.cloned();
        writer.submit(Job { snapshot, record, best_weights, is_best, must_be_finite })
    }

    /// Waits until everything is on disk.
    /// Errors: a checkpoint could not be written.
    pub fn finish(self) -> Result<()> {
        self.writer.map_or(Ok(()), |(writer, _)| writer.finish())
    }

    /// "; the last good checkpoint is …" once there is one.
    pub fn hint(&self) -> String {
        let Some((writer, _)) = &self.writer else { return String::new() };
        // What is being written is good and may be the newest; that it cannot be written is less than what is reported now.
        let _ = writer.finish();
        let shown = |path: PathBuf| format!("; the last good checkpoint is {}", path.display());
        writer.last().map_or("; there is no checkpoint yet".to_string(), shown)
    }
}

/// A run between two steps.
pub struct Moment<'a> {
    pub training: &'a Training,
    pub state: &'a RunRecord,
    pub position: Position,
    pub best_weights: Option<&'a Weights>,
    /// Batches that are done. Where several make one update, the step's own number is smaller.
    pub steps: u64,
}

/// The newest checkpoint in `folder`, read and checked; `None` where there is none yet.
/// Errors: as [`Checkpoint::open`].
pub fn newest(folder: impl AsRef<Path>) -> Result<Option<Checkpoint>> {
    crate::checkpoint::latest(folder)?.map(Checkpoint::open).transpose()
}
