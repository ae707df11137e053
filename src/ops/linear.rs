//! Linear layers over tokens `[N, T, C]`, and between tokens and planes `[N, C, H, W]`.

use super::activation::geglu;
use super::norm::{GroupNorm, LayerNorm};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// y = x·Wᵀ + b for each token.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight `[outputs, inputs]` and a bias `[outputs]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        weight.dims2()?;
        Ok(Linear { weight, bias })
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
        let x = match norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let y = self.rows(&x)?;
        match residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }

    /// GEGLU: the first half of the outputs times the GELU of the second, `[N, T, C]` to `[N, T, outputs / 2]`.
    pub fn forward_geglu(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        geglu(&self.rows(&norm.forward(x)?)?)
    }

    /// Group-normalised planes `[N, C, H, W]` to tokens `[N, H·W, outputs]`.
    pub fn from_planes(&self, x: &Tensor, norm: &GroupNorm) -> Result<Tensor> {
        self.rows(&norm.forward(x)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
    }

    /// Tokens `[N, H·W, C]` to planes of the shape of `residual`, which is added.
    pub fn to_planes(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.rows(x)?.transpose(1, 2)?.reshape(residual.shape())? + residual
    }

    fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.t()?;
        let y = match x.dims() {
            [_, _, _] => {
                let rows =
                    (0..x.dim(0)?).map(|n| x.get(n)?.contiguous()?.matmul(&weight)).collect::<Result<Vec<_>>>()?;
                Tensor::stack(&rows, 0)?
            }
            _ => {
                let rows = (0..x.dim(0)?).map(|n| x.narrow(0, n, 1)?.matmul(&weight)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&rows, 0)?
            }
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
