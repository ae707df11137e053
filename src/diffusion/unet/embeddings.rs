//! The time embedding and what is added to it: diffusers' `Timesteps`, `TimestepEmbedding` and `text_time`.

use super::config::{UNetConfig, UNetError};
use super::context::AddedConditions;
use crate::ops::{Linear, silu};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Sines and cosines of each value at `dim / 2` frequencies: `[values, dim]` in f32.
pub fn sinusoids(
    values: &[f32],
    dim: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    device: &Device,
) -> Result<Tensor> {
    let half = dim / 2;
    let step = -(10000f64.ln()) as f32;
    let frequency = |i: usize| (step * i as f32 / (half as f64 - freq_shift) as f32).exp();
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut out = Vec::with_capacity(values.len() * dim);
    for value in values {
        let angles = frequencies.iter().map(|f| f64::from(value * f));
        let sines = angles.clone().map(|a| a.sin() as f32);
        let cosines = angles.map(|a| a.cos() as f32);
        if flip_sin_to_cos {
            out.extend(cosines.chain(sines));
        } else {
            out.extend(sines.chain(cosines));
        }
        out.extend(std::iter::repeat_n(0.0, dim - 2 * half));
    }
    Tensor::from_vec(out, (values.len(), dim), device)
}

/// linear, SiLU, linear.
#[derive(Debug)]
struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    fn load(vb: VarBuilder, inputs: usize, dim: usize) -> Result<Self> {
        let linear_1 = Linear::load(vb.pp("linear_1"), inputs, dim, true)?;
        Ok(TimestepEmbedding { linear_1, linear_2: Linear::load(vb.pp("linear_2"), dim, dim, true)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)
    }
}

/// SDXL's pooled text and picture sizes.
#[derive(Debug)]
struct TextTime {
    embedding: TimestepEmbedding,
    time_dim: usize,
    inputs: usize,
}

/// Everything that becomes the one vector per row which all resnet blocks receive.
#[derive(Debug)]
pub(super) struct Embeddings {
    time: TimestepEmbedding,
    guidance: Option<Linear>,
    classes: Option<Tensor>,
    text_time: Option<TextTime>,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    dtype: DType,
}

impl Embeddings {
    pub fn load(config: &UNetConfig, vb: &VarBuilder) -> std::result::Result<Self, UNetError> {
        let (channels, dim) = (config.block_out_channels[0], config.time_dim());
        let guidance = match config.time_cond_proj_dim {
            Some(inputs) => Some(Linear::load(vb.pp("time_embedding.cond_proj"), inputs, channels, false)?),
            None => None,
        };
        let classes = match config.num_class_embeds {
            Some(classes) => Some(vb.pp("class_embedding").get((classes, dim), "weight")?),
            None => None,
        };
        let text_time = match config.addition_embed_type {
            Some(_) => {
                let missing = |key| UNetError::Invalid { key, problem: "is needed for text_time".into() };
                let inputs = config.projection_class_embeddings_input_dim;
                let inputs = inputs.ok_or_else(|| missing("projection_class_embeddings_input_dim"))?;
                let time_dim = config.addition_time_embed_dim.ok_or_else(|| missing("addition_time_embed_dim"))?;
                let embedding = TimestepEmbedding::load(vb.pp("add_embedding"), inputs, dim)?;
                Some(TextTime { embedding, time_dim, inputs })
            }
            None => None,
        };
        Ok(Embeddings {
            time: TimestepEmbedding::load(vb.pp("time_embedding"), channels, dim)?,
            guidance,
            classes,
            text_time,
            channels,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
            dtype: vb.dtype(),
        })
    }

    /// `[N, time_dim]` from timesteps `[N]` in f32.
    pub fn forward(&self, timesteps: &Tensor, added: Option<&AddedConditions>) -> Result<Tensor> {
        let nothing = AddedConditions::default();
        let added = added.unwrap_or(&nothing);
        let mut x = self.sinusoids(timesteps, self.channels)?;
        match (&self.guidance, &added.guidance_embedding) {
            (Some(linear), Some(embedding)) => x = (x + linear.forward(embedding)?)?,
            (None, Some(_)) => bail!("this network takes no guidance embedding (time_cond_proj_dim is not set)"),
            (_, None) => {}
        }
        let mut embedding = self.time.forward(&x)?;
        match (&self.classes, &added.class_labels) {
            (Some(table), Some(labels)) => embedding = (embedding + table.index_select(labels, 0)?)?,
            (Some(_), None) => bail!("this network needs class labels (num_class_embeds is set)"),
            (None, _) => {}
        }
        match &self.text_time {
            Some(text_time) => embedding + self.text_time(text_time, added)?,
            None => Ok(embedding),
        }
    }

    fn text_time(&self, text_time: &TextTime, added: &AddedConditions) -> Result<Tensor> {
        let (Some(pooled), Some(time_ids)) = (&added.pooled, &added.time_ids) else {
            bail!("this network needs pooled prompt embeddings and time ids (addition_embed_type is text_time)")
        };
        let rows = time_ids.dim(0)?;
        let times = self.sinusoids(&time_ids.flatten_all()?, text_time.time_dim)?.reshape((rows, ()))?;
        let x = Tensor::cat(&[pooled, &times], 1)?;
        if x.dim(1)? != text_time.inputs {
            bail!("pooled embeddings and time ids make {} values a row, not {}", x.dim(1)?, text_time.inputs);
        }
        text_time.embedding.forward(&x)
    }

    fn sinusoids(&self, values: &Tensor, dim: usize) -> Result<Tensor> {
        let host = values.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        sinusoids(&host, dim, self.flip_sin_to_cos, self.freq_shift, values.device())?.to_dtype(self.dtype)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_of_fractional_timesteps() {
        let x = sinusoids(&[0.0, 2.5], 4, true, 0.0, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(x[0], [1.0, 1.0, 0.0, 0.0]);
        let expected = [2.5f32.cos(), 0.025f32.cos(), 2.5f32.sin(), 0.025f32.sin()];
        for (a, b) in x[1].iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}
