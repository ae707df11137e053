//! `scheduler_config.json`: options by name, read with the defaults of whichever class is made from them.
//!
//! This is diffusers' `Class.from_config(config)`: keys in the file carry over to any class that has them, everything
//! else takes that class's own default, and keys that a class does not have are ignored by it.

use super::PlanError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The options of one scheduler file, with a manifest's overrides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchedulerConfig {
    options: Map<String, Value>,
}

impl SchedulerConfig {
    /// Reads the file's bytes. Unlike plain JSON, `Infinity`, `-Infinity` and `NaN` are understood: Python writes
    /// them, and published files contain `"lambda_min_clipped": -Infinity`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PlanError> {
        let text = std::str::from_utf8(bytes).map_err(|e| PlanError::Parse(e.to_string()))?;
        serde_json::from_str(&quote_infinities(text)).map_err(|e| PlanError::Parse(e.to_string()))
    }

    /// The same config with these options set, as a manifest demands.
    pub fn with_overrides(&self, overrides: &Map<String, Value>) -> Self {
        let mut options = self.options.clone();
        options.extend(overrides.clone());
        SchedulerConfig { options }
    }

    /// The file's value, unless the class that wrote the file had merely defaulted it.
    fn get(&self, option: &str) -> Option<&Value> {
        let defaulted = self.options.get("_use_default_values").and_then(Value::as_array);
        if defaulted.is_some_and(|names| names.iter().any(|n| n == option)) {
            return None;
        }
        self.options.get(option)
    }

    pub(super) fn flag(&self, option: &'static str, default: bool) -> Result<bool, PlanError> {
        match self.get(option) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(invalid(option, "true or false", value)),
        }
    }

    pub(super) fn number(&self, option: &'static str, default: f64) -> Result<f64, PlanError> {
        Ok(match self.get(option) {
            None => default,
            Some(value) => float(value).ok_or_else(|| invalid(option, "a number", value))?,
        })
    }

    pub(super) fn optional_number(&self, option: &'static str) -> Result<Option<f64>, PlanError> {
        match self.get(option) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.number(option, 0.0).map(Some),
        }
    }

    pub(super) fn integer(&self, option: &'static str, default: i64) -> Result<i64, PlanError> {
        match self.get(option) {
            None => Ok(default),
            Some(value) => value.as_i64().ok_or_else(|| invalid(option, "an integer", value)),
        }
    }

    pub(super) fn numbers(&self, option: &'static str) -> Result<Option<Vec<f64>>, PlanError> {
        let wrong = |value| invalid(option, "a list of numbers", value);
        match self.get(option) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let list = value.as_array().ok_or_else(|| wrong(value))?;
                list.iter().map(float).collect::<Option<Vec<f64>>>().map(Some).ok_or_else(|| wrong(value))
            }
        }
    }

    /// One of several names; `expected` lists them for the error.
    pub(super) fn choice<T: Copy>(
        &self,
        option: &'static str,
        default: T,
        names: &[(&str, T)],
        expected: &'static str,
    ) -> Result<T, PlanError> {
        match self.get(option) {
            None => Ok(default),
            Some(value) => names
                .iter()
                .find(|(name, _)| value == name)
                .map(|(_, choice)| *choice)
                .ok_or_else(|| invalid(option, expected, value)),
        }
    }

    pub(super) fn is(&self, option: &str, name: &str) -> bool {
        self.get(option).is_some_and(|value| value == name)
    }

    /// An error when the file asks for something that changes the result and that we do not do.
    pub(super) fn refuse(
        &self,
        scheduler: crate::domain::Scheduler,
        option: &'static str,
        harmless: &[Value],
    ) -> Result<(), PlanError> {
        match self.get(option) {
            Some(value) if !value.is_null() && !harmless.contains(value) => {
                Err(PlanError::Unsupported { scheduler: scheduler.name(), option, value: value.to_string() })
            }
            _ => Ok(()),
        }
    }
}

fn invalid(option: &'static str, expected: &'static str, value: &Value) -> PlanError {
    PlanError::Invalid { option, expected, value: value.to_string() }
}

fn float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

/// Puts quotes around `Infinity`, `-Infinity` and `NaN` where they stand outside strings.
fn quote_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| rest.starts_with(w));
        let taken = match word {
            Some(word) => {
                out.push_str(&format!("\"{word}\""));
                word.len()
            }
            None => {
                let taken = if c == '"' { string_length(rest) } else { c.len_utf8() };
                out.push_str(&rest[..taken]);
                taken
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// Bytes of the JSON string that `text` begins with, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return i + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn python_infinities_are_read() {
        let config =
            SchedulerConfig::from_json(br#"{"a\"NaN": "-Infinity \\", "lambda_min_clipped": -Infinity}"#).unwrap();
        assert_eq!(config.number("lambda_min_clipped", 0.0).unwrap(), f64::NEG_INFINITY);
        assert_eq!(config.options["a\"NaN"], "-Infinity \\");
        assert!(SchedulerConfig::from_json(b"{\"a\": ").is_err());
    }

    #[test]
    fn keys_that_were_only_defaults_do_not_carry_over() {
        let config =
            SchedulerConfig::from_json(br#"{"clip_sample": false, "_use_default_values": ["clip_sample"]}"#).unwrap();
        assert!(config.flag("clip_sample", true).unwrap());
    }

    #[test]
    fn wrong_types_are_errors_that_name_the_option() {
        let config = SchedulerConfig::from_json(br#"{"steps_offset": "one"}"#).unwrap();
        let error = config.integer("steps_offset", 0).unwrap_err().to_string();
        assert_eq!(error, "scheduler config: steps_offset must be an integer, not \"one\"");
    }
}
