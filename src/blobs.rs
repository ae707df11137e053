//! The bytes of outputs and uploads over `object_store`, named by unguessable capability paths.
//!
//! Whoever knows the path of an output may read it: paths are given out only in the prediction they belong to. Knows
//! nothing of predictions, HTTP or image formats.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart};

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

/// Where outputs, or uploads, are kept. Clones share the storage.
#[derive(Clone, Debug)]
pub struct Blobs {
    storage: Arc<dyn ObjectStore>,
    root: PathBuf,
}

/// Bytes on their way to `folder/name`, where they appear all at once. Dropped before its end, it leaves nothing there.
pub struct BlobWriter(WriteMultipart);

impl BlobWriter {
    /// Takes some bytes more, when the ones before are written: at most two parts of 5 MiB are in memory.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.0.wait_for_capacity(1).await?;
        self.0.put(bytes);
        Ok(())
    }

    /// Publishes the bytes; durable on return.
    pub async fn finish(self) -> Result<(), BlobError> {
        self.0.finish().await?;
        Ok(())
    }
}

impl Blobs {
    /// Files under `folder`, each synced to disk before its write returns.
    pub fn local(folder: &FilePath) -> Result<Blobs, BlobError> {
        let failed = |source| BlobError::Folder { folder: folder.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // The clean-up takes a folder away with its last file.
        let storage = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true).with_automatic_cleanup(true);
        Ok(Blobs { storage: Arc::new(storage), root: folder.to_path_buf() })
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

    /// A way to keep bytes at `folder/name` that are too many to be held at once.
    pub async fn writer(&self, folder: &str, name: &str) -> Result<BlobWriter, BlobError> {
        let upload = self.storage.put_multipart(&Path::from_iter([folder, name])).await?;
        Ok(BlobWriter(WriteMultipart::new(upload)))
    }

    /// What is kept at `folder/name`, to be streamed.
    pub async fn get(&self, folder: &str, name: &str) -> Result<GetResult, BlobError> {
        Ok(self.storage.get(&checked(folder, name)?).await?)
    }

    /// Some of the bytes at `folder/name`, to be streamed. The range is not empty and begins before their end.
    pub async fn get_range(&self, folder: &str, name: &str, range: Range<u64>) -> Result<GetResult, BlobError> {
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        Ok(self.storage.get_opts(&checked(folder, name)?, options).await?)
    }

    /// Removes what [`Blobs::put`] kept at this path; that it is gone already is fine.
    pub async fn delete(&self, path: &str) -> Result<(), BlobError> {
        let (folder, name) = path.split_once('/').unwrap_or((path, ""));
        match self.storage.delete(&checked(folder, name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes every folder but these, with all that writers left unfinished in them, and tells how many. Only for
    /// a process that alone writes here and is not doing so.
    pub async fn keep_only(&self, folders: HashSet<String>) -> Result<usize, BlobError> {
        let root = self.root.clone();
        let failed = |source| BlobError::Folder { folder: self.root.display().to_string(), source };
        let work = tokio::task::spawn_blocking(move || {
            let mut removed = 0;
            for entry in std::fs::read_dir(root)? {
                let entry = entry?;
                let known = entry.file_name().to_str().is_some_and(|name| folders.contains(name));
                if !known && entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                    removed += 1;
                }
            }
            Ok::<_, std::io::Error>(removed)
        });
        work.await.map_err(std::io::Error::other).and_then(|removed| removed).map_err(failed)
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
        let middle = blobs.get_range(&folder, "out-0.png", 1..2).await.unwrap();
        assert_eq!((middle.range.clone(), middle.bytes().await.unwrap()), (1..2, Bytes::from_static(b"n")));
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

    #[tokio::test]
    async fn many_bytes_appear_at_once_and_can_be_taken_away() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(root.path()).unwrap();
        let folder = Blobs::new_folder().unwrap();
        let mut writer = blobs.writer(&folder, "content").await.unwrap();
        for _ in 0..12 {
            writer.write(Bytes::from(vec![7; 1024 * 1024])).await.unwrap();
        }
        assert!(blobs.head(&folder, "content").await.is_err(), "not yet");
        writer.finish().await.unwrap();
        assert_eq!(blobs.head(&folder, "content").await.unwrap().size, 12 * 1024 * 1024);

        let left = Blobs::new_folder().unwrap();
        let mut writer = blobs.writer(&left, "content").await.unwrap();
        writer.write(Bytes::from_static(b"half")).await.unwrap();
        std::mem::forget(writer);
        assert_eq!(blobs.keep_only(HashSet::from([folder.clone()])).await.unwrap(), 1);
        assert!(!root.path().join(&left).exists() && root.path().join(&folder).exists());

        for _ in 0..2 {
            blobs.delete(&format!("{folder}/content")).await.unwrap();
        }
        assert!(!root.path().join(&folder).exists());
    }
}
