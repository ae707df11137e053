//! Pointwise activations.

use candle_core::{Result, Tensor};

/// x · sigmoid(x), any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// x · Φ(x) with the exact error function, any shape; candle's `gelu` is the tanh form.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// `[.., 2C]` to `[.., C]`: the first half times the GELU of the second (diffusers' `GEGLU` after its projection).
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, candle_core::D::Minus1)?;
    &halves[0] * halves[1].contiguous()?.gelu_erf()?
}
