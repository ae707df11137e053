//! `CLIPTextModel` and `CLIPTextModelWithProjection` of transformers: token ids to prompt embeddings. A row's result does
//! not depend on the other rows of the call.

use candle_core::{DType, Device, Module, Result, Tensor, bail};
use candle_nn::{Embedding, VarBuilder, ops::sigmoid, ops::softmax_last_dim};
use serde::Deserialize;

use crate::ops::{LayerNorm, Linear, gelu_erf};

/// `text_encoder/config.json`, with the defaults of transformers' `CLIPTextConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub projection_dim: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    pub eos_token_id: u32,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        ClipTextConfig {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_string(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

/// The non-linearity between the two layers of an MLP.
#[derive(Debug, Clone, Copy)]
enum Activation {
    /// x · σ(1.702 x)
    QuickGelu,
    /// x · Φ(x) with the exact error function
    Gelu,
    /// the tanh form
    GeluTanh,
}

impl Activation {
    fn new(name: &str) -> Result<Activation> {
        match name {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => bail!("hidden_act = {other:?} of the text encoder is not supported"),
        }
    }

    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::QuickGelu => x * sigmoid(&(x * 1.702)?)?,
            Activation::Gelu => gelu_erf(x),
            Activation::GeluTanh => x.gelu(),
        }
    }
}

/// What a text encoder says about N prompts of T tokens.
#[derive(Debug, Clone)]
pub struct TextOutput {
    /// `[N, T, C]`, after the last layer and the final norm (`last_hidden_state`)
    pub last_hidden_state: Tensor,
    /// `[N, T, C]`, before the last layer and without the final norm (`hidden_states[-2]`)
    pub penultimate: Tensor,
    /// `[N, P]`: the end token's last hidden state, projected where the checkpoint has a `text_projection`
    pub pooled: Tensor,
}

/// A CLIP text encoder.
#[derive(Debug, Clone)]
pub struct ClipTextModel {
    config: ClipTextConfig,
    token_embedding: Embedding,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    device: Device,
}

impl ClipTextModel {
    /// Reads the tensors of `text_encoder` or `text_encoder_2`; with or without the prefix `text_model.`.
    ///
    /// # Errors
    /// A configuration that is not supported, or a tensor that is missing or has another shape.
    pub fn load(config: &ClipTextConfig, vb: VarBuilder) -> Result<ClipTextModel> {
        let c = config.hidden_size;
        if config.num_hidden_layers == 0
            || config.num_attention_heads == 0
            || !c.is_multiple_of(config.num_attention_heads)
        {
            let (layers, heads) = (config.num_hidden_layers, config.num_attention_heads);
            bail!("a text encoder of {layers} layers, {heads} heads and hidden_size {c} cannot be built");
        }
        let activation = Activation::new(&config.hidden_act)?;
        let embeddings = vb.pp("embeddings");
        let tokens = embeddings.get((config.vocab_size, c), "token_embedding.weight")?;
        let positions = embeddings.get((config.max_position_embeddings, c), "position_embedding.weight")?;
        let layers = vb.pp("encoder.layers");
        let layers = (0..config.num_hidden_layers).map(|i| Layer::load(config, activation, layers.pp(i)));
        let text_projection = match vb.contains_tensor("text_projection.weight") {
            true => Some(Linear::load(vb.pp("text_projection"), c, config.projection_dim, false)?),
            false => None,
        };
        Ok(ClipTextModel {
            config: config.clone(),
            token_embedding: Embedding::new(tokens, c),
            position_embedding: positions,
            layers: layers.collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(vb.pp("final_layer_norm"), c, config.layer_norm_eps)?,
            text_projection,
            device: vb.device().clone(),
        })
    }

    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Encodes rows of token ids, all of one length, as [`super::ClipTokenizer`] makes them.
    ///
    /// # Errors
    /// No rows, rows of different lengths or longer than the context, or an id that the vocabulary does not have.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<TextOutput> {
        let tokens = self.checked(ids)?;
        let flat: Vec<u32> = ids.iter().flatten().copied().collect();
        let embedded = self.token_embedding.forward(&Tensor::from_vec(flat, (ids.len(), tokens), &self.device)?)?;
        let mut x = embedded.broadcast_add(&self.position_embedding.narrow(0, 0, tokens)?)?;
        let mask = causal_mask(tokens, &self.device)?;
        let mut penultimate = x.clone();
        for layer in &self.layers {
            penultimate = x;
            x = layer.forward(&penultimate, &mask)?;
        }
        let last_hidden_state = self.final_layer_norm.forward(&x)?;
        let ends = ids.iter().enumerate().map(|(n, row)| last_hidden_state.get(n)?.get(self.end(row)));
        let pooled = Tensor::stack(&ends.collect::<Result<Vec<_>>>()?, 0)?;
        let pooled = match &self.text_projection {
            Some(projection) => projection.forward(&pooled)?,
            None => pooled,
        };
        Ok(TextOutput { last_hidden_state, penultimate, pooled })
    }

    /// The length of the rows.
    fn checked(&self, ids: &[Vec<u32>]) -> Result<usize> {
        let tokens = ids.first().map_or(0, Vec::len);
        let most = self.config.max_position_embeddings;
        if tokens == 0 || tokens > most || ids.iter().any(|row| row.len() != tokens) {
            let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
            bail!("rows of {lengths:?} token ids, expected rows of one length from 1 to {most}");
        }
        let vocabulary = self.config.vocab_size;
        match ids.iter().flatten().find(|id| **id as usize >= vocabulary) {
            Some(id) => bail!("the tokenizer made id {id}, but the text encoder knows only {vocabulary} tokens"),
            None => Ok(tokens),
        }
    }

    /// Where a row's end token is. Configurations from before 2023 say `eos_token_id: 2`, which was never true; for
    /// them it is the highest id, as CLIP numbers its tokens.
    fn end(&self, row: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            2 => row.iter().copied().max().unwrap_or_default(),
            id => id,
        };
        row.iter().position(|id| *id == end).unwrap_or(0)
    }
}

/// Zero where a token may look (itself and what is before it), minus infinity elsewhere; `[T, T]` in f32.
fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let look = |i: usize, j: usize| if j > i { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens).flat_map(|i| (0..tokens).map(move |j| look(i, j))).collect();
    Tensor::from_vec(mask, (tokens, tokens), device)
}

/// `CLIPEncoderLayer`: attention and MLP, each on normalised tokens and added to them.
#[derive(Debug, Clone)]
struct Layer {
    norm1: LayerNorm,
    /// Query, key and value in one.
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn load(config: &ClipTextConfig, activation: Activation, vb: VarBuilder) -> Result<Layer> {
        let (c, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = vb.pp("self_attn");
        let three = |name: &str, shape: &[usize]| -> Result<Tensor> {
            let part = |p: &str| attention.get(shape, &format!("{p}.{name}"));
            Tensor::cat(&[part("q_proj")?, part("k_proj")?, part("v_proj")?], 0)
        };
        Ok(Layer {
            norm1: LayerNorm::load(vb.pp("layer_norm1"), c, eps)?,
            qkv: Linear::new(three("weight", &[c, c])?, Some(three("bias", &[c])?))?,
            out: Linear::load(attention.pp("out_proj"), c, c, true)?,
            norm2: LayerNorm::load(vb.pp("layer_norm2"), c, eps)?,
            fc1: Linear::load(vb.pp("mlp.fc1"), c, inner, true)?,
            fc2: Linear::load(vb.pp("mlp.fc2"), inner, c, true)?,
            heads: config.num_attention_heads,
            activation,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward_with(x, Some(&self.norm1), None)?;
        let x = self.out.forward_with(&self.attention(&qkv, mask)?, None, Some(x))?;
        let inner = self.activation.forward(&self.fc1.forward_with(&x, Some(&self.norm2), None)?)?;
        self.fc2.forward_with(&inner, None, Some(&x))
    }

    /// Causal attention: `[N, T, 3C]` to `[N, T, C]`, the softmax in f32.
    fn attention(&self, qkv: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (n, t, c) = (qkv.dim(0)?, qkv.dim(1)?, qkv.dim(2)? / 3);
        let width = c / self.heads;
        let qkv = qkv.reshape((n, t, 3, self.heads, width))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        let scores = q.matmul(&k.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let scores = (scores * (width as f64).powf(-0.5))?.broadcast_add(mask)?;
        let weights = softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
        weights.matmul(&v)?.transpose(1, 2)?.reshape((n, t, c))
    }
}
