//! A file while it arrives: counted, summed and written piece by piece.

use bytes::Bytes;
use md5::{Digest, Md5};
use sha2::Sha256;

use super::{SIZE_LIMIT, UploadError};
use crate::blobs::BlobWriter;

/// The part of a file that has arrived. Dropped, it leaves nothing.
pub struct Incoming {
    folder: String,
    writer: BlobWriter,
    sha256: Sha256,
    md5: Md5,
    size: u64,
}

/// A file that arrived whole.
pub(super) struct Content {
    pub folder: String,
    pub size: u64,
    pub sha256: String,
    pub md5: String,
}

impl Incoming {
    pub(super) fn new(folder: String, writer: BlobWriter) -> Incoming {
        Incoming { folder, writer, sha256: Sha256::new(), md5: Md5::new(), size: 0 }
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), UploadError> {
        self.size += bytes.len() as u64;
        if self.size > SIZE_LIMIT {
            return Err(UploadError::TooLarge);
        }
        self.sha256.update(&bytes);
        self.md5.update(&bytes);
        Ok(self.writer.write(bytes).await?)
    }

    /// Ends the file; its bytes are durable on return.
    pub(super) async fn finish(self) -> Result<Content, UploadError> {
        self.writer.finish().await?;
        let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Content {
            folder: self.folder,
            size: self.size,
            sha256: hex(&self.sha256.finalize()),
            md5: hex(&self.md5.finalize()),
        })
    }
}
