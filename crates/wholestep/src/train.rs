//! Training in one call. Takes a model (a description or a closure), a loss, an optimizer and data; gives weights, a history of epochs,
//! evaluations and predictions. Never reads from the device inside an epoch more often than progress is shown.
//!
//! ```no_run
//! use wholestep::spec::Model;
//! use wholestep::train::{Loss, OptimizerSpec, Trainer, Training};
//! let (train, test) = wholestep::data::mnist("data/mnist")?;
//! let model = Model::input([1, 28, 28]).flatten().linear(64).relu().linear(10);
//! let training = Training { epochs: 3, batch_size: 64, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adamw(1e-3)) };
//! let mut trainer = Trainer::new(&wholestep::Device::best()?, model, training)?;
//! let history = trainer.fit(&train, Some(&test), &mut [])?;
//! println!("{} epochs, accuracy {:?}", history.epochs.len(), trainer.evaluate(&test)?.numbers.accuracy);
//! # Ok::<(), wholestep::Error>(())
//! ```

mod checkpoints;
mod clip;
mod columns;
mod feed;
mod find_lr;
mod fingerprint;
mod fit;
mod loss;
mod record;
mod score;
mod scores;
mod traced;

pub use crate::optim::OptimizerSpec;
pub use crate::schedule::ScheduleSpec;
pub use checkpoints::{Checkpoints, newest};
pub use clip::ClipSpec;
pub use fingerprint::Fingerprint;
pub use loss::{Loss, Task};
pub use record::{Best, EarlyStopping, Ended, Epoch, History, Metric, Numbers, RunRecord, StopAt};
pub use scores::Evaluation;

use crate::checkpoint::{Checkpoint, Meta, Weights};
use crate::data::Dataset;
use crate::device::Device;
use crate::error::need;
use crate::optim::Optimizer;
use crate::schedule::RunLength;
use crate::spec::Model;
use crate::step::{Average, Loaded, Normalization, ParamGroup, Statistics};
use crate::{Error, ErrorKind, Infer, Precision, Result, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wholestep_compiler::ir::{Batch, Scope, Tensor, names};

/// What can be trained: something that traces its forward pass.
///
/// A closure `Fn(&Scope) -> Tensor` is one: it declares its inputs with [`Scope::input`] and returns the output `[B, ..]`. It is traced
/// once for training and once more for each kind of inference, where dropout is off.
pub trait Network {
    /// Traces the forward pass and returns its one output. Errors: the description does not fit together.
    fn trace(&self, s: &Scope) -> Result<Tensor>;

    /// Its description, where it has one.
    fn model(&self) -> Option<&Model> {
        None
    }
}

impl<F: Fn(&Scope) -> Tensor> Network for F {
    fn trace(&self, s: &Scope) -> Result<Tensor> {
        Ok(self(s))
    }
}

impl Network for Model {
    fn trace(&self, s: &Scope) -> Result<Tensor> {
        let (built, line) = (self.build(s), concat!(file!(), ":", line!()));
        // Errors name a line of the program that traced; a description has none, and this one helps nobody.
        let built = built.map_err(|e| e.without(&format!("{line}   ")).without(&format!("   {line}")))?;
        match built.outputs.as_slice() {
            [(_, output)] => Ok(output.clone()),
            outputs => {
                let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
                let message = format!("a trainer needs a model with one output, this one has {}", names.join(", "));
                Err(Error::new(ErrorKind::Config, message))
            }
        }
    }

    fn model(&self) -> Option<&Model> {
        Some(self)
    }
}

/// The traced output of `network`, one row for each sample.
/// Errors: as [`Network::trace`]; an output of another form, a single number for the whole batch among them.
fn output_of(network: &dyn Network, s: &Scope) -> Result<Tensor> {
    let output = network.trace(s)?;
    let shape = output.shape();
    // After a fault of the model its shape says nothing.
    if s.graph().borrow().error.is_none() && shape.dims().first() != Some(&Batch) {
        let message = format!("the model gives {shape}; a trainer needs an output with one row per sample, [B, ..]");
        return Err(Error::new(ErrorKind::Build, message));
    }
    Ok(output)
}

/// What a run does when the loss of a step is infinite or no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// Ends with an error that names the step and the last good checkpoint.
    #[default]
    Stop,
    /// Goes on, as a loss that is to recover by itself needs it.
    Continue,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// What is minimized, which also says what the outputs and the target are.
    pub loss: Loss,
    /// With its base rate.
    pub optimizer: OptimizerSpec,
    /// How the rate changes from update to update; constant by default.
    pub schedule: ScheduleSpec,
    /// Bounds the gradient before the update; absent by default.
    pub clip: Option<ClipSpec>,
    /// f32 by default.
    pub precision: Precision,
    /// The most bytes that parameters, state and arena may take; see [`crate::step::StepOptions::fit_in`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Parameters with settings of their own.
    pub groups: Vec<ParamGroup>,
    /// Batches that go into one update; 1: every batch updates. What is left at the end of an epoch makes an update of its own.
    pub accumulate: u32,
    /// An average of the weights to evaluate, predict and save with.
    pub average: Option<Average>,
    /// Notes the norm of the gradient at the end of each epoch.
    #[serde(default)]
    pub grad_norm: bool,
    /// Notes the gradient's noise scale at the end of each epoch; it needs [`Training::accumulate`].
    #[serde(default)]
    pub noise_scale: bool,
    /// At least 1, which is the default. A run that is resumed counts those that it has done.
    pub epochs: u32,
    /// Rows of a step; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// Leaves out a last step that is not full.
    pub drop_last: bool,
    /// Of initial weights, order and dropout.
    pub seed: u64,
    /// Ends a run that no longer improves; absent by default.
    pub early_stopping: Option<EarlyStopping>,
    /// Ends a run once a number is good enough; absent by default.
    pub stop_at: Option<StopAt>,
    /// What happens when the loss of a step is infinite or no number; by default the run ends with an error.
    pub non_finite: NonFinite,
    /// The column that holds the target.
    pub target: String,
}

impl Training {
    /// One epoch of batches of 32, seed 0, a constant rate, target "y", nothing that stops early.
    pub fn new(loss: Loss, optimizer: OptimizerSpec) -> Training {
        Training {
            loss,
            optimizer,
            schedule: ScheduleSpec::default(),
            clip: None,
            precision: Precision::F32,
            memory: None,
            groups: Vec::new(),
            accumulate: 1,
            average: None,
            grad_norm: false,
            noise_scale: false,
            epochs: 1,
            batch_size: 32,
            drop_last: false,
            seed: 0,
            early_stopping: None,
            stop_at: None,
            non_finite: NonFinite::Stop,
            target: "y".to_string(),
        }
    }

    /// Errors (`ErrorKind::Config`): an option outside of its range, by name.
    pub fn check(&self) -> Result<()> {
        self.loss.check().map_err(|e| e.context("loss"))?;
        Optimizer::check(&self.optimizer).map_err(|e| e.context("optimizer"))?;
        self.schedule.check().map_err(|e| e.context("schedule"))?;
        let within = || {
            need(self.epochs > 0, "epochs", "at least 1", &self.epochs)?;
            let sizes = 1..=1 << 24;
            need(sizes.contains(&self.batch_size), "batch_size", "1 to 16777216", &self.batch_size)?;
            self.clip.map_or(Ok(()), ClipSpec::check)?;
            self.groups.iter().try_for_each(ParamGroup::check)?;
            need(self.accumulate > 0, "accumulate", "at least 1 batch", &self.accumulate)?;
            self.average.map_or(Ok(()), Average::check)?;
            self.early_stopping.map_or(Ok(()), |e| e.check())?;
            let task = self.loss.task();
            let monitor = self.early_stopping.and_then(|e| e.monitor);
            monitor.map_or(Ok(()), |m| m.check(task)).map_err(|e| e.context("early_stopping.monitor"))?;
            self.stop_at.map_or(Ok(()), |s| s.metric.check(task)).map_err(|e| e.context("stop_at"))?;
            self.stop_at.map_or(Ok(()), |s| s.check().map_err(|e| e.context("stop_at")))
        };
        within().map_err(|e: Error| e.context("train"))
    }
}

/// What a callback wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the next epoch.
    Continue,
    /// End the run after this epoch.
    Stop,
}

/// What an epoch ends with.
#[derive(Debug)]
pub struct EpochEnd<'a> {
    /// Numbers of the epoch, as the history will have them.
    pub record: &'a Epoch,
    /// Of the validation set.
    pub evaluation: Option<&'a Evaluation>,
    /// The weights as they are now; read from the device when asked.
    pub step: &'a mut Step,
    trainer: &'a mut Trainer,
}

impl EpochEnd<'_> {
    /// Loss and metrics of the weights as they are now over another set than the validation set. Changes nothing in the run.
    /// Errors: as [`Trainer::evaluate`].
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        score::evaluate(self.trainer, self.step, data)
    }
}

/// Something that watches a run.
pub trait Callback {
    /// Epoch `epoch` (from 1) of `rows` rows begins.
    fn on_epoch_start(&mut self, epoch: u32, rows: u64) {
        let _ = (epoch, rows);
    }

    /// `rows` more rows are done; `loss` is the newest one known, where it was read.
    fn on_rows(&mut self, rows: u64, loss: Option<f64>) {
        let _ = (rows, loss);
    }

    /// An epoch has ended. An error ends the run with it.
    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> Result<Flow> {
        let _ = end;
        Ok(Flow::Continue)
    }
}

/// A model in training, or trained.
pub struct Trainer {
    device: Device,
    network: Box<dyn Network + Send>,
    training: Training,
    /// There from the first [`Trainer::prepare`] on.
    step: Option<Step>,
    /// The number of rows that the step was compiled for.
    prepared: Option<usize>,
    /// Weights that were loaded and not handed to a step yet.
    loaded: Option<Weights>,
    checkpoints: Option<Checkpoints>,
    /// Where the next run goes on.
    resumed: Option<Checkpoint>,
    /// How the step's kernels were made: the programs beside it are made alike.
    choices: BTreeMap<String, String>,
    scorer: Option<Infer>,
    predictor: Option<Infer>,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Trainer { device, training, step, .. } = self;
        let mut shown = f.debug_struct("Trainer");
        shown.field("device", device).field("training", training).field("step", step).finish_non_exhaustive()
    }
}

impl Trainer {
    /// A trainer that has compiled nothing yet.
    /// Errors: as [`Training::check`].
    pub fn new(device: &Device, network: impl Network + Send + 'static, training: Training) -> Result<Trainer> {
        training.check()?;
        let network = Box::new(network);
        let device = device.clone();
        Ok(Trainer {
            device,
            network,
            training,
            step: None,
            prepared: None,
            loaded: None,
            checkpoints: None,
            resumed: None,
            choices: BTreeMap::new(),
            scorer: None,
            predictor: None,
        })
    }

    /// How it trains.
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// What it trains on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The model's description, where it has one.
    pub fn model(&self) -> Option<&Model> {
        self.network.model()
    }

    /// The compiled step, once [`Trainer::prepare`] or [`Trainer::fit`] has made it.
    pub fn step(&mut self) -> Option<&mut Step> {
        self.step.as_mut()
    }

    /// Compiles the step for a run over `rows` rows, so that faults of the model show before anything else is done. Weights that are
    /// there already are kept; the optimizer begins anew.
    ///
    /// Errors: the model's first fault; weights that were loaded and do not fit; not enough memory; a last batch of an epoch that is too
    /// small for the model's batch statistics; rows that make no batch.
    pub fn prepare(&mut self, rows: usize) -> Result<&mut Step> {
        fit::check_rows(&self.training, rows)?;
        let step = self.compiled(rows, &self.training.schedule.clone(), true)?;
        self.loaded = None;
        self.prepared = Some(rows);
        Ok(self.step.insert(step))
    }

    /// The columns of `data` that the step takes, in its dtypes: what [`Trainer::fit`] and [`Trainer::evaluate`] make of them.
    /// Errors: no step was prepared; a column is missing or does not fit; targets that the loss does not take.
    pub fn fitted(&mut self, data: &Dataset) -> Result<Dataset> {
        match &mut self.step {
            Some(step) => columns::fitted(step.loaded(), data, &self.training, false),
            None => Err(Error::new(ErrorKind::Input, "the model is not compiled yet; call prepare first")),
        }
    }

    /// A new step for a run over `rows` rows under `schedule`, with the weights that are there. Where `has_epochs`, each of them ends with an
    /// update, so that an epoch is as many updates as the last.
    fn compiled(&mut self, rows: usize, schedule: &ScheduleSpec, has_epochs: bool) -> Result<Step> {
        let before = self.weights_now()?;
        let (batch, every) = (self.training.batch_size, self.training.accumulate);
        let batches = if self.training.drop_last { rows / batch } else { rows.div_ceil(batch) };
        let batches = u32::try_from(batches).unwrap_or(u32::MAX);
        let updates = u64::from(batches.div_ceil(every));
        let steps = updates * u64::from(self.training.epochs);
        let schedule = schedule.schedule(RunLength { steps, steps_per_epoch: updates });
        let mut options = Step::options()
            .seed(self.training.seed)
            .max_batch(batch.min(rows.max(1)))
            .schedule(&*schedule)
            .accumulate(every)
            .groups(self.training.groups.clone())
            .precision(self.training.precision);
        if has_epochs && !batches.is_multiple_of(every) {
            options = options.calls_per_epoch(batches);
        }
        if let Some(bytes) = self.training.memory {
            options = options.fit_in(bytes);
        }
        if let Some(average) = self.training.average {
            options = options.average(average);
        }
        if let Some(clip) = self.training.clip {
            options = options.clip(clip.clip());
        }
        if self.training.grad_norm {
            options = options.grad_norm();
        }
        if self.training.noise_scale {
            options = options.noise_scale();
        }
        if let Some(checkpoint) = &self.resumed {
            options = options.choices_of(&checkpoint.record);
        }
        let mut step = traced::compile(options, &self.device, &*self.network, &self.training)?;
        self.choices = step.loaded().choices();
        let last = if self.training.drop_last { 0 } else { rows % batch };
        for size in [batch.min(rows), last].into_iter().filter(|&n| n > 0) {
            step.loaded().check_batch(size).map_err(|why| {
                let message = format!("{rows} rows in batches of {batch}: {why} (drop_last), or change batch_size");
                Error::new(ErrorKind::Config, message)
            })?;
        }
        if let Some(weights) = before {
            weights.load_into(&mut step)?;
        }
        Ok(step)
    }

    /// [`Trainer::prepare`], unless that was done for as many rows and no step has run since.
    fn prepare_once(&mut self, rows: usize) -> Result<()> {
        let is_new = |step: &Step| step.counters().steps == 0;
        match self.prepared == Some(rows) && self.step.as_ref().is_some_and(is_new) {
            true => Ok(()),
            false => self.prepare(rows).map(|_| ()),
        }
    }

    /// What the model has learned, if there is anything.
    fn weights_now(&mut self) -> Result<Option<Weights>> {
        match (&mut self.step, &self.loaded) {
            (_, Some(loaded)) => Ok(Some(loaded.clone())),
            (Some(step), None) => Weights::of(step).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The weights by now.
    /// Errors: nothing was trained or loaded.
    pub fn weights(&mut self) -> Result<Weights> {
        self.weights_now()?.ok_or_else(no_weights)
    }

    /// Replaces the weights.
    /// Errors (`ErrorKind::Checkpoint`): every tensor that does not fit; nothing changes then.
    pub fn set_weights(&mut self, weights: Weights) -> Result<()> {
        match &mut self.step {
            Some(step) => {
                weights.load_into(step)?;
                self.loaded = None;
            }
            None => {
                // Compiling the forward pass is how weights are checked where no step needs them.
                self.predictor()?;
                let predictor = self.predictor.as_mut().expect("bug: the predictor was just made");
                weights.load_into_infer(predictor)?;
                self.loaded = Some(weights);
            }
        }
        Ok(())
    }

    /// Makes the model take samples of another shape from now on, with the weights that are there: images of another height and width, for a model
    /// whose weights do not depend on them. Each shape has programs of its own, which are compiled when they are first needed.
    ///
    /// Errors: the model is code; it has no such input; it cannot be built with `shape`, or its weights would have other shapes, which are named.
    /// Nothing changes then.
    pub fn set_input_shape(&mut self, input: &str, shape: impl Into<Vec<usize>>) -> Result<()> {
        let fault = |message: String| Err(Error::new(ErrorKind::Input, message));
        let Some(mut model) = self.network.model().cloned() else {
            return fault("a model that is code has its shapes there: compile a program of another and `Infer::copy_from` the step".into());
        };
        let Some(declared) = model.inputs.iter_mut().find(|i| i.name == input) else {
            let known: Vec<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
            return fault(format!("the model has no input {input}; it has {}", names::known(input, &known)));
        };
        declared.shape = shape.into();
        let mut other = Trainer::new(&self.device, model, self.training.clone())?;
        match self.weights_now()? {
            Some(weights) => other.set_weights(weights)?,
            None => other.predictor().map(|_| ())?,
        }
        let (checkpoints, resumed) = (self.checkpoints.take(), self.resumed.take());
        *self = Trainer { checkpoints, resumed, ..other };
        Ok(())
    }

    /// The statistics of the model's normalization layers, in the order in which it declares them.
    /// Errors: nothing was trained or loaded.
    pub fn normalizations(&mut self) -> Result<Vec<Normalization>> {
        self.changed(|program| program.normalizations())
    }

    /// Replaces the statistics of a layer, for evaluations, predictions and files from now on.
    /// Errors: as [`Step::set_normalization`]; nothing was trained or loaded.
    pub fn set_normalization(&mut self, layer: &str, statistics: &Statistics) -> Result<()> {
        self.changed(|program| program.set_normalization(layer, statistics))
    }

    /// Puts back mean 0 and variance (or deviation) 1. Errors: no such layer; nothing was trained or loaded.
    pub fn reset_normalization(&mut self, layer: &str) -> Result<()> {
        self.changed(|program| program.reset_normalization(layer))
    }

    /// Works on whatever holds the weights now.
    fn changed<T>(&mut self, work: impl FnOnce(&mut Loaded) -> Result<T>) -> Result<T> {
        match (&mut self.step, &self.loaded) {
            (Some(step), None) => work(step.loaded()),
            (_, Some(weights)) => {
                let weights = weights.clone();
                let predictor = self.predictor()?;
                weights.load_into_infer(predictor)?;
                let done = work(predictor.loaded())?;
                self.loaded = Some(Weights::of_infer(predictor)?);
                Ok(done)
            }
            (None, None) => Err(no_weights()),
        }
    }

    /// Writes the weights and what is needed to use them to `path`, at once. `meta.model` and `meta.loss` are filled in.
    /// Errors: nothing was trained or loaded; the file cannot be written (the old one is then as it was).
    pub fn save(&mut self, path: impl AsRef<std::path::Path>, meta: &Meta) -> Result<()> {
        let meta = self.meta(meta);
        self.weights()?.save(path, &meta)
    }

    /// `meta` with this trainer's model and loss.
    pub fn meta(&self, meta: &Meta) -> Meta {
        Meta { model: self.network.model().cloned(), loss: Some(self.training.loss.clone()), ..meta.clone() }
    }

    /// Loads weights from `path` and gives what was saved with them.
    /// Errors: as [`Weights::open`] and [`Trainer::set_weights`].
    pub fn load(&mut self, path: impl AsRef<std::path::Path>) -> Result<Meta> {
        let path = path.as_ref();
        let (weights, meta) = Weights::open(path)?;
        self.set_weights(weights).map_err(|e| e.context(path.display()))?;
        Ok(meta)
    }

    /// Trains for [`Training::epochs`] epochs, from the weights that are there or from new ones, or goes on where [`Trainer::resume`] said.
    ///
    /// Each call is a run of its own: called again it begins with the weights that the last one left (their average, where one is kept), and with
    /// the optimizer's state, the schedule, the order of rows and dropout's masks anew. To look at a run after each epoch, or to end it, give one
    /// call all epochs and a [`Callback`].
    ///
    /// The order of rows depends on the seed and the epoch. Several steps are one submission where they are short; that changes no bit.
    /// With early stopping the weights of the best epoch are put back at the end.
    /// Errors: as [`Trainer::prepare`]; a column that is missing, not needed, or of another shape; `ErrorKind::Diverged` with epoch and
    /// step when the loss is not finite; what a callback returns.
    pub fn fit(
        &mut self,
        train: &Dataset,
        validation: Option<&Dataset>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<History> {
        fit::fit(self, train, validation, callbacks)
    }
}

fn no_weights() -> Error {
    Error::new(ErrorKind::Input, "the model has no weights yet; call fit or load first")
}
