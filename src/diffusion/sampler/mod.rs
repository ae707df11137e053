//! Samplers as data: a pure function `(scheduler config, steps) → plan`, a table of coefficients that the engine applies.
//!
//! Each step of DDIM, Euler, Euler ancestral, DPM++ 2M, LMS and PNDM is linear in the sample, the model output,
//! remembered values and fresh noise (DDIM may clamp its predicted sample). The plan holds those coefficients in f64.
//! It knows no tensors, no model and no randomness; who draws the noise and calls the UNet is the engine.

mod config;
mod ddim;
mod dpm;
mod euler;
mod lms;
mod pndm;
mod schedule;
mod sigmas;

pub use config::SchedulerConfig;

use crate::domain::Scheduler;

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
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// What the model takes the finished sample to be, as `(a, b)` in `a·(scaled sample) + b·model_output`: for previews.
    pub clean: (f64, f64),
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

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    #[error("scheduler config: {0}")]
    Parse(String),
    #[error("scheduler config: {option} must be {expected}, not {value}")]
    Invalid { option: &'static str, expected: &'static str, value: String },
    #[error("{scheduler} with {option} = {value} is not supported")]
    Unsupported { scheduler: &'static str, option: &'static str, value: String },
    #[error("{scheduler} cannot make {steps} steps: {reason}")]
    Steps { scheduler: &'static str, steps: usize, reason: String },
}

/// The plan of `steps` inference steps with this scheduler, made as diffusers' `Class.from_config(config)` followed
/// by `set_timesteps(steps)`. What diffusers refuses or answers with infinities is an error.
pub fn plan(scheduler: Scheduler, config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    let refuse = |reason: String| PlanError::Steps { scheduler: scheduler.name(), steps, reason };
    if steps == 0 {
        return Err(refuse("at least one step is needed".into()));
    }
    let train = schedule::train_timesteps(config)?;
    if steps > train {
        return Err(refuse(format!("the model knows only {train} timesteps")));
    }
    let mut plan = match scheduler {
        Scheduler::Ddim => ddim::plan(config, steps),
        Scheduler::KEuler => euler::plan(config, steps),
        Scheduler::KEulerAncestral => euler::plan_ancestral(config, steps),
        Scheduler::DpmSolverMultistep => dpm::plan(config, steps),
        Scheduler::Pndm => pndm::plan(config, steps),
        Scheduler::Klms => lms::plan(config, steps),
    }?;
    if let Some(at) = plan.evaluations.iter().position(|e| !e.is_finite()) {
        return Err(refuse(format!("the coefficients of evaluation {at} are not finite with this config")));
    }
    if plan.evaluations.is_empty() || !plan.init_noise_sigma.is_finite() {
        return Err(refuse("no timesteps are left with this config".into()));
    }
    // The pipelines' progress bar counts inference steps: evaluations beyond that number are a silent warm-up.
    let warm_up = plan.evaluations.len().saturating_sub(steps);
    for (i, evaluation) in plan.evaluations.iter_mut().enumerate() {
        evaluation.advances = i >= warm_up;
    }
    Ok(plan)
}

impl Plan {
    /// Empty slots for one row of `count` numbers.
    pub fn new_slots(&self, count: usize) -> Vec<Vec<f32>> {
        vec![vec![0.0; count]; self.slots]
    }
}

impl Evaluation {
    /// An evaluation that remembers nothing and draws nothing.
    fn new(timestep: f32, input_scale: f64, clean: (f64, f64), update: Linear) -> Self {
        Evaluation { timestep, input_scale, clean, keep: Vec::new(), update, draws_noise: false, advances: true }
    }

    /// The finished sample as the model now sees it, from what the UNet was given and what it answered.
    pub fn predict_clean(&self, scaled: &[f32], output: &[f32]) -> Vec<f32> {
        let (a, b) = self.clean;
        scaled.iter().zip(output).map(|(x, o)| (a * f64::from(*x) + b * f64::from(*o)) as f32).collect()
    }

    /// Carries out what follows the UNet call, element by element in one pass: `x` becomes the next sample, `slots`
    /// remember. All slices have the same length; without `noise` its term is left out. Sums are f64, in a fixed order.
    pub fn apply(&self, x: &mut [f32], output: &[f32], slots: &mut [Vec<f32>], noise: Option<&[f32]>) {
        let update = &self.update;
        for (i, (sample, &output)) in x.iter_mut().zip(output).enumerate() {
            let (x, o) = (f64::from(*sample), f64::from(output));
            for keep in &self.keep {
                let value = keep.sample * x + keep.output * o;
                slots[keep.slot][i] = keep.clamp.map_or(value, |c| value.clamp(-c, c)) as f32;
            }
            let mut next = update.sample * x + update.output * o;
            for &(slot, weight) in &update.slots {
                next += weight * f64::from(slots[slot][i]);
            }
            if let Some(noise) = noise {
                next += update.noise * f64::from(noise[i]);
            }
            *sample = next as f32;
        }
    }

    fn is_finite(&self) -> bool {
        let keeps = self.keep.iter().flat_map(|k| [k.sample, k.output]);
        let update = [self.update.sample, self.update.output, self.update.noise, self.input_scale];
        let slots = self.update.slots.iter().map(|s| s.1);
        self.timestep.is_finite() && keeps.chain(update).chain(slots).all(f64::is_finite)
    }
}
