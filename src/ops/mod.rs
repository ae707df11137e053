//! The operations that the networks are made of: convolution, linear layers, norms, attention, activations.
//!
//! Each takes and gives candle tensors. On a CPU in f32 it runs our own kernel (`cpu/`), elsewhere plain candle; tests
//! hold the two against each other. A row of a batch is computed exactly as it would be alone.

pub mod activation;
pub mod attention;
pub mod conv2d;
pub mod linear;
pub mod norm;
pub mod resample;

pub use activation::{gelu_erf, silu};
pub use attention::attention;
pub use conv2d::{Conv2d, ConvShape, Fused};
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
