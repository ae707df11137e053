//! Creating predictions: the envelope around `input`, the row, and waiting for the result when asked to.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::ApiState;
use super::cancel_after::cancel_after;
use super::problem::Problem;
use super::view::{Origin, PredictionView};
use super::wait::until_finished;
use super::webhooks::{refusal, take_webhook};
use crate::domain::{FieldError, Input, InputTable, PredictionSource, Webhook, new_prediction_id};
use crate::store::NewPrediction;

/// Clients give up after 60 seconds; the answer must be on its way before.
const LONGEST_WAIT: Duration = Duration::from_secs(55);

/// For a request body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// `POST /predictions`
pub async fn by_version(
    State(state): State<ApiState>,
    origin: Origin,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let envelope = Envelope::parse(&body, true)?;
    let reference = envelope.version.clone().unwrap_or_default();
    create(&state, &origin, &headers, &reference, envelope).await
}

/// `POST /models/{owner}/{name}/predictions`
pub async fn by_model(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
    origin: Origin,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let reference = format!("{owner}/{name}");
    if reference.contains(':') || state.catalog.resolve(&reference).is_none() {
        return Err(Problem::not_found());
    }
    let envelope = Envelope::parse(&body, false)?;
    create(&state, &origin, &headers, &reference, envelope).await
}

/// `POST /deployments/{owner}/{name}/predictions`: every model is also a deployment of its newest version.
pub async fn by_deployment(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
    origin: Origin,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let model = state.catalog.model(&format!("{owner}/{name}")).ok_or_else(Problem::not_found)?;
    let envelope = Envelope { deployment: Some(model.name.clone()), ..Envelope::parse(&body, false)? };
    create(&state, &origin, &headers, &model.name, envelope).await
}

async fn create(
    state: &ApiState,
    origin: &Origin,
    headers: &HeaderMap,
    reference: &str,
    envelope: Envelope,
) -> Result<Response, Problem> {
    // Clients count from when they sent the request.
    let begun = Instant::now();
    let resolved = state.catalog.resolve(reference).ok_or_else(Problem::unknown_version)?;
    let (input, cancel_after) = check(state, headers, resolved.table, &envelope).map_err(Problem::invalid)?;
    let new = NewPrediction {
        id: new_prediction_id(),
        model: resolved.model.to_string(),
        version: resolved.version.to_string(),
        deployment: envelope.deployment,
        input: envelope.input,
        seed: match input.seed {
            Some(seed) => seed,
            None => random_seed()?,
        },
        source: source(headers),
        origin: origin.as_str().to_string(),
        webhook: envelope.webhook,
        cancel_after,
    };
    let wait = Wait::of(headers);
    let changes = state.store.changes();
    let created = state.store.insert(new, state.queue_limit).await?;
    let Some(wait) = wait else {
        return Ok(answer(StatusCode::CREATED, PredictionView::new(created, origin, &state.tokens), None));
    };
    let deadline = begun + wait.longest;
    let prediction = until_finished(state, created, changes, deadline).await?;
    let finished = prediction.status.is_terminal();
    let view = PredictionView::of(state, prediction, origin).await?;
    Ok(match finished {
        true => answer(StatusCode::CREATED, view, Some(wait)),
        false => answer(StatusCode::ACCEPTED, view.still_starting(), Some(wait)),
    })
}

/// What can only be checked with the model and the settings at hand; all mistakes at once.
fn check(
    state: &ApiState,
    headers: &HeaderMap,
    table: &InputTable,
    envelope: &Envelope,
) -> Result<(Input, Option<Duration>), Vec<FieldError>> {
    let input = Input::parse(table, &envelope.input);
    let cancel_after = cancel_after(headers);
    let unreachable = envelope.webhook.as_ref().and_then(|webhook| refusal(&state.fetcher, webhook));
    match (input, cancel_after, unreachable) {
        (Ok(input), Ok(cancel_after), None) => Ok((input, cancel_after)),
        (input, cancel_after, unreachable) => {
            let mut errors = input.err().unwrap_or_default();
            errors.extend(unreachable);
            errors.extend(cancel_after.err());
            Err(errors)
        }
    }
}

fn answer(status: StatusCode, view: PredictionView, wait: Option<Wait>) -> Response {
    let location = HeaderValue::from_str(view.get_url());
    let mut response = (status, Json(view.without_source())).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(applied) = wait.and_then(|w| HeaderValue::from_str(&w.applied).ok()) {
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

/// By which way the client creates it: the page of this server says so in a header.
fn source(headers: &HeaderMap) -> PredictionSource {
    let named = headers.get("stablehand-source").and_then(|value| value.to_str().ok());
    named.and_then(PredictionSource::from_name).unwrap_or_default()
}

/// 16 random bits, as Replicate's predictor draws them.
pub fn random_seed() -> Result<u64, Problem> {
    let mut bytes = [0u8; 2];
    getrandom::fill(&mut bytes).map_err(Problem::internal)?;
    Ok(u16::from_le_bytes(bytes).into())
}

/// The bytes of a request, which must arrive in time.
pub struct RawBody(pub Bytes);

impl FromRequest<ApiState> for RawBody {
    type Rejection = Response;

    async fn from_request(request: Request, state: &ApiState) -> Result<RawBody, Response> {
        match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(body) => body.map(RawBody).map_err(IntoResponse::into_response),
            Err(_) => {
                let detail = "The request body did not arrive in time.";
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "Request timeout", detail).into_response())
            }
        }
    }
}

/// How long the client wants the answer held.
#[derive(Debug, PartialEq)]
struct Wait {
    longest: Duration,
    /// The preference as it was sent.
    applied: String,
}

impl Wait {
    /// From `Prefer: wait` or `wait=n`; what cannot be understood is ignored, as preferences are.
    fn of(headers: &HeaderMap) -> Option<Wait> {
        let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
            let (name, seconds) = match preference.split_once('=') {
                Some((name, seconds)) => (name, Some(seconds.trim().trim_matches('"').parse::<f64>().ok()?)),
                None => (preference, None),
            };
            let longest = match seconds {
                None => LONGEST_WAIT,
                Some(n) => Duration::try_from_secs_f64(n.max(1.0)).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT),
            };
            let applied = preference.trim().to_string();
            name.trim().eq_ignore_ascii_case("wait").then_some(Wait { longest, applied })
        })
    }
}

/// What is around `input`.
#[derive(Debug, PartialEq)]
struct Envelope {
    version: Option<String>,
    /// From the path, never from the body.
    deployment: Option<String>,
    input: Map<String, Value>,
    webhook: Option<Webhook>,
}

impl Envelope {
    /// Reads a request body, or lists everything that is wrong with it.
    fn parse(body: &[u8], with_version: bool) -> Result<Envelope, Problem> {
        let json: Value = serde_json::from_slice(body)
            .map_err(|e| Problem::bad_request(format!("The request body is not valid JSON: {e}")))?;
        let Value::Object(mut json) = json else {
            return Err(Problem::invalid(vec![FieldError::invalid_type("", "object", &json)]));
        };
        let mut errors = Vec::new();
        let version = if with_version { take_version(&mut json, &mut errors) } else { None };
        let input = match json.remove("input") {
            Some(Value::Object(input)) => input,
            Some(Value::Null) | None => {
                errors.push(FieldError::required("", "input"));
                Map::new()
            }
            Some(other) => {
                errors.push(FieldError::invalid_type("input", "object", &other));
                Map::new()
            }
        };
        let webhook = take_webhook(&mut json, &mut errors);
        check_rest(json, &mut errors);
        if errors.is_empty() {
            Ok(Envelope { version, deployment: None, input, webhook })
        } else {
            Err(Problem::invalid(errors))
        }
    }
}

fn take_version(json: &mut Map<String, Value>, errors: &mut Vec<FieldError>) -> Option<String> {
    match json.remove("version") {
        Some(Value::String(version)) => return Some(version),
        Some(Value::Null) | None => errors.push(FieldError::required("", "version")),
        Some(other) => errors.push(FieldError::invalid_type("version", "string", &other)),
    }
    None
}

/// `stream` is an old key that means nothing any more; others do not belong there.
fn check_rest(json: Map<String, Value>, errors: &mut Vec<FieldError>) {
    for (key, value) in json {
        match (key.as_str(), &value) {
            (_, Value::Null) | ("stream", Value::Bool(_)) => {}
            ("stream", _) => errors.push(FieldError::invalid_type(&key, "boolean", &value)),
            _ => errors.push(FieldError::additional_property(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn wait(value: &str) -> Option<(u64, String)> {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", value.parse().unwrap());
        Wait::of(&headers).map(|w| (w.longest.as_millis() as u64, w.applied))
    }

    #[test]
    fn preferences() {
        let wait_of = |ms, text: &str| Some((ms, text.to_string()));
        assert_eq!(wait("wait"), wait_of(55_000, "wait"));
        assert_eq!(wait("wait=10"), wait_of(10_000, "wait=10"));
        assert_eq!(wait("respond-async, Wait=2"), wait_of(2_000, "Wait=2"));
        assert_eq!(wait("wait=90"), wait_of(55_000, "wait=90"));
        assert_eq!(wait("wait=0"), wait_of(1_000, "wait=0"));
        assert_eq!(wait("wait=1e300"), wait_of(55_000, "wait=1e300"));
        assert_eq!(wait("wait=-5"), wait_of(1_000, "wait=-5"));
        for none in ["respond-async", "wait=soon", "waiting", ""] {
            assert_eq!(wait(none), None, "{none}");
        }
        assert_eq!(Wait::of(&HeaderMap::new()), None);
    }

    fn mistakes(body: Value) -> Value {
        let problem = Envelope::parse(body.to_string().as_bytes(), true).unwrap_err();
        serde_json::to_value(problem).unwrap()["detail"].clone()
    }

    #[test]
    fn the_envelope_is_checked_in_replicates_words() {
        let good = json!({"version": "v", "input": {"a": 1}, "webhook": "https://x", "stream": true,
            "webhook_events_filter": ["start"], "webhook_completed": null});
        let envelope = Envelope::parse(good.to_string().as_bytes(), true).unwrap();
        assert_eq!((envelope.version.as_deref(), envelope.input.len()), (Some("v"), 1));
        assert_eq!(
            mistakes(json!({"model": "x"})),
            "- version is required\n- input is required\n- Additional property model is not allowed\n"
        );
        assert_eq!(mistakes(json!([])), "- Invalid type. Expected: object, given: array\n");
        assert_eq!(
            mistakes(
                json!({"version": 5, "input": "x", "webhook": 1, "stream": "yes", "webhook_events_filter": ["end"]})
            ),
            "- version: Invalid type. Expected: string, given: integer\n\
             - input: Invalid type. Expected: object, given: string\n\
             - webhook: Invalid type. Expected: string, given: integer\n\
             - webhook_events_filter.0: webhook_events_filter.0 must be one of the following: \
             \"start\", \"output\", \"logs\", \"completed\"\n\
             - stream: Invalid type. Expected: boolean, given: string\n"
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[{}\\]\":,a-z0-9.e+-]{0,60}") {
            let _ = Envelope::parse(&bytes, true);
            let _ = Envelope::parse(text.as_bytes(), false);
        }
    }
}
