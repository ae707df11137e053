//! What time does to predictions: deadlines pass, data that was kept long enough is removed.

use jiff::Timestamp;
use sqlx::{Row, SqliteConnection};

use super::sqlite::{Ended, News, end, now};
use super::{Change, Expired, Outlived, StoreError, row};
use crate::domain::Status;

/// Whether [`expire`] would do something.
pub(super) async fn anything_expired(connection: &mut SqliteConnection) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM predictions
                        WHERE deadline IS NOT NULL AND completed_at IS NULL AND deadline <= ? AND cancel_requested = 0)",
    )
    .bind(now())
    .fetch_one(connection)
    .await?;
    Ok(row.try_get(0)?)
}

/// Ends queued predictions whose deadline has passed, marks running ones.
pub(super) async fn expire(connection: &mut SqliteConnection, news: &mut News) -> Result<Expired, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM predictions
         WHERE deadline IS NOT NULL AND completed_at IS NULL AND deadline <= ? AND cancel_requested = 0",
    )
    .bind(now())
    .fetch_all(&mut *connection)
    .await?;
    let mut expired = Expired::default();
    for row in &rows {
        let prediction = row::prediction(row)?;
        if prediction.status == Status::Starting {
            end(connection, news, &prediction, &Ended::Aborted, "").await?;
            expired.aborted += 1;
        } else {
            mark(connection, news, &prediction.id).await?;
            expired.canceled += 1;
        }
    }
    Ok(expired)
}

/// Asks the owner of a running prediction's lease to end it.
pub(super) async fn mark(connection: &mut SqliteConnection, news: &mut News, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE predictions SET cancel_requested = 1 WHERE id = ?").bind(id).execute(connection).await?;
    news.push(Change::CancelRequested(id.to_string()));
    Ok(())
}

/// Predictions that ended before `before` and still have their data, oldest first. What is still to be told of them
/// needs it.
pub(super) async fn outlived(
    connection: &mut SqliteConnection,
    before: Timestamp,
    count: usize,
) -> Result<Vec<Outlived>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM predictions p
         WHERE completed_at IS NOT NULL AND data_removed = 0 AND completed_at < ?
           AND NOT EXISTS (SELECT 1 FROM webhooks w WHERE w.prediction = p.id)
         ORDER BY completed_at LIMIT ?",
    )
    .bind(before.as_microsecond())
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    let outlived = |row| {
        let prediction = row::prediction(row)?;
        Ok(Outlived { id: prediction.id, paths: prediction.output.unwrap_or_default() })
    };
    rows.iter().map(outlived).collect()
}

/// Empties input, output and logs of finished predictions.
pub(super) async fn remove_data(connection: &mut SqliteConnection, ids: &[String]) -> Result<(), StoreError> {
    for id in ids {
        sqlx::query(
            "UPDATE predictions
             SET data_removed = 1, input = '{}', logs = '', output = CASE WHEN output IS NOT NULL THEN '[]' END
             WHERE id = ? AND completed_at IS NOT NULL",
        )
        .bind(id)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
