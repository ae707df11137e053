//! Durable truth and the queue. The only room that contains SQL.
//!
//! A prediction's row is also its queue entry: state, lease, cancel request and result are one record, so no second
//! queue can disagree with it. Webhooks are noted in the transaction of the change that they tell of. Who asks and who
//! works only know [`Store`]; `tests/suite/store.rs` says what every implementation must do.

mod cursor;
mod data_dir;
mod files;
mod outbox;
mod row;
mod sqlite;
mod upkeep;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::broadcast;

pub use cursor::Cursor;
pub use data_dir::{DataDir, DataDirError};
pub use files::{FilePage, FileStore};
pub use sqlite::SqliteStore;

use crate::domain::{Prediction, PredictionSource, Webhook, WebhookEvent};

/// How often a prediction's worker may die before the prediction fails.
pub const MAX_INTERRUPTIONS: u32 = 3;

/// Predictions on one page of a list.
pub const PAGE_SIZE: usize = 100;

/// What is written when a prediction is accepted.
#[derive(Debug, Clone, Default)]
pub struct NewPrediction {
    pub id: String,
    pub model: String,
    pub version: String,
    /// `owner/name`, when it was created by one.
    pub deployment: Option<String>,
    /// As sent.
    pub input: Map<String, Value>,
    pub seed: u64,
    pub source: PredictionSource,
    /// Scheme, host and port that its creator reached the server by.
    pub origin: String,
    pub webhook: Option<Webhook>,
    /// From its creation to its deadline.
    pub cancel_after: Option<Duration>,
}

/// The right to work on a prediction. A later claim of the same prediction has a higher `attempt` and voids it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    pub id: String,
    pub worker: String,
    pub attempt: u32,
}

/// A prediction to work on.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub lease: Lease,
    pub prediction: Prediction,
    /// How often a worker of this prediction died before.
    pub interruptions: u32,
}

/// What became of a lease at its renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Ours for another term.
    Held,
    /// Ours, and the user wants it to end.
    CancelRequested,
    /// No longer ours: stop, and write nothing.
    Lost,
}

/// How work on a prediction ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Blob paths of the pictures, which are already durable.
    Succeeded(Vec<String>),
    /// The text for the user.
    Failed(String),
    Canceled,
}

/// Which predictions to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListFilter {
    /// Then or later.
    pub created_after: Option<Timestamp>,
    /// Earlier.
    pub created_before: Option<Timestamp>,
    pub source: Option<PredictionSource>,
}

/// One page of predictions, newest first.
#[derive(Debug, Clone)]
pub struct Page {
    pub predictions: Vec<Prediction>,
    /// Towards older ones.
    pub next: Option<Cursor>,
    /// Towards newer ones.
    pub previous: Option<Cursor>,
}

/// What happened to expired leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Back in the queue.
    pub requeued: u64,
    /// Ended: canceled by request, or failed after [`MAX_INTERRUPTIONS`].
    pub ended: u64,
}

/// What became of predictions whose deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Ended before they started.
    pub aborted: u64,
    /// Running: their workers are to end them.
    pub canceled: u64,
}

/// A finished prediction whose data was kept long enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlived {
    pub id: String,
    /// Blob paths of its pictures.
    pub paths: Vec<String>,
}

/// What is being sent, and what more may be.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    /// Predictions with a message in flight: their next one waits, so that messages keep their order.
    pub predictions: Vec<String>,
    /// Messages in flight to each host.
    pub hosts: HashMap<String, usize>,
    /// Messages in flight that a host may have.
    pub per_host: usize,
    /// Messages that may be taken in all.
    pub room: usize,
}

/// A webhook to send.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same for each attempt.
    pub id: String,
    pub host: String,
    pub event: WebhookEvent,
    /// The how-manieth one this is; the first is 1.
    pub attempt: u32,
    /// As it is now.
    pub prediction: Prediction,
}

/// News of a change. A hint that may be lost: whoever waits must poll too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Something can be claimed.
    Queued,
    /// The running prediction of this id is to end.
    CancelRequested(String),
    /// The prediction of this id reached a terminal state.
    Finished(String),
    /// A webhook is to be sent.
    Outbox,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// As many predictions wait as may.
    #[error("the queue is full: {queued} predictions wait and {limit} may")]
    QueueFull { queued: u64, limit: u64 },
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("database migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds what was never written there.
    #[error("row {id}: column {column} cannot be read")]
    Corrupt { id: String, column: &'static str },
    /// The task that wrote ended before it answered.
    #[error("the database writer has stopped")]
    Stopped,
}

/// The predictions and their queue. Every method is one transaction; dropping its future does not undo or tear it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes a new prediction at the end of the queue, unless `queue_limit` already wait. Durable on return.
    async fn insert(&self, new: NewPrediction, queue_limit: u64) -> Result<Prediction, StoreError>;

    async fn get(&self, id: &str) -> Result<Option<Prediction>, StoreError>;

    /// A page of at most [`PAGE_SIZE`] of those that pass the filter, newest first; the first one without a cursor.
    async fn list(&self, filter: ListFilter, cursor: Option<Cursor>) -> Result<Page, StoreError>;

    /// Takes up to `count` queued predictions whose deadline has not passed, oldest first, for `term`.
    async fn claim(&self, count: usize, worker: &str, term: Duration) -> Result<Vec<Claimed>, StoreError>;

    /// Extends leases by `term` from now, even expired ones that nobody took; one answer for each, in order.
    async fn renew(&self, leases: &[Lease], term: Duration) -> Result<Vec<Renewal>, StoreError>;

    /// Adds text to the logs of leased predictions; what is no longer leased is left alone.
    async fn append_logs(&self, entries: &[(Lease, String)]) -> Result<(), StoreError>;

    /// Ends a leased prediction, with the last of its logs. `false`: the lease is lost and nothing was written.
    async fn finish(&self, lease: &Lease, outcome: Outcome, logs: &str) -> Result<bool, StoreError>;

    /// Gives a prediction back to its place in the queue, or ends it if it is to be canceled. `false`: lease lost.
    async fn release(&self, lease: &Lease) -> Result<bool, StoreError>;

    /// Ends a queued prediction at once, marks a running one, leaves a finished one. `None`: unknown id.
    async fn request_cancel(&self, id: &str) -> Result<Option<Prediction>, StoreError>;

    /// Requeues or ends predictions whose lease has expired, or, with `all`, every leased one: for a process that
    /// knows that no other works on this store.
    async fn recover(&self, all: bool) -> Result<Recovered, StoreError>;

    /// Ends queued predictions whose deadline has passed, and has running ones end.
    async fn expire(&self) -> Result<Expired, StoreError>;

    /// Up to `count` predictions that ended before `before`, still have their data and owe nobody a webhook.
    async fn outlived(&self, before: Timestamp, count: usize) -> Result<Vec<Outlived>, StoreError>;

    /// Empties input, output and logs of finished predictions.
    async fn remove_data(&self, ids: &[String]) -> Result<(), StoreError>;

    /// Takes webhooks that are due. Ends of predictions become due again after `term`; the others are sent only once
    /// and are gone.
    async fn take_webhooks(&self, flying: &InFlight, term: Duration) -> Result<Vec<Delivery>, StoreError>;

    /// Removes a webhook, or has it sent again after a pause.
    async fn settle_webhook(&self, id: &str, again_in: Option<Duration>) -> Result<(), StoreError>;

    /// The value that the store keeps under this name; `fresh` from now on, when it has none.
    async fn keep(&self, name: &str, fresh: &str) -> Result<String, StoreError>;

    async fn count_queued(&self) -> Result<u64, StoreError>;

    /// How many predictions were ever accepted for this model, by its name as it is stored.
    async fn count_runs(&self, model: &str) -> Result<u64, StoreError>;

    /// News from now on.
    fn changes(&self) -> broadcast::Receiver<Change>;
}
