//! Files that clients upload to use them as inputs: rows and bytes that appear and vanish together.
//!
//! Owns sizes, checksums, expiry and the signatures of download URLs. The bytes are durable before the row that points
//! to them, and the row goes before the bytes; what a killed process left between the two is cleared away at the next
//! start. Knows nothing of HTTP.

mod incoming;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use object_store::GetResult;
use serde_json::{Map, Value};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use incoming::Incoming;
pub use signature::{OWNER, Signed};

use crate::blobs::{BlobError, Blobs};
use crate::domain::{Upload, file_id_of_url, is_file_id, new_file_id};
use crate::store::{Cursor, FilePage, FileStore, StoreError};
use signature::Secret;

/// Bytes that a file may have.
pub const SIZE_LIMIT: u64 = 100 * 1024 * 1024;

/// The bytes of a file in its folder.
const CONTENT: &str = "content";

/// Between looks for expired files.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Why a file could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the file has more than {SIZE_LIMIT} bytes")]
    TooLarge,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the system gave no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What a client says about its file.
#[derive(Debug, Clone, Default)]
pub struct Description {
    pub name: String,
    pub content_type: String,
    pub metadata: Map<String, Value>,
}

/// The uploaded files. Clones share them.
#[derive(Clone)]
pub struct Uploads {
    store: Arc<dyn FileStore>,
    blobs: Blobs,
    retention: Duration,
    secret: Arc<Secret>,
}

impl Uploads {
    /// Takes over what earlier processes kept, for which `blobs` must hold nothing else, and clears away what they left
    /// unfinished.
    pub async fn open(store: Arc<dyn FileStore>, blobs: Blobs, retention: Duration) -> Result<Uploads, UploadError> {
        let mut candidate = [0u8; 32];
        getrandom::fill(&mut candidate).map_err(UploadError::Random)?;
        let secret = Arc::new(Secret::new(store.files_secret(candidate).await?));
        let uploads = Uploads { store, blobs, retention, secret };
        uploads.sweep().await?;
        let left = uploads.blobs.keep_only(uploads.store.file_folders().await?).await?;
        if left > 0 {
            tracing::info!("{left} unfinished uploads of an earlier run were cleared away");
        }
        Ok(uploads)
    }

    /// Begins to take a file.
    pub async fn begin(&self) -> Result<Incoming, UploadError> {
        let folder = Blobs::new_folder()?;
        let writer = self.blobs.writer(&folder, CONTENT).await?;
        Ok(Incoming::new(folder, writer))
    }

    /// Keeps a file that was taken whole; durable on return.
    pub async fn keep(&self, incoming: Incoming, about: Description) -> Result<Upload, UploadError> {
        let content = incoming.finish().await?;
        // As precise as the store is.
        let now = Timestamp::now().as_microsecond();
        let later = now.saturating_add(i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX));
        let time = |micros| Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
        let file = Upload {
            id: new_file_id(),
            name: about.name,
            content_type: about.content_type,
            size: content.size,
            sha256: content.sha256,
            md5: content.md5,
            metadata: about.metadata,
            folder: content.folder,
            created_at: time(now),
            expires_at: time(later),
        };
        if let Err(error) = self.store.insert_file(file.clone()).await {
            self.discard(&file.folder).await;
            return Err(error.into());
        }
        Ok(file)
    }

    /// The file of that id, unless it expired.
    pub async fn get(&self, id: &str) -> Result<Option<Upload>, UploadError> {
        if !is_file_id(id) {
            return Ok(None);
        }
        Ok(self.store.file(id).await?.filter(|file| file.expires_at > Timestamp::now()))
    }

    /// A page of the files that have not expired, newest first.
    pub async fn list(&self, cursor: Option<Cursor>) -> Result<FilePage, UploadError> {
        Ok(self.store.list_files(cursor, Timestamp::now()).await?)
    }

    /// Takes a file away. `false`: there was none.
    pub async fn delete(&self, id: &str) -> Result<bool, UploadError> {
        let folder = self.store.delete_file(id).await?;
        if let Some(folder) = &folder {
            self.discard(folder).await;
        }
        Ok(folder.is_some())
    }

    /// Where the bytes of a file are: a folder and a name in [`Uploads::blobs`].
    pub fn place<'a>(&self, file: &'a Upload) -> (&'a str, &'static str) {
        (&file.folder, CONTENT)
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// For who works on a prediction: the file and its bytes, if an input value is the URL of one of our files. An
    /// expired file is still there as long as an unfinished prediction names it.
    pub async fn resolve(&self, value: &str) -> Result<Option<(Upload, GetResult)>, UploadError> {
        let Some(id) = file_id_of_url(value) else { return Ok(None) };
        let Some(file) = self.store.file(id).await? else { return Ok(None) };
        let bytes = self.blobs.get(&file.folder, CONTENT).await?;
        Ok(Some((file, bytes)))
    }

    /// What a download URL of this file must carry; it ends when the file does.
    pub fn sign(&self, file: &Upload) -> Signed {
        self.secret.sign(OWNER, &file.id, file.expires_at.as_second())
    }

    /// The file, if the URL was signed by us and has not expired.
    pub async fn signed(&self, id: &str, signed: &Signed) -> Result<Option<Upload>, UploadError> {
        match signed.expiry > Timestamp::now().as_second() && self.secret.signed(id, signed) {
            true => self.get(id).await,
            false => Ok(None),
        }
    }

    /// Takes expired files away, every minute until `stop`.
    pub async fn sweep_until(self, stop: CancellationToken) {
        let mut ticks = interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = self.sweep().await {
                tracing::error!("expired files: {error}");
            }
        }
    }

    /// Takes expired files away, but not those that an unfinished prediction names.
    pub async fn sweep(&self) -> Result<usize, UploadError> {
        let folders = self.store.delete_expired_files(Timestamp::now()).await?;
        for folder in &folders {
            self.discard(folder).await;
        }
        Ok(folders.len())
    }

    /// The row is gone, so bytes that stay cost only room, until the next start.
    async fn discard(&self, folder: &str) {
        if let Err(error) = self.blobs.delete(&format!("{folder}/{CONTENT}")).await {
            tracing::warn!("an uploaded file stays on disk: {error}");
        }
    }
}
