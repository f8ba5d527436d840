//! `wholestep lr`. Takes a configuration, gives the loss at rising rates and a rate to begin with. Never trains anything that is kept.

use crate::arguments;
use crate::config::{Config, load};
use crate::say;
use crate::train::complete;
use std::fmt::Write;
use wholestep::Result;
use wholestep::checkpoint::write_atomically;
use wholestep::step::{LrCurve, LrSearch};
use wholestep::train::Trainer;

/// Points shown on the terminal; a file has all.
const SHOWN: usize = 20;

pub fn lr(arguments: &arguments::Lr) -> Result<()> {
    let mut config = Config::open(&arguments.file)?;
    config.train.seed = arguments.seed.unwrap_or(config.train.seed);
    config.train.device = arguments.device.clone().or(config.train.device);
    let search = LrSearch { from: arguments.from, to: arguments.to, points: arguments.points, ..LrSearch::default() };
    search.check()?;
    let device = config.device()?;
    let data = load(&config.data, config.train.seed)?;
    complete(&mut config, &data.train)?;
    let mut trainer = Trainer::new(&device, config.model.clone(), config.training())?;
    let curve = trainer.find_lr(&data.train, &search)?;
    if let Some(path) = &arguments.out {
        write_atomically(path, csv(&curve).as_bytes())?;
    }
    say(&text(&curve))
}

fn csv(curve: &LrCurve) -> String {
    let mut text = String::from("lr,loss,smoothed\n");
    for p in &curve.points {
        let _ = writeln!(text, "{:e},{},{}", p.lr, p.loss, p.smoothed);
    }
    text
}

fn text(curve: &LrCurve) -> String {
    let mut text = String::from("        lr       loss   smoothed\n");
    for p in curve.points.iter().step_by(curve.points.len().div_ceil(SHOWN)) {
        let _ = writeln!(text, "{:10.2e} {:10.5} {:10.5}", p.lr, p.loss, p.smoothed);
    }
    match curve.suggestion {
        Some(lr) => {
            let _ = write!(text, "suggested: lr = {lr:.1e}, where the smoothed loss falls fastest");
        }
        None => text.push_str("no suggestion: the loss falls at none of these rates; try others with --from and --to"),
    }
    text
}
