//! The batch of an optimizer that was promised the same one in each step. Takes batches, gives an error for the first that differs. Never looks at
//! values that lie where the first batch's do.

use super::values::array_bytes;
use crate::data::Array;
use crate::{Error, ErrorKind, Result};

/// The first batch, by input; it is shared with whoever gave it until one of the two is written to.
#[derive(Debug, Default)]
pub struct SameBatch(Vec<(String, Array)>);

impl SameBatch {
    /// Errors (`ErrorKind::Input`): an input holds another batch than the first, by name.
    pub fn check(&self, steps: usize, inputs: &[(&str, &Array)]) -> Result<()> {
        for (name, array) in inputs {
            let Some((_, first)) = self.0.iter().find(|(known, _)| known == name) else { continue };
            let (first, got) = (array_bytes(first), array_bytes(array));
            let is_first = |batch: &[u8]| std::ptr::eq(batch, first) || batch == first;
            if got.len() != steps * first.len() || !(0..steps).all(|i| is_first(&got[i * first.len()..][..first.len()]))
            {
                let message = format!(
                    "{name}: another batch than that of the first step, and the optimizer was promised the same (same_batch); leave that out"
                );
                return Err(Error::new(ErrorKind::Input, message));
            }
        }
        Ok(())
    }

    /// Remembers the first batch, which was run.
    pub fn remember(&mut self, steps: usize, inputs: &[(&str, &Array)]) -> Result<()> {
        if self.0.is_empty() {
            for (name, array) in inputs {
                let first = if steps == 1 { (*array).clone() } else { array.slice_rows(0, array.rows() / steps)? };
                self.0.push((name.to_string(), first));
            }
            self.check(steps, inputs)?;
        }
        Ok(())
    }
}
