//! The model that is part of the binary: `models/stablehand-shapes`, trained by the recipe beside it.

use super::Checkpoint;
use super::checkpoint::Embedded;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/stablehand-shapes/", $path)))),*]
    };
}

const FILES: Embedded = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

impl Checkpoint {
    /// The built-in model. Needs no file and no network.
    pub fn builtin() -> Checkpoint {
        Checkpoint::embedded("stablehand/shapes", FILES)
    }
}
