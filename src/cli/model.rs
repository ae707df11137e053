//! From `--model NAME|DIR` to a loaded model.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use super::device::{DeviceArgs, Opened};
use super::{hub, memory};
use crate::diffusion::model::Model;
use crate::domain::{ModelManifest, Source};
use crate::engine::{Engine, EngineHandle, EngineOptions};
use crate::weights::{self, Checkpoint, Resolved};

/// Which model, and on which device.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// A name that `stablehand models list` knows, or a folder in diffusers layout [default: the built-in one]
    #[arg(long, value_name = "NAME|DIR")]
    pub model: Option<String>,
    /// Never ask the model hub: use only what is already here
    #[arg(long, env = "STABLEHAND_OFFLINE", value_parser = clap::builder::BoolishValueParser::new())]
    pub offline: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// A model that is ready to draw, and what it is.
pub struct Loaded {
    pub manifest: ModelManifest,
    pub checkpoint: Checkpoint,
    pub model: Model,
    pub opened: Opened,
    pub load_s: f64,
}

impl ModelArgs {
    /// Finds and loads the model; notes about the device go to stderr.
    pub fn load(&self) -> Result<Loaded> {
        let loaded = load(self.model.as_deref(), &self.device, self.offline)?;
        loaded.opened.notes.iter().for_each(|note| eprintln!("{note}"));
        Ok(loaded)
    }
}

/// Finds a model, the built-in one when there is no name, and loads it; downloads it first if it must and may.
pub fn load(model: Option<&str>, device: &DeviceArgs, offline: bool) -> Result<Loaded> {
    let mut opened = device.open()?;
    let name = model.unwrap_or("builtin");
    let Resolved { manifest, checkpoint, note } =
        hub::with_bar(|report| weights::resolve(name, &hub::options(offline), report))?;
    opened.notes.extend(note);
    let begun = Instant::now();
    let model = Model::load(&checkpoint, &opened.device, opened.dtype)
        .with_context(|| format!("{} cannot be loaded", checkpoint.location()))?;
    Ok(Loaded { manifest, checkpoint, model, opened, load_s: begun.elapsed().as_secs_f64() })
}

impl Loaded {
    /// Width and height when none are asked for: the manifest's, or for a plain folder the checkpoint's own.
    pub fn default_size(&self) -> (usize, usize) {
        match self.manifest.source {
            Source::Directory { .. } => self.model.native_size(),
            _ => (self.manifest.input.width.default as usize, self.manifest.input.height.default as usize),
        }
    }

    /// Hands the model to an engine of its own. On the CPU it may use most of what memory is left.
    pub fn start(self, options: EngineOptions) -> Result<EngineHandle> {
        let left = self.opened.device.is_cpu().then(memory::available).flatten();
        let memory_limit = options.memory_limit.or(left.map(|bytes| bytes / 10 * 9));
        Ok(Engine::start(self.model, EngineOptions { memory_limit, ..options })?)
    }
}
