//! The seam between bookkeeping and mathematics: what the engine needs of a model.

pub use crate::diffusion::model::PromptRequest;
use crate::diffusion::sampler::Plan;
use crate::domain::Scheduler;

/// Channels, rows and columns of one picture's latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LatentShape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl LatentShape {
    /// Numbers in one picture's latents.
    pub fn count(&self) -> usize {
        self.channels * self.height * self.width
    }
}

/// One picture's share of a UNet call; two UNet rows when its prompt is guided.
pub struct Row<'a, P> {
    /// Latents `[C, H, W]`, already multiplied by the plan's input scale.
    pub sample: &'a [f32],
    pub timestep: f32,
    pub prompt: &'a P,
}

/// Why a network call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The request cannot be done by this model; the text says what would be right.
    #[error("{0}")]
    Refused(String),
    /// The device has no room for a call of this size; a smaller one may fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A text-to-image model: prompt encoder, denoiser and picture decoder.
///
/// A row's result must not depend on the other rows of its call.
pub trait Network: Send + 'static {
    /// Everything that a prompt contributes to a UNet call.
    type Prompt: Send;

    /// The latents of a picture of this many pixels, or why there can be none.
    fn latent_shape(&self, width: usize, height: usize) -> Result<LatentShape, Fault>;

    /// The sampler made from the model's own scheduler file, with these of its keys set otherwise.
    fn plan(
        &self,
        scheduler: Scheduler,
        overrides: &serde_json::Map<String, serde_json::Value>,
        steps: usize,
    ) -> Result<Plan, Fault>;

    /// Encodes a prompt once for all its steps.
    fn encode(&mut self, request: &PromptRequest<'_>) -> Result<Self::Prompt, Fault>;

    /// UNet rows that one picture with this guidance takes in a call.
    fn rows_per_picture(&self, guidance_scale: f64) -> usize {
        if guidance_scale > 1.0 { 2 } else { 1 }
    }

    /// One UNet call for rows of one shape: the guided model output `[C, H, W]` of each, in their order.
    fn denoise(&mut self, shape: LatentShape, rows: &[Row<'_, Self::Prompt>]) -> Result<Vec<Vec<f32>>, Fault>;

    /// One picture from finished latents `[C, H, W]`.
    fn decode(&mut self, shape: LatentShape, latents: &[f32]) -> Result<image::RgbImage, Fault>;

    /// A rough, cheap picture of latents `[C, H, W]`, of any size; `None` when there are no previews.
    fn preview(&self, _shape: LatentShape, _latents: &[f32]) -> Option<image::RgbImage> {
        None
    }

    /// Bytes that one UNet row of this shape needs during a call.
    fn row_bytes(&self, shape: LatentShape) -> u64;

    /// Bytes that decoding one picture of this shape needs.
    fn decode_bytes(&self, shape: LatentShape) -> u64;

    /// Bytes that an encoded prompt occupies for as long as its request runs.
    fn prompt_bytes(&self, guidance_scale: f64) -> u64;
}
