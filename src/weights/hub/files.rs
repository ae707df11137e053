//! Which files of a repository make a checkpoint for us: no pickles, no second precision, no safety checker.

use crate::weights::WeightsError;
use crate::weights::tensors::{PICKLES, candidates};

/// Parts of a pipeline with weights.
const NETWORKS: [&str; 4] = ["text_encoder", "text_encoder_2", "unet", "vae"];

/// Parts without.
const PLAIN: [(&str, &[&str]); 3] =
    [("scheduler", &["scheduler_config.json"]), ("tokenizer", &TOKENIZER), ("tokenizer_2", &TOKENIZER)];

const TOKENIZER: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Parts that no pipeline is without; SDXL's refiner has only the second tokenizer and text encoder.
const REQUIRED: [&[&str]; 5] =
    [&["scheduler"], &["tokenizer", "tokenizer_2"], &["text_encoder", "text_encoder_2"], &["unet"], &["vae"]];

/// The files to have, out of all that a repository (or a copy of it) has. `place` is for messages.
///
/// # Errors
/// When it is no diffusers pipeline, or one without safetensors.
pub(super) fn needed(all: &[String], place: &str) -> Result<Vec<String>, WeightsError> {
    let has = |path: &str| all.iter().any(|file| file == path);
    let missing = |path: &str| WeightsError::MissingFile { path: format!("{place}/{path}") };
    let mut files = vec!["model_index.json".to_string()];
    if !has("model_index.json") {
        return Err(missing("model_index.json"));
    }
    for (folder, names) in PLAIN {
        files.extend(names.iter().map(|name| format!("{folder}/{name}")).filter(|path| has(path)));
    }
    for folder in NETWORKS {
        if has(&format!("{folder}/config.json")) {
            files.push(format!("{folder}/config.json"));
            files.extend(weights(all, folder, place)?);
        }
    }
    for parts in REQUIRED {
        if !parts.iter().any(|part| files.iter().any(|file| file.starts_with(&format!("{part}/")))) {
            return Err(missing(parts[0]));
        }
    }
    Ok(files)
}

/// The weights of a folder: the ones that [`crate::weights::Checkpoint`] would open.
fn weights(all: &[String], folder: &str, place: &str) -> Result<Vec<String>, WeightsError> {
    let inside: Vec<&str> = all.iter().filter_map(|file| file.strip_prefix(folder)?.strip_prefix('/')).collect();
    for candidate in candidates() {
        if !inside.contains(&candidate.as_str()) {
            continue;
        }
        let mut names = vec![candidate.as_str()];
        if candidate.ends_with(".json") {
            let stem = candidate.split('.').next().unwrap_or_default();
            let half = candidate.contains(".fp16.");
            let shard = |name: &&&str| {
                name.starts_with(stem)
                    && name.contains("-of-")
                    && name.ends_with(".safetensors")
                    && name.contains(".fp16") == half
            };
            names.extend(inside.iter().filter(shard));
        }
        return Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect());
    }
    let pickle = inside.iter().find(|name| PICKLES.iter().any(|e| name.ends_with(&format!(".{e}"))));
    Err(match pickle {
        Some(name) => WeightsError::Pickle { path: format!("{place}/{folder}/{name}") },
        None => {
            let looked_for = candidates().collect::<Vec<_>>().join(", ");
            WeightsError::NoWeights { folder: format!("{place}/{folder}"), looked_for }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listing(weights: &[&str]) -> Vec<String> {
        let plain = [
            "README.md",
            "model_index.json",
            "v1-5-pruned.ckpt",
            "v1-5-pruned.safetensors",
            "scheduler/scheduler_config.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "tokenizer/tokenizer_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/pytorch_model.bin",
            "unet/config.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "safety_checker/model.safetensors",
        ];
        plain.iter().chain(weights).map(|s| s.to_string()).collect()
    }

    #[test]
    fn one_precision_and_nothing_else() {
        let all = listing(&[
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
        ]);
        let expected = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "tokenizer/tokenizer_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        assert_eq!(needed(&all, "hub").unwrap(), expected);
    }

    #[test]
    fn shards_come_with_their_index_and_in_its_precision() {
        let index = "unet/diffusion_pytorch_model.safetensors.index.json";
        let shards = [
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        ];
        let half = "unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors";
        let found = needed(&listing(&[index, shards[0], shards[1], half]), "hub").unwrap();
        let unet: Vec<&String> = found.iter().filter(|f| f.starts_with("unet/diff")).collect();
        assert_eq!(unet, [index, shards[0], shards[1]]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let error = |all: &[String]| needed(all, "hub/x").unwrap_err().to_string();
        assert!(error(&[]).contains("hub/x/model_index.json"));
        assert!(
            error(&listing(&["unet/diffusion_pytorch_model.bin"]))
                .contains("unet/diffusion_pytorch_model.bin: pickled")
        );
        assert!(error(&listing(&[])).contains("hub/x/unet: no safetensors"));
        let without: Vec<String> = listing(&["unet/diffusion_pytorch_model.safetensors"])
            .into_iter()
            .filter(|f| !f.starts_with("scheduler"))
            .collect();
        assert!(error(&without).contains("hub/x/scheduler"));
    }
}
