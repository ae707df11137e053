//! The mathematics: text encoders, UNet, VAE, samplers, noise, guidance. Tensors in, tensors out; no I/O, no clock.

pub mod guidance;
pub mod model;
pub mod noise;
pub mod preview;
pub mod sampler;
pub mod text;
pub mod unet;
pub mod vae;
