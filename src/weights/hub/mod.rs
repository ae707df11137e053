//! Checkpoints from the Hugging Face hub, by manifest: the files that this server reads and no others, at a pinned
//! revision, into the cache that huggingface_hub and hf-hub share.
//!
//! hf-hub 0.5 gives names, addresses and the cache's layout. The transfer is our own: hf-hub has no time-outs, trusts a
//! server to honour `Range` when it resumes, fails on a part that is already complete, and verifies nothing. No
//! environment variable is read here: [`HubOptions`] carries them.

mod error;
mod files;
mod options;
mod session;
mod snapshot;

use std::path::PathBuf;

pub use error::HubError;
pub use options::HubOptions;

use session::Session;
use snapshot::Snapshot;

use super::WeightsError;
use crate::domain::{ModelManifest, Source};

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being transferred, such as `unet/config.json`.
    pub file: &'a str,
    /// Bytes of all files that are here.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// The folder of a manifest's checkpoint if all its files are in the cache. Asks no server.
pub fn cached(manifest: &ModelManifest, options: &HubOptions) -> Result<Option<PathBuf>, WeightsError> {
    Ok(Place::of(manifest, options)?.snapshot.complete())
}

/// Brings a manifest's checkpoint into the cache and gives its folder. What is there already is not transferred again,
/// and a file that was cut short is continued. A pinned revision that is complete costs no request.
///
/// # Errors
/// A manifest that is not of the hub, and everything that [`HubError`] describes.
pub fn pull(
    manifest: &ModelManifest,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, WeightsError> {
    let place = Place::of(manifest, options)?;
    if (options.offline || place.snapshot.is_pinned())
        && let Some(folder) = place.snapshot.complete()
    {
        return Ok(folder);
    }
    if options.offline {
        let (repository, cache) = (place.repository.to_string(), options.cache.clone());
        return Err(HubError::Offline { repository, cache }.into());
    }
    place.pull(options, progress)
}

/// A repository at a revision, and where its copy is.
struct Place<'a> {
    repository: &'a str,
    sha256: &'a std::collections::HashMap<String, String>,
    snapshot: Snapshot,
}

impl<'a> Place<'a> {
    fn of(manifest: &'a ModelManifest, options: &HubOptions) -> Result<Place<'a>, WeightsError> {
        match &manifest.source {
            Source::Hub { repository, revision, sha256, .. } => {
                let snapshot = Snapshot::new(&options.cache, repository, revision);
                Ok(Place { repository, sha256, snapshot })
            }
            _ => Err(HubError::NotOfTheHub { name: manifest.name.clone() }.into()),
        }
    }

    fn pull(&self, options: &HubOptions, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, WeightsError> {
        let session = Session::new(options);
        let listing = session.listing(&self.snapshot.repo)?;
        let mut remote = Vec::new();
        for file in files::needed(&listing.files, &format!("{}/{}", options.endpoint, self.repository))? {
            remote.push(session.describe(&self.snapshot.repo, &listing.commit, &file)?);
        }
        let total = remote.iter().map(|r| r.size).sum();
        let mut before = 0;
        for file in &remote {
            let expected = self.sha256.get(&file.path).map(String::as_str);
            let mut report = |done| progress(Progress { file: &file.path, done: before + done, total });
            let blob = self.snapshot.blob(file, expected, &session, &mut report)?;
            self.snapshot.point(&listing.commit, &file.path, &blob)?;
            before += file.size;
        }
        self.snapshot.finish(&listing.commit)?;
        Ok(self.snapshot.folder(&listing.commit))
    }
}
