//! The page as a whole. Takes a report, gives the HTML text section by section. Never shows a section that has nothing
//! to say.

use super::chart::{Curves, Series, curves, sparkline};
use super::html::{bytes, count, duration, escape, millis, number, percent, px, setting, three_digits};
use super::scale::drawable;
use super::{EpochRow, Mistake, Report, classes, picture, regression};
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
const MAX_MISTAKES: usize = 60;
const MAX_COSTS: usize = 30;

struct Section {
    id: &'static str,
    title: &'static str,
    /// A sentence under the title: how to read what follows.
    lead: &'static str,
    body: String,
}

pub fn page(report: &Report) -> String {
    let sections: Vec<Section> = [
        Section { id: "learning", title: "Learning", lead: "", body: learning(report) },
        Section { id: "classes", title: "Classes", lead: "", body: classes::classes(report) },
        Section {
            id: "predictions",
            title: "Predictions",
            lead: "",
            body: report.regression.as_ref().map_or_else(String::new, regression::regression),
        },
        Section {
            id: "mistakes",
            title: "Mistakes",
            lead: "What the model said, what it should have said, and how sure it was.",
            body: mistakes(report),
        },
        Section {
            id: "cost",
            title: "Cost of a step",
            lead: "Where the time of one training step goes, kernel by kernel.",
            body: costs(report),
        },
        Section { id: "model", title: "Model", lead: "", body: model(report) },
        Section {
            id: "run",
            title: "How to run it again",
            lead: "The configuration and the compiled plan, complete.",
            body: texts(report),
        },
    ]
    .into_iter()
    .filter(|section| !section.body.is_empty())
    .collect();

    let title = if report.title.is_empty() { "Training report" } else { &report.title };
    let mut out = String::with_capacity(1 << 17);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        escape(title)
    );
    header(&mut out, report, title, &sections);
    out.push_str("<main>\n");
    for section in sections {
        let _ = write!(out, "<section id=\"{}\">\n<h2>{}</h2>\n", section.id, section.title);
        if !section.lead.is_empty() {
            let _ = writeln!(out, r#"<p class="lead">{}</p>"#, section.lead);
        }
        let _ = write!(out, "{}\n</section>\n", section.body);
    }
    let _ = write!(
        out,
        "</main>\n<footer><p>Written by Wholestep. This page is one file: it loads nothing.</p></footer>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    );
    out
}

fn header(out: &mut String, report: &Report, title: &str, sections: &[Section]) {
    let _ = write!(out, "<header>\n<p class=\"kind\">Training report</p>\n<h1>{}</h1>\n", escape(title));
    let verdict = verdict(report);
    if !verdict.is_empty() {
        let _ = writeln!(out, r#"<p class="verdict">{verdict}</p>"#);
    }
    out.push_str("<dl class=\"facts\">");
    let started = report.started.clone().unwrap_or_default();
    for (name, value, code) in
        [("Command", &report.command, true), ("Device", &report.device, false), ("Started", &started, false)]
    {
        if !value.is_empty() {
            let value = escape(value);
            let value = if code { format!("<code>{value}</code>") } else { value };
            let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
    }
    out.push_str("</dl>\n");
    tiles(out, report);
    for notice in notices(report) {
        let _ = writeln!(out, r#"<p class="notice">{}</p>"#, escape(&notice));
    }
    out.push_str("<nav aria-label=\"Sections\">");
    for section in sections {
        let _ = write!(out, "<a href=\"#{}\">{}</a>", section.id, section.title);
    }
    out.push_str("</nav>\n</header>\n");
}

/// One sentence that says how it ended; it is HTML, all of it from numbers.
fn verdict(report: &Report) -> String {
    let Some(last) = report.epochs.last() else { return String::new() };
    let n = report.epochs.len();
    let seconds: Option<f64> = report.epochs.iter().map(|row| row.seconds).sum();
    let epochs = if n == 1 { "one epoch".to_string() } else { format!("{n} epochs") };
    let time =
        seconds.filter(|s| s.is_finite()).map_or_else(String::new, |s| format!(" and {}", with_unit(duration(s))));
    let reached = match (last.val_acc, last.val_loss, last.train_acc) {
        (Some(accuracy), _, _) => format!("validation accuracy is <strong>{}</strong>", percent(accuracy)),
        (None, Some(loss), _) => format!("validation loss is <strong>{}</strong>", number(loss)),
        (None, None, Some(accuracy)) => {
            format!("accuracy on the training set is <strong>{}</strong>", percent(accuracy))
        }
        (None, None, None) => format!("training loss is <strong>{}</strong>", number(last.train_loss)),
    };
    format!("After {epochs}{time}, {reached}.")
}

fn with_unit((value, unit): (String, &str)) -> String {
    if unit.is_empty() { value } else { format!("{value}\u{a0}{unit}") }
}

/// The epoch with the lowest finite validation loss.
fn best_epoch(epochs: &[EpochRow]) -> Option<usize> {
    let finite = epochs.iter().enumerate().filter_map(|(i, row)| Some((i, drawable(row.val_loss?)?)));
    finite.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

/// What a reader should know before trusting the numbers.
fn notices(report: &Report) -> Vec<String> {
    let mut notices = Vec::new();
    let epochs = &report.epochs;
    let not_finite =
        |row: &&EpochRow| !row.train_loss.is_finite() || row.val_loss.is_some_and(|loss| !loss.is_finite());
    if let Some(row) = epochs.iter().find(not_finite) {
        notices.push(format!("The loss stopped being a finite number in epoch {}.", row.epoch));
    }
    if !epochs.is_empty() && epochs.iter().all(|row| row.val_loss.is_none() && row.val_acc.is_none()) {
        notices.push("No validation set: nothing here tells how the model does on rows it has not seen.".to_string());
    }
    if let (Some(best), Some(last)) = (best_epoch(epochs), epochs.last()) {
        let (low, end) = (epochs[best].val_loss.unwrap_or(0.0), last.val_loss.unwrap_or(0.0));
        let falling = drawable(epochs[best].train_loss) > drawable(last.train_loss);
        if end > low * 1.05 && falling && epochs.len() > best + 2 {
            notices.push(format!(
                "Validation loss was lowest in epoch {} ({}) and ended at {} while training loss kept falling: the model \
                 began to learn its training rows by heart.",
                epochs[best].epoch,
                number(low),
                number(end)
            ));
        }
    }
    notices
}

/// Label, value, unit, remark.
type Tile = (&'static str, String, String, String);

fn tiles(out: &mut String, report: &Report) {
    let mut tiles: Vec<Tile> = result_tiles(report);
    let t = &report.totals;
    let mut push = |label, (value, unit): (String, &str)| tiles.push((label, value, unit.to_string(), String::new()));
    if let Some(params) = t.params {
        push("Parameters", (count(params), ""));
    }
    if let Some(planned) = t.planned_bytes {
        push("Planned memory", bytes(planned));
    }
    if let Some(ms) = t.compile_ms {
        push("Compile", millis(ms));
    }
    if let Some(ms) = t.step_ms {
        push("Step", millis(ms));
    }
    if let Some(rate) = t.samples_per_s {
        let rate = if rate.is_finite() && rate >= 100.0 { count(rate.round() as u64) } else { number(rate) };
        push("Samples per second", (rate, ""));
    }
    if let Some(seconds) = t.seconds_to_target {
        push("Time to target", duration(seconds));
    }
    if tiles.is_empty() {
        return;
    }
    out.push_str("<dl class=\"tiles\">");
    for (label, value, unit, remark) in tiles {
        let _ = write!(out, "<div><dt>{label}</dt><dd>{}", escape(&value));
        if !unit.is_empty() {
            let _ = write!(out, "<small>\u{202f}{unit}</small>");
        }
        if !remark.is_empty() {
            let _ = write!(out, "<span>{}</span>", escape(&remark));
        }
        out.push_str("</dd></div>");
    }
    out.push_str("</dl>\n");
}

fn result_tiles(report: &Report) -> Vec<Tile> {
    let mut tiles: Vec<Tile> = Vec::new();
    let mut push = |label, value: String, remark: String| tiles.push((label, value, String::new(), remark));
    if let Some(last) = report.epochs.last() {
        let best_acc = report.epochs.iter().filter_map(|row| Some((drawable(row.val_acc?)?, row.epoch)));
        let best_acc = best_acc.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let (Some(accuracy), Some((best, epoch))) = (last.val_acc, best_acc) {
            push("Validation accuracy", percent(accuracy), format!("best {} in epoch {epoch}", percent(best)));
        }
        if let (Some(loss), Some(best)) = (last.val_loss, best_epoch(&report.epochs)) {
            let row = &report.epochs[best];
            let low = row.val_loss.map_or_else(String::new, number);
            push("Validation loss", number(loss), format!("lowest {low} in epoch {}", row.epoch));
        }
        let remark = last.train_acc.map_or_else(String::new, |accuracy| format!("accuracy {}", percent(accuracy)));
        push("Training loss", number(last.train_loss), remark);
    }
    if let Some(r) = &report.regression {
        let unit = r.unit.clone().unwrap_or_default();
        for (label, value, remark) in [
            ("Mean absolute error", r.mae, unit.clone()),
            ("Root mean square error", r.rmse, unit),
            ("R²", r.r2, "1 is perfect, 0 is the mean".to_string()),
        ] {
            if let Some(value) = value {
                push(label, number(value), remark);
            }
        }
    }
    tiles
}

fn learning(report: &Report) -> String {
    let rows = &report.epochs;
    if rows.is_empty() {
        return String::new();
    }
    let epochs: Vec<u32> = rows.iter().map(|row| row.epoch).collect();
    let column = |value: fn(&EpochRow) -> Option<f64>| rows.iter().map(value).collect::<Vec<_>>();
    let series = |name, class, values: Vec<Option<f64>>| {
        values.iter().any(Option::is_some).then_some(Series { name, class, values })
    };
    let losses = [
        series("training", "a", column(|row| Some(row.train_loss))),
        series("validation", "b", column(|row| row.val_loss)),
    ];
    let losses: Vec<Series> = losses.into_iter().flatten().collect();
    let best = (losses.len() == 2 && rows.len() > 1).then(|| best_epoch(rows)).flatten();
    let mut out = String::from(r#"<div class="pair">"#);
    out.push_str(&curves(&Curves {
        id: "loss",
        title: "Loss",
        epochs: &epochs,
        series: losses,
        text: number,
        tick_text: None,
        best: best.map(|point| (1, point, "lowest")),
        may_be_log: true,
    }));
    let accuracies =
        [series("training", "a", column(|row| row.train_acc)), series("validation", "b", column(|row| row.val_acc))];
    let accuracies: Vec<Series> = accuracies.into_iter().flatten().collect();
    let has_accuracy = !accuracies.is_empty();
    if has_accuracy {
        out.push_str(&curves(&Curves {
            id: "accuracy",
            title: "Accuracy",
            epochs: &epochs,
            series: accuracies,
            text: percent,
            tick_text: Some(percent_tick),
            best: None,
            may_be_log: false,
        }));
    }
    let small = [
        sparkline("Learning rate", &epochs, &column(|row| row.lr), setting),
        sparkline("Gradient norm", &epochs, &column(|row| row.grad_norm), number),
        sparkline("Gradient noise scale", &epochs, &column(|row| row.noise_scale), number),
        sparkline("Time per epoch", &epochs, &column(|row| row.seconds), |s| with_unit(duration(s))),
    ];
    // Without an accuracy the small curves take its place beside the loss.
    match has_accuracy {
        true => out.push_str(&small.concat()),
        false if small.iter().any(|s| !s.is_empty()) => {
            let _ = write!(out, r#"<div class="stack">{}</div>"#, small.concat());
        }
        false => {}
    }
    out.push_str("</div>");
    epoch_table(&mut out, rows);
    out
}

fn percent_tick(share: f64) -> String {
    let p = share * 100.0;
    let text = if (p - p.round()).abs() < 1e-6 { format!("{:.0}", p) } else { format!("{p:.1}") };
    format!("{text}%").replace('-', "−")
}

fn epoch_table(out: &mut String, rows: &[EpochRow]) {
    let shown = |value: fn(&EpochRow) -> Option<f64>| rows.iter().any(|row| value(row).is_some());
    type Column = (&'static str, fn(&EpochRow) -> Option<f64>, fn(f64) -> String);
    let columns: [Column; 8] = [
        ("training loss", |row| Some(row.train_loss), number),
        ("validation loss", |row| row.val_loss, number),
        ("training accuracy", |row| row.train_acc, percent),
        ("validation accuracy", |row| row.val_acc, percent),
        ("learning rate", |row| row.lr, setting),
        ("gradient norm", |row| row.grad_norm, number),
        ("noise scale", |row| row.noise_scale, number),
        ("time", |row| row.seconds, |s| with_unit(duration(s))),
    ];
    let columns: Vec<Column> = columns.into_iter().filter(|(_, value, _)| shown(*value)).collect();
    out.push_str(
        "<details><summary>Every epoch</summary><div class=\"scroll\"><table><thead><tr><th class=\"num\">epoch</th>",
    );
    for (name, _, _) in &columns {
        let _ = write!(out, r#"<th class="num">{name}</th>"#);
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        let _ = write!(out, r#"<tr><td class="num">{}</td>"#, row.epoch);
        for (_, value, text) in &columns {
            let text = value(row).map_or_else(|| "–".to_string(), text);
            let _ = write!(out, r#"<td class="num">{}</td>"#, escape(&text));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></details>");
}

fn mistakes(report: &Report) -> String {
    if report.mistakes.is_empty() {
        return String::new();
    }
    let mut out = String::from("<ul class=\"mistakes\">");
    for mistake in report.mistakes.iter().take(MAX_MISTAKES) {
        card(&mut out, report, mistake);
    }
    out.push_str("</ul>");
    if report.mistakes.len() > MAX_MISTAKES {
        let more = count((report.mistakes.len() - MAX_MISTAKES) as u64);
        let _ = write!(out, r#"<p class="note">And {more} more.</p>"#);
    }
    out
}

fn card(out: &mut String, report: &Report, mistake: &Mistake) {
    let label = escape(&report.class_name(mistake.label as usize));
    let predicted = escape(&report.class_name(mistake.predicted as usize));
    out.push_str("<li>");
    if let Some(image) = &mistake.image {
        match picture::data_uri(image) {
            Some(uri) => {
                let class = if image.width.max(image.height) <= 96 { "pixels" } else { "photo" };
                let _ = write!(
                    out,
                    r#"<img class="{class}" src="{uri}" alt="row {}: {label} taken for {predicted}" width="{}" height="{}"/>"#,
                    mistake.index, image.width, image.height
                );
            }
            None => out.push_str(r#"<p class="no-picture">no picture</p>"#),
        }
    }
    let confidence = f64::from(mistake.confidence);
    let width = if confidence.is_finite() { confidence.clamp(0.0, 1.0) * 100.0 } else { 0.0 };
    let _ = write!(
        out,
        r#"<p class="said"><span class="said-wrong">{predicted}</span><span class="should">is {label}</span></p><p class="sure"><span class="track"><i class="bar b" style="width:{}%"></i></span>{}</p><p class="row">row {}</p></li>"#,
        px(width),
        percent(confidence),
        count(mistake.index)
    );
}

fn costs(report: &Report) -> String {
    if report.costs.is_empty() {
        return String::new();
    }
    let largest = report.costs.iter().filter_map(|row| drawable(row.share)).fold(0.0, f64::max);
    let has_gflops = report.costs.iter().any(|row| row.gflops.is_some());
    let has_bytes = report.costs.iter().any(|row| row.gb_per_s.is_some());
    let mut out = String::from(
        r#"<div class="scroll"><table class="costs"><thead><tr><th>kernel</th><th class="scope">scope</th><th class="num">time</th><th class="bar-col"></th><th class="num">share</th>"#,
    );
    out.push_str(if has_gflops { r#"<th class="num">GFLOP/s</th>"# } else { "" });
    out.push_str(if has_bytes { r#"<th class="num">GB/s</th>"# } else { "" });
    out.push_str("</tr></thead><tbody>");
    let optional = |value: Option<f64>| value.map_or_else(|| "–".to_string(), three_digits);
    for row in report.costs.iter().take(MAX_COSTS) {
        let scope = escape(&row.scope);
        let width =
            drawable(row.share).filter(|_| largest > 0.0).map_or(0.0, |share| (share / largest).max(0.0) * 100.0);
        let _ = write!(
            out,
            r#"<tr><td><code>{}</code><small class="narrow">{scope}</small></td><td class="scope">{scope}</td><td class="num">{}</td><td class="bar-col"><i class="bar a" style="width:{}%"></i></td><td class="num">{}</td>"#,
            escape(&row.kernel),
            escape(&with_unit(millis(row.time_us / 1e3))),
            px(width),
            percent(row.share)
        );
        if has_gflops {
            let _ = write!(out, r#"<td class="num">{}</td>"#, optional(row.gflops));
        }
        if has_bytes {
            let _ = write!(out, r#"<td class="num">{}</td>"#, optional(row.gb_per_s));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    if report.costs.len() > MAX_COSTS {
        let rest = &report.costs[MAX_COSTS..];
        let (n, share) = (rest.len(), rest.iter().map(|row| row.share).sum::<f64>());
        let _ = write!(out, r#"<p class="note">And {n} more kernels with {} of the time.</p>"#, percent(share));
    }
    out
}

fn model(report: &Report) -> String {
    if report.layers.is_empty() {
        return String::new();
    }
    let largest = report.layers.iter().map(|row| row.params).max().unwrap_or(0);
    let total: u64 = report.layers.iter().map(|row| row.params).sum();
    let mut out = String::from(
        r#"<div class="scroll"><table><thead><tr><th>layer</th><th class="shape">output shape</th><th class="num">parameters</th><th class="bar-col"></th></tr></thead><tbody>"#,
    );
    for row in &report.layers {
        let bar = match row.params {
            0 => String::new(),
            n => format!(r#"<i class="bar c" style="width:{}%"></i>"#, px(n as f64 / largest as f64 * 100.0)),
        };
        let shape = escape(&row.output_shape);
        let params = if row.params == 0 { "–".to_string() } else { count(row.params) };
        let _ = write!(
            out,
            r#"<tr><td><code>{}</code><small class="narrow">{shape}</small></td><td class="shape">{shape}</td><td class="num">{params}</td><td class="bar-col">{bar}</td></tr>"#,
            escape(&row.layer)
        );
    }
    let _ = write!(
        out,
        r#"</tbody><tfoot><tr><td>all layers</td><td class="shape"></td><td class="num">{}</td><td class="bar-col"></td></tr></tfoot></table></div>"#,
        count(total)
    );
    out
}

fn texts(report: &Report) -> String {
    let mut out = String::new();
    for (title, text, open) in
        [("Configuration", &report.config_toml, " open=\"\""), ("Plan", &report.plan_summary, "")]
    {
        if !text.trim().is_empty() {
            let text = escape(text.trim_end());
            let _ = write!(
                out,
                "<details{open}><summary>{title}</summary><pre tabindex=\"0\"><code>{text}</code></pre></details>"
            );
        }
    }
    out
}
