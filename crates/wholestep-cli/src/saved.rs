//! A trained model from disk. Takes a run folder or a weights file, gives a trainer with those weights and its configuration. Never trains.

use crate::config::Config;
use std::path::{Path, PathBuf};
use wholestep::checkpoint::{Meta, Weights};
use wholestep::train::Trainer;
use wholestep::{Error, ErrorKind, Result};

/// A model that was saved.
pub struct Saved {
    pub trainer: Trainer,
    pub config: Config,
    pub meta: Meta,
    pub file: PathBuf,
}

/// The best weights of a run, or those of a file.
/// Errors: nothing is there; the file is damaged or was not written by `train`.
pub fn open(path: &Path) -> Result<Saved> {
    let file = if path.is_dir() { path.join("best.safetensors") } else { path.to_path_buf() };
    let (weights, meta) = Weights::open(&file)?;
    let foreign = |what: &str| {
        let message = format!("{}: it holds no {what}; only files that `wholestep train` wrote do", file.display());
        Error::new(ErrorKind::Checkpoint, message)
    };
    let text = meta.config.as_deref().ok_or_else(|| foreign("configuration"))?;
    let config =
        Config::from_toml(text, "run").map_err(|e| e.context(format!("{}: its configuration", file.display())))?;
    let model = meta.model.clone().ok_or_else(|| foreign("model"))?;
    let mut trainer = Trainer::new(&config.device()?, model, config.training())?;
    trainer.set_weights(weights).map_err(|e| e.context(file.display()))?;
    Ok(Saved { trainer, config, meta, file })
}
