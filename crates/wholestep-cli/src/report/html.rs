//! Text for the page. Takes values, gives escaped text and numbers a person can read. Never passes markup through.

/// Text for element content and for attributes in double quotes. Characters that XML forbids become U+FFFD, because the
/// drawings must stay well-formed whatever a class is called.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(c),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// At most `max` characters, the last one an ellipsis when something is cut.
pub fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_string();
    }
    let kept: String = text.chars().take(max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// 1234567 -> 1 234 567, with narrow no-break spaces.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// At most about four characters, for narrow cells: 950, 12k, 3.4M.
pub fn short_count(n: u64) -> String {
    match n {
        0..=9_999 => n.to_string(),
        10_000..=999_999 => format!("{}k", n / 1_000),
        1_000_000..=9_999_999 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{}M", n / 1_000_000),
    }
}

/// Value and unit apart, because the page sets the unit smaller.
pub fn bytes(n: u64) -> (String, &'static str) {
    let n = n as f64;
    match n {
        n if n < 1024.0 => (format!("{n}"), "B"),
        n if n < 1024.0 * 1024.0 => (three_digits(n / 1024.0), "KiB"),
        n if n < 1024.0 * 1024.0 * 1024.0 => (three_digits(n / 1024.0 / 1024.0), "MiB"),
        n => (three_digits(n / 1024.0 / 1024.0 / 1024.0), "GiB"),
    }
}

/// A duration in milliseconds, value and unit.
pub fn millis(ms: f64) -> (String, &'static str) {
    match ms {
        ms if !ms.is_finite() => (number(ms), ""),
        ms if ms < 1.0 => (three_digits(ms * 1e3), "µs"),
        ms if ms < 1_000.0 => (three_digits(ms), "ms"),
        ms => duration(ms / 1e3),
    }
}

/// A duration in seconds, value and unit; above two minutes `3:20 min`, above two hours `2:03 h`.
pub fn duration(seconds: f64) -> (String, &'static str) {
    match seconds {
        s if !s.is_finite() => (number(s), ""),
        s if s < 1.0 => (three_digits(s * 1e3), "ms"),
        s if s < 120.0 => (three_digits(s), "s"),
        s if s < 7_200.0 => (format!("{}:{:02}", s.round() as u64 / 60, s.round() as u64 % 60), "min"),
        s => (format!("{}:{:02}", s as u64 / 3600, s as u64 % 3600 / 60), "h"),
    }
}

/// `98.4 %`, with more places close to 100 % so that 99.97 % does not read as 100 %.
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return number(share);
    }
    let p = share * 100.0;
    match p {
        p if p > 99.9 && p < 100.0 => format!("{:.2}\u{202f}%", (p * 100.0).floor() / 100.0),
        p => format!("{p:.1}\u{202f}%"),
    }
}

/// Four significant digits; powers of ten outside 0.0001 to 1 000 000.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match value {
        v if v.is_nan() => "NaN".to_string(),
        v if v.is_infinite() => if v > 0.0 { "∞" } else { "−∞" }.to_string(),
        0.0 => "0".to_string(),
        v if !(1e-4..1e6).contains(&size) => minus(trim_zeros(&format!("{v:.2e}"))),
        v => {
            let places = (3 - size.log10().floor() as i32).clamp(0, 8) as usize;
            minus(format!("{v:.places$}"))
        }
    }
}

/// A setting such as a learning rate: as [`number`], without the trailing zeros.
pub fn setting(value: f64) -> String {
    let text = number(value);
    if text.contains('.') && !text.contains('e') {
        return text.trim_end_matches('0').trim_end_matches('.').to_string();
    }
    text
}

/// Three significant digits, for measurements that are not exact to four.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => number(value),
    }
}

/// `1.00e-5` -> `1e-5`
fn trim_zeros(text: &str) -> String {
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text.to_string(),
    }
}

/// A true minus sign, but not inside the exponent.
fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A coordinate: two places, no `-0`.
pub fn px(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}
