//! diffusers' `Encoder`: pictures to the moments of their latents.

use super::config::{VaeConfig, VaeError};
use super::middle::{EPS, Middle};
use crate::diffusion::unet::resnet::ResnetBlock;
use crate::ops::{Conv2d, ConvShape, Fused, GroupNorm};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Resnet blocks and, but at the last level, a downsampling.
#[derive(Debug)]
struct Block {
    resnets: Vec<ResnetBlock>,
    downsample: Option<Conv2d>,
}

#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<Block>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant: Option<Conv2d>,
}

impl Encoder {
    /// `vb` is the root of the VAE's tensors.
    pub fn load(config: &VaeConfig, vb: &VarBuilder) -> std::result::Result<Self, VaeError> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let (top, bottom) = (channels[0], channels[last]);
        let moments = 2 * config.latent_channels;
        let root = vb.pp("encoder");
        let block = |i: usize| {
            let vb = root.pp("down_blocks").pp(i);
            let resnet = |j: usize| {
                let inputs = if j == 0 { channels[i.saturating_sub(1)] } else { channels[i] };
                ResnetBlock::load(vb.pp("resnets").pp(j), inputs, channels[i], config.resnet())
            };
            let downsample = match i == last {
                true => None,
                false => Some(Conv2d::load(vb.pp("downsamplers.0.conv"), ConvShape::down(channels[i], 0))?),
            };
            let resnets = (0..config.layers_per_block).map(resnet).collect::<Result<_>>()?;
            Ok::<_, candle_core::Error>(Block { resnets, downsample })
        };
        let quant = match config.use_quant_conv {
            true => Some(Conv2d::load(vb.pp("quant_conv"), ConvShape::k1(moments, moments))?),
            false => None,
        };
        Ok(Encoder {
            conv_in: Conv2d::load(root.pp("conv_in"), ConvShape::k3(config.in_channels, top))?,
            blocks: (0..=last).map(block).collect::<Result<_>>()?,
            middle: Middle::load(root.pp("mid_block"), config, bottom)?,
            norm_out: GroupNorm::load(root.pp("conv_norm_out"), config.norm_num_groups, bottom, EPS)?,
            conv_out: Conv2d::load(root.pp("conv_out"), ConvShape::k3(bottom, moments))?,
            quant,
        })
    }

    /// `[N, 3, H, W]` to mean and log-variance side by side, `[N, 2·latent_channels, H/8, W/8]`.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(pictures)?;
        for block in &self.blocks {
            for resnet in &block.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(conv) = &block.downsample {
                x = conv.forward(&x)?;
            }
        }
        x = self.middle.forward(&x, None)?;
        x = self.conv_out.forward_with(&x, &Fused { norm: Some(&self.norm_out), silu: true, ..Fused::default() })?;
        match &self.quant {
            Some(conv) => conv.forward(&x),
            None => Ok(x),
        }
    }
}
