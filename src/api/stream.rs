//! `urls.stream`: a prediction's outputs as server-sent events, in Replicate's words.
//!
//! Only `output`, `error` and `done`: clients fail on any other event. Each has an id, so that a client that comes back
//! with `Last-Event-ID` goes on behind it; without one the stream begins anew, also after the end. The right to read is the
//! token in the path.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use super::ApiState;
use super::feed::{Feed, Snapshot};
use super::problem::Problem;
use super::sse::{self, Script, event};
use super::token::Purpose;
use super::view::Origin;
use crate::domain::Status;

/// `GET /v1/files/{token}`, for the prediction that the token names.
pub async fn get(
    State(state): State<ApiState>,
    Path(token): Path<String>,
    origin: Origin,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = state.tokens.prediction(Purpose::Stream, &token).ok_or_else(Problem::not_found)?;
    let feed = state.feeds.of(id).await?.ok_or_else(Problem::not_found)?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let began = feed.borrow().prediction.created_at.as_second();
    let told = last.and_then(|id| Told::up_to(began, id)).unwrap_or(Told::Outputs(0));
    if told == Told::Done {
        // A browser's EventSource comes back after every end unless it is told so.
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        return Ok(response);
    }
    Ok(sse::answer(Outputs { feed, origin, told, begun: false }))
}

/// How much of a stream a client knows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    /// So many outputs.
    Outputs(usize),
    /// All outputs and the error.
    Error,
    Done,
}

impl Told {
    /// After the event of this id; `None` when it is none of this stream's. Ids look like `1690212292:0`, the time of
    /// the prediction and the output's index, or the event's name.
    fn up_to(began: i64, id: &str) -> Option<Told> {
        let (time, what) = id.split_once(':')?;
        if time.parse() != Ok(began) {
            return None;
        }
        match what {
            "error" => Some(Told::Error),
            "done" => Some(Told::Done),
            index => index.parse::<usize>().ok()?.checked_add(1).map(Told::Outputs),
        }
    }
}

/// Writes one client's stream.
struct Outputs {
    feed: Feed,
    origin: Origin,
    told: Told,
    begun: bool,
}

impl Script for Outputs {
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        if self.told == Told::Done || (self.begun && self.feed.changed().await.is_err()) {
            return None;
        }
        self.begun = true;
        let snapshot = self.feed.borrow_and_update().clone();
        Some(tell(&snapshot, &mut self.told, &self.origin))
    }
}

/// The events that a client does not know yet.
fn tell(snapshot: &Snapshot, told: &mut Told, origin: &Origin) -> Vec<Bytes> {
    let prediction = &snapshot.prediction;
    let id = |what: &dyn std::fmt::Display| format!("{}:{what}", prediction.created_at.as_second());
    let mut events = Vec::new();
    if let Told::Outputs(known) = told {
        for (index, path) in snapshot.pictures.iter().enumerate().skip(*known) {
            events.push(event("output", Some(&id(&index)), &origin.output(path)));
            *known = index + 1;
        }
    }
    if !prediction.status.is_terminal() {
        return events;
    }
    if prediction.status == Status::Failed && matches!(told, Told::Outputs(_)) {
        let detail = json!({"detail": prediction.error.as_deref().unwrap_or_default()});
        events.push(event("error", Some(&id(&"error")), &detail.to_string()));
        *told = Told::Error;
    }
    if *told != Told::Done {
        let reason = match prediction.status {
            Status::Failed => json!({"reason": "error"}),
            Status::Canceled | Status::Aborted => json!({"reason": "canceled"}),
            _ => json!({}),
        };
        events.push(event("done", Some(&id(&"done")), &reason.to_string()));
        *told = Told::Done;
    }
    events
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::{Prediction, PredictionSource};
    use serde_json::Map;

    fn snapshot(status: Status, pictures: &[&str]) -> Snapshot {
        let prediction = Prediction {
            id: "p".into(),
            model: "a/b".into(),
            version: "v".into(),
            source: PredictionSource::Api,
            origin: "http://h".into(),
            deployment: None,
            webhook: None,
            deadline: None,
            data_removed: false,
            input: Map::new(),
            status,
            logs: String::new(),
            output: None,
            error: (status == Status::Failed).then(|| "no \"picture\"\nat all".to_string()),
            seed: 0,
            cancel_requested: false,
            created_at: "2023-07-24T15:11:32.5Z".parse().unwrap(),
            started_at: None,
            completed_at: None,
        };
        Snapshot { prediction, pictures: pictures.iter().map(|path| path.to_string()).collect() }
    }

    fn told(snapshot: &Snapshot, told: &mut Told) -> String {
        let events = tell(snapshot, told, &Origin::new("http://h"));
        String::from_utf8(events.concat()).unwrap()
    }

    fn output(index: usize, path: &str) -> String {
        format!("event: output\nid: 1690211492:{index}\ndata: http://h/outputs/{path}\n\n")
    }

    const DONE: &str = "event: done\nid: 1690211492:done\ndata: ";

    #[test]
    fn each_output_is_told_once_and_then_the_end() {
        let mut known = Told::Outputs(0);
        assert_eq!(told(&snapshot(Status::Starting, &[]), &mut known), "");
        assert_eq!(told(&snapshot(Status::Processing, &["x/0"]), &mut known), output(0, "x/0"));
        assert_eq!(told(&snapshot(Status::Processing, &["x/0"]), &mut known), "");
        // A second attempt stores its pictures elsewhere.
        assert_eq!(told(&snapshot(Status::Processing, &[]), &mut known), "");
        let rest = told(&snapshot(Status::Succeeded, &["y/0", "y/1"]), &mut known);
        assert_eq!(rest, format!("{}{DONE}{{}}\n\n", output(1, "y/1")));
        assert_eq!(told(&snapshot(Status::Succeeded, &["y/0", "y/1"]), &mut known), "");
    }

    #[test]
    fn errors_and_cancels_have_their_reasons() {
        let mut known = Told::Outputs(0);
        let failed = told(&snapshot(Status::Failed, &[]), &mut known);
        let error = "event: error\nid: 1690211492:error\ndata: {\"detail\":\"no \\\"picture\\\"\\nat all\"}\n\n";
        assert_eq!(failed, format!("{error}{DONE}{{\"reason\":\"error\"}}\n\n"));
        for status in [Status::Canceled, Status::Aborted] {
            let mut known = Told::Outputs(0);
            let canceled = told(&snapshot(status, &["x/0"]), &mut known);
            assert_eq!(canceled, format!("{}{DONE}{{\"reason\":\"canceled\"}}\n\n", output(0, "x/0")));
        }
    }

    #[test]
    fn a_client_goes_on_behind_the_last_event_it_saw() {
        let at = |id| Told::up_to(1690211492, id);
        assert_eq!(at("1690211492:0"), Some(Told::Outputs(1)));
        assert_eq!((at("1690211492:error"), at("1690211492:done")), (Some(Told::Error), Some(Told::Done)));
        for strange in [
            "",
            "0",
            "1690211492",
            "1690211492:",
            "1690211492:-1",
            "1690211493:0",
            "x:0",
            "1690211492:18446744073709551615",
        ] {
            assert_eq!(at(strange), None, "{strange}");
        }
        let rest = |id| told(&snapshot(Status::Failed, &["x/0", "x/1"]), &mut at(id).unwrap());
        assert!(rest("1690211492:0").starts_with(&output(1, "x/1")));
        assert!(rest("1690211492:7").starts_with("event: error\n"));
        assert!(rest("1690211492:error").starts_with(DONE));
    }
}
