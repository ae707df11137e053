//! `torch.Generator("cpu")`: MT19937 (Matsumoto and Nishimura, 1998) and the two ways in which torch makes normals of it.
//!
//! Facts from ATen's `native/cpu/DistributionTemplates.h`, `core/DistributionsHelper.h` and `native/cpu/avx_mathfun.h`:
//! 16 numbers or more are filled with uniforms and turned into normals by blocks of 16 with the f32 approximations of
//! logarithm, sine and cosine of the AVX2 path, which every x86 processor since 2013 takes (AVX-512 machines too);
//! fewer are made one pair at a time in f64, the second kept for the next such call.

use super::approximate::{ln, sin_cos};

const N: usize = 624;
const M: usize = 397;

#[derive(Debug, Clone)]
pub(super) struct CpuGenerator {
    state: [u32; N],
    next: usize,
    /// The second normal of a pair that a short draw left over; long draws neither use nor clear it.
    spare: Option<f64>,
}

impl CpuGenerator {
    /// Only the seed's low 32 bits count.
    pub fn new(seed: u64) -> Self {
        let mut state = [seed as u32; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        CpuGenerator { state, next: N, spare: None }
    }

    pub fn draw(&mut self, count: usize) -> Vec<f32> {
        match count {
            ..16 => (0..count).map(|_| self.pairwise() as f32).collect(),
            _ => self.blocks(count),
        }
    }

    /// Whole blocks from the start; where 16 does not divide `count`, the last 16 are made anew.
    fn blocks(&mut self, count: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        values.chunks_exact_mut(16).for_each(normals);
        if !count.is_multiple_of(16) {
            let tail = &mut values[count - 16..];
            tail.iter_mut().for_each(|value| *value = self.uniform());
            normals(tail);
        }
        values
    }

    /// One normal of Box–Muller in f64.
    fn pairwise(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (turn, depth) = (self.uniform64(), self.uniform64());
        let radius = (-2.0 * (-depth).ln_1p()).sqrt();
        let angle = std::f64::consts::TAU * turn;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// 24 random bits in [0, 1).
    fn uniform(&mut self) -> f32 {
        (self.bits() & 0xFF_FFFF) as f32 / (1 << 24) as f32
    }

    /// 53 random bits in [0, 1).
    fn uniform64(&mut self) -> f64 {
        let high = u64::from(self.bits());
        let bits = (high << 32) | u64::from(self.bits());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn bits(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7FFF_FFFF);
            let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// Box–Muller within one block of 16 uniforms: the first eight give the radius, the others the angle.
fn normals(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
        // Adding the mean, zero, turns −0 into 0.
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}
