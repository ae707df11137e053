//! From a database row to a [`Prediction`].

use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Claimed, Lease, StoreError, outbox};
use crate::domain::{Prediction, PredictionSource, Status};

/// The prediction in a row that holds all columns.
pub(super) fn prediction(row: &SqliteRow) -> Result<Prediction, StoreError> {
    let id: String = row.try_get("id")?;
    let corrupt = |column| StoreError::Corrupt { id: id.clone(), column };
    let time = |column: &'static str| -> Result<Option<Timestamp>, StoreError> {
        let micros: Option<i64> = row.try_get(column)?;
        micros.map(Timestamp::from_microsecond).transpose().map_err(|_| corrupt(column))
    };
    let data_removed: bool = row.try_get("data_removed")?;
    let output: Option<String> = row.try_get::<Option<String>, _>("output")?.filter(|_| !data_removed);
    Ok(Prediction {
        model: row.try_get("model")?,
        version: row.try_get("version")?,
        source: PredictionSource::from_name(row.try_get("source")?).ok_or_else(|| corrupt("source"))?,
        origin: row.try_get("origin")?,
        deployment: row.try_get("deployment")?,
        input: serde_json::from_str(row.try_get("input")?).map_err(|_| corrupt("input"))?,
        status: Status::from_name(row.try_get("status")?).ok_or_else(|| corrupt("status"))?,
        logs: row.try_get("logs")?,
        output: output.map(|json| serde_json::from_str(&json)).transpose().map_err(|_| corrupt("output"))?,
        error: row.try_get("error")?,
        seed: row.try_get::<i64, _>("seed")?.cast_unsigned(),
        cancel_requested: row.try_get("cancel_requested")?,
        webhook: outbox::webhook(row)?,
        deadline: time("deadline")?,
        data_removed,
        created_at: time("created_at")?.ok_or_else(|| corrupt("created_at"))?,
        started_at: time("started_at")?,
        completed_at: time("completed_at")?,
        id,
    })
}

/// The prediction and its lease in a row that holds all columns.
pub(super) fn claimed(row: &SqliteRow) -> Result<Claimed, StoreError> {
    let prediction = prediction(row)?;
    let lease = Lease { id: prediction.id.clone(), worker: row.try_get("worker")?, attempt: row.try_get("attempt")? };
    Ok(Claimed { lease, prediction, interruptions: row.try_get("interruptions")? })
}
