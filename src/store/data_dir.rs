//! The folder that one server owns: its lock, its database file, its pictures, its uploads, its key.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A locked data folder. The lock lives as long as this value and dies with the process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("the data folder {0} is in use by another stablehand")]
    InUse(PathBuf),
    #[error("the data folder {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl DataDir {
    /// Makes the folder if need be and locks it.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_path_buf(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("stablehand.lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_path_buf())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.path.join("stablehand.sqlite")
    }

    /// The folder of the pictures.
    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// The folder of uploaded files.
    pub fn uploads(&self) -> PathBuf {
        self.path.join("files")
    }

    /// The file of the key that was made for this server.
    pub fn api_key(&self) -> PathBuf {
        self.path.join("api-key")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/data");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse(_))));
        drop(first);
        DataDir::open(&path).unwrap();
    }
}
