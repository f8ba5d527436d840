//! `wholestep inspect`. Takes a configuration or saved weights, gives layers, memory and the compiled step as text. Never trains.

use crate::arguments;
use crate::config::{Config, load};
use crate::{saved, say, train};
use wholestep::Result;
use wholestep::train::Trainer;

pub fn inspect(arguments: &arguments::Inspect) -> Result<()> {
    let what = &arguments.what;
    if what.extension().is_none_or(|e| e != "toml") {
        let saved = saved::open(what)?;
        let epoch = saved.meta.epoch.map_or(String::new(), |e| format!(", epoch {e}"));
        say(&format!("{}{epoch}\n{}", saved.file.display(), saved.config.model.summary()?))?;
        return explain(&saved.config, rows_of_an_update(&saved.config));
    }
    let mut config = Config::open(what)?;
    let mut rows = rows_of_an_update(&config);
    if config.model.inputs.is_empty() {
        // Only the data knows the shape of the inputs then.
        let data = load(&config.data, config.train.seed)?;
        train::complete(&mut config, &data.train)?;
        rows = data.train.rows();
    }
    say(&config.model.summary()?.to_string())?;
    explain(&config, rows)
}

fn rows_of_an_update(config: &Config) -> usize {
    config.train.batch_size * config.train.accumulate as usize
}

fn explain(config: &Config, rows: usize) -> Result<()> {
    let mut trainer = Trainer::new(&config.device()?, config.model.clone(), config.training())?;
    say(&trainer.prepare(rows)?.explain())
}
