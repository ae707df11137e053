//! diffusers' `ResnetBlock2D`, with and without a time embedding; the VAE uses it too.

use crate::ops::{Conv2d, ConvShape, Fused, GroupNorm, Linear, Tape};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Options that all resnet blocks of a network share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResnetOptions {
    pub groups: usize,
    pub eps: f64,
    /// Width of the time embedding; none in a VAE.
    pub time_dim: Option<usize>,
}

/// norm, SiLU, convolution, plus the time embedding, norm, SiLU, convolution, plus the input.
#[derive(Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub fn load(vb: VarBuilder, inputs: usize, outputs: usize, options: ResnetOptions) -> Result<Self> {
        let ResnetOptions { groups, eps, time_dim } = options;
        let time = match time_dim {
            Some(dim) => Some(Linear::load(vb.pp("time_emb_proj"), dim, outputs, true)?),
            None => None,
        };
        let shortcut = match inputs == outputs {
            true => None,
            false => Some(Conv2d::load(vb.pp("conv_shortcut"), ConvShape::k1(inputs, outputs))?),
        };
        Ok(ResnetBlock {
            norm1: GroupNorm::load(vb.pp("norm1"), groups, inputs, eps)?,
            conv1: Conv2d::load(vb.pp("conv1"), ConvShape::k3(inputs, outputs))?,
            time,
            norm2: GroupNorm::load(vb.pp("norm2"), groups, outputs, eps)?,
            conv2: Conv2d::load(vb.pp("conv2"), ConvShape::k3(outputs, outputs))?,
            shortcut,
        })
    }

    /// `[N, Cin, H, W]` to `[N, Cout, H, W]`; `time` is SiLU of the time embedding, `[N, time_dim]`.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        self.forward_with(x, time, None)
    }

    /// The same with norms that read from or write to a tape.
    pub fn forward_with(&self, x: &Tensor, time: Option<&Tensor>, tape: Option<&Tape>) -> Result<Tensor> {
        let shift = match (&self.time, time) {
            (Some(linear), Some(time)) => Some(linear.forward(time)?),
            _ => None,
        };
        let first = Fused { norm: Some(&self.norm1), tape, silu: true, row_bias: shift.as_ref(), ..Fused::default() };
        let h = self.conv1.forward_with(x, &first)?;
        let skip = match &self.shortcut {
            Some(conv) => conv.forward(x)?,
            None => x.clone(),
        };
        let second = Fused { norm: Some(&self.norm2), tape, silu: true, residual: Some(&skip), ..Fused::default() };
        self.conv2.forward_with(&h, &second)
    }
}
