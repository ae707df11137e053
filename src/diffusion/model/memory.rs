//! What a model's calls need of memory, estimated from its configuration. Weights are not counted.

use crate::diffusion::unet::UNetConfig;
use crate::diffusion::vae::VaeConfig;

/// Bytes of a number in activations: they are reckoned in f32 whatever the weights are.
const NUMBER: u64 = 4;
/// Live copies of a level's activations at the worst moment of a UNet call: input, skip, their concatenation,
/// normalised input, output, and as much again for what the allocator keeps.
const UNET_COPIES: u64 = 12;
/// The same for a decoder level, which has no skips.
const VAE_COPIES: u64 = 6;
/// Scores of at most this many queries are alive at once for each head.
const QUERIES_AT_ONCE: u64 = 1024;

/// Estimates for one model.
#[derive(Debug, Clone)]
pub struct MemoryEstimate {
    /// Channels of each UNet level, from the finest.
    unet_channels: Vec<u64>,
    vae_channels: Vec<u64>,
    vae_tile_threshold: u64,
    /// Bytes of the cross-attention keys and values of one row.
    pub context_row: u64,
}

impl MemoryEstimate {
    pub fn new(unet: &UNetConfig, vae: &VaeConfig, context_row: u64, vae_tile_threshold: usize) -> Self {
        let wide = |channels: &[usize]| channels.iter().map(|c| *c as u64).collect();
        MemoryEstimate {
            unet_channels: wide(&unet.block_out_channels),
            vae_channels: wide(&vae.block_out_channels),
            vae_tile_threshold: vae_tile_threshold as u64,
            context_row,
        }
    }

    /// Bytes that one row of latents `[C, height, width]` needs in a UNet call.
    pub fn unet_row(&self, height: usize, width: usize) -> u64 {
        let places = (height * width) as u64;
        let level = |(i, channels): (usize, &u64)| {
            let places = places.div_ceil(1 << (2 * i));
            let scores = places * places.min(QUERIES_AT_ONCE);
            places * channels * UNET_COPIES + scores
        };
        // A row's stacked context is kept for two batches.
        let activations: u64 = self.unet_channels.iter().enumerate().map(level).sum();
        activations * NUMBER + 2 * self.context_row
    }

    /// Bytes that decoding one picture from latents `[C, height, width]` needs.
    pub fn decode(&self, height: usize, width: usize) -> u64 {
        let levels = self.vae_channels.len();
        let places = (height * width) as u64;
        let picture = 3 * 4 * (places << (2 * levels.saturating_sub(1)));
        let tile = places.min(self.vae_tile_threshold);
        let level = |(i, channels): (usize, &u64)| {
            // Level i is at the resolution of the picture divided by 2^i; its first layers still have the channels above.
            let above = self.vae_channels.get(i + 1).unwrap_or(channels);
            (tile << (2 * (levels - 1 - i))) * channels.max(above) * VAE_COPIES * NUMBER
        };
        let largest = self.vae_channels.iter().enumerate().map(level).max().unwrap_or(0);
        largest + tile * tile.min(QUERIES_AT_ONCE) * NUMBER + picture
    }
}
