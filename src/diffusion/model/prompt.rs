//! From words to what the UNet is conditioned on: one text encoder (SD 1.x, 2.x) or two (SDXL).

use candle_core::{D, DType, Device, Tensor};

use super::ModelError;
use crate::diffusion::guidance;
use crate::diffusion::text::{ClipTextConfig, ClipTextModel, ClipTokenizer};
use crate::diffusion::unet::{AddedConditions, Context, UNet, UNetConfig, sinusoids};
use crate::weights::Checkpoint;

/// What is asked of the prompt encoders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptRequest<'a> {
    pub prompt: &'a str,
    pub negative_prompt: Option<&'a str>,
    pub guidance_scale: f64,
    /// Pixels; SDXL is told the size.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}

/// An encoded prompt: what it contributes to every UNet call of its request.
#[derive(Debug)]
pub struct PromptConditioning {
    /// Differs between any two prompts encoded by a model, so that stacked contexts can be recognised.
    pub(super) id: u64,
    /// One row, or with guidance two: the negative prompt's and the prompt's.
    pub(super) context: Context,
    pub(super) added: AddedConditions,
    /// The scale, where guidance is on.
    pub(super) guidance: Option<f64>,
}

impl PromptConditioning {
    /// UNet rows of one picture.
    pub fn rows(&self) -> usize {
        self.context.rows()
    }
}

/// A tokenizer and its text encoder.
struct Tower {
    tokenizer: ClipTokenizer,
    encoder: ClipTextModel,
}

impl Tower {
    fn load(checkpoint: &Checkpoint, suffix: &str, device: &Device) -> Result<Self, ModelError> {
        let folder = format!("text_encoder{suffix}");
        let config: ClipTextConfig = checkpoint.json(&format!("{folder}/config.json"))?;
        // Text encoders are small and run once per prompt: they are not worth less than f32.
        let vb = checkpoint.tensors(&folder, DType::F32, device)?;
        Ok(Tower {
            tokenizer: ClipTokenizer::load(checkpoint, &format!("tokenizer{suffix}"))?,
            encoder: ClipTextModel::load(&config, vb)?,
        })
    }
}

/// Embeddings `[N, T, C]` and, for SDXL, pooled embeddings `[N, P]`.
struct Embeddings {
    tokens: Tensor,
    pooled: Option<Tensor>,
}

/// Everything that reads prompts.
pub(super) struct PromptEncoder {
    towers: Vec<Tower>,
    /// SDXL: an absent negative prompt is zeros, not the empty text.
    zeros_for_absent: bool,
    next_id: u64,
}

impl PromptEncoder {
    pub fn sd(checkpoint: &Checkpoint, device: &Device) -> Result<Self, ModelError> {
        let towers = vec![Tower::load(checkpoint, "", device)?];
        Ok(PromptEncoder { towers, zeros_for_absent: false, next_id: 0 })
    }

    pub fn sdxl(checkpoint: &Checkpoint, zeros_for_absent: bool, device: &Device) -> Result<Self, ModelError> {
        let towers = vec![Tower::load(checkpoint, "", device)?, Tower::load(checkpoint, "_2", device)?];
        Ok(PromptEncoder { towers, zeros_for_absent, next_id: 0 })
    }

    fn is_sdxl(&self) -> bool {
        self.towers.len() == 2
    }

    /// One text after the other, so that a text's numbers never depend on its company.
    fn embed(&self, text: &str) -> Result<Embeddings, ModelError> {
        let mut parts = Vec::with_capacity(self.towers.len());
        let mut pooled = None;
        for tower in &self.towers {
            let output = tower.encoder.forward(&[tower.tokenizer.encode(text)?])?;
            parts.push(if self.is_sdxl() { output.penultimate } else { output.last_hidden_state });
            pooled = Some(output.pooled);
        }
        let tokens = if let [one] = parts.as_slice() { one.clone() } else { Tensor::cat(&parts, D::Minus1)? };
        Ok(Embeddings { tokens, pooled: pooled.filter(|_| self.is_sdxl()) })
    }

    fn embed_negative(&self, text: Option<&str>, like: &Embeddings) -> Result<Embeddings, ModelError> {
        if text.is_none() && self.zeros_for_absent {
            let pooled = like.pooled.as_ref().map(Tensor::zeros_like).transpose()?;
            return Ok(Embeddings { tokens: like.tokens.zeros_like()?, pooled });
        }
        self.embed(text.unwrap_or(""))
    }

    /// Bytes of the cross-attention keys and values of one prompt.
    pub fn context_row_bytes(&self, unet: &UNet, dtype: DType) -> Result<u64, ModelError> {
        let embeddings = self.embed("")?;
        Ok(unet.encode_context(&embeddings.tokens.to_dtype(dtype)?)?.bytes() as u64)
    }

    /// The rows of this request, negative first.
    pub fn encode(
        &mut self,
        request: &PromptRequest<'_>,
        unet: &UNet,
        dtype: DType,
    ) -> Result<PromptConditioning, ModelError> {
        let config = unet.config();
        let guided = is_guided(request.guidance_scale, config);
        let mut embeddings = vec![self.embed(request.prompt)?];
        if guided {
            embeddings.insert(0, self.embed_negative(request.negative_prompt, &embeddings[0])?);
        }
        let contexts = embeddings
            .iter()
            .map(|e| unet.encode_context(&e.tokens.to_dtype(dtype)?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let context = Context::stack(&contexts.iter().collect::<Vec<_>>())?;
        let pooled: Option<Vec<Tensor>> = embeddings.iter().map(|e| e.pooled.clone()).collect();
        let device = embeddings[0].tokens.device();
        let mut added = AddedConditions::default();
        if let Some(pooled) = pooled {
            added.pooled = Some(Tensor::cat(&pooled, 0)?.to_dtype(dtype)?);
            added.time_ids = Some(time_ids(request, context.rows(), device)?);
        }
        if let Some(dim) = config.time_cond_proj_dim {
            added.guidance_embedding = Some(guidance_embedding(request.guidance_scale, dim, device)?.to_dtype(dtype)?);
        }
        self.next_id += 1;
        let guidance = guided.then_some(request.guidance_scale);
        Ok(PromptConditioning { id: self.next_id, context, added, guidance })
    }
}

/// Whether this network takes an unconditional row: those with a guidance embedding never do.
pub(super) fn is_guided(guidance_scale: f64, config: &UNetConfig) -> bool {
    guidance::is_on(guidance_scale) && config.time_cond_proj_dim.is_none()
}

/// SDXL's original size, crop corner and target size: the picture asked for, uncropped. `[N, 6]`
fn time_ids(request: &PromptRequest<'_>, rows: usize, device: &Device) -> candle_core::Result<Tensor> {
    let (height, width) = (request.height as f32, request.width as f32);
    Tensor::new(&[[height, width, 0.0, 0.0, height, width]], device)?.repeat((rows, 1))
}

/// LCM's embedding of the guidance scale less one, `[1, dim]`: `get_guidance_scale_embedding` of diffusers' pipelines.
fn guidance_embedding(guidance_scale: f64, dim: usize, device: &Device) -> candle_core::Result<Tensor> {
    sinusoids(&[((guidance_scale - 1.0) * 1000.0) as f32], dim, false, 1.0, device)
}
