//! Euler's method over σ (`EulerDiscreteScheduler`) and its ancestral form (`EulerAncestralDiscreteScheduler`), after
//! algorithm 2 of arXiv 2206.00364 and k-diffusion.

use super::schedule::{Prediction, Schedule};
use super::sigmas::{Curve, Levels, log_linear};
use super::{Evaluation, Linear, Plan, PlanError, SchedulerConfig};
use crate::domain::Scheduler;

/// What stands for ᾱ = 0 when betas are rescaled: the smallest f16, so that σ stays finite.
pub(super) const SMALLEST_ALPHA: f32 = 1.0 / (1 << 24) as f32;

/// `K_EULER`.
pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    let prediction = Prediction::read(Scheduler::KEuler, config)?;
    let schedule = Schedule::read(config, true, Some(SMALLEST_ALPHA))?;
    let levels = levels(config, &schedule, prediction, steps)?;
    let evaluations = levels
        .steps()
        .map(|(timestep, sigma, next)| {
            let (x, o) = prediction.derivative(sigma);
            let update = Linear { sample: 1.0 + x * (next - sigma), output: o * (next - sigma), ..Linear::default() };
            Evaluation::new(timestep, input_scale(sigma), clean(prediction, sigma), update)
        })
        .collect();
    Ok(Plan { init_noise_sigma: levels.init_noise_sigma(), slots: 0, evaluations })
}

fn levels(
    config: &SchedulerConfig,
    schedule: &Schedule,
    prediction: Prediction,
    steps: usize,
) -> Result<Levels, PlanError> {
    let log = config.choice(
        "interpolation_type",
        false,
        &[("linear", false), ("log_linear", true)],
        "linear or log_linear",
    )?;
    if log && Curve::read(Scheduler::KEuler, config, false)?.is_some() {
        return Err(PlanError::Unsupported {
            scheduler: Scheduler::KEuler.name(),
            option: "interpolation_type",
            value: "log_linear together with other sigmas".into(),
        });
    }
    let continuous = config.choice(
        "timestep_type",
        false,
        &[("discrete", false), ("continuous", true)],
        "discrete or continuous",
    )?;
    let mut levels = Levels::read(Scheduler::KEuler, config, schedule, steps, true)?;
    if log {
        levels.sigmas = log_linear(&schedule.sigmas(), steps);
    }
    let last = last_sigma(config, schedule)?;
    let mut levels = levels.finish(last, Scheduler::KEuler, steps)?;
    if continuous && prediction == Prediction::V {
        levels.timesteps = levels.sigmas[..levels.sigmas.len() - 1].iter().map(|&s| 0.25 * (s as f32).ln()).collect();
    }
    Ok(levels)
}

/// Where the sampler ends, by `final_sigmas_type`.
pub(super) fn last_sigma(config: &SchedulerConfig, schedule: &Schedule) -> Result<f64, PlanError> {
    let names = [("zero", false), ("sigma_min", true)];
    let smallest = config.choice("final_sigmas_type", false, &names, "zero or sigma_min")?;
    Ok(if smallest { schedule.sigmas()[0] } else { 0.0 })
}

/// `K_EULER_ANCESTRAL`.
pub(super) fn plan_ancestral(config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    const SCHEDULER: Scheduler = Scheduler::KEulerAncestral;
    config.refuse(SCHEDULER, "prediction_type", &["epsilon", "v_prediction"].map(Into::into))?;
    let prediction = Prediction::read(SCHEDULER, config)?;
    let schedule = Schedule::read(config, true, Some(SMALLEST_ALPHA))?;
    let levels = Levels::read(SCHEDULER, config, &schedule, steps, false)?.finish(0.0, SCHEDULER, steps)?;
    let evaluations = levels
        .steps()
        .map(|(timestep, sigma, next)| {
            let up = (next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt();
            let down = (next * next - up * up).max(0.0).sqrt();
            let (x, o) = prediction.derivative(sigma);
            let (sample, output) = (1.0 + x * (down - sigma), o * (down - sigma));
            let update = Linear { sample, output, noise: up, ..Linear::default() };
            // The last step's noise weighs nothing, but diffusers draws it.
            let evaluation = Evaluation::new(timestep, input_scale(sigma), clean(prediction, sigma), update);
            Evaluation { draws_noise: true, ..evaluation }
        })
        .collect();
    Ok(Plan { init_noise_sigma: levels.init_noise_sigma(), slots: 0, evaluations })
}

/// Brings a sample of variance `σ² + 1` to variance one for the UNet.
pub(super) fn input_scale(sigma: f64) -> f64 {
    1.0 / (sigma * sigma + 1.0).sqrt()
}

/// [`Evaluation::clean`] at this σ of the variance-exploding form: what the UNet is given is of the preserving form.
pub(super) fn clean(prediction: Prediction, sigma: f64) -> (f64, f64) {
    let alpha = input_scale(sigma);
    prediction.clean(alpha, sigma * alpha)
}
