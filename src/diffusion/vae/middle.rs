//! The middle block that encoder and decoder share: resnet, attention over the pixels, resnet.

use super::config::VaeConfig;
use crate::diffusion::unet::resnet::{ResnetBlock, ResnetOptions};
use crate::ops::{GroupNorm, Linear, Tape, attention};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Epsilon of every norm of `AutoencoderKL`.
pub(super) const EPS: f64 = 1e-6;

impl VaeConfig {
    pub(super) fn resnet(&self) -> ResnetOptions {
        ResnetOptions { groups: self.norm_num_groups, eps: EPS, time_dim: None }
    }
}

/// Attention with one head over all pixels.
#[derive(Debug)]
struct PixelAttention {
    norm: GroupNorm,
    qkv: Linear,
    out: Linear,
}

impl PixelAttention {
    /// Reads today's names (`to_q`, `to_out.0`) or those of the first releases (`query`, `proj_attn`).
    fn load(vb: VarBuilder, config: &VaeConfig, c: usize) -> Result<Self> {
        let part = |names: [&str; 2]| {
            let old = vb.contains_tensor(&format!("{}.weight", names[1]));
            let vb = vb.pp(names[usize::from(old)]);
            Ok::<_, candle_core::Error>((vb.get((c, c), "weight")?, vb.get(c, "bias")?))
        };
        let (q, k, v) = (part(["to_q", "query"])?, part(["to_k", "key"])?, part(["to_v", "value"])?);
        let qkv = Linear::new(Tensor::cat(&[q.0, k.0, v.0], 0)?, Some(Tensor::cat(&[q.1, k.1, v.1], 0)?))?;
        let (weight, bias) = part(["to_out.0", "proj_attn"])?;
        let norm = GroupNorm::load(vb.pp("group_norm"), config.norm_num_groups, c, EPS)?;
        Ok(PixelAttention { norm, qkv, out: Linear::new(weight, Some(bias))? })
    }

    fn forward(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let c = x.dim(1)?;
        let qkv = self.qkv.from_planes(x, &self.norm, tape)?;
        let (q, k, v) = (qkv.narrow(2, 0, c)?, qkv.narrow(2, c, c)?, qkv.narrow(2, 2 * c, c)?);
        self.out.to_planes(&attention(&q, &k, &v, 1)?, x)
    }
}

/// diffusers' `UNetMidBlock2D` with one layer.
#[derive(Debug)]
pub(super) struct Middle {
    first: ResnetBlock,
    attention: Option<PixelAttention>,
    second: ResnetBlock,
}

impl Middle {
    pub fn load(vb: VarBuilder, config: &VaeConfig, c: usize) -> Result<Self> {
        let resnet = |i: usize| ResnetBlock::load(vb.pp("resnets").pp(i), c, c, config.resnet());
        let attention = match config.mid_block_add_attention {
            true => Some(PixelAttention::load(vb.pp("attentions.0"), config, c)?),
            false => None,
        };
        Ok(Middle { first: resnet(0)?, attention, second: resnet(1)? })
    }

    pub fn forward(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let mut x = self.first.forward_with(x, None, tape)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x, tape)?;
        }
        self.second.forward_with(&x, None, tape)
    }
}
