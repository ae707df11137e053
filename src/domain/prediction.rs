//! A prediction and the states it may go through.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Webhook;

/// The error of a prediction whose worker died too often; retry code in the wild looks for these words.
pub const INTERRUPTED: &str = "Prediction interrupted; please retry (code: PA)";

/// Where a prediction is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Starting,
    Processing,
    Succeeded,
    Failed,
    Canceled,
    /// Its deadline passed before it started.
    Aborted,
}

impl Status {
    pub const ALL: [Status; 6] =
        [Status::Starting, Status::Processing, Status::Succeeded, Status::Failed, Status::Canceled, Status::Aborted];

    /// The word in Replicate's API.
    pub fn name(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Processing => "processing",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
            Status::Aborted => "aborted",
        }
    }

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Nothing follows.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Status::Starting | Status::Processing)
    }

    /// Whether `next` may follow. A running prediction goes back to `Starting` when its worker gives it up.
    pub fn may_become(self, next: Status) -> bool {
        match self {
            Status::Starting => next != Status::Starting && next != Status::Succeeded,
            Status::Processing => next != Status::Processing && next != Status::Aborted,
            _ => false,
        }
    }
}

/// By which way a prediction was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PredictionSource {
    #[default]
    Api,
    /// The page of this server.
    Web,
}

impl PredictionSource {
    /// The word in Replicate's API.
    pub fn name(self) -> &'static str {
        match self {
            PredictionSource::Api => "api",
            PredictionSource::Web => "web",
        }
    }

    /// The source of that name.
    pub fn from_name(name: &str) -> Option<PredictionSource> {
        [PredictionSource::Api, PredictionSource::Web].into_iter().find(|s| s.name() == name)
    }
}

/// A prediction as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    pub id: String,
    /// `owner/name` as the client asked for it.
    pub model: String,
    /// The version id.
    pub version: String,
    pub source: PredictionSource,
    /// Scheme, host and port that its creator reached the server by.
    pub origin: String,
    /// `owner/name`, when it was created by one.
    pub deployment: Option<String>,
    /// As sent, without defaults filled in.
    pub input: Map<String, Value>,
    pub status: Status,
    /// Cumulative, lines ended by `\n`.
    pub logs: String,
    /// Blob paths of the pictures, once there are any.
    pub output: Option<Vec<String>>,
    pub error: Option<String>,
    /// The seed its noise is drawn from, fixed at creation so that a restart draws the same picture.
    pub seed: u64,
    /// The owner of the lease will end it within one step.
    pub cancel_requested: bool,
    pub webhook: Option<Webhook>,
    /// When it is to end, finished or not.
    pub deadline: Option<Timestamp>,
    /// Input, output, logs and files are gone.
    pub data_removed: bool,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

/// How long a finished prediction took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// From the start of its work; absent when it never started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict_time: Option<f64>,
    /// From creation.
    pub total_time: f64,
}

impl Prediction {
    /// How long it took, once it is finished.
    pub fn metrics(&self) -> Option<Metrics> {
        let done = self.completed_at?;
        let seconds = |from: Timestamp| (done.duration_since(from).as_secs_f64().max(0.0) * 1e6).round() / 1e6;
        Some(Metrics { predict_time: self.started_at.map(seconds), total_time: seconds(self.created_at) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_follows_a_terminal_state() {
        for from in Status::ALL {
            for to in Status::ALL {
                assert!(!(from.is_terminal() && from.may_become(to)), "{from:?} to {to:?}");
            }
            assert_eq!(Status::from_name(from.name()), Some(from));
        }
        assert!(!Status::Starting.may_become(Status::Succeeded));
        assert!(Status::Starting.may_become(Status::Aborted));
        assert!(!Status::Processing.may_become(Status::Aborted));
        assert!(Status::Processing.may_become(Status::Starting));
    }
}
