//! A repository in the cache, laid out as huggingface_hub does it: `blobs/HASH` holds bytes, `snapshots/COMMIT/PATH` points
//! to them, `refs/REVISION` names the commit. Unfinished files are `blobs/HASH.incomplete`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use sha2::{Digest, Sha256};

use super::HubError;
use super::files::needed;
use super::session::{Remote, Session, wait};

/// Bytes between two progress reports.
const CHUNK: usize = 1 << 18;

/// A repository's place in the cache.
pub(super) struct Snapshot {
    pub repo: Repo,
    revision: String,
    cache: CacheRepo,
    /// `models--owner--name`
    root: PathBuf,
    locks: PathBuf,
}

impl Snapshot {
    pub fn new(cache: &Path, repository: &str, revision: &str) -> Snapshot {
        let repo = Repo::with_revision(repository.to_string(), RepoType::Model, revision.to_string());
        Snapshot {
            root: cache.join(repo.folder_name()),
            locks: cache.join(".locks").join(repo.folder_name()),
            cache: Cache::new(cache.to_path_buf()).repo(repo.clone()),
            revision: revision.to_string(),
            repo,
        }
    }

    /// Whether the revision is a commit, which never changes, and not a branch or tag.
    pub fn is_pinned(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit())
    }

    pub fn folder(&self, commit: &str) -> PathBuf {
        self.cache.pointer_path(commit)
    }

    /// The snapshot's folder, if it has every file that a checkpoint needs.
    pub fn complete(&self) -> Option<PathBuf> {
        let commit = match self.is_pinned() {
            true => self.revision.clone(),
            false => fs::read_to_string(self.root.join("refs").join(&self.revision)).ok()?.trim().to_string(),
        };
        let folder = self.folder(&commit);
        let files = needed(&listed(&folder), "").ok()?;
        let whole = files.iter().filter(|file| file.ends_with(".index.json")).all(|index| has_shards(&folder, index));
        whole.then_some(folder)
    }

    /// Remembers that the revision means this commit.
    pub fn finish(&self, commit: &str) -> Result<(), HubError> {
        if self.is_pinned() {
            return Ok(());
        }
        self.cache.create_ref(commit).map_err(|e| HubError::disk(&self.root.join("refs"), 0, e))
    }

    /// Brings a file's bytes here, unless they are, and gives the blob's path. `expected` is the manifest's SHA-256.
    pub fn blob(
        &self,
        remote: &Remote,
        expected: Option<&str>,
        session: &Session,
        report: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, HubError> {
        let named = (remote.etag.len() == 64).then_some(remote.etag.as_str());
        if let (Some(expected), Some(found)) = (expected, named)
            && !expected.eq_ignore_ascii_case(found)
        {
            return Err(wrong_hash(remote, expected, found));
        }
        let blob = self.cache.blob_path(&remote.etag);
        if fs::metadata(&blob).is_ok_and(|found| found.len() == remote.size) {
            report(remote.size);
            return Ok(blob);
        }
        let _lock = self.lock(&remote.etag)?;
        let part = blob.with_extension("incomplete");
        make_parent(&part)?;
        transfer(remote, &part, session, report)?;
        if let Some(expected) = expected.or(named) {
            let found = sha256(&part)?;
            if !expected.eq_ignore_ascii_case(&found) {
                fs::remove_file(&part).map_err(|e| HubError::disk(&part, 0, e))?;
                return Err(wrong_hash(remote, expected, &found));
            }
        }
        fs::rename(&part, &blob).map_err(|e| HubError::disk(&blob, 0, e))?;
        Ok(blob)
    }

    /// Lets `snapshots/COMMIT/PATH` point to a blob.
    pub fn point(&self, commit: &str, path: &str, blob: &Path) -> Result<(), HubError> {
        let pointer = self.folder(commit).join(path);
        let name = blob.file_name().unwrap_or_default();
        if fs::canonicalize(&pointer).is_ok_and(|target| target.file_name() == Some(name)) {
            return Ok(());
        }
        make_parent(&pointer)?;
        let ups = "../".repeat(path.split('/').count() + 1);
        let target = Path::new(&ups).join("blobs").join(name);
        let _ = fs::remove_file(&pointer);
        #[cfg(unix)]
        let made = std::os::unix::fs::symlink(&target, &pointer);
        #[cfg(not(unix))]
        let made =
            std::os::windows::fs::symlink_file(&target, &pointer).or_else(|_| fs::copy(blob, &pointer).map(|_| ()));
        made.map_err(|e| HubError::disk(&pointer, 0, e))
    }

    /// Held while a blob is being written; huggingface_hub takes the same lock.
    fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::create(&path).map_err(|e| HubError::disk(&path, 0, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(HubError::Busy { path }),
            Err(fs::TryLockError::Error(e)) => Err(HubError::disk(&path, 0, e)),
        }
    }
}

/// Continues the unfinished file until it has all its bytes. A transfer that breaks off is taken up again, as long as it
/// brings something or the retries last.
fn transfer(remote: &Remote, part: &Path, session: &Session, report: &mut dyn FnMut(u64)) -> Result<(), HubError> {
    let opened = OpenOptions::new().create(true).append(true).open(part);
    let mut file = opened.map_err(|e| HubError::disk(part, remote.size, e))?;
    let mut failures = 0;
    loop {
        let before = length(&file, part)?;
        if before == remote.size {
            report(remote.size);
            return file.sync_all().map_err(|e| HubError::disk(part, 0, e));
        }
        let Err(error) = append(remote, part, &mut file, session, report) else { continue };
        failures = if length(&file, part)? > before { 1 } else { failures + 1 };
        if !error.is_retryable() || failures > session.retries {
            return Err(error);
        }
        wait(failures);
    }
}

/// Appends what the server sends from the end of the file on.
fn append(
    remote: &Remote,
    part: &Path,
    file: &mut File,
    session: &Session,
    report: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let disk = |done: u64, e| HubError::disk(part, remote.size.saturating_sub(done), e);
    let mut done = length(file, part)?;
    if done > remote.size {
        file.set_len(0).map_err(|e| disk(0, e))?;
        done = 0;
    }
    let (starts, mut bytes) = session.open(&remote.url, done)?;
    if starts != done {
        file.set_len(0).map_err(|e| disk(0, e))?;
        done = 0;
    }
    let broken = |done: u64, reason: String| {
        let url = remote.url.clone();
        Err(HubError::BrokenOff { url, done, size: remote.size, reason })
    };
    let mut buffer = vec![0; CHUNK];
    report(done);
    while done < remote.size {
        let most = buffer.len().min(usize::try_from(remote.size - done).unwrap_or(usize::MAX));
        match bytes.read(&mut buffer[..most]) {
            Ok(0) => return broken(done, "the connection was closed".to_string()),
            Ok(read) => {
                file.write_all(&buffer[..read]).map_err(|e| disk(done, e))?;
                done += read as u64;
                report(done);
            }
            Err(e) => return broken(done, e.to_string()),
        }
    }
    Ok(())
}

fn length(file: &File, path: &Path) -> Result<u64, HubError> {
    file.metadata().map(|m| m.len()).map_err(|e| HubError::disk(path, 0, e))
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|e| HubError::disk(parent, 0, e))
}

fn sha256(path: &Path) -> Result<String, HubError> {
    let disk = |e| HubError::disk(path, 0, e);
    let (mut file, mut hash) = (File::open(path).map_err(disk)?, Sha256::new());
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(disk)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn wrong_hash(remote: &Remote, expected: &str, found: &str) -> HubError {
    let (file, expected, found) = (remote.path.clone(), expected.to_string(), found.to_string());
    HubError::WrongHash { file, expected, found }
}

/// Every file in a snapshot and its folders, by its path with `/`; links that lead nowhere left out.
fn listed(folder: &Path) -> Vec<String> {
    let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut files = Vec::new();
    let entries: Vec<PathBuf> = inside(folder);
    for path in entries {
        if path.is_dir() {
            let below: Vec<PathBuf> = inside(&path);
            files.extend(below.iter().filter(|p| p.is_file()).map(|p| format!("{}/{}", name(&path), name(p))));
        } else if path.is_file() {
            files.push(name(&path));
        }
    }
    files
}

/// Whether every shard that an index names is there.
fn has_shards(folder: &Path, index: &str) -> bool {
    let path = folder.join(index);
    let json: Option<serde_json::Value> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(map) = json.as_ref().and_then(|json| json.get("weight_map")?.as_object()) else { return false };
    map.values().all(|shard| shard.as_str().is_some_and(|shard| path.with_file_name(shard).is_file()))
}
