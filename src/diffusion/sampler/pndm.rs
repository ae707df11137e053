//! Pseudo linear multistep method (`PNDMScheduler`; arXiv 2202.09778), with its Runge–Kutta start unless the file says
//! `skip_prk_steps`.

use super::schedule::{Prediction, Schedule, Spacing, integer_timesteps, train_timesteps};
use super::{Evaluation, Keep, Linear, Plan, PlanError, SchedulerConfig, Slot};
use crate::domain::Scheduler;

const SCHEDULER: Scheduler = Scheduler::Pndm;
/// Slots 0–3 are a ring of the outputs that the multistep formula uses; then a sample and two Runge–Kutta outputs.
const RING: usize = 4;
const SAMPLE: Slot = 4;
const SECOND: Slot = 5;
const THIRD: Slot = 6;
/// Evaluations of the Runge–Kutta start: three steps of four.
const START: usize = 12;

/// Adams–Bashforth weights, newest output first.
const MULTISTEP: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

struct Pndm {
    prediction: Prediction,
    schedule: Schedule,
    final_alpha: f64,
    steps: usize,
    /// Training timesteps between two steps.
    stride: i64,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    config.refuse(SCHEDULER, "prediction_type", &["epsilon", "v_prediction"].map(Into::into))?;
    let schedule = Schedule::read(config, false, None)?;
    let train = train_timesteps(config)?;
    let pndm = Pndm {
        prediction: Prediction::read(SCHEDULER, config)?,
        final_alpha: schedule.final_alpha(config.flag("set_alpha_to_one", false)?),
        schedule,
        steps,
        stride: (train / steps) as i64,
    };
    let spacing = Spacing::read(config, Spacing::Leading)?;
    let timesteps = integer_timesteps(spacing, train, steps, config.integer("steps_offset", 0)?);
    let (slots, evaluations) = match config.flag("skip_prk_steps", false)? {
        true => (SAMPLE + 1, pndm.without_start(&timesteps)?),
        false => (THIRD + 1, pndm.with_start(&timesteps)?),
    };
    Ok(Plan { init_noise_sigma: 1.0, slots, evaluations })
}

impl Pndm {
    /// Multistep from the first step on; the second timestep is evaluated twice, to repeat the first step better.
    fn without_start(&self, timesteps: &[i64]) -> Result<Vec<Evaluation>, PlanError> {
        let mut evaluations = Vec::with_capacity(timesteps.len() + 1);
        for (i, &timestep) in timesteps.iter().enumerate() {
            let mut first = self.multistep(i, i + 1, timestep)?;
            if i == 0 && timesteps.len() > 1 {
                first.keep.push(keep_sample());
            }
            evaluations.push(first);
            if i == 0
                && let Some(&second) = timesteps.get(1)
            {
                let mean = [(0, 0.5)];
                let update = self.update(second + self.stride, second, Some(SAMPLE), 0.5, &mean)?;
                evaluations.push(Evaluation::new(second as f32, 1.0, self.clean(second), update));
            }
        }
        Ok(evaluations)
    }

    /// Three Runge–Kutta steps of four evaluations each, then multistep.
    fn with_start(&self, timesteps: &[i64]) -> Result<Vec<Evaluation>, PlanError> {
        if timesteps.len() < RING {
            return Err(self.refuse("its Runge-Kutta start needs at least 4 (the file does not skip it)".into()));
        }
        let half = self.stride / 2;
        let mut evaluations = Vec::with_capacity(START + timesteps.len() - 3);
        for (step, pair) in timesteps[..RING].windows(2).enumerate() {
            // Evaluated at the step's beginning, twice in its middle and at its end.
            let (from, to) = (pair[0], pair[1]);
            let middle = to + half;
            let keep_output = |slot| Keep { slot, sample: 0.0, output: 1.0, clamp: None };
            let mut add = |at: i64, next, base, output, slots: &[(Slot, f64)], keep| -> Result<(), PlanError> {
                let update = self.update(from, next, base, output, slots)?;
                evaluations.push(Evaluation { keep, ..Evaluation::new(at as f32, 1.0, self.clean(at), update) });
                Ok(())
            };
            add(from, from - half, None, 1.0, &[], vec![keep_output(step), keep_sample()])?;
            add(middle, middle, Some(SAMPLE), 1.0, &[], vec![keep_output(SECOND)])?;
            add(middle, middle - half, Some(SAMPLE), 1.0, &[], vec![keep_output(THIRD)])?;
            let slots = [(step, 1.0 / 6.0), (SECOND, 1.0 / 3.0), (THIRD, 1.0 / 3.0)];
            add(to, to, Some(SAMPLE), 1.0 / 6.0, &slots, vec![])?;
        }
        for (i, &timestep) in timesteps.iter().enumerate().skip(RING - 1) {
            evaluations.push(self.multistep(i, RING, timestep)?);
        }
        Ok(evaluations)
    }

    /// One multistep evaluation: the `i`-th output that is remembered, `known` of them in all.
    fn multistep(&self, i: usize, known: usize, timestep: i64) -> Result<Evaluation, PlanError> {
        let weights = MULTISTEP[known.min(RING) - 1];
        let slots: Vec<(Slot, f64)> = weights.iter().enumerate().map(|(k, &w)| ((i + RING - k) % RING, w)).collect();
        let update = self.update(timestep, timestep - self.stride, None, 0.0, &slots)?;
        let keep = vec![Keep { slot: i % RING, sample: 0.0, output: 1.0, clamp: None }];
        Ok(Evaluation { keep, ..Evaluation::new(timestep as f32, 1.0, self.clean(timestep), update) })
    }

    /// [`Evaluation::clean`] at a timestep; those that there are not have been refused by then.
    fn clean(&self, timestep: i64) -> (f64, f64) {
        let alpha = self.schedule.alpha(timestep).unwrap_or(1.0);
        self.prediction.clean(alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    /// Formula 9 of the paper, from `timestep` to `next`, for a sum of the present output (`output`) and remembered ones
    /// (`slots`), starting from the present sample or the one remembered in `base`.
    fn update(
        &self,
        timestep: i64,
        next: i64,
        base: Option<Slot>,
        output: f64,
        slots: &[(Slot, f64)],
    ) -> Result<Linear, PlanError> {
        let outside = |t: i64| self.refuse(format!("timestep {t} is outside the {} trained ones", self.schedule.len()));
        let alpha = self.schedule.alpha(timestep).ok_or_else(|| outside(timestep))?;
        let to = match next {
            ..0 => self.final_alpha,
            _ => self.schedule.alpha(next).ok_or_else(|| outside(next))?,
        };
        let (noise_x, noise_o) = self.prediction.noise(alpha.sqrt(), (1.0 - alpha).sqrt());
        let weight = (alpha - to) / (alpha * (1.0 - to).sqrt() + (alpha * (1.0 - alpha) * to).sqrt());
        let sample = (to / alpha).sqrt() + weight * noise_x;
        let output_weight = weight * noise_o;
        let mut update = Linear { output: output_weight * output, ..Linear::default() };
        match base {
            Some(slot) => update.slots.push((slot, sample)),
            None => update.sample = sample,
        }
        update.slots.extend(slots.iter().map(|&(slot, w)| (slot, output_weight * w)));
        Ok(update)
    }

    fn refuse(&self, reason: String) -> PlanError {
        PlanError::Steps { scheduler: SCHEDULER.name(), steps: self.steps, reason }
    }
}

fn keep_sample() -> Keep {
    Keep { slot: SAMPLE, sample: 1.0, output: 0.0, clamp: None }
}
