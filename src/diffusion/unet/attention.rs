//! diffusers' `Transformer2DModel`: planes to tokens, transformer blocks with self- and cross-attention, and back.

use super::config::Level;
use super::context::KeyValue;
use crate::ops::{Geglu, GroupNorm, LayerNorm, Linear, attention};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Layers of a context in the order in which the network reads them.
pub(super) type ContextReader<'a> = std::slice::Iter<'a, KeyValue>;

/// Keys and values of the prompt for one attention layer.
#[derive(Debug)]
struct ContextProjection {
    keys: Linear,
    values: Linear,
}

impl ContextProjection {
    fn load(vb: &VarBuilder, context: usize, channels: usize) -> Result<Self> {
        let keys = Linear::load(vb.pp("to_k"), context, channels, false)?;
        Ok(ContextProjection { keys, values: Linear::load(vb.pp("to_v"), context, channels, false)? })
    }

    fn forward(&self, embeddings: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { keys: self.keys.forward(embeddings)?, values: self.values.forward(embeddings)? })
    }
}

/// Attention to the prompt.
#[derive(Debug)]
struct CrossAttention {
    query: Linear,
    context: ContextProjection,
    out: Linear,
    heads: usize,
}

impl CrossAttention {
    fn load(vb: VarBuilder, level: &Level) -> Result<Self> {
        let c = level.channels;
        Ok(CrossAttention {
            query: Linear::load(vb.pp("to_q"), c, c, false)?,
            context: ContextProjection::load(&vb, level.context_dim, c)?,
            out: Linear::load(vb.pp("to_out.0"), c, c, true)?,
            heads: level.heads,
        })
    }

    fn forward(&self, x: &Tensor, norm: &LayerNorm, context: &mut ContextReader) -> Result<Tensor> {
        let Some(KeyValue { keys, values }) = context.next() else {
            bail!("the context has fewer layers than the network")
        };
        let query = self.query.forward_with(x, Some(norm), None)?;
        self.out.forward_with(&attention(&query, keys, values, self.heads)?, None, Some(x))
    }
}

/// Attention of the tokens to each other; query, key and value are one linear layer.
#[derive(Debug)]
struct SelfAttention {
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl SelfAttention {
    fn load(vb: VarBuilder, level: &Level) -> Result<Self> {
        let c = level.channels;
        let part = |name: &str| vb.pp(name).get((c, c), "weight");
        let qkv = Tensor::cat(&[part("to_q")?, part("to_k")?, part("to_v")?], 0)?;
        let out = Linear::load(vb.pp("to_out.0"), c, c, true)?;
        Ok(SelfAttention { qkv: Linear::new(qkv, None)?, out, heads: level.heads })
    }

    fn forward(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let c = x.dim(2)?;
        let qkv = self.qkv.forward_with(x, Some(norm), None)?;
        let (q, k, v) = (qkv.narrow(2, 0, c)?, qkv.narrow(2, c, c)?, qkv.narrow(2, 2 * c, c)?);
        self.out.forward_with(&attention(&q, &k, &v, self.heads)?, None, Some(x))
    }
}

/// The first attention of a block: to itself, or to the prompt where the level says `only_cross_attention`.
#[derive(Debug)]
enum FirstAttention {
    Own(SelfAttention),
    Prompt(CrossAttention),
}

/// diffusers' `BasicTransformerBlock` with GEGLU.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: FirstAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    expand: Geglu,
    contract: Linear,
}

impl TransformerBlock {
    fn load(vb: VarBuilder, level: &Level) -> Result<Self> {
        let c = level.channels;
        let norm = |name: &str| LayerNorm::load(vb.pp(name), c, 1e-5);
        let attn1 = match level.only_cross_attention {
            true => FirstAttention::Prompt(CrossAttention::load(vb.pp("attn1"), level)?),
            false => FirstAttention::Own(SelfAttention::load(vb.pp("attn1"), level)?),
        };
        Ok(TransformerBlock {
            norm1: norm("norm1")?,
            attn1,
            norm2: norm("norm2")?,
            attn2: CrossAttention::load(vb.pp("attn2"), level)?,
            norm3: norm("norm3")?,
            expand: Geglu::load(vb.pp("ff.net.0.proj"), c, 4 * c)?,
            contract: Linear::load(vb.pp("ff.net.2"), 4 * c, c, true)?,
        })
    }

    fn context_layers<'a>(&'a self, out: &mut Vec<&'a ContextProjection>) {
        if let FirstAttention::Prompt(attention) = &self.attn1 {
            out.push(&attention.context);
        }
        out.push(&self.attn2.context);
    }

    fn forward(&self, x: &Tensor, context: &mut ContextReader) -> Result<Tensor> {
        let x = match &self.attn1 {
            FirstAttention::Own(attention) => attention.forward(x, &self.norm1)?,
            FirstAttention::Prompt(attention) => attention.forward(x, &self.norm1, context)?,
        };
        let x = self.attn2.forward(&x, &self.norm2, context)?;
        self.contract.forward_with(&self.expand.forward(&x, &self.norm3)?, None, Some(&x))
    }
}

/// Transformer blocks over the pixels of `[N, C, H, W]`.
#[derive(Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer {
    /// `linear` says whether the projections are stored as linear layers or as 1×1 convolutions; the mathematics is
    /// the same.
    pub fn load(vb: VarBuilder, level: &Level, groups: usize, linear: bool) -> Result<Self> {
        let c = level.channels;
        let projection = |name: &str| {
            let vb = vb.pp(name);
            let weight = match linear {
                true => vb.get((c, c), "weight")?,
                false => vb.get((c, c, 1, 1), "weight")?.reshape((c, c))?,
            };
            Linear::new(weight, Some(vb.get(c, "bias")?))
        };
        let block = |i: usize| TransformerBlock::load(vb.pp("transformer_blocks").pp(i), level);
        Ok(Transformer {
            norm: GroupNorm::load(vb.pp("norm"), groups, c, 1e-6)?,
            proj_in: projection("proj_in")?,
            blocks: (0..level.transformer_layers).map(block).collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// Adds the keys and values of `embeddings` `[N, S, context_dim]` for each cross-attention, in reading order.
    pub fn encode_context(&self, embeddings: &Tensor, out: &mut Vec<KeyValue>) -> Result<()> {
        let mut layers = Vec::new();
        self.blocks.iter().for_each(|block| block.context_layers(&mut layers));
        for layer in layers {
            out.push(layer.forward(embeddings)?);
        }
        Ok(())
    }

    pub fn forward(&self, x: &Tensor, context: &mut ContextReader) -> Result<Tensor> {
        let mut tokens = self.proj_in.from_planes(x, &self.norm, None)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, context)?;
        }
        self.proj_out.to_planes(&tokens, x)
    }
}
