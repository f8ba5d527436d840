//! CSV and TSV tables, plain or gzipped. Takes a path and what each column means, gives typed columns and a data set.
//! Never guesses a type, never turns a missing or infinite cell into a number unasked, never drops a row uncounted.

mod table;

use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Terminator};

use super::bytes::{data_error, open, read_error, read_up_to};
use crate::{Error, ErrorKind, Result};
pub use table::{Role, Table, TableColumn};

/// A column by its name in the header, by its index from 0, or the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// Its name in the header, letter by letter; the first of several that are alike.
    Name(String),
    /// Counted from 0, with those that are skipped.
    Index(usize),
    /// Where many tables have the label.
    Last,
}

impl From<&str> for Column {
    fn from(name: &str) -> Column {
        Column::Name(name.to_string())
    }
}

impl From<String> for Column {
    fn from(name: String) -> Column {
        Column::Name(name)
    }
}

impl From<usize> for Column {
    fn from(index: usize) -> Column {
        Column::Index(index)
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Column::Name(name) => write!(f, "{name:?}"),
            Column::Index(index) => write!(f, "{index}"),
            Column::Last => f.write_str("Last"),
        }
    }
}

/// What the cells of a column mean.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnKind {
    /// A decimal number that f32 can hold. A feature of its own.
    Float,
    /// A whole number that i64 can hold. A feature of its own; an error beyond 2^24, where f32 would round it.
    Int,
    /// One of a few words, as one feature of 0 and 1 for each word.
    OneHot(Vocabulary),
    /// One of many words, as u32 index in a column of the data set that keeps its name (for an embedding).
    Index(Vocabulary),
    /// The class to predict, as u32 index in `"y"`.
    Label(Vocabulary),
    /// A number to predict: one column of `"y"`.
    Target,
    /// Not read.
    Skip,
}

/// The words of a category and their order, which is their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// The words that occur, in numeric order when all are whole numbers, else in byte order.
    Learned,
    /// These words; another one is an error.
    Given(Vec<String>),
}

/// What to do with a cell that is missing, NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Missing {
    /// Stop and name the row and the column.
    Error,
    /// Leave the row out; [`Table::dropped_rows`] lists it.
    DropRow,
    /// Put this number in its place. For a word it stays an error.
    Fill(f64),
}

/// How to read a table: built up by its methods, then given a file. Columns that are not mentioned are
/// [`ColumnKind::Float`].
///
/// ```no_run
/// use wholestep::data::csv::{Column, Csv};
/// let flowers = Csv::new().label("species").read("iris.csv")?.into_dataset()?;
/// let houses = Csv::new().one_hot("city").target("price").read("houses.csv")?.into_dataset()?;
/// let digits = Csv::new().no_header().label(Column::Last).read("digits.csv.gz")?.into_dataset()?;
/// # Ok::<(), wholestep::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Csv {
    delimiter: u8,
    header: bool,
    n_skipped_lines: usize,
    kinds: Vec<(Column, ColumnKind)>,
    missing: Missing,
    missing_words: Vec<String>,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv::new()
    }
}

impl Csv {
    /// Comma between cells, column names in the first line, an error for a missing cell.
    pub fn new() -> Csv {
        Csv {
            delimiter: b',',
            header: true,
            n_skipped_lines: 0,
            kinds: Vec::new(),
            missing: Missing::Error,
            missing_words: ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"].map(String::from).to_vec(),
        }
    }

    /// Tabs between cells.
    pub fn tsv() -> Csv {
        Csv::new().delimiter(b'\t')
    }

    /// Another byte between cells, such as `b';'`.
    pub fn delimiter(self, delimiter: u8) -> Csv {
        Csv { delimiter, ..self }
    }

    /// The first line holds data; the columns are then called "0", "1", "2" ….
    pub fn no_header(self) -> Csv {
        Csv { header: false, ..self }
    }

    /// Leaves out the first `n` lines of the file.
    pub fn skip_lines(self, n: usize) -> Csv {
        Csv { n_skipped_lines: n, ..self }
    }

    /// Says what `column` means. The last word on a column counts.
    pub fn column(mut self, column: impl Into<Column>, kind: ColumnKind) -> Csv {
        self.kinds.push((column.into(), kind));
        self
    }

    /// `column` holds whole numbers.
    pub fn int(self, column: impl Into<Column>) -> Csv {
        self.column(column, ColumnKind::Int)
    }

    /// `column` holds one of a few words: a feature of 0 and 1 for each.
    pub fn one_hot(self, column: impl Into<Column>) -> Csv {
        self.column(column, ColumnKind::OneHot(Vocabulary::Learned))
    }

    /// `column` holds one of many words: a u32 column of its own, for an embedding.
    pub fn index(self, column: impl Into<Column>) -> Csv {
        self.column(column, ColumnKind::Index(Vocabulary::Learned))
    }

    /// `column` holds the class to predict.
    pub fn label(self, column: impl Into<Column>) -> Csv {
        self.column(column, ColumnKind::Label(Vocabulary::Learned))
    }

    /// `column` holds a number to predict.
    pub fn target(self, column: impl Into<Column>) -> Csv {
        self.column(column, ColumnKind::Target)
    }

    /// `column` is not read.
    pub fn skip(self, column: impl Into<Column>) -> Csv {
        self.column(column, ColumnKind::Skip)
    }

    /// What to do with a cell that is missing, NaN or infinite.
    pub fn missing(self, missing: Missing) -> Csv {
        Csv { missing, ..self }
    }

    /// The words that mean "missing". At first: nothing at all, NA, N/A, NaN, nan, null, NULL and ?.
    pub fn missing_words<S: Into<String>>(self, words: impl IntoIterator<Item = S>) -> Csv {
        Csv { missing_words: words.into_iter().map(Into::into).collect(), ..self }
    }

    /// Reads the file at `path`; gzip is recognized by its first bytes. Spaces around a cell do not count, blank lines
    /// are not rows, and a byte-order mark is passed.
    ///
    /// Errors name the file, the row (from 1, without the header), the line and the column: a cell that is not of its
    /// kind, a missing cell, rows of different length, a column that is not there, a table without a row.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Table> {
        let path = path.as_ref();
        self.parse(open(path)?).map_err(|e| e.context(path.display()))
    }

    /// The table in `bytes` that are not compressed. Errors: as [`Csv::read`].
    pub fn from_bytes(&self, bytes: &[u8]) -> Result<Table> {
        self.parse(bytes)
    }

    /// The names of the columns of the file at `path`, without reading its rows; without a header their numbers.
    /// Errors: the file cannot be read or is empty; names that are no UTF-8 or come twice.
    pub fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let first = || -> Result<Vec<String>> {
            let mut reader = self.records(open(path)?)?;
            let mut record = ByteRecord::new();
            while reader.read_byte_record(&mut record).map_err(csv_error)? {
                if !is_blank(&record) {
                    return self.names_of(&record);
                }
            }
            Err(data_error(EMPTY))
        };
        first().map_err(|e| e.context(path.display()))
    }

    fn names_of(&self, first: &ByteRecord) -> Result<Vec<String>> {
        if self.header { header_names(first) } else { Ok((0..first.len()).map(|i| i.to_string()).collect()) }
    }

    /// The records of a table, the header among them.
    fn records(&self, reader: impl Read) -> Result<csv::Reader<impl Read>> {
        // With a line break at the very end each record ends in one, and so the line of a record can be told.
        let reader = without_first_lines(reader, self.n_skipped_lines)?.chain(&b"\n"[..]);
        // Lengths are checked here and not by the csv crate: its error does not say what to do. Lines end in \n alone
        // because the crate counts them wrong for \r\n; the \r is trimmed from the last cell.
        Ok(ReaderBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(reader))
    }

    fn parse(&self, reader: impl Read) -> Result<Table> {
        let mut reader = self.records(reader)?;
        let mut record = ByteRecord::new();
        let mut line = 0;
        let mut next = |record: &mut ByteRecord, line: &mut u64| -> Result<bool> {
            loop {
                let more = reader.read_byte_record(record).map_err(csv_error)?;
                if more && is_blank(record) {
                    continue;
                }
                // Blank lines before the record have been passed, so its line is told from its end.
                let n_inside = record.as_slice().iter().filter(|&&b| b == b'\n').count() as u64;
                *line = (reader.position().line() + self.n_skipped_lines as u64).saturating_sub(1 + n_inside);
                return Ok(more);
            }
        };
        let mut has_record = next(&mut record, &mut line)?;
        if !has_record {
            return Err(data_error(EMPTY));
        }
        let names = self.names_of(&record)?;
        let mut columns = self.columns(&names)?;
        if self.header {
            has_record = next(&mut record, &mut line)?;
        }
        let mut dropped_rows = Vec::new();
        let mut row = 1;
        while has_record {
            let place = Place { row, line };
            if record.len() != names.len() {
                return Err(data_error(format!(
                    "{place}: expected {} cells as in the first line, {} came; check the delimiter ({:?}) and the quotes",
                    names.len(),
                    record.len(),
                    char::from(self.delimiter)
                )));
            }
            if !self.read_row(&record, &mut columns, &place)? {
                dropped_rows.push(row);
            }
            row += 1;
            has_record = next(&mut record, &mut line)?;
        }
        Table::new(columns, dropped_rows, row - 1)
    }

    /// Reads one row into `columns`; false when it is to be dropped, and then nothing was added.
    fn read_row(&self, record: &ByteRecord, columns: &mut [Cells], place: &Place) -> Result<bool> {
        let cell_of = |column: &Cells| {
            std::str::from_utf8(&record[column.at]).map(str::trim).map_err(|_| {
                data_error(format!("{place}, column {:?}: the cell is not UTF-8; save the table as UTF-8", column.name))
            })
        };
        let is_missing = |cell: &str| {
            self.missing_words.iter().any(|w| w == cell) || cell.parse::<f64>().is_ok_and(|v| !v.is_finite())
        };
        if self.missing == Missing::DropRow {
            for column in columns.iter() {
                if is_missing(cell_of(column)?) {
                    return Ok(false);
                }
            }
        }
        for column in columns.iter_mut() {
            let cell = cell_of(column)?;
            if is_missing(cell) { column.push_missing(cell, self.missing) } else { column.push(cell) }
                .map_err(|e| e.context(format!("{place}, column {:?}", column.name)))?;
        }
        Ok(true)
    }

    /// Empty columns for the header `names`, without the skipped ones.
    fn columns(&self, names: &[String]) -> Result<Vec<Cells>> {
        let mut kinds = vec![ColumnKind::Float; names.len()];
        for (column, kind) in &self.kinds {
            let at = match column {
                Column::Name(name) => names.iter().position(|n| n == name),
                Column::Index(index) => (*index < names.len()).then_some(*index),
                Column::Last => names.len().checked_sub(1),
            };
            let at = at.ok_or_else(|| {
                let help = if self.header { "" } else { "; without a header they are counted from 0" };
                Error::new(ErrorKind::Config, format!("no column {column}; the columns are {}{help}", list(names)))
            })?;
            kinds[at] = kind.clone();
        }
        let columns = names.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| *kind != ColumnKind::Skip);
        Ok(columns
            .map(|(at, (name, kind))| Cells { at, name: name.clone(), kind, numbers: Vec::new(), words: Vec::new() })
            .collect())
    }
}

const EMPTY: &str = "the table is empty; expected at least one row";

fn is_blank(record: &ByteRecord) -> bool {
    record.len() == 1 && record[0].trim_ascii().is_empty()
}

/// A row for error texts: counted from 1 without the header, and its line in the file.
struct Place {
    row: usize,
    line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {} (line {})", self.row, self.line)
    }
}

/// A column while it is read. `numbers` for Float, Int and Target, `words` for the others.
struct Cells {
    at: usize,
    name: String,
    kind: ColumnKind,
    numbers: Vec<f64>,
    words: Vec<String>,
}

impl Cells {
    fn push(&mut self, cell: &str) -> Result<()> {
        match &self.kind {
            ColumnKind::Float | ColumnKind::Target => self.numbers.push(parse_float(cell)?),
            ColumnKind::Int => self.numbers.push(parse_int(cell)?),
            ColumnKind::OneHot(words) | ColumnKind::Index(words) | ColumnKind::Label(words) => {
                if let Vocabulary::Given(words) = words
                    && !words.iter().any(|w| w == cell)
                {
                    let words = list(words);
                    return Err(data_error(format!(
                        "expected one of {words}, {cell:?} came; add it to the vocabulary"
                    )));
                }
                self.words.push(cell.to_string());
            }
            ColumnKind::Skip => panic!("bug: a skipped column has cells"),
        }
        Ok(())
    }

    fn push_missing(&mut self, cell: &str, missing: Missing) -> Result<()> {
        let is_number = matches!(self.kind, ColumnKind::Float | ColumnKind::Int | ColumnKind::Target);
        let expected = if is_number { "a finite number" } else { "a word" };
        let came = if cell.is_empty() { "nothing".to_string() } else { format!("{cell:?}") };
        match missing {
            Missing::Fill(value) if is_number => self.push(&value.to_string()),
            Missing::Fill(_) => Err(data_error(format!(
                "expected {expected}, {came} came; a number cannot fill a word; leave the row out, or skip the column"
            ))),
            // DropRow is done before the cells are looked at, so both mean that nothing may be put here.
            Missing::Error | Missing::DropRow => Err(data_error(format!(
                "expected {expected}, {came} came; leave the row out, fill the cell in, or skip the column"
            ))),
        }
    }
}

fn parse_float(cell: &str) -> Result<f64> {
    let value: f64 = cell.parse().map_err(|_| {
        data_error(format!("expected a number, {cell:?} came; make the column one_hot, index or label, or skip it"))
    })?;
    if !(value as f32).is_finite() {
        return Err(data_error(format!("expected a number that f32 can hold, {cell:?} came; scale the column")));
    }
    Ok(value)
}

fn parse_int(cell: &str) -> Result<f64> {
    let value: i64 = cell
        .parse()
        .map_err(|_| data_error(format!("expected a whole number, {cell:?} came; use Float for fractions")))?;
    if value.unsigned_abs() > 1 << 24 {
        return Err(data_error(format!(
            "expected a whole number up to 16777216, which f32 holds exactly, {cell:?} came; use index for a code, Float to round"
        )));
    }
    Ok(value as f64)
}

/// Names in quotes, at most twelve.
fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(12).map(|n| format!("{n:?}")).collect();
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn header_names(record: &ByteRecord) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for (at, cell) in record.iter().enumerate() {
        let name = std::str::from_utf8(cell).map_err(|_| {
            data_error(format!("header: the name of column {at} is not UTF-8; save the table as UTF-8"))
        })?;
        names.push(name.trim().to_string());
    }
    // Sorted, so that a header of a million names is not compared pair by pair.
    let mut sorted = names.clone();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
        return Err(data_error(format!(
            "header: column {:?} came twice; give each column its own name, or use no_header() for a table without names",
            twice[0]
        )));
    }
    Ok(names)
}

/// The reader without a byte-order mark and behind its first `n` lines. Errors: it ends before.
fn without_first_lines(reader: impl Read, n: usize) -> Result<impl Read> {
    let mut reader = BufReader::new(reader);
    let mut first = [0; 3];
    let n_first = read_up_to(&mut reader, &mut first).map_err(read_error)?;
    let kept = if first == *b"\xef\xbb\xbf" { Vec::new() } else { first[..n_first].to_vec() };
    let mut reader = BufReader::new(Cursor::new(kept).chain(reader));
    for i in 0..n {
        if reader.skip_until(b'\n').map_err(read_error)? == 0 {
            return Err(data_error(format!("expected {n} lines to skip, the file has only {i}")));
        }
    }
    Ok(reader)
}

fn csv_error(e: csv::Error) -> Error {
    let text = e.to_string();
    match e.into_kind() {
        csv::ErrorKind::Io(e) => read_error(e),
        // Records are read as bytes, of any length: only reading itself can fail.
        _ => data_error(format!("cannot read the table: {text}")),
    }
}
