//! Linear layers over tokens `[N, T, C]`, and between tokens and planes `[N, C, H, W]`.

use super::activation::gelu_erf;
use super::cpu::linear::{Packed, Source, Target, linear};
use super::norm::{GroupNorm, LayerNorm, Tape};
use super::view::{View, is_ours};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::sync::Arc;

/// y = x·Wᵀ + b for each token.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Weights,
    inputs: usize,
    outputs: usize,
}

#[derive(Debug, Clone)]
enum Weights {
    Packed(Arc<Packed>),
    Plain { weight: Tensor, bias: Option<Tensor> },
}

impl Linear {
    /// From a weight `[outputs, inputs]` and a bias `[outputs]`, packed for our kernel where it takes them.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let plain = Linear::plain(weight, bias)?;
        let Weights::Plain { weight, bias } = &plain.weights else { return Ok(plain) };
        if !is_ours(weight) {
            return Ok(plain);
        }
        let (weight, bias) = (weight.contiguous()?, bias.as_ref().map(|b| b.contiguous()).transpose()?);
        let bias = bias.as_ref().map(View::new);
        let bias = bias.as_ref().map(View::slice).transpose()?;
        let packed = Packed::new(View::new(&weight).slice()?, bias, plain.inputs, plain.outputs);
        Ok(Linear { weights: Weights::Packed(Arc::new(packed)), ..plain })
    }

    /// The same on plain candle operations: for other devices, and what tests compare with.
    pub fn plain(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if bias.as_ref().is_some_and(|b| b.dims() != [outputs]) {
            bail!("a bias of {:?} for a weight of {:?}", bias.as_ref().map(|b| b.dims()), weight.dims());
        }
        Ok(Linear { weights: Weights::Plain { weight, bias }, inputs, outputs })
    }

    /// Reads `weight` `[outputs, inputs]` and, if told so, `bias`.
    pub fn load(vb: VarBuilder, inputs: usize, outputs: usize, bias: bool) -> Result<Self> {
        let bias = if bias { Some(vb.get(outputs, "bias")?) } else { None };
        Linear::new(vb.get((outputs, inputs), "weight")?, bias)
    }

    /// `[N, T, C]` or `[N, C]` to the same with `outputs` at the end.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, None, None)
    }

    /// The same on layer-normalised tokens, with `residual` (of the result's shape) added.
    pub fn forward_with(&self, x: &Tensor, norm: Option<&LayerNorm>, residual: Option<&Tensor>) -> Result<Tensor> {
        let (rows, tokens) = self.tokens_of(x)?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.outputs;
        }
        if residual.is_some_and(|r| r.dims() != shape) {
            bail!("a residual of {:?} for a result of {shape:?}", residual.map(|r| r.dims()));
        }
        match &self.weights {
            Weights::Packed(packed) => {
                let residual = residual.map(|r| r.contiguous()).transpose()?;
                let residual = residual.as_ref().map(View::new);
                let target = Target::Tokens(residual.as_ref().map(View::slice).transpose()?);
                with_tokens(x, norm, |source| {
                    Tensor::from_vec(linear(packed, source, target, rows, tokens), shape, x.device())
                })
            }
            Weights::Plain { weight, bias } => {
                let y = rowwise(weight, bias.as_ref(), &normed(x, norm)?)?;
                residual.map_or(Ok(y.clone()), |r| y + r)
            }
        }
    }

    /// Group-normalised planes `[N, C, H, W]` to tokens `[N, H·W, outputs]`.
    pub fn from_planes(&self, x: &Tensor, norm: &GroupNorm, tape: Option<&Tape>) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        if c != self.inputs || n * h * w == 0 {
            bail!("a picture of {:?} for a layer of {} inputs", x.dims(), self.inputs);
        }
        match &self.weights {
            Weights::Packed(packed) => {
                let x = x.contiguous()?;
                let affine = norm.affine(&x, tape)?;
                let view = View::new(&x);
                let source = Source::Planes(view.slice()?, &affine);
                let y = linear(packed, source, Target::Tokens(None), n, h * w);
                Tensor::from_vec(y, (n, h * w, self.outputs), x.device())
            }
            Weights::Plain { weight, bias } => {
                let tokens = norm.forward_with(x, tape)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
                rowwise(weight, bias.as_ref(), &tokens)
            }
        }
    }

    /// Tokens `[N, H·W, C]` to planes of the shape of `residual`, which is added.
    pub fn to_planes(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (rows, tokens) = self.tokens_of(x)?;
        let (n, c, h, w) = residual.dims4()?;
        if (n, c, h * w) != (rows, self.outputs, tokens) {
            bail!("{rows} rows of {tokens} tokens and {} outputs for planes of {:?}", self.outputs, residual.dims());
        }
        match &self.weights {
            Weights::Packed(packed) => {
                let residual = residual.contiguous()?;
                let view = View::new(&residual);
                let target = Target::Planes(view.slice()?);
                let shape = residual.shape();
                with_tokens(x, None, |source| {
                    Tensor::from_vec(linear(packed, source, target, rows, tokens), shape, x.device())
                })
            }
            Weights::Plain { weight, bias } => {
                let y = rowwise(weight, bias.as_ref(), x)?;
                y.transpose(1, 2)?.reshape(residual.shape())? + residual
            }
        }
    }

    /// Rows and tokens of `[N, T, C]` or `[N, C]`.
    fn tokens_of(&self, x: &Tensor) -> Result<(usize, usize)> {
        match *x.dims() {
            [n, t, c] if c == self.inputs && n * t > 0 => Ok((n, t)),
            [n, c] if c == self.inputs && n > 0 => Ok((n, 1)),
            _ => bail!("tokens of {:?} for a layer of {} inputs", x.dims(), self.inputs),
        }
    }
}

/// diffusers' `GEGLU`: one half of a linear layer's outputs times the GELU of the other.
#[derive(Debug, Clone)]
pub struct Geglu {
    value: Linear,
    gate: Linear,
}

impl Geglu {
    /// From a weight `[2 · outputs, inputs]` and a bias `[2 · outputs]`, values first.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        Geglu::with(weight, bias, Linear::new)
    }

    /// The same on plain candle operations.
    pub fn plain(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        Geglu::with(weight, bias, Linear::plain)
    }

    fn with(weight: &Tensor, bias: &Tensor, linear: fn(Tensor, Option<Tensor>) -> Result<Linear>) -> Result<Self> {
        let (weight, bias) = (weight.chunk(2, 0)?, bias.chunk(2, 0)?);
        let half = |i: usize| linear(weight[i].contiguous()?, Some(bias[i].contiguous()?));
        Ok(Geglu { value: half(0)?, gate: half(1)? })
    }

    /// Reads `weight` and `bias`.
    pub fn load(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        Geglu::new(&vb.get((2 * outputs, inputs), "weight")?, &vb.get(2 * outputs, "bias")?)
    }

    /// Layer-normalised tokens `[N, T, C]` to `[N, T, outputs]`.
    pub fn forward(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        match (&self.value.weights, &self.gate.weights) {
            (Weights::Packed(value), Weights::Packed(gate)) => {
                let (rows, tokens) = self.value.tokens_of(x)?;
                with_tokens(x, Some(norm), |source| {
                    let y = linear(value, source, Target::Gated(gate), rows, tokens);
                    Tensor::from_vec(y, (rows, tokens, self.value.outputs), x.device())
                })
            }
            _ => {
                let x = norm.forward(x)?;
                self.value.forward(&x)? * gelu_erf(&self.gate.forward(&x)?)?
            }
        }
    }
}

/// Hands tokens to our kernel.
fn with_tokens<R>(x: &Tensor, norm: Option<&LayerNorm>, f: impl FnOnce(Source) -> Result<R>) -> Result<R> {
    let x = x.contiguous()?;
    let x = View::new(&x);
    match norm {
        None => f(Source::Tokens(x.slice()?)),
        Some(norm) => {
            let (weight, bias, eps) = norm.parameters();
            let (weight, bias) = (View::new(weight), View::new(bias));
            f(Source::Normed(x.slice()?, weight.slice()?, bias.slice()?, eps))
        }
    }
}

fn normed(x: &Tensor, norm: Option<&LayerNorm>) -> Result<Tensor> {
    norm.map_or(Ok(x.clone()), |norm| norm.forward(x))
}

/// With candle's operations, one row of the batch after the other so that none depends on another.
fn rowwise(weight: &Tensor, bias: Option<&Tensor>, x: &Tensor) -> Result<Tensor> {
    let weight = weight.t()?;
    let row = |n| match x.rank() {
        2 => x.narrow(0, n, 1)?.contiguous()?.matmul(&weight),
        _ => x.get(n)?.contiguous()?.matmul(&weight)?.unsqueeze(0),
    };
    let rows = (0..x.dim(0)?).map(row).collect::<Result<Vec<_>>>()?;
    let y = Tensor::cat(&rows, 0)?;
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
}
