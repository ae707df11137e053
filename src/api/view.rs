//! A prediction as clients see it, with absolute URLs on the origin that they used.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, header};
use serde::Serialize;
use serde_json::{Map, Value};

use super::ApiState;
use super::problem::Problem;
use super::token::{Purpose, Tokens};
use crate::domain::{Metrics, Prediction, Status};

/// Scheme, host and port that this client reaches us by, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    #[cfg(test)]
    pub fn new(origin: &str) -> Origin {
        Origin(origin.to_string())
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// The address of a picture, from its blob path.
    pub fn output(&self, path: &str) -> String {
        self.url(&format!("/outputs/{path}"))
    }
}

impl FromRequestParts<ApiState> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Origin, Problem> {
        if let Some(public) = &state.public_url {
            return Ok(Origin(public.trim_end_matches('/').to_string()));
        }
        let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let authority = match host {
            Some(bytes) => {
                Authority::try_from(bytes).map_err(|_| Problem::bad_request("the Host header is no host"))?
            }
            None => match parts.uri.authority() {
                Some(authority) => authority.clone(),
                None => return Err(Problem::bad_request("the request has no Host header")),
            },
        };
        // Credentials before an @ are no part of an origin.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        Ok(Origin(format!("http://{host}")))
    }
}

/// The JSON of a prediction.
#[derive(Debug, Serialize)]
pub struct PredictionView {
    id: String,
    model: String,
    version: String,
    input: Map<String, Value>,
    logs: String,
    output: Option<Vec<String>>,
    data_removed: bool,
    error: Option<String>,
    status: Status,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    urls: Urls,
}

#[derive(Debug, Serialize)]
struct Urls {
    cancel: String,
    get: String,
    stream: String,
    web: String,
}

impl PredictionView {
    pub fn new(prediction: Prediction, origin: &Origin, tokens: &Tokens) -> PredictionView {
        let get = origin.url(&format!("/v1/predictions/{}", prediction.id));
        // The JavaScript client makes file objects of outputs only when the path begins with /v1/files/.
        let stream = origin.url(&format!("/v1/files/{}", tokens.token(Purpose::Stream, &prediction.id)));
        let outputs = |paths: Vec<String>| paths.iter().map(|path| origin.output(path)).collect();
        PredictionView {
            metrics: prediction.metrics(),
            urls: Urls {
                cancel: format!("{get}/cancel"),
                web: origin.url(&format!("/p/{}", prediction.id)),
                stream,
                get,
            },
            model: prediction.model,
            version: prediction.version,
            input: prediction.input,
            logs: prediction.logs,
            output: prediction.output.map(outputs),
            data_removed: false,
            error: prediction.error,
            status: prediction.status,
            created_at: prediction.created_at.to_string(),
            started_at: prediction.started_at.map(|t| t.to_string()),
            completed_at: prediction.completed_at.map(|t| t.to_string()),
            source: Some("api"),
            id: prediction.id,
        }
    }

    /// The answer to a create call, which has fewer keys.
    pub fn without_source(mut self) -> PredictionView {
        self.source = None;
        self
    }

    /// What a client that waited in vain is told: the official ones take any status but `starting` as the end.
    pub fn still_starting(mut self) -> PredictionView {
        self.status = Status::Starting;
        self.started_at = None;
        self
    }

    pub fn get_url(&self) -> &str {
        &self.urls.get
    }
}
