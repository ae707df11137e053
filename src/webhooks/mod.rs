//! Drains the store's outbox: signs each webhook, posts it, and tries a failed end again with growing pauses.
//!
//! The messages of one prediction are sent one after the other, those of one host a few at a time: a receiver that
//! hangs holds up nobody else. What a message looks like is the API's business, which hands in a [`Render`]; what is to
//! be told, and when at the earliest, is the store's.

mod secret;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::domain::Prediction;
use crate::fetch::{FetchError, Fetcher};
use crate::store::{Change, Delivery, InFlight, Store};

pub use secret::{Secret, SecretError};

/// Makes the body of a webhook: the prediction as the API would show it.
pub type Render = Arc<dyn Fn(Prediction) -> Result<Vec<u8>, serde_json::Error> + Send + Sync>;

/// How webhooks are sent.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// For a receiver to answer.
    pub timeout: Duration,
    /// For how long the end of a prediction is tried again.
    pub retry_for: Duration,
    /// Messages in flight.
    pub in_flight: usize,
    /// Messages in flight to one host.
    pub per_host: usize,
    /// Between looks at the outbox when no news comes.
    pub tick: Duration,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        WebhookOptions {
            timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(60),
            in_flight: 64,
            per_host: 8,
            tick: Duration::from_millis(200),
        }
    }
}

/// After the server was told to close, for messages in flight.
const GRACE: Duration = Duration::from_secs(3);

/// Sends what is in the outbox.
pub struct Webhooks {
    sender: Arc<Sender>,
    /// Prediction and host of each message in flight.
    flying: HashMap<Id, (String, String)>,
    tasks: JoinSet<()>,
}

/// What every message needs.
struct Sender {
    store: Arc<dyn Store>,
    fetcher: Fetcher,
    secret: Secret,
    render: Render,
    options: WebhookOptions,
}

impl Webhooks {
    pub fn new(
        store: Arc<dyn Store>,
        fetcher: Fetcher,
        secret: Secret,
        render: Render,
        options: WebhookOptions,
    ) -> Webhooks {
        let sender = Arc::new(Sender { store, fetcher, secret, render, options });
        Webhooks { sender, flying: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Sends until `closing`, then what can be sent at once; the rest stays in the outbox for the next process.
    pub async fn run(mut self, closing: CancellationToken) {
        let mut changes = self.sender.store.changes();
        let mut tick = interval(self.sender.options.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !closing.is_cancelled() {
            tokio::select! {
                () = closing.cancelled() => {}
                Some(ended) = self.tasks.join_next_with_id() => self.land(ended),
                change = changes.recv() => match change {
                    Ok(Change::Outbox) | Err(RecvError::Lagged(_)) => {}
                    Ok(_) => continue,
                    Err(RecvError::Closed) => tokio::time::sleep(self.sender.options.tick).await,
                },
                _ = tick.tick() => {}
            }
            self.take_off().await;
        }
        let landed = async {
            self.take_off().await;
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.land(ended);
                self.take_off().await;
            }
        };
        if timeout(GRACE, landed).await.is_err() {
            tracing::info!("some webhooks are left for the next start");
        }
    }

    /// Starts to send what is due and has room.
    async fn take_off(&mut self) {
        let options = &self.sender.options;
        let room = options.in_flight.saturating_sub(self.flying.len());
        if room == 0 {
            return;
        }
        let mut flying = InFlight { room, per_host: options.per_host, ..InFlight::default() };
        for (prediction, host) in self.flying.values() {
            flying.predictions.push(prediction.clone());
            *flying.hosts.entry(host.clone()).or_default() += 1;
        }
        // Whoever dies in an attempt leaves it to the next process; until then nobody else is to make it.
        let term = options.timeout + Duration::from_secs(20);
        match self.sender.store.take_webhooks(&flying, term).await {
            Err(error) => tracing::error!("outbox: {error}"),
            Ok(deliveries) => {
                for delivery in deliveries {
                    let of = (delivery.prediction.id.clone(), delivery.host.clone());
                    let sender = Arc::clone(&self.sender);
                    let task = self.tasks.spawn(async move { sender.deliver(delivery).await });
                    self.flying.insert(task.id(), of);
                }
            }
        }
    }

    fn land(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!("webhook: {error}");
                error.id()
            }
        };
        self.flying.remove(&id);
    }
}

impl Sender {
    /// Makes one attempt and records what came of it.
    async fn deliver(&self, delivery: Delivery) {
        let Delivery { id, host, event, attempt, prediction } = delivery;
        let about = format!("webhook {id} ({}, prediction {}) to {host}", event.name(), prediction.id);
        let begun = Instant::now();
        let outcome = self.post(&id, prediction.as_of(event)).await;
        let again_in = match outcome {
            Ok(()) => {
                tracing::debug!("{about}: delivered");
                None
            }
            Err(failure) if !event.is_retried() => {
                tracing::info!("{about}: {failure}");
                return;
            }
            Err(Failure::Final(reason)) => {
                tracing::warn!("{about}: {reason}; given up");
                None
            }
            Err(failure @ Failure::Passing(_)) => {
                let pause = pause(attempt, self.options.retry_for);
                let next = if pause.is_some() { "to be tried again" } else { "given up" };
                tracing::warn!("{about}: {failure} (attempt {attempt}); {next}");
                // A receiver that took long to fail has used up part of the pause.
                pause.map(|pause| pause.saturating_sub(begun.elapsed()).max(pause.min(SHORTEST)))
            }
        };
        if let Err(error) = self.store.settle_webhook(&id, again_in).await {
            tracing::error!("{about}: not recorded, so it may be sent again: {error}");
        }
    }

    async fn post(&self, id: &str, prediction: Prediction) -> Result<(), Failure> {
        let url = prediction.webhook.as_ref().map(|w| w.url.clone()).unwrap_or_default();
        let body = (self.render)(prediction).map_err(|e| Failure::Final(e.to_string()))?;
        let headers = self.headers(id, Timestamp::now().as_second(), &body)?;
        match self.fetcher.post(&url, headers, Bytes::from(body), self.options.timeout).await {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(Failure::Passing(format!("the receiver answered with status {}", status.as_u16()))),
            Err(error @ FetchError::Private(_)) => Err(Failure::Final(error.to_string())),
            Err(error) if error.is_retryable() => Err(Failure::Passing(error.to_string())),
            Err(error) => Err(Failure::Final(error.to_string())),
        }
    }

    fn headers(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<HeaderMap, Failure> {
        let text = |text: &str| HeaderValue::from_str(text).map_err(|e| Failure::Final(e.to_string()));
        Ok(HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("webhook-id"), text(id)?),
            (HeaderName::from_static("webhook-timestamp"), timestamp.into()),
            (HeaderName::from_static("webhook-signature"), text(&self.secret.sign(id, timestamp, body))?),
        ]))
    }
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It may the next time.
    #[error("{0}")]
    Passing(String),
    /// It never will.
    #[error("{0}")]
    Final(String),
}

/// The least pause before another attempt, however long the last one took.
const SHORTEST: Duration = Duration::from_secs(1);

/// The pause after a failed attempt: attempts begin 0, 1, 3, 7, … seconds after the first, and at last when `retry_for`
/// is over; `None` after that one.
fn pause(attempt: u32, retry_for: Duration) -> Option<Duration> {
    let begins = |attempt: u32| Duration::from_secs((1u64 << attempt.min(32)) - 1).min(retry_for);
    let pause = begins(attempt).saturating_sub(begins(attempt.saturating_sub(1)));
    Some(pause).filter(|pause| !pause.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end_after_a_minute() {
        let pauses = |retry_for| -> Vec<u64> {
            (1..40).map_while(|attempt| pause(attempt, Duration::from_secs(retry_for))).map(|p| p.as_secs()).collect()
        };
        assert_eq!(pauses(60), [1, 2, 4, 8, 16, 29]);
        assert_eq!(pauses(60).iter().sum::<u64>(), 60);
        assert_eq!(pauses(3), [1, 2]);
        assert_eq!(pauses(0), [0; 0]);
        assert_eq!(pause(u32::MAX, Duration::from_secs(60)), None);
    }
}
