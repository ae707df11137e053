//! The operations that the networks are made of: convolution, linear layers, norms, attention, activations.
//!
//! Each takes and gives candle tensors. On a CPU in f32 it runs our own kernel (`cpu/`), elsewhere plain candle; tests
//! hold the two against each other. A row of a batch is computed exactly as it would be alone.

pub mod activation;
pub mod attention;
pub mod conv2d;
pub mod cpu;
pub mod linear;
pub mod norm;
pub mod resample;
mod view;

pub use activation::{gelu_erf, silu};
pub use attention::{attention, attention_plain};
pub use conv2d::{Conv2d, ConvShape, Fused};
pub use linear::{Geglu, Linear};
pub use norm::{GroupNorm, LayerNorm, Tape};
