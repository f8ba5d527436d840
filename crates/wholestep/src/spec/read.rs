//! Models as text. Takes TOML or JSON, gives a model or an error that says where and what to write instead; and back. Never accepts an
//! unknown key, an unknown version or a model that would not come back equal.

use super::{Model, VERSION};
use crate::{Error, ErrorKind, Result};
use serde::Deserialize;
use wholestep_compiler::ir::names;

impl Model {
    /// Reads a model from TOML.
    /// Errors (`ErrorKind::Config`): no TOML; another version; an unknown or missing key; a value of the wrong type.
    pub fn from_toml(text: &str) -> Result<Model> {
        let value =
            toml::from_str(text).map_err(|e| config(format!("the model is no TOML: {}", e.to_string().trim_end())))?;
        read(value)
    }

    /// Reads a model from JSON.
    /// Errors (`ErrorKind::Config`): no JSON; another version; an unknown or missing key; a value of the wrong type.
    pub fn from_json(text: &str) -> Result<Model> {
        let value = serde_json::from_str(text).map_err(|e| config(format!("the model is no JSON: {e}")))?;
        read(value)
    }

    /// The model as TOML.
    /// Errors (`ErrorKind::Config`): a number that TOML does not hold (above 2^63, or not finite).
    pub fn to_toml(&self) -> Result<String> {
        self.check_numbers()?;
        toml::to_string(self).map_err(|e| config(format!("the model does not fit TOML: {e}")))
    }

    /// The model as JSON, indented.
    /// Errors (`ErrorKind::Config`): a number that JSON does not hold (not finite).
    pub fn to_json(&self) -> Result<String> {
        self.check_numbers()?;
        serde_json::to_string_pretty(self).map_err(|e| config(format!("the model does not fit JSON: {e}")))
    }

    /// JSON writes infinities and NaN as null, so a model that holds one would not come back.
    fn check_numbers(&self) -> Result<()> {
        let value = serde_json::to_value(self).map_err(|e| config(format!("the model does not fit JSON: {e}")))?;
        match find_null(&value, "model".to_string()) {
            Some(path) => Err(config(format!("{path} is no finite number, which a file cannot hold"))),
            None => Ok(()),
        }
    }
}

/// Absent options are left out, so the only nulls are numbers that are not finite.
fn find_null(value: &serde_json::Value, path: String) -> Option<String> {
    match value {
        serde_json::Value::Null => Some(path),
        serde_json::Value::Array(items) => {
            items.iter().enumerate().find_map(|(i, item)| find_null(item, format!("{path}[{i}]")))
        }
        serde_json::Value::Object(fields) => fields.iter().find_map(|(k, v)| find_null(v, format!("{path}.{k}"))),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_) => None,
    }
}

fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

fn read(value: serde_json::Value) -> Result<Model> {
    // The version comes first: the keys of another version may mean other things.
    match value.get("version").map(|v| (v.as_u64(), v)) {
        Some((Some(v), _)) if v == u64::from(VERSION) => {}
        Some((_, other)) => {
            return Err(config(format!("model version {other} is unknown; this library reads version {VERSION}")));
        }
        None => return Err(config(format!("the model has no version; write version = {VERSION}"))),
    }
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let what = e.into_inner().to_string();
        config(format!("{path}: {what}{}", suggestion(&what)))
    })
}

/// "; did you mean `kernel`?" for serde's "unknown field `kernl`, expected one of `out_channels`, `kernel`".
fn suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let Some(wrong) = quoted.next().filter(|_| is_unknown) else { return String::new() };
    let known: Vec<&str> = quoted.collect();
    names::nearest(wrong, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

/// Dtypes by the names that the compiler prints.
pub(super) mod dtype {
    use super::Deserialize;
    use serde::{Deserializer, Serializer, de};
    use wholestep_compiler::ir::DType;

    const ALL: [DType; 9] =
        [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U32, DType::U8, DType::Bool];
    const NAMES: [&str; 9] = ["f64", "f32", "f16", "bf16", "i64", "i32", "u32", "u8", "bool"];

    pub fn serialize<S: Serializer>(dtype: &DType, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(dtype.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<DType, D::Error> {
        let name = String::deserialize(d)?;
        let found = ALL.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| de::Error::unknown_variant(&name, &NAMES))
    }
}
