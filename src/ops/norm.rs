//! Group norm over `[N, C, H, W]` and layer norm over the last dimension.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

/// torch's `GroupNorm` with affine parameters.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) groups: usize,
    pub(super) eps: f64,
}

impl GroupNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `groups` does not divide `channels`.
    pub fn load(vb: VarBuilder, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            candle_core::bail!("{}: {groups} groups do not divide {channels} channels", vb.prefix());
        }
        Ok(GroupNorm { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, groups, eps })
    }

    /// `[N, C, H, W]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let x = x.reshape((n, self.groups, c / self.groups * h * w))?;
        let x = x.broadcast_sub(&x.mean_keepdim(2)?)?;
        let variance = x.sqr()?.mean_keepdim(2)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?.reshape((n, c, h, w))?;
        x.broadcast_mul(&self.weight.reshape((1, c, 1, 1))?)?.broadcast_add(&self.bias.reshape((1, c, 1, 1))?)
    }
}

/// torch's `LayerNorm` over the last dimension with affine parameters.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    pub fn load(vb: VarBuilder, channels: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, eps })
    }

    /// `[.., C]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}
