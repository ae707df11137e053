//! Answers whose body is a stored file: entity tags, conditions and ranges (RFC 9110, sections 8.8, 13 and 14).
//!
//! A file is never held in memory as a whole. Files never change once they are stored, so looking at one and reading it
//! may be two steps.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::blobs::Blobs;

/// What is asked of a file, once its conditions and ranges are weighed.
#[derive(Debug, PartialEq)]
enum Answer {
    Whole,
    Part(Range<u64>),
    NotModified,
    Unsatisfiable,
}

/// What the conditions are compared with.
struct Validators {
    size: u64,
    /// In quotes, and strong: the same tag means the same bytes.
    tag: String,
    modified: SystemTime,
}

/// Answers a `GET` or `HEAD` for the file at `folder/name`.
pub async fn answer(
    blobs: &Blobs,
    (folder, name): (&str, &str),
    content_type: HeaderValue,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, Problem> {
    let meta = blobs.head(folder, name).await?;
    let modified: SystemTime = meta.last_modified.into();
    // Without a tag of its own, the unguessable folder names the bytes as well.
    let tag = format!("\"{}\"", meta.e_tag.as_deref().unwrap_or(folder).trim_matches('"'));
    let validators = Validators { size: meta.size, tag, modified };
    let mut response = match decide(method, request, &validators) {
        Answer::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Answer::Unsatisfiable => unsatisfiable(meta.size),
        Answer::Whole if method == Method::HEAD => sized(Body::empty(), meta.size),
        Answer::Whole => sized(Body::from_stream(blobs.get(folder, name).await?.into_stream()), meta.size),
        Answer::Part(range) => {
            let found = blobs.get_range(folder, name, range.clone()).await?;
            let mut response = sized(Body::from_stream(found.into_stream()), range.end - range.start);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let place = format!("bytes {}-{}/{}", range.start, range.end - 1, meta.size);
            set(&mut response, header::CONTENT_RANGE, &place);
            response
        }
    };
    if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    set(&mut response, header::ETAG, &validators.tag);
    set(&mut response, header::LAST_MODIFIED, &httpdate::fmt_http_date(whole_seconds(modified)));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn sized(body: Body, size: u64) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    response
}

fn unsatisfiable(size: u64) -> Response {
    let detail = format!("The file has {size} bytes, and none of them lie in the range that was asked for.");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "Range not satisfiable", detail);
    let mut response = problem.into_response();
    set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
    response
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Weighs the conditions in the order of RFC 9110, section 13.2.2, then the range, which only a `GET` may have.
fn decide(method: &Method, request: &HeaderMap, file: &Validators) -> Answer {
    let given = |name| request.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let unchanged = match (given(header::IF_NONE_MATCH), given(header::IF_MODIFIED_SINCE)) {
        (Some(tags), _) => {
            tags.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|t| t == file.tag || t == "*")
        }
        (None, Some(date)) => date_of(date).is_some_and(|date| whole_seconds(file.modified) <= date),
        (None, None) => false,
    };
    if unchanged {
        return Answer::NotModified;
    }
    let still_the_same = match given(header::IF_RANGE).map(str::trim) {
        None => true,
        Some(tag) if tag.contains('"') => tag == file.tag,
        Some(date) => date_of(date) == Some(whole_seconds(file.modified)),
    };
    match given(header::RANGE) {
        Some(range) if method == Method::GET && still_the_same => range_of(range, file.size),
        _ => Answer::Whole,
    }
}

/// One range of bytes. Several ranges, and what is no range, may be answered with the whole file, and are.
fn range_of(text: &str, size: u64) -> Answer {
    let Some((unit, range)) = text.trim().split_once('=') else { return Answer::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Answer::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Answer::Whole;
    }
    let range = match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (Some(first), Some(last), ..) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), _, _, true) => first..size,
        (_, Some(count), true, _) => size.saturating_sub(count)..size,
        _ => return Answer::Whole,
    };
    if range.is_empty() { Answer::Unsatisfiable } else { Answer::Part(range) }
}

/// Digits only: `parse` would take a sign. More than fit are as good as the most that do.
fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn date_of(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// HTTP's dates know no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn file() -> Validators {
        let modified = date_of(DATE).unwrap() + Duration::from_millis(600);
        Validators { size: 100, tag: "\"a-b\"".to_string(), modified }
    }

    fn asked(headers: &[(HeaderName, &str)]) -> Answer {
        let map = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        decide(&Method::GET, &map, &file())
    }

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-0", Answer::Part(0..1)),
            ("bytes=10-19", Answer::Part(10..20)),
            ("Bytes = 10-19", Answer::Part(10..20)),
            ("bytes=90-200", Answer::Part(90..100)),
            ("bytes=99-", Answer::Part(99..100)),
            ("bytes=-5", Answer::Part(95..100)),
            ("bytes=-500", Answer::Part(0..100)),
            ("bytes=0-99999999999999999999999", Answer::Part(0..100)),
            ("bytes=100-", Answer::Unsatisfiable),
            ("bytes=100-200", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=5-4", Answer::Whole),
            ("bytes=0-1,5-6", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("bytes=a-", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("lines=0-1", Answer::Whole),
            ("0-1", Answer::Whole),
            ("", Answer::Whole),
        ] {
            assert_eq!(asked(&[(header::RANGE, text)]), expected, "{text}");
        }
        assert_eq!(range_of("bytes=0-", 0), Answer::Unsatisfiable);
        let range = HeaderMap::from_iter([(header::RANGE, "bytes=0-0".parse().unwrap())]);
        assert_eq!(decide(&Method::HEAD, &range, &file()), Answer::Whole);
    }

    #[test]
    fn conditions() {
        use header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
        for tags in ["\"a-b\"", "W/\"a-b\"", "\"x\", \"a-b\"", "*"] {
            assert_eq!(asked(&[(IF_NONE_MATCH, tags), (RANGE, "bytes=0-0")]), Answer::NotModified, "{tags}");
        }
        assert_eq!(asked(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, LATER)]), Answer::Whole, "the tag decides");
        for (date, expected) in [(DATE, Answer::NotModified), (LATER, Answer::NotModified), (EARLIER, Answer::Whole)] {
            assert_eq!(asked(&[(IF_MODIFIED_SINCE, date)]), expected, "{date}");
        }
        assert_eq!(asked(&[(IF_MODIFIED_SINCE, "yesterday")]), Answer::Whole);
        for same in ["\"a-b\"", DATE] {
            assert_eq!(asked(&[(IF_RANGE, same), (RANGE, "bytes=0-0")]), Answer::Part(0..1), "{same}");
        }
        for other in ["\"x\"", "W/\"a-b\"", LATER, EARLIER, "x"] {
            assert_eq!(asked(&[(IF_RANGE, other), (RANGE, "bytes=0-0")]), Answer::Whole, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_in_the_file(text in "bytes=[0-9, -]{0,24}", size in 0u64..50) {
            if let Answer::Part(range) = range_of(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
