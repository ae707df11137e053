//! The real network behind the engine's seam: [`crate::diffusion::Model`] on plain numbers.

use super::network::{Fault, LatentShape, Network, PromptRequest, Row};
use crate::diffusion::model::{DenoiseRow, Model, ModelError, PromptConditioning};
use crate::diffusion::sampler::Plan;
use crate::domain::Scheduler;

impl From<ModelError> for Fault {
    fn from(error: ModelError) -> Self {
        if error.is_request() {
            Fault::Refused(error.to_string())
        } else if error.is_out_of_memory() {
            Fault::OutOfMemory(error.to_string())
        } else {
            Fault::Failed(error.to_string())
        }
    }
}

fn size(shape: LatentShape) -> (usize, usize, usize) {
    (shape.channels, shape.height, shape.width)
}

impl Network for Model {
    type Prompt = PromptConditioning;

    fn latent_shape(&self, width: usize, height: usize) -> Result<LatentShape, Fault> {
        let (channels, height, width) = self.latent_size(width, height)?;
        Ok(LatentShape { channels, height, width })
    }

    fn plan(
        &self,
        scheduler: Scheduler,
        overrides: &serde_json::Map<String, serde_json::Value>,
        steps: usize,
    ) -> Result<Plan, Fault> {
        Ok(Model::plan(self, scheduler, overrides, steps)?)
    }

    fn encode(&mut self, request: &PromptRequest<'_>) -> Result<PromptConditioning, Fault> {
        Ok(Model::encode(self, request)?)
    }

    fn rows_per_picture(&self, guidance_scale: f64) -> usize {
        Model::rows_per_picture(self, guidance_scale)
    }

    fn denoise(&mut self, shape: LatentShape, rows: &[Row<'_, PromptConditioning>]) -> Result<Vec<Vec<f32>>, Fault> {
        let rows: Vec<DenoiseRow<'_>> = rows
            .iter()
            .map(|row| DenoiseRow { sample: row.sample, timestep: row.timestep, prompt: row.prompt })
            .collect();
        Ok(Model::denoise(self, size(shape), &rows)?)
    }

    fn decode(&mut self, shape: LatentShape, latents: &[f32]) -> Result<image::RgbImage, Fault> {
        Ok(Model::decode(self, size(shape), latents)?)
    }

    fn preview(&self, shape: LatentShape, latents: &[f32]) -> Option<image::RgbImage> {
        Model::preview(self, size(shape), latents)
    }

    fn row_bytes(&self, shape: LatentShape) -> u64 {
        self.memory().unet_row(shape.height, shape.width)
    }

    fn decode_bytes(&self, shape: LatentShape) -> u64 {
        self.memory().decode(shape.height, shape.width)
    }

    fn prompt_bytes(&self, guidance_scale: f64) -> u64 {
        self.memory().context_row * Model::rows_per_picture(self, guidance_scale) as u64
    }
}
