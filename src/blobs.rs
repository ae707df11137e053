//! Output bytes over `object_store`, named by unguessable capability paths.
//!
//! Whoever knows a path may read it: paths are given out only in the prediction they belong to. Knows nothing of
//! predictions, HTTP or image formats.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetResult, ObjectMeta, ObjectStore, ObjectStoreExt};

/// Why bytes could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("no such file: {0}")]
    NotFound(String),
    #[error("the folder {folder}: {source}")]
    Folder { folder: String, source: std::io::Error },
    #[error("storage: {0}")]
    Storage(object_store::Error),
    #[error("the system gave no random numbers: {0}")]
    Random(getrandom::Error),
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => BlobError::NotFound(path),
            other => BlobError::Storage(other),
        }
    }
}

/// Where outputs are kept. Clones share the storage.
#[derive(Clone, Debug)]
pub struct Blobs {
    storage: Arc<dyn ObjectStore>,
}

impl Blobs {
    /// Files under `folder`, each synced to disk before its write returns.
    pub fn local(folder: &FilePath) -> Result<Blobs, BlobError> {
        let failed = |source| BlobError::Folder { folder: folder.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let storage = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true).with_automatic_cleanup(true);
        Ok(Blobs { storage: Arc::new(storage) })
    }

    /// A new folder name that nobody can guess: 128 random bits.
    pub fn new_folder() -> Result<String, BlobError> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).map_err(BlobError::Random)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Keeps the bytes of `folder/name`; durable on return.
    pub async fn put(&self, folder: &str, name: &str, bytes: Bytes) -> Result<String, BlobError> {
        let path = Path::from_iter([folder, name]);
        self.storage.put(&path, bytes.into()).await?;
        Ok(path.to_string())
    }

    /// What is kept at `folder/name`, to be streamed.
    pub async fn get(&self, folder: &str, name: &str) -> Result<GetResult, BlobError> {
        Ok(self.storage.get(&checked(folder, name)?).await?)
    }

    /// Removes what [`Blobs::put`] kept at `path`; that it is gone already is fine.
    pub async fn delete(&self, path: &str) -> Result<(), BlobError> {
        let (folder, name) = path.split_once('/').unwrap_or((path, ""));
        match self.storage.delete(&checked(folder, name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Size, time and entity tag of what is kept at `folder/name`.
    pub async fn head(&self, folder: &str, name: &str) -> Result<ObjectMeta, BlobError> {
        Ok(self.storage.head(&checked(folder, name)?).await?)
    }
}

/// A path that [`Blobs::put`] could have given out; anything else is not looked for.
fn checked(folder: &str, name: &str) -> Result<Path, BlobError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let known = folder.len() == 32
        && folder.chars().all(|c| c.is_ascii_hexdigit())
        && !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(plain);
    match known {
        true => Ok(Path::from_iter([folder, name])),
        false => Err(BlobError::NotFound(format!("{folder}/{name}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn bytes_come_back_by_their_path_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("secret"), "x").unwrap();
        let blobs = Blobs::local(&root.path().join("blobs")).unwrap();
        let folder = Blobs::new_folder().unwrap();
        assert_ne!(folder, Blobs::new_folder().unwrap());
        let path = blobs.put(&folder, "out-0.png", Bytes::from_static(b"png")).await.unwrap();
        assert_eq!(path, format!("{folder}/out-0.png"));
        assert_eq!(blobs.get(&folder, "out-0.png").await.unwrap().bytes().await.unwrap(), "png");
        assert_eq!(blobs.head(&folder, "out-0.png").await.unwrap().size, 3);
        for (folder, name) in
            [(folder.as_str(), "out-1.png"), ("..", "secret"), (&folder, "../../secret"), (&folder, "..")]
        {
            assert!(matches!(blobs.get(folder, name).await, Err(BlobError::NotFound(_))), "{folder}/{name}");
        }
        for _ in 0..2 {
            blobs.delete(&path).await.unwrap();
        }
        assert!(matches!(blobs.head(&folder, "out-0.png").await, Err(BlobError::NotFound(_))));
        assert!(blobs.delete("../secret").await.is_err());
    }
}
