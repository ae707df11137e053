//! 2-D convolution over `[N, C, H, W]`, with what usually stands before and after it.

use super::norm::GroupNorm;
use super::resample::upsample_nearest;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Size and geometry of a convolution with a square kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvShape {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Zeros above and to the left.
    pub pad_before: usize,
    /// Zeros below and to the right.
    pub pad_after: usize,
}

impl ConvShape {
    /// 3×3 that keeps the size.
    pub fn k3(inputs: usize, outputs: usize) -> Self {
        ConvShape { inputs, outputs, kernel: 3, stride: 1, pad_before: 1, pad_after: 1 }
    }

    /// 1×1.
    pub fn k1(inputs: usize, outputs: usize) -> Self {
        ConvShape { inputs, outputs, kernel: 1, stride: 1, pad_before: 0, pad_after: 0 }
    }

    /// 3×3 with stride 2: diffusers' `Downsample2D`, whose padding 0 means one zero below and to the right.
    pub fn down(channels: usize, padding: usize) -> Self {
        let (pad_before, pad_after) = if padding == 0 { (0, 1) } else { (padding, padding) };
        ConvShape { inputs: channels, outputs: channels, kernel: 3, stride: 2, pad_before, pad_after }
    }

    /// Length of an output axis for an input axis of this length; 0 where the kernel does not fit.
    pub fn output_len(&self, len: usize) -> usize {
        let padded = len + self.pad_before + self.pad_after;
        if padded < self.kernel { 0 } else { (padded - self.kernel) / self.stride + 1 }
    }
}

/// What is done in the same pass as the convolution.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fused<'a> {
    /// Normalises the input.
    pub norm: Option<&'a GroupNorm>,
    /// Applies SiLU after the norm.
    pub silu: bool,
    /// Nearest-neighbour upsampling of the input to this height and width.
    pub upsample: Option<(usize, usize)>,
    /// `[N, Cout]`, added to every pixel of its row.
    pub row_bias: Option<&'a Tensor>,
    /// Of the result's shape, added to it.
    pub residual: Option<&'a Tensor>,
}

/// torch's `Conv2d` with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    shape: ConvShape,
}

impl Conv2d {
    /// From a weight `[Cout, Cin, k, k]` and a bias `[Cout]`.
    pub fn new(weight: Tensor, bias: Tensor, shape: ConvShape) -> Result<Self> {
        Ok(Conv2d { weight, bias, shape })
    }

    /// Reads `weight` and `bias`.
    pub fn load(vb: VarBuilder, shape: ConvShape) -> Result<Self> {
        let ConvShape { inputs, outputs, kernel, .. } = shape;
        Conv2d::new(vb.get((outputs, inputs, kernel, kernel), "weight")?, vb.get(outputs, "bias")?, shape)
    }

    /// `[N, Cin, H, W]` to `[N, Cout, H', W']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, &Fused::default())
    }

    /// The same with its surroundings.
    pub fn forward_with(&self, x: &Tensor, fused: &Fused) -> Result<Tensor> {
        let mut x = match fused.norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        if fused.silu {
            x = x.silu()?;
        }
        if let Some((height, width)) = fused.upsample {
            x = upsample_nearest(&x, height, width)?;
        }
        let (before, after) = (self.shape.pad_before, self.shape.pad_after);
        let padding = if before == after { before } else { 0 };
        if padding == 0 && before + after > 0 {
            x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        }
        let mut y = x.conv2d(&self.weight, padding, self.shape.stride, 1, 1)?;
        y = y.broadcast_add(&self.bias.reshape((1, self.shape.outputs, 1, 1))?)?;
        if let Some(bias) = fused.row_bias {
            y = y.broadcast_add(&bias.unsqueeze(2)?.unsqueeze(3)?)?;
        }
        match fused.residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}
