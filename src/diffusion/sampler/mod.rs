//! Samplers as data: a pure function `(scheduler config, steps) → plan`, a table of coefficients that the engine applies.
//!
//! Each step of DDIM, Euler, Euler ancestral, DPM++ 2M, LMS and PNDM is linear in the sample, the model output,
//! remembered values and fresh noise. The plan holds those coefficients in f64.

/// Where a value is remembered between evaluations.
pub type Slot = usize;

/// One value to remember: `slot = clamp(sample·x + output·model_output)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Keep {
    pub slot: Slot,
    pub sample: f64,
    pub output: f64,
    /// Clamped to ± this, where the scheduler clips its predicted sample.
    pub clamp: Option<f64>,
}

/// `x' = sample·x + output·model_output + Σ weight·slot + noise·n`, slots after this evaluation's `keep`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub sample: f64,
    pub output: f64,
    pub slots: Vec<(Slot, f64)>,
    /// Zero where no noise is drawn. A draw is taken only where this is not zero or `draws_noise` says so.
    pub noise: f64,
}

/// One UNet call and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// As the UNet sees it; may be fractional.
    pub timestep: f32,
    /// `c_in`: the sample is multiplied by it before the UNet sees it.
    pub input_scale: f64,
    /// Remembered before the update, in order.
    pub keep: Vec<Keep>,
    pub update: Linear,
    /// Whether diffusers draws noise in this step, even if its weight is zero (the draw order matters).
    pub draws_noise: bool,
    /// Whether the progress bar moves after this evaluation.
    pub advances: bool,
}

/// What the engine carries out for one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The initial noise is multiplied by it.
    pub init_noise_sigma: f64,
    /// How many slots the plan uses.
    pub slots: usize,
    pub evaluations: Vec<Evaluation>,
}
