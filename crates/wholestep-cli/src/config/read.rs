//! From TOML text to sections. Takes the text, gives a configuration or an error with a line and the nearest known word. Never guesses a
//! value.

use super::Config;
use serde::de::DeserializeOwned;
use toml::{Table, Value};
use wholestep::{Error, ErrorKind, Result};

const SECTIONS: [&str; 7] = ["name", "data", "model", "loss", "optimizer", "schedule", "train"];

/// What other libraries call our keys.
const SYNONYMS: [(&str, &str); 14] = [
    ("learning_rate", "lr"),
    ("rate", "lr"),
    ("wd", "weight_decay"),
    ("decay", "weight_decay"),
    ("batch", "batch_size"),
    ("n_epochs", "epochs"),
    ("beta", "betas"),
    ("patience", "early_stopping"),
    ("gradient_clipping", "clip"),
    ("random_state", "seed"),
    ("units", "out_features"),
    ("filters", "out_channels"),
    ("channels", "out_channels"),
    ("label", "target"),
];

pub fn config(text: &str, name: &str) -> Result<Config> {
    let mut table: Table = toml::from_str(text).map_err(|e| fault(format!("no TOML: {}", e.to_string().trim_end())))?;
    if let Some(key) = table.keys().find(|k| !SECTIONS.contains(&k.as_str())) {
        let near = nearest(key, SECTIONS.iter().copied()).map(|n| format!("; did you mean [{n}]?")).unwrap_or_default();
        return Err(fault(format!("unknown section [{key}]{}{near}", at(text, &[key]))));
    }
    let name = match table.remove("name") {
        None => name.to_string(),
        Some(Value::String(name)) => name,
        Some(other) => return Err(fault(format!("name: expected a word, got {other}"))),
    };
    let mut section = |name: &str, default: Option<&str>| match (table.remove(name), default) {
        (Some(Value::Table(table)), _) => Ok(table),
        (Some(other), _) => Err(fault(format!("{name}: expected a section [{name}], got {other}"))),
        (None, Some(kind)) => Ok(Table::from_iter([("kind".to_string(), Value::String(kind.to_string()))])),
        (None, None) => Err(fault(format!("the section [{name}] is missing"))),
    };
    let data = typed(text, "data", section("data", None)?)?;
    let mut model = section("model", None)?;
    model.entry("version").or_insert(Value::Integer(1));
    // The data says what is left out here.
    model.entry("inputs").or_insert(Value::Array(Vec::new()));
    let model = typed(text, "model", model)?;
    let loss = typed(text, "loss", section("loss", None)?)?;
    let optimizer = typed(text, "optimizer", section("optimizer", None)?)?;
    let schedule = typed(text, "schedule", section("schedule", Some("constant"))?)?;
    let train = typed(text, "train", section("train", None)?)?;
    Ok(Config { name, data, model, loss, optimizer, schedule, train })
}

/// A section as `T`. Sections are written with `kind` and layers with `type`; each takes the other word too.
fn typed<T: DeserializeOwned>(text: &str, section: &str, mut table: Table) -> Result<T> {
    if let Some(kind) = table.remove("kind")
        && table.insert("type".to_string(), kind).is_some()
    {
        return Err(fault(format!("[{section}]{}: `kind` and `type` say the same; keep one", at(text, &[section]))));
    }
    if ["model", "schedule", "train"].contains(&section) {
        table.iter_mut().for_each(|(_, value)| kind_to_type(value));
    }
    let words: Vec<String> =
        table.iter().filter(|(key, v)| *key != "type" && v.is_str()).map(|(key, _)| key.clone()).collect();
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|e| {
        let path = e.path().to_string();
        let what = e.into_inner().to_string();
        // A key that is a word itself; elsewhere an unknown variant is a table of an unknown kind.
        let word = words.contains(&path).then_some(path.as_str());
        fault(explained(text, section, &path, word, what.lines().next().unwrap_or_default()))
    })
}

/// The same within layers, schedules of schedules and averages.
fn kind_to_type(value: &mut Value) {
    match value {
        Value::Table(table) => {
            if let Some(kind) = table.remove("kind") {
                table.insert("type".to_string(), kind);
            }
            table.iter_mut().for_each(|(_, value)| kind_to_type(value));
        }
        Value::Array(items) => items.iter_mut().for_each(kind_to_type),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// serde's message with a place and a suggestion.
fn explained(text: &str, section: &str, path: &str, word: Option<&str>, what: &str) -> String {
    let mut quoted = what.split('`').skip(1).step_by(2);
    let first = quoted.next().unwrap_or_default();
    let near = || nearest(first, quoted.clone()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
    if what.starts_with("unknown field") {
        let list: Vec<&str> = quoted.clone().collect();
        let near = match near() {
            near if near.is_empty() && !list.is_empty() => format!("; known are {}", list.join(", ")),
            near => near,
        };
        return format!("unknown key `{first}` in [{section}]{}{near}", at(text, &[section, first]));
    }
    let place = at(text, &[section]);
    if what.starts_with("unknown variant") {
        let known: Vec<&str> = quoted.clone().collect();
        let near = match near() {
            near if near.is_empty() => format!("; there are {}", known.join(", ")),
            near => near,
        };
        return match word {
            Some(key) => format!("[{section}]{}: unknown {key} `{first}`{near}", at(text, &[section, key])),
            None => format!("[{section}]{place}: unknown kind `{first}`{near}"),
        };
    }
    if what.starts_with("missing field") {
        let key = if first == "type" && section != "model" { "kind" } else { first };
        let within = if path == "." { String::new() } else { format!("{path}: ") };
        return format!("[{section}]{place}: {within}the key `{key}` is missing");
    }
    let place = at(text, &[section, path.split(['.', '[']).next().unwrap_or(path)]);
    if path == "." { format!("[{section}]{place}: {what}") } else { format!("[{section}]{place}: {path}: {what}") }
}

/// The known word that `wrong` was most likely meant to be.
fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let known: Vec<&str> = known.collect();
    let wrong = wrong.to_lowercase();
    let score = |word: &str| {
        let synonyms = SYNONYMS.iter().filter(|(_, ours)| *ours == word).map(|(theirs, _)| *theirs);
        // Swapped letters in a short word count little for one measure, a long common start for the other.
        let alike =
            |w: &str| strsim::jaro_winkler(&wrong, w).max(strsim::normalized_damerau_levenshtein(&wrong, w) + 0.1);
        synonyms.chain([word]).map(alike).fold(0.0, f64::max)
    };
    let best = known.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.7).then_some(best)
}

/// " at line 12": where the last of `keys` is written, below those before it.
fn at(text: &str, keys: &[&str]) -> String {
    let Ok(table) = toml::de::DeTable::parse(text) else { return String::new() };
    let Some((section, rest)) = keys.split_first() else { return String::new() };
    let Some((key, value)) = table.get_ref().iter().find(|(k, _)| k.get_ref() == section) else { return String::new() };
    let span = match rest.first() {
        Some(name) => find(value.get_ref(), name).unwrap_or(key.span()),
        None => key.span(),
    };
    let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
    format!(" at line {line}")
}

/// The place of the first key `name` in a value.
fn find(value: &toml::de::DeValue, name: &str) -> Option<std::ops::Range<usize>> {
    use toml::de::DeValue;
    match value {
        DeValue::Table(table) => {
            let here = table.iter().find(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span());
            here.or_else(|| table.iter().find_map(|(_, v)| find(v.get_ref(), name)))
        }
        DeValue::Array(items) => items.iter().find_map(|v| find(v.get_ref(), name)),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            None
        }
    }
}

fn fault(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
