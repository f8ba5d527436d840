//! `wholestep eval`. Takes saved weights and data, gives metrics. Never changes either.

use crate::arguments;
use crate::config::{Data, load};
use crate::{saved, say, train};
use std::path::Path;
use wholestep::data::{Dataset, Standardize};
use wholestep::{Error, ErrorKind, Result};

pub fn eval(arguments: &arguments::Eval) -> Result<()> {
    let mut saved = saved::open(&arguments.run)?;
    let (part, data) = match &arguments.data {
        Some(path) => ("given", given(&saved, path)?),
        None => {
            let loaded = load(&saved.config.data, saved.config.train.seed)?;
            match (loaded.test, loaded.validation) {
                (Some(test), _) => ("test", test),
                (None, Some(validation)) => ("validation", validation),
                (None, None) => ("training", loaded.train),
            }
        }
    };
    let evaluation = saved.trainer.evaluate(&data)?;
    let names = &saved.meta.class_names;
    say(&format!(
        "{} on the {part} rows, {} of them: {}",
        saved.file.display(),
        evaluation.rows,
        train::numbers(&evaluation.numbers)
    ))?;
    evaluation.confusion.as_ref().map_or(Ok(()), |confusion| say(&confusion.table(names).to_string()))
}

/// All rows of another source of the same kind, scaled as the training rows were.
fn given(saved: &saved::Saved, path: &Path) -> Result<Dataset> {
    let mut data = saved.config.data.clone();
    match &mut data {
        Data::Mnist(f) | Data::FashionMnist(f) | Data::Sklearn(f) | Data::Npz(f) => {
            (f.path, f.validation, f.test, f.standardize) = (path.to_path_buf(), 0.0, 0.0, false);
        }
        Data::Csv(t) => (t.path, t.validation, t.test, t.standardize) = (path.to_path_buf(), 0.0, 0.0, false),
        Data::ImageFolder(p) => (p.path, p.validation, p.test, p.standardize) = (path.to_path_buf(), 0.0, 0.0, false),
        Data::Idx(_) | Data::Npy(_) => {
            let message = "this run's data is a pair of files; write its paths into a configuration of their own";
            return Err(Error::new(ErrorKind::Config, message));
        }
    }
    let rows = match &data {
        Data::Csv(t) => crate::config::table(t, &saved.meta.vocabularies, true)?.0,
        Data::Mnist(_)
        | Data::FashionMnist(_)
        | Data::Sklearn(_)
        | Data::Npz(_)
        | Data::ImageFolder(_)
        | Data::Idx(_)
        | Data::Npy(_) => {
            let loaded = load(&data, 0)?;
            loaded.test.unwrap_or(loaded.train)
        }
    };
    match saved.meta.scalings.first() {
        Some(scaling) => Standardize::from(scaling.clone()).apply(&rows),
        None => Ok(rows),
    }
}
