//! The folder that one server owns: its lock, its database file, its pictures, its uploads, its key and its secret.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
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
    #[error("{0} does not hold a secret of 64 hexadecimal digits: put it back, or remove it to have a new one made")]
    Secret(PathBuf),
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

    /// What this server's tokens are made with, made at the first start. A new one voids the addresses of streams that
    /// clients still hold.
    pub fn secret(&self) -> Result<[u8; 32], DataDirError> {
        let path = self.path.join("secret");
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => unhex(text.trim()).ok_or_else(|| DataDirError::Secret(path.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                getrandom::fill(&mut secret).map_err(|error| failed(io::Error::other(error)))?;
                write_secret(&self.path, &path, &secret).map_err(failed)?;
                Ok(secret)
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Written beside and renamed, so that there is never half a secret; nobody else may read it.
fn write_secret(folder: &Path, path: &Path, secret: &[u8]) -> io::Result<()> {
    let beside = folder.join("secret.new");
    let mut options = File::options();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    file.write_all(digits.as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, path)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
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

    #[test]
    fn a_secret_stays() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let secret = data.secret().unwrap();
        assert_ne!(secret, [0; 32]);
        assert_eq!(data.secret().unwrap(), secret);
        let file = folder.path().join("secret");
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777, 0o600);
        std::fs::write(&file, "+f".repeat(32)).unwrap();
        assert!(matches!(data.secret(), Err(DataDirError::Secret(_))));
    }
}
