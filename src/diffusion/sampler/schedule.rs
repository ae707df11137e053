//! What the schedulers share: the training noise schedule, prediction types and the spacings of timesteps.
//!
//! The schedule's table is rounded to f32 exactly where torch rounds it, because its small entries carry only a few
//! digits there and a picture must come out as diffusers makes it; everything after the table is f64.

use super::{PlanError, SchedulerConfig};
use crate::domain::Scheduler;

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Prediction {
    Epsilon,
    V,
    Sample,
}

/// How inference timesteps are laid over the training ones (table 2 of arXiv 2305.08891).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

impl Prediction {
    pub fn read(scheduler: Scheduler, config: &SchedulerConfig) -> Result<Self, PlanError> {
        config.refuse(scheduler, "prediction_type", &["epsilon", "v_prediction", "sample"].map(Into::into))?;
        let names = [("epsilon", Self::Epsilon), ("v_prediction", Self::V), ("sample", Self::Sample)];
        config.choice("prediction_type", Self::Epsilon, &names, "epsilon, v_prediction or sample")
    }

    /// The predicted clean sample as `(a, b)` in `a·x + b·output`, for `x = alpha·x0 + sigma·noise`.
    pub fn clean(self, alpha: f64, sigma: f64) -> (f64, f64) {
        match self {
            Prediction::Epsilon => (1.0 / alpha, -sigma / alpha),
            Prediction::V => (alpha, -sigma),
            Prediction::Sample => (0.0, 1.0),
        }
    }

    /// The predicted noise, likewise.
    pub fn noise(self, alpha: f64, sigma: f64) -> (f64, f64) {
        match self {
            Prediction::Epsilon => (0.0, 1.0),
            Prediction::V => (sigma, alpha),
            Prediction::Sample => (1.0 / sigma, -alpha / sigma),
        }
    }

    /// `dx/dσ` of the variance-exploding form `x = x0 + σ·noise`, likewise (`(x − x0) / σ`).
    pub fn derivative(self, sigma: f64) -> (f64, f64) {
        let square = sigma * sigma + 1.0;
        let (sample, output) = match self {
            Prediction::Epsilon => return (0.0, 1.0),
            Prediction::V => (1.0 / square, -sigma / square.sqrt()),
            Prediction::Sample => (0.0, 1.0),
        };
        ((1.0 - sample) / sigma, -output / sigma)
    }
}

impl Spacing {
    pub fn read(config: &SchedulerConfig, default: Spacing) -> Result<Self, PlanError> {
        let names = [("linspace", Self::Linspace), ("leading", Self::Leading), ("trailing", Self::Trailing)];
        config.choice("timestep_spacing", default, &names, "linspace, leading or trailing")
    }
}

/// The training noise schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    /// ᾱ of each training timestep: f32 values.
    alphas: Vec<f32>,
}

impl Schedule {
    /// From the betas of the config. `rescalable`: whether this class knows `rescale_betas_zero_snr`;
    /// `floor`: what it then puts in place of the last ᾱ, which is zero.
    pub fn read(config: &SchedulerConfig, rescalable: bool, floor: Option<f32>) -> Result<Self, PlanError> {
        let mut betas = betas(config)?;
        let rescale = rescalable && config.flag("rescale_betas_zero_snr", false)?;
        if rescale {
            betas = rescale_zero_snr(&betas);
        }
        let mut alphas = cumulative_product(betas.iter().map(|b| 1.0 - b));
        if let (true, Some(floor), Some(last)) = (rescale, floor, alphas.last_mut()) {
            *last = floor;
        }
        Ok(Schedule { alphas })
    }

    /// How many training timesteps.
    pub fn len(&self) -> usize {
        self.alphas.len()
    }

    /// ᾱ at a timestep; negative ones count from the end, as Python's indices do (`trailing` can end at −1).
    pub fn alpha(&self, timestep: i64) -> Option<f64> {
        let index = if timestep < 0 { timestep + self.len() as i64 } else { timestep };
        usize::try_from(index).ok().and_then(|i| self.alphas.get(i)).map(|&a| f64::from(a))
    }

    /// ᾱ before the first timestep.
    pub fn final_alpha(&self, set_alpha_to_one: bool) -> f64 {
        if set_alpha_to_one { 1.0 } else { f64::from(self.alphas[0]) }
    }

    /// `sqrt((1 − ᾱ)/ᾱ)` of each training timestep, smallest first: f32 values.
    pub fn sigmas(&self) -> Vec<f64> {
        self.alphas.iter().map(|a| f64::from(((1.0 - a) / a).sqrt())).collect()
    }

    /// `log α − log σ` of each training timestep in f32.
    pub fn lambdas(&self) -> Vec<f32> {
        self.alphas.iter().map(|a| a.sqrt().ln() - (1.0 - a).sqrt().ln()).collect()
    }
}

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>, PlanError> {
    #[derive(Clone, Copy)]
    enum Shape {
        Linear,
        ScaledLinear,
        Cosine,
    }
    if let Some(trained) = config.numbers("trained_betas")? {
        if trained.is_empty() {
            return Err(PlanError::Invalid { option: "trained_betas", expected: "not empty", value: "[]".into() });
        }
        return Ok(trained.into_iter().map(|b| b as f32).collect());
    }
    let count = train_timesteps(config)?;
    let (start, end) = (config.number("beta_start", 0.0001)?, config.number("beta_end", 0.02)?);
    let names =
        [("linear", Shape::Linear), ("scaled_linear", Shape::ScaledLinear), ("squaredcos_cap_v2", Shape::Cosine)];
    let shape = config.choice("beta_schedule", Shape::Linear, &names, "linear, scaled_linear or squaredcos_cap_v2")?;
    Ok(match shape {
        Shape::Linear => torch_linspace(start, end, count),
        Shape::ScaledLinear => torch_linspace(start.sqrt(), end.sqrt(), count).into_iter().map(|b| b * b).collect(),
        Shape::Cosine => cosine_betas(count),
    })
}

/// `num_train_timesteps`, at most what memory and sense allow.
pub(super) fn train_timesteps(config: &SchedulerConfig) -> Result<usize, PlanError> {
    let count = config.integer("num_train_timesteps", 1000)?;
    match usize::try_from(count) {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err(PlanError::Invalid {
            option: "num_train_timesteps",
            expected: "from 1 to 1000000",
            value: count.to_string(),
        }),
    }
}

/// Improved DDPM's cosine schedule (arXiv 2102.09672), betas capped at 0.999.
fn cosine_betas(count: usize) -> Vec<f32> {
    let alpha = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    let at = |i: usize| alpha(i as f64 / count as f64);
    (0..count).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999) as f32).collect()
}

/// `torch.linspace` in f32: counted from both ends, each value one fused multiply-add.
pub(super) fn torch_linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    let value = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((count - 1 - i) as f32, end),
    };
    (0..count).map(value).collect()
}

/// `torch.cumprod` of f32 on a CPU: carried in f64, each value rounded.
fn cumulative_product(values: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut product = 1.0f64;
    values
        .map(|value| {
            product *= f64::from(value);
            product as f32
        })
        .collect()
}

/// Betas rescaled to no signal at the last timestep (algorithm 1 of arXiv 2305.08891), in f32 as diffusers does it.
fn rescale_zero_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_product(betas.iter().map(|b| 1.0 - b)).iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let alphas: Vec<f32> = roots.iter().map(|r| (r - last) * scale).map(|r| r * r).collect();
    let previous = std::iter::once(1.0).chain(alphas.iter().copied());
    alphas.iter().zip(previous).map(|(a, before)| 1.0 - a / before).collect()
}

/// `numpy.linspace`.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / (count.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    if count > 1 {
        values[count - 1] = end;
    }
    values
}

/// `numpy.arange(start, 0, -step)`: by rounding it can be one longer than `start / step`.
pub(super) fn count_down(start: f64, step: f64) -> Vec<f64> {
    let count = (start / step).ceil() as usize;
    let delta = (start - step) - start;
    (0..count).map(|i| start + i as f64 * delta).collect()
}

/// The integer timesteps of DDIM and PNDM, largest first.
pub(super) fn integer_timesteps(spacing: Spacing, train: usize, steps: usize, offset: i64) -> Vec<i64> {
    let rounded = |values: Vec<f64>| values.into_iter().map(|t| t.round_ties_even() as i64);
    match spacing {
        Spacing::Linspace => rounded(linspace(0.0, train as f64 - 1.0, steps)).rev().collect(),
        Spacing::Leading => (0..steps).rev().map(|i| (i * (train / steps)) as i64 + offset).collect(),
        Spacing::Trailing => rounded(count_down(train as f64, train as f64 / steps as f64)).map(|t| t - 1).collect(),
    }
}
