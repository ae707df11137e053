//! The rows of uploaded files. Their bytes are not here, and that both agree is the business of `uploads`.

use std::collections::HashSet;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Cursor, PAGE_SIZE, SqliteStore, StoreError};
use crate::domain::Upload;

/// One page of files, newest first.
#[derive(Debug, Clone)]
pub struct FilePage {
    pub files: Vec<Upload>,
    /// Towards older ones.
    pub next: Option<Cursor>,
    /// Towards newer ones.
    pub previous: Option<Cursor>,
}

/// Uploaded files. Every method is one transaction.
#[async_trait]
pub trait FileStore: Send + Sync + 'static {
    /// Writes the row of a file whose bytes are durable. Durable on return.
    async fn insert_file(&self, file: Upload) -> Result<(), StoreError>;

    /// The file, expired or not.
    async fn file(&self, id: &str) -> Result<Option<Upload>, StoreError>;

    /// A page of at most [`PAGE_SIZE`] files that expire after `now`, newest first; the first one without a cursor.
    async fn list_files(&self, cursor: Option<Cursor>, now: Timestamp) -> Result<FilePage, StoreError>;

    /// Deletes the row and tells the folder of the bytes.
    async fn delete_file(&self, id: &str) -> Result<Option<String>, StoreError>;

    /// Deletes the rows that expired by `now`, but not of files that an unfinished prediction names in its input, and
    /// tells the folders of their bytes.
    async fn delete_expired_files(&self, now: Timestamp) -> Result<Vec<String>, StoreError>;

    /// The folders of all files.
    async fn file_folders(&self) -> Result<HashSet<String>, StoreError>;

    /// The secret that download URLs are signed with: `candidate` if there was none yet.
    async fn files_secret(&self, candidate: [u8; 32]) -> Result<Vec<u8>, StoreError>;
}

#[async_trait]
impl FileStore for SqliteStore {
    async fn insert_file(&self, file: Upload) -> Result<(), StoreError> {
        self.write(move |connection, _| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO files
                        (id, name, content_type, size, sha256, md5, metadata, folder, created_at, expires_at)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(file.id)
                .bind(file.name)
                .bind(file.content_type)
                .bind(i64::try_from(file.size).unwrap_or(i64::MAX))
                .bind(file.sha256)
                .bind(file.md5)
                .bind(serde_json::Value::Object(file.metadata).to_string())
                .bind(file.folder)
                .bind(file.created_at.as_microsecond())
                .bind(file.expires_at.as_microsecond())
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    async fn file(&self, id: &str) -> Result<Option<Upload>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let row = sqlx::query("SELECT * FROM files WHERE id = ?").bind(id).fetch_optional(&mut *connection).await?;
        row.as_ref().map(upload).transpose()
    }

    async fn list_files(&self, cursor: Option<Cursor>, now: Timestamp) -> Result<FilePage, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let (after, before, upwards) = match cursor {
            Some(Cursor::Newer(seq)) => (seq, i64::MAX, true),
            Some(Cursor::Older(seq)) => (i64::MIN, seq, false),
            None => (i64::MIN, i64::MAX, false),
        };
        let query = match upwards {
            true => "SELECT * FROM files WHERE seq > ? AND seq < ? AND expires_at > ? ORDER BY seq LIMIT ?",
            false => "SELECT * FROM files WHERE seq > ? AND seq < ? AND expires_at > ? ORDER BY seq DESC LIMIT ?",
        };
        // One more than a page tells whether there is a further one.
        let mut rows = sqlx::query(query)
            .bind(after)
            .bind(before)
            .bind(now.as_microsecond())
            .bind(PAGE_SIZE as i64 + 1)
            .fetch_all(&mut *connection)
            .await?;
        let more = rows.len() > PAGE_SIZE;
        rows.truncate(PAGE_SIZE);
        if upwards {
            rows.reverse();
        }
        let seq = |row: Option<&SqliteRow>| row.map(|r| r.try_get::<i64, _>("seq")).transpose();
        let (newest, oldest) = (seq(rows.first())?, seq(rows.last())?);
        let (older, newer) = if upwards { (true, more) } else { (more, cursor.is_some()) };
        Ok(FilePage {
            files: rows.iter().map(upload).collect::<Result<_, _>>()?,
            next: oldest.filter(|_| older).map(Cursor::Older),
            previous: newest.filter(|_| newer).map(Cursor::Newer),
        })
    }

    async fn delete_file(&self, id: &str) -> Result<Option<String>, StoreError> {
        let id = id.to_string();
        self.write(move |connection, _| {
            Box::pin(async move {
                let row = sqlx::query("DELETE FROM files WHERE id = ? RETURNING folder")
                    .bind(id)
                    .fetch_optional(connection)
                    .await?;
                Ok(row.map(|row| row.try_get("folder")).transpose()?)
            })
        })
        .await
    }

    async fn delete_expired_files(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        self.write(move |connection, _| {
            Box::pin(async move {
                // An id is 48 random letters and digits: it stands in an input only as part of the file's URL.
                let rows = sqlx::query(
                    "DELETE FROM files
                     WHERE expires_at <= ?
                       AND NOT EXISTS (SELECT 1 FROM predictions
                                       WHERE status IN ('starting', 'processing') AND instr(input, files.id) > 0)
                     RETURNING folder",
                )
                .bind(now.as_microsecond())
                .fetch_all(connection)
                .await?;
                rows.iter().map(|row| Ok(row.try_get("folder")?)).collect()
            })
        })
        .await
    }

    async fn file_folders(&self) -> Result<HashSet<String>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let rows = sqlx::query("SELECT folder FROM files").fetch_all(&mut *connection).await?;
        rows.iter().map(|row| Ok(row.try_get("folder")?)).collect()
    }

    async fn files_secret(&self, candidate: [u8; 32]) -> Result<Vec<u8>, StoreError> {
        self.write(move |connection, _| {
            Box::pin(async move {
                sqlx::query("INSERT INTO files_secret (one, secret) VALUES (1, ?) ON CONFLICT DO NOTHING")
                    .bind(candidate.to_vec())
                    .execute(&mut *connection)
                    .await?;
                let row = sqlx::query("SELECT secret FROM files_secret").fetch_one(connection).await?;
                Ok(row.try_get("secret")?)
            })
        })
        .await
    }
}

/// The file in a row that holds all columns.
fn upload(row: &SqliteRow) -> Result<Upload, StoreError> {
    let id: String = row.try_get("id")?;
    let corrupt = |column| StoreError::Corrupt { id: id.clone(), column };
    let time = |column: &'static str| -> Result<Timestamp, StoreError> {
        Timestamp::from_microsecond(row.try_get(column)?).map_err(|_| corrupt(column))
    };
    Ok(Upload {
        name: row.try_get("name")?,
        content_type: row.try_get("content_type")?,
        size: row.try_get::<i64, _>("size")?.try_into().map_err(|_| corrupt("size"))?,
        sha256: row.try_get("sha256")?,
        md5: row.try_get("md5")?,
        metadata: serde_json::from_str(row.try_get("metadata")?).map_err(|_| corrupt("metadata"))?,
        folder: row.try_get("folder")?,
        created_at: time("created_at")?,
        expires_at: time("expires_at")?,
        id,
    })
}
