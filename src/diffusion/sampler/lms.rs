//! The linear multistep method over σ (`LMSDiscreteScheduler`, order 4, after k-diffusion).

use super::euler::{clean, input_scale};
use super::schedule::{Prediction, Schedule};
use super::sigmas::Levels;
use super::{Evaluation, Keep, Linear, Plan, PlanError, SchedulerConfig};
use crate::domain::Scheduler;

const SCHEDULER: Scheduler = Scheduler::Klms;
const ORDER: usize = 4;

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    let prediction = Prediction::read(SCHEDULER, config)?;
    let schedule = Schedule::read(config, false, None)?;
    let levels = Levels::read(SCHEDULER, config, &schedule, steps, true)?.finish(0.0, SCHEDULER, steps)?;
    let evaluations = levels
        .steps()
        .enumerate()
        .map(|(i, (timestep, sigma, next))| {
            let (sample, output) = prediction.derivative(sigma);
            let keep = vec![Keep { slot: i % ORDER, sample, output, clamp: None }];
            // Newest first: the levels through whose derivatives the polynomial goes.
            let order = ORDER.min(i + 1);
            let nodes: Vec<f64> = (0..order).map(|k| levels.sigmas[i - k]).collect();
            let slots = (0..order).map(|k| ((i - k) % ORDER, lagrange_integral(&nodes, k, sigma, next))).collect();
            let update = Linear { sample: 1.0, slots, ..Linear::default() };
            let evaluation = Evaluation::new(timestep, input_scale(sigma), clean(prediction, sigma), update);
            Evaluation { keep, ..evaluation }
        })
        .collect();
    Ok(Plan { init_noise_sigma: levels.init_noise_sigma(), slots: ORDER, evaluations })
}

/// The integral of the Lagrange polynomial that is 1 at `nodes[k]` and 0 at the others, from `from` to `to`.
/// Gauss–Legendre with two points is exact for the cubics that occur here.
fn lagrange_integral(nodes: &[f64], k: usize, from: f64, to: f64) -> f64 {
    let basis = |tau: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(j, _)| *j != k);
        others.map(|(_, node)| (tau - node) / (nodes[k] - node)).product()
    };
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    let offset = half / 3f64.sqrt();
    half * (basis(middle - offset) + basis(middle + offset))
}
