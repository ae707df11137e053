//! A checkpoint in diffusers layout: a directory, or the model that is part of the binary.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde::de::DeserializeOwned;

use super::WeightsError;
use super::tensor_file::TensorFile;
use super::tensors::TensorFiles;

/// A place with the files of a diffusers pipeline (`model_index.json`, `unet/config.json`, …). Paths are relative and
/// use `/`. Cheap to copy; nothing is read before it is asked for.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    place: Place,
}

/// Files of the binary: path in the checkpoint and contents.
pub(super) type Embedded = &'static [(&'static str, &'static [u8])];

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Embedded { name: &'static str, files: Embedded },
}

impl Checkpoint {
    /// The checkpoint in this directory.
    ///
    /// # Errors
    /// When it is not a directory with a `model_index.json`.
    pub fn open(directory: &Path) -> Result<Checkpoint, WeightsError> {
        let path = directory.to_path_buf();
        if directory.is_file() {
            return Err(WeightsError::SingleFile { path });
        }
        if !directory.is_dir() {
            return Err(WeightsError::NoDirectory { path });
        }
        if !directory.join("model_index.json").is_file() {
            return Err(WeightsError::NotDiffusers { path });
        }
        Ok(Checkpoint { place: Place::Directory(path) })
    }

    pub(super) fn embedded(name: &'static str, files: Embedded) -> Checkpoint {
        Checkpoint { place: Place::Embedded { name, files } }
    }

    /// Where the checkpoint is, for people: a directory, or the built-in model's name.
    pub fn location(&self) -> String {
        match &self.place {
            Place::Directory(directory) => directory.display().to_string(),
            Place::Embedded { name, .. } => format!("built-in {name}"),
        }
    }

    /// A file of the checkpoint as error messages name it.
    pub(super) fn shown(&self, path: &str) -> String {
        match &self.place {
            Place::Directory(directory) => directory.join(path).display().to_string(),
            Place::Embedded { name, .. } => format!("built-in {name}/{path}"),
        }
    }

    /// Whether the checkpoint has this file.
    pub fn exists(&self, path: &str) -> bool {
        match &self.place {
            Place::Directory(directory) => directory.join(path).is_file(),
            Place::Embedded { files, .. } => files.iter().any(|(name, _)| *name == path),
        }
    }

    /// The contents of a file, such as `tokenizer/merges.txt`.
    pub fn bytes(&self, path: &str) -> Result<Cow<'static, [u8]>, WeightsError> {
        match &self.place {
            Place::Embedded { .. } => self.embedded_bytes(path).map(Cow::Borrowed),
            Place::Directory(directory) => match std::fs::read(directory.join(path)) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    Err(WeightsError::MissingFile { path: self.shown(path) })
                }
                Err(source) => Err(WeightsError::Read { path: self.shown(path), source }),
            },
        }
    }

    /// A JSON file, such as `unet/config.json`, as `T`.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, WeightsError> {
        let bytes = self.bytes(path)?;
        serde_json::from_slice(&bytes).map_err(|source| WeightsError::Json { path: self.shown(path), source })
    }

    /// The weights in a folder, such as `unet`, as `dtype` on `device`. Tensors are read when they are asked for.
    ///
    /// # Errors
    /// When there are none, only pickled ones, or damaged ones. A missing tensor or one of another shape is an error
    /// of the builder's `get` that names the file and the tensor.
    pub fn tensors(&self, folder: &str, dtype: DType, device: &Device) -> Result<VarBuilder<'static>, WeightsError> {
        let backend: Box<dyn SimpleBackend> = Box::new(TensorFiles::open(self, folder)?);
        Ok(VarBuilder::new_with_args(backend, dtype, device))
    }

    pub(super) fn tensor_file(&self, path: &str) -> Result<TensorFile, WeightsError> {
        match &self.place {
            Place::Embedded { .. } => TensorFile::embedded(self.shown(path), self.embedded_bytes(path)?),
            Place::Directory(directory) => TensorFile::map(&directory.join(path)),
        }
    }

    fn embedded_bytes(&self, path: &str) -> Result<&'static [u8], WeightsError> {
        let Place::Embedded { files, .. } = &self.place else {
            return Err(WeightsError::MissingFile { path: self.shown(path) });
        };
        let file = files.iter().find(|(name, _)| *name == path);
        file.map(|(_, bytes)| *bytes).ok_or_else(|| WeightsError::MissingFile { path: self.shown(path) })
    }
}
