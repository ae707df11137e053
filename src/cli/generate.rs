//! `stablehand generate`: pictures from the command line, without a server.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::model::ModelArgs;
use super::options;
use crate::domain::{NoiseSource, Scheduler};
use crate::engine::{EngineOptions, Event, Job};
use crate::worker::encode_png;

/// Draw pictures and write them as out-0.png, out-1.png, …
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What to draw
    #[arg(long)]
    prompt: String,
    /// What not to draw
    #[arg(long)]
    negative_prompt: Option<String>,
    /// Pixels, a multiple of 8 [default: the model's own size]
    #[arg(long, value_parser = options::side)]
    width: Option<usize>,
    /// Pixels, a multiple of 8 [default: the model's own size]
    #[arg(long, value_parser = options::side)]
    height: Option<usize>,
    /// Pictures, all from one draw of noise
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    num_outputs: u32,
    /// Steps, from 1 to 500 [default: the model's own, mostly 50]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=500))]
    num_inference_steps: Option<u32>,
    /// How closely to follow the prompt; off at 1 and below
    #[arg(long, default_value_t = 7.5, value_parser = options::guidance_scale)]
    guidance_scale: f64,
    #[arg(long, default_value = "DPMSolverMultistep", value_parser = options::scheduler())]
    scheduler: Scheduler,
    /// Where the noise starts; drawn at random and printed when absent
    #[arg(long)]
    seed: Option<u64>,
    /// Whose random numbers: a CUDA generator's, as on Replicate, or torch's on the CPU, as in diffusers' examples
    #[arg(long, default_value = "cuda", value_parser = options::noise())]
    noise: NoiseSource,
    /// Where to write
    #[arg(long, default_value = ".", value_name = "DIR")]
    out_dir: PathBuf,
}

impl GenerateArgs {
    /// Draws, writes and prints the paths and the seed.
    pub fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.out_dir)
            .with_context(|| format!("{} cannot be made a directory", self.out_dir.display()))?;
        let loaded = self.model.load()?;
        let seed = self.seed.map_or_else(random_seed, Ok)?;
        let native = loaded.default_size();
        let table = &loaded.manifest.input;
        let steps = self.num_inference_steps.unwrap_or(table.num_inference_steps.default);
        let job = Job {
            id: "generate".into(),
            prompt: self.prompt,
            negative_prompt: self.negative_prompt,
            width: self.width.unwrap_or(native.0),
            height: self.height.unwrap_or(native.1),
            num_outputs: self.num_outputs as usize,
            num_inference_steps: steps as usize,
            guidance_scale: self.guidance_scale,
            scheduler: self.scheduler,
            seed,
            noise: self.noise,
            scheduler_overrides: loaded.manifest.overrides(self.scheduler),
        };
        eprintln!("Using seed: {seed}");
        let bar = ProgressBar::new(u64::from(steps));
        bar.set_style(ProgressStyle::with_template("{percent:>3}% {bar:40} {pos}/{len} [{elapsed}<{eta}]")?);
        let engine = loaded.start(EngineOptions::default())?;
        let (sender, events) = channel();
        engine.submit(job, move |event| drop(sender.send(event)))?;
        for event in events {
            match event {
                Event::Started => bar.set_position(0),
                Event::Preview { .. } => {}
                Event::Step { done, .. } => bar.set_position(done as u64),
                Event::Picture { index, rgb } => {
                    let path = self.out_dir.join(format!("out-{index}.png"));
                    std::fs::write(&path, encode_png(&rgb)?)
                        .with_context(|| format!("{} cannot be written", path.display()))?;
                    println!("{}", path.display());
                }
                Event::Finished { .. } => bar.finish(),
                Event::Failed(failure) => match failure.detail() {
                    Some(detail) => bail!("{failure}: {detail}"),
                    None => bail!("{failure}"),
                },
                Event::Canceled => bail!("canceled"),
            }
        }
        Ok(())
    }
}

fn random_seed() -> Result<u64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).context("no random seed can be drawn: give one with --seed")?;
    Ok(u64::from(u32::from_le_bytes(bytes)))
}
