//! 2-D convolution over `[N, C, H, W]`, with what usually stands before and after it.

use super::cpu;
use super::norm::{GroupNorm, Tape};
use super::resample::{nearest_indices, resample_nearest};
use super::view::{View, is_ours};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::sync::Arc;

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
    /// Where the norm's moments come from, or go to.
    pub tape: Option<&'a Tape>,
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
    weights: Weights,
    shape: ConvShape,
}

#[derive(Debug, Clone)]
enum Weights {
    Packed(Arc<cpu::conv::Packed>),
    Plain { weight: Tensor, bias: Tensor },
}

impl Conv2d {
    /// From a weight `[Cout, Cin, k, k]` and a bias `[Cout]`, packed for our kernel where it takes them.
    pub fn new(weight: Tensor, bias: Tensor, shape: ConvShape) -> Result<Self> {
        let plain = Conv2d::plain(weight, bias, shape)?;
        let Weights::Plain { weight, bias } = &plain.weights else { return Ok(plain) };
        if !is_ours(weight) {
            return Ok(plain);
        }
        let (weight, bias) = (weight.contiguous()?, bias.contiguous()?);
        let (weight, bias) = (View::new(&weight), View::new(&bias));
        let packed = cpu::conv::Packed::new(weight.slice()?, bias.slice()?, shape);
        Ok(Conv2d { weights: Weights::Packed(Arc::new(packed)), shape })
    }

    /// The same on plain candle operations: for other devices, and what tests compare with.
    pub fn plain(weight: Tensor, bias: Tensor, shape: ConvShape) -> Result<Self> {
        let ConvShape { inputs, outputs, kernel, stride, .. } = shape;
        if weight.dims() != [outputs, inputs, kernel, kernel] || bias.dims() != [outputs] || stride == 0 {
            bail!("weight {:?} and bias {:?} do not fit {shape:?}", weight.dims(), bias.dims());
        }
        Ok(Conv2d { weights: Weights::Plain { weight, bias }, shape })
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
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn forward_with(&self, x: &Tensor, fused: &Fused) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let shape = &self.shape;
        let (height, width) = fused.upsample.unwrap_or((h, w));
        let out = (n, shape.outputs, shape.output_len(height), shape.output_len(width));
        if c != shape.inputs || n * h * w * out.2 * out.3 == 0 {
            bail!("a picture of {:?} does not fit {shape:?}", x.dims());
        }
        if fused.row_bias.is_some_and(|b| b.dims() != [n, shape.outputs]) {
            bail!("a row bias of {:?} for {n} rows of {shape:?}", fused.row_bias.map(|b| b.dims()));
        }
        if fused.residual.is_some_and(|r| r.dims() != [out.0, out.1, out.2, out.3]) {
            bail!("a residual of {:?} for a result of {out:?}", fused.residual.map(|r| r.dims()));
        }
        match &self.weights {
            Weights::Packed(packed) => Tensor::from_vec(convolve(packed, x, fused)?, out, x.device()),
            Weights::Plain { weight, bias } => plain(weight, bias, shape, x, fused),
        }
    }
}

/// With our kernel.
fn convolve(packed: &cpu::conv::Packed, x: &Tensor, fused: &Fused) -> Result<Vec<f32>> {
    let (_, _, height, width) = x.dims4()?;
    let contiguous = |x: Option<&Tensor>| x.map(|x| x.contiguous()).transpose();
    let (x, row_bias, residual) = (x.contiguous()?, contiguous(fused.row_bias)?, contiguous(fused.residual)?);
    let affine = fused.norm.map(|norm| norm.affine(&x, fused.tape)).transpose()?;
    let resample = fused.upsample.map(|(h, w)| (nearest_indices(height, h), nearest_indices(width, w)));
    let x = View::new(&x);
    let (row_bias, residual) = (row_bias.as_ref().map(View::new), residual.as_ref().map(View::new));
    Ok(cpu::conv::conv2d(
        packed,
        &cpu::conv::Input {
            x: x.slice()?,
            height,
            width,
            affine: affine.as_ref(),
            silu: fused.silu,
            resample,
            row_bias: row_bias.as_ref().map(View::slice).transpose()?,
            residual: residual.as_ref().map(View::slice).transpose()?,
        },
    ))
}

/// With candle's operations.
fn plain(weight: &Tensor, bias: &Tensor, shape: &ConvShape, x: &Tensor, fused: &Fused) -> Result<Tensor> {
    let mut x = match fused.norm {
        Some(norm) => norm.forward_with(x, fused.tape)?,
        None => x.clone(),
    };
    if fused.silu {
        x = x.silu()?;
    }
    if let Some((height, width)) = fused.upsample {
        x = resample_nearest(&x, height, width)?;
    }
    let (before, after) = (shape.pad_before, shape.pad_after);
    let padding = if before == after { before } else { 0 };
    if before != after {
        x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
    }
    let mut y = x.conv2d(weight, padding, shape.stride, 1, 1)?;
    y = y.broadcast_add(&bias.reshape((1, shape.outputs, 1, 1))?)?;
    if let Some(bias) = fused.row_bias {
        y = y.broadcast_add(&bias.unsqueeze(2)?.unsqueeze(3)?)?;
    }
    match fused.residual {
        Some(residual) => y + residual,
        None => Ok(y),
    }
}
