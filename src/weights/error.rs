//! What can be wrong with a checkpoint, said so that its owner knows which file to look at.

use std::path::PathBuf;

/// An error of this room. Every variant names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{path}: no such checkpoint directory")]
    NoDirectory { path: PathBuf },
    #[error(
        "{path}: a single-file checkpoint; give a directory in diffusers layout \
         (diffusers' `from_single_file(...).save_pretrained(DIR, safe_serialization=True)` makes one)"
    )]
    SingleFile { path: PathBuf },
    #[error("{path}: not a checkpoint in diffusers layout: it has no model_index.json")]
    NotDiffusers { path: PathBuf },
    #[error("{path}: no such file in the checkpoint")]
    MissingFile { path: String },
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: not the JSON that was expected: {source}")]
    Json { path: String, source: serde_json::Error },
    #[error("{folder}: no safetensors weights (looked for {looked_for})")]
    NoWeights { folder: String, looked_for: String },
    #[error(
        "{path}: pickled weights are refused because unpickling runs code; use the checkpoint's safetensors variant or \
         convert it (diffusers' `save_pretrained(DIR, safe_serialization=True)`)"
    )]
    Pickle { path: String },
    #[error("{index}: tensor {tensor} is said to be in {shard:?}, which is not a file name")]
    ShardName { index: String, tensor: String, shard: String },
    #[error("{path}: not a sound safetensors file: {reason}")]
    Damaged { path: String, reason: String },
    #[error("{path}: the file ends inside tensor {tensor}: {missing} bytes are missing (was its download cut short?)")]
    Truncated { path: String, tensor: String, missing: u64 },
    #[error("{path}: tensor {tensor} is missing")]
    MissingTensor { path: String, tensor: String },
    #[error("{path}: tensor {tensor} has shape {found:?}, expected {expected:?}")]
    Shape { path: String, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path}: tensor {tensor} is stored as {stored}; only F32, F16 and BF16 are read")]
    Dtype { path: String, tensor: String, stored: String },
    #[error(transparent)]
    Hub(#[from] super::hub::HubError),
    #[error(transparent)]
    Manifest(#[from] crate::domain::ManifestError),
    #[error("{model:?} is neither a folder nor a known model; known are {known}")]
    UnknownModel { model: String, known: String },
}

impl From<WeightsError> for candle_core::Error {
    /// The message survives as it is; candle's own context is added around it, not instead of it.
    fn from(error: WeightsError) -> Self {
        candle_core::Error::wrap(error)
    }
}
