//! The parts of a picture and a whole request, with the built-in model on the CPU. `cargo bench --bench drawing`.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;
use std::time::Duration;

use candle_core::{DType, Device};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use stablehand::diffusion::model::{DenoiseRow, Model, PromptConditioning, PromptRequest};
use stablehand::diffusion::noise::NoiseStream;
use stablehand::domain::{NoiseSource, Scheduler};
use stablehand::engine::{Engine, EngineOptions, Event, Job};
use stablehand::weights::Checkpoint;

const PROMPT: &str = "a red circle on a white background";

fn model() -> Model {
    Model::load(&Checkpoint::builtin(), &Device::Cpu, DType::F32).unwrap()
}

fn encode(model: &mut Model, side: usize) -> PromptConditioning {
    let request =
        PromptRequest { prompt: PROMPT, negative_prompt: None, guidance_scale: 7.5, width: side, height: side };
    model.encode(&request).unwrap()
}

fn parts(c: &mut Criterion) {
    let mut model = model();
    c.bench_function("text encoder, guided prompt", |b| b.iter(|| encode(&mut model, 256)));
    let mut group = c.benchmark_group("network");
    group.sample_size(10);
    for side in [256, 768] {
        let prompt = encode(&mut model, side);
        let size = model.latent_size(side, side).unwrap();
        let sample = NoiseStream::new(NoiseSource::Cuda, 0).draw(size.0 * size.1 * size.2);
        for pictures in if side == 256 { vec![1, 4] } else { vec![1] } {
            let row = |_| DenoiseRow { sample: &sample, timestep: 500.0, prompt: &prompt };
            let rows: Vec<_> = (0..pictures).map(row).collect();
            let name = BenchmarkId::new("guided UNet step", format!("{side}, pictures: {pictures}"));
            group.bench_function(name, |b| b.iter(|| model.denoise(size, &rows).unwrap()));
        }
        group.bench_function(BenchmarkId::new("VAE decode", side), |b| b.iter(|| model.decode(size, &sample).unwrap()));
    }
    group.finish();
}

fn whole(c: &mut Criterion) {
    let engine = Engine::start(model(), EngineOptions::default()).unwrap();
    let mut group = c.benchmark_group("request");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("256, 25 steps", |b| {
        b.iter(|| {
            let (sender, events) = channel();
            let job = Job {
                id: "bench".into(),
                prompt: PROMPT.into(),
                negative_prompt: None,
                width: 256,
                height: 256,
                num_outputs: 1,
                num_inference_steps: 25,
                guidance_scale: 7.5,
                scheduler: Scheduler::DpmSolverMultistep,
                seed: 1,
                noise: NoiseSource::Cuda,
                scheduler_overrides: Default::default(),
            };
            engine.submit(job, move |event| drop(sender.send(event))).unwrap();
            assert!(matches!(events.iter().last(), Some(Event::Finished { .. })));
        })
    });
    group.finish();
}

criterion_group!(benches, parts, whole);
criterion_main!(benches);
