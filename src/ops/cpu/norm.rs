//! Statistics of group and layer norms.

use super::lanes::{Kernel, Lanes, run};
use rayon::prelude::*;

/// A group norm folded into `x · scale + shift` for each channel of each row: both `[N, C]`.
pub struct Affine {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

/// Mean and variance of each group of each row of `[N, C, plane]`: N · groups pairs.
pub fn group_moments(x: &[f32], plane: usize, channels: usize, groups: usize) -> Vec<(f64, f64)> {
    x.par_chunks(channels / groups * plane).map(|group| run(Moments(group))).collect()
}

impl Affine {
    /// A group norm with these moments; `weight` and `bias` are `[C]`.
    pub fn new(moments: &[(f64, f64)], groups: usize, weight: &[f32], bias: &[f32], eps: f64) -> Affine {
        let per_group = weight.len() / groups;
        let (mut scales, mut shifts) = (Vec::new(), Vec::new());
        for (i, (mean, variance)) in moments.iter().enumerate() {
            let factor = 1.0 / (variance + eps).sqrt();
            let first = i % groups * per_group;
            for c in first..first + per_group {
                let scale = factor * f64::from(weight[c]);
                scales.push(scale as f32);
                shifts.push((f64::from(bias[c]) - mean * scale) as f32);
            }
        }
        Affine { scale: scales, shift: shifts }
    }
}

/// Mean and variance in one pass over memory: chunks that stay in the cache are summed twice, then merged in f64.
pub struct Moments<'a>(pub &'a [f32]);

const CHUNK: usize = 4096;

impl Kernel for Moments<'_> {
    type Output = (f64, f64);
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> (f64, f64) {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for chunk in self.0.chunks(CHUNK) {
            let n = chunk.len() as f64;
            // SAFETY: the caller's promise.
            let chunk_mean = unsafe { sum::<L>(chunk, |x| x) } / n;
            // SAFETY: the caller's promise.
            let chunk_squares = unsafe {
                let center = L::splat(chunk_mean as f32);
                sum::<L>(chunk, |x| {
                    let d = L::sub(x, center);
                    L::mul(d, d)
                })
            };
            // The centre was rounded to f32: what is left of it is taken out again.
            let rounding = chunk_mean - f64::from(chunk_mean as f32);
            let chunk_squares = chunk_squares - n * rounding * rounding;
            let delta: f64 = chunk_mean - mean;
            let total = count + n;
            squares += chunk_squares + delta * delta * count * n / total;
            mean += delta * n / total;
            count = total;
        }
        (mean, (squares / count).max(0.0))
    }
}

/// Σ f(x) over one chunk, in four registers and then in f64.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
unsafe fn sum<L: Lanes>(values: &[f32], f: impl Fn(L::V) -> L::V) -> f64 {
    // SAFETY: chunks are as long as the registers read from them.
    unsafe {
        let mut sums = [L::splat(0.0); 4];
        let mut chunks = values.chunks_exact(4 * L::LANES);
        for chunk in &mut chunks {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = L::add(*sum, f(L::load(chunk.as_ptr().add(i * L::LANES))));
            }
        }
        let mut total = 0.0;
        let mut lanes = [0f32; 16];
        for sum in sums {
            L::store(lanes.as_mut_ptr(), sum);
            total += lanes[..L::LANES].iter().map(|x| f64::from(*x)).sum::<f64>();
        }
        for x in chunks.remainder() {
            L::store(lanes.as_mut_ptr(), f(L::splat(*x)));
            total += f64::from(lanes[0]);
        }
        total
    }
}
