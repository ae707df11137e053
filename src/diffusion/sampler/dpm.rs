//! DPM-Solver and DPM-Solver++ in their multistep forms (`DPMSolverMultistepScheduler`; arXiv 2206.00927, 2211.01095).

use super::euler::{SMALLEST_ALPHA, last_sigma};
use super::schedule::{Prediction, Schedule, Spacing, count_down, linspace, train_timesteps};
use super::sigmas::{Curve, check_start, interpolate, overridden_ends, timestep_of};
use super::{Evaluation, Keep, Linear, Plan, PlanError, SchedulerConfig};
use crate::domain::Scheduler;

const SCHEDULER: Scheduler = Scheduler::DpmSolverMultistep;

/// `algorithm_type`: which integral is solved, and whether noise is added.
#[derive(Debug, Clone, Copy)]
struct Algorithm {
    /// The clean sample is integrated (`++`), not the noise.
    clean: bool,
    stochastic: bool,
}

#[derive(Debug)]
struct Solver {
    algorithm: Algorithm,
    order: usize,
    heun: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    ends_at_zero: bool,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan, PlanError> {
    for (option, harmless) in [("thresholding", false.into()), ("use_flow_sigmas", false.into())] {
        config.refuse(SCHEDULER, option, &[harmless])?;
    }
    let fixed = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"];
    config.refuse(SCHEDULER, "variance_type", &fixed.map(Into::into))?;
    let prediction = Prediction::read(SCHEDULER, config)?;
    let schedule = Schedule::read(config, true, Some(SMALLEST_ALPHA))?;
    let last = last_sigma(config, &schedule)?;
    let solver = Solver::read(config, last == 0.0)?;
    let (timesteps, sigmas) = levels(config, &schedule, steps, last)?;
    check_start(&timesteps, SCHEDULER, steps)?;

    let count = timesteps.len();
    let mut evaluations = Vec::with_capacity(count);
    for (i, &timestep) in timesteps.iter().enumerate() {
        let (alpha, sigma) = rotation(sigmas[i]);
        let clean = prediction.clean(alpha, sigma);
        let (sample, output) = match solver.algorithm.clean {
            true => clean,
            false => prediction.noise(alpha, sigma),
        };
        let order = solver.order_at(i, count)?;
        let history: Vec<f64> = (0..=order).filter_map(|k| sigmas.get((i + 1).checked_sub(k)?)).copied().collect();
        let step = Step::new(&solver, &history, order);
        let slot = |back: usize| (i - back) % solver.order;
        let update = Linear {
            sample: step.sample,
            output: 0.0,
            slots: step.outputs.iter().enumerate().map(|(back, &weight)| (slot(back), weight)).collect(),
            noise: step.noise,
        };
        let keep = vec![Keep { slot: slot(0), sample, output, clamp: None }];
        let draws_noise = solver.algorithm.stochastic;
        evaluations.push(Evaluation { keep, draws_noise, ..Evaluation::new(timestep, 1.0, clean, update) });
    }
    Ok(Plan { init_noise_sigma: 1.0, slots: solver.order, evaluations })
}

impl Solver {
    fn read(config: &SchedulerConfig, ends_at_zero: bool) -> Result<Self, PlanError> {
        let algorithm = |clean, stochastic| Algorithm { clean, stochastic };
        let names = [
            ("dpmsolver++", algorithm(true, false)),
            ("dpmsolver", algorithm(false, false)),
            ("sde-dpmsolver++", algorithm(true, true)),
            ("sde-dpmsolver", algorithm(false, true)),
            ("deis", algorithm(true, false)),
        ];
        let expected = "dpmsolver++, dpmsolver, sde-dpmsolver++ or sde-dpmsolver";
        let algorithm = config.choice("algorithm_type", algorithm(true, false), &names, expected)?;
        // diffusers takes deis for dpmsolver++, but only after this check.
        if (!algorithm.clean || config.is("algorithm_type", "deis")) && ends_at_zero {
            return Err(PlanError::Invalid {
                option: "final_sigmas_type",
                expected: "sigma_min for this algorithm_type",
                value: "zero".into(),
            });
        }
        // Names that come with other classes' files stand for midpoint, as in diffusers.
        let types = [("midpoint", false), ("heun", true), ("logrho", false), ("bh1", false), ("bh2", false)];
        let orders = [1, 2, 3];
        let order = config.integer("solver_order", 2)?;
        let Some(order) = orders.into_iter().find(|&o| o as i64 == order) else {
            return Err(PlanError::Invalid { option: "solver_order", expected: "1, 2 or 3", value: order.to_string() });
        };
        Ok(Solver {
            algorithm,
            order,
            heun: config.choice("solver_type", false, &types, "midpoint or heun")?,
            lower_order_final: config.flag("lower_order_final", true)?,
            euler_at_final: config.flag("euler_at_final", false)?,
            ends_at_zero,
        })
    }

    /// How many outputs the `i`-th of `count` steps uses.
    fn order_at(&self, i: usize, count: usize) -> Result<usize, PlanError> {
        let few = self.lower_order_final && count < 15;
        let first = i + 1 == count && (self.euler_at_final || few || self.ends_at_zero);
        let second = i + 2 == count && few;
        let order = match i + 1 {
            _ if first => 1,
            known if second => self.order.min(known).min(2),
            known => self.order.min(known),
        };
        if order == 3 && self.algorithm.stochastic && !self.algorithm.clean {
            let value = "3 with sde-dpmsolver".into();
            return Err(PlanError::Unsupported { scheduler: SCHEDULER.name(), option: "solver_order", value });
        }
        Ok(order)
    }
}

/// One update's coefficients: of the sample, of the converted outputs (newest first) and of the noise.
struct Step {
    sample: f64,
    outputs: Vec<f64>,
    noise: f64,
}

impl Step {
    /// `levels`: σ of the sample to be made, of the present one, and of earlier ones as far as `order` needs them.
    fn new(solver: &Solver, levels: &[f64], order: usize) -> Self {
        let Algorithm { clean, stochastic } = solver.algorithm;
        let (alpha_t, sigma_t) = rotation(levels[0]);
        let (alpha_s, sigma_s) = rotation(levels[1]);
        let lambda: Vec<f64> = levels.iter().map(|s| -s.ln()).collect();
        let h = lambda[0] - lambda[1];

        // With H = ∓h (twice that with noise) and φ(H) = e^H − 1, every variant is one formula.
        let big = match (clean, stochastic) {
            (true, false) => -h,
            (true, true) => -2.0 * h,
            (false, _) => h,
        };
        let phi = big.exp_m1();
        let scale = match (clean, stochastic) {
            (true, _) => -alpha_t,
            (false, false) => -sigma_t,
            (false, true) => -2.0 * sigma_t,
        };
        let sample = match (clean, stochastic) {
            (true, false) => sigma_t / sigma_s,
            (true, true) => sigma_t / sigma_s * (-h).exp(),
            (false, _) => alpha_t / alpha_s,
        };
        let noise = match (clean, stochastic) {
            (_, false) => 0.0,
            (true, true) => sigma_t * (-(-2.0 * h).exp_m1()).sqrt(),
            (false, true) => sigma_t * (2.0 * h).exp_m1().sqrt(),
        };
        let d0 = scale * phi;
        if order == 1 {
            return Step { sample, outputs: vec![d0], noise };
        }
        // Weights of the first and second differences of the outputs.
        let slope = if solver.heun || order == 3 { scale * (phi / big - 1.0) } else { 0.5 * d0 };
        let half = if stochastic { 0.5 } else { -0.5 };
        let curve = scale * ((phi - big) / (big * big) + half);
        let r0 = (lambda[1] - lambda[2]) / h;
        let outputs = match order {
            2 => vec![d0 + slope / r0, -slope / r0],
            _ => {
                let r1 = (lambda[2] - lambda[3]) / h;
                let newer = (slope * (1.0 + r0 / (r0 + r1)) + curve / (r0 + r1)) / r0;
                let older = -(slope * r0 + curve) / (r0 + r1) / r1;
                vec![d0 + newer, older - newer, -older]
            }
        };
        Step { sample, outputs, noise }
    }
}

/// (α, σ) of the variance-preserving form, from σ of the variance-exploding one.
fn rotation(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// Timesteps, and the σ between which the solver steps: one more.
fn levels(
    config: &SchedulerConfig,
    schedule: &Schedule,
    steps: usize,
    last: f64,
) -> Result<(Vec<f32>, Vec<f64>), PlanError> {
    let trained = schedule.sigmas();
    let (timesteps, mut sigmas) = match Curve::read(SCHEDULER, config, true)? {
        None => {
            let timesteps = whole_timesteps(config, schedule, steps)?;
            let sigmas = timesteps.iter().map(|&t| interpolate(&trained, t as f64)).collect();
            (timesteps.into_iter().map(|t| t as f32).collect(), sigmas)
        }
        Some(curve) => {
            let ends = (trained[trained.len() - 1], trained[0]);
            let (high, low) = if curve == Curve::Lu { ends } else { overridden_ends(config, ends)? };
            let sigmas = curve.sigmas(high, low, steps);
            let truncates =
                config.is("beta_schedule", "squaredcos_cap_v2") || matches!(curve, Curve::Exponential | Curve::Beta);
            let logs: Vec<f64> = trained.iter().map(|s| f64::from((*s as f32).ln())).collect();
            let timestep = |sigma: &f64| match (timestep_of(*sigma, &logs), truncates) {
                (t, true) => t.trunc() as f32,
                (t, false) => t.round_ties_even() as f32,
            };
            (sigmas.iter().map(timestep).collect::<Vec<f32>>(), sigmas)
        }
    };
    sigmas.push(last);
    sigmas.iter_mut().for_each(|s| *s = f64::from(*s as f32));
    Ok((timesteps, sigmas))
}

/// Unlike the other classes', these leave out the last of `steps + 1` timesteps, and can end where λ is clipped.
fn whole_timesteps(config: &SchedulerConfig, schedule: &Schedule, steps: usize) -> Result<Vec<i64>, PlanError> {
    let train = train_timesteps(config)?;
    let clip = config.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    let clipped = schedule.lambdas().iter().filter(|&&l| f64::from(l) < clip).count();
    let last = train.saturating_sub(clipped);
    let rounded = |values: Vec<f64>| values.into_iter().map(|t| t.round_ties_even() as i64);
    Ok(match Spacing::read(config, Spacing::Linspace)? {
        Spacing::Linspace => rounded(linspace(0.0, last as f64 - 1.0, steps + 1)).skip(1).rev().collect(),
        Spacing::Leading => {
            let offset = config.integer("steps_offset", 0)?;
            (1..=steps).rev().map(|i| (i * (last / (steps + 1))) as i64 + offset).collect()
        }
        Spacing::Trailing => rounded(count_down(last as f64, train as f64 / steps as f64)).map(|t| t - 1).collect(),
    })
}
