//! Plain-text tables. Takes columns of ready text, gives aligned lines. Never rounds or reorders what it is given.

use std::fmt;

pub(super) struct Column {
    head: String,
    align_left: bool,
    pub(super) cells: Vec<String>,
}

impl Column {
    pub(super) fn left(head: &str) -> Column {
        Column { head: head.to_string(), align_left: true, cells: Vec::new() }
    }

    pub(super) fn right(head: &str) -> Column {
        Column { head: head.to_string(), align_left: false, cells: Vec::new() }
    }
}

/// Writes the head line and one line for each row, two spaces between columns, no newline at the end.
pub(super) fn write_table(f: &mut fmt::Formatter<'_>, columns: &[Column]) -> fmt::Result {
    let width = |text: &str| text.chars().count();
    let n_rows = columns.iter().map(|c| c.cells.len()).max().unwrap_or(0);
    let widths: Vec<usize> = columns
        .iter()
        .map(|c| c.cells.iter().map(|cell| width(cell)).chain([width(&c.head)]).max().unwrap_or(0))
        .collect();
    for line in 0..=n_rows {
        let mut text = String::new();
        for (column, col_width) in columns.iter().zip(&widths) {
            let empty = String::new();
            let cell = if line == 0 { &column.head } else { column.cells.get(line - 1).unwrap_or(&empty) };
            match column.align_left {
                true => text.push_str(&format!("{cell:<col_width$}  ")),
                false => text.push_str(&format!("{cell:>col_width$}  ")),
            }
        }
        let newline = if line < n_rows { "\n" } else { "" };
        write!(f, "{}{newline}", text.trim_end())?;
    }
    Ok(())
}
