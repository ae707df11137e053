//! Names of the schedulers and noise generators that a request can choose.

use serde::{Deserialize, Serialize};

/// A scheduler by its name in Replicate's API; each is a diffusers class made `from_config` of the model's own
/// scheduler file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheduler {
    /// `DDIMScheduler`
    #[serde(rename = "DDIM")]
    Ddim,
    /// `EulerDiscreteScheduler`
    #[serde(rename = "K_EULER")]
    KEuler,
    /// `DPMSolverMultistepScheduler`
    #[serde(rename = "DPMSolverMultistep")]
    DpmSolverMultistep,
    /// `EulerAncestralDiscreteScheduler`
    #[serde(rename = "K_EULER_ANCESTRAL")]
    KEulerAncestral,
    /// `PNDMScheduler`
    #[serde(rename = "PNDM")]
    Pndm,
    /// `LMSDiscreteScheduler`
    #[serde(rename = "KLMS")]
    Klms,
}

impl Scheduler {
    /// All schedulers, in the order of Replicate's schema.
    pub const ALL: [Scheduler; 6] = [
        Scheduler::Ddim,
        Scheduler::KEuler,
        Scheduler::DpmSolverMultistep,
        Scheduler::KEulerAncestral,
        Scheduler::Pndm,
        Scheduler::Klms,
    ];

    /// The name in Replicate's API.
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::Ddim => "DDIM",
            Scheduler::KEuler => "K_EULER",
            Scheduler::DpmSolverMultistep => "DPMSolverMultistep",
            Scheduler::KEulerAncestral => "K_EULER_ANCESTRAL",
            Scheduler::Pndm => "PNDM",
            Scheduler::Klms => "KLMS",
        }
    }

    /// The scheduler of that name, matched exactly.
    pub fn from_name(name: &str) -> Option<Scheduler> {
        Scheduler::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// Whose random numbers the latents start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseSource {
    /// `torch.Generator("cuda")`: Philox4x32-10, what Replicate used.
    #[default]
    Cuda,
    /// `torch.Generator("cpu")`: MT19937.
    TorchCpu,
}
