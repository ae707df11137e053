//! The tensors of one part of a checkpoint (`unet`, `vae`, …): which files they are in, and candle's way to them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use serde::Deserialize;

use super::names::alternatives;
use super::tensor_file::TensorFile;
use super::{Checkpoint, WeightsError};

/// Names that diffusers and transformers give to weights, without extension.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// Names under which the same weights come pickled.
pub(super) const PICKLES: [&str; 3] = ["bin", "ckpt", "pt"];

/// The sharded index of transformers and diffusers, as far as it is read.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to the name of the file that holds it.
    weight_map: BTreeMap<String, String>,
}

/// The safetensors files of one folder of a checkpoint, asked for tensors by today's names.
pub(super) struct TensorFiles {
    folder: String,
    files: Vec<TensorFile>,
}

impl TensorFiles {
    /// Full-precision weights before `.fp16` ones, one file before shards.
    pub fn open(checkpoint: &Checkpoint, folder: &str) -> Result<TensorFiles, WeightsError> {
        let shown = checkpoint.shown(folder);
        for name in candidates() {
            let path = format!("{folder}/{name}");
            if !checkpoint.exists(&path) {
                continue;
            }
            let files = match name.ends_with(".json") {
                true => shards(checkpoint, folder, &path)?,
                false => vec![checkpoint.tensor_file(&path)?],
            };
            return Ok(TensorFiles { folder: shown, files });
        }
        for (stem, extension) in STEMS.iter().chain(&["pytorch_model"]).flat_map(|s| PICKLES.map(|e| (s, e))) {
            for name in [format!("{stem}.{extension}"), format!("{stem}.fp16.{extension}")] {
                let path = format!("{folder}/{name}");
                if checkpoint.exists(&path) {
                    return Err(WeightsError::Pickle { path: checkpoint.shown(&path) });
                }
            }
        }
        let looked_for = candidates().collect::<Vec<_>>().join(", ");
        Err(WeightsError::NoWeights { folder: shown, looked_for })
    }

    /// The file that holds the tensor, and the name it has there.
    fn find(&self, name: &str) -> Option<(&TensorFile, String)> {
        let names = std::iter::once(name.to_string()).chain(alternatives(name));
        names.into_iter().find_map(|name| {
            let file = self.files.iter().find(|file| file.contains(&name))?;
            Some((file, name))
        })
    }

    fn located(&self, name: &str) -> candle_core::Result<(&TensorFile, String)> {
        let path = match self.files.as_slice() {
            [file] => file.path().to_string(),
            _ => self.folder.clone(),
        };
        Ok(self.find(name).ok_or_else(|| WeightsError::MissingTensor { path, tensor: name.to_string() })?)
    }
}

/// File names by which weights are looked for, best first.
pub(super) fn candidates() -> impl Iterator<Item = String> {
    STEMS.iter().flat_map(|stem| {
        [
            format!("{stem}.safetensors"),
            format!("{stem}.safetensors.index.json"),
            format!("{stem}.fp16.safetensors"),
            format!("{stem}.safetensors.index.fp16.json"),
            format!("{stem}.fp16.safetensors.index.json"),
        ]
    })
}

/// Every file that a sharded index names, each opened once, each holding the tensors that the index says.
fn shards(checkpoint: &Checkpoint, folder: &str, index: &str) -> Result<Vec<TensorFile>, WeightsError> {
    let map = checkpoint.json::<Index>(index)?.weight_map;
    let mut files: BTreeMap<&str, TensorFile> = BTreeMap::new();
    for (tensor, shard) in &map {
        if shard.contains(['/', '\\']) || !shard.ends_with(".safetensors") {
            let (index, tensor, shard) = (checkpoint.shown(index), tensor.clone(), shard.clone());
            return Err(match PICKLES.iter().any(|e| shard.ends_with(&format!(".{e}"))) {
                true => WeightsError::Pickle { path: format!("{}/{shard}", checkpoint.shown(folder)) },
                false => WeightsError::ShardName { index, tensor, shard },
            });
        }
        if !files.contains_key(shard.as_str()) {
            files.insert(shard, checkpoint.tensor_file(&format!("{folder}/{shard}"))?);
        }
        let file = &files[shard.as_str()];
        if !file.contains(tensor) {
            return Err(WeightsError::MissingTensor { path: file.path().to_string(), tensor: tensor.clone() });
        }
    }
    Ok(files.into_values().collect())
}

impl SimpleBackend for TensorFiles {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let (file, stored) = self.located(name)?;
        let found = file.shape(&stored).unwrap_or_default();
        if found != shape.dims() {
            let (path, expected, found) = (file.path().to_string(), shape.dims().to_vec(), found.to_vec());
            return Err(WeightsError::Shape { path, tensor: stored, expected, found }.into());
        }
        file.read(&stored, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let (file, stored) = self.located(name)?;
        file.read(&stored, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
