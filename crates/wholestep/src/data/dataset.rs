//! A data set: named columns that share their number of rows. Takes arrays, gives row selections, seeded splits and a
//! printed summary. Never copies a column unless rows are selected, and never changes the order of rows by itself.

use std::fmt::Write as _;
use std::sync::Arc;

use super::array::Array;
use super::random::Philox;
use crate::{Error, ErrorKind, Result};

/// Named columns of equal first extent, e.g. `"x"`: f32 `[N, 1, 28, 28]` and `"y"`: u32 `[N]`.
///
/// Clones share the values.
#[derive(Clone, PartialEq)]
pub struct Dataset {
    columns: Vec<(Arc<str>, Array)>,
    rows: usize,
    class_names: Arc<Vec<String>>,
    feature_names: Arc<Vec<String>>,
}

fn input_error(text: String) -> Error {
    Error::new(ErrorKind::Input, text)
}

// Streams of the Philox key, so that a split and an epoch of the same seed are independent.
const SPLIT_STREAM: u64 = 1 << 63;

impl Dataset {
    /// A data set of `columns`. Errors: no column, a name twice, a scalar, or first extents that differ.
    pub fn new<N: AsRef<str>>(columns: impl IntoIterator<Item = (N, Array)>) -> Result<Dataset> {
        let columns: Vec<(Arc<str>, Array)> = columns.into_iter().map(|(n, a)| (Arc::from(n.as_ref()), a)).collect();
        let Some((first, array)) = columns.first() else {
            return Err(input_error("data set: at least one column is needed, none came".into()));
        };
        let rows = array.rows();
        for (i, (name, array)) in columns.iter().enumerate() {
            if array.shape().is_empty() {
                return Err(input_error(format!(
                    "data set: column {name:?} is a scalar; its first axis must be the rows"
                )));
            }
            if array.rows() != rows {
                return Err(input_error(format!(
                    "data set: column {first:?} has {rows} rows, column {name:?} has {}; all need the same number",
                    array.rows()
                )));
            }
            if columns[..i].iter().any(|(n, _)| n == name) {
                return Err(input_error(format!("data set: column {name:?} came twice; give each its own name")));
            }
        }
        Ok(Dataset { columns, rows, class_names: Arc::default(), feature_names: Arc::default() })
    }

    /// The same data with the names of classes 0, 1, 2 … of column `"y"`.
    pub fn with_class_names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Dataset {
        self.class_names = Arc::new(names.into_iter().map(Into::into).collect());
        self
    }

    /// The same data with the names of the features, which are the last axis of column `"x"`.
    pub fn with_feature_names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Dataset {
        self.feature_names = Arc::new(names.into_iter().map(Into::into).collect());
        self
    }

    /// The same data with column `name` added or replaced. Errors: its first extent is not the number of rows.
    pub fn with_column(mut self, name: &str, array: Array) -> Result<Dataset> {
        if array.shape().first() != Some(&self.rows) {
            return Err(input_error(format!(
                "data set: {} rows are here, column {name:?} came with shape {:?}; its first axis must be the rows",
                self.rows,
                array.shape()
            )));
        }
        match self.columns.iter_mut().find(|(n, _)| &**n == name) {
            Some((_, old)) => *old = array,
            None => self.columns.push((Arc::from(name), array)),
        }
        Ok(self)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Names of classes 0, 1, 2 … of `"y"`; empty when unknown.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Names of the features along the last axis of `"x"`; empty when unknown.
    pub fn feature_names(&self) -> &[String] {
        &self.feature_names
    }

    /// Names and arrays of the columns, in the order given.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.columns.iter().map(|(n, a)| (&**n, a))
    }

    pub(crate) fn shared_names(&self) -> &[(Arc<str>, Array)] {
        &self.columns
    }

    /// Errors: NaN or an infinity in a column of floats, by column, row and place in the row.
    pub fn check_finite(&self) -> Result<()> {
        for (name, array) in self.columns() {
            let bad = if let Some(v) = array.as_slice::<f32>() {
                v.iter().position(|v| !v.is_finite()).map(|at| (at, f64::from(v[at])))
            } else if let Some(v) = array.as_slice::<f64>() {
                v.iter().position(|v| !v.is_finite()).map(|at| (at, v[at]))
            } else {
                None
            };
            if let Some((at, value)) = bad {
                let (row, mut place) = (at / array.row_elems(), at % array.row_elems());
                let mut index: Vec<String> = Vec::new();
                for &extent in array.shape()[1..].iter().rev() {
                    index.insert(0, (place % extent).to_string());
                    place /= extent;
                }
                let within = if index.is_empty() { String::new() } else { format!(", element [{}]", index.join(", ")) };
                return Err(input_error(format!(
                    "column {name:?}: row {row}{within} is {value}; leave the row out or fill the value in"
                )));
            }
        }
        Ok(())
    }

    /// The column `name`. Errors: there is none; the text lists those there are.
    pub fn column(&self, name: &str) -> Result<&Array> {
        self.columns.iter().find(|(n, _)| &**n == name).map(|(_, a)| a).ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|(n, _)| &**n).collect();
            input_error(format!("data set: no column {name:?}; the columns are {names:?}"))
        })
    }

    /// The rows named by `rows`, in that order, repeats allowed. Errors: an index is not below [`Dataset::rows`].
    pub fn take_rows(&self, rows: &[usize]) -> Result<Dataset> {
        let columns = self
            .columns
            .iter()
            .map(|(n, a)| Ok((n.clone(), a.take_rows(rows).map_err(|e| e.context(format!("column {n:?}")))?)));
        Ok(Dataset { columns: columns.collect::<Result<_>>()?, rows: rows.len(), ..self.clone() })
    }

    /// The first `n` rows, or all when there are fewer.
    pub fn head(&self, n: usize) -> Result<Dataset> {
        self.take_rows(&(0..n.min(self.rows)).collect::<Vec<_>>())
    }

    /// Two parts without common rows, the first with `fraction` of the rows (rounded), both in random order.
    /// The same `seed` gives the same parts. Errors: `fraction` is not inside (0, 1), or a part would be empty.
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        check_fraction(fraction)?;
        let mut order: Vec<usize> = (0..self.rows).collect();
        Philox::new(seed, SPLIT_STREAM).shuffle(&mut order);
        let n = (self.rows as f64 * fraction).round() as usize;
        self.split_at(&order[..n], &order[n..], fraction)
    }

    /// Like [`Dataset::split`], but each class of `"y"` is split by `fraction`, so that both parts keep the shares of
    /// the classes. Errors: those of `split`; `"y"` is missing, not of whole numbers, or not `[N]` or `[N, 1]`.
    pub fn split_stratified(&self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        check_fraction(fraction)?;
        let mut order: Vec<usize> = (0..self.rows).collect();
        let mut random = Philox::new(seed, SPLIT_STREAM);
        random.shuffle(&mut order);
        let classes = self.labels()?;
        let mut by_class = std::collections::BTreeMap::<i64, Vec<usize>>::new();
        order.iter().for_each(|&r| by_class.entry(classes[r]).or_default().push(r));
        // Rounding each class alone could move the total by half a row per class. Taking the running total instead
        // keeps both the whole and each class within one row of the fraction.
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut n_seen = 0;
        for rows in by_class.values() {
            n_seen += rows.len();
            let n = ((n_seen as f64 * fraction).round() as usize).saturating_sub(first.len()).min(rows.len());
            first.extend_from_slice(&rows[..n]);
            second.extend_from_slice(&rows[n..]);
        }
        random.shuffle(&mut first);
        random.shuffle(&mut second);
        self.split_at(&first, &second, fraction)
    }

    fn split_at(&self, first: &[usize], second: &[usize], fraction: f64) -> Result<(Dataset, Dataset)> {
        if first.is_empty() || second.is_empty() {
            // 1 - 0.99 is not 0.01.
            let fraction = (fraction * 1e9).round() / 1e9;
            return Err(input_error(format!(
                "split: {fraction} of {} rows leaves {} and {}; both parts need a row, so give more rows or another fraction",
                self.rows,
                first.len(),
                second.len()
            )));
        }
        Ok((self.take_rows(first)?, self.take_rows(second)?))
    }

    /// The classes of `"y"` as i64. Errors: as [`Dataset::split_stratified`].
    fn labels(&self) -> Result<Vec<i64>> {
        let y = self.column("y")?;
        if y.len() != self.rows {
            return Err(input_error(format!(
                "data set: \"y\" has shape {:?}; one class for each row is needed, [N] or [N, 1]",
                y.shape()
            )));
        }
        Ok(y.cast::<i64>().map_err(|e| e.context("data set: \"y\" must hold classes"))?.slice::<i64>()?.to_vec())
    }

    /// A table for people: each column with type, shape, range, mean and deviation, then rows per class.
    pub fn describe(&self) -> String {
        let mut out = format!("{} rows\n", self.rows);
        let mut lines = vec![["column", "type", "shape", "min", "max", "mean", "std"].map(String::from)];
        for (name, array) in self.columns() {
            let [min, max, mean, std] = summary(array).map(|v| v.map_or("-".into(), short));
            let shape = format!("{:?}", array.shape());
            lines.push([name.to_string(), array.dtype().to_string(), shape, min, max, mean, std]);
        }
        write_table(&mut out, &lines);
        if !self.feature_names.is_empty() {
            let _ = writeln!(out, "features: {}", self.feature_names.join(", "));
        }
        if !self.class_names.is_empty()
            && let Ok(labels) = self.labels()
        {
            let mut lines = vec![["class", "name", "rows"].map(String::from)];
            for (i, name) in self.class_names.iter().enumerate() {
                let n = labels.iter().filter(|&&l| l == i as i64).count();
                lines.push([i.to_string(), name.clone(), n.to_string()]);
            }
            write_table(&mut out, &lines);
        }
        out
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.columns()).finish()
    }
}

fn check_fraction(fraction: f64) -> Result<()> {
    if fraction > 0.0 && fraction < 1.0 {
        return Ok(());
    }
    Err(input_error(format!("split: the fraction must lie between 0 and 1, {fraction} came; 0.8 keeps 80 % first")))
}

/// Minimum, maximum, mean and biased deviation of all elements; `None` where there are no elements.
fn summary(array: &Array) -> [Option<f64>; 4] {
    if array.is_empty() {
        return [None; 4];
    }
    let n = array.len() as f64;
    let (mut min, mut max, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    array.for_each_f64(|v| {
        min = min.min(v);
        max = max.max(v);
        sum += v;
    });
    let mean = sum / n;
    let mut variance = 0.0;
    array.for_each_f64(|v| variance += (v - mean) * (v - mean) / n);
    [min, max, mean, variance.sqrt()].map(Some)
}

fn short(x: f64) -> String {
    let text = if x != 0.0 && !(1e-3..1e7).contains(&x.abs()) { format!("{x:.3e}") } else { format!("{x:.4}") };
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

/// Left-aligned columns, two spaces apart.
fn write_table<const N: usize>(out: &mut String, lines: &[[String; N]]) {
    let widths: [usize; N] =
        std::array::from_fn(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0));
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(labels: &[u32]) -> Dataset {
        let x = Array::new((0..labels.len()).map(|i| i as f32).collect(), [labels.len(), 1]).unwrap();
        Dataset::new([("x", x), ("y", Array::from_vec(labels.to_vec()))]).unwrap()
    }

    #[test]
    fn columns_must_agree() {
        let of = |columns: Vec<(&str, Array)>| Dataset::new(columns).unwrap_err().to_string();
        let a = |n: usize| Array::from_vec(vec![0f32; n]);
        assert_eq!(
            of(vec![("x", a(3)), ("y", a(2))]),
            "data set: column \"x\" has 3 rows, column \"y\" has 2; all need the same number"
        );
        assert_eq!(of(vec![("x", a(3)), ("x", a(3))]), "data set: column \"x\" came twice; give each its own name");
        assert_eq!(of(vec![]), "data set: at least one column is needed, none came");
        assert!(of(vec![("x", Array::scalar(1f32))]).contains("is a scalar"));
        let e = labelled(&[0, 1]).column("z").unwrap_err().to_string();
        assert_eq!(e, "data set: no column \"z\"; the columns are [\"x\", \"y\"]");
    }

    #[test]
    fn split_is_a_seeded_partition() {
        let data = labelled(&[0; 100]);
        let (a, b) = data.split(0.8, 7).unwrap();
        assert_eq!((a.rows(), b.rows()), (80, 20));
        let rows_of = |d: &Dataset| d.column("x").unwrap().slice::<f32>().unwrap().to_vec();
        let mut all = [rows_of(&a), rows_of(&b)].concat();
        assert_ne!(all, rows_of(&data));
        all.sort_by(f32::total_cmp);
        assert_eq!(all, rows_of(&data));
        assert!(data.split(0.8, 7).unwrap() == (a.clone(), b));
        assert_ne!(rows_of(&data.split(0.8, 8).unwrap().0), rows_of(&a));
        assert!(data.split(1.0, 0).is_err() && data.split(f64::NAN, 0).is_err());
        assert_eq!(
            data.split(0.001, 0).unwrap_err().to_string(),
            "split: 0.001 of 100 rows leaves 0 and 100; both parts need a row, so give more rows or another fraction"
        );
    }

    #[test]
    fn stratified_split_keeps_the_shares() {
        let labels: Vec<u32> = (0..103)
            .map(|i| {
                if i < 70 {
                    0
                } else if i < 95 {
                    1
                } else {
                    2
                }
            })
            .collect();
        let (a, b) = labelled(&labels).split_stratified(0.8, 3).unwrap();
        let count = |d: &Dataset| {
            let y = d.column("y").unwrap().slice::<u32>().unwrap().to_vec();
            [0, 1, 2].map(|c| y.iter().filter(|&&l| l == c).count())
        };
        assert_eq!((count(&a), count(&b)), ([56, 20, 6], [14, 5, 2]));
    }

    #[test]
    fn describe_shows_columns_and_classes() {
        let data = labelled(&[0, 1, 1, 1]).with_class_names(["no", "yes"]).with_feature_names(["age"]);
        assert_eq!(
            data.describe(),
            "4 rows\n\
             column  type  shape   min  max  mean  std\n\
             x       f32   [4, 1]  0    3    1.5   1.118\n\
             y       u32   [4]     0    1    0.75  0.433\n\
             features: age\n\
             class  name  rows\n\
             0      no    1\n\
             1      yes   3\n"
        );
    }
}
