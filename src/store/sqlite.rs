//! The store in one SQLite file: WAL, `synchronous=FULL`, one writer in `BEGIN IMMEDIATE`, readers beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, broadcast};

use super::{
    Change, Claimed, Cursor, Delivery, Expired, InFlight, Lease, ListFilter, MAX_INTERRUPTIONS, NewPrediction, Outcome,
    Outlived, PAGE_SIZE, Page, Recovered, Renewal, Store, StoreError,
};
use super::{outbox, row, upkeep};
use crate::domain::{INTERRUPTED, Prediction, PredictionSource, Status, WebhookEvent};

/// What a write adds to the news once it is committed.
pub(super) type News = Vec<Change>;

/// Predictions in one SQLite file.
pub struct SqliteStore {
    writer: Arc<Mutex<SqliteConnection>>,
    pub(super) readers: SqlitePool,
    changes: broadcast::Sender<Change>,
}

impl SqliteStore {
    /// Opens the file, making or migrating it if need be.
    pub async fn open(file: &Path) -> Result<SqliteStore, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .create_if_missing(true);
        let mut writer = options.connect().await?;
        sqlx::migrate!("src/store/migrations/sqlite").run(&mut writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        let (changes, _) = broadcast::channel(1024);
        Ok(SqliteStore { writer: Arc::new(Mutex::new(writer)), readers, changes })
    }

    /// Closes the file; the write in progress is finished first.
    pub async fn close(&self) {
        self.readers.close().await;
        let mut writer = self.writer.lock().await;
        // A checkpoint that fails is made by the next process.
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *writer).await;
    }

    /// Runs `work` in one transaction, in a task of its own: the caller's future may be dropped at any time.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection, &'c mut News) -> BoxFuture<'c, Result<T, StoreError>>
            + Send
            + 'static,
    {
        let writer = Arc::clone(&self.writer);
        let changes = self.changes.clone();
        let task = tokio::spawn(async move {
            let mut connection = writer.lock().await;
            let mut news = News::new();
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            let result = work(&mut transaction, &mut news).await?;
            transaction.commit().await?;
            for change in news {
                // Nobody listening is fine.
                let _ = changes.send(change);
            }
            Ok(result)
        });
        task.await.map_err(|_| StoreError::Stopped)?
    }
}

pub(super) fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

pub(super) fn after(term: Duration) -> i64 {
    later(now(), term)
}

fn later(time: i64, by: Duration) -> i64 {
    time.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
}

pub(super) async fn find(connection: &mut SqliteConnection, id: &str) -> Result<Option<Prediction>, StoreError> {
    let found = sqlx::query("SELECT * FROM predictions WHERE id = ?").bind(id).fetch_optional(connection).await?;
    found.as_ref().map(row::prediction).transpose()
}

/// How a prediction ends.
pub(super) enum Ended<'a> {
    Worked(&'a Outcome),
    /// Its deadline passed before it started.
    Aborted,
}

/// Ends a prediction, whatever it was doing.
pub(super) async fn end(
    connection: &mut SqliteConnection,
    news: &mut News,
    prediction: &Prediction,
    ended: &Ended<'_>,
    logs: &str,
) -> Result<(), StoreError> {
    let (status, output, error) = match ended {
        Ended::Worked(Outcome::Succeeded(paths)) => {
            (Status::Succeeded, Some(serde_json::Value::from(paths.clone()).to_string()), None)
        }
        Ended::Worked(Outcome::Failed(text)) => (Status::Failed, None, Some(text.as_str())),
        Ended::Worked(Outcome::Canceled) => (Status::Canceled, None, None),
        Ended::Aborted => (Status::Aborted, None, None),
    };
    sqlx::query(
        "UPDATE predictions SET status = ?, output = ?, error = ?, logs = logs || ?, completed_at = max(?, created_at),
                worker = NULL, lease_until = NULL
         WHERE id = ?",
    )
    .bind(status.name())
    .bind(output)
    .bind(error)
    .bind(logs)
    .bind(now())
    .bind(&prediction.id)
    .execute(&mut *connection)
    .await?;
    news.push(Change::Finished(prediction.id.clone()));
    outbox::note_end(connection, news, prediction, status == Status::Succeeded).await
}

/// Puts a running prediction back into the queue, or ends it when it was to be canceled or its deadline has passed.
async fn give_back(connection: &mut SqliteConnection, news: &mut News, held: &Claimed) -> Result<bool, StoreError> {
    let prediction = &held.prediction;
    let too_late = prediction.deadline.is_some_and(|deadline| deadline.as_microsecond() <= now());
    if prediction.cancel_requested || too_late {
        end(connection, news, prediction, &Ended::Worked(&Outcome::Canceled), "").await?;
        return Ok(false);
    }
    sqlx::query(
        "UPDATE predictions SET status = 'starting', started_at = NULL, worker = NULL, lease_until = NULL WHERE id = ?",
    )
    .bind(&prediction.id)
    .execute(connection)
    .await?;
    news.push(Change::Queued);
    Ok(true)
}

/// The row that this lease still holds.
async fn held(connection: &mut SqliteConnection, lease: &Lease) -> Result<Option<Claimed>, StoreError> {
    let found = sqlx::query("SELECT * FROM predictions WHERE id = ? AND worker = ? AND attempt = ?")
        .bind(&lease.id)
        .bind(&lease.worker)
        .bind(lease.attempt)
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row::claimed).transpose()
}

async fn count(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT count(*) FROM predictions WHERE status = 'starting'").fetch_one(connection).await?;
    Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
}

#[async_trait]
impl Store for SqliteStore {
    async fn insert(&self, new: NewPrediction, limit: u64) -> Result<Prediction, StoreError> {
        self.write(move |connection, news| {
            Box::pin(async move {
                let queued = count(connection).await?;
                if queued >= limit {
                    return Err(StoreError::QueueFull { queued, limit });
                }
                let created = now();
                let row = sqlx::query(
                    "INSERT INTO predictions (id, model, version, deployment, input, seed, created_at, source, origin,
                         webhook, webhook_events, deadline)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
                )
                .bind(new.id)
                .bind(new.model)
                .bind(new.version)
                .bind(new.deployment)
                .bind(serde_json::Value::Object(new.input).to_string())
                .bind(new.seed.cast_signed())
                .bind(created)
                .bind(new.source.name())
                .bind(new.origin)
                .bind(new.webhook.as_ref().map(|w| w.url.clone()))
                .bind(new.webhook.as_ref().and_then(outbox::events_json))
                .bind(new.cancel_after.map(|time| later(created, time)))
                .fetch_one(connection)
                .await?;
                news.push(Change::Queued);
                row::prediction(&row)
            })
        })
        .await
    }

    async fn get(&self, id: &str) -> Result<Option<Prediction>, StoreError> {
        find(&mut *self.readers.acquire().await?, id).await
    }

    async fn list(&self, filter: ListFilter, cursor: Option<Cursor>) -> Result<Page, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let micros = |time: Option<Timestamp>, none| time.map_or(none, |t| t.as_microsecond());
        let mut rows: Vec<SqliteRow> = match cursor {
            Some(Cursor::Newer(seq)) => sqlx::query(
                "SELECT * FROM predictions WHERE seq > ? AND created_at >= ? AND created_at < ? AND source = ifnull(?, source)
                 ORDER BY seq LIMIT ?",
            )
            .bind(seq),
            older => sqlx::query(
                "SELECT * FROM predictions WHERE seq < ? AND created_at >= ? AND created_at < ? AND source = ifnull(?, source)
                 ORDER BY seq DESC LIMIT ?",
            )
            .bind(if let Some(Cursor::Older(seq)) = older { seq } else { i64::MAX }),
        }
        .bind(micros(filter.created_after, i64::MIN))
        .bind(micros(filter.created_before, i64::MAX))
        .bind(filter.source.map(PredictionSource::name))
        // One more than a page tells whether there is a further one.
        .bind(PAGE_SIZE as i64 + 1)
        .fetch_all(&mut *connection)
        .await?;
        let more = rows.len() > PAGE_SIZE;
        rows.truncate(PAGE_SIZE);
        let upwards = matches!(cursor, Some(Cursor::Newer(_)));
        if upwards {
            rows.reverse();
        }
        let seq = |row: Option<&SqliteRow>| row.map(|r| r.try_get::<i64, _>("seq")).transpose();
        let (newest, oldest) = (seq(rows.first())?, seq(rows.last())?);
        let (older, newer) = if upwards { (true, more) } else { (more, cursor.is_some()) };
        Ok(Page {
            predictions: rows.iter().map(row::prediction).collect::<Result<_, _>>()?,
            next: oldest.filter(|_| older).map(Cursor::Older),
            previous: newest.filter(|_| newer).map(Cursor::Newer),
        })
    }

    async fn claim(&self, count: usize, worker: &str, term: Duration) -> Result<Vec<Claimed>, StoreError> {
        let worker = worker.to_string();
        self.write(move |connection, news| {
            Box::pin(async move {
                let mut rows = sqlx::query(
                    "UPDATE predictions
                     SET status = 'processing', worker = ?, attempt = attempt + 1, lease_until = ?, started_at = ?
                     WHERE seq IN (SELECT seq FROM predictions
                                   WHERE status = 'starting' AND (deadline IS NULL OR deadline > ?)
                                   ORDER BY seq LIMIT ?)
                     RETURNING *",
                )
                .bind(worker)
                .bind(after(term))
                .bind(now())
                .bind(now())
                .bind(i64::try_from(count).unwrap_or(i64::MAX))
                .fetch_all(&mut *connection)
                .await?;
                // RETURNING promises no order.
                rows.sort_by_key(|row| row.try_get::<i64, _>("seq").unwrap_or(i64::MAX));
                let claimed: Vec<Claimed> = rows.iter().map(row::claimed).collect::<Result<_, _>>()?;
                for Claimed { prediction, .. } in claimed.iter().filter(|c| c.lease.attempt == 1) {
                    let webhook = prediction.webhook.as_ref();
                    outbox::note(connection, news, &prediction.id, webhook, WebhookEvent::Start).await?;
                }
                Ok(claimed)
            })
        })
        .await
    }

    async fn renew(&self, leases: &[Lease], term: Duration) -> Result<Vec<Renewal>, StoreError> {
        let leases = leases.to_vec();
        self.write(move |connection, _| {
            Box::pin(async move {
                let mut renewals = Vec::with_capacity(leases.len());
                for lease in leases {
                    let row = sqlx::query(
                        "UPDATE predictions SET lease_until = ? WHERE id = ? AND worker = ? AND attempt = ?
                         RETURNING cancel_requested",
                    )
                    .bind(after(term))
                    .bind(lease.id)
                    .bind(lease.worker)
                    .bind(lease.attempt)
                    .fetch_optional(&mut *connection)
                    .await?;
                    renewals.push(match row.map(|r| r.try_get::<bool, _>(0)).transpose()? {
                        Some(true) => Renewal::CancelRequested,
                        Some(false) => Renewal::Held,
                        None => Renewal::Lost,
                    });
                }
                Ok(renewals)
            })
        })
        .await
    }

    async fn append_logs(&self, entries: &[(Lease, String)]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.write(move |connection, news| {
            Box::pin(async move {
                for (lease, text) in entries {
                    let row = sqlx::query(
                        "UPDATE predictions SET logs = logs || ? WHERE id = ? AND worker = ? AND attempt = ?
                         RETURNING id, webhook, webhook_events",
                    )
                    .bind(text)
                    .bind(&lease.id)
                    .bind(&lease.worker)
                    .bind(lease.attempt)
                    .fetch_optional(&mut *connection)
                    .await?;
                    if let Some(webhook) = row.as_ref().map(outbox::webhook).transpose()?.flatten() {
                        outbox::note(connection, news, &lease.id, Some(&webhook), WebhookEvent::Logs).await?;
                    }
                }
                Ok(())
            })
        })
        .await
    }

    async fn finish(&self, lease: &Lease, outcome: Outcome, logs: &str) -> Result<bool, StoreError> {
        let (lease, logs) = (lease.clone(), logs.to_string());
        self.write(move |connection, news| {
            Box::pin(async move {
                let Some(held) = held(connection, &lease).await? else { return Ok(false) };
                end(connection, news, &held.prediction, &Ended::Worked(&outcome), &logs).await?;
                Ok(true)
            })
        })
        .await
    }

    async fn release(&self, lease: &Lease) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write(move |connection, news| {
            Box::pin(async move {
                let Some(held) = held(connection, &lease).await? else { return Ok(false) };
                give_back(connection, news, &held).await?;
                Ok(true)
            })
        })
        .await
    }

    async fn request_cancel(&self, id: &str) -> Result<Option<Prediction>, StoreError> {
        let id = id.to_string();
        self.write(move |connection, news| {
            Box::pin(async move {
                let Some(prediction) = find(connection, &id).await? else { return Ok(None) };
                match prediction.status {
                    Status::Starting => {
                        end(connection, news, &prediction, &Ended::Worked(&Outcome::Canceled), "").await?;
                    }
                    Status::Processing => upkeep::mark(connection, news, &id).await?,
                    _ => {}
                }
                find(connection, &id).await
            })
        })
        .await
    }

    async fn recover(&self, all: bool) -> Result<Recovered, StoreError> {
        self.write(move |connection, news| {
            Box::pin(async move {
                let expired = sqlx::query("SELECT * FROM predictions WHERE status = 'processing' AND lease_until < ?")
                    .bind(if all { i64::MAX } else { now() })
                    .fetch_all(&mut *connection)
                    .await?;
                if all {
                    outbox::recover(connection, news).await?;
                }
                let mut recovered = Recovered::default();
                for row in &expired {
                    let claimed = row::claimed(row)?;
                    let id = &claimed.prediction.id;
                    let interruptions = claimed.interruptions + 1;
                    sqlx::query("UPDATE predictions SET interruptions = ? WHERE id = ?")
                        .bind(interruptions)
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                    let again = if interruptions > MAX_INTERRUPTIONS && !claimed.prediction.cancel_requested {
                        let failed = Outcome::Failed(INTERRUPTED.to_string());
                        end(connection, news, &claimed.prediction, &Ended::Worked(&failed), "").await?;
                        false
                    } else {
                        give_back(connection, news, &claimed).await?
                    };
                    *(if again { &mut recovered.requeued } else { &mut recovered.ended }) += 1;
                }
                Ok(recovered)
            })
        })
        .await
    }

    async fn expire(&self) -> Result<Expired, StoreError> {
        if !upkeep::anything_expired(&mut *self.readers.acquire().await?).await? {
            return Ok(Expired::default());
        }
        self.write(move |connection, news| Box::pin(upkeep::expire(connection, news))).await
    }

    async fn outlived(&self, before: Timestamp, count: usize) -> Result<Vec<Outlived>, StoreError> {
        upkeep::outlived(&mut *self.readers.acquire().await?, before, count).await
    }

    async fn remove_data(&self, ids: &[String]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.write(move |connection, _| Box::pin(async move { upkeep::remove_data(connection, &ids).await })).await
    }

    async fn take_webhooks(&self, flying: &InFlight, term: Duration) -> Result<Vec<Delivery>, StoreError> {
        if outbox::due(&mut *self.readers.acquire().await?, flying).await?.is_empty() {
            return Ok(Vec::new());
        }
        let flying = flying.clone();
        self.write(move |connection, _| Box::pin(async move { outbox::take(connection, &flying, term).await })).await
    }

    async fn settle_webhook(&self, id: &str, again_in: Option<Duration>) -> Result<(), StoreError> {
        let id = id.to_string();
        self.write(move |connection, _| Box::pin(async move { outbox::settle(connection, &id, again_in).await })).await
    }

    async fn keep(&self, name: &str, fresh: &str) -> Result<String, StoreError> {
        let (name, fresh) = (name.to_string(), fresh.to_string());
        self.write(move |connection, _| {
            Box::pin(async move {
                let row = sqlx::query(
                    "INSERT INTO keepsakes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET name = name
                     RETURNING value",
                )
                .bind(name)
                .bind(fresh)
                .fetch_one(connection)
                .await?;
                Ok(row.try_get(0)?)
            })
        })
        .await
    }

    async fn count_queued(&self) -> Result<u64, StoreError> {
        count(&mut *self.readers.acquire().await?).await
    }

    async fn count_runs(&self, model: &str) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT count(*) FROM predictions WHERE model = ?").bind(model);
        let row = query.fetch_one(&mut *self.readers.acquire().await?).await?;
        Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
