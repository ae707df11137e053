//! What can go wrong between here and the hub, and what to do about it.

use std::path::PathBuf;

/// An error of a download. Each says what would help.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("{name} does not come from the hub: there is nothing to download")]
    NotOfTheHub { name: String },
    #[error(
        "{repository} is not (completely) in {cache} and downloading is switched off; run `stablehand models pull` \
         without --offline and HF_HUB_OFFLINE, or copy the cache of a machine that has it"
    )]
    Offline { repository: String, cache: PathBuf },
    #[error(
        "{url}: {status}, and no token was sent: the repository is gated, private or does not exist; accept its terms \
         on its page on the hub and set HF_TOKEN"
    )]
    NoToken { url: String, status: u16 },
    #[error(
        "{url}: {status}: the token in HF_TOKEN has no access; accept the repository's terms on its page on the hub"
    )]
    NoAccess { url: String, status: u16 },
    #[error("{url}: 404: the repository has no such file or revision (or it was taken down, or HF_ENDPOINT is wrong)")]
    NotFound { url: String },
    #[error("{url}: the hub answered {status}; try again later")]
    Status { url: String, status: u16 },
    #[error("{url}: {reason}; check the network, HF_ENDPOINT and proxy settings")]
    Unreachable { url: String, reason: String },
    #[error("{url}: no answer in time; check the network and try again, what has arrived is kept")]
    TimedOut { url: String },
    #[error("{url}: not what a hub answers: {reason}; check HF_ENDPOINT")]
    Protocol { url: String, reason: String },
    #[error("{url}: the transfer broke off after {done} of {size} bytes ({reason}); run it again to continue there")]
    BrokenOff { url: String, done: u64, size: u64, reason: String },
    #[error("{file}: has SHA-256 {found}, expected {expected}; the copy was removed, pull it again")]
    WrongHash { file: String, expected: String, found: String },
    #[error("{path}: the disk is full and {needed} more bytes are needed; free some space or set HF_HOME")]
    DiskFull { path: PathBuf, needed: u64 },
    #[error("{path}: {source}")]
    Disk { path: PathBuf, source: std::io::Error },
    #[error("{path}: another process is downloading this file; wait for it")]
    Busy { path: PathBuf },
}

impl HubError {
    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            HubError::Unreachable { .. } | HubError::TimedOut { .. } | HubError::BrokenOff { .. } => true,
            HubError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// An error of the disk at `path`, where `needed` bytes were still to be written.
    pub(super) fn disk(path: &std::path::Path, needed: u64, source: std::io::Error) -> HubError {
        let path = path.to_path_buf();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => HubError::DiskFull { path, needed },
            _ => HubError::Disk { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_how_much_is_needed() {
        let full = HubError::disk("/cache/x".as_ref(), 4096, std::io::ErrorKind::StorageFull.into());
        assert!(full.to_string().contains("4096 more bytes are needed") && !full.is_retryable());
        let other = HubError::disk("/cache/x".as_ref(), 0, std::io::ErrorKind::PermissionDenied.into());
        assert!(other.to_string().starts_with("/cache/x: "));
    }
}
