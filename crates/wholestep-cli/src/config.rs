//! The configuration of a run. Takes a TOML file, gives typed sections with every default spelled out, or one error that says where and
//! what to write instead. Never reads data and never accepts a key that means nothing.

mod data;
mod memory;
mod read;

pub use data::{Data, Loaded, Table, dialect, load, table};
pub use memory::Memory;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wholestep::checkpoint::Keep;
use wholestep::spec::Model;
use wholestep::train::{
    Checkpoints, ClipSpec, EarlyStopping, Loss, NonFinite, OptimizerSpec, ScheduleSpec, StopAt, Training,
};
use wholestep::{Average, Error, ErrorKind, ParamGroup, Precision, Result};

/// All sections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What the run's folder is called; absent in files: the file's own name.
    pub name: String,
    pub data: Data,
    pub model: Model,
    pub loss: Loss,
    pub optimizer: OptimizerSpec,
    pub schedule: ScheduleSpec,
    pub train: Train,
}

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    pub epochs: u32,
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    #[serde(default)]
    pub drop_last: bool,
    /// Absent: `WHOLESTEP_SEED`, else 0.
    #[serde(default = "seed")]
    pub seed: u64,
    /// Absent: what `WHOLESTEP_DEVICE` names, else the fastest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipSpec>,
    /// "f32", "tf32", "bf16" or "f16".
    #[serde(default)]
    pub precision: Precision,
    /// The most that parameters, state and arena may take: "2 GiB". Values are computed again until it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Batches for one update.
    #[serde(default = "one")]
    pub accumulate: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<Average>,
    /// Notes the gradient's norm after each epoch.
    #[serde(default)]
    pub grad_norm: bool,
    /// Notes the gradient's noise scale after each epoch.
    #[serde(default)]
    pub noise_scale: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParamGroup>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<StopAt>,
    /// How good the model shall be on the test set: the run says after how many seconds it first was. For that the test set is evaluated
    /// after each epoch until it is reached. Nothing is chosen by it: not the weights that are kept, not when the run ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_target: Option<StopAt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    #[serde(default)]
    pub checkpoint: Checkpoint,
    #[serde(default)]
    pub non_finite: NonFinite,
}

impl Train {
    /// Errors (`ErrorKind::Config`): a test target that no test set has.
    fn check(&self, loss: &Loss) -> Result<()> {
        match self.test_target {
            Some(target) if !target.metric.needs_validation() => {
                let message = format!("test_target: {} is no number of the test set", target.metric.name());
                Err(Error::new(ErrorKind::Config, message))
            }
            Some(target) => {
                target.metric.check(loss.task()).and_then(|()| target.check()).map_err(|e| e.context("test_target"))
            }
            None => Ok(()),
        }
    }
}

fn batch_size() -> usize {
    32
}

fn seed() -> u64 {
    // A fault in the environment is told when the device is asked for.
    wholestep::env().ok().and_then(|env| env.seed).unwrap_or(0)
}

/// When a run is saved so that it can be resumed: `checkpoint = { every_steps = 500 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    pub every_epochs: u32,
    /// Within epochs too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// The newest ones that stay; 0 writes none.
    pub keep_last: usize,
    /// Whether that of the best epoch stays as well.
    pub keep_best: bool,
}

impl Default for Checkpoint {
    fn default() -> Checkpoint {
        Checkpoint { every_epochs: 1, every_steps: None, keep_last: 2, keep_best: true }
    }
}

impl Checkpoint {
    fn check(&self) -> Result<()> {
        if self.every_epochs == 0 || self.every_steps == Some(0) {
            let message =
                "train: checkpoint: need every_epochs and every_steps of at least 1; keep_last = 0 writes none";
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(())
    }

    /// As the library's trainer takes it.
    pub fn into(self, folder: &Path, beside: Vec<PathBuf>, meta: wholestep::checkpoint::Meta) -> Option<Checkpoints> {
        let keep = Keep { last: self.keep_last, best: self.keep_best };
        let (every_epochs, every_steps) = (Some(self.every_epochs), self.every_steps);
        let folder = folder.to_path_buf();
        (self.keep_last > 0).then_some(Checkpoints { folder, every_epochs, every_steps, keep, beside, meta })
    }
}

fn one() -> u32 {
    1
}

impl Config {
    /// Reads the file at `path`. Paths in it are relative to its folder.
    /// Errors: it cannot be read; what [`Config::from_toml`] says.
    pub fn open(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let stem = path.file_stem().map_or_else(|| "run".to_string(), |s| s.to_string_lossy().into_owned());
        let mut config = Config::from_toml(&text, &stem).map_err(|e| e.context(path.display()))?;
        config.data.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Reads the resolved configuration in the folder of a run, whose paths are as they were when it was started.
    /// Errors: as [`Config::open`].
    pub fn of_run(folder: &Path) -> Result<Config> {
        let path = folder.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        Config::from_toml(&text, "run").map_err(|e| e.context(path.display()))
    }

    /// Reads the text of a file; `name` is used where it names none.
    /// Errors (`ErrorKind::Config`): no TOML; an unknown or missing key or section; a value of the wrong type or outside of its range.
    pub fn from_toml(text: &str, name: &str) -> Result<Config> {
        let config = read::config(text, name)?;
        config.training().check()?;
        config.train.checkpoint.check()?;
        config.train.check(&config.loss).map_err(|e| e.context("train"))?;
        config.data.check().map_err(|e| e.context("data"))?;
        let is_word = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if config.name.is_empty() || config.name.starts_with('.') || !config.name.chars().all(is_word) {
            let message = format!("name: need letters, digits, - or _, got {:?}", config.name);
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(config)
    }

    /// The file that gives this configuration, defaults included.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::new(ErrorKind::Config, format!("the configuration does not fit TOML: {e}")))
    }

    /// What the library's trainer takes.
    pub fn training(&self) -> Training {
        Training {
            schedule: self.schedule.clone(),
            clip: self.train.clip,
            precision: self.train.precision,
            memory: self.train.memory.as_ref().map(|m| m.bytes),
            groups: self.train.groups.clone(),
            accumulate: self.train.accumulate,
            average: self.train.average,
            grad_norm: self.train.grad_norm,
            noise_scale: self.train.noise_scale,
            epochs: self.train.epochs,
            batch_size: self.train.batch_size,
            drop_last: self.train.drop_last,
            seed: self.train.seed,
            early_stopping: self.train.early_stopping,
            stop_at: self.train.stop_at,
            non_finite: self.train.non_finite,
            ..Training::new(self.loss.clone(), self.optimizer.clone())
        }
    }

    /// The device that the file or the environment names.
    pub fn device(&self) -> Result<wholestep::Device> {
        match &self.train.device {
            Some(name) => wholestep::Device::named(name),
            None => wholestep::Device::best(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    const GOOD: &str = r#"
[data]
kind = "csv"
path = "houses.csv"
target = "price"

[model]
layers = [
  { type = "linear", out_features = 8 },
  { type = "relu" },
  { type = "linear", out_features = 1 },
]
inputs = [{ name = "x", shape = [10] }]

[loss]
kind = "mse"

[optimizer]
kind = "adamw"
lr = 1e-3

[train]
epochs = 3
"#;

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        Config::from_toml(&GOOD.replace(from, to), "t").unwrap_err().to_string()
    }

    #[test]
    fn a_file_comes_back_equal_with_its_defaults() {
        let config = Config::from_toml(GOOD, "houses").unwrap();
        assert_eq!((config.train.batch_size, config.name.as_str()), (32, "houses"));
        let again = Config::from_toml(&config.to_toml().unwrap(), "other").unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn layers_take_kind_and_sections_take_type() {
        let config = Config::from_toml(GOOD, "t").unwrap();
        let swapped = GOOD.replace("{ type = ", "{ kind = ").replace("\nkind = ", "\ntype = ");
        assert!(swapped.matches("kind =").count() == 3 && swapped.matches("type =").count() == 3);
        assert_eq!(Config::from_toml(&swapped, "t").unwrap(), config);
    }

    /// Cuts, repeated pieces and strange characters give a configuration or an error, never a panic.
    #[test]
    fn damaged_text_is_answered() {
        const JUNK: [&str; 12] = ["[", "]]", "{", "=", "\"", "é", "\n", "-1", "1e400", "nan", "[data]\n", "kind = 3\n"];
        let mut random = wholestep::data::random::Philox::new(1, 0);
        let mut below = |n: usize| random.uniform(0.0, n as f64) as usize;
        let mut n_read = 0;
        for _ in 0..2000 {
            let mut text: Vec<char> = GOOD.chars().collect();
            for _ in 0..=below(3) {
                let (from, len) = (below(text.len() + 1), below(12));
                let end = (from + len).min(text.len());
                let new: Vec<char> = match below(3) {
                    0 => Vec::new(),
                    1 => text[from..end].repeat(2),
                    _ => JUNK[below(JUNK.len())].chars().collect(),
                };
                text.splice(from..end, new);
            }
            match Config::from_toml(&String::from_iter(text), "t") {
                Ok(config) => n_read += usize::from(config.to_toml().is_ok()),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
        assert!((20..1900).contains(&n_read), "{n_read} of 2000 were read: the damage is too small or too large");
    }

    #[test]
    fn optimizers_schedules_groups_and_averages_come_back_equal() {
        let rules = [
            "kind = \"rmsprop\"\ncentered = true\nmomentum = 0.9",
            "kind = \"muon\"\nrate = \"match_rms_adamw\"",
            "kind = \"schedule_free_adamw\"\nbetas = [0.8, 0.99]",
            "kind = \"adafactor\"\neps = [1e-6, 1e-2]",
        ];
        let schedules = [
            "kind = \"plateau\"\nmetric = \"loss\"\nthreshold = { abs = 0.1 }",
            "kind = \"warmup\"\nsteps = 5\nthen = { kind = \"cosine\" }",
            "kind = \"cyclic\"\nmax = 1.0\nup = 3\ndown = 4\nmode = { exp_range = 0.9 }",
            "kind = \"sequential\"\nparts = [{ steps = 3, schedule = { kind = \"linear\" } }]\nlast = { kind = \"per_epoch\", schedule = { \
             kind = \"step\", size = 2 } }",
        ];
        for (rule, schedule) in rules.iter().zip(schedules) {
            let extra = "epochs = 3\nmemory = \"2 GiB\"\naccumulate = 4\naverage = { kind = \"swa\", every = 2 }\ngroups = [{ params = \"*/bias\", lr = 1.0 }]";
            let text = GOOD.replace("kind = \"adamw\"", rule).replace("epochs = 3", extra);
            let config = Config::from_toml(&format!("{text}\n[schedule]\n{schedule}\n"), "t").unwrap();
            let again = Config::from_toml(&config.to_toml().unwrap(), "t").unwrap();
            assert_eq!(again, config);
            assert_eq!(config.training().groups[0].lr, Some(1.0));
        }
    }

    #[test]
    fn errors_say_where_and_what_to_write() {
        let cases = [
            (
                "lr = 1e-3",
                "lerning_rate = 1e-3",
                "unknown key `lerning_rate` in [optimizer] at line 20; did you mean `lr`?",
            ),
            (
                "epochs = 3",
                "epochs = 3\nbatchsize = 4",
                "unknown key `batchsize` in [train] at line 24; did you mean `batch_size`?",
            ),
            ("[loss]", "[los]", "unknown section [los] at line 15; did you mean [loss]?"),
            ("kind = \"mse\"", "kind = \"msee\"", "[loss] at line 15: unknown kind `msee`; did you mean `mse`?"),
            ("lr = 1e-3", "", "[optimizer] at line 18: the key `lr` is missing"),
            ("epochs = 3", "epochs = \"3\"", "[train] at line 23: epochs: invalid type: string \"3\", expected u32"),
            ("lr = 1e-3", "lr = -1.0", "optimizer: lr: need a finite number >= 0, got -1"),
            ("\"adamw\"", "\"adaam\"", "[optimizer] at line 18: unknown kind `adaam`; did you mean `adam`?"),
            (
                "\"adamw\"",
                "\"lion\"\nmomentum = 0.9",
                "unknown key `momentum` in [optimizer] at line 20; known are lr, betas, weight_decay",
            ),
            (
                "[train]",
                "[schedule]\nkind = \"step\"\nsiez = 3\n[train]",
                "unknown key `siez` in [schedule] at line 24; did you mean `size`?",
            ),
            (
                "[train]",
                "[schedule]\nkind = \"warmup\"\nsteps = 3\nthen = { kind = \"cosin\" }\n[train]",
                "[schedule] at line 22: unknown kind `cosin`; did you mean `cosine`?",
            ),
            (
                "epochs = 3",
                "epochs = 3\nmemory = \"much\"",
                "[train] at line 24: memory: need an amount like \"2 GiB\", \"1.5 GB\" or \"800 MiB\", got \"much\"",
            ),
            ("epochs = 3", "epochs = 3\naccumulate = 0", "train: accumulate: need at least 1 batch, got 0"),
            (
                "epochs = 3",
                "epochs = 3\ngroups = [{ params = \"x\", lr = 1.0, lr_scale = 2.0 }]",
                "train: the group x: lr: need either lr or lr_scale, got both",
            ),
            (
                "epochs = 3",
                "epochs = 3\nprecision = \"f8\"",
                "[train] at line 24: unknown precision `f8`; there are f32, tf32, bf16, f16",
            ),
            ("epochs = 3", "epochs = 0", "train: epochs: need at least 1, got 0"),
            (
                "epochs = 3",
                "epochs = 3\ntest_target = { metric = \"train_loss\", value = 0.1 }",
                "train: test_target: train_loss is no number of the test set",
            ),
            ("kind = \"csv\"", "kind = \"cvs\"", "[data] at line 2: unknown kind `cvs`; did you mean `csv`?"),
            (
                "out_features = 8",
                "out_featurs = 8",
                "unknown key `out_featurs` in [model] at line 9; did you mean `out_features`?",
            ),
        ];
        for (from, to, want) in cases {
            assert_eq!(error(from, to), want);
        }
    }
}
