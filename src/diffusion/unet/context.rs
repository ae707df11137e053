//! What the network is conditioned on: cross-attention keys and values, and SDXL's and LCM's added conditions.

use candle_core::{Result, Tensor, bail};

/// Keys and values of one cross-attention layer, both `[N, S, C]`.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    pub keys: Tensor,
    pub values: Tensor,
}

/// Prompt embeddings as every cross-attention layer sees them: computed once per prompt, used at each step.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) layers: Vec<KeyValue>,
    rows: usize,
}

impl Context {
    pub(super) fn new(layers: Vec<KeyValue>, rows: usize) -> Self {
        Context { layers, rows }
    }

    /// Prompts in it.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows of all, in order.
    ///
    /// # Errors
    /// `contexts` is empty, or they come from different networks or have different lengths in tokens.
    pub fn stack(contexts: &[&Context]) -> Result<Context> {
        let Some(first) = contexts.first() else { bail!("no context to stack") };
        if contexts.len() == 1 {
            return Ok((*first).clone());
        }
        if contexts.iter().any(|c| c.layers.len() != first.layers.len()) {
            bail!("contexts of different networks cannot be stacked");
        }
        let cat = |i: usize| {
            let keys: Vec<&Tensor> = contexts.iter().map(|c| &c.layers[i].keys).collect();
            let values: Vec<&Tensor> = contexts.iter().map(|c| &c.layers[i].values).collect();
            Ok(KeyValue { keys: Tensor::cat(&keys, 0)?, values: Tensor::cat(&values, 0)? })
        };
        let layers = (0..first.layers.len()).map(cat).collect::<Result<Vec<_>>>()?;
        Ok(Context { layers, rows: contexts.iter().map(|c| c.rows).sum() })
    }

    /// These rows, in this order; a row may be taken several times.
    ///
    /// # Errors
    /// A row that does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Context> {
        if let Some(row) = rows.iter().find(|r| **r >= self.rows) {
            bail!("row {row} of a context of {}", self.rows);
        }
        let indices: Vec<u32> = rows.iter().map(|r| *r as u32).collect();
        let select = |layer: &KeyValue| {
            let indices = Tensor::new(indices.as_slice(), layer.keys.device())?;
            Ok(KeyValue {
                keys: layer.keys.index_select(&indices, 0)?,
                values: layer.values.index_select(&indices, 0)?,
            })
        };
        Ok(Context { layers: self.layers.iter().map(select).collect::<Result<_>>()?, rows: rows.len() })
    }

    /// Memory that the keys and values occupy.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.layers.iter().map(|l| size(&l.keys) + size(&l.values)).sum()
    }
}

/// Conditions besides the prompt embeddings, as far as the network's configuration asks for them.
#[derive(Debug, Clone, Default)]
pub struct AddedConditions {
    /// `[N, P]`: pooled prompt embeddings (SDXL).
    pub pooled: Option<Tensor>,
    /// `[N, 6]` f32: original size, crop corner, target size (SDXL).
    pub time_ids: Option<Tensor>,
    /// `[N, time_cond_proj_dim]`: the guidance scale as an embedding (LCM).
    pub guidance_embedding: Option<Tensor>,
    /// `[N]` u32: noise level or class, for networks with `num_class_embeds`.
    pub class_labels: Option<Tensor>,
}
