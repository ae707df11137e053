//! Which device computes, and in what numbers: `--device` and `--dtype`.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::Args;

use crate::config::{DeviceChoice, DtypeChoice};

/// The device options that `serve`, `generate` and `bench` share.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// auto, cpu, cuda:N or metal; auto falls back to the CPU and says why
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = device_choice)]
    pub device: DeviceChoice,
    /// Numbers that the UNet computes in; the CPU computes in f32 whatever the weights are
    #[arg(long, default_value = "auto", value_name = "DTYPE", value_parser = dtype_choice)]
    pub dtype: DtypeChoice,
}

fn device_choice(text: &str) -> Result<DeviceChoice, String> {
    text.parse().map_err(|allowed| format!("use {allowed}, such as cuda:0"))
}

fn dtype_choice(text: &str) -> Result<DtypeChoice, String> {
    text.parse().map_err(|allowed| format!("use {allowed}"))
}

/// A device that can be used.
pub struct Opened {
    pub device: Device,
    pub dtype: DType,
    /// What the user should know of the choice.
    pub notes: Vec<String>,
}

impl DeviceArgs {
    /// Opens the device.
    ///
    /// # Errors
    /// A device that was named and is not there, with what is missing.
    pub fn open(&self) -> Result<Opened> {
        let mut notes = Vec::new();
        let device = match self.device {
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Cuda(ordinal) => cuda(ordinal)?,
            DeviceChoice::Metal => metal()?,
            DeviceChoice::Auto => auto(&mut notes),
        };
        let dtype = match (self.dtype, device.is_cpu()) {
            (DtypeChoice::Auto | DtypeChoice::F32, true) => DType::F32,
            (wished, true) => {
                let wished = format!("{wished:?}").to_lowercase();
                notes.push(format!("--dtype {wished} needs a GPU: the CPU computes in f32"));
                DType::F32
            }
            (DtypeChoice::Auto, false) if device.is_cuda() => DType::BF16,
            (DtypeChoice::Auto | DtypeChoice::F16, false) => DType::F16,
            (DtypeChoice::F32, false) => DType::F32,
            (DtypeChoice::Bf16, false) => DType::BF16,
        };
        Ok(Opened { device, dtype, notes })
    }
}

fn cuda(ordinal: usize) -> Result<Device> {
    if !cfg!(feature = "cuda") {
        bail!("this build has no CUDA: build with `cargo build --release --features cuda`, or use --device cpu");
    }
    Device::new_cuda(ordinal).with_context(|| {
        format!("cuda:{ordinal} cannot be used: is the NVIDIA driver installed, and does nvidia-smi list that device?")
    })
}

fn metal() -> Result<Device> {
    if !cfg!(feature = "metal") {
        bail!("this build has no Metal: build with `cargo build --release --features metal`, or use --device cpu");
    }
    Device::new_metal(0).context("metal cannot be used: no such device was found")
}

fn auto(notes: &mut Vec<String>) -> Device {
    let gpu = match (cfg!(feature = "cuda"), cfg!(feature = "metal")) {
        (true, _) => cuda(0),
        (_, true) => metal(),
        _ => {
            notes.push("computing on the CPU: this build has neither the cuda nor the metal feature".into());
            return Device::Cpu;
        }
    };
    gpu.unwrap_or_else(|error| {
        notes.push(format!("computing on the CPU: {error:#}"));
        Device::Cpu
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        assert_eq!(device_choice("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        assert!(device_choice("gpu").unwrap_err().contains("cuda:N"));
        assert!(dtype_choice("f8").unwrap_err().contains("bf16"));
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_gpu_that_is_not_built_in_is_an_error_that_says_how_to_build_it() {
        let open = |device| DeviceArgs { device, dtype: DtypeChoice::Auto }.open();
        let error = open(DeviceChoice::Cuda(0)).err().unwrap().to_string();
        assert!(error.contains("--features cuda"), "{error}");
        let opened = open(DeviceChoice::Auto).unwrap();
        assert!(opened.device.is_cpu() && opened.dtype == DType::F32);
    }
}
