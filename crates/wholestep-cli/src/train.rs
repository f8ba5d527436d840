//! `wholestep train`. Takes a configuration, gives a run folder with weights, numbers and a report. Never makes the folder before the
//! configuration, the data and the model are known to be good.

use crate::arguments;
use crate::config::{Config, Loaded, load};
use crate::progress::Progress;
use crate::report::EpochRow;
use crate::run::{BEST, LAST, RunFolder};
use crate::target::TestTarget;
use crate::{page, say};
use std::path::{Path, PathBuf};
use std::time::Instant;
use wholestep::checkpoint::{Checkpoint, Meta, Weights, write_atomically};
use wholestep::data::Dataset;
use wholestep::spec::Input;
use wholestep::train::{Callback, Ended, Epoch, EpochEnd, Evaluation, Flow, History, Numbers, Trainer, newest};
use wholestep::{Error, ErrorKind, Result};

pub fn train(arguments: &arguments::Train) -> Result<()> {
    let started = Instant::now();
    let (mut config, run) = opened(arguments)?;
    config.train.seed = arguments.seed.unwrap_or(config.train.seed);
    config.train.epochs = arguments.epochs.unwrap_or(config.train.epochs);
    config.train.device = arguments.device.clone().or(config.train.device);
    config.training().check()?;
    let device = config.device()?;
    let data = load(&config.data, config.train.seed)?;
    complete(&mut config, &data.train)?;
    let mut target = TestTarget::new(&config, &data, started)?;
    let mut trainer = Trainer::new(&device, config.model.clone(), config.training())?;
    let saved = match &run {
        Some(run) => resumed(run)?,
        None => None,
    };
    let before = saved.as_ref().and_then(|s| s.record.run.clone());
    let done = before.as_ref().map_or(&[][..], |run| &run.epochs);
    saved.map_or(Ok(()), |saved| trainer.resume(saved))?;
    let explanation = trainer.prepare(data.train.rows())?.explain();
    for (name, part) in
        [("training", Some(&data.train)), ("validation", data.validation.as_ref()), ("test", data.test.as_ref())]
    {
        part.map_or(Ok(()), |part| trainer.fitted(part).map(drop)).map_err(|e| e.context(format!("{name} part")))?;
    }
    say(&format!("{}\n{}", config.model.summary()?, headline(&explanation)))?;
    if let Some(file) = &arguments.init_from {
        say(&format!("{}: {}", file.display(), trainer.load_fitting(file)?))?;
    }
    let mut folder = match &run {
        Some(run) => RunFolder::reopen(run, done)?,
        None => RunFolder::create(&config.name, arguments.out.as_deref())?,
    };
    if let (Some(target), Some(before)) = (&mut target, &before) {
        target.resume(before, &folder)?;
    }
    let text = config.to_toml()?;
    write_atomically(&folder.file("config.toml"), text.as_bytes())?;
    let meta = trainer.meta(&Meta {
        class_names: data.train.class_names().to_vec(),
        feature_names: data.train.feature_names().to_vec(),
        scalings: data.scaling.clone().map(Into::into).into_iter().collect(),
        config: Some(text),
        vocabularies: data.vocabularies.clone(),
        ..Meta::default()
    });
    if let Some(checkpoints) = config.train.checkpoint.into(&folder.file(CHECKPOINTS), folder.files(), meta.clone()) {
        trainer.set_checkpoints(checkpoints);
        if run.is_none() {
            let path = folder.path.display();
            say(&format!("writing {path}; if it is interrupted, `wholestep train {path} --resume` goes on"))?;
        }
    }
    let progress = Progress::new(config.train.epochs);
    let epochs = done.iter().map(row).collect();
    let mut keeper = Keeper { folder: &mut folder, progress, meta: &meta, epochs, target };
    let history = trainer.fit(&data.train, data.validation.as_ref(), &mut [&mut keeper])?;
    keeper.folder.sync()?;
    let Keeper { progress, epochs, target, .. } = keeper;
    let reached = target.as_ref().map_or(String::new(), TestTarget::told);
    let tested = finish(&mut trainer, &folder, &data)?;
    let lines = closing(&config, &history, &tested, &reached, &folder);
    page::write(&mut trainer, &config, &data, &history, epochs, &tested, &folder)?;
    progress.finish(&[]);
    say(&lines)
}

/// Below the folder of a run.
const CHECKPOINTS: &str = "checkpoints";

/// The configuration, and the folder of the run to go on with.
fn opened(arguments: &arguments::Train) -> Result<(Config, Option<PathBuf>)> {
    let file = &arguments.file;
    let fault = |message: String| Err(Error::new(ErrorKind::Config, message));
    if !arguments.resume && file.is_dir() {
        return fault(format!("{} is a folder; with --resume its run goes on", file.display()));
    }
    if !arguments.resume {
        arguments.out.as_deref().map_or(Ok(()), RunFolder::need_new)?;
        return Ok((Config::open(file)?, None));
    }
    if file.is_dir() && !file.join("config.toml").exists() {
        return fault(format!("{} is not the folder of a run: it has no config.toml", file.display()));
    }
    if file.is_dir() {
        return Ok((Config::of_run(file)?, Some(file.clone())));
    }
    let config = Config::open(file)?;
    let run = arguments.out.clone().filter(|out| out.exists()).or_else(|| match arguments.out {
        Some(_) => None,
        None => RunFolder::newest(&config.name),
    });
    if run.is_none() {
        say("no run to resume: starting a new one")?;
    }
    Ok((config, run))
}

/// The newest checkpoint of a run.
fn resumed(run: &Path) -> Result<Option<Checkpoint>> {
    let saved = newest(run.join(CHECKPOINTS))?;
    say(&match &saved {
        Some(saved) => {
            let epochs = saved.record.run.as_ref().map_or(0, |r| r.epochs.len());
            format!("resuming {} after step {}, {epochs} epochs ended", run.display(), saved.record.step)
        }
        None => format!("{} has no checkpoint yet: starting at its beginning", run.display()),
    })?;
    Ok(saved)
}

/// Fills in what follows from the data: the inputs of the model.
pub fn complete(config: &mut Config, data: &Dataset) -> Result<()> {
    if config.model.inputs.is_empty() {
        let x = data.column("x").map_err(|e| e.context("the model names no inputs"))?;
        config.model.inputs = vec![Input::new("x", &x.shape()[1..])];
    }
    if config.model.layers.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            "[model]: there are no layers; write layers = [{ type = \"linear\", … }]",
        ));
    }
    Ok(())
}

/// The first line of an explanation.
fn headline(explanation: &str) -> &str {
    explanation.lines().next().unwrap_or_default()
}

/// Writes weights and numbers as the epochs end, and shows them.
struct Keeper<'a> {
    folder: &'a mut RunFolder,
    progress: Progress,
    meta: &'a Meta,
    epochs: Vec<EpochRow>,
    target: Option<TestTarget<'a>>,
}

impl Callback for Keeper<'_> {
    fn on_epoch_start(&mut self, epoch: u32, rows: u64) {
        self.progress.epoch_start(epoch, rows);
    }

    fn on_rows(&mut self, rows: u64, loss: Option<f64>) {
        self.progress.batch(rows, loss, None);
    }

    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> Result<Flow> {
        let record = end.record;
        let bytes = Weights::of(end.step)?.to_bytes(&Meta { epoch: Some(record.epoch), ..self.meta.clone() })?;
        if record.is_best {
            self.folder.write(BEST, &bytes)?;
        }
        self.folder.write(LAST, &bytes)?;
        self.folder.add_epoch(record)?;
        if let Some(target) = &mut self.target {
            target.look(end, self.folder)?;
        }
        let row = row(record);
        self.progress.epoch_end(&row);
        self.epochs.push(row);
        Ok(Flow::Continue)
    }
}

/// A line of the report's table.
fn row(record: &Epoch) -> EpochRow {
    EpochRow {
        epoch: record.epoch,
        train_loss: record.train_loss,
        val_loss: record.validation.map(|n| n.loss),
        train_acc: record.train_accuracy,
        val_acc: record.validation.and_then(|n| n.accuracy),
        lr: Some(record.lr),
        grad_norm: record.grad_norm,
        noise_scale: record.noise_scale,
        seconds: Some(record.seconds),
    }
}

/// Which part the best weights were tested on, and how.
pub struct Tested<'a> {
    pub part: &'static str,
    pub data: &'a Dataset,
    pub evaluation: Evaluation,
}

/// Puts the best weights back and evaluates them on the part that was never trained on, where there is one.
fn finish<'a>(trainer: &mut Trainer, folder: &RunFolder, data: &'a Loaded) -> Result<Tested<'a>> {
    let best = folder.file(BEST);
    if best.exists() {
        trainer.load(&best)?;
    }
    let (part, data) = match (&data.test, &data.validation) {
        (Some(test), _) => ("test", test),
        (None, Some(validation)) => ("validation", validation),
        (None, None) => ("training", &data.train),
    };
    Ok(Tested { part, data, evaluation: trainer.evaluate(data)? })
}

/// "loss 0.0312, accuracy 99.05 %".
pub fn numbers(n: &Numbers) -> String {
    let mut parts = vec![format!("loss {:.5}", n.loss)];
    let mut share = |name: &str, x: Option<f64>| parts.extend(x.map(|x| format!("{name} {:.2} %", 100.0 * x)));
    share("accuracy", n.accuracy);
    share("top 5", n.top5);
    share("macro F1", n.macro_f1);
    let mut plain = |name: &str, x: Option<f64>| parts.extend(x.map(|x| format!("{name} {x:.5}")));
    plain("ROC AUC", n.roc_auc);
    plain("MAE", n.mae);
    plain("RMSE", n.rmse);
    plain("R²", n.r2);
    parts.join(", ")
}

fn closing(config: &Config, history: &History, tested: &Tested, reached: &str, folder: &RunFolder) -> String {
    let ended = match (history.ended, config.train.stop_at) {
        (Ended::Target { seconds }, Some(stop)) => {
            format!("reached {} {} after {seconds:.1} s", stop.metric.name(), stop.value)
        }
        (Ended::Patience, _) => "stopped: nothing improved any more".to_string(),
        (Ended::Epochs, Some(stop)) => format!("did not reach {} {}", stop.metric.name(), stop.value),
        (Ended::Target { .. } | Ended::Epochs | Ended::Callback, _) => "all epochs ran".to_string(),
    };
    let best = history.best_epoch.map_or(String::new(), |e| format!(" (weights of epoch {e})"));
    let rows = tested.evaluation.rows;
    format!(
        "{ended}; {:.1} s in all\n{reached}{} set, {rows} rows{best}: {}\nweights, numbers and report.html are in {}",
        history.seconds,
        tested.part,
        numbers(&tested.evaluation.numbers),
        folder.path.display()
    )
}
