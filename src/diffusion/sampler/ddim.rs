//! DDIM without added noise (`DDIMScheduler`, η = 0; arXiv 2010.02502, formula 12).

use super::schedule::{Prediction, Schedule, Spacing, integer_timesteps, train_timesteps};
use super::{Evaluation, Keep, Linear, Plan, PlanError, SchedulerConfig};
use crate::domain::Scheduler;

const SCHEDULER: Scheduler = Scheduler::Ddim;

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    config.refuse(SCHEDULER, "thresholding", &[false.into()])?;
    let prediction = Prediction::read(SCHEDULER, config)?;
    let clamp = match config.flag("clip_sample", true)? {
        true => Some(clip_range(config)?),
        false => None,
    };
    let schedule = Schedule::read(config, true, None)?;
    let final_alpha = schedule.final_alpha(config.flag("set_alpha_to_one", true)?);
    let train = train_timesteps(config)?;
    let refuse = |reason: String| PlanError::Steps { scheduler: SCHEDULER.name(), steps, reason };
    let spacing = Spacing::read(config, Spacing::Leading)?;
    let timesteps = integer_timesteps(spacing, train, steps, config.integer("steps_offset", 0)?);

    let mut evaluations = Vec::with_capacity(timesteps.len());
    for timestep in timesteps {
        let outside = || refuse(format!("timestep {timestep} is outside the {} trained ones", schedule.len()));
        let before = timestep - (train / steps) as i64;
        let alpha = schedule.alpha(timestep).ok_or_else(outside)?;
        let next = if before >= 0 { schedule.alpha(before).ok_or_else(outside)? } else { final_alpha };
        let (alpha, sigma) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        let (next_alpha, next_sigma) = (next.sqrt(), (1.0 - next).sqrt());

        let (clean_x, clean_o) = prediction.clean(alpha, sigma);
        let (noise_x, noise_o) = prediction.noise(alpha, sigma);
        // The clipped sample cannot be folded into the update; the direction to x is never clipped.
        let mut update = Linear { sample: next_sigma * noise_x, output: next_sigma * noise_o, ..Linear::default() };
        let mut keep = Vec::new();
        if clamp.is_some() {
            keep.push(Keep { slot: 0, sample: clean_x, output: clean_o, clamp });
            update.slots.push((0, next_alpha));
        } else {
            update.sample += next_alpha * clean_x;
            update.output += next_alpha * clean_o;
        }
        evaluations.push(Evaluation { keep, ..Evaluation::new(timestep as f32, 1.0, (clean_x, clean_o), update) });
    }
    Ok(Plan { init_noise_sigma: 1.0, slots: usize::from(clamp.is_some()), evaluations })
}

fn clip_range(config: &SchedulerConfig) -> Result<f64, PlanError> {
    let range = config.number("clip_sample_range", 1.0)?;
    match range >= 0.0 {
        true => Ok(range),
        false => {
            Err(PlanError::Invalid { option: "clip_sample_range", expected: "zero or more", value: range.to_string() })
        }
    }
}
