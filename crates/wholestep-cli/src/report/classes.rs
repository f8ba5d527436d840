//! What the model takes for what. Takes counts and scores of classes, gives a heat map (or the most confused pairs when
//! classes are many) and the table of classes. Never draws a matrix whose counts do not fit its classes.

use super::html::{count, escape, percent, px, short_count, shorten};
use super::{ClassRow, Report};
use std::fmt::Write;

/// More classes make cells too small to read.
const MAX_DRAWN: usize = 30;
const MAX_BESIDE: usize = 12;
const MAX_PAIRS: usize = 20;
/// A longer table of classes shows the weakest ones first and the rest on demand.
const MAX_ROWS: usize = 30;
const WEAKEST: usize = 15;

/// The section's inside; empty when there is nothing to show.
pub fn classes(report: &Report) -> String {
    let n = report.confusion.len().isqrt();
    let matrix = match n > 0 && n * n == report.confusion.len() {
        true if n <= MAX_DRAWN => heat_map(report, n),
        true => confused_pairs(report, n),
        false => String::new(),
    };
    let table = if report.classes.is_empty() { String::new() } else { table(report) };
    // A small matrix leaves room for the table beside it.
    match !matrix.is_empty() && !table.is_empty() && n <= MAX_BESIDE {
        true => format!(r#"<div class="pair roomy">{matrix}{table}</div>"#),
        false => matrix + &table,
    }
}

struct Sizes {
    cell: f64,
    left: f64,
    top: f64,
    font: f64,
    slanted: bool,
}

fn sizes(names: &[String], n: usize) -> Sizes {
    let cell: f64 = match n {
        0..=4 => 76.0,
        5..=6 => 60.0,
        7..=10 => 46.0,
        11..=16 => 38.0,
        _ => 29.0,
    };
    let font: f64 = match n {
        0..=10 => 15.0,
        11..=16 => 13.0,
        _ => 10.0,
    };
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(1) as f64;
    let text_width = longest * font * 0.58;
    let slanted = text_width > cell - 4.0;
    let top = 34.0 + if slanted { text_width * 0.72 + 8.0 } else { 18.0 };
    Sizes { cell, left: 32.0 + text_width + 8.0, top, font, slanted }
}

fn heat_map(report: &Report, n: usize) -> String {
    let names: Vec<String> = (0..n).map(|class| shorten(&report.class_name(class), 16)).collect();
    let s = sizes(&names, n);
    let grid = s.cell * n as f64;
    let slack = if s.slanted { s.top * 0.8 } else { 8.0 };
    let (width, height) = (s.left + grid + slack, s.top + grid + 8.0);
    let total: u64 = report.confusion.iter().sum();
    let hits: u64 = (0..n).map(|class| report.confusion[class * n + class]).sum();
    let mut out = format!(
        r#"<figure class="matrix"><figcaption><h3>Confusion matrix</h3><p class="legend"><span class="key a">right</span><span class="key b">wrong</span><span class="at">stronger: a larger share of the row</span></p></figcaption><div class="scroll"><svg viewBox="0 0 {} {}" role="img" aria-label="Confusion matrix of {n} classes: {} of {} right" style="max-width:{}px;min-width:{}px;font-size:{}px">"#,
        px(width),
        px(height),
        count(hits),
        count(total),
        px(width),
        px(width * if n <= 10 { (29.0 / s.cell).max(0.56) } else { 0.8 }),
        px(s.font)
    );
    axis_names(&mut out, &names, report, &s, grid);
    for row in 0..n {
        let counts = &report.confusion[row * n..(row + 1) * n];
        let of_row: u64 = counts.iter().sum();
        for (column, cell_count) in counts.iter().enumerate() {
            cell(&mut out, report, &s, (row, column), *cell_count, of_row, n);
        }
    }
    out.push_str("</svg></div></figure>");
    out
}

fn axis_names(out: &mut String, names: &[String], report: &Report, s: &Sizes, grid: f64) {
    let middle = px(s.left + grid / 2.0);
    let _ = write!(out, r#"<text class="axis-name" x="{middle}" y="14" text-anchor="middle">predicted</text>"#);
    let middle = px(s.top + grid / 2.0);
    let _ = write!(
        out,
        r#"<text class="axis-name" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">true class</text>"#
    );
    for (class, name) in names.iter().enumerate() {
        let full = escape(&report.class_name(class));
        let name = escape(name);
        let center = (class as f64 + 0.5) * s.cell;
        let (x, y) = (px(s.left - 8.0), px(s.top + center + s.font * 0.35));
        let _ = write!(out, r#"<text x="{x}" y="{y}" text-anchor="end">{name}<title>{full}</title></text>"#);
        let (x, y) = (px(s.left + center), px(s.top - 8.0));
        let place = match s.slanted {
            true => format!(r#"transform="rotate(-45 {x} {y})" text-anchor="start""#),
            false => r#"text-anchor="middle""#.to_string(),
        };
        let _ = write!(out, r#"<text x="{x}" y="{y}" {place}>{name}<title>{full}</title></text>"#);
    }
}

fn cell(
    out: &mut String,
    report: &Report,
    s: &Sizes,
    (row, column): (usize, usize),
    value: u64,
    of_row: u64,
    n: usize,
) {
    let share = if of_row == 0 { 0.0 } else { value as f64 / of_row as f64 };
    // The root makes a mistake of 1 % visible beside a diagonal of 99 %.
    let strength = if value == 0 { 0.0 } else { 0.08 + 0.92 * share.sqrt() };
    let (x, y) = (s.left + column as f64 * s.cell, s.top + row as f64 * s.cell);
    let class = if row == column { "a" } else { "b" };
    let title = format!(
        "true {}, predicted {}: {} of {} ({})",
        report.class_name(row),
        report.class_name(column),
        count(value),
        count(of_row),
        percent(share)
    );
    let size = px(s.cell - 2.0);
    let _ = write!(
        out,
        r#"<g class="cell"><title>{}</title><rect class="empty-cell" x="{}" y="{}" width="{size}" height="{size}" rx="3"/>"#,
        escape(&title),
        px(x + 1.0),
        px(y + 1.0)
    );
    if value > 0 {
        let _ = write!(
            out,
            r#"<rect class="heat {class}" x="{}" y="{}" width="{size}" height="{size}" rx="3" fill-opacity="{}"/>"#,
            px(x + 1.0),
            px(y + 1.0),
            px(strength)
        );
    }
    if value > 0 || n <= 6 {
        let tone = if strength > 0.62 {
            "on-strong"
        } else if value == 0 {
            "zero"
        } else {
            "on-weak"
        };
        let (tx, ty) = (px(x + s.cell / 2.0), px(y + s.cell / 2.0 + s.font * 0.36));
        let text = if n > 16 || value >= 10_000 { short_count(value) } else { count(value) };
        let _ = write!(out, r#"<text class="{tone}" x="{tx}" y="{ty}" text-anchor="middle">{text}</text>"#);
    }
    out.push_str("</g>");
}

fn confused_pairs(report: &Report, n: usize) -> String {
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for row in 0..n {
        let wrong =
            (0..n).filter(|column| *column != row).map(|column| (report.confusion[row * n + column], row, column));
        pairs.extend(wrong.filter(|(value, _, _)| *value > 0));
    }
    pairs.sort_by_key(|(value, row, column)| (std::cmp::Reverse(*value), *row, *column));
    let n_pairs = pairs.len();
    pairs.truncate(MAX_PAIRS);
    let mut out = format!(
        r#"<figure class="matrix"><figcaption><h3>Most confused classes</h3><p class="legend"><span class="at">{n} classes are too many for a matrix; these are the {} most frequent of {} kinds of confusion</span></p></figcaption>"#,
        pairs.len(),
        count(n_pairs as u64)
    );
    if pairs.is_empty() {
        out.push_str(r#"<p class="empty">No row was confused.</p></figure>"#);
        return out;
    }
    let largest = pairs[0].0 as f64;
    out.push_str(r#"<div class="scroll"><table><thead><tr><th>true class</th><th>predicted</th><th class="num">rows</th><th class="bar-col"></th><th class="num">of the class</th></tr></thead><tbody>"#);
    for (value, row, column) in pairs {
        let of_row: u64 = report.confusion[row * n..(row + 1) * n].iter().sum();
        let _ = write!(
            out,
            r#"<tr><td>{}</td><td>{}</td><td class="num">{}</td><td class="bar-col"><i class="bar b" style="width:{}%"></i></td><td class="num">{}</td></tr>"#,
            escape(&report.class_name(row)),
            escape(&report.class_name(column)),
            count(value),
            px(value as f64 / largest * 100.0),
            percent(value as f64 / of_row as f64)
        );
    }
    out.push_str("</tbody></table></div></figure>");
    out
}

fn table(report: &Report) -> String {
    let rows = &report.classes;
    let mut out = String::from(r#"<figure class="per-class"><figcaption><h3>Classes</h3>"#);
    if rows.len() <= MAX_ROWS {
        out.push_str("</figcaption>");
        table_of(&mut out, report, (0..rows.len()).collect());
    } else {
        let mut weakest: Vec<usize> = (0..rows.len()).collect();
        // A class that never occurs has no F1 to be weak in.
        weakest.retain(|class| rows[*class].support > 0);
        weakest.sort_by(|a, b| rows[*a].f1.total_cmp(&rows[*b].f1).then(a.cmp(b)));
        weakest.truncate(WEAKEST);
        let _ = write!(
            out,
            r#"<p class="legend"><span class="at">the {} with the lowest F1</span></p></figcaption>"#,
            weakest.len()
        );
        table_of(&mut out, report, weakest);
        let _ = write!(out, "<details><summary>All {} classes</summary>", rows.len());
        table_of(&mut out, report, (0..rows.len()).collect());
        out.push_str("</details>");
    }
    out.push_str("</figure>");
    out
}

fn table_of(out: &mut String, report: &Report, classes: Vec<usize>) {
    let shown = classes.iter().map(|class| &report.classes[*class]);
    let lowest = shown.filter(|row| row.support > 0 && row.f1.is_finite()).map(|row| row.f1).fold(1.0, f64::min);
    // Dots need no zero: the strip starts at a round share below the weakest class, and its head says which.
    let start = [0.99, 0.95, 0.9, 0.8, 0.5].into_iter().find(|start| *start <= lowest - 0.002).unwrap_or(0.0);
    let _ = write!(
        out,
        r#"<div class="scroll"><table><thead><tr><th>class</th><th class="num">precision</th><th class="num">recall</th><th class="num">F1</th><th class="bar-col"><span class="range"><span>{:.0}%</span><span>100%</span></span></th><th class="num">rows</th></tr></thead><tbody>"#,
        start * 100.0
    );
    for class in classes {
        let ClassRow { precision, recall, f1, support } = &report.classes[class];
        let name = report.class_name(class);
        let dot = match f1.is_finite() && *support > 0 {
            true => format!(r#"<i style="left:{}%"></i>"#, px((f1 - start) / (1.0 - start) * 100.0)),
            false => String::new(),
        };
        let _ = write!(
            out,
            r#"<tr><td title="{}">{}</td><td class="num">{}</td><td class="num">{}</td><td class="num">{}</td><td class="bar-col"><span class="strip">{dot}</span></td><td class="num">{}</td></tr>"#,
            escape(&name),
            escape(&shorten(&name, 28)),
            percent(*precision),
            percent(*recall),
            percent(*f1),
            count(*support)
        );
    }
    out.push_str("</tbody></table></div>");
}
