//! What a run learns from, in a few bytes. Takes data sets, gives a checksum of each column, and names a column that is another one now.
//! Never keeps the data.

use crate::data::{Array, Dataset};
use crate::step::array_bytes;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Checksums of all columns of a run: every value counts, so that a run never goes on with other data of the same size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    training: Vec<(String, u64)>,
    validation: Vec<(String, u64)>,
}

impl Fingerprint {
    pub(super) fn of(train: &Dataset, validation: Option<&Dataset>) -> Fingerprint {
        let columns = |data: &Dataset| data.columns().map(|(name, array)| (name.to_string(), sum(array))).collect();
        Fingerprint { training: columns(train), validation: validation.map_or_else(Vec::new, columns) }
    }

    /// Errors (`ErrorKind::Checkpoint`): the first column of `now` that is not the one of `self`.
    pub(super) fn check(&self, now: &Fingerprint) -> Result<()> {
        for (set, then, now) in
            [("training", &self.training, &now.training), ("validation", &self.validation, &now.validation)]
        {
            let find = |columns: &[(String, u64)], name: &str| columns.iter().find(|c| c.0 == name).map(|c| c.1);
            let what = then.iter().chain(now).find_map(|(name, _)| match (find(then, name), find(now, name)) {
                (Some(then), Some(now)) if then == now => None,
                (Some(_), Some(_)) => Some(format!("column {name:?} holds other values or another type")),
                (Some(_), None) => Some(format!("column {name:?} is missing")),
                (None, _) => Some(format!("column {name:?} is new")),
            });
            if let Some(what) = what {
                let message = format!(
                    "the {set} data are not those that the run began with: {what}; resume it with the same data"
                );
                return Err(Error::new(ErrorKind::Checkpoint, message));
            }
        }
        Ok(())
    }
}

/// Of type, shape and values: it takes about as long as reading them once.
fn sum(array: &Array) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(format!("{}{:?}", array.dtype(), array.shape()).as_bytes());
    sum.update(array_bytes(array));
    sum.digest()
}
