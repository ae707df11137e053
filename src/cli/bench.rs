//! `stablehand bench`: how long the parts of a picture take on this machine.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::model::{Loaded, ModelArgs};
use super::{memory, options};
use crate::diffusion::model::{DenoiseRow, Model, PromptConditioning, PromptRequest};
use crate::diffusion::noise::NoiseStream;
use crate::domain::NoiseSource;

/// Time one UNet call, one VAE decode and one text encoding
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Pixels, a multiple of 8 [default: the model's own size]
    #[arg(long, value_parser = options::side)]
    width: Option<usize>,
    /// Pixels, a multiple of 8 [default: the model's own size]
    #[arg(long, value_parser = options::side)]
    height: Option<usize>,
    /// Rows of the UNet call; a guided picture is two rows
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    rows: u32,
    /// Timed runs of each part, after one that is not timed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Medians, in seconds.
#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    device: String,
    dtype: String,
    width: usize,
    height: usize,
    rows: u32,
    runs: u32,
    threads: usize,
    load_s: f64,
    text_encode_s: f64,
    /// One UNet call of all rows.
    unet_step_s: f64,
    /// One picture.
    vae_decode_s: f64,
    peak_rss_bytes: Option<u64>,
}

impl BenchArgs {
    pub fn run(self) -> Result<()> {
        let figures = self.measure()?;
        if self.json {
            println!("{}", serde_json::to_string(&figures)?);
        } else {
            println!("{} on {} in {}", figures.model, figures.device, figures.dtype);
            println!("text encoding      {:>10.4} s", figures.text_encode_s);
            println!("UNet call, {:>2} rows {:>10.4} s", figures.rows, figures.unet_step_s);
            println!("VAE decode         {:>10.4} s", figures.vae_decode_s);
            if let Some(bytes) = figures.peak_rss_bytes {
                println!("peak memory        {:>10.0} MiB", bytes as f64 / f64::from(1 << 20));
            }
        }
        Ok(())
    }

    fn measure(&self) -> Result<Figures> {
        let loaded = self.model.load()?;
        let native = loaded.default_size();
        let Loaded { mut model, checkpoint, opened, load_s, .. } = loaded;
        let (width, height) = (self.width.unwrap_or(native.0), self.height.unwrap_or(native.1));
        let size = model.latent_size(width, height)?;
        let text_encode_s =
            median(self.runs, || encode(&mut model, "a red circle on a white background", (width, height)))?;
        let prompts = (0..self.rows)
            .map(|row| encode(&mut model, &format!("picture number {row}"), (width, height)))
            .collect::<Result<Vec<_>>>()?;
        let sample = NoiseStream::new(NoiseSource::Cuda, 0).draw(size.0 * size.1 * size.2);
        let rows: Vec<DenoiseRow<'_>> = prompts
            .iter()
            .enumerate()
            .map(|(row, prompt)| DenoiseRow { sample: &sample, timestep: 981.0 - row as f32, prompt })
            .collect();
        let unet_step_s = median(self.runs, || Ok(model.denoise(size, &rows)?))?;
        let vae_decode_s = median(self.runs, || Ok(model.decode(size, &sample)?))?;
        Ok(Figures {
            model: checkpoint.location(),
            device: format!("{:?}", opened.device.location()).to_lowercase(),
            dtype: opened.dtype.as_str().to_string(),
            width,
            height,
            rows: self.rows,
            runs: self.runs,
            threads: rayon::current_num_threads(),
            load_s,
            text_encode_s,
            unet_step_s,
            vae_decode_s,
            peak_rss_bytes: memory::peak_resident(),
        })
    }
}

/// One row without guidance.
fn encode(model: &mut Model, prompt: &str, (width, height): (usize, usize)) -> Result<PromptConditioning> {
    Ok(model.encode(&PromptRequest { prompt, negative_prompt: None, guidance_scale: 1.0, width, height })?)
}

/// The median seconds of `runs` runs, after one that is not counted.
fn median<T>(runs: u32, mut run: impl FnMut() -> Result<T>) -> Result<f64> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        std::hint::black_box(run()?);
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
