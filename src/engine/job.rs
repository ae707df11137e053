//! What one request asks of the engine.

use crate::domain::{NoiseSource, Scheduler};

/// One request: `num_outputs` pictures from one generator, advanced together.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Unique among the jobs of an engine; what [`super::EngineHandle::cancel`] names.
    pub id: String,
    pub prompt: String,
    /// `None` and an empty text differ for SDXL models that take zeros for an absent negative prompt.
    pub negative_prompt: Option<String>,
    /// Pixels, a multiple of the VAE's factor (8).
    pub width: usize,
    /// Pixels, a multiple of the VAE's factor (8).
    pub height: usize,
    pub num_outputs: usize,
    pub num_inference_steps: usize,
    /// Classifier-free guidance is off at 1 and below, as in diffusers.
    pub guidance_scale: f64,
    pub scheduler: Scheduler,
    pub seed: u64,
    pub noise: NoiseSource,
    /// Keys of `scheduler_config.json` that a manifest sets otherwise than the model's own file.
    pub scheduler_overrides: serde_json::Map<String, serde_json::Value>,
}
