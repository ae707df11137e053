//! A whole text-to-image model: prompt encoders, UNet, VAE and scheduler options of one checkpoint on one device.
//!
//! Owns what diffusers' `StableDiffusionPipeline` and `StableDiffusionXLPipeline` do around their parts, except the
//! loop over steps: that is the engine's.

mod error;
mod memory;
mod prompt;

use std::collections::VecDeque;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

pub use error::ModelError;
pub use memory::MemoryEstimate;
pub use prompt::{PromptConditioning, PromptRequest};

use super::guidance;
use super::preview::LatentRgb;
use super::sampler::{self, Plan, SchedulerConfig};
use super::unet::{AddedConditions, Context, PerAxis, UNet, UNetConfig};
use super::vae::{Tiling, Vae, VaeConfig};
use crate::domain::Scheduler;
use crate::weights::Checkpoint;
use prompt::{PromptEncoder, is_guided};

/// Stacked conditions that are kept: as many as latent shapes usually alternate.
const STACKS: usize = 2;

/// What `model_index.json` says of a pipeline, as far as it matters here.
#[derive(Debug, Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class: String,
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
}

fn yes() -> bool {
    true
}

/// One picture's share of a UNet call.
pub struct DenoiseRow<'a> {
    /// `[C, H, W]`, already multiplied by the plan's input scale.
    pub sample: &'a [f32],
    pub timestep: f32,
    pub prompt: &'a PromptConditioning,
}

/// A checkpoint on a device, ready to draw.
pub struct Model {
    prompts: PromptEncoder,
    unet: UNet,
    vae: Vae,
    vae_dtype: DType,
    scheduler: SchedulerConfig,
    device: Device,
    dtype: DType,
    memory: MemoryEstimate,
    /// `None`: no previews.
    latent_rgb: Option<LatentRgb>,
    /// Conditions of the latest batches, by the prompts of their rows.
    stacks: VecDeque<(Vec<u64>, Context, AddedConditions)>,
}

impl Model {
    /// Loads a checkpoint in diffusers layout, with the UNet's weights as `dtype`.
    ///
    /// # Errors
    /// A pipeline class or option that is not supported, or a file or tensor that is missing or damaged.
    pub fn load(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<Model, ModelError> {
        let index: ModelIndex = checkpoint.json("model_index.json")?;
        let prompts = match index.class.as_str() {
            "StableDiffusionPipeline" => PromptEncoder::sd(checkpoint, device)?,
            "StableDiffusionXLPipeline" => PromptEncoder::sdxl(checkpoint, index.force_zeros_for_empty_prompt, device)?,
            _ => return Err(ModelError::Class { class: index.class }),
        };
        let unet_config: UNetConfig = checkpoint.json("unet/config.json")?;
        let vae_config: VaeConfig = checkpoint.json("vae/config.json")?;
        let (channels, expected) = (unet_config.in_channels, vae_config.latent_channels);
        if channels != expected {
            return Err(ModelError::InputChannels { channels, expected });
        }
        // The range of f16 is too small for some decoders, and one decode is cheap beside the steps.
        let vae_dtype = if dtype == DType::F16 { DType::F32 } else { dtype };
        let unet = UNet::load(&unet_config, checkpoint.tensors("unet", dtype, device)?)?;
        let context_row = prompts.context_row_bytes(&unet, dtype)?;
        Ok(Model {
            memory: MemoryEstimate::new(&unet_config, &vae_config, context_row, Tiling::default().threshold),
            prompts,
            unet,
            vae: Vae::load(&vae_config, checkpoint.tensors("vae", vae_dtype, device)?)?,
            vae_dtype,
            scheduler: SchedulerConfig::from_json(&checkpoint.bytes("scheduler/scheduler_config.json")?)?,
            device: device.clone(),
            dtype,
            latent_rgb: None,
            stacks: VecDeque::new(),
        })
    }

    /// Makes the model able to give previews; for VAEs that are not known it decodes one small picture.
    ///
    /// # Errors
    /// See [`LatentRgb::of`]; the model draws without previews then.
    pub fn learn_previews(&mut self) -> Result<(), ModelError> {
        self.latent_rgb = Some(LatentRgb::of(&self.vae, self.vae_dtype, &self.device)?);
        Ok(())
    }

    /// A rough picture of latents `[C, H, W]`, a pixel for each place, after [`Model::learn_previews`].
    pub fn preview(&self, (_, height, width): (usize, usize, usize), latents: &[f32]) -> Option<image::RgbImage> {
        Some(self.latent_rgb.as_ref()?.picture(height, width, latents))
    }

    /// What calls and prompts of this model need.
    pub fn memory(&self) -> &MemoryEstimate {
        &self.memory
    }

    pub fn unet_config(&self) -> &UNetConfig {
        self.unet.config()
    }

    pub fn vae_config(&self) -> &VaeConfig {
        self.vae.config()
    }

    /// The scheduler's plan, made from the checkpoint's own options with these set otherwise.
    pub fn plan(
        &self,
        scheduler: Scheduler,
        overrides: &serde_json::Map<String, serde_json::Value>,
        steps: usize,
    ) -> Result<Plan, ModelError> {
        Ok(sampler::plan(scheduler, &self.scheduler.with_overrides(overrides), steps)?)
    }

    /// `(C, H, W)` of the latents of a picture of this many pixels.
    ///
    /// # Errors
    /// A width or height that the VAE cannot decode to.
    pub fn latent_size(&self, width: usize, height: usize) -> Result<(usize, usize, usize), ModelError> {
        let factor = self.vae.config().downscale();
        for (axis, value) in [("width", width), ("height", height)] {
            if value == 0 || !value.is_multiple_of(factor) {
                return Err(ModelError::Size { axis, factor, value });
            }
        }
        Ok((self.vae.config().latent_channels, height / factor, width / factor))
    }

    /// Width and height in pixels of the pictures that the checkpoint was made for.
    pub fn native_size(&self) -> (usize, usize) {
        let factor = self.vae.config().downscale();
        match self.unet.config().sample_size {
            Some(PerAxis::Both(side)) => (side * factor, side * factor),
            Some(PerAxis::Each([height, width])) => (width * factor, height * factor),
            None => (64 * factor, 64 * factor),
        }
    }

    /// UNet rows that a picture takes at this guidance scale.
    pub fn rows_per_picture(&self, guidance_scale: f64) -> usize {
        if is_guided(guidance_scale, self.unet.config()) { 2 } else { 1 }
    }

    /// Encodes a prompt, and its negative where guidance is on, once for all steps.
    pub fn encode(&mut self, request: &PromptRequest<'_>) -> Result<PromptConditioning, ModelError> {
        self.prompts.encode(request, &self.unet, self.dtype)
    }

    /// One UNet call over all rows, guided ones twice: the guided model output `[C, H, W]` of each row.
    pub fn denoise(
        &mut self,
        (channels, height, width): (usize, usize, usize),
        rows: &[DenoiseRow<'_>],
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut samples = Vec::new();
        let mut timesteps = Vec::new();
        for row in rows {
            for _ in 0..row.prompt.rows() {
                samples.extend_from_slice(row.sample);
                timesteps.push(row.timestep);
            }
        }
        let unet_rows = timesteps.len();
        let latents = Tensor::from_vec(samples, (unet_rows, channels, height, width), &self.device)?;
        let timesteps = Tensor::from_vec(timesteps, unet_rows, &self.device)?;
        let at = self.stack(rows)?;
        let (_, context, added) = &self.stacks[at];
        let output = self.unet.forward(&latents.to_dtype(self.dtype)?, &timesteps, context, Some(added))?;
        let output = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut outputs = output.chunks_exact(output.len() / unet_rows.max(1));
        let mut next = || outputs.next().unwrap_or_default();
        let guide = |row: &DenoiseRow<'_>| match row.prompt.guidance {
            Some(scale) => {
                let (unconditional, conditional) = (next(), next());
                guidance::combine(unconditional, conditional, scale)
            }
            None => next().to_vec(),
        };
        Ok(rows.iter().map(guide).collect())
    }

    /// Where in `stacks` the conditions of these rows are; they are put together anew only when the rows change.
    fn stack(&mut self, rows: &[DenoiseRow<'_>]) -> Result<usize, ModelError> {
        let ids: Vec<u64> = rows.iter().map(|row| row.prompt.id).collect();
        if let Some(at) = self.stacks.iter().position(|(known, _, _)| *known == ids) {
            return Ok(at);
        }
        let contexts: Vec<&Context> = rows.iter().map(|row| &row.prompt.context).collect();
        let stacked = |part: fn(&AddedConditions) -> Option<&Tensor>| {
            let parts: Option<Vec<&Tensor>> = rows.iter().map(|row| part(&row.prompt.added)).collect();
            parts.filter(|parts| !parts.is_empty()).map(|parts| Tensor::cat(&parts, 0)).transpose()
        };
        let added = AddedConditions {
            pooled: stacked(|added| added.pooled.as_ref())?,
            time_ids: stacked(|added| added.time_ids.as_ref())?,
            guidance_embedding: stacked(|added| added.guidance_embedding.as_ref())?,
            ..AddedConditions::default()
        };
        self.stacks.truncate(STACKS - 1);
        self.stacks.push_front((ids, Context::stack(&contexts)?, added));
        Ok(0)
    }

    /// One 8-bit picture from finished latents `[C, H, W]`, rounded as diffusers' `VaeImageProcessor` does.
    pub fn decode(
        &self,
        (channels, height, width): (usize, usize, usize),
        latents: &[f32],
    ) -> Result<image::RgbImage, ModelError> {
        let factor = self.vae.config().scaling_factor as f32;
        let scaled: Vec<f32> = latents.iter().map(|x| x / factor).collect();
        let latents = Tensor::from_vec(scaled, (1, channels, height, width), &self.device)?;
        let pixels = self.vae.decode(&latents.to_dtype(self.vae_dtype)?)?;
        let (_, _, height, width) = pixels.dims4()?;
        let planes = pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let plane = height * width;
        let level = |x: f32| ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        Ok(image::RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let at = y as usize * width + x as usize;
            image::Rgb([0, 1, 2].map(|channel| level(planes[channel * plane + at])))
        }))
    }
}
