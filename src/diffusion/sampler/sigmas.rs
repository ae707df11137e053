//! The noise levels σ that K_EULER, K_EULER_ANCESTRAL, KLMS and DPMSolverMultistep step through.

use super::schedule::{Schedule, Spacing, count_down, linspace, torch_linspace, train_timesteps};
use super::{PlanError, SchedulerConfig};
use crate::domain::Scheduler;

/// Timesteps for the UNet, largest first, and the σ between which the sampler steps: one more, usually.
#[derive(Debug)]
pub(super) struct Levels {
    pub timesteps: Vec<f32>,
    /// f32 values.
    pub sigmas: Vec<f64>,
    spacing: Spacing,
}

/// A formula for the noise levels in place of those of the chosen timesteps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Curve {
    Karras,
    Exponential,
    Beta,
    Lu,
}

impl Levels {
    /// Of the variance-exploding classes. `curves`: whether this class knows Karras and exponential sigmas.
    pub fn read(
        scheduler: Scheduler,
        config: &SchedulerConfig,
        schedule: &Schedule,
        steps: usize,
        curves: bool,
    ) -> Result<Self, PlanError> {
        let spacing = Spacing::read(config, Spacing::Linspace)?;
        let timesteps = fractional_timesteps(spacing, config, steps)?;
        let trained = schedule.sigmas();
        let sigmas = timesteps.iter().map(|&t| interpolate(&trained, f64::from(t))).collect();
        let mut levels = Levels { timesteps, sigmas, spacing };
        let curve = if curves { Curve::read(scheduler, config, false)? } else { None };
        if let Some(curve) = curve {
            let (high, low) = levels.ends(curve, scheduler, config)?;
            levels.sigmas = curve.sigmas(high, low, steps);
            let logs: Vec<f64> = trained.iter().map(|s| f64::from((*s as f32).ln())).collect();
            levels.timesteps = levels.sigmas.iter().map(|&s| timestep_of(s, &logs) as f32).collect();
        }
        Ok(levels)
    }

    fn ends(&self, curve: Curve, scheduler: Scheduler, config: &SchedulerConfig) -> Result<(f64, f64), PlanError> {
        let ends = (self.sigmas[0], self.sigmas[self.sigmas.len() - 1]);
        match (scheduler, curve) {
            (Scheduler::Klms, Curve::Karras) => Ok(ends),
            _ => overridden_ends(config, ends),
        }
    }

    /// Appends the last σ and rounds all to f32, as diffusers stores them. The sampler steps once per timestep.
    pub fn finish(mut self, last: f64, scheduler: Scheduler, steps: usize) -> Result<Self, PlanError> {
        self.sigmas.push(last);
        self.sigmas.iter_mut().for_each(|s| *s = f64::from(*s as f32));
        check_start(&self.timesteps, scheduler, steps)?;
        Ok(self)
    }

    /// What the initial noise is multiplied by.
    pub fn init_noise_sigma(&self) -> f64 {
        let max = self.sigmas.iter().copied().fold(0.0, f64::max);
        match self.spacing {
            Spacing::Linspace | Spacing::Trailing => max,
            Spacing::Leading => (max * max + 1.0).sqrt(),
        }
    }

    /// Each step as (timestep, σ, next σ).
    pub fn steps(&self) -> impl Iterator<Item = (f32, f64, f64)> + '_ {
        let pairs = self.sigmas.iter().zip(&self.sigmas[1..]);
        self.timesteps.iter().zip(pairs).map(|(&t, (&from, &to))| (t, from, to))
    }
}

/// diffusers finds its first step by the value of the first timestep and takes the second of equal ones, so that it
/// then runs off the end.
pub(super) fn check_start(timesteps: &[f32], scheduler: Scheduler, steps: usize) -> Result<(), PlanError> {
    match timesteps {
        [first, rest @ ..] if rest.contains(first) => Err(PlanError::Steps {
            scheduler: scheduler.name(),
            steps,
            reason: format!("the first timestep, {first}, occurs more than once"),
        }),
        _ => Ok(()),
    }
}

impl Curve {
    pub fn read(scheduler: Scheduler, config: &SchedulerConfig, lu: bool) -> Result<Option<Self>, PlanError> {
        let karras = config.flag("use_karras_sigmas", false)?;
        let exponential = config.flag("use_exponential_sigmas", false)?;
        let beta = config.flag("use_beta_sigmas", false)?;
        if [karras, exponential, beta].into_iter().filter(|&on| on).count() > 1 {
            return Err(PlanError::Unsupported {
                scheduler: scheduler.name(),
                option: "more than one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas",
                value: "true".into(),
            });
        }
        Ok(match (karras, lu && config.flag("use_lu_lambdas", false)?, exponential) {
            (true, _, _) => Some(Curve::Karras),
            (_, true, _) => Some(Curve::Lu),
            (_, _, true) => Some(Curve::Exponential),
            _ => beta.then_some(Curve::Beta),
        })
    }

    /// `count` noise levels from `high` down to `low` (Karras: arXiv 2206.00364, formula 5, ρ = 7; beta: arXiv 2407.12173,
    /// α = β = 0.6).
    pub fn sigmas(self, high: f64, low: f64, count: usize) -> Vec<f64> {
        match self {
            Curve::Karras => {
                let (from, to) = (high.powf(1.0 / 7.0), low.powf(1.0 / 7.0));
                linspace(0.0, 1.0, count).into_iter().map(|t| (from + t * (to - from)).powf(7.0)).collect()
            }
            Curve::Exponential => linspace(high.ln(), low.ln(), count).into_iter().map(f64::exp).collect(),
            Curve::Beta => {
                let shares = linspace(0.0, 1.0, count).into_iter().map(|t| beta_quantile(1.0 - t));
                shares.map(|share| low + share * (high - low)).collect()
            }
            Curve::Lu => {
                let (from, to) = (high.ln(), low.ln());
                linspace(0.0, 1.0, count).into_iter().map(|t| (from + t * (to - from)).exp()).collect()
            }
        }
    }
}

/// The quantile function of the beta distribution with both parameters 0.6, by bisection.
fn beta_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return 1.0 - beta_quantile(1.0 - p);
    }
    let target = 2.0 * p * incomplete_beta(0.5);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if incomplete_beta(middle) < target { low = middle } else { high = middle }
    }
    high
}

/// The integral of `t^(a−1)·(1−t)^(a−1)` from 0 to `x ≤ ½` with a = 0.6, as a power series.
fn incomplete_beta(x: f64) -> f64 {
    const A: f64 = 0.6;
    let (mut power, mut sum) = (1.0, 0.0);
    for n in 0..64 {
        let n = f64::from(n);
        sum += power / (A + n);
        power *= x * (n + 1.0 - A) / (n + 1.0);
    }
    sum * x.powf(A)
}

/// (highest, lowest) σ, unless the file sets `sigma_max` and `sigma_min`.
pub(super) fn overridden_ends(config: &SchedulerConfig, ends: (f64, f64)) -> Result<(f64, f64), PlanError> {
    let high = config.optional_number("sigma_max")?.unwrap_or(ends.0);
    let low = config.optional_number("sigma_min")?.unwrap_or(ends.1);
    Ok((high, low))
}

/// Log-linear noise levels from the highest trained σ to the lowest: one more than steps.
pub(super) fn log_linear(trained: &[f64], steps: usize) -> Vec<f64> {
    let log = |sigma: f64| f64::from((sigma as f32).ln());
    let logs = torch_linspace(log(trained[trained.len() - 1]), log(trained[0]), steps + 1);
    logs.into_iter().map(|l| f64::from(l.exp())).collect()
}

fn fractional_timesteps(spacing: Spacing, config: &SchedulerConfig, steps: usize) -> Result<Vec<f32>, PlanError> {
    let train = train_timesteps(config)?;
    Ok(match spacing {
        Spacing::Linspace => linspace(0.0, train as f64 - 1.0, steps).into_iter().rev().map(|t| t as f32).collect(),
        Spacing::Leading => {
            let offset = config.integer("steps_offset", 0)? as f32;
            (0..steps).rev().map(|i| (i * (train / steps)) as f32 + offset).collect()
        }
        Spacing::Trailing => count_down(train as f64, train as f64 / steps as f64)
            .into_iter()
            .map(|t| t.round_ties_even() as f32 - 1.0)
            .collect(),
    })
}

/// `numpy.interp` over 0, 1, 2…: constant beyond both ends.
pub(super) fn interpolate(table: &[f64], at: f64) -> f64 {
    let last = table.len() - 1;
    if at <= 0.0 {
        return table[0];
    }
    if at >= last as f64 {
        return table[last];
    }
    let low = at.floor() as usize;
    (table[low + 1] - table[low]) * (at - low as f64) + table[low]
}

/// The fractional timestep with this σ, interpolated between the trained log σ.
pub(super) fn timestep_of(sigma: f64, logs: &[f64]) -> f64 {
    let log = sigma.max(1e-10).ln();
    let last = logs.len().saturating_sub(2);
    let low = logs.partition_point(|&l| l <= log).saturating_sub(1).min(last);
    let Some(&high) = logs.get(low + 1) else { return 0.0 };
    let weight = ((logs[low] - log) / (logs[low] - high)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}
