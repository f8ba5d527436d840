//! When the test set first was as good as wanted. Takes a target and the epochs of a run, gives a line for its end. Never acts upon what it
//! finds: nothing is chosen by a test set.

use crate::config::{Config, Loaded};
use crate::run::RunFolder;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use wholestep::data::Dataset;
use wholestep::train::{EpochEnd, RunRecord, StopAt};
use wholestep::{Error, ErrorKind, Result};

/// In the run's folder, so that a resumed run knows.
pub const FILE: &str = "test_target.json";

pub struct TestTarget<'a> {
    wanted: StopAt,
    test: &'a Dataset,
    started: Instant,
    /// Seconds of training before the run was resumed.
    before_seconds: f64,
    reached: Option<Reached>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reached {
    target: StopAt,
    epoch: u32,
    number: f64,
    /// From the start of the run: reading the data, compiling and every evaluation so far are in it.
    seconds: f64,
}

impl<'a> TestTarget<'a> {
    /// What `config` asks for. Errors: there is no test set.
    pub fn new(config: &Config, data: &'a Loaded, started: Instant) -> Result<Option<TestTarget<'a>>> {
        match (config.train.test_target, &data.test) {
            (Some(wanted), Some(test)) => {
                Ok(Some(TestTarget { wanted, test, started, before_seconds: 0.0, reached: None }))
            }
            (None, _) => Ok(None),
            (Some(_), None) => {
                let message = "train: test_target: there is no test set; give [data] one: test = 0.2";
                Err(Error::new(ErrorKind::Config, message))
            }
        }
    }

    /// Goes on with a run that was at `run`. Errors: what it noted cannot be read.
    pub fn resume(&mut self, run: &RunRecord, folder: &RunFolder) -> Result<()> {
        self.before_seconds = run.seconds;
        let path = folder.file(FILE);
        if !path.exists() {
            return Ok(());
        }
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let reached: Reached = serde_json::from_slice(&text)
            .map_err(|e| Error::new(ErrorKind::Checkpoint, format!("{}: {e}", path.display())))?;
        // Epochs after the checkpoint run again, and another target may be asked for now.
        let holds = reached.epoch as usize <= run.epochs.len() && reached.target == self.wanted;
        self.reached = Some(reached).filter(|_| holds);
        Ok(())
    }

    /// Looks after an epoch, until the target is reached.
    pub fn look(&mut self, end: &mut EpochEnd, folder: &RunFolder) -> Result<()> {
        if self.reached.is_some() {
            return Ok(());
        }
        let number = end.evaluate(self.test)?.numbers.get(self.wanted.metric);
        if let Some(number) = number.filter(|&n| self.wanted.is_reached(Some(n))) {
            let seconds = self.before_seconds + self.started.elapsed().as_secs_f64();
            let reached = Reached { target: self.wanted, epoch: end.record.epoch, number, seconds };
            folder.write(FILE, serde_json::json!(reached).to_string().as_bytes())?;
            self.reached = Some(reached);
        }
        Ok(())
    }

    /// "the test set's accuracy reached 0.99 (0.9914) after epoch 3, 21.0 s from the start".
    pub fn told(&self) -> String {
        let (name, value) = (self.wanted.metric.name(), self.wanted.value);
        match &self.reached {
            Some(r) => format!(
                "the test set's {name} reached {value} ({:.5}) after epoch {}, {:.1} s from the start\n",
                r.number, r.epoch, r.seconds
            ),
            None => format!("the test set's {name} reached {value} after no epoch\n"),
        }
    }
}
