//! Group norm over `[N, C, H, W]` and layer norm over the last dimension.

use super::cpu::norm::{Affine, group_affine};
use super::view::View;
use candle_core::{D, Result, Tensor, bail};
use candle_nn::VarBuilder;

/// torch's `GroupNorm` with affine parameters.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `groups` does not divide `channels`.
    pub fn load(vb: VarBuilder, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("{}: {groups} groups do not divide {channels} channels", vb.prefix());
        }
        Ok(GroupNorm { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, groups, eps })
    }

    /// The norm of `x` `[N, C, H, W]`, contiguous in f32 on the CPU, as scale and shift for each channel.
    pub(super) fn affine(&self, x: &Tensor) -> Result<Affine> {
        let (_, c, h, w) = x.dims4()?;
        if self.weight.dims() != [c] {
            bail!("a norm of {:?} channels on a picture of {:?}", self.weight.dims(), x.dims());
        }
        let (x, weight, bias) = (View::new(x), View::new(&self.weight), View::new(&self.bias));
        Ok(group_affine(x.slice()?, h * w, self.groups, weight.slice()?, bias.slice()?, self.eps))
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
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    pub fn load(vb: VarBuilder, channels: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, eps })
    }

    /// Weight, bias and epsilon.
    pub(super) fn parameters(&self) -> (&Tensor, &Tensor, f64) {
        (&self.weight, &self.bias, self.eps)
    }

    /// `[.., C]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}
