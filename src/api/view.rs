//! A prediction as clients see it, with absolute URLs on the origin that they used.

use serde::Serialize;
use serde_json::{Map, Value};

use super::ApiState;
pub use super::origin::Origin;
use super::outputs;
use super::problem::Problem;
use super::token::{Purpose, Tokens};
use crate::domain::{Metrics, Prediction, PredictionSource, Status, WebhookEvent};

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
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<PredictionSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_events_filter: Option<Vec<WebhookEvent>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
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
    /// What the client gets that made the prediction or asks for this one: outputs as data URIs if it needs them so.
    pub async fn of(state: &ApiState, prediction: Prediction, origin: &Origin) -> Result<PredictionView, Problem> {
        let paths = prediction.output.clone().filter(|_| origin.inline_outputs()).unwrap_or_default();
        let mut view = PredictionView::new(prediction, origin, &state.tokens);
        for (output, path) in view.output.iter_mut().flatten().zip(&paths) {
            if let Some(data) = outputs::data_uri(&state.blobs, path).await? {
                *output = data;
            }
        }
        Ok(view)
    }

    /// With outputs as URLs for everyone. Lists have these: a page of a hundred predictions with data URIs could weigh a
    /// gigabyte, and `run()`, for which they are made, reads only the answers to its create and get calls.
    pub fn new(prediction: Prediction, origin: &Origin, tokens: &Tokens) -> PredictionView {
        let get = origin.url(&format!("/v1/predictions/{}", prediction.id));
        // The JavaScript client makes file objects of outputs only when the path begins with /v1/files/.
        let stream = origin.url(&format!("/v1/files/{}", tokens.token(Purpose::Stream, &prediction.id)));
        let metrics = prediction.metrics();
        let (webhook, webhook_events_filter) = prediction.webhook.map(|w| (w.url, w.events_filter)).unzip();
        let outputs = |paths: Vec<String>| paths.iter().map(|path| origin.output(path)).collect();
        PredictionView {
            metrics,
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
            data_removed: prediction.data_removed,
            error: prediction.error,
            status: prediction.status,
            created_at: prediction.created_at.to_string(),
            started_at: prediction.started_at.map(|t| t.to_string()),
            completed_at: prediction.completed_at.map(|t| t.to_string()),
            deadline: prediction.deadline.map(|t| t.to_string()),
            source: Some(prediction.source),
            webhook,
            webhook_events_filter: webhook_events_filter.flatten(),
            deployment: prediction.deployment,
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
