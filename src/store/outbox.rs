//! The webhooks that are still to be sent: each is noted in the transaction of the change that it tells of.
//!
//! Messages hold no bodies. A throttled one that waits is never doubled, since it will show the newest state, and it is
//! dropped when the end, which shows more, is to be told too. Knows nothing of how messages are sent.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::sqlite::{News, after, find, now};
use super::{Change, Delivery, InFlight, StoreError};
use crate::domain::{Prediction, Webhook, WebhookEvent, new_message_id};

/// Between messages about output or logs of one prediction.
const THROTTLE: Duration = Duration::from_millis(500);

/// Notes that `event` happened, if the prediction's creator wants to hear of it.
pub(super) async fn note(
    connection: &mut SqliteConnection,
    news: &mut News,
    id: &str,
    webhook: Option<&Webhook>,
    event: WebhookEvent,
) -> Result<(), StoreError> {
    let Some(webhook) = webhook.filter(|w| w.wants(event)) else { return Ok(()) };
    let due = match event.is_throttled() {
        true => now().max(quiet_until(connection, id).await?),
        false => now(),
    };
    sqlx::query("INSERT OR IGNORE INTO webhooks (id, prediction, host, event, due_at) VALUES (?, ?, ?, ?, ?)")
        .bind(new_message_id())
        .bind(id)
        .bind(webhook.host())
        .bind(event.name())
        .bind(due)
        .execute(connection)
        .await?;
    news.push(Change::Outbox);
    Ok(())
}

/// Notes that a prediction ended.
pub(super) async fn note_end(
    connection: &mut SqliteConnection,
    news: &mut News,
    prediction: &Prediction,
    succeeded: bool,
) -> Result<(), StoreError> {
    let Some(webhook) = &prediction.webhook else { return Ok(()) };
    let id = &prediction.id;
    let end_is_told = webhook.wants(WebhookEvent::Completed);
    if end_is_told || succeeded {
        sqlx::query("DELETE FROM webhooks WHERE prediction = ? AND event IN ('output', 'logs')")
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    if succeeded && !(end_is_told && quiet_until(connection, id).await? > now()) {
        note(connection, news, id, Some(webhook), WebhookEvent::Output).await?;
    }
    if !end_is_told {
        note(connection, news, id, Some(webhook), WebhookEvent::Logs).await?;
    }
    note(connection, news, id, Some(webhook), WebhookEvent::Completed).await
}

async fn quiet_until(connection: &mut SqliteConnection, id: &str) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT webhook_quiet_until FROM predictions WHERE id = ?")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?.unwrap_or_default())
}

/// The messages to send now, oldest first: the earliest of each prediction that has none in flight, and of each host
/// as many as it has room for.
pub(super) async fn due(connection: &mut SqliteConnection, flying: &InFlight) -> Result<Vec<SqliteRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT seq, id, prediction, host, event, attempts FROM (
             SELECT w.*, row_number() OVER (PARTITION BY host ORDER BY due_at, seq) AS place
             FROM webhooks w
             WHERE due_at <= ?
               AND prediction NOT IN (SELECT value FROM json_each(?))
               AND NOT EXISTS (SELECT 1 FROM webhooks e WHERE e.prediction = w.prediction AND e.seq < w.seq)
         )
         WHERE place <= ? - ifnull((SELECT value FROM json_each(?) WHERE key = host), 0)
         ORDER BY due_at, seq LIMIT ?",
    )
    .bind(now())
    .bind(json!(flying.predictions).to_string())
    .bind(i64::try_from(flying.per_host).unwrap_or(i64::MAX))
    .bind(json!(flying.hosts).to_string())
    .bind(i64::try_from(flying.room).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Takes what is due: an end is pushed back by `term`, the rest leaves the outbox, since it is sent only once.
pub(super) async fn take(
    connection: &mut SqliteConnection,
    flying: &InFlight,
    term: Duration,
) -> Result<Vec<Delivery>, StoreError> {
    let mut taken = Vec::new();
    for row in due(connection, flying).await? {
        let (seq, of): (i64, String) = (row.try_get("seq")?, row.try_get("prediction")?);
        let event = WebhookEvent::from_name(row.try_get("event")?)
            .ok_or_else(|| StoreError::Corrupt { id: of.clone(), column: "event" })?;
        match event.is_retried() {
            true => sqlx::query("UPDATE webhooks SET attempts = attempts + 1, due_at = ? WHERE seq = ?")
                .bind(after(term))
                .bind(seq),
            false => sqlx::query("DELETE FROM webhooks WHERE seq = ?").bind(seq),
        }
        .execute(&mut *connection)
        .await?;
        if event.is_throttled() {
            sqlx::query("UPDATE predictions SET webhook_quiet_until = ? WHERE id = ?")
                .bind(after(THROTTLE))
                .bind(&of)
                .execute(&mut *connection)
                .await?;
        }
        let Some(prediction) = find(connection, &of).await? else { continue };
        taken.push(Delivery {
            id: row.try_get("id")?,
            host: row.try_get("host")?,
            event,
            attempt: row.try_get::<u32, _>("attempts")? + 1,
            prediction,
        });
    }
    Ok(taken)
}

/// Removes a message, or makes it due again.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    id: &str,
    again_in: Option<Duration>,
) -> Result<(), StoreError> {
    match again_in {
        Some(pause) => sqlx::query("UPDATE webhooks SET due_at = ? WHERE id = ?").bind(after(pause)).bind(id),
        None => sqlx::query("DELETE FROM webhooks WHERE id = ?").bind(id),
    }
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes attempts due that a dead process had in flight.
pub(super) async fn recover(connection: &mut SqliteConnection, news: &mut News) -> Result<(), StoreError> {
    let freed = sqlx::query("UPDATE webhooks SET due_at = ? WHERE event = 'completed' AND due_at > ?")
        .bind(now())
        .bind(now())
        .execute(connection)
        .await?;
    if freed.rows_affected() > 0 {
        news.push(Change::Outbox);
    }
    Ok(())
}

/// The webhook in a row that holds its columns.
pub(super) fn webhook(row: &SqliteRow) -> Result<Option<Webhook>, StoreError> {
    let corrupt =
        |row: &SqliteRow| StoreError::Corrupt { id: row.try_get("id").unwrap_or_default(), column: "webhook_events" };
    let Some(url) = row.try_get::<Option<String>, _>("webhook")? else { return Ok(None) };
    let events: Option<String> = row.try_get("webhook_events")?;
    let events_filter = events.map(|json| serde_json::from_str(&json)).transpose().map_err(|_| corrupt(row))?;
    Ok(Some(Webhook { url, events_filter }))
}

/// A filter as it is kept.
pub(super) fn events_json(webhook: &Webhook) -> Option<String> {
    webhook.events_filter.as_ref().map(|events| events.iter().map(|e| e.name()).collect::<Value>().to_string())
}
