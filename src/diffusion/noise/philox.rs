//! `torch.Generator("cuda")`: Philox4x32-10 (Salmon et al., SC 2011) as torch's CUDA kernel for `normal_` uses cuRAND.
//!
//! Facts from ATen's `native/cuda/DistributionTemplates.h` and cuRAND's `curand_normal.h`: thread `t` of a grid of `G`
//! threads has the subsequence `t`; each `curand_normal4` gives it four normals, for the elements `t`, `t + G`,
//! `t + 2G` and `t + 3G`; the grid holds every element once unless the GPU is too small, so that in common sizes
//! each thread uses only its first normal. A draw moves the generator on by one counter per round of the grid.
//!
//! The random bits, the uniform numbers and the layout are exact. The last digits of a normal are not knowable off the
//! GPU: cuRAND calls the hardware's approximate sine (`__sincosf`, absolute error up to 2⁻²¹); here it is rounded
//! correctly.

/// Threads of the largest grid: streaming multiprocessors × resident threads of an A100, on which Replicate ran Stable
/// Diffusion. Draws of up to so many numbers (13 images of 512², 6 of 768²) are the same on all GPUs that are no
/// smaller.
const GRID: u64 = 108 * 2048;
const BLOCK: u64 = 256;

#[derive(Debug, Clone)]
pub(super) struct CudaGenerator {
    seed: u64,
    /// Philox offset in units of four numbers.
    counter: u64,
}

impl CudaGenerator {
    pub fn new(seed: u64) -> Self {
        CudaGenerator { seed, counter: 0 }
    }

    pub fn draw(&mut self, count: usize) -> Vec<f32> {
        if count == 0 {
            return Vec::new();
        }
        let grid = (count as u64).next_multiple_of(BLOCK).min(GRID);
        let normals = (0..count as u64).map(|element| {
            let (round, thread) = (element / grid, element % grid);
            let bits = philox(self.seed, self.counter + round / 4, thread);
            match round % 4 {
                0 => normal(bits[0], bits[1], f64::sin),
                1 => normal(bits[0], bits[1], f64::cos),
                2 => normal(bits[2], bits[3], f64::sin),
                _ => normal(bits[2], bits[3], f64::cos),
            }
        });
        let normals = normals.collect();
        self.counter += (count as u64 - 1) / (grid * 4) + 1;
        normals
    }
}

/// One block of four 32-bit numbers: ten rounds, the seed as key.
fn philox(seed: u64, counter: u64, subsequence: u64) -> [u32; 4] {
    let halves = |x: u64| (x as u32, (x >> 32) as u32);
    let (mut k0, mut k1) = halves(seed);
    let (c0, c1) = halves(counter);
    let (c2, c3) = halves(subsequence);
    let mut c = [c0, c1, c2, c3];
    for _ in 0..10 {
        let (low0, high0) = halves(u64::from(c[0]) * 0xD251_1F53);
        let (low1, high1) = halves(u64::from(c[2]) * 0xCD9E_8D57);
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// Box–Muller as cuRAND does it in f32; logarithm and sine are taken in f64 and rounded.
fn normal(x: u32, y: u32, wave: fn(f64) -> f64) -> f32 {
    const INVERSE: f32 = 1.0 / 4_294_967_296.0;
    const INVERSE_2PI: f32 = INVERSE * std::f32::consts::TAU;
    let u = (x as f32).mul_add(INVERSE, INVERSE / 2.0);
    let v = (y as f32).mul_add(INVERSE_2PI, INVERSE_2PI / 2.0);
    let radius = (-2.0 * f64::from(u).ln() as f32).sqrt();
    radius * wave(f64::from(v)) as f32
}
