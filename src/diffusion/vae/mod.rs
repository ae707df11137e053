//! AutoencoderKL: pictures to latents and back, large pictures in tiles.
//!
//! Does not scale latents by `scaling_factor`, sample them, or turn values into 8-bit pixels: its callers do.

mod config;
mod decoder;
mod encoder;
mod middle;
mod tiling;

pub use config::{VaeConfig, VaeError};
pub use tiling::Tiling;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use decoder::Decoder;
use encoder::Encoder;

/// diffusers' `AutoencoderKL`.
#[derive(Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    tiling: Tiling,
}

impl Vae {
    /// Builds encoder and decoder from the tensors of `vae/`.
    ///
    /// # Errors
    /// A configuration key that is not supported, or a tensor that is missing or misshapen.
    pub fn load(config: &VaeConfig, vb: VarBuilder) -> std::result::Result<Self, VaeError> {
        config.check()?;
        Ok(Vae {
            encoder: Encoder::load(config, &vb)?,
            decoder: Decoder::load(config, &vb)?,
            tiling: Tiling::default(),
            config: config.clone(),
        })
    }

    /// The same with other tiles.
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        Vae { tiling, ..self }
    }

    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Pictures `[N, 3, 8h, 8w]`, about −1..1, from latents `[N, 4, h, w]` already divided by `scaling_factor`.
    ///
    /// Latents of more than [`Tiling::threshold`] values a channel are decoded in overlapping tiles.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let (rows, channels, _, _) = latents.dims4()?;
        if channels != self.config.latent_channels {
            bail!("latents have {channels} channels, the VAE takes {}", self.config.latent_channels);
        }
        // One picture at a time: memory stays that of one, and no row depends on another.
        let one = |n| {
            self.tiling
                .decode(&latents.narrow(0, n, 1)?, self.config.downscale(), |x, tape| self.decoder.forward(x, tape))
        };
        let pictures = (0..rows).map(one).collect::<Result<Vec<_>>>()?;
        if let [picture] = pictures.as_slice() { Ok(picture.clone()) } else { Tensor::cat(&pictures, 0) }
    }

    /// Mean and log-variance of the latents, both `[N, 4, h, w]`, of pictures `[N, 3, 8h, 8w]` in −1..1.
    ///
    /// The log-variance is clamped to −30..20 as diffusers' `DiagonalGaussianDistribution` does.
    pub fn encode(&self, pictures: &Tensor) -> Result<(Tensor, Tensor)> {
        let (_, channels, _, _) = pictures.dims4()?;
        if channels != self.config.in_channels {
            bail!("pictures have {channels} channels, the VAE takes {}", self.config.in_channels);
        }
        let moments = self.encoder.forward(pictures)?.chunk(2, 1)?;
        Ok((moments[0].contiguous()?, moments[1].clamp(-30f32, 20f32)?))
    }
}
