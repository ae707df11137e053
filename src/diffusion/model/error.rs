//! Why a model could not be loaded or used.

use crate::diffusion::sampler::PlanError;
use crate::diffusion::text::TokenizerError;
use crate::diffusion::unet::UNetError;
use crate::diffusion::vae::VaeError;
use crate::weights::WeightsError;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("model_index.json: {class} is not supported; StableDiffusionPipeline and StableDiffusionXLPipeline are")]
    Class { class: String },
    #[error("unet/config.json: in_channels = {channels} does not draw pictures from text alone; {expected} would")]
    InputChannels { channels: usize, expected: usize },
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    UNet(#[from] UNetError),
    #[error(transparent)]
    Vae(#[from] VaeError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{axis} must be a multiple of {factor} from {factor} up, not {value}")]
    Size { axis: &'static str, factor: usize, value: usize },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// Whether the request is at fault, so that the text should reach whoever made it.
    pub fn is_request(&self) -> bool {
        matches!(self, ModelError::Plan(_) | ModelError::Size { .. })
    }

    /// Whether a smaller call may succeed.
    pub fn is_out_of_memory(&self) -> bool {
        let text = self.to_string().to_lowercase();
        ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|sign| text.contains(sign))
    }
}
