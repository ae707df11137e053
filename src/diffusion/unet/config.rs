//! `unet/config.json` of a diffusers checkpoint, read into what the network is built from.
//!
//! Every key that would change the mathematics is either honoured or refused by name; keys that concern training or
//! have no effect at inference are ignored.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a UNet could not be built.
#[derive(Debug, thiserror::Error)]
pub enum UNetError {
    #[error("unet/config.json: {key} = {value} is not supported")]
    Unsupported { key: String, value: String },
    #[error("unet/config.json: {key} {problem}")]
    Invalid { key: &'static str, problem: String },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The keys of `UNet2DConditionModel`'s configuration that we honour, with the class's own defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    pub sample_size: Option<PerAxis>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub only_cross_attention: PerBlock<bool>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerBlock<usize>,
    pub downsample_padding: usize,
    pub norm_num_groups: Option<usize>,
    pub norm_eps: f64,
    pub cross_attention_dim: PerBlock<usize>,
    pub transformer_layers_per_block: PerBlock<usize>,
    /// The number of heads: diffusers kept the misleading name.
    pub attention_head_dim: PerBlock<usize>,
    pub use_linear_projection: bool,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<usize>,
    pub projection_class_embeddings_input_dim: Option<usize>,
    pub num_class_embeds: Option<usize>,
    pub time_embedding_dim: Option<usize>,
    pub time_cond_proj_dim: Option<usize>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        let strings = |names: &[&str]| names.iter().map(|s| s.to_string()).collect();
        let (cross_down, cross_up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
        UNetConfig {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: strings(&[cross_down, cross_down, cross_down, "DownBlock2D"]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".into()),
            up_block_types: strings(&["UpBlock2D", cross_up, cross_up, cross_up]),
            only_cross_attention: PerBlock::All(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            downsample_padding: 1,
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::All(1280),
            transformer_layers_per_block: PerBlock::All(1),
            attention_head_dim: PerBlock::All(8),
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            num_class_embeds: None,
            time_embedding_dim: None,
            time_cond_proj_dim: None,
            others: Map::new(),
        }
    }
}

/// One number for both axes, or height and width.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum PerAxis {
    Both(usize),
    Each([usize; 2]),
}

/// One value for all blocks, or one for each, from the highest resolution down.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    All(T),
    Each(Vec<T>),
}

impl<T: Copy> PerBlock<T> {
    fn expand(&self, key: &'static str, blocks: usize) -> Result<Vec<T>, UNetError> {
        match self {
            PerBlock::All(value) => Ok(vec![*value; blocks]),
            PerBlock::Each(values) if values.len() == blocks => Ok(values.clone()),
            PerBlock::Each(values) => {
                Err(UNetError::Invalid { key, problem: format!("has {} entries for {blocks} blocks", values.len()) })
            }
        }
    }
}

/// One resolution of the network: what its down block and the up block across from it have in common.
#[derive(Debug, Clone)]
pub(super) struct Level {
    pub channels: usize,
    pub layers: usize,
    pub heads: usize,
    pub context_dim: usize,
    pub transformer_layers: usize,
    pub only_cross_attention: bool,
    pub down_attends: bool,
    pub up_attends: bool,
}

/// What the middle block consists of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Middle {
    None,
    Resnet,
    CrossAttention,
}

/// Options that we do not implement, with the values at which they change nothing.
fn neutral(key: &str) -> Option<Vec<Value>> {
    let null = Value::Null;
    Some(match key {
        "center_input_sample" | "dual_cross_attention" | "resnet_skip_time_act" | "class_embeddings_concat" => {
            vec![null, false.into()]
        }
        "act_fn" => vec!["silu".into(), "swish".into()],
        "resnet_time_scale_shift" | "attention_type" => vec!["default".into()],
        "time_embedding_type" => vec!["positional".into()],
        "resnet_out_scale_factor" | "mid_block_scale_factor" => vec![null, 1.into(), 1.0.into()],
        "conv_in_kernel" | "conv_out_kernel" => vec![3.into()],
        "class_embed_type"
        | "encoder_hid_dim"
        | "encoder_hid_dim_type"
        | "time_embedding_act_fn"
        | "timestep_post_act"
        | "cross_attention_norm"
        | "num_attention_heads"
        | "reverse_transformer_layers_per_block" => vec![null],
        _ => return None,
    })
}

impl UNetConfig {
    /// Refuses what is not implemented and what contradicts itself.
    ///
    /// # Errors
    /// The offending key, with its value or what is wrong with it.
    pub fn check(&self) -> Result<(), UNetError> {
        for (key, value) in &self.others {
            if neutral(key).is_some_and(|allowed| !allowed.contains(value)) {
                return Err(UNetError::Unsupported { key: key.clone(), value: value.to_string() });
            }
        }
        let unsupported = |key: &str, value: &str| UNetError::Unsupported { key: key.into(), value: value.into() };
        if let Some(kind) = self.addition_embed_type.as_deref().filter(|k| *k != "text_time") {
            return Err(unsupported("addition_embed_type", kind));
        }
        if self.downsample_padding > 1 {
            return Err(unsupported("downsample_padding", &self.downsample_padding.to_string()));
        }
        self.middle()?;
        for level in self.levels()? {
            let groups = self.groups()?;
            if level.channels == 0 || level.channels % groups != 0 {
                let problem = format!("= {groups} does not divide {} channels", level.channels);
                return Err(UNetError::Invalid { key: "norm_num_groups", problem });
            }
            if level.heads == 0 || level.channels % level.heads != 0 {
                let problem = format!("= {} heads do not divide {} channels", level.heads, level.channels);
                return Err(UNetError::Invalid { key: "attention_head_dim", problem });
            }
        }
        Ok(())
    }

    /// Groups of every group norm.
    pub(super) fn groups(&self) -> Result<usize, UNetError> {
        match self.norm_num_groups {
            Some(groups) if groups > 0 => Ok(groups),
            other => Err(UNetError::Unsupported { key: "norm_num_groups".into(), value: format!("{other:?}") }),
        }
    }

    /// Width of the time embedding.
    pub(super) fn time_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    pub(super) fn middle(&self) -> Result<Middle, UNetError> {
        match self.mid_block_type.as_deref() {
            None => Ok(Middle::None),
            Some("UNetMidBlock2D") => Ok(Middle::Resnet),
            Some("UNetMidBlock2DCrossAttn") => Ok(Middle::CrossAttention),
            Some(other) => Err(UNetError::Unsupported { key: "mid_block_type".into(), value: other.into() }),
        }
    }

    /// The levels from the highest resolution down.
    pub(super) fn levels(&self) -> Result<Vec<Level>, UNetError> {
        let blocks = self.block_out_channels.len();
        if blocks == 0 {
            return Err(UNetError::Invalid { key: "block_out_channels", problem: "is empty".into() });
        }
        let attends = |key: &'static str, names: &[String], plain: &str, cross: &str| {
            if names.len() != blocks {
                let problem = format!("has {} entries for {blocks} blocks", names.len());
                return Err(UNetError::Invalid { key, problem });
            }
            let one = |name: &String| match name.as_str() {
                n if n == plain => Ok(false),
                n if n == cross => Ok(true),
                _ => Err(UNetError::Unsupported { key: key.into(), value: name.clone() }),
            };
            names.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let down = attends("down_block_types", &self.down_block_types, "DownBlock2D", "CrossAttnDownBlock2D")?;
        let up = attends("up_block_types", &self.up_block_types, "UpBlock2D", "CrossAttnUpBlock2D")?;
        let layers = self.layers_per_block.expand("layers_per_block", blocks)?;
        let heads = self.attention_head_dim.expand("attention_head_dim", blocks)?;
        let context = self.cross_attention_dim.expand("cross_attention_dim", blocks)?;
        let transformers = self.transformer_layers_per_block.expand("transformer_layers_per_block", blocks)?;
        let only_cross = self.only_cross_attention.expand("only_cross_attention", blocks)?;
        let level = |i: usize| Level {
            channels: self.block_out_channels[i],
            layers: layers[i],
            heads: heads[i],
            context_dim: context[i],
            transformer_layers: transformers[i],
            only_cross_attention: only_cross[i],
            down_attends: down[i],
            up_attends: up[blocks - 1 - i],
        };
        Ok((0..blocks).map(level).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(json: &str) -> UNetConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn options_that_change_nothing_pass_and_others_are_named() {
        let neutral = r#"{"act_fn": "silu", "conv_in_kernel": 3, "mid_block_scale_factor": 1, "class_embed_type": null,
            "resnet_out_scale_factor": 1.0, "upcast_attention": true, "_class_name": "UNet2DConditionModel"}"#;
        config(neutral).check().unwrap();
        for (json, key) in [
            (r#"{"act_fn": "gelu"}"#, "act_fn"),
            (r#"{"time_embedding_type": "fourier"}"#, "time_embedding_type"),
            (r#"{"addition_embed_type": "text_image"}"#, "addition_embed_type"),
            (r#"{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}"#, "mid_block_type"),
            (r#"{"norm_num_groups": null}"#, "norm_num_groups"),
            (r#"{"norm_num_groups": 7}"#, "norm_num_groups"),
            (r#"{"attention_head_dim": [5, 10, 20]}"#, "attention_head_dim"),
            (
                r#"{"down_block_types": ["DownBlock2D", "KDownBlock2D", "DownBlock2D", "DownBlock2D"]}"#,
                "down_block_types",
            ),
            (r#"{"block_out_channels": []}"#, "block_out_channels"),
            (r#"{"encoder_hid_dim_type": "text_proj"}"#, "encoder_hid_dim_type"),
        ] {
            let message = config(json).check().unwrap_err().to_string();
            assert!(message.contains(key), "{json}: {message}");
        }
    }

    #[test]
    fn levels_pair_each_down_block_with_the_up_block_across() {
        let json = r#"{"block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]}"#;
        let levels = config(json).levels().unwrap();
        assert_eq!(levels.iter().map(|l| l.down_attends).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(levels.iter().map(|l| l.up_attends).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(levels[2].transformer_layers, 10);
        assert_eq!(levels[1].heads, 10);
    }
}
