//! The `Cancel-After` header: how long a prediction may take, counted from its creation.

use std::time::Duration;

use axum::http::HeaderMap;
use jiff::SignedDuration;

use crate::domain::FieldError;

const HEADER: &str = "Cancel-After";
const LEAST: Duration = Duration::from_secs(5);
/// A year: no prediction takes longer, and times stay what can be written.
const MOST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The duration in the header, if there is one.
pub fn cancel_after(headers: &HeaderMap) -> Result<Option<Duration>, FieldError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let wrong =
        |kind, description: &str| FieldError { kind, field: HEADER.to_string(), description: description.to_string() };
    let text = value.to_str().unwrap_or_default().trim();
    let duration = parse(text)
        .ok_or_else(|| wrong("format", "Does not match format 'duration', such as 30, 30s, 5m or 1h30m45s"))?;
    match duration {
        short if short < LEAST => Err(wrong("number_gte", "Must be greater than or equal to 5s")),
        long if long > MOST => Err(wrong("number_lte", "Must be less than or equal to 8760h")),
        good => Ok(Some(good)),
    }
}

/// `30` seconds, or hours, minutes and seconds in this order: `1h30m45s`.
fn parse(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b"hms".contains(&b)) {
        return None;
    }
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(value: &str) -> Result<Option<u64>, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert("cancel-after", value.parse().unwrap());
        cancel_after(&headers).map(|d| d.map(|d| d.as_secs())).map_err(|e| e.kind)
    }

    #[test]
    fn durations_as_replicate_takes_them() {
        for (text, seconds) in [
            ("30", 30),
            ("30s", 30),
            ("5m", 300),
            ("1h", 3600),
            ("2h30m", 9000),
            ("1h30m45s", 5445),
            (" 90s ", 90),
            ("5", 5),
        ] {
            assert_eq!(of(text), Ok(Some(seconds)), "{text}");
        }
        for (text, kind) in [
            ("4", "number_gte"),
            ("0s", "number_gte"),
            ("9000h", "number_lte"),
            ("99999999999999999999", "format"),
            ("", "format"),
            ("soon", "format"),
            ("-5s", "format"),
            ("5x", "format"),
            ("1.5h", "format"),
            ("h", "format"),
            ("5s5m", "format"),
            ("5m 5s", "format"),
            ("1d", "format"),
            ("999999999999999999h", "format"),
        ] {
            assert_eq!(of(text), Err(kind), "{text}");
        }
        assert_eq!(cancel_after(&HeaderMap::new()), Ok(None));
    }
}
