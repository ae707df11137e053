//! diffusers' `Decoder`: latents to pictures.

use super::config::{VaeConfig, VaeError};
use super::middle::{EPS, Middle};
use crate::diffusion::unet::resnet::ResnetBlock;
use crate::ops::{Conv2d, ConvShape, Fused, GroupNorm, Tape};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Resnet blocks and, but at the last level, an upsampling.
#[derive(Debug)]
struct Block {
    resnets: Vec<ResnetBlock>,
    upsample: Option<Conv2d>,
}

#[derive(Debug)]
pub(super) struct Decoder {
    post_quant: Option<Conv2d>,
    conv_in: Conv2d,
    middle: Middle,
    blocks: Vec<Block>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// `vb` is the root of the VAE's tensors.
    pub fn load(config: &VaeConfig, vb: &VarBuilder) -> std::result::Result<Self, VaeError> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let (bottom, top) = (channels[0], channels[last]);
        let latent = config.latent_channels;
        let root = vb.pp("decoder");
        let block = |i: usize| {
            let vb = root.pp("up_blocks").pp(i);
            let resnet = |j: usize| {
                let inputs = if j == 0 { channels[i.saturating_sub(1)] } else { channels[i] };
                ResnetBlock::load(vb.pp("resnets").pp(j), inputs, channels[i], config.resnet())
            };
            let upsample = match i == last {
                true => None,
                false => Some(Conv2d::load(vb.pp("upsamplers.0.conv"), ConvShape::k3(channels[i], channels[i]))?),
            };
            let resnets = (0..=config.layers_per_block).map(resnet).collect::<Result<_>>()?;
            Ok::<_, candle_core::Error>(Block { resnets, upsample })
        };
        let post_quant = match config.use_post_quant_conv {
            true => Some(Conv2d::load(vb.pp("post_quant_conv"), ConvShape::k1(latent, latent))?),
            false => None,
        };
        Ok(Decoder {
            post_quant,
            conv_in: Conv2d::load(root.pp("conv_in"), ConvShape::k3(latent, bottom))?,
            middle: Middle::load(root.pp("mid_block"), config, bottom)?,
            blocks: (0..=last).map(block).collect::<Result<_>>()?,
            norm_out: GroupNorm::load(root.pp("conv_norm_out"), config.norm_num_groups, top, EPS)?,
            conv_out: Conv2d::load(root.pp("conv_out"), ConvShape::k3(top, config.out_channels))?,
        })
    }

    /// `[N, latent_channels, h, w]` to `[N, 3, 8h, 8w]`; a tape makes tiles share their norms' moments.
    pub fn forward(&self, latents: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let mut x = match &self.post_quant {
            Some(conv) => self.conv_in.forward(&conv.forward(latents)?)?,
            None => self.conv_in.forward(latents)?,
        };
        x = self.middle.forward(&x, tape)?;
        for block in &self.blocks {
            for resnet in &block.resnets {
                x = resnet.forward_with(&x, None, tape)?;
            }
            if let Some(conv) = &block.upsample {
                let upsample = Some((2 * x.dim(2)?, 2 * x.dim(3)?));
                x = conv.forward_with(&x, &Fused { upsample, ..Fused::default() })?;
            }
        }
        self.conv_out.forward_with(&x, &Fused { norm: Some(&self.norm_out), tape, silu: true, ..Fused::default() })
    }
}
