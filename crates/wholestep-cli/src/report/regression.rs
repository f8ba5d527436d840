//! Predictions of numbers. Takes true and predicted values, gives a scatter plot and a histogram of the residuals. Never
//! draws a pair of which one value is not finite; it says how many those are.

use super::Regression;
use super::html::{count, escape, number, px};
use super::scale::{Scale, drawable, round_step};
use std::fmt::Write;

/// More dots only make the file larger.
const MAX_DOTS: usize = 2_000;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 468.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 330.0;

/// The section's inside; empty when there is no pair.
pub fn regression(r: &Regression) -> String {
    let n_pairs = r.truth.len().min(r.predicted.len());
    let pairs: Vec<(f64, f64)> = (r.truth.iter().zip(&r.predicted))
        .filter_map(|(t, p)| Some((drawable(f64::from(*t))?, drawable(f64::from(*p))?)))
        .collect();
    if n_pairs == 0 {
        return String::new();
    }
    let mut out = String::new();
    if pairs.len() < n_pairs {
        let n = count((n_pairs - pairs.len()) as u64);
        let _ = write!(
            out,
            r#"<p class="notice">{n} of {} predictions are not finite and not drawn.</p>"#,
            count(n_pairs as u64)
        );
    }
    if pairs.is_empty() {
        return out;
    }
    out.push_str(r#"<div class="pair">"#);
    out.push_str(&scatter(r, &pairs));
    out.push_str(&residuals(r, &pairs));
    out.push_str("</div>");
    out
}

fn unit_text(r: &Regression) -> String {
    r.unit.as_ref().filter(|unit| !unit.is_empty()).map_or_else(String::new, |unit| format!(", {unit}"))
}

fn scatter(r: &Regression, pairs: &[(f64, f64)]) -> String {
    let every = pairs.len().div_ceil(MAX_DOTS).max(1);
    let mut out = String::from(
        r#"<figure class="chart"><figcaption><h3>Predicted and true</h3><p class="legend"><span class="at">"#,
    );
    let _ = match every {
        1 => write!(out, "{} rows; on the line is right", count(pairs.len() as u64)),
        _ => write!(out, "one in {every} of {} rows; on the line is right", count(pairs.len() as u64)),
    };
    out.push_str("</span></p></figcaption>");
    let values = || pairs.iter().flat_map(|(t, p)| [*t, *p]);
    // Both axes share one range, so that the line of right predictions is the diagonal.
    let (Some(x), Some(y)) = (Scale::linear(values(), (LEFT, RIGHT)), Scale::linear(values(), (BOTTOM, TOP))) else {
        return out + "</figure>";
    };
    let _ = write!(
        out,
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Predicted against true values of {} rows">"#,
        pairs.len()
    );
    for (value, text) in y.ticks(5) {
        let at = px(y.at(value));
        let ty = px(y.at(value) + 4.0);
        let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>"#);
        let _ = write!(
            out,
            r#"<text class="tick" x="{}" y="{ty}" text-anchor="end">{}</text>"#,
            px(LEFT - 8.0),
            escape(&text)
        );
    }
    x_axis(&mut out, &x, &format!("true value{}", unit_text(r)));
    let middle = px((TOP + BOTTOM) / 2.0);
    let _ = write!(
        out,
        r#"<text class="axis-name" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">predicted</text>"#
    );
    let _ = write!(out, r#"<line class="ideal" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{TOP}"/>"#);
    out.push_str(r#"<g class="dots">"#);
    for (truth, predicted) in pairs.iter().step_by(every) {
        let _ = write!(out, r#"<circle cx="{}" cy="{}" r="3"/>"#, px(x.at(*truth)), px(y.at(*predicted)));
    }
    out.push_str("</g></svg></figure>");
    out
}

fn x_axis(out: &mut String, x: &Scale, name: &str) {
    let _ = write!(out, r#"<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>"#);
    for (value, text) in x.ticks(4) {
        let (at, ty) = (px(x.at(value)), px(BOTTOM + 20.0));
        let _ = write!(out, r#"<text class="tick" x="{at}" y="{ty}" text-anchor="middle">{}</text>"#, escape(&text));
    }
    let (at, ty) = (px((LEFT + RIGHT) / 2.0), px(BOTTOM + 42.0));
    let _ = write!(out, r#"<text class="axis-name" x="{at}" y="{ty}" text-anchor="middle">{}</text>"#, escape(name));
}

/// Bins of a round width over the middle 99 % of the residuals; the rest falls into the outermost bins.
fn residuals(r: &Regression, pairs: &[(f64, f64)]) -> String {
    let mut errors: Vec<f64> = pairs.iter().map(|(t, p)| p - t).collect();
    errors.sort_by(f64::total_cmp);
    let at_share = |share: f64| errors[((errors.len() - 1) as f64 * share).round() as usize];
    let (lo, hi) = (at_share(0.005), at_share(0.995));
    let n_bins = (errors.len() as f64).sqrt().clamp(5.0, 30.0);
    let width = if hi > lo { round_step((hi - lo) / n_bins) } else { round_step(lo.abs().max(1.0) * 0.1) };
    let first = (lo / width).floor();
    let n_bins = ((hi / width).floor() - first) as usize + 1;
    let mut counts = vec![0u64; n_bins];
    for error in &errors {
        counts[((error / width).floor() - first).clamp(0.0, (n_bins - 1) as f64) as usize] += 1;
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let mut out = format!(
        r#"<figure class="chart"><figcaption><h3>Residuals</h3><p class="legend"><span class="at">mean {}; half lie in {} … {}</span></p></figcaption>"#,
        number(mean),
        number(at_share(0.25)),
        number(at_share(0.75))
    );
    let x = Scale::exact(first * width, (first + n_bins as f64) * width, (LEFT, RIGHT));
    let most = counts.iter().max().copied().unwrap_or(1).max(1) as f64;
    let Some(y) = Scale::linear([0.0, most].into_iter(), (BOTTOM, TOP)) else { return out + "</figure>" };
    let _ = write!(out, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histogram of the residuals">"#);
    for (value, text) in y.ticks(5).into_iter().filter(|(value, _)| value.fract() == 0.0) {
        let (at, ty) = (px(y.at(value)), px(y.at(value) + 4.0));
        let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>"#);
        let _ = write!(
            out,
            r#"<text class="tick" x="{}" y="{ty}" text-anchor="end">{}</text>"#,
            px(LEFT - 8.0),
            escape(&text)
        );
    }
    for (bin, n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (from, to) = ((first + bin as f64) * width, (first + bin as f64 + 1.0) * width);
        let (left, right, top) = (x.at(from), x.at(to), y.at(*n as f64));
        let _ = write!(
            out,
            r#"<rect class="column" x="{}" y="{}" width="{}" height="{}"><title>{} to {}: {} rows</title></rect>"#,
            px(left + 0.75),
            px(top),
            px((right - left - 1.5).max(0.5)),
            px(BOTTOM - top),
            number(from),
            number(to),
            count(*n)
        );
    }
    x_axis(&mut out, &x, &format!("predicted − true{}", unit_text(r)));
    out.push_str("</svg></figure>");
    out
}
