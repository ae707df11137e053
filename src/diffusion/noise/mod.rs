//! Normal noise as torch's generators make it: a pure function of (source, seed, draw index, count).
//!
//! Owns the two generators and their mapping from bits to normal numbers. No device, no global state, no entropy.

mod approximate;
mod mt19937;
mod philox;

use crate::domain::NoiseSource;
use mt19937::CpuGenerator;
use philox::CudaGenerator;

/// The random numbers of one request: successive draws as `torch.randn` makes them from one generator.
#[derive(Debug, Clone)]
pub struct NoiseStream(Generator);

#[derive(Debug, Clone)]
enum Generator {
    Cuda(CudaGenerator),
    Cpu(Box<CpuGenerator>),
}

impl NoiseStream {
    /// A fresh `torch.Generator(source).manual_seed(seed)`.
    pub fn new(source: NoiseSource, seed: u64) -> Self {
        NoiseStream(match source {
            NoiseSource::Cuda => Generator::Cuda(CudaGenerator::new(seed)),
            NoiseSource::TorchCpu => Generator::Cpu(Box::new(CpuGenerator::new(seed))),
        })
    }

    /// The next draw of `count` standard normal numbers, as one `torch.randn` call of that many f32 elements makes it.
    pub fn draw(&mut self, count: usize) -> Vec<f32> {
        match &mut self.0 {
            Generator::Cuda(generator) => generator.draw(count),
            Generator::Cpu(generator) => generator.draw(count),
        }
    }
}
