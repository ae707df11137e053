//! Server-sent events: how they are written, and the answer that carries them.
//!
//! Lines end with LF only (some clients never see the end of an event that has CRLF). Payloads are shared between
//! listeners, not copied.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;

/// A silent stream says something this often: the official clients give up after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Written first, so that the answer is seen to have begun.
const GREETING: Bytes = Bytes::from_static(b": hi\n\n");

/// Written while nothing happens.
const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// One event as bytes. `data` may have several lines, ended in any way; name and id are ours and have none.
pub fn event(name: &str, id: Option<&str>, data: &str) -> Bytes {
    let mut text = format!("event: {name}\n");
    if let Some(id) = id {
        text.push_str(&format!("id: {id}\n"));
    }
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    Bytes::from(text)
}

/// An event whose data is one line, such as JSON, that other listeners share: its bytes, piece by piece.
pub fn shared_event(name: &'static str, data: Bytes) -> [Bytes; 3] {
    [Bytes::from(format!("event: {name}\ndata: ")), data, Bytes::from_static(b"\n\n")]
}

/// Who writes one stream: asked for more whenever the client has taken what there was. Its future may be dropped and
/// asked for again, without anything being lost.
pub trait Script: Send + 'static {
    /// What follows, `None` at the end. An empty answer only means that there may be more.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Bytes>>> + Send;
}

/// The answer that carries a script, with a comment whenever it is silent for long.
pub fn answer(script: impl Script) -> Response {
    let mut response = Body::from_stream(stream(script, KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    // nginx would hold events back otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn stream(script: impl Script, keep_alive: Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let begun = (script, VecDeque::from([GREETING]));
    futures::stream::unfold(begun, move |(mut script, mut due)| async move {
        loop {
            if let Some(bytes) = due.pop_front() {
                return Some((Ok(bytes), (script, due)));
            }
            match tokio::time::timeout(keep_alive, script.next()).await {
                Ok(Some(more)) => due.extend(more),
                Ok(None) => return None,
                Err(_) => due.push_back(PING),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::StreamExt;

    fn text(bytes: Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn every_line_of_the_data_has_its_own_field() {
        assert_eq!(text(event("output", Some("1:0"), "http://h/x")), "event: output\nid: 1:0\ndata: http://h/x\n\n");
        let mixed = text(event("error", None, "a\nb\r\nc\rd\n"));
        assert_eq!(mixed, "event: error\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
        assert_eq!(text(event("done", None, "")), "event: done\ndata: \n\n");
        let pieces = shared_event("preview", Bytes::from_static(b"{}"));
        assert_eq!(text(pieces.concat().into()), "event: preview\ndata: {}\n\n");
    }

    struct Lines(Vec<Option<&'static str>>);

    impl Script for Lines {
        async fn next(&mut self) -> Option<Vec<Bytes>> {
            match self.0.pop() {
                Some(Some(line)) => Some(vec![line.into()]),
                Some(None) => {
                    self.0.clear();
                    self.0.push(Some("late"));
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    Some(vec![])
                }
                None => None,
            }
        }
    }

    #[tokio::test]
    async fn silence_is_filled_with_comments() {
        let lines = stream(Lines(vec![None, Some("b"), Some("a")]), Duration::from_millis(50));
        let lines: Vec<String> = lines.map(|bytes| text(bytes.unwrap())).collect().await;
        assert_eq!(lines, [": hi\n\n", "a", "b", ": ping\n\n", "late"]);
    }
}
