//! UNet2DConditionModel: one timestep per row, cross-attention keys and values computed once per prompt.
//!
//! Owns the network of SD 1.x, SD 2.x, SDXL and their inpainting and LCM variants, driven by `unet/config.json`. Does
//! not encode prompts, guide, or step: see `text`, `model` and `sampler`.

mod attention;
mod blocks;
mod config;
mod context;
mod embeddings;
pub(crate) mod resnet;

pub use config::{PerAxis, PerBlock, UNetConfig, UNetError};
pub use context::{AddedConditions, Context};
pub use embeddings::sinusoids;

use crate::ops::{Conv2d, ConvShape, Fused, GroupNorm, silu};
use blocks::{BlockOptions, DownBlock, MidBlock, UpBlock};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use embeddings::Embeddings;
use resnet::ResnetOptions;

/// diffusers' `UNet2DConditionModel`.
#[derive(Debug)]
pub struct UNet {
    config: UNetConfig,
    embeddings: Embeddings,
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    middle: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    context_dim: usize,
}

impl UNet {
    /// Builds the network from the tensors of `unet/`.
    ///
    /// # Errors
    /// A configuration key that is not supported, or a tensor that is missing or misshapen.
    pub fn load(config: &UNetConfig, vb: VarBuilder) -> std::result::Result<Self, UNetError> {
        config.check()?;
        let levels = config.levels()?;
        let groups = config.groups()?;
        let resnet = ResnetOptions { groups, eps: config.norm_eps, time_dim: Some(config.time_dim()) };
        let options = BlockOptions {
            resnet,
            linear_projection: config.use_linear_projection,
            downsample_padding: config.downsample_padding,
        };
        let last = levels.len() - 1;
        let first = levels[0].channels;
        let down = |i: usize| {
            let inputs = levels[i.saturating_sub(1)].channels;
            DownBlock::load(vb.pp("down_blocks").pp(i), inputs, &levels[i], i == last, options)
        };
        let up = |i: usize| {
            let at = last - i;
            let inputs = levels[(at + 1).min(last)].channels;
            let skip = levels[at.saturating_sub(1)].channels;
            UpBlock::load(vb.pp("up_blocks").pp(i), inputs, skip, &levels[at], at == 0, options)
        };
        Ok(UNet {
            embeddings: Embeddings::load(config, &vb)?,
            conv_in: Conv2d::load(vb.pp("conv_in"), ConvShape::k3(config.in_channels, first))?,
            down: (0..=last).map(down).collect::<Result<_>>()?,
            middle: MidBlock::load(vb.pp("mid_block"), config.middle()?, &levels[last], options)?,
            up: (0..=last).map(up).collect::<Result<_>>()?,
            norm_out: GroupNorm::load(vb.pp("conv_norm_out"), groups, first, config.norm_eps)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), ConvShape::k3(first, config.out_channels))?,
            context_dim: levels[last].context_dim,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Keys and values of every cross-attention layer for prompt embeddings `[N, S, cross_attention_dim]`.
    pub fn encode_context(&self, embeddings: &Tensor) -> Result<Context> {
        let (rows, _, dim) = embeddings.dims3()?;
        if dim != self.context_dim {
            bail!("prompt embeddings have {dim} channels, the network takes {}", self.context_dim);
        }
        let mut layers = Vec::new();
        self.down.iter().try_for_each(|block| block.encode_context(embeddings, &mut layers))?;
        self.middle.encode_context(embeddings, &mut layers)?;
        self.up.iter().try_for_each(|block| block.encode_context(embeddings, &mut layers))?;
        Ok(Context::new(layers, rows))
    }

    /// The model output `[N, Cout, h, w]` for latents `[N, Cin, h, w]` and timesteps `[N]` in f32.
    ///
    /// Each row has its own timestep and its own row of `context`; any h and w are allowed.
    ///
    /// # Errors
    /// Numbers of rows or channels that do not fit together, or a missing added condition.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        context: &Context,
        added: Option<&AddedConditions>,
    ) -> Result<Tensor> {
        let (rows, channels, _, _) = latents.dims4()?;
        if channels != self.config.in_channels {
            bail!("latents have {channels} channels, the network takes {}", self.config.in_channels);
        }
        if timesteps.dims1()? != rows || context.rows() != rows {
            bail!("{rows} rows of latents, {} timesteps, {} contexts", timesteps.dims1()?, context.rows());
        }
        let time = silu(&self.embeddings.forward(timesteps, added)?)?;
        let mut reader = context.layers.iter();
        let mut x = self.conv_in.forward(latents)?;
        let mut skips = vec![x.clone()];
        for block in &self.down {
            x = block.forward(x, &time, &mut reader, &mut skips)?;
        }
        x = self.middle.forward(x, &time, &mut reader)?;
        for block in &self.up {
            x = block.forward(x, &time, &mut reader, &mut skips)?;
        }
        self.conv_out.forward_with(&x, &Fused { norm: Some(&self.norm_out), silu: true, ..Fused::default() })
    }
}
