//! `vae/config.json` of a diffusers checkpoint: what of `AutoencoderKL` we honour, and what we refuse by name.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a VAE could not be built.
#[derive(Debug, thiserror::Error)]
pub enum VaeError {
    #[error("vae/config.json: {key} = {value} is not supported")]
    Unsupported { key: String, value: String },
    #[error("vae/config.json: {key} {problem}")]
    Invalid { key: &'static str, problem: String },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The keys of `AutoencoderKL`'s configuration that we honour, with the class's own defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    pub scaling_factor: f64,
    pub force_upcast: bool,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            others: Map::new(),
        }
    }
}

impl VaeConfig {
    /// Refuses what is not implemented and what contradicts itself.
    ///
    /// # Errors
    /// The offending key, with its value or what is wrong with it.
    pub fn check(&self) -> Result<(), VaeError> {
        for (key, value) in &self.others {
            let neutral = match key.as_str() {
                "act_fn" => value == "silu" || value == "swish",
                "shift_factor" => value.is_null() || value.as_f64() == Some(0.0),
                "latents_mean" | "latents_std" => value.is_null(),
                _ => true,
            };
            if !neutral {
                return Err(VaeError::Unsupported { key: key.clone(), value: value.to_string() });
            }
        }
        let kinds = |key: &'static str, names: &[String], known: &str| {
            if let Some(other) = names.iter().find(|n| *n != known) {
                return Err(VaeError::Unsupported { key: key.into(), value: other.clone() });
            }
            if names.is_empty() || names.len() != self.block_out_channels.len() {
                let problem =
                    format!("has {} entries, block_out_channels has {}", names.len(), self.block_out_channels.len());
                return Err(VaeError::Invalid { key, problem });
            }
            Ok(())
        };
        kinds("down_block_types", &self.down_block_types, "DownEncoderBlock2D")?;
        kinds("up_block_types", &self.up_block_types, "UpDecoderBlock2D")?;
        let groups = self.norm_num_groups;
        if let Some(c) = self.block_out_channels.iter().find(|c| groups == 0 || **c == 0 || **c % groups != 0) {
            let problem = format!("= {groups} does not divide {c} channels");
            return Err(VaeError::Invalid { key: "norm_num_groups", problem });
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            return Err(VaeError::Invalid { key: "scaling_factor", problem: format!("is {}", self.scaling_factor) });
        }
        Ok(())
    }

    /// Pixels that one latent stands for along each axis (8 for Stable Diffusion).
    pub fn downscale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(16)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_named() {
        let parse = |json: &str| serde_json::from_str::<VaeConfig>(json).unwrap();
        parse(r#"{"act_fn": "silu", "shift_factor": null, "latents_mean": null, "sample_size": 512}"#).check().unwrap();
        for (json, key) in [
            (r#"{"shift_factor": 0.1}"#, "shift_factor"),
            (r#"{"latents_mean": [0.1, 0.2, 0.3, 0.4]}"#, "latents_mean"),
            (r#"{"up_block_types": ["AttnUpDecoderBlock2D"]}"#, "up_block_types"),
            (r#"{"block_out_channels": [64, 64]}"#, "down_block_types"),
            (r#"{"norm_num_groups": 0}"#, "norm_num_groups"),
            (r#"{"scaling_factor": 0}"#, "scaling_factor"),
        ] {
            let message = parse(json).check().unwrap_err().to_string();
            assert!(message.contains(key), "{json}: {message}");
        }
    }
}
