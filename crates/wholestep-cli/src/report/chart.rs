//! Curves over epochs. Takes series of numbers, gives one SVG with its legend. Never joins points across a gap: what is
//! missing or not finite stays a gap, and a value that is not finite gets a mark.

use super::html::{escape, px};
use super::scale::{Scale, drawable};
use std::fmt::Write;

/// Bands that answer to the pointer; more would be narrower than a finger or a pixel.
const MAX_BANDS: usize = 240;

/// Room for the words at the best point.
const MARK_WIDTH: f64 = 180.0;

pub struct Series<'a> {
    pub name: &'a str,
    /// Colour class of the style sheet: `a` or `b`.
    pub class: &'a str,
    /// One for each epoch.
    pub values: Vec<Option<f64>>,
}

pub struct Curves<'a> {
    pub id: &'a str,
    pub title: &'a str,
    pub epochs: &'a [u32],
    pub series: Vec<Series<'a>>,
    pub text: fn(f64) -> String,
    /// Text of the axis marks where they differ from the plain number.
    pub tick_text: Option<fn(f64) -> String>,
    /// Series and point to mark, with a word for it.
    pub best: Option<(usize, usize, &'a str)>,
    pub may_be_log: bool,
}

struct Frame {
    width: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    height: f64,
}

const FRAME: Frame = Frame { width: 480.0, left: 54.0, right: 468.0, top: 14.0, bottom: 216.0, height: 248.0 };

/// The figure; a sentence instead of axes when nothing can be drawn.
pub fn curves(c: &Curves) -> String {
    let finite = || c.series.iter().flat_map(|s| s.values.iter().flatten().copied().filter_map(drawable));
    let pixels = (FRAME.bottom, FRAME.top);
    let y = match c.may_be_log {
        true => Scale::linear_or_log(finite().collect::<Vec<_>>().into_iter(), pixels),
        false => Scale::linear(finite(), pixels),
    };
    let log = if y.is_some_and(|y| y.is_log()) { ", log axis" } else { "" };
    let title = escape(c.title);
    let mut out = format!(r#"<figure class="chart" id="{}"><figcaption><h3>{title}{log}</h3>"#, c.id);
    let Some(y) = y else {
        let _ = write!(out, r#"</figcaption><p class="empty">No finite value to draw.</p></figure>"#);
        return out;
    };
    legend(&mut out, c);
    out.push_str("</figcaption>");
    let x = x_scale(c.epochs);
    let label = format!("{} over {} epochs", c.title, c.epochs.len());
    let (w, h) = (FRAME.width, FRAME.height);
    let _ = write!(out, r#"<svg viewBox="0 0 {w} {h}" role="img" aria-label="{}">"#, escape(&label));
    axes(&mut out, c, &x, &y);
    for series in &c.series {
        line(&mut out, series, c.epochs, &x, &y);
    }
    best_mark(&mut out, c, &x, &y);
    let _ = write!(out, r#"<line class="rule" x1="0" x2="0" y1="{}" y2="{}"/>"#, px(FRAME.top), px(FRAME.bottom));
    bands(&mut out, c, &x);
    out.push_str("</svg>");
    out.push_str("</figure>");
    out
}

fn x_scale(epochs: &[u32]) -> Scale {
    let (first, last) = (epochs.iter().min().copied().unwrap_or(0), epochs.iter().max().copied().unwrap_or(0));
    match first == last {
        true => Scale::exact(f64::from(first) - 0.5, f64::from(first) + 0.5, (FRAME.left, FRAME.right)),
        false => Scale::exact(f64::from(first), f64::from(last), (FRAME.left + 6.0, FRAME.right - 4.0)),
    }
}

/// Names with the last values; the script writes the values under the pointer into the same places.
fn legend(out: &mut String, c: &Curves) {
    let last = c.epochs.last().copied().unwrap_or(0);
    out.push_str(r#"<p class="legend">"#);
    for s in &c.series {
        let value = s.values.last().copied().flatten().map_or_else(|| "–".to_string(), c.text);
        let (class, name) = (s.class, escape(s.name));
        let _ = write!(out, r#"<span class="key {class}">{name} <b>{}</b></span>"#, escape(&value));
    }
    let _ = write!(out, r#"<span class="at">epoch <b>{last}</b></span></p>"#);
}

fn axes(out: &mut String, c: &Curves, x: &Scale, y: &Scale) {
    let (left, right, bottom) = (px(FRAME.left), px(FRAME.right), px(FRAME.bottom));
    for (value, text) in y.ticks(5) {
        let at = px(y.at(value));
        let text = c.tick_text.map_or(text, |tick_text| tick_text(value));
        let _ = write!(out, r#"<line class="grid" x1="{left}" x2="{right}" y1="{at}" y2="{at}"/>"#);
        let (tx, ty) = (px(FRAME.left - 8.0), px(y.at(value) + 4.0));
        let _ = write!(out, r#"<text class="tick" x="{tx}" y="{ty}" text-anchor="end">{}</text>"#, escape(&text));
    }
    let _ = write!(out, r#"<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>"#);
    let ticks = match c.epochs {
        [only] => vec![(f64::from(*only), only.to_string())],
        _ => x.whole_ticks(6),
    };
    let (tx, ty) = (px(FRAME.left - 8.0), px(FRAME.bottom + 20.0));
    let _ = write!(out, r#"<text class="tick" x="{tx}" y="{ty}" text-anchor="end">epoch</text>"#);
    for (value, text) in ticks {
        let at = px(x.at(value));
        let _ = write!(out, r#"<text class="tick" x="{at}" y="{ty}" text-anchor="middle">{text}</text>"#);
    }
}

/// One path with a gap for each missing value, dots for points that stand alone, crosses for what is not finite.
fn line(out: &mut String, s: &Series, epochs: &[u32], x: &Scale, y: &Scale) {
    let points: Vec<Option<(f64, f64)>> = (s.values.iter().zip(epochs))
        .map(|(value, epoch)| value.and_then(drawable).map(|v| (x.at(f64::from(*epoch)), y.at(v))))
        .collect();
    let mut path = String::new();
    let mut dots = String::new();
    for (i, point) in points.iter().enumerate() {
        let Some((px_x, px_y)) = point else { continue };
        let after_gap = i == 0 || points[i - 1].is_none();
        let before_gap = points.get(i + 1).copied().flatten().is_none();
        let (cx, cy) = (px(*px_x), px(*px_y));
        match (after_gap, before_gap) {
            (true, true) => {
                let _ = write!(dots, r#"<circle class="dot {}" cx="{cx}" cy="{cy}" r="4"/>"#, s.class);
            }
            (true, false) => {
                let _ = write!(path, "M{cx} {cy}");
            }
            (false, _) => {
                let _ = write!(path, "L{cx} {cy}");
            }
        }
    }
    if !path.is_empty() {
        let _ = write!(out, r#"<path class="line {}" d="{path}"/>"#, s.class);
    }
    out.push_str(&dots);
    for (value, epoch) in s.values.iter().zip(epochs) {
        if value.is_some_and(|v| drawable(v).is_none()) {
            let (at, top) = (x.at(f64::from(*epoch)), FRAME.top + 2.0);
            let (l, r, t, b) = (px(at - 3.5), px(at + 3.5), px(top - 3.5), px(top + 3.5));
            let _ = write!(out, r#"<path class="cross {}" d="M{l} {t}L{r} {b}M{l} {b}L{r} {t}"/>"#, s.class);
        }
    }
}

fn best_mark(out: &mut String, c: &Curves, x: &Scale, y: &Scale) {
    let Some((series_idx, point, word)) = c.best else { return };
    let series = &c.series[series_idx];
    let Some(value) = series.values[point].and_then(drawable) else { return };
    let (at_x, at_y) = (x.at(f64::from(c.epochs[point])), y.at(value));
    let (cx, cy) = (px(at_x), px(at_y));
    let _ = write!(out, r#"<circle class="best {}" cx="{cx}" cy="{cy}" r="5"/>"#, series.class);
    // The word goes to the right, where a falling curve leaves room, unless the frame ends there; above a low point and
    // below a high one.
    let anchor = if at_x > FRAME.right - MARK_WIDTH { "end" } else { "start" };
    let ty = if at_y < (FRAME.top + FRAME.bottom) / 2.0 { at_y + 24.0 } else { at_y - 14.0 };
    let text = format!("{word} {}, epoch {}", (c.text)(value), c.epochs[point]);
    let (tx, ty) = (px(at_x + if anchor == "end" { 5.0 } else { -5.0 }), px(ty));
    let _ = write!(out, r#"<text class="mark" x="{tx}" y="{ty}" text-anchor="{anchor}">{}</text>"#, escape(&text));
}

/// Invisible bands, one for each epoch: a title for browsers without the script, the values for the script.
fn bands(out: &mut String, c: &Curves, x: &Scale) {
    let n = c.epochs.len();
    let every = n.div_ceil(MAX_BANDS).max(1);
    // The last epoch always has a band, whatever the stride.
    let shown: Vec<usize> = (0..n).filter(|i| (n - 1 - i).is_multiple_of(every)).collect();
    let at = |i: usize| x.at(f64::from(c.epochs[shown[i]]));
    let (top, height) = (px(FRAME.top), px(FRAME.bottom - FRAME.top));
    for i in 0..shown.len() {
        let left = if i == 0 { FRAME.left } else { (at(i - 1) + at(i)) / 2.0 };
        let right = if i + 1 == shown.len() { FRAME.right } else { (at(i) + at(i + 1)) / 2.0 };
        let epoch = c.epochs[shown[i]];
        let texts: Vec<String> =
            c.series.iter().map(|s| s.values[shown[i]].map_or_else(|| "–".to_string(), c.text)).collect();
        let named: Vec<String> = c.series.iter().zip(&texts).map(|(s, text)| format!("{} {text}", s.name)).collect();
        let (at_x, left_px, width) = (px(at(i)), px(left), px((right - left).max(0.1)));
        let _ = write!(
            out,
            r#"<rect class="band" x="{left_px}" y="{top}" width="{width}" height="{height}" data-x="{at_x}" data-epoch="{epoch}" data-values="{}"><title>epoch {epoch}: {}</title></rect>"#,
            escape(&texts.join("|")),
            escape(&named.join(", "))
        );
    }
}

/// A small curve with its first, largest and last value in words, for what is looked at once.
pub fn sparkline(title: &str, epochs: &[u32], values: &[Option<f64>], text: fn(f64) -> String) -> String {
    const WIDTH: f64 = 480.0;
    const HEIGHT: f64 = 64.0;
    let finite: Vec<f64> = values.iter().flatten().copied().filter_map(drawable).collect();
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else { return String::new() };
    let (lo, hi) = finite.iter().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let y = Scale::exact(lo.min(0.0), hi, (HEIGHT - 3.0, 5.0));
    let ends = (epochs.iter().min().copied().unwrap_or(0), epochs.iter().max().copied().unwrap_or(0));
    let x = Scale::exact(f64::from(ends.0), f64::from(ends.1), (3.0, WIDTH - 3.0));
    let mut path = String::new();
    let mut area = String::new();
    for (value, epoch) in values.iter().zip(epochs) {
        let Some(value) = value.and_then(drawable) else { continue };
        let (at_x, at_y) = (px(x.at(f64::from(*epoch))), px(y.at(value)));
        let _ = match path.is_empty() {
            true => write!(area, "M{at_x} {HEIGHT}L{at_x} {at_y}").and_then(|()| write!(path, "M{at_x} {at_y}")),
            false => write!(area, "L{at_x} {at_y}").and_then(|()| write!(path, "L{at_x} {at_y}")),
        };
    }
    let last_x = epochs.iter().zip(values).rev().find(|(_, v)| v.and_then(drawable).is_some());
    let _ = write!(area, "L{} {HEIGHT}Z", px(last_x.map_or(3.0, |(epoch, _)| x.at(f64::from(*epoch)))));
    let words = match lo == hi {
        true => format!("constant {}", text(*first)),
        false => format!("{} → {}, largest {}", text(*first), text(*last), text(hi)),
    };
    let (title, words) = (escape(title), escape(&words));
    let drawing = match finite.len() {
        1 => String::new(),
        _ => format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: {words}" preserveAspectRatio="none"><path class="area" d="{area}"/><path class="line c" d="{path}"/></svg>"#
        ),
    };
    format!(
        r#"<figure class="spark"><figcaption><h3>{title}</h3><p class="legend">{words}</p></figcaption>{drawing}</figure>"#
    )
}
