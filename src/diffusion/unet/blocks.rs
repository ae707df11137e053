//! The down, middle and up blocks of `UNet2DConditionModel`.

use super::attention::{ContextReader, Transformer};
use super::config::{Level, Middle};
use super::context::KeyValue;
use super::resnet::{ResnetBlock, ResnetOptions};
use crate::ops::{Conv2d, ConvShape, Fused};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// What all blocks of a network share.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockOptions {
    pub resnet: ResnetOptions,
    pub linear_projection: bool,
    pub downsample_padding: usize,
}

impl BlockOptions {
    fn transformer(&self, vb: VarBuilder, level: &Level) -> Result<Transformer> {
        Transformer::load(vb, level, self.resnet.groups, self.linear_projection)
    }
}

/// A resnet block and, at levels that attend, the transformer after it.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock,
    transformer: Option<Transformer>,
}

impl Layer {
    /// Layer `i` of a block whose layers attend or not.
    fn load(
        vb: &VarBuilder,
        i: usize,
        inputs: usize,
        level: &Level,
        attends: bool,
        options: BlockOptions,
    ) -> Result<Self> {
        let resnet = ResnetBlock::load(vb.pp("resnets").pp(i), inputs, level.channels, options.resnet)?;
        let transformer = match attends {
            true => Some(options.transformer(vb.pp("attentions").pp(i), level)?),
            false => None,
        };
        Ok(Layer { resnet, transformer })
    }

    /// Appends this layer's keys and values of the prompt.
    fn encode_context(&self, embeddings: &Tensor, out: &mut Vec<KeyValue>) -> Result<()> {
        self.transformer.as_ref().map_or(Ok(()), |transformer| transformer.encode_context(embeddings, out))
    }

    fn forward(&self, x: &Tensor, time: &Tensor, context: &mut ContextReader) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.transformer {
            Some(transformer) => transformer.forward(&x, context),
            None => Ok(x),
        }
    }
}

/// `DownBlock2D` and `CrossAttnDownBlock2D`.
#[derive(Debug)]
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Conv2d>,
}

impl DownBlock {
    pub fn load(vb: VarBuilder, inputs: usize, level: &Level, last: bool, options: BlockOptions) -> Result<Self> {
        let layer = |i: usize| {
            let inputs = if i == 0 { inputs } else { level.channels };
            Layer::load(&vb, i, inputs, level, level.down_attends, options)
        };
        let downsample = match last {
            true => None,
            false => {
                let shape = ConvShape::down(level.channels, options.downsample_padding);
                Some(Conv2d::load(vb.pp("downsamplers.0.conv"), shape)?)
            }
        };
        Ok(DownBlock { layers: (0..level.layers).map(layer).collect::<Result<_>>()?, downsample })
    }

    pub fn encode_context(&self, embeddings: &Tensor, out: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.encode_context(embeddings, out))
    }

    /// Each intermediate result is left in `skips` for the up block across.
    pub fn forward(
        &self,
        x: Tensor,
        time: &Tensor,
        context: &mut ContextReader,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(&x, time, context)?;
            skips.push(x.clone());
        }
        if let Some(conv) = &self.downsample {
            x = conv.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// `UpBlock2D` and `CrossAttnUpBlock2D`.
#[derive(Debug)]
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Conv2d>,
}

impl UpBlock {
    /// `inputs` are the channels from below, `skip` those of the level above (of which the last skip comes).
    pub fn load(
        vb: VarBuilder,
        inputs: usize,
        skip: usize,
        level: &Level,
        last: bool,
        options: BlockOptions,
    ) -> Result<Self> {
        let layer = |i: usize| {
            let from_below = if i == 0 { inputs } else { level.channels };
            let from_skip = if i == level.layers { skip } else { level.channels };
            Layer::load(&vb, i, from_below + from_skip, level, level.up_attends, options)
        };
        let upsample = match last {
            true => None,
            false => Some(Conv2d::load(vb.pp("upsamplers.0.conv"), ConvShape::k3(level.channels, level.channels))?),
        };
        Ok(UpBlock { layers: (0..=level.layers).map(layer).collect::<Result<_>>()?, upsample })
    }

    pub fn encode_context(&self, embeddings: &Tensor, out: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.encode_context(embeddings, out))
    }

    /// Takes its skips from the end of `skips`; upsamples to the size of the next one left there.
    pub fn forward(
        &self,
        x: Tensor,
        time: &Tensor,
        context: &mut ContextReader,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            let Some(skip) = skips.pop() else { bail!("fewer skip connections than up layers") };
            x = layer.forward(&Tensor::cat(&[x, skip], 1)?, time, context)?;
        }
        match (&self.upsample, skips.last()) {
            (Some(conv), Some(next)) => {
                let upsample = Some((next.dim(2)?, next.dim(3)?));
                conv.forward_with(&x, &Fused { upsample, ..Fused::default() })
            }
            _ => Ok(x),
        }
    }
}

/// `UNetMidBlock2DCrossAttn`, `UNetMidBlock2D` or nothing.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: Option<ResnetBlock>,
    rest: Option<(Transformer, ResnetBlock)>,
}

impl MidBlock {
    pub fn load(vb: VarBuilder, kind: Middle, level: &Level, options: BlockOptions) -> Result<Self> {
        let level = Level { only_cross_attention: false, ..level.clone() };
        let resnet =
            |i: usize| ResnetBlock::load(vb.pp("resnets").pp(i), level.channels, level.channels, options.resnet);
        let rest = match kind {
            Middle::CrossAttention => Some((options.transformer(vb.pp("attentions.0"), &level)?, resnet(1)?)),
            Middle::Resnet | Middle::None => None,
        };
        let first = match kind {
            Middle::None => None,
            Middle::Resnet | Middle::CrossAttention => Some(resnet(0)?),
        };
        Ok(MidBlock { first, rest })
    }

    pub fn encode_context(&self, embeddings: &Tensor, out: &mut Vec<KeyValue>) -> Result<()> {
        match &self.rest {
            Some((transformer, _)) => transformer.encode_context(embeddings, out),
            None => Ok(()),
        }
    }

    pub fn forward(&self, x: Tensor, time: &Tensor, context: &mut ContextReader) -> Result<Tensor> {
        let mut x = x;
        if let Some(resnet) = &self.first {
            x = resnet.forward(&x, Some(time))?;
        }
        if let Some((transformer, resnet)) = &self.rest {
            x = resnet.forward(&transformer.forward(&x, context)?, Some(time))?;
        }
        Ok(x)
    }
}
