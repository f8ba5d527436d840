//! What was read from a table. Takes the cells of each column, gives typed arrays, the vocabularies that were learned,
//! and a data set. Never keeps a cell as text once its column is complete.

use std::collections::BTreeMap;

use super::{Cells, ColumnKind, Vocabulary, list};
use crate::Result;
use crate::data::array::Array;
use crate::data::bytes::data_error;
use crate::data::dataset::Dataset;

/// The most words that a one-hot column may have; more want an embedding.
const MAX_ONE_HOT: usize = 1024;

/// Columns of a table in file order, and what was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The columns that were read.
    pub columns: Vec<TableColumn>,
    /// Rows left out because a cell was missing, counted from 1 without the header.
    pub dropped_rows: Vec<usize>,
    rows: usize,
}

/// What a column becomes in the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One feature of `"x"`.
    Feature,
    /// A feature of `"x"` for each word.
    OneHot,
    /// A column of its own.
    Index,
    /// Classes in `"y"`.
    Label,
    /// One column of `"y"`.
    Target,
}

/// One typed column.
#[derive(Clone, Debug, PartialEq)]
pub struct TableColumn {
    /// Its name in the header, or its number.
    pub name: String,
    /// f64 `[N]` for numbers, u32 `[N]` for words.
    pub values: Array,
    /// What the indices mean; empty for numbers.
    pub vocabulary: Vec<String>,
    /// What it becomes.
    pub role: Role,
}

impl Table {
    pub(super) fn new(cells: Vec<Cells>, dropped_rows: Vec<usize>, rows_read: usize) -> Result<Table> {
        let rows = rows_read - dropped_rows.len();
        if rows == 0 {
            return Err(data_error(format!(
                "no row is left: {rows_read} came after the header, {} were dropped for missing cells",
                dropped_rows.len()
            )));
        }
        let columns = cells.into_iter().map(finish).collect::<Result<Vec<_>>>()?;
        Ok(Table { columns, dropped_rows, rows })
    }

    /// The number of rows that were kept.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The column `name`, when there is one.
    pub fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The data set of the table:
    /// - `"x"` f32 `[N, F]`: Float and Int columns and one feature per word of OneHot columns (called `cut=Ideal`), in
    ///   file order, with their names as feature names;
    /// - `"y"` u32 `[N]` with class names for a Label column, or f32 `[N, T]` for T Target columns;
    /// - each Index column under its own name, u32 `[N]`.
    ///
    /// Errors: two Label columns, Label and Target together, an Index column called x or y, or no column at all.
    pub fn into_dataset(self) -> Result<Dataset> {
        let of_role = |role| self.columns.iter().filter(move |c| c.role == role);
        let labels: Vec<String> = of_role(Role::Label).map(|c| c.name.clone()).collect();
        let targets: Vec<&TableColumn> = of_role(Role::Target).collect();
        if labels.len() > 1 || (!labels.is_empty() && !targets.is_empty()) {
            let targets: Vec<String> = targets.iter().map(|c| c.name.clone()).collect();
            return Err(data_error(format!(
                "expected one label column or any number of target columns, labels {} and targets {} came",
                if labels.is_empty() { "none".to_string() } else { list(&labels) },
                if targets.is_empty() { "none".to_string() } else { list(&targets) }
            )));
        }
        let mut columns = Vec::new();
        let (x, feature_names) = self.features()?;
        if !feature_names.is_empty() {
            columns.push(("x".to_string(), x));
        }
        let mut class_names = Vec::new();
        if let Some(label) = of_role(Role::Label).next() {
            class_names.clone_from(&label.vocabulary);
            columns.push(("y".to_string(), label.values.clone()));
        } else if !targets.is_empty() {
            columns.push(("y".to_string(), side_by_side(&targets, self.rows)?));
        }
        for column in of_role(Role::Index) {
            columns.push((column.name.clone(), column.values.clone()));
        }
        Ok(Dataset::new(columns)?.with_feature_names(feature_names).with_class_names(class_names))
    }

    /// `"x"` f32 `[N, F]` and the names of the F features.
    fn features(&self) -> Result<(Array, Vec<String>)> {
        let mut names = Vec::new();
        for column in &self.columns {
            match column.role {
                Role::Feature => names.push(column.name.clone()),
                Role::OneHot => names.extend(column.vocabulary.iter().map(|w| format!("{}={w}", column.name))),
                Role::Index | Role::Label | Role::Target => {}
            }
        }
        let n_features = names.len();
        let n_elems = self.rows.checked_mul(n_features).filter(|n| n.checked_mul(4).is_some());
        let n_elems = n_elems.ok_or_else(|| data_error("the features are larger than any memory"))?;
        let mut x = vec![0f32; n_elems];
        let mut first = 0;
        for column in &self.columns {
            match column.role {
                Role::Feature => {
                    let values = column.values.slice::<f64>()?;
                    (0..self.rows).for_each(|r| x[r * n_features + first] = values[r] as f32);
                    first += 1;
                }
                Role::OneHot => {
                    let values = column.values.slice::<u32>()?;
                    (0..self.rows).for_each(|r| x[r * n_features + first + values[r] as usize] = 1.0);
                    first += column.vocabulary.len();
                }
                Role::Index | Role::Label | Role::Target => {}
            }
        }
        Ok((Array::new(x, [self.rows, n_features])?, names))
    }
}

/// f32 `[N, T]` of T number columns.
fn side_by_side(columns: &[&TableColumn], rows: usize) -> Result<Array> {
    let mut y = vec![0f32; rows * columns.len()];
    for (t, column) in columns.iter().enumerate() {
        let values = column.values.slice::<f64>()?;
        (0..rows).for_each(|r| y[r * columns.len() + t] = values[r] as f32);
    }
    Array::new(y, [rows, columns.len()])
}

/// The typed column of complete cells.
fn finish(cells: Cells) -> Result<TableColumn> {
    let Cells { name, kind, numbers, words, .. } = cells;
    let (role, vocabulary) = match kind {
        ColumnKind::Float | ColumnKind::Int => (Role::Feature, None),
        ColumnKind::Target => (Role::Target, None),
        ColumnKind::OneHot(v) => (Role::OneHot, Some(v)),
        ColumnKind::Index(v) => (Role::Index, Some(v)),
        ColumnKind::Label(v) => (Role::Label, Some(v)),
        ColumnKind::Skip => panic!("bug: a skipped column has cells"),
    };
    let Some(vocabulary) = vocabulary else {
        return Ok(TableColumn { name, values: Array::from_vec(numbers), vocabulary: Vec::new(), role });
    };
    let vocabulary = match vocabulary {
        Vocabulary::Learned => learn(&words),
        Vocabulary::Given(words) => words,
    };
    if role == Role::OneHot && vocabulary.len() > MAX_ONE_HOT {
        return Err(data_error(format!(
            "column {name:?}: expected at most {MAX_ONE_HOT} words for one_hot, {} came; use index and an embedding",
            vocabulary.len()
        )));
    }
    let index: BTreeMap<&str, u32> = vocabulary.iter().zip(0..).map(|(w, i)| (w.as_str(), i)).collect();
    let values = words.iter().map(|w| index[w.as_str()]).collect();
    Ok(TableColumn { name, values: Array::from_vec(values), vocabulary, role })
}

/// The distinct words: by number when all are whole numbers, so that 10 follows 9, else by bytes.
fn learn(words: &[String]) -> Vec<String> {
    let distinct: std::collections::BTreeSet<&String> = words.iter().collect();
    let mut distinct: Vec<String> = distinct.into_iter().cloned().collect();
    if distinct.iter().all(|w| w.parse::<i64>().is_ok()) {
        distinct.sort_by_key(|w| w.parse::<i64>().unwrap_or(0));
    }
    distinct
}
