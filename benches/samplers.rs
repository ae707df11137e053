//! Sampler plans, their application to one row, and noise: what a request costs beside the UNet.

use criterion::{Criterion, criterion_group, criterion_main};
use stablehand::diffusion::noise::NoiseStream;
use stablehand::diffusion::sampler::{SchedulerConfig, plan};
use stablehand::domain::{NoiseSource, Scheduler};
use std::hint::black_box;

/// Numbers in one latent of 768x768.
const LATENT: usize = 4 * 96 * 96;

fn plans(c: &mut Criterion) {
    let config = SchedulerConfig::default();
    let mut group = c.benchmark_group("plan");
    for scheduler in Scheduler::ALL {
        for steps in [50, 500] {
            let name = format!("{}/{steps}", scheduler.name());
            group.bench_function(name, |b| b.iter(|| plan(scheduler, black_box(&config), steps)));
        }
    }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    for scheduler in [Scheduler::KEuler, Scheduler::DpmSolverMultistep, Scheduler::Pndm] {
        let Ok(plan) = plan(scheduler, &SchedulerConfig::default(), 50) else { continue };
        let (mut x, output, mut slots) = (vec![0.5; LATENT], vec![0.25; LATENT], plan.new_slots(LATENT));
        let step = &plan.evaluations[30];
        group.bench_function(scheduler.name(), |b| b.iter(|| step.apply(black_box(&mut x), &output, &mut slots, None)));
    }
}

fn noise(c: &mut Criterion) {
    let mut group = c.benchmark_group("noise");
    for (name, source) in [("cuda", NoiseSource::Cuda), ("torch-cpu", NoiseSource::TorchCpu)] {
        group.bench_function(name, |b| b.iter(|| NoiseStream::new(source, black_box(7)).draw(LATENT)));
    }
}

criterion_group!(benches, plans, apply, noise);
criterion_main!(benches);
