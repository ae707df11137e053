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
