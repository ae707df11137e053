//! The real architectures with random weights against diffusers, from a folder made by `tests/parity/full_size.py`.
//!
//! Runs only where `STABLEHAND_FULL_SIZE` names such a folder: it takes gigabytes and minutes.

use crate::golden::relative_error;
use candle_core::{DType, Device, Tensor};
use stablehand::diffusion::text::{ClipTextConfig, ClipTextModel};
use stablehand::diffusion::unet::{UNet, UNetConfig};
use stablehand::diffusion::vae::{Vae, VaeConfig};
use stablehand::weights::Checkpoint;
use std::path::PathBuf;
use std::time::Instant;

fn check(what: &str, expected: &Tensor, call: impl Fn() -> Tensor) {
    let start = Instant::now();
    let error = relative_error(&call(), expected);
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = peak.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown").to_string();
    println!("{what}: relative error {error:.1e}, {:.1} s, {peak}", start.elapsed().as_secs_f64());
    assert!(error < 1e-3, "{what}: {error}");
}

#[test]
fn full_size_equals_diffusers() {
    let Some(folder) = std::env::var_os("STABLEHAND_FULL_SIZE").map(PathBuf::from) else { return };
    let golden = candle_core::safetensors::load(folder.join("full-size.safetensors"), &Device::Cpu).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let tensors = |part: &str| checkpoint.tensors(part, DType::F32, &Device::Cpu).unwrap();
    {
        let config: ClipTextConfig = checkpoint.json("text_encoder/config.json").unwrap();
        let text = ClipTextModel::load(&config, tensors("text_encoder")).unwrap();
        let ids = golden["ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
        check("text encoder", &golden["embeddings"], || text.forward(&ids).unwrap().last_hidden_state);
    }
    {
        let config: UNetConfig = checkpoint.json("unet/config.json").unwrap();
        let unet = UNet::load(&config, tensors("unet")).unwrap();
        let context = unet.encode_context(&golden["embeddings"]).unwrap();
        let (latents, timesteps) = (&golden["latents"], &golden["timesteps"]);
        check("unet", &golden["unet"], || unet.forward(latents, timesteps, &context, None).unwrap());
    }
    let config: VaeConfig = checkpoint.json("vae/config.json").unwrap();
    let vae = Vae::load(&config, tensors("vae")).unwrap();
    check("vae decode", &golden["decoded"], || vae.decode(&golden["latents"]).unwrap());
}
